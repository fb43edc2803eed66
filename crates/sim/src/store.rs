//! A model of the replicated store around the real state machine: one leader at a time, majorities, lost answers, and one
//! set of deadlines per voter, each on that voter's own clock.
//!
//! Consensus itself is not run here: one agreed order stands for what it guarantees. What is modelled is what its users
//! feel: elections take time, a leader without a majority commits nothing, proposals in flight are lost or applied without
//! an answer when it falls, and readers lag behind.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use backstay_failover::Session;
use backstay_model::memory::{Answer, Command, Event, EventKind, Expiry, Memory, Outcome};
use backstay_model::{Generation, Grant, Lsn, NodeName, Position, Promise, RoleKey, Timeline, Token, lease};

use crate::clock::MS;
use crate::message::Context;
use crate::mutant::Mutant;
use crate::world::{Happening, World};

/// Key of the goal in force; its value is the goal's place in the world's list.
pub(crate) const GOAL_KEY: &str = "goal";
/// Most voters of a run.
pub(crate) const VOTERS_MAX: usize = 5;
/// How often the leader looks at its deadlines, and voters at their leader.
pub(crate) const STORE_TICK: u64 = 100 * MS;
/// Time from the loss of a leader to the next one's election.
const ELECTION: (u64, u64) = (450 * MS, 600 * MS);
/// A voter without a store gets it from the leader, and is made a voter by two steps of the membership.
const LEARNING_TAKES: u64 = 1500 * MS;
/// Time from a proposal to its application, when disks are quick.
pub(crate) const COMMIT_QUIET: u64 = 6 * MS;
/// Proposals that wait for their turn; further ones are dropped, as a full queue drops them.
const QUEUE_MAX: usize = 1024;

/// A proposal that the leader has put into its log.
#[derive(Debug)]
struct Pending {
    apply_at: u64,
    command: Command,
    client: Option<(usize, u32, Context)>,
}

/// When each voter applied a grant or renewal, on its own clock.
#[derive(Clone, Debug)]
struct StampRow {
    renew_seq: u64,
    ttl: Duration,
    /// 0: not applied there yet; it stamps when it catches up.
    at: [u64; VOTERS_MAX],
    proposed: bool,
}

/// One change that readers are told of.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Another goal is in force.
    Goal { index: usize, revision: u64 },
    /// A role was granted, or is free.
    Grant { role: usize, revision: u64, grant: Option<Grant> },
    /// A member of a synchronous set has promised.
    Promise { node: NodeName, revision: u64, promise: Promise },
    /// An asynchronous primary has said where it is.
    Published(Position),
    /// Sessions opened or ended.
    Sessions(Rc<BTreeMap<NodeName, Session>>),
}

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) memory: Memory,
    pub(crate) voters: usize,
    pub(crate) leader: Option<usize>,
    /// From when on the leader's own first entry is applied.
    pub(crate) established_at: u64,
    /// Every change so far, in order; a reader is a position in it.
    pub(crate) changes: Vec<Change>,
    /// Longest time from proposal to application just now.
    pub(crate) commit_max: u64,
    /// Leaders elected so far.
    pub(crate) terms: u64,
    revision: u64,
    leaderless_since: Option<u64>,
    election_takes: u64,
    queue: VecDeque<Pending>,
    last_apply_at: u64,
    stamps: BTreeMap<(u64, Option<String>), StampRow>,
    /// Voters that lost their store have a new identity, which votes once it has learned for so long (0: not yet begun).
    learns_until: [Option<u64>; VOTERS_MAX],
}

impl Store {
    pub(crate) fn new(voters: usize) -> Self {
        Self {
            memory: Memory::new(),
            voters,
            leader: None,
            established_at: 0,
            changes: Vec::new(),
            commit_max: COMMIT_QUIET,
            terms: 0,
            revision: 0,
            leaderless_since: None,
            election_takes: 0,
            queue: VecDeque::new(),
            last_apply_at: 0,
            stamps: BTreeMap::new(),
            learns_until: [None; VOTERS_MAX],
        }
    }

