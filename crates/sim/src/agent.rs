//! The modelled agent: keeps its session, reads the store, reports, and takes the steps that the real `next_steps` derives.

use std::collections::BTreeMap;
use std::time::Duration;

use backstay_failover::{Hold, Local, next_steps};
use backstay_model::memory::{Answer, Command, Compare, Op, Renewal, Renewed, Txn};
use backstay_model::{
    AddressState, Generation, Health, InstanceObservation, InstanceState, Observation, Promise, RoleKey, Step, Token,
    lease,
};

use crate::clock::{MS, SECOND};
use crate::cluster::LEASE;
use crate::disk::DiskState;
use crate::message::{Context, Message, Sent};
use crate::mutant::Mutant;
use crate::network::Passage;
use crate::node::{Instance, StoreView};
use crate::store::{POSITION_KEY, PROMISE_PREFIX, encode_grant, encode_position, encode_promise};
use crate::world::{Happening, World};

/// How often an agent renews, reports and looks (DESIGN §6).
pub(crate) const ROUND: u64 = 500 * MS;
/// A proposal that is unanswered after this time is asked again; what it did is unknown until the store is read.
const ANSWER_WITHIN: u64 = SECOND;
/// Looks asked for within this time are one look.
pub(crate) const SOON: u64 = 10 * MS;
/// A failing instance loses its role after this time (S5, `proof_within`).
const PROOF_WITHIN: u64 = 10 * SECOND;
/// Failures older than this do not count (`InstanceObservation::failures`).
const FAILURE_WINDOW: u64 = 60 * SECOND;

impl World {
    /// An agent starts: it reads its disk, adopts the guards it finds, and knows nothing of the store yet.
    pub(crate) fn start_agent(&mut self, n: usize, boot: u32) {
        let agent = self.new_agent();
        let node = &mut self.nodes[n];
        if !node.up || node.boot != boot || node.agent.is_some() {
            return;
        }
        node.agent = Some(agent);
        node.run += 1;
        let run = node.run;
        let restarted = run > 1 && node.disk.session_boot == boot;
        match self.mutant {
            Some(Mutant::RestartForgets) if restarted => {
                for service in 0..node.instances.len() {
                    let forgotten = std::mem::replace(&mut node.instances[service], Instance::none());
                    if forgotten.lives() {
                        node.orphans.push((service, forgotten));
                    }
                }
            }
            Some(Mutant::SessionForgotten) if restarted => {
                node.disk.session = 0;
                let guarded = node.instances.iter_mut().filter(|instance| instance.deadline.is_some());
                guarded.for_each(|instance| instance.deadline = Some(u64::MAX));
            }
            _ => {}
        }
        // A session of an earlier boot is not resumed: the clock that numbered its renewals has started anew.
        if node.disk.session == 0 || node.disk.session_boot != boot {
            let session = self.rng.next() | 1;
            let node = &mut self.nodes[n];
            (node.disk.session, node.disk.session_boot) = (session, boot);
            self.sync(n);
        } else if let Some(agent) = &mut node.agent {
            agent.opened = true;
        }
        self.store.forget_stamps_of(n);
        self.read_own_copy(n);
        self.say(|w| format!("{}: agent starts, run {run}", w.names[n]));
        self.round(n, run);
    }

    /// A restarted voter's copy of the store lags behind what is agreed: its agent may first see an older goal.
    fn read_own_copy(&mut self, n: usize) {
        if n >= self.store.voters || self.store.is_learner(n) || self.rng.chance(500) {
            return;
        }
        let lag = self.rng.index(6);
        let (upto, reading) = (self.store.changes.len().saturating_sub(lag), self.boottime(n));
        if let Some(agent) = &mut self.nodes[n].agent {
            agent.view.read(&self.store.changes, upto, &self.roles, reading);
        }
    }

    /// The regular round.
    pub(crate) fn round(&mut self, n: usize, run: u32) {
        if self.nodes[n].agent.is_none() || self.nodes[n].run != run {
            return;
        }
        self.push_in(ROUND, Happening::Round { node: n, run });
        self.renew(n);
        self.publish_position(n);
        self.claim_coordination(n);
        self.act(n);
        self.report(n);
        self.decide(n);
    }

