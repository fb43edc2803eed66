//! A tiny world for scenarios: every command of a scenario is one method or one arm here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use backstay_model::{
    AddressState, Fact, Goal, Grant, Health, InstanceObservation, InstanceState, Instant, NodeName, Observation,
    ReplicaGoal, RoleKey, ServiceId, Step, Subject, SyncRule,
};
use backstay_spec::Spec;

use crate::next_step::Hold;
use crate::{Local, Session, View, check, decide, next_steps};

#[derive(Default)]
pub struct World {
    spec: Option<Spec>,
    now: Instant,
    adopted_at: Instant,
    pub(super) goal: Goal,
    sessions: BTreeMap<NodeName, Session>,
    pub(super) grants: BTreeMap<RoleKey, Grant>,
    pub(super) reports: BTreeMap<NodeName, Observation>,
    silent: BTreeSet<NodeName>,
    drains: BTreeSet<NodeName>,
    switchovers: BTreeMap<Subject, NodeName>,
    unsettled: bool,
    sessions_opened: u64,
    output: String,
    pub(super) promises: BTreeMap<(ServiceId, NodeName), backstay_model::Promise>,
    pub(super) disks: super::databases::Disks,
}

impl World {
    pub fn read_file(&mut self, text: &str) {
        let parsed = backstay_spec::parse("scenario.toml", text);
        self.spec =
            Some(parsed.spec.unwrap_or_else(|| panic!("the scenario's file is wrong: {:?}", parsed.diagnostics)));
    }

    pub fn take_output(&mut self) -> String {
        std::mem::take(&mut self.output)
    }

    pub fn run(&mut self, command: &str) {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.as_slice() {
            ["up", nodes @ ..] => nodes.iter().for_each(|node| self.up(node)),
            ["down", nodes @ ..] => nodes.iter().for_each(|node| self.down(node)),
            ["silent", nodes @ ..] => self.silent.extend(nodes.iter().map(|node| NodeName::from(*node))),
            ["heard", nodes @ ..] => self.silent.retain(|silent| !nodes.contains(&silent.as_str())),
            ["lapse", role] => drop(self.grants.remove(&role.parse().unwrap())),
            ["drain", node] => self.drains.extend([NodeName::from(*node)]),
            ["undrain", node] => self.drains.retain(|drained| drained.as_str() != *node),
            ["switchover", what, node] => drop(self.switchovers.insert(subject(what), NodeName::from(*node))),
            ["instance", node, service, state, rest @ ..] => self.instance(node, service, state, rest),
            ["cannot-bind", node, listener] => {
                let failed = AddressState::Failed("address in use".to_owned());
                self.report(node).addresses.insert((*listener).into(), failed);
            }
            ["write", service, bytes] => self.write(service, bytes),
            ["lags", node, service] => self.lags(node, service),
            ["suspect", node, "by", observers @ ..] => {
                for observer in observers {
                    self.report(observer).suspects.insert(NodeName::from(*node));
                }
            }
            ["cleared", node] => {
                self.reports
                    .values_mut()
                    .for_each(|report| report.suspects.retain(|suspect| suspect.as_str() != *node));
            }
            ["unsettled"] => self.unsettled = true,
            ["settled"] => self.unsettled = false,
            ["tick", time] => self.tick(parse_duration(time)),
            ["decide"] => drop(self.decide()),
            ["act"] => drop(self.act(true)),
            ["run"] => self.run_until_quiet(),
            other => panic!("no such command: {other:?}"),
        }
    }

    fn up(&mut self, node: &str) {
        self.sessions_opened += 1;
        let id = self.sessions_opened;
        let name = NodeName::from(node);
        self.sessions.insert(name.clone(), Session { id, boot: format!("boot{id}") });
        self.silent.remove(&name);
        let report = Observation {
            node: name.clone(),
            boot: format!("boot{id}"),
            serial: 0,
            generation: self.goal.generation,
            instances: BTreeMap::new(),
            addresses: BTreeMap::new(),
            balancer_up: true,
            suspects: BTreeSet::new(),
            notes: Vec::new(),
        };
        self.reports.insert(name.clone(), report);
        self.find_copies(&name);
    }

    /// The session ends, and with it the grants leased to it.
    fn down(&mut self, node: &str) {
        let name = NodeName::from(node);
        self.leave_copies(&name);
        self.sessions.remove(&name);
        self.reports.remove(&name);
        self.grants.retain(|_, grant| grant.holder != name);
    }

    fn report(&mut self, node: &str) -> &mut Observation {
        self.reports.get_mut(&NodeName::from(node)).expect("the node is up")
    }

