//! The agent that holds the grant `coordinator`: it gathers reports, runs `decide` and has its goals adopted.
//!
//! Embedded store: the leader takes the grant once its own first entry is applied, over whoever held it. That is safe
//! because every goal is one transaction that compares the coordinator's grant, the goal it follows and what it relied on:
//! of two that believe they coordinate, at most one gets a goal adopted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use backstay_coord::{Store, StoreError};
use backstay_failover::{Decision, View, decide};
use backstay_model::memory::{Compare, Op, Txn};
use backstay_model::picture::{Picture, Sighting};
use backstay_model::{Fact, Goal, Grant, Instant, NodeName, Observation, Reason, RoleKey, ServiceGoal};
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock;
use crate::cluster::{self, EventValue, FILE_KEY, FileValue, GOAL_KEY, Reading, encode};
use crate::outages::Outages;
use crate::session::{Holding, LEASE};

/// A report older than this says nothing any more.
const REPORT_FRESH: Duration = Duration::from_secs(2);
/// A decision is made at least this often: what ages, ages.
const THINK_EVERY: Duration = Duration::from_millis(500);
/// Reports that arrive within this time of each other are thought about together.
const GATHER: Duration = Duration::from_millis(5);
/// Events kept in the store.
const EVENTS_KEPT: usize = 200;
/// Old events deleted with one goal; a transaction has a bound.
const EVENTS_DROPPED_AT_ONCE: usize = 16;
/// Longest wait for a transaction; past it the outcome is unknown and is read.
const TXN_TIMEOUT: Duration = Duration::from_secs(2);

/// A report that came in, and where its answer goes.
pub struct Report {
    /// What was seen.
    pub observation: Observation,
    /// When it came in: it may have waited since.
    pub arrived: Instant,
    /// The picture, or who coordinates instead.
    pub answer: oneshot::Sender<Result<Picture, Option<NodeName>>>,
}

/// Everything the coordinating task needs; it runs on every node and does nothing where it is not its turn.
pub struct Coordinator {
    /// This node.
    pub node: NodeName,
    /// The store.
    pub store: Arc<dyn Store>,
    /// What the store last said.
    pub reading: watch::Receiver<Arc<Reading>>,
    /// Our session.
    pub holding: watch::Receiver<Holding>,
    /// Whether our voter leads, and is established.
    pub leads: watch::Receiver<bool>,
    /// Reports of all nodes.
    pub reports: mpsc::Receiver<Report>,
    /// This node's file, adopted when the store has none.
    pub own_file: FileValue,
}

/// What a coordinator knows while it is one.
struct Term {
    since: Instant,
    heard: BTreeMap<NodeName, (Observation, Instant)>,
    reasons: Vec<Reason>,
    wake_at: Option<Instant>,
    outages: Outages,
    grant_revision: u64,
}

impl Coordinator {
    /// Runs for as long as the agent lives.
    pub async fn run(mut self) {
        let mut term: Option<Term> = None;
        loop {
            let wake = term.as_ref().and_then(|term| term.wake_at).map_or(THINK_EVERY, |at| at.since(clock::now()));
            tokio::select! {
                () = tokio::time::sleep(wake.min(THINK_EVERY)) => {}
                Ok(()) = self.reading.changed() => {}
                Ok(()) = self.leads.changed() => {}
                Some(report) = self.reports.recv() => {
                    self.take_in(&mut term, report);
                    tokio::time::sleep(GATHER).await;
                    while let Ok(report) = self.reports.try_recv() {
                        self.take_in(&mut term, report);
                    }
                }
            }
            let reading = self.reading.borrow_and_update().clone();
            self.keep_term(&mut term, &reading).await;
            if let Some(term) = &mut term {
                self.think(term, &reading).await;
            }
        }
    }

    /// Takes the grant when our voter leads; ends the term when it does not, or when another took the grant.
    async fn keep_term(&self, term: &mut Option<Term>, reading: &Reading) {
        let session = self.holding.borrow().session;
        // Unread, the store would seem empty, and the grant would be taken under a token of the past.
        let may_claim = *self.leads.borrow() && reading.read_at.is_some();
        let (true, Some(session)) = (may_claim, session) else {
            *term = None;
            return;
        };
        let held = reading.grants.get(&RoleKey::Coordinator);
        match held {
            Some((grant, revision)) if grant.holder == self.node && grant.session == session => {
                let begun = term.as_ref().is_some_and(|term| term.grant_revision == *revision);
                if !begun {
                    let since = clock::now();
                    *term = Some(Term {
                        since,
                        heard: BTreeMap::new(),
                        reasons: Vec::new(),
                        wake_at: None,
                        outages: Outages::default(),
                        grant_revision: *revision,
                    });
                    tracing::info!(token = %grant.token, "this node coordinates");
                }
            }
            other => {
                *term = None;
                let revision = other.map_or(0, |(_, revision)| *revision);
                let last = other.map_or(reading.goal.generation, |(grant, _)| grant.token.max(reading.goal.generation));
                let token = last.next(last.incarnation());
                let grant = Grant { holder: self.node.clone(), session, token };
                let key = RoleKey::Coordinator.store_key();
                let compares =
                    vec![Compare::Revision { key: key.clone(), revision }, Compare::SessionAlive { session }];
                let put = Op::Put { key, value: encode(&grant), session: Some(session) };
                self.submit("take the coordinator's grant", compares, vec![put]).await;
            }
        }
    }