    /// A look between rounds: something has changed.
    pub(crate) fn look(&mut self, n: usize, run: u32) {
        let node = &mut self.nodes[n];
        let Some(agent) = node.agent.as_mut().filter(|_| node.run == run) else { return };
        agent.wakes = false;
        self.claim_coordination(n);
        self.act(n);
        self.report(n);
        self.decide(n);
    }

    /// Makes an agent look again soon; once, however often it is asked.
    pub(crate) fn wake_in(&mut self, n: usize, after: u64) {
        let node = &mut self.nodes[n];
        let run = node.run;
        let Some(agent) = &mut node.agent else { return };
        // Soon is one look for all who ask; a later one is a look of its own.
        if after > SOON || !std::mem::replace(&mut agent.wakes, true) {
            self.push_in(after, Happening::Look { node: n, run });
        }
    }

    fn sent(&self, n: usize) -> Sent {
        Sent { boottime: self.boottime(n), product: self.product_clock(n) }
    }

    pub(crate) fn ask_store(&mut self, n: usize, context: Context, command: Command) {
        if let Some(leader) = self.store.leader {
            let run = self.nodes[n].run;
            self.send(n, leader, Message::Propose { from: n, run, context, command });
        }
    }

    fn renew(&mut self, n: usize) {
        let session = self.nodes[n].disk.session;
        let ttl_ms = LEASE.as_millis() as u64;
        let Some(agent) = &self.nodes[n].agent else { return };
        if !agent.opened {
            let boot = format!("{}.{}", self.nodes[n].boot, self.nodes[n].run);
            let node = self.names[n].0.clone();
            return self.ask_store(n, Context::Open { session }, Command::OpenSession { session, node, ttl_ms, boot });
        }
        let keys = (0..self.roles.len()).filter(|role| self.vouches(n, *role)).map(|role| self.keys[role].clone());
        let keys = keys.collect();
        let sent = self.sent(n);
        let renewal = Renewal { session, seq: sent.boottime, ttl_ms, keys };
        self.ask_store(n, Context::Renew { session, sent }, Command::Renew(vec![renewal]));
    }

    /// A role that this node holds and has recent proof of life for (S5).
    fn vouches(&self, n: usize, role: usize) -> bool {
        let node = &self.nodes[n];
        let Some(agent) = &node.agent else { return false };
        let grant = agent.view.grants.get(&self.roles[role]);
        let ours = grant.is_some_and(|grant| grant.session == node.disk.session) || agent.holds[role].is_some();
        let lives = match &self.roles[role] {
            RoleKey::Coordinator => self.store.leader == Some(n),
            RoleKey::Service(id) => {
                let service = self.services.iter().position(|known| known == id);
                let hung = service.and_then(|service| node.instances[service].hung_since);
                let proven = hung.is_none_or(|since| self.boottime(n).saturating_sub(since) < PROOF_WITHIN);
                proven || self.mutant == Some(Mutant::VouchesBlindly)
            }
            RoleKey::Address(_) => node.balancer_up,
        };
        ours && lives
    }

    /// The store's leader decides: its agent takes the grant from whoever had it.
    fn claim_coordination(&mut self, n: usize) {
        let leads = self.store.leader == Some(n) && self.now >= self.store.established_at;
        let (session, reading) = (self.nodes[n].disk.session, self.boottime(n));
        let sent = self.sent(n);
        let Some(agent) = &mut self.nodes[n].agent else { return };
        if leads {
            // Its own first entry is applied, so its copy of the store is whole.
            agent.view.read(&self.store.changes, usize::MAX, &self.roles, reading);
        }
        let held = agent.view.grants.get(&RoleKey::Coordinator);
        let asked = agent.asked_at[0] != 0 && reading < agent.asked_at[0] + ANSWER_WITHIN;
        // A grant that an earlier run of this agent took is taken anew: what it knew died with it.
        let knows = agent.coordinator.is_some() || self.mutant == Some(Mutant::RestartedIdle);
        let decides = knows && held.is_some_and(|grant| grant.session == session);
        if !leads || !agent.opened || asked || decides {
            return;
        }
        agent.asked_at[0] = reading;
        let token = agent.view.goal.map_or(Generation::ZERO, |goal| self.goals[goal].goal.generation);
        let token = held.map_or(token, |grant| grant.token.max(token));
        let revision = agent.view.grant_revisions[0];
        let key = self.keys[0].clone();
        let txn = Txn {
            compares: vec![Compare::Revision { key: key.clone(), revision }, Compare::SessionAlive { session }],
            then: vec![Op::Put { key, value: encode_grant(n, session, token), session: Some(session) }],
            otherwise: Vec::new(),
        };
        self.ask_store(n, Context::Claim { session, token, sent }, Command::Txn(txn));
    }