    /// Whether a majority of the voters has its store even without this one's.
    pub(crate) fn may_lose(&self, voter: usize) -> bool {
        let whole = (0..self.voters).filter(|other| *other != voter && !self.is_learner(*other)).count();
        whole * 2 > self.voters
    }

    /// A voter lost its store: its old identity never votes again, its new one must learn first (S12).
    pub(crate) fn loses_voter(&mut self, voter: usize) {
        if voter < self.voters {
            self.learns_until[voter] = Some(0);
        }
    }

    /// Whether this voter has no copy of the store of its own yet.
    pub(crate) fn is_learner(&self, voter: usize) -> bool {
        self.learns_until.get(voter).is_some_and(Option::is_some)
    }

    /// A voter that restarts has forgotten when it applied what; it stamps anew.
    pub(crate) fn forget_stamps_of(&mut self, voter: usize) {
        if voter < self.voters {
            self.stamps.values_mut().for_each(|row| row.at[voter] = 0);
        }
    }
}

/// Where promises are, by node. A cluster of the simulator has one database at most.
pub(crate) const PROMISE_PREFIX: &str = "promise/";
/// Where an asynchronous primary says where it is.
pub(crate) const POSITION_KEY: &str = "position";

/// The value of a promise's key.
pub(crate) fn encode_promise(promise: Promise) -> Vec<u8> {
    [&promise.generation.0.to_le_bytes()[..], &encode_position(promise.position)].concat()
}

/// A position, as the store has it.
pub(crate) fn encode_position(position: Position) -> Vec<u8> {
    [&position.timeline.0.to_le_bytes()[..], &position.lsn.0.to_le_bytes()].concat()
}

fn decode_position(value: &[u8]) -> Option<Position> {
    let timeline = u32::from_le_bytes(value.get(..4)?.try_into().ok()?);
    let lsn = u64::from_le_bytes(value.get(4..12)?.try_into().ok()?);
    Some(Position { timeline: Timeline(timeline), lsn: Lsn(lsn) })
}

/// The promise that a value stands for.
pub(crate) fn decode_promise(value: &[u8]) -> Option<Promise> {
    let generation = u64::from_le_bytes(value.get(..8)?.try_into().ok()?);
    Some(Promise { generation: Generation(generation), position: decode_position(value.get(8..)?)? })
}

/// The value of a grant's key.
pub(crate) fn encode_grant(holder: usize, session: u64, token: Token) -> Vec<u8> {
    [&[holder as u8][..], &session.to_le_bytes(), &token.0.to_le_bytes()].concat()
}

/// The grant that a value stands for.
pub(crate) fn decode_grant(value: &[u8], names: &[NodeName]) -> Option<Grant> {
    let session = u64::from_le_bytes(value.get(1..9)?.try_into().ok()?);
    let token = u64::from_le_bytes(value.get(9..17)?.try_into().ok()?);
    let holder = names.get(usize::from(*value.first()?))?.clone();
    Some(Grant { holder, session, token: Generation(token) })
}

impl World {
    /// Whether this voter could lead: alive, and joined with a majority of voters that are.
    fn has_quorum(&self, voter: usize) -> bool {
        let alive = |n: usize| self.nodes[n].voter_runs() && self.store.learns_until[n].is_none();
        let heard = (0..self.store.voters).filter(|other| alive(*other) && self.network.joined(voter, *other)).count();
        alive(voter) && heard * 2 > self.store.voters
    }

    /// Learners that hear the leader learn, and vote after that.
    fn learn(&mut self, leader: usize) {
        for voter in 0..self.store.voters {
            let hears = self.nodes[voter].voter_runs() && self.network.joined(leader, voter);
            match self.store.learns_until[voter] {
                Some(0) if hears => self.store.learns_until[voter] = Some(self.now + LEARNING_TAKES),
                Some(until) if until != 0 && self.now >= until && hears => {
                    self.store.learns_until[voter] = None;
                    self.say(|w| format!("store: {} votes under a new identity", w.names[voter]));
                }
                _ => {}
            }
        }
    }

