//! `cargo xtask test`: the one test command. A list of steps, each timed, named and counted; the last line sums them up.
//!
//! A step that can't run says why and counts as skipped; it never passes in silence. A test that finds out at run time that
//! it can't run appends `NAME: REASON` as a line to the file named by [`SKIPS_VARIABLE`], and counts as skipped too.

mod count;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::process::{self, Ended, Runner, Tally};
use crate::tidy;

/// Names the file to which a test that can't run appends a line.
pub const SKIPS_VARIABLE: &str = "BACKSTAY_SKIPS";
/// Names the binary under test for those that drive it.
pub const BINARY_VARIABLE: &str = "BACKSTAY_BIN";

/// Seeds of the simulator: all of them, and those of a fast run.
const SEEDS: (&str, &str) = ("1..20000", "1..500");

/// Debian packages that tests need, each with a program that shows it is there.
const PACKAGES: &[(&str, &str)] = &[("iproute2", "ip"), ("nftables", "nft"), ("procps", "ps")];

/// What a step came to.
struct Outcome {
    tally: Tally,
    note: String,
}

impl Outcome {
    fn check(passed: bool) -> Outcome {
        Outcome { tally: Tally::check(passed), note: String::new() }
    }

    fn skipped(why: impl Into<String>) -> Outcome {
        Outcome { tally: Tally::SKIPPED, note: format!("skipped: {}", why.into()) }
    }
}

struct Step {
    name: &'static str,
    /// Not part of a fast run.
    long: bool,
    /// Needs the release binary.
    needs_build: bool,
    run: fn(&Session) -> Result<Outcome, String>,
}

const fn step(name: &'static str, run: fn(&Session) -> Result<Outcome, String>) -> Step {
    Step { name, long: false, needs_build: false, run }
}

/// In this order: the cheapest first, and whatever a later one needs before it.
const STEPS: &[Step] = &[
    step("packages", packages),
    step("tidy", |s| Ok(Outcome { tally: tidy::run(&s.root, false)?, note: String::new() })),
    step("fmt", fmt),
    step("clippy, production", clippy_production),
    step("clippy, all targets", clippy_all),
    step(BUILD, build),
    step("unit and integration tests", tests),
    step("doctests", doctests),
    Step { needs_build: true, ..step("simulator seeds", simulator) },
    Step { long: true, ..step("simulator mutants", mutants) },
    Step { long: true, needs_build: true, ..step("end to end", end_to_end) },
    step("licences and sources", deny),
];

const BUILD: &str = "build";

struct Session {
    root: PathBuf,
    fast: bool,
    runner: Runner,
    skips: PathBuf,
}

struct Line {
    name: &'static str,
    seconds: f64,
    outcome: Outcome,
}

/// Runs all steps; true when something ran and nothing failed.
#[expect(clippy::disallowed_methods, reason = "it times the steps and decides nothing")]
pub fn run(root: &Path, fast: bool) -> Result<bool, String> {
    let skips = root.join("target").join(format!("skips-{}.txt", std::process::id()));
    let session = Session { root: root.to_owned(), fast, runner: Runner::new()?, skips };
    let mut lines: Vec<Line> = Vec::new();
    for step in STEPS {
        println!("\n=== {}", step.name);
        let began = Instant::now();
        let unbuilt = lines.iter().any(|line| line.name == BUILD && line.outcome.tally.failed > 0);
        let outcome = if fast && step.long {
            Outcome::skipped("left out by --fast")
        } else if step.needs_build && unbuilt {
            Outcome::skipped("the build failed")
        } else {
            // A step that could not even be tried is a failure, or a missing program would look like success.
            (step.run)(&session).unwrap_or_else(|error| Outcome { tally: Tally::check(false), note: error })
        };
        if !outcome.note.is_empty() {
            println!("{}: {}", step.name, outcome.note);
        }
        lines.push(Line { name: step.name, seconds: began.elapsed().as_secs_f64(), outcome });
    }
    // Gone with the run; a file that was never made is fine.
    let _ = std::fs::remove_file(&session.skips);
    Ok(sum_up(&lines))
}

fn sum_up(lines: &[Line]) -> bool {
    println!("\n{:<28} {:>8} {:>8} {:>8} {:>8}", "step", "seconds", "passed", "failed", "skipped");
    let mut total = Tally::default();
    for Line { name, seconds, outcome: Outcome { tally, note } } in lines {
        let Tally { passed, failed, skipped } = tally;
        println!("{name:<28} {seconds:>8.1} {passed:>8} {failed:>8} {skipped:>8}  {note}");
        total = total.plus(*tally);
    }
    let ran = lines.iter().any(|line| line.name == TESTS && line.outcome.tally.passed + line.outcome.tally.failed > 0);
    if !ran {
        eprintln!("error: no test ran");
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    ran && total.failed == 0
}

const TESTS: &str = "unit and integration tests";

impl Session {
    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = process::cargo(&self.root);
        command.args(arguments).env(SKIPS_VARIABLE, &self.skips).env(BINARY_VARIABLE, self.binary());
        command
    }

    fn binary(&self) -> PathBuf {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), PathBuf::from);
        target.join("release/backstay")
    }

    fn gate(&self, arguments: &[&str]) -> Result<Outcome, String> {
        Ok(Outcome::check(self.runner.run(&mut self.cargo(arguments))?.success))
    }

    /// Runs a test runner and counts what it reports, and what its tests report as skipped.
    fn counted(&self, command: &mut Command) -> Result<Outcome, String> {
        let _ = std::fs::remove_file(&self.skips);
        let Ended { success, lines } = self.runner.run(command)?;
        let skips = std::fs::read_to_string(&self.skips).unwrap_or_default();
        for skip in skips.lines() {
            println!("skipped: {skip}");
        }
        Ok(Outcome { tally: count::runner(&lines, success, skips.lines().count() as u64), note: String::new() })
    }

    fn has_nextest(&self) -> bool {
        process::works(&mut self.cargo(&["nextest", "--version"]))
    }
}

