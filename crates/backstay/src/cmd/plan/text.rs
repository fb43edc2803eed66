//! A plan for people: the verdict first, then what fails badly, then the rest, and the verdict's remedy last.

use std::fmt::Write;
use std::time::Duration;

use backstay_planner::contingency::Effect;
use backstay_planner::plan::{Failure, Plan, seconds};

use super::{Scene, Told};
use crate::cli::PlanArgs;
use crate::output::counted;

/// Rows of failures that are not well and shown without `--all`.
const BAD_SHOWN: usize = 20;
/// Rows of failures that are well and shown without `--all`.
const WELL_SHOWN: usize = 8;
/// Sentences that say why the promise is broken, without `--all`.
const BROKEN_SHOWN: usize = 6;

/// Parts that stand badly and are named in the verdict.
const NOW_SHOWN: usize = 3;
/// Services that are shown without `--all`.
const SERVICES_SHOWN: usize = 20;

/// Moves that are shown without `--all`.
const STEPS_SHOWN: usize = 10;

/// All of it.
pub fn text(told: &Told, scene: &Scene, args: &PlanArgs) -> String {
    let (plan, advice) = (&told.plan, &told.advice);
    let mut text = String::new();
    let from = match &scene.places {
        Some(_) => format!("as the cluster stands, {} ago", seconds(scene.age)),
        None => format!("from {}", scene.name),
    };
    let _ = writeln!(text, "{} · goal: {} · {from}", plan.cluster, plan.goal);
    for question in &args.what_if {
        let _ = writeln!(text, "what if  {question}");
    }
    let _ = writeln!(text, "{}\n", verdict(plan));
    failures(&mut text, plan, args.all);
    broken(&mut text, plan, args.all);
    services(&mut text, plan, args.all);
    if args.all {
        derived(&mut text, plan);
    }
    steps(&mut text, told, args.all);
    for remedy in advice {
        let effect = match (remedy.meets_goal, remedy.left) {
            (true, _) => "then the goal is met".to_owned(),
            (false, left) => format!("then {} of {} remain", left, plan.broken.len()),
        };
        let _ = writeln!(text, "fix      {}   → {effect}", remedy.changes.join(" and "));
    }
    if let Some(remedy) = advice.first() {
        let questions: Vec<_> = remedy.changes.iter().map(|change| format!("--what-if \"{change}\"")).collect();
        let file = args.file.named().map_or_else(String::new, |file| format!("-c {} ", file.display()));
        let live = if args.live { "--live " } else { "" };
        let _ = writeln!(text, "try      backstay plan {file}{live}{}", questions.join(" "));
    }
    let _ = writeln!(text, "{} checked in {} ms", counted(plan.failures.len(), "failure"), told.took.as_millis());
    text
}

fn verdict(plan: &Plan) -> String {
    let promised = || plan.failures.iter().filter(|failure| failure.promised);
    match (plan.goal_met, plan.now.is_empty()) {
        (true, _) => format!("GOAL MET: any of {} may fail", counted(promised().count(), "single failure")),
        (false, false) => {
            let shown = plan.now.iter().take(NOW_SHOWN).cloned().collect::<Vec<_>>().join("; ");
            let more = plan.now.len().saturating_sub(NOW_SHOWN);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            format!("GOAL NOT MET NOW: {shown}{more}")
        }
        (false, true) => {
            let bad = promised().filter(|failure| failure.breach.is_some()).count();
            match bad {
                0 => format!("GOAL NOT MET: {}", plan.broken.first().map_or("", String::as_str)),
                bad => format!("GOAL NOT MET: {bad} of {} break it", counted(promised().count(), "single failure")),
            }
        }
    }
}

fn failures(text: &mut String, plan: &Plan, all: bool) {
    let mut rows: Vec<&Failure> = plan.failures.iter().collect();
    rows.sort_by_key(|row| (row.breach.is_none(), std::cmp::Reverse((row.effect, row.outage_ms))));
    let bad = rows.iter().filter(|row| row.breach.is_some() || row.effect > Effect::Holds).count();
    let few = if bad > BAD_SHOWN { BAD_SHOWN } else { bad + WELL_SHOWN };
    let shown = if all { rows.len() } else { rows.len().min(few) };
    let width = rows[..shown].iter().map(|row| row.domain.to_string().len()).max().unwrap_or(0).max(13);
    let _ = writeln!(
        text,
        "     {:width$}  {:9}  {:>10}  {:>6}  what happens",
        "if this fails", "effect", "outage", "loss"
    );
    for row in &rows[..shown] {
        let mark = match (&row.breach, row.effect) {
            (Some(_), _) => "FAIL",
            (None, Effect::Holds) => "ok",
            (None, _) => "note",
        };
        let effect = match row.effect {
            Effect::Holds => "holds",
            Effect::Degraded => "degraded",
            Effect::Lost => "lost",
        };
        let outage = row.outage_ms.map_or_else(|| "to repair".to_owned(), |ms| seconds(Duration::from_millis(ms)));
        let loss = row.loss_bytes.map_or_else(|| "some".to_owned(), |bytes| bytes.to_string());
        let outside = if row.promised { "" } else { " (outside the promise)" };
        let proof = if row.proof == "reasoned" { String::new() } else { format!(" [{}]", row.proof) };
        let domain = row.domain.to_string();
        let _ = writeln!(
            text,
            "{mark:4} {domain:width$}  {effect:9}  {outage:>10}  {loss:>6}  {}{outside}{proof}",
            row.what
        );
    }
    if shown < rows.len() {
        let _ = writeln!(text, "     … {} more{} (--all)", rows.len() - shown, if bad > shown { "" } else { " ok" });
    }
    if plan.fatal_pairs_count > 0 {
        let first: Vec<_> = plan.fatal_pairs.iter().take(3).map(|pair| format!("{} with {}", pair.0, pair.1)).collect();
        let _ = writeln!(
            text,
            "     {} break something together: {}{}",
            counted(plan.fatal_pairs_count, "pair"),
            first.join(", "),
            if plan.fatal_pairs_count > first.len() { ", …" } else { "" }
        );
    }
    text.push('\n');
}