    /// One look of the voters at their leader, and of the leader at its deadlines.
    pub(crate) fn store_tick(&mut self) {
        self.push_in(STORE_TICK, Happening::StoreTick);
        match self.store.leader {
            Some(leader) if self.has_quorum(leader) => {
                self.store.leaderless_since = None;
                if self.now >= self.store.established_at {
                    self.learn(leader);
                    self.propose_expiries(leader);
                    self.remind_readers(leader);
                }
            }
            _ => self.elect_in_time(),
        }
    }

    fn elect_in_time(&mut self) {
        let Some(since) = self.store.leaderless_since else {
            self.store.leaderless_since = Some(self.now);
            self.store.election_takes = self.rng.between(ELECTION.0, ELECTION.1);
            return;
        };
        if self.now - since < self.store.election_takes {
            return;
        }
        let able: Vec<usize> = (0..self.store.voters).filter(|voter| self.has_quorum(*voter)).collect();
        if able.is_empty() {
            return;
        }
        let leader = able[self.rng.index(able.len())];
        // What the old leader had in flight: a prefix may have reached a majority, the rest is gone. Nobody is answered.
        let kept = self.rng.index(self.store.queue.len() + 1);
        let old: Vec<Pending> = self.store.queue.drain(..).take(kept).collect();
        self.store.leader = Some(leader);
        self.store.terms += 1;
        self.store.leaderless_since = None;
        let first_entry = self.rng.between(2 * MS, 30 * MS);
        self.store.established_at = self.now + first_entry;
        self.store.stamps.values_mut().for_each(|row| row.proposed = false);
        self.say(|w| format!("store: {} leads", w.names[leader]));
        for pending in old {
            self.apply(pending.command, None);
        }
        self.wake_in(leader, first_entry + MS);
    }

    /// A proposal reaches the leader and takes its place in the log.
    pub(crate) fn propose(&mut self, at: usize, command: Command, client: Option<(usize, u32, Context)>) {
        let leads = self.store.leader == Some(at) && self.now >= self.store.established_at;
        if !leads || self.store.queue.len() >= QUEUE_MAX {
            return;
        }
        let takes = self.rng.between(MS, self.store.commit_max) + self.majority_syncs_in();
        let apply_at = (self.now + takes).max(self.store.last_apply_at);
        self.store.last_apply_at = apply_at;
        self.store.queue.push_back(Pending { apply_at, command, client });
        self.push_in(apply_at - self.now, Happening::Commit);
    }

    /// Applies what is due, in order, while the leader has its majority.
    pub(crate) fn commit_due(&mut self) {
        while self.store.queue.front().is_some_and(|next| next.apply_at <= self.now) {
            let leader = self.store.leader;
            if !leader.is_some_and(|leader| self.has_quorum(leader)) {
                self.push_in(20 * MS, Happening::Commit);
                return;
            }
            if let Some(next) = self.store.queue.pop_front() {
                self.apply(next.command, next.client);
            }
        }
    }

    fn apply(&mut self, mut command: Command, client: Option<(usize, u32, Context)>) {
        if self.mutant == Some(Mutant::ExpireBlindly)
            && let Command::Expire(expiries) = &mut command
        {
            let stamps = self.store.memory.stamps();
            for one in expiries {
                let current = stamps.iter().find(|stamp| stamp.session == one.session && stamp.key == one.key);
                one.renew_seq = current.map_or(one.renew_seq, |stamp| stamp.renew_seq);
            }
        }
        self.store.revision += 1;
        let ended = self.grants_that_end(&command);
        let before = self.grants_before(&command);
        let outcome = self.store.memory.apply(self.store.revision, &command);
        self.stamp(&outcome);
        self.check_ended(&ended);
        self.publish(&command, &outcome, &before);
        if let (Some((to, run, context)), Some(leader)) = (client, self.store.leader) {
            self.answer(leader, to, run, context, outcome.answer);
        }
    }