    /// A message arrives at a node that moves.
    pub(crate) fn arrive(&mut self, n: usize, message: Message) {
        if self.nodes[n].agent.is_none() {
            return;
        }
        match message {
            Message::Propose { from, run, context, command } => self.propose(n, command, Some((from, run, context))),
            Message::Reply { run, context, answer } if run == self.nodes[n].run => self.answered(n, &context, &answer),
            Message::Reply { .. } => {}
            Message::Watch { upto } => {
                let reading = self.boottime(n);
                let Some(agent) = &mut self.nodes[n].agent else { return };
                if agent.view.read(&self.store.changes, upto, &self.roles, reading) {
                    self.wake_in(n, MS);
                }
            }
            Message::Report { from, run, observation } => self.heard(n, from, run, *observation),
        }
    }

    /// The leader answers whoever asked.
    pub(crate) fn answer(&mut self, leader: usize, to: usize, run: u32, context: Context, answer: Answer) {
        self.send(leader, to, Message::Reply { run, context, answer });
    }

    /// The leader tells a reader that there is something new.
    pub(crate) fn tell_reader(&mut self, leader: usize, n: usize) {
        let upto = self.store.changes.len();
        if let Passage::Arrives(after) = self.network.passage(leader, n, &mut self.rng) {
            self.push_in(after, Happening::Arrive { to: n, message: Message::Watch { upto } });
        }
    }

    /// The leader reminds readers that lag behind, as its heartbeats do.
    pub(crate) fn remind_readers(&mut self, leader: usize) {
        let end = self.store.changes.len();
        for n in 0..self.nodes.len() {
            if self.nodes[n].agent.as_ref().is_some_and(|agent| agent.view.position < end) {
                self.tell_reader(leader, n);
            }
        }
    }

    fn answered(&mut self, n: usize, context: &Context, answer: &Answer) {
        match (context, answer) {
            (Context::Open { session }, Answer::Opened { .. }) => {
                let node = &mut self.nodes[n];
                if let Some(agent) = node.agent.as_mut().filter(|_| node.disk.session == *session) {
                    agent.opened = true;
                    self.wake_in(n, MS);
                }
            }
            (Context::Open { session } | Context::Renew { session, .. }, _) if self.is_gone(n, *session, answer) => {
                let session = self.rng.next() | 1;
                self.say(|w| format!("{}: its session ended; opens another", w.names[n]));
                let node = &mut self.nodes[n];
                node.disk.session = session;
                if let Some(agent) = &mut node.agent {
                    agent.opened = false;
                    agent.holds.fill(None);
                }
                self.sync(n);
                self.renew(n);
                self.wake_in(n, MS);
            }
            (Context::Renew { session, sent }, Answer::Renewed(renewed)) => {
                if let Some(Renewed::Alive { keys }) = renewed.first() {
                    let roles: Vec<usize> = keys.iter().filter_map(|key| self.role_of_key(key)).collect();
                    roles.into_iter().for_each(|role| self.extend(n, role, *session, None, *sent));
                }
            }
            (Context::Take { role, session, token, sent }, Answer::Txn { succeeded: true }) => {
                self.asked(n, *role, 0);
                self.extend(n, *role, *session, Some(*token), *sent);
                self.wake_in(n, MS);
            }
            (Context::Claim { session, token, sent }, Answer::Txn { succeeded: true }) => {
                self.asked(n, 0, 0);
                self.extend(n, 0, *session, Some(*token), *sent);
                self.becomes_coordinator(n);
                self.wake_in(n, MS);
            }
            (Context::Take { role, .. } | Context::Release { role }, _) => self.asked(n, *role, 0),
            (Context::Claim { .. }, _) => self.asked(n, 0, 0),
            (Context::Adopt, _) => self.adoption_answered(n),
            (Context::Promise, _) => {
                if let Some(agent) = &mut self.nodes[n].agent {
                    agent.promised_at = 0;
                }
                self.wake_in(n, MS);
            }
            _ => {}
        }
    }