    fn instance(&mut self, node: &str, service: &str, state: &str, rest: &[&str]) {
        let failures = rest.iter().find_map(|word| word.strip_prefix("failures=")).map_or(0, |n| n.parse().unwrap());
        let id: ServiceId = service.parse().unwrap();
        let (state, health) = match state {
            "well" => (InstanceState::Running, Health::Passing),
            "failing" => (InstanceState::Running, Health::Failing),
            "starting" => (InstanceState::Starting, Health::Unknown),
            "failed" => (InstanceState::Failed, Health::Unknown),
            "gone" => (InstanceState::Prepared, Health::Unknown),
            other => panic!("no such state: {other}"),
        };
        let token = self.grants.get(&RoleKey::Service(id.clone())).map(|grant| grant.token);
        let report = self.report(node);
        let replica = report.instances.get(&id).and_then(|seen| seen.replica.clone());
        let seen = InstanceObservation { failures, replica, ..instance(state, health, token) };
        report.instances.insert(id, seen);
    }

    fn tick(&mut self, by: Duration) {
        self.now = self.now + by;
        for report in self.reports.values_mut() {
            for seen in report.instances.values_mut().filter(|seen| seen.is_well()) {
                seen.healthy_for += by;
            }
        }
    }

    /// One decision, printed and adopted. Whether it was a new goal.
    fn decide(&mut self) -> bool {
        let spec = self.spec.as_ref().expect("a file comes first");
        let heard = self.reports.iter().filter(|(node, _)| !self.silent.contains(*node));
        let age = Duration::from_millis(100);
        let view = View {
            spec,
            spec_hash: "h",
            incarnation: 0,
            goal: &self.goal,
            goal_age: self.now.since(self.adopted_at),
            sessions: self.sessions.clone(),
            grants: self.grants.clone(),
            promises: self.promises.clone(),
            published: BTreeMap::new(),
            observations: heard.map(|(n, o)| (n.clone(), Fact::Known { value: o.clone(), age })).collect(),
            drains: self.drains.clone(),
            switchovers: self.switchovers.clone(),
            settled: !self.unsettled,
        };
        let decision = decide(&view, self.now);
        assert_eq!(decision, decide(&view, self.now), "decide is pure");
        for subject in &decision.answered {
            self.switchovers.remove(subject);
        }
        let out = &mut self.output;
        match &decision.goal {
            None => writeln!(out, "goal {} stands", self.goal.generation).unwrap(),
            Some(goal) => {
                assert_eq!(check::check(spec, &self.goal, goal), Vec::<String>::new());
                print_goal(out, goal);
            }
        }
        for reason in &decision.reasons {
            writeln!(out, "  because  {reason}").unwrap();
        }
        if let Some(at) = decision.wake_at {
            writeln!(out, "  again in {}", backstay_model::time::human(at.since(self.now))).unwrap();
        }
        let changed = decision.goal.is_some();
        if let Some(goal) = decision.goal {
            self.goal = goal;
            self.adopted_at = self.now;
        }
        changed
    }

    /// Every node that is up takes its steps, and they succeed at once. Whether there were any.
    fn act(&mut self, print: bool) -> bool {
        let mut any = false;
        for (node, session) in self.sessions.clone() {
            if self.silent.contains(&node) {
                continue;
            }
            let held = self.grants.iter().filter(|(_, grant)| grant.holder == node);
            let runs_until = held.map(|(role, grant)| (role.clone(), Hold { token: grant.token })).collect();
            self.report(node.as_str()).generation = self.goal.generation;
            let seen = self.reports[&node].clone();
            let local = Local {
                node: &node,
                session: session.id,
                grants: &self.grants.clone(),
                seen: &seen,
                runs_until: &runs_until,
            };
            for step in next_steps(&self.goal, &local) {
                let moved = self.take(&node, session.id, &step);
                any |= moved;
                if print && moved {
                    writeln!(self.output, "  {node}  {}", describe(&step)).unwrap();
                }
            }
        }
        any
    }

    /// One step of one node; false if it changes nothing.
    fn take(&mut self, node: &NodeName, session: u64, step: &Step) -> bool {
        let database = |id: &ServiceId| self.goal.services.get(id).is_some_and(|service| service.replicas.is_some());
        match step {
            Step::Start { service, .. } if database(service) => return self.take_of_database(node, step),
            Step::Follow { .. } | Step::Promise { .. } | Step::Sync { .. } => return self.take_of_database(node, step),
            _ => {}
        }
        let report = self.reports.get_mut(node).expect("the node is up");
        match step {
            Step::TakeGrant { role, token, instead_of } => {
                let grant = Grant { holder: node.clone(), session, token: *token };
                if self.grants.get(role).map(|old| old.token) == *instead_of {
                    self.grants.insert(role.clone(), grant);
                }
                true
            }
            Step::ReleaseGrant { role, .. } => self.grants.remove(role).is_some(),
            Step::Start { service, token, .. } => {
                let seen = report.instances.get(service);
                if seen.is_some_and(|seen| !matches!(seen.state, InstanceState::Prepared)) {
                    return false;
                }
                report.instances.insert(service.clone(), instance(InstanceState::Running, Health::Passing, *token));
                true
            }
            Step::Stop { service } => {
                let replica = report.instances.get(service).and_then(|seen| seen.replica.clone());
                let stopped = instance(InstanceState::Prepared, Health::Unknown, None);
                report.instances.insert(service.clone(), InstanceObservation { replica, ..stopped });
                true
            }
            Step::Bind { listener, token } => {
                let before = report.addresses.insert(listener.clone(), AddressState::Bound(*token));
                before != Some(AddressState::Bound(*token))
            }
            Step::Follow { .. } | Step::Promise { .. } | Step::Sync { .. } => false,
            Step::Unbind { listener } => {
                report.addresses.insert(listener.clone(), AddressState::Closed);
                true
            }
        }
    }

