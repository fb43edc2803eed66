//! One file per verb.

mod agent;
mod balancer;
mod completions;
mod config;
pub mod demo;
mod demo_app;
mod drain;
mod estimate;
mod events;
mod explain;
mod init;
mod models;
mod plan;
mod sim;
mod status;
mod switchover;

use std::process::ExitCode;

use crate::cli::Verb;
use crate::output::{Answer, Output};

/// The verbs people type, as they name the schemas of JSON answers.
const NAMES: [&str; 12] = [
    "plan",
    "models",
    "config",
    "init",
    "agent",
    "status",
    "events",
    "explain",
    "switchover",
    "drain",
    "completions",
    "estimate",
];

/// What a verb is called in its JSON schema.
pub fn name(verb: &Verb) -> &'static str {
    match verb {
        Verb::Config(_) => "config",
        Verb::Init(_) => "init",
        Verb::Agent(_) => "agent",
        Verb::Status(_) => "status",
        Verb::Events(_) => "events",
        Verb::Explain(_) => "explain",
        Verb::Switchover(_) => "switchover",
        Verb::Drain(_) => "drain",
        Verb::Plan(_) => "plan",
        Verb::Models(_) => "models",
        Verb::Demo(_) => "demo",
        Verb::Sim(_) => "sim",
        Verb::Estimate(_) => "estimate",
        Verb::Completions { .. } => "completions",
        Verb::AgentWorker(_) => "agent-worker",
        Verb::Guard { .. } => "guard",
        Verb::GuardInit => "guard-init",
        Verb::Balancer(_) => "balancer",
        Verb::DemoApp(_) => "demo-app",
        Verb::DemoWatchdog { .. } => demo::watchdog::VERB,
    }
}

/// The verb of that name, if there is one.
pub fn verb_named(name: &str) -> Option<&'static str> {
    NAMES.into_iter().find(|known| *known == name)
}

/// What came of it.
pub enum Ran {
    /// The answer to a person or script.
    Verb(Answer),
    /// The exit code of a process whose starter reads a code of its own.
    Process(ExitCode),
}

/// Does it.
pub fn run(verb: Verb, output: Output) -> Ran {
    Ran::Verb(match verb {
        Verb::Config(verb) => config::run(verb, output),
        Verb::Init(args) => init::run(&args, output),
        Verb::Agent(args) => agent::run(&args, output),
        Verb::Status(args) => status::run(&args, output),
        Verb::Events(args) => events::run(&args, output),
        Verb::Explain(args) => explain::run(&args, output),
        Verb::Switchover(args) => switchover::run(&args, output),
        Verb::Drain(args) => drain::run(&args, output),
        Verb::Plan(args) => plan::run(&args, output),
        Verb::Models(args) => models::run(&args, output),
        Verb::Demo(args) => demo::run(&args, output),
        Verb::Sim(args) => sim::run(&args, output),
        Verb::Estimate(kind) => estimate::run(&kind, output),
        Verb::Completions { shell } => completions::run(shell, output),
        Verb::AgentWorker(args) => agent::run_worker(args),
        Verb::Guard { dir } => return Ran::Process(backstay_app::guard_main(&dir)),
        Verb::GuardInit => return Ran::Process(backstay_app::guard_init_main()),
        Verb::Balancer(args) => balancer::run(args),
        Verb::DemoApp(args) => demo_app::run(&args),
        Verb::DemoWatchdog { dir } => demo::watchdog::run(&dir),
    })
}
