//! How long a plan takes, and how that grows: `cargo run --release -p backstay-planner --example bench_plan`.
//!
//! Clusters up to 1,000 nodes in 50 racks and 10 sites with two services a node, of all models and levels, slots bounded:
//! first placement, every single failure and every fatal pair, and a prediction of every service. Medians of a few runs.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::{Duration, Instant as Stopwatch};

use backstay_planner::Standing;
use backstay_planner::contingency::assess;
use backstay_planner::forecast::Forecaster;
use backstay_spec::Spec;

const RUNS: usize = 5;
/// The largest cluster.
const NODES: usize = 1000;

fn main() {
    println!(
        "{:>6} {:>6} {:>9} {:>12} {:>12} {:>12} {:>8} {:>8}",
        "nodes", "racks", "services", "placement", "failures", "prediction", "singles", "pairs"
    );
    for nodes in [NODES / 8, NODES / 4, NODES / 2, NODES] {
        let spec = spec(nodes);
        let placed = median(|| drop(Standing::planned(&spec, &BTreeSet::new())));
        let (standing, placement) = Standing::planned(&spec, &BTreeSet::new());
        assert!(placement.short.is_empty(), "{} services are short", placement.short.len());
        let all = assess(&spec, &standing);
        let assessed = median(|| drop(assess(&spec, &standing)));
        let predicted = median(|| {
            let forecaster = Forecaster::new(&spec, &[]).expect("the default rates are in range");
            let mut forecasts = spec.services.values().map(|service| forecaster.forecast(service, &standing, false));
            assert!(forecasts.all(|one| one.is_ok()));
        });
        println!(
            "{nodes:>6} {:>6} {:>9} {:>9.0} ms {:>9.0} ms {:>9.0} ms {:>8} {:>8}",
            nodes / 20,
            spec.services.len(),
            millis(placed),
            millis(assessed),
            millis(predicted),
            all.singles.len(),
            all.fatal_pairs.len()
        );
    }
}

/// Twenty nodes a rack, racks over ten sites in turn; per node two services, eight slots.
fn spec(nodes: usize) -> Spec {
    const SITES: usize = 10;
    let mut text = "cluster = \"bench\"\n[goal]\nsurvive = \"node\"\n[nodes]\n".to_owned();
    for node in 0..nodes {
        let rack = node / 20;
        let site = rack % SITES.min(nodes.div_ceil(20));
        let (high, low) = (node / 250, node % 250 + 1);
        let _ = writeln!(
            text,
            "n{node} = {{ addr = \"10.0.{high}.{low}\", rack = \"r{rack}\", site = \"s{site}\", slots = 8 }}"
        );
    }
    for service in 0..nodes * 2 {
        let model = ["N+1", "N+2", "2N", "N+1"][service % 4];
        let spread = ["node", "rack", "node", "site", "rack"][service % 5];
        let exclusive = if service % 7 == 0 { "exclusive = true\n" } else { "need = 2\n" };
        let _ = writeln!(
            text,
            "[app.s{service}]\nrun = [\"/x\"]\nredundancy = \"{model}\"\nspread = \"{spread}\"\n{exclusive}"
        );
    }
    let parsed = backstay_spec::parse("bench.toml", &text);
    parsed.spec.unwrap_or_else(|| panic!("the bench's file is wrong: {:?}", parsed.diagnostics.first()))
}

fn median(run: impl Fn()) -> Duration {
    let mut times: Vec<_> = (0..RUNS)
        .map(|_| {
            // A bench reads the clock; the crate itself never does.
            let started = Stopwatch::now();
            run();
            started.elapsed()
        })
        .collect();
    times.sort();
    times[RUNS / 2]
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
