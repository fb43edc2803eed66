//! Replicated databases: copies with positions and timelines, streams between them, whom a commit waits for, clients that
//! write and read. What follows here is what PostgreSQL does; what is chosen comes from the product's own steps.
//!
//! One write is one place in the log. A stream is told up to where it may go; a copy acknowledges what it has on disk.

use std::collections::BTreeMap;
use std::rc::Rc;

use backstay_model::replica as order;
use backstay_model::{
    Generation, Health, InstanceState, NodeName, Position, Promise, ReplicaObservation, SyncRule, Token,
};

mod copy;

pub(crate) use copy::{Copy, History};

use self::copy::{Upstream, common, continued};
use crate::clock::{MS, SECOND};
use crate::mutant::Mutant;
use crate::network::Passage;
use crate::node::Instance;
use crate::world::{Happening, World};

/// How often a database looks after its streams.
const DATABASE_TICK: u64 = 100 * MS;
/// A receiver that hears nothing for this time connects again.
const RECEIVER_TIMEOUT: u64 = 1500 * MS;
/// From arrival to disk.
const FLUSH_TAKES: (u64, u64) = (MS / 5, 25 * MS);
/// From being told to its end, for a receiver.
const RECEIVER_ENDS: (u64, u64) = (MS, 80 * MS);
const REWIND_TAKES: (u64, u64) = (200 * MS, 2 * SECOND);
const COPY_TAKES: (u64, u64) = (500 * MS, 4 * SECOND);
const PROMOTION_TAKES: (u64, u64) = (20 * MS, 200 * MS);

/// A database on one node: what is on its disk, and what its processes know.
#[derive(Debug, Default)]
pub(crate) struct Database {
    pub(crate) copy: Copy,
    /// None: there is no receiver.
    stream: Option<Receiver>,
    /// A rewind or copy is being made, by this start of the instance.
    mending: bool,
    pub(crate) primary: Option<Reign>,
    /// The receiver is being ended for a promise of this goal.
    ending: Option<Generation>,
    /// The timeline that it opens when it becomes primary.
    opens: u32,
}

/// The process that receives a stream.
#[derive(Clone, Copy, Debug)]
struct Receiver {
    /// Its connection.
    id: u64,
    heard_at: u64,
    /// The primary has taken it.
    is_taken: bool,
}

/// What a primary knows.
#[derive(Debug)]
pub(crate) struct Reign {
    token: Token,
    /// Standbys that stream: the connection, and what it has acknowledged.
    senders: BTreeMap<usize, (u64, u64)>,
    /// The place at which its rule took effect.
    rule_from: u64,
    /// Clients come once its rule covers this place (S2).
    opens_at: u64,
    pub(crate) open: bool,
    /// Everything up to here is acknowledged to clients.
    acknowledged: u64,
}

/// What travels between databases.
#[derive(Clone, Debug)]
pub(crate) enum Talk {
    /// `needs`: what the copy must reach to be whole.
    Connect {
        from: usize,
        stream: u64,
        history: History,
        flushed: u64,
        needs: u64,
        token: Token,
    },
    /// The copy is not a beginning of the primary's: it must be mended first.
    Diverged {
        stream: u64,
    },
    Log {
        from: usize,
        stream: u64,
        history: History,
        upto: u64,
    },
    Acknowledge {
        from: usize,
        stream: u64,
        flushed: u64,
    },
}

impl Database {
    /// Where a primary is whose commits wait for nobody.
    pub(crate) fn asynchronous_at(&self) -> Option<Position> {
        self.primary.as_ref().filter(|_| self.copy.rule.k == 0).map(|_| self.copy.position())
    }
}

impl World {
    /// The service that is a database, if the cluster has one.
    pub(crate) fn database_service(&self) -> Option<usize> {
        self.services.iter().position(|id| id.kind == backstay_model::ServiceKind::Postgres)
    }

    pub(crate) fn is_database(&self, service: usize) -> bool {
        self.database_service() == Some(service)
    }

    /// The instance's slot of the database on a node.
    pub(crate) fn database_slot(&self, n: usize) -> Option<&Instance> {
        self.nodes[n].instances.get(self.database_service()?)
    }

    fn runs_database(&self, n: usize) -> bool {
        let moves = |slot: &Instance| matches!(slot.state, InstanceState::Running | InstanceState::Stopping);
        self.database_slot(n).is_some_and(|slot| moves(slot) && slot.hung_since.is_none())
    }

