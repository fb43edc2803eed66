//! Observe → next steps → act, on every node. The loop that makes a goal real here.
//!
//! It holds no opinion: `next_steps` says what this node owes to the goal, and each step is one arm of one match.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backstay_app::GuardHandle;
use backstay_coord::Store;
use backstay_failover::{Hold, Local, next_steps};
use backstay_model::{
    AddressState, Grant, InstanceState, Instant, ListenerName, NodeName, Observation, RoleKey, ServiceId, Step, Token,
};
use backstay_spec::{Spec, Workload};
use tokio::sync::{mpsc, watch};

use crate::clock;
use crate::cluster::Reading;
use crate::forward::{Forwarding, Wish};
use crate::grants::Grants;
use crate::instance::{Instance, InstanceConfig, Order};
use crate::report::Seen;
use crate::routes::Routing;
use crate::session::{Holding, LEASE, Taken};

/// The loop turns at least this often: deadlines and ages move by themselves.
const TURN_EVERY: Duration = Duration::from_millis(100);
/// What is no longer declared has no grace of its own any more.
const ORPHAN_GRACE: Duration = Duration::from_secs(10);
/// An address that could not be bound for this long is said to have failed; shorter is its old holder still closing it.
const BIND_WITHIN: Duration = Duration::from_secs(3);

/// Everything the cycle needs.
pub struct Cycle {
    /// This node.
    pub node: NodeName,
    /// This run of the agent.
    pub boot: String,
    /// Directory of the guards.
    pub guards: PathBuf,
    /// Directory of the programs' output.
    pub logs: PathBuf,
    /// The binary.
    pub exe: PathBuf,
    /// Hash of this node's own file.
    pub own_file_hash: String,
    /// The store.
    pub store: Arc<dyn Store>,
    /// What the store last said.
    pub reading: watch::Receiver<Arc<Reading>>,
    /// What this node holds.
    pub holding: watch::Receiver<Holding>,
    /// The coordinator's picture.
    pub picture: watch::Receiver<Seen>,
    /// What the balancer does.
    pub forwarding: watch::Receiver<Forwarding>,
    /// What the balancer should do.
    pub wish: watch::Sender<Arc<Wish>>,
    /// What this node sees.
    pub own: watch::Sender<Observation>,
    /// Roles proven alive here.
    pub proofs: watch::Sender<BTreeMap<RoleKey, Instant>>,
    /// Grants taken, for the session.
    pub taken: mpsc::Sender<Taken>,
}

/// What the cycle remembers from turn to turn.
struct Hands {
    instances: BTreeMap<ServiceId, Instance>,
    addresses: BTreeMap<ListenerName, Token>,
    grants: Grants,
    /// What an earlier agent held is held again, or can no longer be: tables may be sent.
    settled: bool,
    dirty: mpsc::Sender<()>,
}