fn broken(text: &mut String, plan: &Plan, all: bool) {
    let shown = if all { plan.broken.len() } else { plan.broken.len().min(BROKEN_SHOWN) };
    for sentence in &plan.broken[..shown] {
        let _ = writeln!(text, "why      {sentence}");
    }
    if shown < plan.broken.len() {
        let _ = writeln!(text, "         … {} more (--all)", plan.broken.len() - shown);
    }
    if shown > 0 {
        text.push('\n');
    }
}

fn services(text: &mut String, plan: &Plan, all: bool) {
    let width = plan.services.iter().map(|service| service.name.to_string().len()).max().unwrap_or(0).max(7);
    let _ = writeln!(
        text,
        "{:width$}  {:5}  {:>9}  {:>12}  {:>9}  predicted to improve most by",
        "service", "model", "instances", "min/year", "5–95 %"
    );
    let shown = if all { plan.services.len() } else { plan.services.len().min(SERVICES_SHOWN) };
    for service in &plan.services[..shown] {
        let name = service.name.to_string();
        let instances = format!("{}/{}", service.instances, service.wanted);
        let Some(forecast) = &service.forecast else {
            let _ = writeln!(text, "{name:width$}  {:5}  {instances:>9}  {:>12}", service.model, "never up");
            continue;
        };
        let band = forecast.band_with_store().map_or_else(String::new, |band| {
            format!("{}–{}", minutes(band.low_min_per_year), minutes(band.high_min_per_year))
        });
        let improve = forecast.improves.first().map_or_else(String::new, |best| best.parameter.to_string());
        let year = minutes(forecast.with_store_min_per_year);
        let _ = writeln!(text, "{name:width$}  {:5}  {instances:>9}  {year:>12}  {band:>9}  {improve}", service.model);
        if service.sets.len() > 1 {
            let sets: Vec<_> = service
                .sets
                .iter()
                .map(|set| set.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
                .collect();
            let _ = writeln!(text, "{:width$}  sets: {}", "", sets.join(" | "));
        }
    }
    if shown < plan.services.len() {
        let _ = writeln!(text, "… {} more (--all)", plan.services.len() - shown);
    }
    text.push('\n');
}

/// What the cluster would do, each step once the one before is done.
fn steps(text: &mut String, told: &Told, all: bool) {
    let (steps, blocked) = match &told.moves {
        Ok(steps) => (steps, ""),
        Err(deadlock) => (&deadlock.cycle, " waits for the next: a free slot is missing"),
    };
    let shown = if all { steps.len() } else { steps.len().min(STEPS_SHOWN) };
    for step in &steps[..shown] {
        let what = match (&step.from, &step.to) {
            (Some(from), Some(to)) => format!("{from} → {to}"),
            (None, Some(to)) => format!("one more on {to}"),
            (Some(from), None) => format!("one less on {from}"),
            (None, None) => continue,
        };
        let _ = writeln!(text, "move     {}: {what}{blocked}", step.service);
    }
    if shown < steps.len() {
        let _ = writeln!(text, "         … {} more (--all)", steps.len() - shown);
    }
}

fn derived(text: &mut String, plan: &Plan) {
    let width = plan.derived.iter().map(|one| one.name.len()).max().unwrap_or(0);
    for one in &plan.derived {
        let _ = writeln!(text, "derived  {:width$}  {} because {}", one.name, one.value, one.because);
    }
    let mut told = Vec::new();
    for service in &plan.services {
        for assumption in service.forecast.iter().flat_map(|forecast| &forecast.prediction.assumptions) {
            if !told.contains(&assumption) {
                told.push(assumption);
                let _ = writeln!(text, "assumed  {assumption}");
            }
        }
    }
    text.push('\n');
}

/// Minutes for people: two digits are all that a prediction is good for.
pub fn minutes(minutes: f64) -> String {
    match minutes {
        m if m >= 9.95 => format!("{m:.0}"),
        m if m >= 0.095 => format!("{m:.1}"),
        m if m >= 0.001 => format!("{m:.3}"),
        m if m > 0.0 => format!("{m:.0e}"),
        _ => "0".to_owned(),
    }
}
