//! What both stories of the demo are played with: starting, striking, waiting, measuring, and telling what happens.

use std::io::{IsTerminal, Write};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::client::Client;
use super::load::{Load, Target};
use super::processes;
use super::report::{Fault, Model, Promise, Report, TargetSeen};
use super::stage::Stage;
use super::status::instances;
use crate::clock;
use crate::output::{Failure, Output};

/// Everything runs and all roles are held.
pub const START_WITHIN: Duration = Duration::from_secs(20);
/// A killed program is back, or its spare has taken over.
pub const APP_BACK_WITHIN: Duration = Duration::from_secs(6);
/// All that was on a killed node runs elsewhere.
pub const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(8);
/// An undisturbed moment between two acts, so that what follows is not blamed on what went before.
const PAUSE: Duration = Duration::from_millis(800);
/// How often is looked whether what is waited for has come.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What one look at the cluster answers: nothing is missing, or what.
pub type Look<'a> = &'a dyn Fn(&Value) -> Result<(), String>;

/// One story while it is played.
pub struct Player {
    /// Where.
    pub stage: Stage,
    output: Output,
    load: Option<Load>,
    /// Of the whole demo: what is told counts from there.
    began: Duration,
    /// Whatever happens, nothing is waited for after this.
    ends: Duration,
    /// What balancers that were killed had retried.
    retried_before: u64,
}

/// An act whose end has come.
#[derive(Default)]
pub struct Act {
    /// The name of its fault.
    pub name: &'static str,
    /// When it began.
    pub from: Duration,
    /// What did not come about in time.
    pub missed: Option<String>,
    /// Whether no request may fail.
    pub none_may_fail: bool,
    /// How long two holders of an exclusive role acted at once.
    pub overlap: Duration,
    /// The redundancy model that it is about.
    pub model: Option<Model>,
}

impl Player {
    /// On a stage that was set, in a demo that began then; the story lasts for `within` at most.
    pub fn new(stage: Stage, output: Output, began: Duration, within: Duration) -> Self {
        Self { stage, output, load: None, began, ends: clock::boottime() + within, retried_before: 0 }
    }

    /// Stops the traffic and hands the stage back.
    pub fn end(mut self) -> Stage {
        if let Some(load) = &mut self.load {
            load.stop();
        }
        self.stage
    }

    /// Starts all nodes and waits until nothing is missing.
    pub fn start(&mut self, is_whole: Look<'_>) -> Result<(), Failure> {
        let nodes = self.stage.nodes();
        self.say(&format!("starting {} nodes in {}", nodes.len(), self.stage.dir.display()));
        for node in &nodes {
            self.start_node(node)?;
        }
        self.wait(&nodes, START_WITHIN, is_whole).map_err(|missing| {
            Failure::unexpected("not-started", format!("the demo's cluster did not start: {missing}"))
        })
    }

    /// Starts the agent of one node.
    pub fn start_node(&mut self, node: &'static str) -> Result<(), Failure> {
        self.stage
            .start(node)
            .map_err(|error| Failure::unexpected("demo", format!("cannot start the agent of {node}: {error}")))
    }

    /// Begins the traffic once every address answers: each client pauses for `pause` after each answer.
    pub fn begin_traffic(&mut self, targets: Vec<Target>, pause: Duration, where_to: &str) -> Result<(), Failure> {
        let give_up = self.deadline(START_WITHIN);
        for target in &targets {
            while let Err(error) = Client::new(target.address).ask() {
                if clock::boottime() > give_up {
                    let message = format!("{} ({}) does not answer: {error}", target.name(), target.address);
                    return Err(Failure::unexpected("not-started", message));
                }
                thread::sleep(LOOK_EVERY);
            }
        }
        self.say(&format!("{} clients send requests through {where_to}", targets.len()));
        self.load = Some(Load::start(targets, pause));
        self.pause();
        Ok(())
    }

    /// Ends the traffic; the report with its counts.
    pub fn end_traffic(&mut self, faults: Vec<Fault>) -> Report {
        let mut report = Report { faults, ..Report::default() };
        if let Some(load) = &mut self.load {
            load.stop();
            (report.sent, report.failed) = load.counts();
        }
        // Each agent knows of its own balancer only.
        let alive: u64 = self.stage.nodes().into_iter().map(|node| self.retried_of(node)).sum();
        report.retried = self.retried_before + alive;
        report
    }

    /// Kills the program of an active instance; answers when, and then waits until the status no longer shows the dead
    /// process and `is_whole` misses nothing.
    pub fn kill_program(&self, service: &str, is_whole: Look<'_>) -> Result<(Duration, Result<(), String>), Failure> {
        let all = self.stage.nodes();
        let status = self.stage.status(&all).unwrap_or_default();
        let victim =
            instances(&status, service).find(|instance| instance["role"] == "active" && instance["state"] == "running");
        let pid = victim.and_then(|instance| u32::try_from(instance["pid"].as_u64()?).ok());
        let (Some(pid), Some(node)) = (pid, victim.and_then(|instance| instance["node"].as_str())) else {
            let message = format!("the status names no process of an active instance of app.{service}");
            return Err(Failure::unexpected("demo", message));
        };
        let from = clock::boottime();
        if !processes::kill(pid, &self.stage.dir) {
            return Err(Failure::unexpected(
                "demo",
                format!("process {pid}, which the status names, is not of this demo"),
            ));
        }
        self.say(&format!("kill -9 an active instance of app.{service} on {node} (pid {pid})"));
        // Its status may still show what was before: the dead process must be gone from it first.
        let missed = self.wait(&all, APP_BACK_WITHIN, &|status| {
            let is_shown = instances(status, service).any(|instance| instance["pid"] == pid);
            if is_shown { Err("the status still shows the dead process".to_owned()) } else { is_whole(status) }
        });
        Ok((from, missed))
    }