    fn take_in(&self, term: &mut Option<Term>, report: Report) {
        let Some(term) = term else {
            let reading = self.reading.borrow();
            let holder = reading.grants.get(&RoleKey::Coordinator).map(|(grant, _)| grant.holder.clone());
            drop(report.answer.send(Err(holder.filter(|holder| *holder != self.node))));
            return;
        };
        let observation = report.observation;
        let older = term
            .heard
            .get(&observation.node)
            .is_some_and(|(known, _)| known.boot == observation.boot && known.serial >= observation.serial);
        if !older {
            term.heard.insert(observation.node.clone(), (observation, report.arrived));
        }
        drop(report.answer.send(Ok(self.picture(term))));
    }

    fn picture(&self, term: &Term) -> Picture {
        let reading = self.reading.borrow();
        let now = clock::now();
        let names = reading.file.iter().flat_map(|file| file.spec.nodes.keys()).cloned();
        let nodes = names.map(|name| {
            let heard = term.heard.get(&name);
            let sighting = Sighting {
                session: reading.sessions.contains_key(&name),
                age: heard.map_or(now.since(term.since), |(_, at)| now.since(*at)),
                observation: heard.map(|(observation, _)| observation.clone()),
            };
            (name, sighting)
        });
        let (coordinator, generation) = (self.node.clone(), reading.goal.generation);
        Picture { coordinator, generation, nodes: nodes.collect(), reasons: term.reasons.clone() }
    }

    /// One decision, adopted if it asks for something else than the goal in force.
    async fn think(&self, term: &mut Term, reading: &Reading) {
        let Some(file) = &reading.file else { return self.adopt_own_file().await };
        let now = clock::now();
        let view = self.view(term, reading, &file.spec, &file.hash, now);
        let mut decision = decide(&view, now);
        term.wake_at = decision.wake_at;
        term.reasons.clone_from(&decision.reasons);
        let over = term.outages.over(&term.heard);
        decision.reasons.extend(over.iter().cloned());
        let anything = decision.goal.is_some() || !decision.answered.is_empty() || !over.is_empty();
        if anything && self.adopt(term, reading, &decision).await {
            term.outages.recorded(&over);
            term.outages.begin(&reading.goal, &decision.reasons, &term.heard);
        }
    }