    /// Starts the database, or makes the running standby primary.
    pub(crate) fn start_database(
        &mut self,
        n: usize,
        service: usize,
        token: Option<Token>,
        order: Option<&order::Reign>,
    ) {
        let late = self.mutant == Some(Mutant::RuleAfterStart);
        let database = &mut self.nodes[n].database;
        if let Some(order) = order {
            database.opens = order.timeline.0;
            if database.primary.is_none() && !late {
                database.copy.rule = order.rule.clone();
            }
        }
        let slot = &self.nodes[n].instances[service];
        if !slot.lives() {
            self.start_instance_as(n, service, token);
        } else if token.is_some() && slot.token.is_none() && slot.state == InstanceState::Running {
            self.promote(n, service, token);
        }
    }

    fn promote(&mut self, n: usize, service: usize, token: Option<Token>) {
        let Some(role) = self.role_of_service(service) else { return };
        let Some((_, until)) = self.nodes[n].agent.as_ref().and_then(|agent| agent.holds[role]) else { return };
        let reading = self.product_clock(n);
        let slot = &mut self.nodes[n].instances[service];
        (slot.token, slot.deadline, slot.state) = (token, Some(until), InstanceState::Starting);
        let id = slot.id;
        let takes = self.rng.between(PROMOTION_TAKES.0, PROMOTION_TAKES.1);
        self.push_in(takes, Happening::Started { node: n, service, id });
        self.set_alarm(n, until.saturating_sub(reading), Happening::GuardAlarm { node: n, service, id });
        self.say(|w| format!("{}: promotes its copy (token {token:?})", w.names[n]));
    }

    /// The database works from now on: as primary under its token, else as a standby of whom its disk says.
    pub(crate) fn database_started(&mut self, n: usize, service: usize) {
        let token = self.nodes[n].instances[service].token;
        let database = &mut self.nodes[n].database;
        (database.stream, database.primary, database.mending, database.ending) = (None, None, false, None);
        let Some(token) = token else {
            return self
                .push_in(MS, Happening::DatabaseTick { node: n, service, id: self.nodes[n].instances[service].id });
        };
        let copy = &mut database.copy;
        let is_new = copy.position().timeline.0 < database.opens;
        if is_new {
            let own = copy.history.iter().filter(|(_, from)| *from < copy.flushed);
            let mut history: Vec<_> = own.copied().collect();
            history.push((database.opens, copy.flushed));
            // The first entry of a timeline says that it begins.
            (copy.history, copy.flushed) = (Rc::new(history), copy.flushed + 1);
        }
        (copy.has_data, copy.whole, copy.upstream) = (true, true, None);
        let position = copy.flushed;
        let open = self.mutant == Some(Mutant::OpensAtOnce);
        let reign =
            Reign { token, senders: BTreeMap::new(), rule_from: position, opens_at: position, open, acknowledged: 0 };
        self.nodes[n].database.primary = Some(reign);
        let copy = self.nodes[n].database.copy.clone();
        self.say(|w| format!("{}: its database is primary on timeline {}, at {position}", w.names[n], copy.timeline()));
        let verdict = self.checks.durability.reigns(&self.names[n], &copy, is_new);
        self.judge(verdict);
        if open {
            let verdict = self.checks.durability.opens(&self.names[n], &copy);
            self.judge(verdict);
        }
        let id = self.nodes[n].instances[service].id;
        self.push_in(MS, Happening::DatabaseTick { node: n, service, id });
        self.settle_commits(n);
    }

    /// Its processes are gone; what was not on disk is lost.
    pub(crate) fn database_ended(&mut self, n: usize) {
        let database = &mut self.nodes[n].database;
        (database.stream, database.primary, database.ending) = (None, None, None);
        if std::mem::take(&mut database.mending) {
            // Cut off in the middle of a rewind or copy: what is there is no copy.
            (database.copy.has_data, database.copy.whole) = (false, false);
        }
    }

    /// A primary that was asked to stop ends once its standbys have everything, or have had their time.
    pub(crate) fn has_shipped(&self, n: usize) -> bool {
        let database = &self.nodes[n].database;
        let end = database.copy.flushed;
        database
            .primary
            .as_ref()
            .is_none_or(|reign| reign.senders.values().all(|(_, acknowledged)| *acknowledged >= end))
    }

