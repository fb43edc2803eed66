//! `cargo xtask bench [NAME]`: side by side with the peers. Timing is measured and reported here; tests never assert it.

pub mod backend;
mod balancer;

use std::path::Path;

use crate::process::{self, Runner};

/// One bench.
struct Bench {
    name: &'static str,
    about: &'static str,
    run: fn(&Path, &Runner) -> Result<Answer, String>,
}

/// What came of a bench.
enum Answer {
    /// It printed its measurements.
    Measured,
    /// It can't run here; why.
    Skipped(String),
}

const BENCHES: &[Bench] = &[
    Bench { name: "decide", about: "one turn of thought: decide() on clusters of growing size", run: decide },
    Bench {
        name: "planner",
        about: "placement, every failure and every prediction on clusters of growing size; a fault tree",
        run: planner,
    },
    Bench { name: "sim", about: "events and whole worlds a second of the simulator, on one processor", run: sim },
    Bench {
        name: "balancer",
        about: "requests and processor time against HAProxy, in paired rounds",
        run: balancer::run,
    },
];

/// Names the benches.
pub fn list() -> bool {
    for bench in BENCHES {
        println!("{:<10} {}", bench.name, bench.about);
    }
    true
}

/// Runs the bench of that name, or all; false when one failed or none could run.
pub fn run(root: &Path, name: Option<&str>) -> Result<bool, String> {
    let chosen: Vec<&Bench> = BENCHES.iter().filter(|bench| name.is_none_or(|name| bench.name == name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        return Err(format!("no bench has that name; there are: {}", names.join(", ")));
    }
    let runner = Runner::new()?;
    let (mut measured, mut failed, mut skipped) = (0, 0, 0);
    for bench in chosen {
        println!("\n=== {}: {}", bench.name, bench.about);
        match (bench.run)(root, &runner) {
            Ok(Answer::Measured) => measured += 1,
            Ok(Answer::Skipped(why)) => {
                println!("{}: skipped: {why}", bench.name);
                skipped += 1;
            }
            Err(error) => {
                eprintln!("{}: failed: {error}", bench.name);
                failed += 1;
            }
        }
    }
    println!("\n{measured} measured, {failed} failed, {skipped} skipped");
    Ok(failed == 0 && measured > 0)
}

fn decide(root: &Path, runner: &Runner) -> Result<Answer, String> {
    example(root, runner, "failover", "bench_decide")
}

fn planner(root: &Path, runner: &Runner) -> Result<Answer, String> {
    for name in ["bench_plan", "bench_place", "bench_fault_tree"] {
        println!("\n{name}");
        example(root, runner, "planner", name)?;
    }
    Ok(Answer::Measured)
}

fn sim(root: &Path, runner: &Runner) -> Result<Answer, String> {
    example(root, runner, "sim", "bench_sim")
}

/// Runs an example of a crate that times itself.
fn example(root: &Path, runner: &Runner, of: &str, name: &str) -> Result<Answer, String> {
    let mut command = process::cargo(root);
    command.args(["run", "--release", "--quiet", "-p", &format!("backstay-{of}"), "--example", name]);
    if runner.run(&mut command)?.success { Ok(Answer::Measured) } else { Err(format!("{name} failed; see above")) }
}
