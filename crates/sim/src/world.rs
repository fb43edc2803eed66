//! The world: a queue of happenings in true time, the nodes they happen to, and who looks on.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use backstay_model::{Generation, Goal, ListenerName, NodeName, Reason, RoleKey, ServiceId, Subject};
use backstay_spec::Spec;

use crate::Options;
use crate::checks::Checks;
use crate::clock::{Clock, DRIFT_PPM_MAX, MS, SECOND};
use crate::database::{Database, History, Talk};
use crate::disk::Disk;
use crate::faults::{Fault, Faults};
use crate::lone::Promise;
use crate::message::Message;
use crate::mutant::Mutant;
use crate::network::{Network, Passage};
use crate::node::{Address, Agent, Instance, Node};
use crate::plan::{Extent, Plan};
use crate::rng::Rng;
use crate::store::Store;
use crate::trace::Trace;

/// Something that happens at one instant.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// A message arrives.
    Arrive { to: usize, message: Message },
    /// An agent's regular round: renew, report, act, decide.
    Round { node: usize, run: u32 },
    /// An agent has reason to look again before its next round.
    Look { node: usize, run: u32 },
    /// A guard's alarm.
    GuardAlarm { node: usize, service: usize, id: u64 },
    /// A balancer's alarm for an address.
    AddressAlarm { node: usize, listener: usize, id: u64 },
    /// An instance is through with its start.
    Started { node: usize, service: usize, id: u64 },
    /// An instance has stopped at its own pace.
    Stopped { node: usize, service: usize, id: u64, patience: u32 },
    /// The parent starts the agent again.
    AgentStarts { node: usize, boot: u32 },
    /// The machine is up again.
    NodeBoots { node: usize },
    /// The parent starts the balancer again.
    BalancerStarts { node: usize, boot: u32 },
    /// A paused machine or frozen agent moves again.
    Resumes { node: usize, whole: bool },
    /// The store's voters look around.
    StoreTick,
    /// A proposal may be due.
    Commit,
    /// A fault of the plan strikes.
    Strike(usize),
    /// All faults end.
    FaultsEnd,
    /// The network turns as bad as a cluster must bear.
    Weather,
    /// A fault ends.
    Mend(Fault),
    /// A database looks after its streams.
    DatabaseTick { node: usize, service: usize, id: u64 },
    /// A database hears from another.
    Talk { to: usize, talk: Talk },
    /// What a stream brought is on disk.
    Flushed { node: usize, from: usize, stream: u64, history: History, upto: u64 },
    /// A rewind or a copy of the data is done.
    CopyMended { node: usize, service: usize, id: u64 },
    /// A receiver has ended, as its agent asked.
    ReceiverEnded { node: usize, run: u32, generation: Generation },
    /// Failure detectors beat and look.
    Beats,
    /// Clients act and checkers look.
    Watchers,
    /// The time of a promise is up.
    Due(Promise),
}

impl Happening {
    /// The node that must move for this to happen, and whether its agent must.
    fn actor(&self) -> Option<(usize, bool)> {
        match self {
            Self::Arrive { to, .. } => Some((*to, true)),
            Self::Round { node, .. } | Self::Look { node, .. } | Self::ReceiverEnded { node, .. } => {
                Some((*node, true))
            }
            Self::Talk { to, .. } => Some((*to, false)),
            Self::GuardAlarm { node, .. }
            | Self::AddressAlarm { node, .. }
            | Self::Started { node, .. }
            | Self::Stopped { node, .. }
            | Self::AgentStarts { node, .. }
            | Self::DatabaseTick { node, .. }
            | Self::Flushed { node, .. }
            | Self::CopyMended { node, .. }
            | Self::BalancerStarts { node, .. } => Some((*node, false)),
            _ => None,
        }
    }
}

/// Largest number of happenings that a node may miss while it stands still; beyond it, messages are dropped.
const DEFERRED_MAX: usize = 4096;
/// How often clients act and checkers look.
pub(crate) const WATCH_EVERY: u64 = 100 * MS;

/// One goal that was proposed, with what its coordinator knew.
#[derive(Debug)]
pub(crate) struct Proposed {
    pub(crate) goal: Goal,
    pub(crate) reasons: Vec<Reason>,
    pub(crate) answered: Vec<Subject>,
    /// Nodes with a session that had said nothing of late.
    pub(crate) silent: BTreeSet<NodeName>,
    /// Nodes that an operator drained.
    pub(crate) drained: BTreeSet<NodeName>,
    /// Live sessions, as the store had them when it was decided.
    pub(crate) sessions: BTreeMap<NodeName, u64>,
}

