//! `sim`: runs the real decision code in a simulated world under faults. One seed is one world, and always the same one.
//!
//! A world that breaks a rule is run again without some of its faults, until none can be left out; what is printed then is
//! the short list, and the one command that repeats it.

mod replay;
mod trace_file;

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use backstay_sim::{Mutant, Options, RunReport, Struck, Summary};
use serde_json::{Value, json};

use crate::cli::{Seeds, SimArgs, SimVerb, Without};
use crate::clock;
use crate::exit_code::Exit;
use crate::output::{Answer, Failure, Output, counted};

/// Seeds that a thread takes at once: few enough that all threads end together.
const BLOCK: u64 = 32;
/// Seeds that every mutant gets to be caught in, when no range is named.
const MUTANT_SEEDS: Seeds = Seeds { first: 1, last: 600 };
/// Failed seeds that are listed for people.
const FAILED_SHOWN: usize = 10;
/// Lines of the trace that are shown of a run that broke a rule.
const TRACE_LINES: usize = 40;
/// How often progress is shown.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Runs what was asked for.
pub fn run(args: &SimArgs, output: Output) -> Answer {
    if let Some(SimVerb::Replay { file, step }) = &args.verb {
        return replay::run(file, *step, output);
    }
    let mutant = args.mutant.as_deref().map(mutant_named).transpose()?;
    match (args.seed, args.seeds) {
        _ if args.mutants => mutants(args.seeds.unwrap_or(MUTANT_SEEDS), output),
        (Some(seed), _) => {
            let world = WorldId { seed, mutant, without: args.without.clone().unwrap_or_default() };
            args.trace.as_deref().map(|path| trace_file::write(path, &world)).transpose()?;
            one(&world, output)
        }
        (None, Some(seeds)) => many(seeds, mutant, output),
        (None, None) => Err(Failure::usage("usage", "name a seed, a range of seeds, or `--mutants`")
            .with_help("backstay sim --seeds 1..1000")),
    }
}

fn mutant_named(name: &str) -> Result<Mutant, Failure> {
    Mutant::all().iter().copied().find(|mutant| mutant.name() == name).ok_or_else(|| {
        let names: Vec<_> = Mutant::all().iter().map(|mutant| mutant.name()).collect();
        Failure::usage("unknown-mutant", format!("there is no mutant `{name}`")).with_help(names.join(", "))
    })
}

/// All that it takes to run the same world again.
#[derive(Clone, Debug)]
struct WorldId {
    seed: u64,
    mutant: Option<Mutant>,
    without: Without,
}

impl WorldId {
    fn options(&self) -> Options {
        Options { mutant: self.mutant, without: self.without.0.clone(), ..Options::default() }
    }

    /// The command that runs it.
    fn repeat(&self) -> String {
        let without = &self.without;
        let without = if without.0.is_empty() { String::new() } else { format!(" --without {without}") };
        format!("{}{without}", repeat(self.seed, self.mutant))
    }
}

/// The command that runs the same seed again.
fn repeat(seed: u64, mutant: Option<Mutant>) -> String {
    let mutant = mutant.map_or_else(String::new, |mutant| format!(" --mutant {}", mutant.name()));
    format!("backstay sim --seed {seed}{mutant}")
}

fn one(world: &WorldId, output: Output) -> Answer {
    let report = backstay_sim::run(world.seed, &Options { trace_lines: TRACE_LINES, ..world.options() });
    let hash = format!("{:016x}", report.hash);
    let counts = format!(
        "{} events, {} operations, {} faults, {} goals, hash {hash}",
        report.events, report.ops_ok, report.faults, report.goals
    );
    let mut answer = json!({
        "seed": world.seed,
        "hash": hash,
        "events": report.events,
        "ops_ok": report.ops_ok,
        "faults_struck": report.faults,
        "goals": report.goals,
        "passed": report.passed,
        "violation": report.violation,
        "repeat": world.repeat(),
    });
    let text = match &report.violation {
        None => format!("seed {} passed: {counts}", world.seed),
        Some(violation) => {
            let lines = report.trace.join("\n");
            format!(
                "{lines}\nseed {} FAILED: {violation}\n  {counts}\n{}",
                world.seed,
                shrunk(world, &report, &mut answer)
            )
        }
    };
    output.result(&text, answer);
    Ok(if report.passed { Exit::Done } else { Exit::ProofFailed })
}

/// Fewer faults that break the same rule: in words, and into the JSON answer.
fn shrunk(world: &WorldId, report: &RunReport, answer: &mut Value) -> String {
    let Some(shrunk) = backstay_sim::shrink(world.seed, &world.options()) else {
        return String::new();
    };
    let again = WorldId { without: Without(shrunk.without), ..world.clone() };
    let violation = shrunk.report.violation.clone().unwrap_or_default();
    answer["repeat"] = json!(again.repeat());
    answer["faults"] = shrunk.report.struck.iter().map(fault_json).collect();
    answer["shrunk"] = json!({
        "from": report.struck.len(),
        "to": shrunk.report.struck.len(),
        "runs": shrunk.runs,
        "violation": violation,
        "hash": format!("{:016x}", shrunk.report.hash),
    });
    let (to, from) = (shrunk.report.struck.len(), counted(report.struck.len(), "fault"));
    let list: String = shrunk.report.struck.iter().map(|struck| format!("    {struck}\n")).collect();
    format!("  {to} of {from} do it: {violation}\n{list}  repeat: {}", again.repeat())
}

