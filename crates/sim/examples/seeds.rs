//! Runs seeds: `seeds FIRST LAST`, `seeds trace SEED`, `seeds mutants MAX`.

use backstay_sim::{Options, run, run_many};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(1);
    match words.first().map(String::as_str) {
        Some("mutants") => {
            for (mutant, seed) in backstay_sim::mutants(number(1)) {
                println!(
                    "{:<26} {}",
                    mutant.name(),
                    seed.map_or("NOT CAUGHT".to_owned(), |seed| format!("seed {seed}"))
                );
            }
        }
        Some("trace") => {
            let report = run(number(1), &Options { trace_lines: 400, ..Options::default() });
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
