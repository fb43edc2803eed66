//! Runs seeds: `seeds FIRST LAST`, `seeds moves LAST`, `seeds trace SEED`.

use backstay_sim::{Options, run, run_many};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(1);
    match words.first().map(String::as_str) {
        Some("moves") => {
            let reports = (1..=number(1)).map(|seed| run(seed, &Options::default()));
            let mut most: Vec<_> = reports
                .map(|r| (r.moves.saturating_sub(10) * 100 / (r.faults + 1), r.moves, r.faults, r.seed))
                .collect();
            most.sort();
            most.iter().rev().take(12).for_each(|line| println!("{line:?}"));
        }
        Some("trace") => {
            let report = run(number(1), &Options { trace_lines: 5000, ..Options::default() });
            report.trace.iter().for_each(|line| println!("{line}"));
            println!("{:?}", report.violation);
        }
        _ => {
            let summary = run_many(number(0)..=number(1), &Options::default());
            println!(
                "{} runs, {} passed, {} events, {} ops",
                summary.runs, summary.passed, summary.events, summary.ops_ok
            );
            summary.failed.iter().take(20).for_each(|(seed, why)| println!("seed {seed}: {why}"));
        }
    }
}
