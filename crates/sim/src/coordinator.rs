//! The agent that decides: gathers reports into a View, runs the real `decide`, adopts its goals by one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use backstay_failover::{View, decide};
use backstay_model::memory::{Command, Compare, Op, Txn};
use backstay_model::{
    Fact, Generation, Goal, Instant, NodeName, Observation, Position, Promise, Role, RoleGoal, RoleKey, ServiceGoal,
    ServiceId, Timeline,
};

use crate::checks::promises;
use crate::clock::{MS, SECOND};
use crate::cluster::LEASE;
use crate::message::Context;
use crate::mutant::Mutant;
use crate::plan::Course;
use crate::store::{GOAL_KEY, PROMISE_PREFIX, decode_promise};
use crate::world::{Proposed, World};

/// A report older than this means nothing any more.
const FRESH: u64 = 2 * SECOND;
/// A proposal that is unanswered after this time is given up; the store is read for what became of it.
const ADOPT_WITHIN: u64 = SECOND;
/// One decision in so many is made twice, to see that it is the same.
const PURITY_EVERY: u64 = 16;
/// Hash of the file: it never changes within a run.
const SPEC_HASH: &str = "sim";

/// What only the coordinator knows.
#[derive(Debug)]
pub(crate) struct Coordinator {
    since: u64,
    /// The newest report of each node and when it came, on this node's clock.
    reports: Vec<Option<(u32, u64, Observation)>>,
    /// When the goal on its way was proposed; 0: none is.
    proposed_at: u64,
}

impl World {
    pub(crate) fn becomes_coordinator(&mut self, n: usize) {
        let since = self.boottime(n);
        let reports = self.nodes.iter().map(|_| None).collect();
        if let Some(agent) = &mut self.nodes[n].agent {
            agent.coordinator = Some(Coordinator { since, reports, proposed_at: 0 });
        }
        self.say(|w| format!("{}: decides from now on", w.names[n]));
    }

    /// A report arrives; the newest of the newest run wins.
    pub(crate) fn heard(&mut self, n: usize, from: usize, run: u32, observation: Observation) {
        let reading = self.boottime(n);
        let Some(coordinator) = self.nodes[n].agent.as_mut().and_then(|agent| agent.coordinator.as_mut()) else {
            return;
        };
        let before = &mut coordinator.reports[from];
        let stale =
            |(known_run, _, known): &(u32, u64, Observation)| (*known_run, known.serial) >= (run, observation.serial);
        if before.as_ref().is_some_and(stale) {
            return;
        }
        let news = before.as_ref().is_none_or(|(_, _, known)| !says_the_same(known, &observation));
        *before = Some((run, reading, observation));
        if news {
            self.wake_in(n, 5 * MS);
        }
    }

    /// One turn of thought, if this agent is the coordinator and its grant runs.
    pub(crate) fn decide(&mut self, n: usize) {
        let (reading, product, session) = (self.boottime(n), self.product_clock(n), self.nodes[n].disk.session);
        let Some(agent) = &mut self.nodes[n].agent else { return };
        let granted = agent.view.grants.get(&RoleKey::Coordinator).is_some_and(|grant| grant.session == session);
        let runs = agent.holds[0].is_some_and(|(_, until)| product < until);
        if !granted && agent.asked_at[0] == 0 {
            agent.coordinator = None;
        }
        let Some(mut coordinator) = agent.coordinator.take_if(|_| granted && runs) else { return };
        let waits = coordinator.proposed_at != 0 && reading < coordinator.proposed_at + ADOPT_WITHIN;
        if !waits
            && let Some(proposed) = self.think(n, &mut coordinator, reading)
            && self.propose_goal(n, proposed)
        {
            coordinator.proposed_at = reading;
        }
        if let Some(agent) = &mut self.nodes[n].agent {
            agent.coordinator = Some(coordinator);
        }
    }