/// Happenings in order of time; equals in order of planning.
#[derive(Debug)]
struct Planned {
    at: u64,
    order: u64,
    what: Happening,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) spec: Spec,
    pub(crate) names: Vec<NodeName>,
    pub(crate) services: Vec<ServiceId>,
    pub(crate) listeners: Vec<ListenerName>,
    /// The coordinator first, then exclusive services, then addresses.
    pub(crate) roles: Vec<RoleKey>,
    /// Their keys in the store.
    pub(crate) keys: Vec<String>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) store: Store,
    pub(crate) goals: Vec<Proposed>,
    /// Place of the goal in force.
    pub(crate) in_force: Option<usize>,
    pub(crate) goal_changed_at: u64,
    pub(crate) drains: BTreeSet<NodeName>,
    pub(crate) switchovers: BTreeMap<Subject, NodeName>,
    pub(crate) faults: Faults,
    pub(crate) checks: Checks,
    pub(crate) violation: Option<String>,
    pub(crate) ops_ok: u64,
    pub(crate) events: u64,
    pub(crate) hash: u64,
    pub(crate) last_id: u64,
    pub(crate) trace: Trace,
    queue: BinaryHeap<Reverse<Planned>>,
    order: u64,
}

impl World {
    /// A world that nothing has happened in yet, with the first happenings planned.
    pub(crate) fn new(seed: u64, options: &Options) -> Self {
        let mut rng = Rng::new(seed);
        let spec = crate::cluster::draw(&mut rng);
        let names: Vec<NodeName> = spec.nodes.keys().cloned().collect();
        let services: Vec<ServiceId> = spec.services.keys().cloned().collect();
        let listeners: Vec<ListenerName> = spec.listeners.keys().cloned().collect();
        let exclusive = spec.services.values().filter(|service| service.exclusive);
        let roles: Vec<RoleKey> = [RoleKey::Coordinator]
            .into_iter()
            .chain(exclusive.map(|service| RoleKey::Service(service.id.clone())))
            .chain(listeners.iter().cloned().map(RoleKey::Address))
            .collect();
        let voters = if names.len() < crate::store::VOTERS_MAX { 3 } else { 5 };
        let nodes = names.iter().map(|_| Node {
            clock: Clock::new(rng.between(0, 2 * DRIFT_PPM_MAX), rng.between(SECOND, 1000 * SECOND), 0),
            wall_step: 0,
            up: true,
            boot: 1,
            paused: false,
            frozen: false,
            still_since: 0,
            agent: None,
            run: 0,
            disk: Disk::default(),
            instances: vec![Instance::none(); services.len()],
            orphans: Vec::new(),
            database: Database::default(),
            addresses: vec![Address::default(); listeners.len()],
            balancer_up: true,
            silenced: false,
            cannot_start: vec![false; services.len()],
            deferred: Vec::new(),
        });
        let nodes: Vec<Node> = nodes.collect();
        let extent = Extent { nodes: nodes.len(), voters, services: services.len(), roles: roles.len() };
        let mut world = Self {
            now: 0,
            mutant: options.mutant,
            names,
            services,
            listeners,
            keys: roles.iter().map(RoleKey::store_key).collect(),
            checks: Checks::new(roles.len(), nodes.len()),
            roles,
            network: Network::new(nodes.len()),
            store: Store::new(voters),
            nodes,
            goals: Vec::new(),
            in_force: None,
            goal_changed_at: 0,
            drains: BTreeSet::new(),
            switchovers: BTreeMap::new(),
            faults: Faults::of(Plan::draw(seed, extent, options.without.clone())),
            spec,
            rng,
            violation: None,
            ops_ok: 0,
            events: 0,
            hash: 0xcbf2_9ce4_8422_2325 ^ seed,
            last_id: 0,
            trace: Trace::new(options.trace_lines, options.every_event),
            queue: BinaryHeap::new(),
            order: 0,
        };
        for node in 0..world.nodes.len() {
            let after = world.rng.between(0, 500 * MS);
            world.push_in(after, Happening::AgentStarts { node, boot: 1 });
        }
        world.push_in(0, Happening::StoreTick);
        world.push_in(WATCH_EVERY, Happening::Watchers);
        if world.database_service().is_some() {
            world.push_in(100 * MS, Happening::Beats);
        }
        world.plan_strikes();
        world
    }

