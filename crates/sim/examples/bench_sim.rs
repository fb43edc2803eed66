//! How fast worlds run on one processor: `cargo run --release -p backstay-sim --example bench_sim`.
//!
//! Medians of several rounds over the same seeds, so that the figures of two builds can be compared.

use std::time::Instant as Stopwatch;

use backstay_sim::{Options, run_many};

const ROUNDS: usize = 7;
const SEEDS: u64 = 1000;

fn main() {
    let mut rounds: Vec<(f64, u64)> = (0..ROUNDS)
        .map(|_| {
            // A bench reads the clock; the crate itself never does.
            let started = Stopwatch::now();
            let summary = run_many(1..=SEEDS, &Options::default());
            assert_eq!(summary.failed, [], "a bench of what breaks rules measures nothing");
            (started.elapsed().as_secs_f64(), summary.events)
        })
        .collect();
    rounds.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (seconds, events) = rounds[ROUNDS / 2];
    let (quickest, slowest) = (rounds[0].0, rounds[ROUNDS - 1].0);
    println!("{:>14} {:>10} {:>14}", "events/s", "seeds/s", "events/seed");
    println!(
        "{:>14.0} {:>10.0} {:>14.0}",
        events as f64 / seconds,
        SEEDS as f64 / seconds,
        events as f64 / SEEDS as f64
    );
    println!("{ROUNDS} rounds of {SEEDS} seeds on one processor, {quickest:.2} to {slowest:.2} s");
}
