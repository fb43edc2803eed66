//! The faults of the demo, in order, each with what it waits for and what it measures.

use std::io::{IsTerminal, Write};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::client::Client;
use super::load::{Load, Target, Through};
use super::report::{Fault, Report, TargetSeen};
use super::stage::{NODES, SERVICES, Stage};
use super::{journal, processes};
use crate::clock;
use crate::connection::Agent;
use crate::output::{Failure, Output};

/// Whatever happens, nothing is waited for longer than this after the beginning.
const ALL_WITHIN: Duration = Duration::from_secs(36);
/// Everything runs and all roles are held.
const START_WITHIN: Duration = Duration::from_secs(20);
/// A killed program is back, or its spare has taken over.
const APP_BACK_WITHIN: Duration = Duration::from_secs(6);
/// All that was on a killed node runs elsewhere.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(8);
/// A node that was started again takes part.
const RETURN_WITHIN: Duration = Duration::from_secs(8);
/// The preferred node has its roles back.
const FAILBACK_WITHIN: Duration = Duration::from_secs(12);
/// An undisturbed moment between two acts, so that what follows is not blamed on what went before.
const PAUSE: Duration = Duration::from_millis(800);
/// How often is looked whether what is waited for has come.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is promised to the clients of one kind of target.
type Promise = (&'static str, Duration);
/// A balanced service while one of its instances or nodes dies: what died is ejected within 1 s.
const BALANCED: Promise = ("balanced services", Duration::from_millis(1000));
/// An exclusive role or an address whose node dies: lease of 3 s × 1.01 + 50 ms + 0.5 s, and the start of the program.
const EXCLUSIVE: Promise = ("the address, app.till", Duration::from_millis(4000));
/// A planned move of an exclusive role: new connections wait for less than 1 s, and for the start and first check of the
/// program, which is stopped here before it is started there.
const PLANNED: Promise = ("app.till", Duration::from_millis(2000));

/// The demo while it runs.
pub struct Story {
    stage: Stage,
    output: Output,
    load: Option<Load>,
    began: Duration,
    retried_before: u64,
}

/// What one look at the cluster answers: nothing is missing, or what.
type Look<'a> = &'a dyn Fn(&Value) -> Result<(), String>;

impl Story {
    /// On a stage that was set.
    pub fn new(stage: Stage, output: Output) -> Self {
        Self { stage, output, load: None, began: clock::boottime(), retried_before: 0 }
    }

    /// Everything in order. A failure here means that the demo could not be played; a broken promise is in the report.
    pub fn play(&mut self) -> Result<Report, Failure> {
        self.start()?;
        let main = self.gather_roles()?;
        self.begin_traffic(main)?;
        let mut report = Report::default();
        report.faults.push(self.app_killed()?);
        report.faults.push(self.node_killed(main)?);
        report.faults.push(self.node_returned(main)?);
        report.faults.push(self.failback(main)?);
        if let Some(load) = &mut self.load {
            load.stop();
            (report.sent, report.failed) = load.counts();
        }
        report.retried = self.retried_before + self.retried();
        Ok(report)
    }

    /// Stops the traffic and hands the stage back.
    pub fn end(mut self) -> Stage {
        if let Some(load) = &mut self.load {
            load.stop();
        }
        self.stage
    }

    fn start(&mut self) -> Result<(), Failure> {
        self.say(&format!("starting 3 nodes in {}", self.stage.dir.display()));
        for (node, _) in NODES {
            self.stage
                .start(node)
                .map_err(|error| Failure::unexpected("demo", format!("cannot start the agent of {node}: {error}")))?;
        }
        let all = NODES.map(|(node, _)| node);
        self.wait(&all, START_WITHIN, &is_whole).map_err(|missing| {
            Failure::unexpected("not-started", format!("the demo's cluster did not start: {missing}"))
        })?;
        self.say("all nodes, services and the floating address are up");
        Ok(())
    }

    /// Moves the floating address to the node that has the exclusive role, so that one death takes both; answers that node.
    fn gather_roles(&mut self) -> Result<&'static str, Failure> {
        let all = NODES.map(|(node, _)| node);
        let status = self.stage.status(&all).unwrap_or_default();
        let Some(main) = primary_of_till(&status).and_then(|name| all.into_iter().find(|node| *node == name)) else {
            return Err(Failure::unexpected("demo", "no node has the exclusive role"));
        };
        let give_up = self.deadline(START_WITHIN);
        while floating_on(&self.stage.status(&all).unwrap_or_default()) != Some(main) {
            let body = serde_json::json!({ "subject": "listen.front", "to": main });
            let answer = Agent::in_state(&self.stage.state(main)).change("/switchover", body)?;
            if clock::boottime() > give_up {
                let why = answer["why"].as_str().unwrap_or("no reason was given");
                let message = format!("the floating address did not move to {main}: {why}");
                return Err(Failure::unexpected("not-started", message));
            }
            // Refused for now (a node that has just started may not have reported yet): asked again.
            thread::sleep(LOOK_EVERY);
        }
        self.wait(&all, START_WITHIN, &is_whole).map_err(|missing| {
            Failure::unexpected("not-started", format!("the demo's cluster is not whole: {missing}"))
        })?;
        self.say(&format!("{main} has the floating address and the exclusive role"));
        Ok(main)
    }

    fn begin_traffic(&mut self, main: &str) -> Result<(), Failure> {
        let targets = self.stage.targets(main);
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
        self.say(&format!("{} clients send requests through the floating address and the nodes' own", targets.len()));
        self.load = Some(Load::start(targets));
        self.pause();
        Ok(())
    }

    /// Act 1: one program dies under load. Nobody notices.
    fn app_killed(&mut self) -> Result<Fault, Failure> {
        let all = NODES.map(|(node, _)| node);
        let status = self.stage.status(&all).unwrap_or_default();
        let victim =
            instances(&status, "web").find(|instance| instance["role"] == "active" && instance["state"] == "running");
        let pid = victim.and_then(|instance| u32::try_from(instance["pid"].as_u64()?).ok());
        let (Some(pid), Some(node)) = (pid, victim.and_then(|instance| instance["node"].as_str())) else {
            return Err(Failure::unexpected("demo", "the status names no process of an active instance of app.web"));
        };
        let node = node.to_owned();
        let from = clock::boottime();
        if !processes::kill(pid, &self.stage.dir) {
            return Err(Failure::unexpected(
                "demo",
                format!("process {pid}, which the status names, is not of this demo"),
            ));
        }
        self.say(&format!("kill -9 an active instance of app.web on {node} (pid {pid})"));
        // Its status may still show what was before: the dead process must be gone from it first.
        let missed = self.wait(&all, APP_BACK_WITHIN, &|status| {
            let is_shown = instances(status, "web").any(|instance| instance["pid"] == pid);
            if is_shown { Err("the status still shows the dead process".to_owned()) } else { is_whole(status) }
        });
        self.pause();
        let promise = |_: &Target| BALANCED;
        Ok(self.measured("app_killed", from, missed.err(), true, &promise))
    }

    /// Act 2: a node dies with all that is on it: the exclusive role, the floating address, its balancer.
    fn node_killed(&mut self, main: &'static str) -> Result<Fault, Failure> {
        // The dead balancer's count dies with it.
        self.retried_before = self.retried_of(main);
        let survivors = survivors_of(main);
        let from = clock::boottime();
        let is_dead = self.stage.kill_node(main);
        if !is_dead {
            return Err(Failure::unexpected("demo", format!("not every process of {main} could be killed")));
        }
        self.say(&format!("kill -9 everything of {main}: agent, balancer, guards, programs"));
        let missed = self.wait(&survivors, TAKEN_OVER_WITHIN, &|status| {
            let holder = primary_of_till(status).filter(|node| *node != main);
            let floating = floating_on(status).filter(|node| *node != main);
            let running = instances(status, "till").any(|i| i["node"].as_str() == holder && i["state"] == "running");
            match (holder, floating) {
                (Some(_), Some(_)) if running => Ok(()),
                (Some(_), Some(_)) => Err("app.till does not run yet".to_owned()),
                (None, _) => Err("nobody has taken app.till over".to_owned()),
                (_, None) => Err("nobody has taken the floating address over".to_owned()),
            }
        });
        let status = self.stage.status(&survivors).unwrap_or_default();
        let answering = clock::boottime();
        let missed = missed.and_then(|()| self.wait_for_answers(answering, TAKEN_OVER_WITHIN));
        self.say(&format!(
            "app.till is on {}, the floating address on {}",
            primary_of_till(&status).unwrap_or("no node"),
            floating_on(&status).unwrap_or("no node")
        ));
        self.pause();
        let promise = |target: &Target| match (target.service, &target.through) {
            ("till", _) | (_, Through::Front) => EXCLUSIVE,
            _ => BALANCED,
        };
        Ok(self.measured("node_killed", from, missed.err(), false, &promise))
    }

    /// Act 3: the node is started again, and takes part.
    fn node_returned(&mut self, main: &'static str) -> Result<Fault, Failure> {
        let from = clock::boottime();
        self.stage
            .start(main)
            .map_err(|error| Failure::unexpected("demo", format!("cannot start the agent of {main}: {error}")))?;
        self.say(&format!("start {main} again"));
        let missed = self.wait(&survivors_of(main), RETURN_WITHIN, &|status| {
            let runs = |service| instances(status, service).any(|i| i["node"] == main && i["state"] == "running");
            match ["web", "api"].into_iter().find(|service| !runs(service)) {
                None => Ok(()),
                Some(service) => Err(format!("app.{service} does not run on {main}")),
            }
        });
        // Where the return takes long, the roles begin to move back before it is complete.
        let promise = |target: &Target| if target.service == "till" { PLANNED } else { BALANCED };
        Ok(self.measured("node_returned", from, missed.err(), false, &promise))
    }

    /// Act 4: once it was steady for a while, the preferred node gets its roles back.
    fn failback(&mut self, main: &'static str) -> Result<Fault, Failure> {
        let from = clock::boottime();
        self.say(&format!("{main} is back; its roles return once it was steady for 2 s"));
        let all = NODES.map(|(node, _)| node);
        let missed = self.wait(&all, FAILBACK_WITHIN, &|status| {
            is_whole(status)?;
            let has =
                |service: &str, role: &str| instances(status, service).any(|i| i["node"] == main && i["role"] == role);
            match (primary_of_till(status) == Some(main), has("web", "active")) {
                (true, true) => Ok(()),
                (false, _) => Err(format!("app.till is not back on {main}")),
                (_, false) => Err(format!("app.web is not active on {main}")),
            }
        });
        if missed.is_ok() {
            self.say(&format!("app.till and app.web are back on {main}"));
        }
        self.pause();
        let promise = |target: &Target| if target.service == "till" { PLANNED } else { BALANCED };
        Ok(self.measured("failback", from, missed.err(), true, &promise))
    }

    /// What clients saw since `from`.
    fn measured(
        &self,
        name: &'static str,
        from: Duration,
        missed: Option<String>,
        none_may_fail: bool,
        promise: &dyn Fn(&Target) -> Promise,
    ) -> Fault {
        let to = clock::boottime();
        let seen = self.load.as_ref().map_or_else(Vec::new, |load| load.seen(from, to));
        let targets = seen.iter().map(|(target, seen)| {
            let (kind, promised) = promise(target);
            TargetSeen { name: target.name(), kind, outage: seen.outage, promised, failed: seen.failed }
        });
        let overlap = journal::overlap(&self.stage.journal(), from, to);
        let missed =
            missed.or_else(|| overlap.as_ref().err().map(|error| format!("the journal cannot be read: {error}")));
        let fault = Fault {
            name,
            seen: targets.collect(),
            failed: seen.iter().map(|(_, seen)| seen.failed).sum(),
            none_may_fail,
            overlap: overlap.unwrap_or_default(),
            missed,
        };
        let longest = fault.seen.iter().map(|seen| seen.outage).max().unwrap_or_default();
        self.say(&format!("  longest outage {} ms, {} requests failed", longest.as_millis(), fault.failed));
        for broken in fault.broken() {
            self.say(&format!("  BROKEN  {broken}"));
        }
        fault
    }

    /// Waits until a status of one of these nodes shows nothing missing; or says what was missing last.
    fn wait(&self, nodes: &[&str], within: Duration, look: Look<'_>) -> Result<(), String> {
        let give_up = self.deadline(within);
        loop {
            let missing = match self.stage.status(nodes).as_ref().map(look) {
                Some(Ok(())) => return Ok(()),
                Some(Err(missing)) => missing,
                None => "no agent answers".to_owned(),
            };
            if clock::boottime() > give_up {
                return Err(format!("{missing}, and time is up"));
            }
            self.tick();
            thread::sleep(LOOK_EVERY);
        }
    }

    fn wait_for_answers(&self, since: Duration, within: Duration) -> Result<(), String> {
        let give_up = self.deadline(within);
        while !self.load.as_ref().is_none_or(|load| load.all_answered_since(since)) {
            if clock::boottime() > give_up {
                return Err("not every address answers, and time is up".to_owned());
            }
            self.tick();
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// When to give up what may take so long; the whole has an end too.
    fn deadline(&self, within: Duration) -> Duration {
        (clock::boottime() + within).min(self.began + ALL_WITHIN)
    }

    fn pause(&self) {
        let until = clock::boottime() + PAUSE;
        while clock::boottime() < until {
            self.tick();
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Requests that balancers tried again, over all nodes that answer.
    fn retried(&self) -> u64 {
        NODES.iter().map(|(node, _)| self.retried_of(node)).sum()
    }

    /// Each agent knows of its own balancer only.
    fn retried_of(&self, node: &str) -> u64 {
        let status = self.stage.status(&[node]).unwrap_or_default();
        let listeners = status["listeners"].as_array().into_iter().flatten();
        let entries = listeners.flat_map(|listener| listener["entries"].as_array().into_iter().flatten());
        entries.filter_map(|entry| entry["retried"].as_u64()).sum()
    }

    /// One line of the story: for people on stdout, else beside the answer on stderr.
    fn say(&self, what: &str) {
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

fn survivors_of(main: &str) -> [&'static str; 2] {
    let mut others = NODES.iter().map(|(node, _)| *node).filter(|node| *node != main);
    [others.next().unwrap_or("n2"), others.next().unwrap_or("n3")]
}

/// Healthy, and every instance that should run does.
fn is_whole(status: &Value) -> Result<(), String> {
    for service in SERVICES {
        let all: Vec<_> = instances(status, service).collect();
        // The exclusive one has one instance that runs; of the others all do, spares too.
        let wanted = if service == "till" { 1 } else { NODES.len() };
        let running = all.iter().filter(|instance| instance["state"] == "running").count();
        if running < wanted {
            return Err(format!("{running} of {wanted} instances of app.{service} run"));
        }
    }
    if floating_on(status).is_none() {
        return Err("nobody holds the floating address".to_owned());
    }
    match status["health"].as_str() {
        Some("healthy") => Ok(()),
        health => {
            let trouble =
                status["trouble"].as_array().and_then(|all| all.first()?.as_str()).unwrap_or("no trouble is named");
            Err(format!("the cluster is {}: {trouble}", health.unwrap_or("of unknown health")))
        }
    }
}

fn instances<'a>(status: &'a Value, service: &str) -> impl Iterator<Item = &'a Value> {
    let full = format!("app.{service}");
    let services = status["services"].as_array().into_iter().flatten();
    let found = services.filter(move |entry| entry["name"] == full.as_str());
    found.flat_map(|entry| entry["instances"].as_array().into_iter().flatten())
}

fn primary_of_till(status: &Value) -> Option<&str> {
    instances(status, "till").find(|instance| instance["role"] == "primary")?["node"].as_str()
}

fn floating_on(status: &Value) -> Option<&str> {
    let listeners = status["listeners"].as_array().into_iter().flatten();
    listeners.into_iter().find(|listener| listener["name"] == "front")?["vip_holder"].as_str()
}