    fn think(&mut self, n: usize, coordinator: &mut Coordinator, reading: u64) -> Option<Proposed> {
        let agent = self.nodes[n].agent.as_ref()?;
        let (promises, published) = (self.promises_read_by(n), self.published_read_by(n));
        let mut sessions = (*agent.view.sessions).clone();
        let mut observations = BTreeMap::new();
        let mut silent = BTreeSet::new();
        let mut kept = Vec::with_capacity(coordinator.reports.len());
        for (name, report) in self.names.iter().zip(&mut coordinator.reports) {
            let fresh = report.as_ref().filter(|(_, at, _)| reading.saturating_sub(*at) <= FRESH).map(|r| (r.0, r.1));
            if fresh.is_none() && sessions.contains_key(name) {
                silent.insert(name.clone());
            }
            kept.push(fresh);
            let fact = match (fresh, report.take()) {
                (Some((_, at)), Some((_, _, value))) => {
                    Fact::Known { value, age: Duration::from_nanos(reading.saturating_sub(at)) }
                }
                _ => Fact::Unknown,
            };
            observations.insert(name.clone(), fact);
        }
        if self.mutant == Some(Mutant::UnknownIsDead) {
            sessions.retain(|name, _| !silent.contains(name));
        }
        let nothing = Goal::default();
        let since = coordinator.since;
        let settled = silent.is_empty() || reading.saturating_sub(since) > LEASE.as_nanos() as u64;
        let view = View {
            spec: &self.spec,
            spec_hash: SPEC_HASH,
            incarnation: 0,
            goal: agent.view.goal.map_or(&nothing, |goal| &self.goals[goal].goal),
            goal_age: Duration::from_nanos(reading.saturating_sub(agent.view.goal_seen_at)),
            sessions,
            grants: agent.view.grants.clone(),
            promises,
            published,
            observations,
            drains: self.drains.clone(),
            switchovers: self.switchovers.clone(),
            settled,
        };
        let decision = decide(&view, Instant(reading));
        let pure = !reading.is_multiple_of(PURITY_EVERY) || decision == decide(&view, Instant(reading));
        let mut observations = view.observations.into_values();
        for (report, fresh) in coordinator.reports.iter_mut().zip(kept) {
            if let (Some((run, at)), Some(Fact::Known { value, .. })) = (fresh, observations.next()) {
                *report = Some((run, at, value));
            }
        }
        if decision.goal.is_none() {
            decision.answered.iter().for_each(|subject| drop(self.switchovers.remove(subject)));
        }
        let memory = &self.store.memory;
        let alive = memory.sessions().filter(|(_, session)| !session.superseded);
        let sessions = alive.map(|(id, session)| (NodeName(session.node.clone()), id)).collect();
        let (reasons, answered) = (decision.reasons, decision.answered);
        let drained = self.drains.clone();
        self.judge(if pure { Ok(()) } else { Err("decide gave two answers to one view".to_owned()) });
        decision.goal.map(|goal| Proposed { goal, reasons, answered, silent, drained, sessions })
    }

    fn promises_read_by(&self, n: usize) -> BTreeMap<(ServiceId, NodeName), Promise> {
        let (Some(service), Some(agent)) = (self.database_service(), &self.nodes[n].agent) else {
            return BTreeMap::new();
        };
        let id = &self.services[service];
        let promises = agent.view.promises.iter();
        promises.map(|(node, (promise, _))| ((id.clone(), node.clone()), self.misread(*promise))).collect()
    }

    /// A promise as a wrong coordinator reads it.
    fn misread(&self, mut promise: Promise) -> Promise {
        match self.mutant {
            Some(Mutant::OldPromiseCounts) => promise.generation = Generation(u64::MAX),
            Some(Mutant::TimelineIgnored) => promise.position.timeline = Timeline(0),
            Some(Mutant::PositionsIgnored) => promise.position = Position::default(),
            _ => {}
        }
        promise
    }

    fn published_read_by(&self, n: usize) -> BTreeMap<ServiceId, Position> {
        let (Some(service), Some(agent)) = (self.database_service(), &self.nodes[n].agent) else {
            return BTreeMap::new();
        };
        agent.view.published.iter().map(|position| (self.services[service].clone(), *position)).collect()
    }

    /// A goal that says promises cover its holder: the store must really have them.
    fn check_cover(&self, parent: &Goal, goal: &Goal) -> Result<(), String> {
        let Some(service) = self.database_service() else { return Ok(()) };
        let id = &self.services[service];
        let (Some(before), Some(after)) = (parent.services.get(id), goal.services.get(id)) else { return Ok(()) };
        let holder = |service: &ServiceGoal| service.primary.as_ref().and_then(|primary| primary.holder.clone());
        let covered = after.replicas.as_ref().is_some_and(|replicas| replicas.covered);
        match (holder(after), &before.replicas) {
            (Some(named), Some(asked)) if covered && holder(before).as_ref() != Some(&named) => {
                let written = self.names.iter().filter_map(|name| {
                    let entry = self.store.memory.entry(&format!("{PROMISE_PREFIX}{name}"))?;
                    Some((name.clone(), decode_promise(&entry.value)?))
                });
                promises::cover(asked, &named, &written.collect())
            }
            _ => Ok(()),
        }
    }