    /// Kills everything of some nodes at once; answers when.
    pub fn kill_nodes(&mut self, nodes: &[&str]) -> Result<Duration, Failure> {
        // The counts of dead balancers die with them.
        self.retried_before += nodes.iter().map(|node| self.retried_of(node)).sum::<u64>();
        let from = clock::boottime();
        match self.stage.kill_nodes(nodes) {
            true => Ok(from),
            false => {
                let message = format!("not every process of {} could be killed", nodes.join(" and "));
                Err(Failure::unexpected("demo", message))
            }
        }
    }

    /// What clients saw of an act until now: those to whom `promise` promises something.
    pub fn measured(&self, act: Act, promise: &dyn Fn(&Target) -> Option<Promise>) -> Fault {
        let to = clock::boottime();
        let seen = self.load.as_ref().map_or_else(Vec::new, |load| load.seen(act.from, to));
        let targets = seen.iter().filter_map(|(target, seen)| {
            let (kind, promised) = promise(target)?;
            Some(TargetSeen { name: target.name(), kind, outage: seen.outage, promised, failed: seen.failed })
        });
        let seen: Vec<_> = targets.collect();
        let fault = Fault {
            name: act.name,
            failed: seen.iter().map(|seen| seen.failed).sum(),
            seen,
            none_may_fail: act.none_may_fail,
            overlap: act.overlap,
            missed: act.missed,
            model: act.model,
        };
        let longest = fault.seen.iter().map(|seen| seen.outage).max().unwrap_or_default();
        let who = fault.model.as_ref().map_or_else(String::new, |model| format!("{}: ", model.service));
        self.say(&format!("  {who}longest outage {} ms, {} requests failed", longest.as_millis(), fault.failed));
        for broken in fault.broken() {
            self.say(&format!("  BROKEN  {broken}"));
        }
        fault
    }

    /// Waits until a status of one of these nodes shows nothing missing; or says what was missing last.
    pub fn wait(&self, nodes: &[&str], within: Duration, look: Look<'_>) -> Result<(), String> {
        self.until(within, || match self.stage.status(nodes).as_ref().map(look) {
            Some(seen) => seen,
            None => Err("no agent answers".to_owned()),
        })
    }

    /// Waits until every address that is meant has answered since then.
    pub fn wait_for_answers(
        &self,
        since: Duration,
        within: Duration,
        is_meant: &dyn Fn(&Target) -> bool,
    ) -> Result<(), String> {
        self.until(within, || match self.load.as_ref().is_none_or(|load| load.all_answered_since(since, is_meant)) {
            true => Ok(()),
            false => Err("not every address answers".to_owned()),
        })
    }

    fn until(&self, within: Duration, look: impl Fn() -> Result<(), String>) -> Result<(), String> {
        let give_up = self.deadline(within);
        while let Err(missing) = look() {
            if clock::boottime() > give_up {
                return Err(format!("{missing}, and time is up"));
            }
            self.tick();
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// When to give up what may take so long; the whole has an end too.
    pub fn deadline(&self, within: Duration) -> Duration {
        (clock::boottime() + within).min(self.ends)
    }

    /// Lets a moment pass.
    pub fn pause(&self) {
        let until = clock::boottime() + PAUSE;
        while clock::boottime() < until {
            self.tick();
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Requests that one node's balancer tried again.
    fn retried_of(&self, node: &str) -> u64 {
        let status = self.stage.status(&[node]).unwrap_or_default();
        let listeners = status["listeners"].as_array().into_iter().flatten();
        let entries = listeners.flat_map(|listener| listener["entries"].as_array().into_iter().flatten());
        entries.filter_map(|entry| entry["retried"].as_u64()).sum()
    }

    /// One line of the story: for people on stdout, else beside the answer on stderr.
    pub fn say(&self, what: &str) {
        self.clear_tick();
        let since = clock::boottime().saturating_sub(self.began);
        let line = format!("t+{:<5.1} {what}", since.as_secs_f64());
        if self.output.is_json() { self.output.progress(line) } else { self.output.text(line) }
    }

    /// On a terminal, a last line that lives.
    fn tick(&self) {
        if let Some(load) = self.load.as_ref().filter(|_| self.is_live()) {
            let (sent, failed) = load.counts();
            let since = clock::boottime().saturating_sub(self.began);
            // Only an ornament: nothing is lost when it cannot be drawn.
            let _ = write!(std::io::stdout(), "\rt+{:<5.1} {sent} requests, {failed} failed ", since.as_secs_f64());
            let _ = std::io::stdout().flush();
        }
    }

    fn clear_tick(&self) {
        if self.is_live() {
            let _ = write!(std::io::stdout(), "\r{:60}\r", "");
        }
    }

    fn is_live(&self) -> bool {
        !self.output.is_json() && std::io::stdout().is_terminal()
    }
}