    pub(crate) fn database_tick(&mut self, n: usize, service: usize, id: u64) {
        if self.nodes[n].instances[service].id != id || !self.nodes[n].instances[service].lives() {
            return;
        }
        self.push_in(DATABASE_TICK, Happening::DatabaseTick { node: n, service, id });
        if !self.runs_database(n) {
            return;
        }
        if self.nodes[n].database.primary.is_some() {
            return self.send_log(n);
        }
        let (now, database) = (self.now, &self.nodes[n].database);
        let silent = database.stream.is_none_or(|receiver| now - receiver.heard_at > RECEIVER_TIMEOUT);
        if let (Some(upstream), true, false) = (database.copy.upstream.clone(), silent, database.mending) {
            let stream = self.fresh_id();
            let database = &mut self.nodes[n].database;
            database.stream = Some(Receiver { id: stream, heard_at: now, is_taken: false });
            let (history, flushed) = (Rc::clone(&database.copy.history), database.copy.flushed);
            if database.copy.has_data {
                let needs = if database.copy.whole { 0 } else { database.copy.must_reach };
                let talk = Talk::Connect { from: n, stream, history, flushed, needs, token: upstream.token };
                self.talk(n, upstream.node, talk);
            } else {
                self.mend_copy(n, service);
            }
        }
    }

    fn talk(&mut self, from: usize, to: usize, talk: Talk) {
        if let Passage::Arrives(after) = self.network.passage(from, to, &mut self.rng) {
            self.push_in(after, Happening::Talk { to, talk });
        }
    }

    fn send_log(&mut self, n: usize) {
        let database = &self.nodes[n].database;
        let Some(reign) = &database.primary else { return };
        let streams: Vec<_> = reign.senders.iter().map(|(to, (stream, _))| (*to, *stream)).collect();
        let (history, upto) = (Rc::clone(&database.copy.history), database.copy.flushed);
        for (to, stream) in streams {
            self.talk(n, to, Talk::Log { from: n, stream, history: Rc::clone(&history), upto });
        }
    }

    /// A database hears from another.
    pub(crate) fn heard_talk(&mut self, n: usize, talk: Talk) {
        if !self.runs_database(n) {
            return;
        }
        match talk {
            Talk::Connect { from, stream, history, flushed, needs, token } => {
                self.connected(n, (from, stream), &history, (flushed, needs), token);
            }
            Talk::Diverged { stream } => {
                if self.nodes[n].database.stream.is_some_and(|receiver| receiver.id == stream)
                    && let Some(service) = self.database_service()
                {
                    self.mend_copy(n, service);
                }
            }
            Talk::Log { from, stream, history, upto } => self.received(n, from, stream, history, upto),
            Talk::Acknowledge { from, stream, flushed } => {
                let reign = self.nodes[n].database.primary.as_mut();
                if let Some((current, acknowledged)) = reign.and_then(|reign| reign.senders.get_mut(&from))
                    && *current == stream
                {
                    *acknowledged = (*acknowledged).max(flushed);
                    self.settle_commits(n);
                }
            }
        }
    }

    fn connected(
        &mut self,
        n: usize,
        (from, stream): (usize, u64),
        history: &History,
        (flushed, needs): (u64, u64),
        token: Token,
    ) {
        let forgiving = self.mutant == Some(Mutant::RejoinWithoutRewind);
        let database = &mut self.nodes[n].database;
        let Some(reign) = database.primary.as_mut().filter(|reign| reign.token == token) else { return };
        let shared = common(history, flushed, &database.copy.history, database.copy.flushed);
        // What it needs may be on a branch that is no more.
        if (shared < flushed && !forgiving) || needs > database.copy.flushed {
            return self.talk(n, from, Talk::Diverged { stream });
        }
        reign.senders.insert(from, (stream, 0));
        let (history, upto) = (Rc::clone(&database.copy.history), database.copy.flushed);
        self.talk(n, from, Talk::Log { from: n, stream, history, upto });
    }

    fn received(&mut self, n: usize, from: usize, stream: u64, history: History, upto: u64) {
        let now = self.now;
        let database = &mut self.nodes[n].database;
        let Some(receiver) = database.stream.as_mut().filter(|receiver| receiver.id == stream) else { return };
        (receiver.heard_at, receiver.is_taken) = (now, true);
        let takes = self.rng.between(FLUSH_TAKES.0, FLUSH_TAKES.1);
        self.push_in(takes, Happening::Flushed { node: n, from, stream, history, upto });
    }

    /// What a stream brought is on disk.
    pub(crate) fn flushed(&mut self, n: usize, from: usize, stream: u64, history: &History, upto: u64) {
        let database = &mut self.nodes[n].database;
        if database.stream.is_none_or(|receiver| receiver.id != stream) {
            return;
        }
        let copy = &mut database.copy;
        if upto > copy.flushed {
            copy.history = continued(copy, history);
            copy.flushed = upto;
        }
        if !copy.whole && copy.flushed >= copy.must_reach {
            copy.whole = true;
        }
        let flushed = copy.flushed;
        self.talk(n, from, Talk::Acknowledge { from: n, stream, flushed });
    }

