//! One machine: its clock, its agent, and what goes on without the agent: guards, instances and the balancer.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use backstay_failover::Session;
use backstay_failover::detector::Detector;
use backstay_model::{Grant, InstanceState, NodeName, Position, Promise, RoleKey, Token};

use crate::clock::Clock;
use crate::coordinator::Coordinator;
use crate::database::Database;
use crate::disk::Disk;
use crate::store::Change;
use crate::world::Happening;

/// A machine.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) clock: Clock,
    /// How far its wall clock was stepped, in nanoseconds, beyond a large constant.
    pub(crate) wall_step: i64,
    pub(crate) up: bool,
    /// Counts boots of the machine.
    pub(crate) boot: u32,
    /// Everything on it stands still.
    pub(crate) paused: bool,
    /// Only its agent (with its voter) stands still.
    pub(crate) frozen: bool,
    /// Since when, in true time, if one of them does.
    pub(crate) still_since: u64,
    pub(crate) agent: Option<Agent>,
    /// Counts runs of the agent; what was meant for an earlier run is dropped.
    pub(crate) run: u32,
    pub(crate) disk: Disk,
    pub(crate) instances: Vec<Instance>,
    /// Instances that no slot knows of any more: only a wrong agent makes them.
    pub(crate) orphans: Vec<(usize, Instance)>,
    pub(crate) addresses: Vec<Address>,
    /// The database, where the cluster has one.
    pub(crate) database: Database,
    pub(crate) balancer_up: bool,
    /// Its reports are lost.
    pub(crate) silenced: bool,
    /// Services that cannot start here just now.
    pub(crate) cannot_start: Vec<bool>,
    /// What happens once it moves again.
    pub(crate) deferred: Vec<Happening>,
}

/// One slot for an instance of one service.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    /// Which start of it; 0: never started.
    pub(crate) id: u64,
    pub(crate) state: InstanceState,
    pub(crate) token: Option<Token>,
    /// When its guard kills it, on the clock the product goes by; none for services of which several may act.
    pub(crate) deadline: Option<u64>,
    /// When it ended by itself, newest last.
    pub(crate) failures: Vec<u64>,
    pub(crate) healthy_since: u64,
    pub(crate) retry_at: u64,
    /// Since when its check fails although it runs.
    pub(crate) hung_since: Option<u64>,
}

impl Instance {
    pub(crate) fn none() -> Self {
        Self {
            id: 0,
            state: InstanceState::Prepared,
            token: None,
            deadline: None,
            failures: Vec::new(),
            healthy_since: 0,
            retry_at: 0,
            hung_since: None,
        }
    }

    /// There is a process that could act.
    pub(crate) fn lives(&self) -> bool {
        matches!(self.state, InstanceState::Starting | InstanceState::Running | InstanceState::Stopping)
    }
}

/// One listener's address on one node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Address {
    /// Which binding of it, and under which token; none: closed.
    pub(crate) bound: Option<(u64, Token)>,
    pub(crate) valid_until: u64,
}

/// One run of an agent; gone when it dies.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) view: StoreView,
    /// Its session is known to the store.
    pub(crate) opened: bool,
    /// Roles it may act in: token, and until when on the clock the product goes by.
    pub(crate) holds: Vec<Option<(Token, u64)>>,
    /// When it last proposed something about a role, on its own clock; 0: nothing is on its way.
    pub(crate) asked_at: Vec<u64>,
    pub(crate) serial: u64,
    pub(crate) coordinator: Option<Coordinator>,
    /// A look is already on its way.
    pub(crate) wakes: bool,
    pub(crate) detector: Detector,
    pub(crate) suspects: BTreeSet<NodeName>,
    /// When its promise was last on its way to the store, on its own clock; 0: never.
    pub(crate) promised_at: u64,
}

impl Agent {
    pub(crate) fn new(roles: usize) -> Self {
        Self {
            view: StoreView::new(roles),
            opened: false,
            holds: vec![None; roles],
            asked_at: vec![0; roles],
            serial: 0,
            coordinator: None,
            wakes: false,
            detector: Detector::default(),
            suspects: BTreeSet::new(),
            promised_at: 0,
        }
    }
}

/// The store as one agent has read it so far.
#[derive(Debug)]
pub(crate) struct StoreView {
    pub(crate) position: usize,
    /// The goal in force: its place in the world's list, its revision, and when this agent learned of it.
    pub(crate) goal: Option<usize>,
    pub(crate) goal_revision: u64,
    pub(crate) goal_seen_at: u64,
    pub(crate) grants: BTreeMap<RoleKey, Grant>,
    pub(crate) grant_revisions: Vec<u64>,
    pub(crate) sessions: Rc<BTreeMap<NodeName, Session>>,
    pub(crate) promises: BTreeMap<NodeName, (Promise, u64)>,
    pub(crate) published: Option<Position>,
}

impl StoreView {
    fn new(roles: usize) -> Self {
        Self {
            position: 0,
            goal: None,
            goal_revision: 0,
            goal_seen_at: 0,
            grants: BTreeMap::new(),
            grant_revisions: vec![0; roles],
            sessions: Rc::default(),
            promises: BTreeMap::new(),
            published: None,
        }
    }

    /// Reads on up to a position; whether there was anything new.
    pub(crate) fn read(&mut self, changes: &[Change], upto: usize, roles: &[RoleKey], reading: u64) -> bool {
        let upto = upto.min(changes.len());
        let any = self.position < upto;
        while self.position < upto {
            match &changes[self.position] {
                Change::Goal { index, revision } => {
                    (self.goal, self.goal_revision, self.goal_seen_at) = (Some(*index), *revision, reading);
                }
                Change::Grant { role, revision, grant } => {
                    self.grant_revisions[*role] = if grant.is_some() { *revision } else { 0 };
                    match grant {
                        Some(grant) => self.grants.insert(roles[*role].clone(), grant.clone()),
                        None => self.grants.remove(&roles[*role]),
                    };
                }
                Change::Sessions(sessions) => self.sessions = Rc::clone(sessions),
                Change::Promise { node, revision, promise } => {
                    self.promises.insert(node.clone(), (*promise, *revision));
                }
                Change::Published(position) => self.published = Some(*position),
            }
            self.position += 1;
        }
        any
    }
}

impl Node {
    /// Its agent (and its voter, if it has one) is there and moves.
    pub(crate) fn agent_runs(&self) -> bool {
        self.up && !self.paused && !self.frozen && self.agent.is_some()
    }

    /// Its voter, if it has one, is there, moves, and can keep what it is asked to keep.
    pub(crate) fn voter_runs(&self) -> bool {
        self.agent_runs() && self.disk.serves_a_voter()
    }
}