    /// Roles whose grants an expiry would end, with the session that holds them.
    fn grants_that_end(&self, command: &Command) -> Vec<(usize, u64)> {
        let Command::Expire(expiries) = command else { return Vec::new() };
        let memory = &self.store.memory;
        let current = expiries.iter().filter(|one| memory.is_current(one));
        let keys = current.flat_map(|one| match (&one.key, memory.session(one.session)) {
            (Some(key), _) => vec![(key.clone(), one.session)],
            (None, Some(session)) => session.keys.iter().map(|key| (key.clone(), one.session)).collect(),
            (None, None) => Vec::new(),
        });
        keys.filter_map(|(key, session)| Some((self.role_of_key(&key)?, session))).collect()
    }

    /// The grants in force before a transaction, for whoever checks what it does to them.
    fn grants_before(&self, command: &Command) -> Vec<Option<Grant>> {
        match command {
            Command::Txn(_) => (0..self.keys.len()).map(|role| self.grant_in_store(role)).collect(),
            _ => Vec::new(),
        }
    }

    /// The grant of a role as the store has it, which no node can know for sure.
    pub(crate) fn grant_in_store(&self, role: usize) -> Option<Grant> {
        let entry = self.store.memory.entry(&self.keys[role])?;
        decode_grant(&entry.value, &self.names)
    }

    pub(crate) fn role_of_key(&self, key: &str) -> Option<usize> {
        self.keys.iter().position(|known| known == key)
    }

    fn check_ended(&mut self, ended: &[(usize, u64)]) {
        for (role, session) in ended {
            let still = self.grant_in_store(*role).is_some_and(|grant| grant.session == *session);
            if still {
                continue;
            }
            let holder = self.checks.leases.node_of(*session);
            let Some(holder) = holder.filter(|holder| !self.checks.leases.is_late(self.now, *holder)) else { continue };
            let reading = self.nodes[holder].clock.reading(self.now);
            let verdict = self.checks.leases.store_ends(*role, *session, reading, &self.keys[*role]);
            self.judge(verdict);
        }
    }

    /// Every voter notes when it applied a grant or renewal: the leader now, those it reaches a little later.
    fn stamp(&mut self, outcome: &Outcome) {
        for stamp in &outcome.stamps {
            let mut at = [0; VOTERS_MAX];
            for (voter, at) in at.iter_mut().enumerate().take(self.store.voters) {
                let follows = self.store.leader.is_some_and(|leader| self.network.joined(leader, voter));
                if self.store.leader == Some(voter) {
                    *at = self.nodes[voter].clock.reading(self.now);
                } else if follows && self.nodes[voter].agent_runs() {
                    let lag = self.rng.between(MS / 10, 60 * MS);
                    *at = self.nodes[voter].clock.reading(self.now + lag);
                }
            }
            let ttl = Duration::from_millis(stamp.ttl_ms);
            let row = StampRow { renew_seq: stamp.renew_seq, ttl, at, proposed: false };
            self.store.stamps.insert((stamp.session, stamp.key.clone()), row);
        }
    }

    /// The leader proposes to end what has run out on its own clock.
    fn propose_expiries(&mut self, leader: usize) {
        let reading = self.nodes[leader].clock.reading(self.now);
        let early = self.mutant == Some(Mutant::StoreExpiresEarly);
        let (mut due, mut gone, mut verdict) = (Vec::new(), Vec::new(), Ok(()));
        for ((session, key), row) in &mut self.store.stamps {
            let at = &mut row.at[leader];
            if *at == 0 {
                *at = reading;
            }
            let full = lease::store_deadline_ns(*at, row.ttl);
            let deadline = if early { *at + row.ttl.as_nanos() as u64 } else { full };
            if reading < deadline || row.proposed {
                continue;
            }
            let expiry = Expiry { session: *session, renew_seq: row.renew_seq, key: key.clone() };
            if !self.store.memory.is_current(&expiry) {
                gone.push((*session, key.clone()));
                continue;
            }
            row.proposed = true;
            verdict = verdict.and(crate::checks::leases::store_waits(reading, *at, row.ttl));
            due.push(expiry);
        }
        for key in gone {
            self.store.stamps.remove(&key);
        }
        self.judge(verdict);
        if !due.is_empty() {
            self.propose(leader, Command::Expire(due), None);
        }
    }