fn fault_json(struck: &Struck) -> Value {
    json!({
        "index": struck.index,
        "at_ms": struck.at_ms,
        "kind": struck.kind,
        "nodes": struck.nodes,
        "lasts_ms": struck.lasts_ms,
        "detail": struck.detail,
    })
}

fn many(seeds: Seeds, mutant: Option<Mutant>, output: Output) -> Answer {
    let began = clock::boottime();
    let summary = over_threads(seeds, &Options { mutant, ..Options::default() }, output);
    let took = clock::boottime().saturating_sub(began);
    let events_per_s = (summary.events as f64 / took.as_secs_f64().max(f64::EPSILON)).round();
    let mut failed = summary.failed.clone();
    failed.sort_unstable();
    let mut text = String::new();
    for (seed, violation) in failed.iter().take(FAILED_SHOWN) {
        text.push_str(&format!("seed {seed} FAILED: {violation}\n  repeat: {}\n", repeat(*seed, mutant)));
    }
    if failed.len() > FAILED_SHOWN {
        text.push_str(&format!("… and {} more, see --json\n", failed.len() - FAILED_SHOWN));
    }
    let failures = summary.runs - summary.passed;
    let verdict = if failures == 0 { "all passed".to_owned() } else { format!("{failures} FAILED") };
    text.push_str(&format!(
        "{}, {verdict}: {} events, {} operations, {events_per_s:.0} events/s, {:.1} s",
        counted(usize::try_from(summary.runs).unwrap_or(usize::MAX), "world"),
        summary.events,
        summary.ops_ok,
        took.as_secs_f64(),
    ));
    let answer = json!({
        "runs": summary.runs,
        "passed": summary.passed,
        "failed_seeds": failed.iter().map(|(seed, _)| seed).collect::<Vec<_>>(),
        "violations": failed.iter().map(|(seed, violation)| json!({
            "seed": seed,
            "violation": violation,
            "repeat": repeat(*seed, mutant),
        })).collect::<Vec<_>>(),
        "events": summary.events,
        "ops_ok": summary.ops_ok,
        "events_per_s": events_per_s as u64,
        "seconds": took.as_secs_f64(),
    });
    output.result(&text, answer);
    Ok(if failures == 0 { Exit::Done } else { Exit::ProofFailed })
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Runs a range, split over the machine's processors.
fn over_threads(seeds: Seeds, options: &Options, output: Output) -> Summary {
    let next = AtomicU64::new(seeds.first);
    let is_exhausted = AtomicBool::new(false);
    let done = AtomicU64::new(0);
    let total = Mutex::new(Summary::default());
    let work = || {
        while !is_exhausted.load(Ordering::Relaxed) {
            let first = next.fetch_add(BLOCK, Ordering::Relaxed);
            // Near the largest number the counter wraps: whoever starts before the range has run past its end.
            if first > seeds.last || first < seeds.first {
                return;
            }
            let last = seeds.last.min(first.saturating_add(BLOCK - 1));
            if last == seeds.last {
                is_exhausted.store(true, Ordering::Relaxed);
            }
            let part = backstay_sim::run_many(first..=last, options);
            done.fetch_add(part.runs, Ordering::Relaxed);
            total.lock().unwrap_or_else(PoisonError::into_inner).merge(part);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads()).map(|_| scope.spawn(work)).collect();
        let is_shown = !output.is_json() && io::stderr().is_terminal();
        let mut shown = clock::boottime();
        while is_shown && workers.iter().any(|worker| !worker.is_finished()) {
            thread::sleep(Duration::from_millis(20));
            if clock::boottime() > shown + PROGRESS_EVERY {
                shown = clock::boottime();
                output.progress(format_args!("{} worlds", done.load(Ordering::Relaxed)));
            }
        }
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Every wrong product must be caught, or the checkers prove nothing.
fn mutants(seeds: Seeds, output: Output) -> Answer {
    let all = Mutant::all();
    let next = AtomicUsize::new(0);
    let caught = Mutex::new(vec![None; all.len()]);
    let work = || {
        while let Some((at, mutant)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, all.get(at)?)))
        {
            let options = Options { mutant: Some(*mutant), ..Options::default() };
            let first = (seeds.first..=seeds.last).find_map(|seed| {
                let report = backstay_sim::run(seed, &options);
                report.violation.map(|violation| (seed, violation))
            });
            caught.lock().unwrap_or_else(PoisonError::into_inner)[at] = first;
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(work);
        }
    });
    let caught = caught.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut text = String::new();
    let mut list = Vec::new();
    for (mutant, first) in all.iter().zip(&caught) {
        let (seed, violation) = first.as_ref().map_or((None, None), |(seed, violation)| (Some(*seed), Some(violation)));
        text.push_str(&match (seed, violation) {
            (Some(seed), Some(violation)) => format!("caught   {:<28} by seed {seed}: {violation}\n", mutant.name()),
            _ => format!("MISSED   {:<28} in seeds {}..{}\n", mutant.name(), seeds.first, seeds.last),
        });
        list.push(json!({
            "name": mutant.name(),
            "caught": seed.is_some(),
            "seed": seed,
            "violation": violation,
            "repeat": seed.map(|seed| repeat(seed, Some(*mutant))),
        }));
    }
    let missed = caught.iter().filter(|first| first.is_none()).count();
    text.push_str(&format!("{} of {} mutants caught", all.len() - missed, all.len()));
    output.result(&text, json!({ "passed": missed == 0, "mutants": list, "missed": missed }));
    Ok(if missed == 0 { Exit::Done } else { Exit::ProofFailed })
}