    /// Decides and acts in turn until nothing moves any more; prints the goals, not the steps.
    fn run_until_quiet(&mut self) {
        for _ in 0..20 {
            let decided = self.decide();
            let acted = (0..3).filter(|_| self.act(false)).count() > 0;
            if !decided && !acted {
                return;
            }
        }
        panic!("the world does not come to rest");
    }
}

pub(super) fn instance(
    state: InstanceState,
    health: Health,
    token: Option<backstay_model::Token>,
) -> InstanceObservation {
    InstanceObservation {
        state,
        health,
        endpoint: None,
        token,
        failures: 0,
        healthy_for: Duration::ZERO,
        pid: None,
        containment: None,
        trouble: None,
        replica: None,
    }
}

fn subject(text: &str) -> Subject {
    match text.strip_prefix("listen.") {
        Some(listener) => Subject::Address(listener.into()),
        None => Subject::Service(text.parse().unwrap()),
    }
}

fn parse_duration(text: &str) -> Duration {
    let number = |unit| text.strip_suffix(unit).and_then(|n| n.parse::<u64>().ok());
    if let Some(ms) = number("ms") {
        return Duration::from_millis(ms);
    }
    let seconds = number("s").or_else(|| number("m").map(|m| m * 60));
    Duration::from_secs(seconds.unwrap_or_else(|| panic!("no duration: {text}")))
}

fn print_goal(out: &mut String, goal: &Goal) {
    writeln!(out, "goal {}", goal.generation).unwrap();
    for (id, service) in &goal.services {
        let instances = service.instances.iter().map(|(node, i)| {
            let leaving = if i.leaving { " (leaving)" } else { "" };
            format!("{node} {}{leaving}", i.role)
        });
        let next = service.primary.as_ref().and_then(|p| p.next.as_ref()).map(|n| format!("; nobody, next {n}"));
        let list = instances.collect::<Vec<_>>().join(", ");
        writeln!(out, "  {id:<12} {list}{}", next.unwrap_or_default()).unwrap();
        if let Some(replicas) = &service.replicas {
            print_replicas(out, replicas);
        }
    }
    for (name, address) in &goal.addresses {
        let holder = match (&address.role.holder, &address.role.next) {
            (Some(holder), _) => holder.to_string(),
            (None, Some(next)) => format!("nobody, next {next}"),
            (None, None) => "nobody".to_owned(),
        };
        writeln!(out, "  {:<12} {holder}", format!("listen.{name}")).unwrap();
    }
}

fn describe(step: &Step) -> String {
    match step {
        Step::TakeGrant { role, token, instead_of: None } => format!("take the grant of {role}, token {token}"),
        Step::TakeGrant { role, token, instead_of: Some(old) } => {
            format!("take the grant of {role}, token {token}, instead of token {old}")
        }
        Step::ReleaseGrant { role, token } => format!("release the grant of {role}, token {token}"),
        Step::Start { service, role, .. } => format!("start {service} as {role}"),
        Step::Stop { service } => format!("stop {service}"),
        Step::Bind { listener, .. } => format!("bind listen.{listener}"),
        Step::Unbind { listener } => format!("unbind listen.{listener}"),
        Step::Follow { service, upstream, token, .. } => format!("follow {upstream} for {service}, token {token}"),
        Step::Promise { service, generation } => format!("promise goal {generation} for {service}"),
        Step::Sync { service, rule } => format!("let commits of {service} wait for {}", in_words(rule)),
    }
}

fn print_replicas(out: &mut String, replicas: &ReplicaGoal) {
    let ahead = match replicas.wanted == replicas.stored {
        true => String::new(),
        false => format!(", soon for {}", in_words(&replicas.wanted)),
    };
    let asks = replicas.asks.map(|goal| format!(", promises of goal {goal} asked")).unwrap_or_default();
    let (timeline, stored) = (replicas.timeline.0, in_words(&replicas.stored));
    writeln!(out, "  {:<12} timeline {timeline}, commits wait for {stored}{ahead}{asks}", "").unwrap();
}

fn in_words(rule: &SyncRule) -> String {
    let members = rule.members.iter().map(NodeName::as_str).collect::<Vec<_>>().join(" ");
    format!("{} of [{members}]", rule.k)
}
