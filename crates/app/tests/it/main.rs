//! The integration tests, in a binary that also plays the hidden verbs `guard DIR` and `guard-init`, as the product's
//! binary does: a guard is started as a real process of its own.

mod check;
mod containment;
mod deadline;
mod life;
mod start;
mod world;

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};

use crate::world::Outcome;

/// Exit code of a scenario that the kernel or the machine does not allow; its reason is on stdout.
const SKIPPED: u8 = 77;

type Scenario = (&'static str, fn(&Path) -> Outcome);

fn scenarios() -> Vec<Scenario> {
    [life::SCENARIOS, start::SCENARIOS, containment::SCENARIOS, deadline::SCENARIOS, check::SCENARIOS].concat()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "guard", dir] => backstay_app::guard_main(Path::new(dir)),
        [_, "guard-init"] => backstay_app::guard_init_main(),
        [_, "play", name, dir] => play(name, Path::new(dir)),
        _ => run(),
    }
}

fn run() -> ExitCode {
    let as_root = rustix::process::geteuid().is_root();
    let mut trials = Vec::new();
    for (name, scenario) in scenarios() {
        trials.push(Trial::ignorable_test(name, move || complete(world::in_scratch(name, scenario))));
        if as_root {
            let as_user = move || complete(world::in_scratch_as_nobody(name, SKIPPED));
            trials.push(Trial::ignorable_test(format!("as_nobody::{name}"), as_user));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn complete(outcome: Outcome) -> Result<Completion, libtest_mimic::Failed> {
    match outcome {
        Outcome::Passed => Ok(Completion::Completed),
        Outcome::Skipped(why) => {
            println!("skipped: {why}");
            Ok(Completion::ignored_with(why))
        }
        Outcome::Failed(why) => Err(why.into()),
    }
}

/// Runs one scenario in this process, as whoever this process is.
fn play(name: &str, dir: &Path) -> ExitCode {
    let Some((_, scenario)) = scenarios().into_iter().find(|(known, _)| *known == name) else {
        println!("no scenario {name}");
        return ExitCode::FAILURE;
    };
    match scenario(dir) {
        Outcome::Passed => ExitCode::SUCCESS,
        Outcome::Skipped(why) => {
            println!("{why}");
            ExitCode::from(SKIPPED)
        }
        Outcome::Failed(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}