    /// What a wrong coordinator does to the goals of databases.
    fn spoil_databases(&self, goal: &mut Goal) {
        for service in goal.services.values_mut() {
            let holder = service.primary.as_ref().and_then(|primary| primary.holder.clone());
            let Some(replicas) = &mut service.replicas else { continue };
            match self.mutant {
                Some(Mutant::StoreForgetsFirst) => replicas.stored = replicas.wanted.clone(),
                Some(Mutant::LastPrimaryForgotten) if replicas.covered => {
                    if let Some(last) = replicas.last.take() {
                        replicas.stored.members.remove(&last);
                        replicas.wanted = replicas.stored.clone();
                    }
                }
                Some(Mutant::CoverWithoutPromises) => replicas.covered = holder.is_some() && replicas.stored.k == 0,
                _ => {}
            }
        }
    }

    /// One transaction that compares everything the goal relied on.
    fn propose_goal(&mut self, n: usize, mut proposed: Proposed) -> bool {
        let Some(agent) = &self.nodes[n].agent else { return false };
        let view = &agent.view;
        let nothing = Goal::default();
        let parent = view.goal.map_or(&nothing, |goal| &self.goals[goal].goal);
        let mut then = Vec::new();
        self.spoil_databases(&mut proposed.goal);
        if self.mutant == Some(Mutant::MoveInOneGoal) {
            then.extend(
                moves_at_once(parent, &mut proposed.goal).iter().map(|role| Op::Delete { key: role.store_key() }),
            );
        }
        let mut compares = vec![
            Compare::Revision { key: GOAL_KEY.to_owned(), revision: view.goal_revision },
            Compare::Revision { key: self.keys[0].clone(), revision: view.grant_revisions[0] },
        ];
        for (role, before, after) in exclusive_roles(parent, &proposed.goal) {
            let (Some(holder), true) = (&after.holder, before.and_then(|b| b.holder.as_ref()) != after.holder.as_ref())
            else {
                continue;
            };
            let index = self.roles.iter().position(|known| *known == role);
            if let (Some(index), true) = (index, then.is_empty()) {
                let revision = view.grant_revisions[index];
                compares.push(Compare::Revision { key: self.keys[index].clone(), revision });
            }
            if let Some(session) = view.sessions.get(holder) {
                compares.push(Compare::SessionAlive { session: session.id });
            }
        }
        if self.mutant == Some(Mutant::GoalWithoutCompare) {
            compares.clear();
        }
        let value = (self.goals.len() as u64).to_le_bytes().to_vec();
        self.goals.push(proposed);
        then.push(Op::Put { key: GOAL_KEY.to_owned(), value, session: None });
        let txn = Txn { compares, then, otherwise: Vec::new() };
        self.ask_store(n, Context::Adopt, Command::Txn(txn));
        true
    }

    pub(crate) fn adoption_answered(&mut self, n: usize) {
        if let Some(coordinator) = self.nodes[n].agent.as_mut().and_then(|agent| agent.coordinator.as_mut()) {
            coordinator.proposed_at = 0;
        }
        self.wake_in(n, 5 * MS);
    }

    /// A goal is in force from now on; the checkers look at it.
    pub(crate) fn goal_adopted(&mut self, index: usize) {
        let nothing = Goal::default();
        let Some(proposed) = self.goals.get(index) else { return };
        let parent = self.in_force.map_or(&nothing, |parent| &self.goals[parent].goal);
        let sound = self.checks.order.adopted(&self.spec, parent, proposed);
        let heeds = self.checks.silence.adopted(self.now, parent, proposed, &self.store.memory);
        let moves = exclusive_roles(parent, &proposed.goal)
            .filter(|(_, before, after)| {
                let before = before.and_then(|role| role.holder.as_ref());
                after.holder.is_some() && before != after.holder.as_ref()
            })
            .count() as u64;
        self.checks.changes.moved(moves);
        let calm =
            if self.faults.course == Course::Mild { self.checks.changes.calm(&proposed.reasons) } else { Ok(()) };
        let covered = self.check_cover(parent, &proposed.goal);
        let degraded = proposed.goal.services.values().filter_map(|service| service.replicas.as_ref());
        if degraded.into_iter().any(|replicas| replicas.stored.k == 0) {
            self.checks.durability.degrades();
        }
        for subject in &proposed.answered {
            self.switchovers.remove(subject);
        }
        self.in_force = Some(index);
        self.goal_changed_at = self.now;
        self.fold(index as u64);
        self.judge(sound);
        self.judge(covered);
        self.judge(heeds);
        self.judge(calm);
        self.say(|w| {
            let Proposed { goal, reasons, .. } = &w.goals[index];
            let changes = reasons.iter().filter(|reason| reason.is_change());
            let changes = changes.map(ToString::to_string).collect::<Vec<_>>().join("; ");
            format!("goal {}: {}   [{changes}]", goal.generation, in_short(goal))
        });
    }
}