    fn is_gone(&self, n: usize, session: u64, answer: &Answer) -> bool {
        let gone = match answer {
            Answer::Renewed(renewed) => renewed.first() == Some(&Renewed::Gone),
            Answer::Refused(_) => true,
            _ => false,
        };
        gone && self.nodes[n].disk.session == session
    }

    fn asked(&mut self, n: usize, role: usize, at: u64) {
        if let Some(agent) = &mut self.nodes[n].agent {
            agent.asked_at[role] = at;
        }
    }

    /// The store has acknowledged a role: it runs on, counted from when this node *sent* what was acknowledged (S3).
    fn extend(&mut self, n: usize, role: usize, session: u64, token: Option<Token>, sent: Sent) {
        if session != self.nodes[n].disk.session {
            return;
        }
        self.checks.leases.acknowledged(n, role, session, sent.boottime, LEASE);
        let reading = self.product_clock(n);
        let from = if self.mutant == Some(Mutant::LeaseFromReply) { reading } else { sent.product };
        let deadline = lease::holder_deadline_ns(from, LEASE);
        let counts_late = self.mutant == Some(Mutant::LateAnswerCounts);
        let deadline = if counts_late && deadline <= reading { reading + SECOND } else { deadline };
        let Some(agent) = &mut self.nodes[n].agent else { return };
        let granted = agent.view.grants.get(&self.roles[role]).filter(|grant| grant.session == session);
        let held = agent.holds[role].map(|(token, _)| token);
        let Some(token) = token.or(granted.map(|grant| grant.token)).or(held) else { return };
        if deadline <= reading {
            return;
        }
        let until = agent.holds[role].filter(|(held, _)| *held == token).map_or(0, |(_, until)| until);
        agent.holds[role] = Some((token, until.max(deadline)));
        self.pass_on_deadline(n, role, token, deadline);
    }

    /// What this node sees of itself.
    fn observe(&mut self, n: usize) -> Observation {
        let reading = self.boottime(n);
        let goal = self.goal_seen_by(n);
        let mut instances = BTreeMap::new();
        for (service, id) in self.services.iter().enumerate() {
            let instance = &mut self.nodes[n].instances[service];
            instance.failures.retain(|at| reading.saturating_sub(*at) < FAILURE_WINDOW);
            let (state, calm) = (instance.state, instance.failures.is_empty());
            let database = self.database_service() == Some(service);
            if state == InstanceState::Prepared && calm && !database {
                continue;
            }
            let instance = &self.nodes[n].instances[service];
            let running = instance.state == InstanceState::Running;
            let health = match () {
                _ if !running => Health::Unknown,
                _ if instance.hung_since.is_some() => Health::Failing,
                _ => Health::Passing,
            };
            let passes = health == Health::Passing;
            let healthy = if passes { reading.saturating_sub(instance.healthy_since) } else { 0 };
            let replica = database.then(|| self.observe_database(n, health));
            let seen = InstanceObservation {
                state: instance.state,
                health,
                endpoint: None,
                token: instance.token.filter(|_| instance.lives()),
                failures: instance.failures.len() as u32,
                healthy_for: Duration::from_nanos(healthy),
                pid: None,
                containment: None,
                trouble: None,
                replica,
            };
            instances.insert(id.clone(), seen);
        }
        let addresses = self.listeners.iter().zip(&self.nodes[n].addresses).map(|(name, address)| {
            let state = address.bound.map_or(AddressState::Closed, |(_, token)| AddressState::Bound(token));
            (name.clone(), state)
        });
        let addresses = addresses.collect();
        let node = &mut self.nodes[n];
        let serial = node.agent.as_mut().map_or(0, |agent| {
            agent.serial += 1;
            agent.serial
        });
        Observation {
            node: self.names[n].clone(),
            boot: format!("{}.{}", node.boot, node.run),
            serial,
            generation: goal.map_or(Generation::ZERO, |goal| self.goals[goal].goal.generation),
            instances,
            addresses,
            balancer_up: node.balancer_up,
            suspects: node.agent.as_ref().map(|agent| agent.suspects.clone()).unwrap_or_default(),
            notes: Vec::new(),
        }
    }