    /// Lets the next thing happen; false when the run is over by a violation.
    pub(crate) fn step(&mut self) -> bool {
        let Some(Reverse(next)) = self.queue.pop() else { return false };
        self.now = next.at;
        self.events += 1;
        self.fold(next.at ^ next.order.rotate_left(32));
        if let Some((node, by_agent)) = next.what.actor() {
            let stands = &self.nodes[node];
            if stands.paused || (stands.frozen && by_agent) {
                if self.trace.is_whole() {
                    self.trace_happening(&next.what, true);
                }
                let deferred = &mut self.nodes[node].deferred;
                if deferred.len() < DEFERRED_MAX {
                    deferred.push(next.what);
                }
                return true;
            }
        }
        if self.trace.is_whole() {
            self.trace_happening(&next.what, false);
        }
        self.happen(next.what);
        self.violation.is_none()
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Arrive { to, message } => self.arrive(to, message),
            Happening::Round { node, run } => self.round(node, run),
            Happening::Look { node, run } => self.look(node, run),
            Happening::GuardAlarm { node, service, id } => self.guard_alarm(node, service, id),
            Happening::AddressAlarm { node, listener, id } => self.address_alarm(node, listener, id),
            Happening::Started { node, service, id } => self.started(node, service, id),
            Happening::Stopped { node, service, id, patience } => self.stopped(node, service, id, patience),
            Happening::AgentStarts { node, boot } => self.start_agent(node, boot),
            Happening::NodeBoots { node } => self.boot_node(node),
            Happening::BalancerStarts { node, boot } => self.start_balancer(node, boot),
            Happening::Resumes { node, whole } => self.resume(node, whole),
            Happening::StoreTick => self.store_tick(),
            Happening::Commit => self.commit_due(),
            Happening::Strike(index) => self.strike(index),
            Happening::FaultsEnd => self.heal(),
            Happening::Weather => self.turn_mild(),
            Happening::Mend(fault) => self.mend(fault),
            Happening::DatabaseTick { node, service, id } => self.database_tick(node, service, id),
            Happening::Talk { to, talk } => self.heard_talk(to, talk),
            Happening::Flushed { node, from, stream, history, upto } => {
                self.flushed(node, from, stream, &history, upto)
            }
            Happening::CopyMended { node, service, id } => self.copy_mended(node, service, id),
            Happening::ReceiverEnded { node, run, generation } => self.receiver_ended(node, run, generation),
            Happening::Beats => self.beats(),
            Happening::Watchers => self.watchers(),
            Happening::Due(promise) => self.due(&promise),
        }
    }

    pub(crate) fn push_in(&mut self, after: u64, what: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Planned { at: self.now + after, order: self.order, what }));
    }

    /// Sends a message; the network decides what becomes of it.
    pub(crate) fn send(&mut self, from: usize, to: usize, message: Message) {
        let may_repeat = matches!(message, Message::Propose { .. });
        if may_repeat && from != to && self.rng.chance(self.network.twice_permille) {
            self.carry(from, to, message.clone());
        }
        self.carry(from, to, message);
    }

    fn carry(&mut self, from: usize, to: usize, message: Message) {
        if let Passage::Arrives(after) = self.network.passage(from, to, &mut self.rng) {
            self.push_in(after, Happening::Arrive { to, message });
        }
    }

    /// A number that was never used before.
    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Notes a checker's verdict; the first one that is bad ends the run.
    pub(crate) fn judge(&mut self, verdict: Result<(), String>) {
        if let Err(text) = verdict
            && self.violation.is_none()
        {
            self.say(|_| format!("VIOLATION: {text}"));
            self.violation = Some(format!("at {} ms: {text}", self.now / MS));
        }
    }

    /// Mixes a number into the run's hash.
    pub(crate) fn fold(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    /// Adds a line to the trace, if there is one.
    pub(crate) fn say(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_kept() {
            let text = line(self);
            self.trace.told(self.now, &text);
        }
    }

    /// The clock that the product reads for leases: CLOCK_BOOTTIME, but for one mutant.
    pub(crate) fn product_clock(&self, node: usize) -> u64 {
        let boottime = self.nodes[node].clock.reading(self.now);
        match self.mutant {
            // Wall clocks count from long ago, so that a step back stays above zero.
            Some(Mutant::WallClock) => (boottime + 10_000 * SECOND).saturating_add_signed(self.nodes[node].wall_step),
            _ => boottime,
        }
    }

    /// A node's CLOCK_BOOTTIME.
    pub(crate) fn boottime(&self, node: usize) -> u64 {
        self.nodes[node].clock.reading(self.now)
    }

    /// The goal that an agent has read, if there is one.
    pub(crate) fn goal_seen_by(&self, node: usize) -> Option<usize> {
        self.nodes[node].agent.as_ref().and_then(|agent| agent.view.goal)
    }

    /// The node's index.
    pub(crate) fn node_named(&self, name: &NodeName) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    pub(crate) fn new_agent(&self) -> Agent {
        Agent::new(self.roles.len())
    }
}