    fn view<'a>(
        &self,
        term: &Term,
        reading: &'a Reading,
        spec: &'a backstay_spec::Spec,
        spec_hash: &'a str,
        now: Instant,
    ) -> View<'a> {
        let fact = |name: &NodeName| match term.heard.get(name) {
            Some((value, at)) if now.since(*at) < REPORT_FRESH => {
                Fact::Known { value: value.clone(), age: now.since(*at) }
            }
            _ => Fact::Unknown,
        };
        let all_heard = reading.sessions.keys().all(|name| term.heard.contains_key(name));
        let everybody = spec.nodes.keys().all(|name| term.heard.contains_key(name));
        let waited = now.since(term.since) >= LEASE;
        let first = reading.goal.services.is_empty() && reading.goal.addresses.is_empty();
        View {
            spec,
            spec_hash,
            incarnation: reading.goal.generation.incarnation(),
            goal: &reading.goal,
            goal_age: now.since(reading.goal_read_at),
            sessions: reading.sessions.clone(),
            grants: reading.grants_only(),
            promises: BTreeMap::new(),
            published: BTreeMap::new(),
            observations: spec.nodes.keys().map(|name| (name.clone(), fact(name))).collect(),
            drains: reading.drains.clone(),
            switchovers: reading.switchovers.iter().map(|(s, (node, _))| (s.clone(), node.clone())).collect(),
            settled: waited || if first { everybody } else { all_heard },
        }
    }

    /// One transaction: the goal, the event that explains it, the requests it answers. Refused at apply if anything it
    /// relied on has changed since; then the next turn thinks again.
    async fn adopt(&self, term: &Term, reading: &Reading, decision: &Decision) -> bool {
        let mut compares = vec![
            Compare::Revision { key: GOAL_KEY.to_owned(), revision: reading.goal_revision },
            Compare::Revision { key: RoleKey::Coordinator.store_key(), revision: term.grant_revision },
            Compare::Revision { key: FILE_KEY.to_owned(), revision: reading.file.as_ref().map_or(0, |f| f.revision) },
        ];
        let mut ops = Vec::new();
        let goal = decision.goal.as_ref();
        if let Some(goal) = goal {
            compares.extend(relied_on(reading, goal));
            ops.push(Op::Put { key: GOAL_KEY.to_owned(), value: encode(goal), session: None });
        }
        for subject in &decision.answered {
            let Some((_, revision)) = reading.switchovers.get(subject) else { continue };
            let key = cluster::switchover_key(subject);
            compares.push(Compare::Revision { key: key.clone(), revision: *revision });
            ops.push(Op::Delete { key });
        }
        ops.extend(self.record(reading, goal, &decision.reasons));
        let generation = goal.map_or(reading.goal.generation, |goal| goal.generation);
        let adopted = self.submit("adopt a goal", compares, ops).await;
        if adopted {
            for reason in decision.reasons.iter().filter(|reason| reason.is_change()) {
                tracing::info!(%generation, "{reason}");
            }
        }
        adopted
    }

    fn record(&self, reading: &Reading, goal: Option<&Goal>, reasons: &[Reason]) -> Vec<Op> {
        let reasons: Vec<_> = reasons.iter().filter(|reason| reason.is_change()).cloned().collect();
        if reasons.is_empty() {
            return Vec::new();
        }
        let serial = reading.events.keys().next_back().map_or(1, |last| last + 1);
        let generation = goal.map_or(reading.goal.generation, |goal| goal.generation);
        let event = EventValue { generation, unix_ms: clock::wall().as_millis() as u64, reasons };
        let put = Op::Put { key: cluster::event_key(serial), value: encode(&event), session: None };
        let beyond = (reading.events.len() + 1).saturating_sub(EVENTS_KEPT).min(EVENTS_DROPPED_AT_ONCE);
        let old = reading.events.keys().take(beyond).map(|serial| Op::Delete { key: cluster::event_key(*serial) });
        old.chain([put]).collect()
    }

    /// S14: the file bootstraps; the first coordinator has its own adopted.
    async fn adopt_own_file(&self) {
        let compares = vec![Compare::Revision { key: FILE_KEY.to_owned(), revision: 0 }];
        let put = Op::Put { key: FILE_KEY.to_owned(), value: encode(&self.own_file), session: None };
        if self.submit("adopt the file", compares, vec![put]).await {
            tracing::info!(hash = self.own_file.hash, "this node's file is adopted");
        }
    }

    async fn submit(&self, what: &str, compares: Vec<Compare>, then: Vec<Op>) -> bool {
        let txn = Txn { compares, then, otherwise: Vec::new() };
        match tokio::time::timeout(TXN_TIMEOUT, self.store.txn(txn)).await {
            Ok(Ok(reply)) => {
                if reply.succeeded {
                    // What was just written must be read before the next thought, or it would be thought again.
                    self.read_up_to(reply.revision).await;
                }
                reply.succeeded
            }
            Ok(Err(StoreError::Unknown { detail })) => {
                tracing::warn!(what, detail, "outcome unknown; it is read, not repeated");
                false
            }
            Ok(Err(error)) => {
                tracing::debug!(what, %error, "not done");
                false
            }
            Err(_) => {
                tracing::warn!(what, "no answer in time; the outcome is read, not repeated");
                false
            }
        }
    }

    async fn read_up_to(&self, revision: u64) {
        let mut reading = self.reading.clone();
        let caught_up = reading.wait_for(|reading| reading.revision >= revision);
        drop(tokio::time::timeout(TXN_TIMEOUT, caught_up).await);
    }
}

/// What a goal rests on: a role that gets a new holder must be free, and the holder's session alive, at the moment the goal
/// is adopted.
fn relied_on(reading: &Reading, after: &Goal) -> Vec<Compare> {
    let before = &reading.goal;
    let services = after.services.iter().map(|(id, service)| {
        let holder = |service: &ServiceGoal| service.primary.as_ref()?.holder.clone();
        let was = before.services.get(id).and_then(holder);
        (RoleKey::Service(id.clone()), was, holder(service))
    });
    let addresses = after.addresses.iter().map(|(name, address)| {
        let was = before.addresses.get(name).and_then(|address| address.role.holder.clone());
        (RoleKey::Address(name.clone()), was, address.role.holder.clone())
    });
    let named = services.chain(addresses).filter(|(_, was, is)| is.is_some() && is != was);
    let mut sessions = BTreeSet::new();
    let mut compares = Vec::new();
    for (role, _, holder) in named {
        compares.push(Compare::Revision { key: role.store_key(), revision: 0 });
        sessions.extend(holder.and_then(|holder| reading.sessions.get(&holder)).map(|session| session.id));
    }
    compares.extend(sessions.into_iter().map(|session| Compare::SessionAlive { session }));
    compares
}