/// A goal in one line, for the trace: `app.web n1 active, n2 spare`.
fn in_short(goal: &Goal) -> String {
    let services = goal.services.iter().map(|(id, service)| {
        let instances = service.instances.iter().map(|(node, instance)| {
            let (runs, leaving) =
                (if instance.runs { "" } else { "-" }, if instance.leaving { " leaving" } else { "" });
            format!("{node} {runs}{}{leaving}", instance.role)
        });
        let chosen = service.chosen.iter().map(|node| format!(" (chosen {node})")).collect::<String>();
        let next = service.primary.iter().filter_map(|primary| primary.next.as_ref());
        let next = next.map(|node| format!(" (next {node})")).collect::<String>();
        format!("{id} {}{chosen}{next}", instances.collect::<Vec<_>>().join(", "))
    });
    let addresses = goal.addresses.iter().map(|(name, address)| {
        let name_of = |node: &Option<NodeName>| node.as_ref().map_or("-", NodeName::as_str).to_owned();
        format!("{name} {} (next {})", name_of(&address.role.holder), name_of(&address.role.next))
    });
    services.chain(addresses).collect::<Vec<_>>().join("; ")
}

/// Whether two reports of one node would lead to the same decision; times that went on do not count.
fn says_the_same(one: &Observation, other: &Observation) -> bool {
    let instance = |(_, seen): (_, &backstay_model::InstanceObservation)| {
        let copy = seen.replica.as_ref();
        let copy = copy.map(|copy| (copy.whole, copy.streams, copy.rule.clone(), copy.rule_covers, copy.open));
        (seen.state, seen.health, seen.token, seen.failures, copy)
    };
    one.balancer_up == other.balancer_up
        && one.suspects == other.suspects
        && one.addresses == other.addresses
        && one.instances.len() == other.instances.len()
        && one.instances.iter().map(instance).eq(other.instances.iter().map(instance))
}

/// Every exclusive role of a goal, with what the goal before said of it.
pub(crate) fn exclusive_roles<'a>(
    parent: &'a Goal,
    goal: &'a Goal,
) -> impl Iterator<Item = (RoleKey, Option<&'a RoleGoal>, &'a RoleGoal)> {
    let services = goal.services.iter().filter_map(|(id, service)| {
        let before = parent.services.get(id).and_then(|service| service.primary.as_ref());
        Some((RoleKey::Service(id.clone()), before, service.primary.as_ref()?))
    });
    let addresses = goal.addresses.iter().map(|(name, address)| {
        let before = parent.addresses.get(name).map(|address| &address.role);
        (RoleKey::Address(name.clone()), before, &address.role)
    });
    services.chain(addresses)
}

/// What a wrong coordinator does: both halves of a planned move in one goal. The roles whose grants it deletes.
fn moves_at_once(parent: &Goal, goal: &mut Goal) -> Vec<RoleKey> {
    let asked: Vec<_> = exclusive_roles(parent, goal)
        .filter(|(_, before, after)| before.is_some_and(|b| b.holder.is_some()) && after.holder.is_none())
        .filter_map(|(role, _, after)| Some((role, after.next.clone()?)))
        .collect();
    for (role, next) in &asked {
        let named = RoleGoal::held_by(next.clone());
        match role {
            RoleKey::Coordinator => {}
            RoleKey::Service(id) => {
                let Some(service) = goal.services.get_mut(id) else { continue };
                service.primary = Some(named);
                if let Some(instance) = service.instances.get_mut(next) {
                    (instance.role, instance.runs) = (Role::Primary, true);
                }
            }
            RoleKey::Address(name) => {
                if let Some(address) = goal.addresses.get_mut(name) {
                    address.role = named;
                }
            }
        }
    }
    asked.into_iter().map(|(role, _)| role).collect()
}