    /// Rewinds a copy that has parted from the primary's, or makes a new one.
    fn mend_copy(&mut self, n: usize, service: usize) {
        let database = &mut self.nodes[n].database;
        let bounds = if database.copy.has_data { REWIND_TAKES } else { COPY_TAKES };
        (database.mending, database.copy.whole) = (true, false);
        let id = self.nodes[n].instances[service].id;
        let takes = self.rng.between(bounds.0, bounds.1);
        self.say(|w| format!("{}: mends its copy", w.names[n]));
        self.push_in(takes, Happening::CopyMended { node: n, service, id });
    }

    pub(crate) fn copy_mended(&mut self, n: usize, service: usize, id: u64) {
        if self.nodes[n].instances[service].id != id || !self.nodes[n].database.mending {
            return;
        }
        self.nodes[n].database.mending = false;
        self.nodes[n].database.stream = None;
        let Some(upstream) = self.nodes[n].database.copy.upstream.clone() else { return };
        let source = &self.nodes[upstream.node].database;
        let reigns = source.primary.as_ref().is_some_and(|reign| reign.token == upstream.token);
        let (history, end) = (Rc::clone(&source.copy.history), source.copy.flushed);
        if !reigns || !self.network.joined(n, upstream.node) || !self.runs_database(upstream.node) {
            // The source went away in the middle.
            self.nodes[n].database.copy.has_data = false;
            return;
        }
        let copy = &mut self.nodes[n].database.copy;
        let shared = common(&copy.history, copy.flushed, &history, end);
        let from = if copy.has_data { shared } else { end };
        let before = Copy { history: Rc::clone(&history), flushed: from, ..Copy::default() };
        copy.history = continued(&before, &history);
        (copy.flushed, copy.must_reach, copy.has_data, copy.whole) = (from, end, true, false);
    }

    /// Acknowledges to clients what the rule says is safe.
    fn settle_commits(&mut self, n: usize) {
        let Database { copy, primary: Some(reign), .. } = &mut self.nodes[n].database else { return };
        let confirmed = confirmed(copy, reign, &self.names);
        let opens = !reign.open && confirmed >= reign.opens_at;
        reign.open |= opens;
        // What was found at the start is there for all to see once clients come, whoever has it.
        let seen = if reign.open { confirmed.max(reign.opens_at).min(copy.flushed) } else { 0 };
        if seen <= reign.acknowledged || !reign.open {
            return;
        }
        let news = seen - reign.acknowledged;
        reign.acknowledged = seen;
        self.ops_ok += news.min(16);
        self.check_acknowledged(n, seen, opens);
    }

    /// Shows the checkers what a primary tells its clients.
    fn check_acknowledged(&mut self, n: usize, seen: u64, opens: bool) {
        let (now, name, copy) = (self.now, &self.names[n], &self.nodes[n].database.copy);
        let opened = if opens { self.checks.durability.opens(name, copy) } else { Ok(()) };
        let excused = self.checks.exclusivity.was_paused(now, n);
        let sync = self.owes_standbys();
        let told = self.checks.durability.acknowledged(now, name, copy, seen, sync, excused);
        self.judge(opened);
        self.judge(told);
        let role = self.database_service().and_then(|service| self.role_of_service(service));
        if let Some(role) = role.filter(|_| !excused) {
            let verdict = self.checks.leases.acts(n, role, self.boottime(n), &self.keys[role]);
            self.judge(verdict);
        }
    }

    /// Commits should wait for standbys, as the goal in force has it.
    fn owes_standbys(&self) -> bool {
        let goal = self.in_force.map(|goal| &self.goals[goal].goal);
        let service = self.database_service().and_then(|service| goal?.services.get(&self.services[service]));
        service.and_then(|service| service.replicas.as_ref()).is_some_and(|replicas| replicas.stored.k > 0)
    }

    /// Clients write to whoever takes them: each of these is one commit.
    pub(crate) fn clients_write(&mut self) {
        for n in 0..self.nodes.len() {
            let node = &self.nodes[n];
            let takes = self.database_slot(n).is_some_and(|slot| slot.state == InstanceState::Running);
            if !node.up || node.paused || !takes || !self.runs_database(n) {
                continue;
            }
            let writes = self.rng.between(0, 3);
            let database = &mut self.nodes[n].database;
            let open = database.primary.as_ref().is_some_and(|reign| reign.open);
            if open && writes > 0 {
                database.copy.flushed += writes;
                self.send_log(n);
                self.settle_commits(n);
            }
        }
    }