    fn report(&mut self, n: usize) {
        let Some(agent) = &self.nodes[n].agent else { return };
        let Some(to) = agent.view.grants.get(&RoleKey::Coordinator).map(|grant| grant.holder.clone()) else { return };
        let Some(to) = self.node_named(&to) else { return };
        if self.nodes[n].silenced && to != n {
            return;
        }
        let (observation, run) = (Box::new(self.observe(n)), self.nodes[n].run);
        self.send(n, to, Message::Report { from: n, run, observation });
    }

    /// Takes the steps that this node owes to the goal.
    pub(crate) fn act(&mut self, n: usize) {
        let reading = self.product_clock(n);
        let Some(agent) = &mut self.nodes[n].agent else { return };
        for hold in &mut agent.holds {
            *hold = hold.filter(|(_, until)| reading < *until);
        }
        let (Some(index), true) = (agent.view.goal, agent.opened) else { return };
        let generation = self.goals[index].goal.generation;
        // A reader that lags behind may show an older goal than this node has obeyed already.
        if generation < self.nodes[n].disk.obeyed && self.mutant != Some(Mutant::OldGoalObeyed) {
            return;
        }
        let disk = &mut self.nodes[n].disk;
        // What cannot be kept is not obeyed.
        if generation > disk.obeyed && disk.state == DiskState::Hung {
            return;
        }
        disk.obeyed = generation;
        self.sync(n);
        let seen = self.observe(n);
        let Some(agent) = &self.nodes[n].agent else { return };
        let steps = next_steps(
            &self.goals[index].goal,
            &Local {
                node: &self.names[n],
                session: self.nodes[n].disk.session,
                grants: &agent.view.grants,
                seen: &seen,
                runs_until: &self.holds_of(n, &agent.view, &agent.holds),
            },
        );
        let verdict = self.checks.order.obeys(n, self.nodes[n].boot, generation);
        self.judge(verdict);
        for step in steps {
            self.take(n, &step);
        }
    }

    fn holds_of(&self, n: usize, view: &StoreView, holds: &[Option<(Token, u64)>]) -> BTreeMap<RoleKey, Hold> {
        if self.mutant == Some(Mutant::OldGrantObeyed) {
            let named = view.grants.iter().filter(|(_, grant)| grant.holder == self.names[n]);
            return named.map(|(role, grant)| (role.clone(), Hold { token: grant.token })).collect();
        }
        let running = self.roles.iter().zip(holds);
        running.filter_map(|(role, hold)| hold.map(|(token, _)| (role.clone(), Hold { token }))).collect()
    }

    fn take(&mut self, n: usize, step: &Step) {
        match step {
            Step::TakeGrant { role, token, instead_of } => self.take_grant(n, role, *token, *instead_of),
            Step::ReleaseGrant { role, .. } => self.release_grant(n, role),
            Step::Start { service, token, reign, .. } => match self.service_index(service) {
                Some(number) if self.is_database(number) => self.start_database(n, number, *token, reign.as_ref()),
                _ => self.start_instance(n, service, *token),
            },
            Step::Stop { service } => {
                self.stop_instance(n, service);
                if self.mutant == Some(Mutant::ReleasedTooSoon) {
                    self.release_grant(n, &RoleKey::Service(service.clone()));
                }
            }
            Step::Bind { listener, token } => self.bind(n, listener, *token),
            Step::Unbind { listener } => self.unbind(n, listener),
            Step::Follow { upstream, token, generation, .. } => self.follow(n, upstream, *token, *generation),
            Step::Promise { generation, .. } => self.promise(n, *generation),
            Step::Sync { rule, .. } => self.sync_database(n, rule),
        }
    }