impl Cycle {
    /// Turns for as long as the agent lives.
    pub async fn run(mut self) {
        let (dirty, mut news) = mpsc::channel(1);
        let grants = Grants::new(self.node.clone(), self.store.clone(), self.taken.clone());
        let mut hands = Hands { instances: BTreeMap::new(), addresses: BTreeMap::new(), grants, settled: false, dirty };
        let started = clock::now();
        let mut orphans_sought = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(TURN_EVERY) => {}
                Ok(()) = self.reading.changed() => {}
                Ok(()) = self.holding.changed() => {}
                Ok(()) = self.picture.changed() => {}
                Some(()) = news.recv() => {}
            }
            let reading = self.reading.borrow_and_update().clone();
            let holding = self.holding.borrow_and_update().clone();
            // Without a goal that can be read nothing is known of what should be: nothing is stopped, nothing started.
            if let Some(file) = reading.file.as_ref().filter(|_| reading.goal_revision > 0) {
                self.look_after(&mut hands, &file.spec);
                if !std::mem::replace(&mut orphans_sought, true) {
                    self.stop_orphans(&file.spec);
                }
                self.move_deadlines(&hands, &holding);
                let seen = self.observe(&hands, &reading, &holding, &file.spec, started);
                self.prove(&hands, &reading);
                self.tell(&seen);
                self.act(&mut hands, &reading, &holding, &seen);
                hands.settled = hands.settled || self.is_settled(&reading, &holding, started);
                if hands.settled {
                    self.route(&hands, &reading, &holding, &file.spec, &seen);
                }
            }
        }
    }

    /// Whether a table may be sent: what is known must be whole. Before the first picture the programs of other nodes would be
    /// missing from it; before everything granted to this node's session is held by it, too, it would close addresses that
    /// the agent before this one held and that are ours still. Until then the balancer goes on with the table it has.
    fn is_settled(&self, reading: &Reading, holding: &Holding, started: Instant) -> bool {
        let Some(session) = holding.session else { return false };
        let ours = |grant: &Grant| grant.holder == self.node && grant.session == session;
        let mut granted =
            reading.grants.iter().filter(|(role, (grant, _))| **role != RoleKey::Coordinator && ours(grant));
        let held = granted.all(|(role, _)| holding.roles.contains_key(role));
        let (now, pictured) = (clock::now(), self.picture.borrow().is_some());
        let renewed = holding.session_until > now;
        renewed && pictured && (held || now.since(started) > LEASE)
    }

    /// One task for each app of the file; a program that is no longer declared is stopped before its task ends.
    fn look_after(&self, hands: &mut Hands, spec: &Spec) {
        let Some(node) = spec.nodes.get(&self.node) else { return };
        for service in spec.services.values() {
            let Workload::App(app) = &service.workload else { continue };
            let name = service.id.to_string();
            let config = InstanceConfig {
                service: service.id.clone(),
                node: self.node.clone(),
                address: node.addr,
                app: app.clone(),
                exclusive: service.exclusive,
                dir: self.guards.join(&name),
                log: self.logs.join(format!("{name}.log")),
                exe: self.exe.clone(),
            };
            let known = hands.instances.get(&service.id);
            if known.is_some_and(|known| *known.config == config) {
                continue;
            }
            // What the file says anew holds from the next start on; a running program is left alone.
            let instance = Instance::look_after(config);
            instance.wake(hands.dirty.clone());
            hands.instances.insert(service.id.clone(), instance);
        }
        hands.instances.retain(|id, instance| {
            let over = !spec.services.contains_key(id) && instance.observe().state == InstanceState::Prepared;
            !over
        });
    }

    /// What an earlier agent left running and the file no longer declares: it is nobody's any more.
    fn stop_orphans(&self, spec: &Spec) {
        let Ok(entries) = std::fs::read_dir(&self.guards) else { return };
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let declared = name.parse::<ServiceId>().is_ok_and(|id| spec.services.contains_key(&id));
            if !declared {
                tokio::spawn(stop_orphan(name, entry.path()));
            }
        }
    }

    fn move_deadlines(&self, hands: &Hands, holding: &Holding) {
        for (id, instance) in &hands.instances {
            let until = holding.roles.get(&RoleKey::Service(id.clone())).copied();
            instance.until.send_if_modified(|known| {
                let later = until.is_some() && *known != until;
                if later {
                    *known = until;
                }
                later
            });
        }
    }

    fn observe(
        &self,
        hands: &Hands,
        reading: &Reading,
        holding: &Holding,
        spec: &Spec,
        started: Instant,
    ) -> Observation {
        let forwarding = self.forwarding.borrow();
        let instances = hands.instances.iter().map(|(id, instance)| (id.clone(), instance.observe()));
        let with_address = spec.listeners.iter().filter(|(_, listener)| listener.vip.is_some());
        // The agent before this one may have left it bound; its deadline has passed when a lease has.
        let unasked = forwarding.answered_at.is_none() && clock::now().since(started) < LEASE;
        let obeyed = forwarding.obeyed == self.wish.borrow().number;
        let holds = |name: &ListenerName| holding.roles.contains_key(&RoleKey::Address(name.clone()));
        let addresses = with_address.map(|(name, listener)| {
            let entries = || listener.entries.keys().map(|entry| format!("{name}.{entry}"));
            let bound = entries().any(|entry| forwarding.bound.contains_key(&entry));
            let failed = entries().find_map(|entry| forwarding.failed.get(&entry));
            let state = match (hands.addresses.get(name), failed) {
                (Some(_), Some((since, why))) if clock::now().since(*since) > BIND_WITHIN => {
                    AddressState::Failed(why.clone())
                }
                (Some(token), _) => AddressState::Bound(*token),
                // Told to close: it is not free before the balancer has answered to that very wish, or, if it is
                // silent, before the instant at which it closes by itself.
                (None, _) if forwarding.is_up() && (bound || !obeyed) => AddressState::Bound(Token::ZERO),
                (None, _) if !forwarding.is_up() && (holds(name) || unasked) => AddressState::Bound(Token::ZERO),
                (None, _) => AddressState::Closed,
            };
            (name.clone(), state)
        });
        Observation {
            node: self.node.clone(),
            boot: self.boot.clone(),
            serial: 0,
            generation: reading.goal.generation,
            instances: instances.collect(),
            addresses: addresses.collect(),
            balancer_up: forwarding.is_up(),
            suspects: BTreeSet::new(),
            notes: self.notes(reading, &forwarding),
        }
    }

    fn notes(&self, reading: &Reading, forwarding: &Forwarding) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(file) = reading.file.as_ref().filter(|file| file.hash != self.own_file_hash) {
            notes.push(format!(
                "the file on {} (hash {}) differs from the adopted one (hash {}); it changes nothing until `backstay config apply`",
                self.node, self.own_file_hash, file.hash
            ));
        }
        notes.extend(forwarding.trouble.clone());
        notes.extend(forwarding.failed.iter().map(|(entry, (_, why))| format!("listener {entry} is not bound: {why}")));
        notes.extend(reading.unreadable.iter().map(|key| format!("the store's key `{key}` cannot be read here")));
        notes
    }

    /// S5: what proves that a role is alive here. A role whose newest proof is too old runs out.
    fn prove(&self, hands: &Hands, reading: &Reading) {
        let now = clock::now();
        let forwarding = self.forwarding.borrow();
        self.proofs.send_modify(|proofs| {
            proofs.retain(|role, _| reading.grants.contains_key(role));
            for (role, (grant, _)) in &reading.grants {
                let proven = match role {
                    RoleKey::Service(id) => hands.instances.get(id).and_then(Instance::proven_at),
                    RoleKey::Address(_) => forwarding.answered_at,
                    RoleKey::Coordinator => Some(now),
                };
                // A grant that was just taken has had no time for a proof.
                let first = (!proofs.contains_key(role) && grant.holder == self.node).then_some(now);
                let newest = proofs.get(role).copied().max(proven).max(first);
                proofs.extend(newest.map(|at| (role.clone(), at)));
            }
        });
    }

    fn tell(&self, seen: &Observation) {
        self.own.send_if_modified(|known| {
            let changed = !same_but_for_ages(known, seen);
            known.clone_from(seen);
            changed
        });
    }

    fn act(&self, hands: &mut Hands, reading: &Reading, holding: &Holding, seen: &Observation) {
        let now = clock::now();
        let Some(session) = holding.session else { return };
        let grants = reading.grants_only();
        let running = holding.roles.iter().filter(|(_, (_, until))| *until > now);
        let runs_until = running.map(|(role, (token, _))| (role.clone(), Hold { token: *token })).collect();
        let local = Local { node: &self.node, session, grants: &grants, seen, runs_until: &runs_until };
        for step in next_steps(&reading.goal, &local) {
            match step {
                Step::TakeGrant { role, token, instead_of } => {
                    hands.grants.take(reading, session, role, token, instead_of);
                }
                Step::ReleaseGrant { role, token } => hands.grants.release(reading, role, token),
                Step::Start { service, role, token, generation, .. } => {
                    hands.order(&service, Order::Run { role, token, generation });
                }
                Step::Stop { service } => hands.order(&service, Order::Stop),
                Step::Bind { listener, token } => drop(hands.addresses.insert(listener, token)),
                Step::Unbind { listener } => drop(hands.addresses.remove(&listener)),
                // Steps of replicated databases: a file that declares one is refused before there is an agent.
                Step::Follow { .. } | Step::Promise { .. } | Step::Sync { .. } => {}
            }
        }
    }

    fn route(&self, hands: &Hands, reading: &Reading, holding: &Holding, spec: &Spec, own: &Observation) {
        let picture = self.picture.borrow().clone();
        let mut reports: BTreeMap<&NodeName, &Observation> = BTreeMap::new();
        if let Some((picture, _)) = &picture {
            let heard =
                picture.nodes.iter().filter_map(|(node, sighting)| Some((node, sighting.observation.as_ref()?)));
            reports.extend(heard);
        }
        reports.insert(&self.node, own);
        let held = hands.addresses.iter().filter_map(|(name, token)| {
            let (granted, until) = holding.roles.get(&RoleKey::Address(name.clone()))?;
            (granted == token).then_some((name.clone(), (*token, *until)))
        });
        let addresses: BTreeMap<_, _> = held.collect();
        let grants = reading.grants_only();
        let read_at = reading.read_at.unwrap_or_default();
        let routes_until = crate::session::deadline(read_at);
        let (node, goal) = (&self.node, &reading.goal);
        let routing = Routing { node, spec, goal, grants: &grants, reports, addresses: &addresses, routes_until };
        let table = Some(routing.table());
        self.wish.send_if_modified(|known| {
            let changed = known.table != table;
            if changed {
                *known = Arc::new(Wish { number: known.number + 1, table });
            }
            changed
        });
    }
}

impl Hands {
    fn order(&self, service: &ServiceId, order: Order) {
        if let Some(instance) = self.instances.get(service) {
            instance.tell(order);
        }
    }
}

fn same_but_for_ages(known: &Observation, seen: &Observation) -> bool {
    let mut aged = seen.clone();
    for (id, instance) in &mut aged.instances {
        if let Some(before) = known.instances.get(id) {
            instance.healthy_for = before.healthy_for;
        }
    }
    *known == aged
}

async fn stop_orphan(name: String, dir: PathBuf) {
    let stopped = async {
        if let Some(guard) = GuardHandle::adopt(&dir).await? {
            guard.stop(ORPHAN_GRACE).await?;
            guard.ack().await?;
            tracing::info!(service = name, "stopped: the file no longer declares it");
        }
        Ok::<_, backstay_app::AppError>(())
    };
    if let Err(error) = stopped.await {
        tracing::warn!(service = name, %error, "a program that the file no longer declares was not stopped");
    }
}