    /// Turns what a command did into changes that readers will see, and shows it to the checkers.
    fn publish(&mut self, command: &Command, outcome: &Outcome, before: &[Option<Grant>]) {
        let changes_before = self.store.changes.len();
        for event in &outcome.events {
            self.publish_event(event, before);
        }
        let sessions_changed = match (&outcome.answer, command) {
            (Answer::Opened { session }, Command::OpenSession { node, .. }) => {
                self.checks.silence.opened(*session, self.now);
                let node = self.names.iter().position(|name| name.as_str() == node);
                node.into_iter().for_each(|node| self.checks.leases.belongs(*session, node));
                true
            }
            (Answer::Closed { existed }, _) => *existed,
            (Answer::Expired { ended }, _) => *ended > 0,
            _ => false,
        };
        if sessions_changed {
            let alive = self.store.memory.sessions().filter(|(_, session)| !session.superseded);
            let sessions = alive.map(|(id, s)| (NodeName(s.node.clone()), Session { id, boot: s.boot.clone() }));
            self.store.changes.push(Change::Sessions(Rc::new(sessions.collect())));
        }
        if self.store.changes.len() > changes_before
            && let Some(leader) = self.store.leader
        {
            (0..self.nodes.len()).for_each(|node| self.tell_reader(leader, node));
        }
    }

    /// The goal in force says that promises cover a takeover of this role: another's grant may be replaced.
    fn is_covered(&self, role: usize) -> bool {
        let RoleKey::Service(id) = &self.roles[role] else { return false };
        let goal = self.in_force.and_then(|goal| self.goals[goal].goal.services.get(id));
        goal.and_then(|service| service.replicas.as_ref()).is_some_and(|replicas| replicas.covered)
    }

    fn publish_event(&mut self, event: &Event, before: &[Option<Grant>]) {
        if event.key == GOAL_KEY {
            let value = event.value.as_deref().and_then(|value| value.try_into().ok());
            let index = u64::from_le_bytes(value.unwrap_or_default()) as usize;
            self.store.changes.push(Change::Goal { index, revision: event.revision });
            self.goal_adopted(index);
            return;
        }
        if let (Some(node), Some(value)) = (event.key.strip_prefix(PROMISE_PREFIX), event.value.as_deref()) {
            let (node, revision) = (NodeName(node.to_owned()), event.revision);
            if let Some(promise) = decode_promise(value) {
                self.say(|_| format!("store: {node} has promised goal {} at {}", promise.generation, promise.position));
                self.store.changes.push(Change::Promise { node, revision, promise });
            }
            return;
        }
        if let (POSITION_KEY, Some(value)) = (event.key.as_str(), event.value.as_deref()) {
            self.store.changes.extend(decode_position(value).map(Change::Published));
            return;
        }
        let Some(role) = self.role_of_key(&event.key) else { return };
        let grant = event.value.as_deref().and_then(|value| decode_grant(value, &self.names));
        if let (EventKind::Put, Some(new)) = (event.kind, &grant) {
            let covered = self.is_covered(role);
            let old = before.get(role).and_then(Option::as_ref).filter(|_| !covered);
            let verdict = self.checks.order.granted(role, &self.roles[role], old, new);
            self.judge(verdict);
        }
        let text = grant.as_ref().map(|grant| format!("{} (token {})", grant.holder, grant.token));
        self.say(|w| format!("store: {} -> {} {:?}", w.keys[role], text.as_deref().unwrap_or("free"), event.kind));
        self.store.changes.push(Change::Grant { role, revision: event.revision, grant });
    }
}