    /// Whether something about this role is on its way; if not, it is now.
    fn asks_now(&mut self, n: usize, role: &RoleKey) -> Option<usize> {
        let reading = self.boottime(n);
        let index = self.roles.iter().position(|known| known == role)?;
        let asked_at = &mut self.nodes[n].agent.as_mut()?.asked_at[index];
        if *asked_at != 0 && reading < *asked_at + ANSWER_WITHIN {
            return None;
        }
        *asked_at = reading;
        Some(index)
    }

    fn take_grant(&mut self, n: usize, role: &RoleKey, token: Token, instead_of: Option<Token>) {
        let Some(index) = self.asks_now(n, role) else { return };
        let Some(agent) = &self.nodes[n].agent else { return };
        let (session, sent, key) = (self.nodes[n].disk.session, self.sent(n), self.keys[index].clone());
        let goal = Compare::Revision { key: crate::store::GOAL_KEY.to_owned(), revision: agent.view.goal_revision };
        let mut compares = vec![goal, Compare::SessionAlive { session }];
        if self.mutant != Some(Mutant::GrantTakenBlindly) {
            let replaced = agent.view.grants.get(role).filter(|grant| Some(grant.token) == instead_of);
            let revision = replaced.map_or(0, |_| agent.view.grant_revisions[index]);
            compares.push(Compare::Revision { key: key.clone(), revision });
        }
        let put = Op::Put { key, value: encode_grant(n, session, token), session: Some(session) };
        let txn = Txn { compares, then: vec![put], otherwise: Vec::new() };
        self.ask_store(n, Context::Take { role: index, session, token, sent }, Command::Txn(txn));
    }

    /// Writes a promise into the store, unless it is there or on its way. A later promise of this node is never overwritten.
    pub(crate) fn put_promise(&mut self, n: usize, promise: Promise) {
        let reading = self.boottime(n);
        let key = format!("{PROMISE_PREFIX}{}", self.names[n]);
        let name = self.names[n].clone();
        let Some(agent) = &mut self.nodes[n].agent else { return };
        let written = agent.view.promises.get(&name);
        let on_its_way = agent.promised_at != 0 && reading < agent.promised_at + ANSWER_WITHIN;
        if written.is_some_and(|(written, _)| *written == promise) || on_its_way {
            return;
        }
        agent.promised_at = reading;
        let revision = written.map_or(0, |(_, revision)| *revision);
        let compares = vec![Compare::Revision { key: key.clone(), revision }];
        let put = Op::Put { key, value: encode_promise(promise), session: None };
        self.ask_store(n, Context::Promise, Command::Txn(Txn { compares, then: vec![put], otherwise: Vec::new() }));
    }

    /// Where commits wait for nobody, the primary says in the store how far it is: what a takeover would lose is judged by it.
    fn publish_position(&mut self, n: usize) {
        let Some(role) = self.database_service().and_then(|service| self.role_of_service(service)) else { return };
        let Some(position) = self.nodes[n].database.asynchronous_at() else { return };
        let Some(agent) = &self.nodes[n].agent else { return };
        let compares =
            vec![Compare::Revision { key: self.keys[role].clone(), revision: agent.view.grant_revisions[role] }];
        let put = Op::Put { key: POSITION_KEY.to_owned(), value: encode_position(position), session: None };
        self.ask_store(n, Context::Publish, Command::Txn(Txn { compares, then: vec![put], otherwise: Vec::new() }));
    }

    fn release_grant(&mut self, n: usize, role: &RoleKey) {
        let session = self.nodes[n].disk.session;
        let ours = |grant: &backstay_model::Grant| grant.session == session;
        let view = self.nodes[n].agent.as_ref().map(|agent| &agent.view);
        if !view.and_then(|view| view.grants.get(role)).is_some_and(ours) {
            return;
        }
        let Some(index) = self.asks_now(n, role) else { return };
        let Some(agent) = &mut self.nodes[n].agent else { return };
        agent.holds[index] = None;
        let (key, revision) = (self.keys[index].clone(), agent.view.grant_revisions[index]);
        let txn = Txn {
            compares: vec![Compare::Revision { key: key.clone(), revision }],
            then: vec![Op::Delete { key }],
            otherwise: Vec::new(),
        };
        self.ask_store(n, Context::Release { role: index }, Command::Txn(txn));
    }
}