    /// What an agent sees of its database.
    pub(crate) fn observe_database(&self, n: usize, health: Health) -> ReplicaObservation {
        let database = &self.nodes[n].database;
        let copy = &database.copy;
        let hears = database.stream.is_some_and(|r| r.is_taken && self.now - r.heard_at <= RECEIVER_TIMEOUT);
        let streams = copy.upstream.as_ref().filter(|_| hears && !database.mending && health == Health::Passing);
        let primary = database.primary.as_ref();
        let covers = primary.is_some_and(|reign| confirmed(copy, reign, &self.names) >= reign.rule_from);
        ReplicaObservation {
            has_data: copy.has_data,
            whole: copy.whole && copy.has_data && !database.mending,
            position: copy.position(),
            streams: streams.map(|upstream| upstream.token),
            promised: copy.promised,
            rule: primary.map(|_| copy.rule.clone()),
            rule_covers: covers,
            open: primary.is_some_and(|reign| reign.open),
        }
    }

    /// The primary's commits wait for these from now on.
    pub(crate) fn sync_database(&mut self, n: usize, rule: &SyncRule) {
        let Database { copy, primary: Some(reign), .. } = &mut self.nodes[n].database else { return };
        let mut rule = rule.clone();
        if self.mutant == Some(Mutant::DatabaseBeforeStore) {
            rule.members.extend(reign.senders.keys().map(|sender| self.names[*sender].clone()));
        }
        if copy.rule != rule {
            copy.rule = rule;
            reign.rule_from = copy.flushed;
            self.settle_commits(n);
        }
    }

    /// A standby follows this primary from now on, unless it has promised a newer goal.
    pub(crate) fn follow(&mut self, n: usize, upstream: &NodeName, token: Token, generation: Generation) {
        let Some(node) = self.node_named(upstream) else { return };
        let database = &mut self.nodes[n].database;
        let upstream = Upstream { node, token };
        if generation < database.copy.promised
            || database.primary.is_some()
            || database.copy.upstream.as_ref() == Some(&upstream)
        {
            return;
        }
        if !database.mending {
            database.stream = None;
        }
        (database.copy.upstream, database.ending) = (Some(upstream), None);
    }

    /// Clears the upstream on disk, sees the receiver gone, then promises.
    pub(crate) fn promise(&mut self, n: usize, generation: Generation) {
        let slot = self.database_slot(n);
        if slot.is_some_and(|slot| slot.token.is_some() || slot.hung_since.is_some()) {
            return;
        }
        let database = &mut self.nodes[n].database;
        if database.copy.promised >= generation && database.stream.is_none() {
            return self.write_promise(n);
        }
        if database.ending == Some(generation) {
            return;
        }
        database.ending = Some(generation);
        database.copy.upstream = None;
        let takes = self.rng.between(RECEIVER_ENDS.0, RECEIVER_ENDS.1);
        let run = self.nodes[n].run;
        self.push_in(takes, Happening::ReceiverEnded { node: n, run, generation });
    }

    pub(crate) fn receiver_ended(&mut self, n: usize, run: u32, generation: Generation) {
        let runs = self.nodes[n].run == run && self.nodes[n].agent.is_some();
        let database = &mut self.nodes[n].database;
        if !runs || database.ending != Some(generation) {
            return;
        }
        (database.ending, database.stream) = (None, None);
        database.copy.promised = database.copy.promised.max(generation);
        self.wake_in(n, MS);
    }

    fn write_promise(&mut self, n: usize) {
        let copy = &self.nodes[n].database.copy;
        let promise = Promise { generation: copy.promised, position: copy.position() };
        self.put_promise(n, promise);
    }
}

/// The k-th furthest place that members of the rule have acknowledged: everything up to there is safe.
fn confirmed(copy: &Copy, reign: &Reign, names: &[NodeName]) -> u64 {
    let k = copy.rule.k as usize;
    if k == 0 {
        return copy.flushed;
    }
    let counts = |(node, (_, acknowledged)): (&usize, &(u64, u64))| {
        copy.rule.members.contains(&names[*node]).then_some(*acknowledged)
    };
    let mut places: Vec<u64> = reign.senders.iter().filter_map(counts).collect();
    places.sort_unstable_by(|one, other| other.cmp(one));
    places.get(k - 1).copied().unwrap_or(0)
}