/// As root on Debian what is missing is installed; anybody else is told.
fn packages(session: &Session) -> Result<Outcome, String> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(_, program)| process::program(program).is_none())
        .map(|(package, _)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(Outcome { tally: Tally::default(), note: "all there".to_owned() });
    }
    let names = missing.join(", ");
    if let Err(why) = install(&session.runner, &missing) {
        let skipped = missing.len() as u64;
        return Ok(Outcome { tally: Tally { skipped, ..Tally::default() }, note: format!("without {names}: {why}") });
    }
    Ok(Outcome { tally: Tally::default(), note: format!("installed {names}") })
}

/// Installs Debian packages, or says why not. Never asks for rights it has not.
pub fn install(runner: &Runner, packages: &[&str]) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("not root; install them and run again".to_owned());
    }
    let apt = process::program("apt-get").ok_or("no apt-get here; install them and run again")?;
    let run = |arguments: &[&str]| -> Result<bool, String> {
        let mut command = Command::new(&apt);
        command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        Ok(runner.run(&mut command)?.success)
    };
    let wanted: Vec<&str> = ["install", "-y", "--no-install-recommends"].iter().chain(packages).copied().collect();
    // Lists that are there save a minute; only when they don't do they are fetched.
    if run(&wanted)? || (run(&["update"])? && run(&wanted)?) {
        return Ok(());
    }
    Err("apt-get could not install them; see above".to_owned())
}

fn fmt(session: &Session) -> Result<Outcome, String> {
    if !process::works(&mut session.cargo(&["fmt", "--version"])) {
        return Ok(Outcome::skipped("rustfmt is not installed; rustup component add rustfmt"));
    }
    session.gate(&["fmt", "--all", "--check"])
}

fn clippy(session: &Session, arguments: &[&str]) -> Result<Outcome, String> {
    if !process::works(&mut session.cargo(&["clippy", "--version"])) {
        return Ok(Outcome::skipped("clippy is not installed; rustup component add clippy"));
    }
    let all: Vec<&str> = ["clippy", "--workspace"].iter().chain(arguments).copied().collect();
    session.gate(&all)
}

/// Every lint on what ships.
fn clippy_production(session: &Session) -> Result<Outcome, String> {
    clippy(session, &["--lib", "--bins", "--", "-D", "warnings"])
}

/// Tests may unwrap and may bound a wait by a clock; all other lints hold for them too.
fn clippy_all(session: &Session) -> Result<Outcome, String> {
    let allowed = ["-A", "clippy::disallowed_methods", "-A", "clippy::unwrap_used"];
    let all: Vec<&str> = ["--all-targets", "--", "-D", "warnings"].into_iter().chain(allowed).collect();
    clippy(session, &all)
}

fn build(session: &Session) -> Result<Outcome, String> {
    session.gate(&["build", "--release", "-p", "backstay"])
}

fn tests(session: &Session) -> Result<Outcome, String> {
    let chosen = ["--release", "--workspace", "--exclude", "backstay-e2e"];
    let runner: &[&str] = if session.has_nextest() {
        &["nextest", "run", "--no-fail-fast", "--no-tests", "pass"]
    } else {
        println!("cargo-nextest is not installed; cargo test runs instead");
        &["test", "--no-fail-fast", "--lib", "--bins", "--tests"]
    };
    session.counted(session.cargo(runner).args(chosen))
}

/// Doctests build slowly, so they are only asked for when there are any.
fn doctests(session: &Session) -> Result<Outcome, String> {
    if !count::has_doctests(&session.root.join("crates")) {
        return Ok(Outcome { tally: Tally::default(), note: "there are none".to_owned() });
    }
    session.counted(&mut session.cargo(&["test", "--release", "--workspace", "--doc"]))
}

fn simulator(session: &Session) -> Result<Outcome, String> {
    let seeds = if session.fast { SEEDS.1 } else { SEEDS.0 };
    let ended = session.runner.run(Command::new(session.binary()).args(["sim", "--seeds", seeds, "--json"]))?;
    let (passed, note) = count::simulation(&ended.lines);
    Ok(Outcome { tally: Tally::check(ended.success && passed), note })
}

/// The simulator must catch every mistake that is built into it on purpose.
fn mutants(session: &Session) -> Result<Outcome, String> {
    let ended = session.runner.run(Command::new(session.binary()).args(["sim", "--mutants", "--json"]))?;
    Ok(Outcome { tally: Tally::check(ended.success), note: String::new() })
}

fn end_to_end(session: &Session) -> Result<Outcome, String> {
    if !session.root.join("crates/e2e/tests").is_dir() {
        return Ok(Outcome::skipped("crates/e2e has no tests"));
    }
    let mut command = if session.has_nextest() {
        session.cargo(&["nextest", "run", "--release", "-p", "backstay-e2e", "--no-fail-fast", "--test-threads", "1"])
    } else {
        session.cargo(&["test", "--release", "-p", "backstay-e2e", "--no-fail-fast", "--", "--test-threads=1"])
    };
    session.counted(&mut command)
}

fn deny(session: &Session) -> Result<Outcome, String> {
    if !process::works(&mut session.cargo(&["deny", "--version"])) {
        return Ok(Outcome::skipped("cargo-deny is not installed; tidy has checked for a second TLS provider"));
    }
    session.gate(&["deny", "check", "bans", "licenses", "sources"])
}
