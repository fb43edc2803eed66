//! One file per verb.

mod completions;
mod config;
mod drain;
mod events;
mod explain;
mod init;
mod status;
mod switchover;

use crate::cli::Verb;
use crate::output::{Answer, Output};

/// The verbs people type, as they name the schemas of JSON answers.
const NAMES: [&str; 8] = ["config", "init", "status", "events", "explain", "switchover", "drain", "completions"];

/// What a verb is called in its JSON schema.
pub fn name(verb: &Verb) -> &'static str {
    match verb {
        Verb::Config(_) => "config",
        Verb::Init(_) => "init",
        Verb::Status(_) => "status",
        Verb::Events(_) => "events",
        Verb::Explain(_) => "explain",
        Verb::Switchover(_) => "switchover",
        Verb::Drain(_) => "drain",
        Verb::Completions { .. } => "completions",
    }
}

/// The verb of that name, if there is one.
pub fn verb_named(name: &str) -> Option<&'static str> {
    NAMES.into_iter().find(|known| *known == name)
}

/// Does it.
pub fn run(verb: Verb, output: Output) -> Answer {
    match verb {
        Verb::Config(verb) => config::run(verb, output),
        Verb::Init(args) => init::run(&args, output),
        Verb::Status(args) => status::run(&args, output),
        Verb::Events(args) => events::run(&args, output),
        Verb::Explain(args) => explain::run(&args, output),
        Verb::Switchover(args) => switchover::run(&args, output),
        Verb::Drain(args) => drain::run(&args, output),
        Verb::Completions { shell } => completions::run(shell, output),
    }
}
