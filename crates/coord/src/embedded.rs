//! One voter of the embedded store, from opening to closing.
//!
//! `open` first decides whether this voter may exist at all (S12): a store that is somebody else's, damaged or lost
//! is refused with the way back. A founder without a store then waits until every founder has said that it is fresh
//! ([`crate::formation`]). From there the consensus core runs, and four small tasks beside it: one publishes who leads, one
//! watches the room on disk, one gathers renewals, one ends leases ([`crate::leases`]).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, ServerState};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::random_id;
use crate::config::{CLOSE_BELOW_BYTES, Config, FIRST_MINTED_ID, REOPEN_ABOVE_BYTES, raft_config};
use crate::disk::{Identity, LogStore};
use crate::joined::{self, OpenError};
use crate::leases::RenewQueue;
use crate::machine::{Machine, Replica};
use crate::network::Network;
use crate::raft_types::{LogId, Raft, Types};
use crate::snapshots::SnapshotDir;
use crate::store::StoreError;

/// A log larger than this is cut back to its snapshot although it has few entries, in bytes.
const MAX_LOG_BYTES: u64 = 64 << 20;
/// A new snapshot is worth it when it stands for this many entries more than the last.
const WORTH_A_SNAPSHOT: u64 = 16;

/// Longest wait for the consensus core to stop; its files are closed then in any case.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);

/// How long a purge that was asked for may take.
const PURGE_WITHIN: Duration = Duration::from_secs(1);
/// How often the room on disk and the health of the leader are looked at.
const WATCH_EVERY: Duration = Duration::from_millis(100);

/// A member of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub raft_id: u64,
    /// Its node.
    pub node: String,
    /// Whether it votes; else it only learns.
    pub voter: bool,
}

/// Who leads, as this voter knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The newest term seen.
    pub term: u64,
    /// Node name of the leader, where one is known.
    pub leader: Option<String>,
    /// This voter leads, has applied the first entry of its own term, and a quorum answered lately.
    pub am_leader_established: bool,
    /// Members by id.
    pub members: Vec<Member>,
    /// How this voter is.
    pub health: Health,
}

/// How a voter is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// A founder that waits for the others named.
    Forming {
        /// Founders that have not answered yet.
        waiting_for: Vec<String>,
    },
    /// It leads, with a quorum.
    Leading,
    /// It follows a leader.
    Following,
    /// It knows no leader, or leads without a quorum.
    NoQuorum,
    /// Its store is closed; the reason says until when.
    Shut {
        /// Why.
        why: String,
    },
}

/// The voter can not go on; the process should end, and its parent start it again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store's voter stopped: {why}")]
pub struct Fatal {
    /// What happened.
    pub why: String,
}

/// One voter (or learner) of the embedded store. Clones are the same voter.
#[derive(Clone)]
pub struct Embedded {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub config: Config,
    pub renewals: RenewQueue,
    /// Founders that were fresh when this store was formed.
    pub formation: Mutex<Vec<(u64, u64)>>,
    phase: RwLock<Phase>,
    admitted: RwLock<BTreeSet<String>>,
    leadership: watch::Sender<Leadership>,
    fatal: watch::Sender<Option<Fatal>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Clone)]
pub(crate) enum Phase {
    Forming { nonce: u64, waiting_for: Vec<String> },
    Open(Arc<Core>),
    Shut { why: String, room: bool },
}

pub(crate) struct Core {
    pub raft: Raft,
    pub replica: Arc<Replica>,
    log: LogStore,
}

/// What `open` found on disk.
enum Found {
    Store,
    Nothing,
}

impl Embedded {
    /// Opens a founder, or a voter that had joined before.
    ///
    /// Returns at once; a founder without a store forms in the background, see [`Health::Forming`].
    ///
    /// # Errors
    /// When this voter must not exist: see [`OpenError`].
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        Self::open_as(config, false).await
    }

    /// Opens a voter under an id minted by the store. With an empty directory it begins as a learner, which the
    /// leader fills once [`crate::Client::add_learner`] named it.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub async fn open_as_learner(config: Config) -> Result<Self, OpenError> {
        Self::open_as(config, true).await
    }

    async fn open_as(config: Config, learner: bool) -> Result<Self, OpenError> {
        check_config(&config, learner)?;
        let for_look = config.clone();
        let found = blocking(move || look(&for_look, learner)).await?;
        let inner = Arc::new(Inner::new(config));
        match found {
            Found::Nothing if !learner => {
                let nonce = random_id().map_err(|error| OpenError::Io { what: "taking a nonce".into(), error })?;
                inner.enter(Phase::Forming { nonce, waiting_for: inner.other_founders() });
                inner.spawn(crate::formation::form(Arc::downgrade(&inner), nonce));
            }
            Found::Nothing | Found::Store => inner.start(Vec::new()).await?,
        }
        inner.spawn(watch_over(Arc::downgrade(&inner)));
        inner.spawn(crate::leases::gather(Arc::downgrade(&inner), inner.renewals.take_receiver()));
        inner.spawn(crate::leases::end_due(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// Who leads, now and whenever that changes.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.subscribe()
    }

    /// Resolves when this voter cannot go on. The process should then end.
    pub async fn fatal(&self) -> Fatal {
        let mut fatal = self.inner.fatal.subscribe();
        loop {
            if let Some(found) = fatal.borrow_and_update().clone() {
                return found;
            }
            if fatal.changed().await.is_err() {
                return Fatal { why: "the voter is gone".into() };
            }
        }
    }

    /// Replaces the nodes that may become voters (the adopted file changed).
    pub fn admit(&self, nodes: impl IntoIterator<Item = String>) {
        *self.inner.admitted.write().unwrap_or_else(PoisonError::into_inner) = nodes.into_iter().collect();
    }

    /// This voter's node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.inner.config.node
    }

    /// Writes a snapshot now.
    ///
    /// # Errors
    /// When the voter is shut.
    pub async fn snapshot_now(&self) -> Result<(), StoreError> {
        let core = self.inner.core()?;
        core.raft.trigger().snapshot().await.map_err(|error| StoreError::Shut { why: error.to_string() })
    }

    /// Drops log entries up to `index` now instead of when they are many, and waits until they are gone. Only what a snapshot
    /// holds can be dropped.
    ///
    /// # Errors
    /// When the voter is shut, or the entries are still there after a second: call again once a snapshot holds them.
    pub async fn purge_log(&self, index: u64) -> Result<(), StoreError> {
        let core = self.inner.core()?;
        let shut = |why: String| StoreError::Shut { why };
        core.raft.trigger().purge_log(index).await.map_err(|error| shut(error.to_string()))?;
        let wait = core.raft.wait(Some(PURGE_WITHIN));
        let gone = |metrics: &openraft::RaftMetrics<Types>| metrics.purged.is_some_and(|last| last.index() >= index);
        wait.metrics(gone, "the log is purged").await.map(drop).map_err(|error| shut(error.to_string()))
    }

    /// Stops the voter and closes its files. Idempotent.
    pub async fn close(&self) {
        let tasks: Vec<_> = std::mem::take(&mut *lock(&self.inner.tasks));
        tasks.iter().for_each(JoinHandle::abort);
        self.inner.shut("closed".into(), false).await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        lock(&self.tasks).iter().for_each(JoinHandle::abort);
    }
}

impl Inner {
    fn new(config: Config) -> Self {
        let phase = Phase::Shut { why: "not open yet".into(), room: false };
        let leadership = Leadership {
            term: 0,
            leader: None,
            am_leader_established: false,
            members: Vec::new(),
            health: Health::Shut { why: "not open yet".into() },
        };
        Self {
            admitted: RwLock::new(config.peers.iter().cloned().collect()),
            config,
            renewals: RenewQueue::new(),
            formation: Mutex::default(),
            phase: RwLock::new(phase),
            leadership: watch::Sender::new(leadership),
            fatal: watch::Sender::new(None),
            tasks: Mutex::default(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn enter(&self, phase: Phase) {
        *self.phase.write().unwrap_or_else(PoisonError::into_inner) = phase;
        self.publish();
    }

    /// The running core, or why there is none.
    pub(crate) fn core(&self) -> Result<Arc<Core>, StoreError> {
        match self.phase() {
            Phase::Open(core) => Ok(core),
            Phase::Forming { waiting_for, .. } => {
                Err(StoreError::Shut { why: format!("forming; waiting for {}", waiting_for.join(", ")) })
            }
            Phase::Shut { why, .. } => Err(StoreError::Shut { why }),
        }
    }

    pub(crate) fn fail(&self, why: String) {
        tracing::error!(node = self.config.node, why, "the store's voter stopped");
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            if first {
                *fatal = Some(Fatal { why });
            }
            first
        });
    }

    pub(crate) fn leads(&self) -> bool {
        self.leadership.borrow().am_leader_established
    }

    pub(crate) fn leader(&self) -> Option<String> {
        self.leadership.borrow().leader.clone()
    }

    /// Whether a node may vote, as far as this voter knows.
    pub(crate) fn admits(&self, node: &str) -> bool {
        let founder = self.config.founders.iter().any(|founder| founder.node == node);
        founder
            || self.admitted.read().unwrap_or_else(PoisonError::into_inner).contains(node)
            || self.leadership.borrow().members.iter().any(|member| member.node == node)
    }

    pub(crate) fn other_founders(&self) -> Vec<String> {
        let others = self.config.founders.iter().filter(|founder| founder.raft_id != self.config.raft_id);
        others.map(|founder| founder.node.clone()).collect()
    }

    /// Opens the files and starts the consensus core; `formation` is written into a store that is made now.
    pub(crate) async fn start(self: &Arc<Self>, formation: Vec<(u64, u64)>) -> Result<(), OpenError> {
        if self.room()? < CLOSE_BELOW_BYTES {
            self.enter(Phase::Shut { why: no_room(&self.config), room: true });
            return Ok(());
        }
        let config = self.config.clone();
        let (log, machine) = blocking(move || open_files(&config, &formation)).await?;
        let formation = log.formation().map_err(|error| OpenError::disk(&self.config, error))?;
        lock(&self.formation).clone_from(&formation);
        let settings = raft_config(&self.config).map_err(|error| OpenError::BadConfig(error.to_string()))?;
        let network = Network {
            cluster: self.config.cluster.clone(),
            sender: self.config.raft_id,
            transport: Arc::clone(&self.config.transport),
        };
        let replica = machine.replica();
        let raft = Raft::new(self.config.raft_id, Arc::new(settings), network, log.clone(), machine)
            .await
            .map_err(|error| OpenError::Core(error.to_string()))?;
        let core = Arc::new(Core { raft, replica, log });
        self.enter(Phase::Open(Arc::clone(&core)));
        self.spawn(follow_core(Arc::downgrade(self), Arc::clone(&core)));
        if !formation.is_empty() {
            crate::formation::initialize(&self.config, &core.raft).await?;
        }
        Ok(())
    }

    /// Stops the core and closes its files; the voter may be started again.
    pub(crate) async fn shut(&self, why: String, room: bool) {
        let before = self.phase();
        self.enter(Phase::Shut { why, room });
        if let Phase::Open(core) = before {
            match tokio::time::timeout(SHUTDOWN_LIMIT, core.raft.shutdown()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => tracing::warn!("the consensus core had already ended"),
                Err(_) => tracing::warn!("the consensus core did not stop within {SHUTDOWN_LIMIT:?}"),
            }
            let log = core.log.clone();
            if tokio::task::spawn_blocking(move || log.close()).await.is_err() {
                tracing::warn!("closing the store's file was interrupted");
            }
        }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        tasks.retain(|task| !task.is_finished());
        tasks.push(tokio::spawn(task));
    }

    fn room(&self) -> Result<u64, OpenError> {
        let existing = self.config.dir.ancestors().find(|path| path.exists()).unwrap_or(&self.config.dir);
        (self.config.room)(existing).map_err(|error| OpenError::Io {
            what: format!("measuring the room for {}", self.config.dir.display()),
            error,
        })
    }

    /// Tells the world who leads, when that changed.
    fn publish(&self) {
        let next = match self.phase() {
            Phase::Open(core) => self.observe(&core),
            Phase::Forming { waiting_for, .. } => self.closed_view(Health::Forming { waiting_for }),
            Phase::Shut { why, .. } => self.closed_view(Health::Shut { why }),
        };
        self.leadership.send_if_modified(|current| {
            let changed = *current != next;
            *current = next;
            changed
        });
    }

    fn closed_view(&self, health: Health) -> Leadership {
        let before = self.leadership.borrow();
        Leadership {
            term: before.term,
            leader: None,
            am_leader_established: false,
            members: before.members.clone(),
            health,
        }
    }

    fn observe(&self, core: &Core) -> Leadership {
        let metrics = core.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let members = membership.nodes().map(|(id, node)| Member {
            raft_id: *id,
            node: node.addr.clone(),
            voter: voters.contains(id),
        });
        let members: Vec<Member> = members.collect();
        let leader = metrics.current_leader.and_then(|id| membership.get_node(&id)).map(|node| node.addr.clone());
        let leading = metrics.state == ServerState::Leader;
        let alone = voters.len() == 1 && voters.contains(&self.config.raft_id);
        let quorum = alone
            || metrics.last_quorum_acked.as_ref().is_some_and(|at| at.elapsed() < self.config.times.election_max() * 2);
        let own_applied =
            metrics.last_applied.is_some_and(|applied| *applied.committed_leader_id() == metrics.vote.leader_id);
        if leading && quorum {
            core.replica.heard();
        }
        let health = match (leading, metrics.current_leader) {
            (true, _) if quorum => Health::Leading,
            (false, Some(_)) if core.replica.age() < self.config.times.silence() => Health::Following,
            _ => Health::NoQuorum,
        };
        Leadership {
            term: metrics.current_term,
            leader,
            am_leader_established: leading && quorum && own_applied,
            members,
            health,
        }
    }
}

/// Publishes what the core tells, and notices when it ends by itself.
async fn follow_core(inner: Weak<Inner>, core: Arc<Core>) {
    let mut metrics = core.raft.metrics();
    loop {
        let ended = metrics.changed().await.is_err();
        let state = metrics.borrow_watched().running_state.clone();
        let Some(inner) = inner.upgrade() else { return };
        let wanted = matches!(inner.phase(), Phase::Open(current) if Arc::ptr_eq(&current, &core));
        if !wanted {
            return;
        }
        if ended || state.is_err() {
            let why = state.err().map_or_else(|| "the consensus core ended".to_owned(), |error| error.to_string());
            inner.fail(why);
            return;
        }
        inner.publish();
    }
}

/// Looks at what changes without an event: the age of the quorum, and the room on disk (S12).
async fn watch_over(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        inner.publish();
        let room = match inner.room() {
            Ok(room) => room,
            Err(error) => {
                inner.fail(error.to_string());
                return;
            }
        };
        match inner.phase() {
            Phase::Open(_) if room < CLOSE_BELOW_BYTES => {
                tracing::warn!(room, "too little room on disk; the voter closes its store");
                inner.shut(no_room(&inner.config), true).await;
            }
            Phase::Shut { room: true, .. } if room > REOPEN_ABOVE_BYTES => {
                tracing::info!(room, "there is room again; the voter opens its store");
                match inner.start(Vec::new()).await {
                    Ok(()) => {}
                    // A reader of the core that was stopped may hold the file for a moment longer.
                    Err(error @ OpenError::InUse { .. }) => tracing::warn!(%error, "trying again"),
                    Err(error) => {
                        inner.fail(error.to_string());
                        return;
                    }
                }
            }
            Phase::Open(core) if core.log.log_bytes() > MAX_LOG_BYTES => {
                // Failing means that the core is ending, which is noticed elsewhere.
                let _ = cut_back(&core).await;
            }
            _ => {}
        }
    }
}

/// Bounds the log by bytes, beside the consensus core, which bounds it by entries.
async fn cut_back(core: &Core) -> Result<(), openraft::errors::Fatal<Types>> {
    let (applied, snapshot) = {
        let metrics = core.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        (index(metrics.last_applied), index(metrics.snapshot))
    };
    core.raft.trigger().purge_log(snapshot).await?;
    if applied > snapshot + WORTH_A_SNAPSHOT {
        core.raft.trigger().snapshot().await?;
    }
    Ok(())
}

fn no_room(config: &Config) -> String {
    format!(
        "less than {} MiB free for {}; it opens again by itself above {} MiB",
        CLOSE_BELOW_BYTES >> 20,
        config.dir.display(),
        REOPEN_ABOVE_BYTES >> 20
    )
}

fn check_config(config: &Config, learner: bool) -> Result<(), OpenError> {
    let bad = |why: String| Err(OpenError::BadConfig(why));
    if config.marker.starts_with(&config.dir) {
        return bad(format!("the marker {} lies within the store", config.marker.display()));
    }
    let minted = config.raft_id >= FIRST_MINTED_ID;
    if config.raft_id == 0 {
        return bad("a voter id of 0".into());
    }
    let listed = config.founders.iter().any(|founder| founder.raft_id == config.raft_id && founder.node == config.node);
    if !learner && !minted && !listed {
        return bad(format!("voter {:x} of `{}` is no founder", config.raft_id, config.node));
    }
    let ids: BTreeSet<u64> = config.founders.iter().map(|founder| founder.raft_id).collect();
    let nodes: BTreeSet<&str> = config.founders.iter().map(|founder| founder.node.as_str()).collect();
    if ids.len() != config.founders.len() || nodes.len() != config.founders.len() {
        return bad("two founders share an id or a node".into());
    }
    if ids.iter().any(|id| *id == 0 || *id >= FIRST_MINTED_ID) {
        return bad("a founder's id must lie between 1 and 2^63 − 1".into());
    }
    Ok(())
}

/// Whether there is a store, and whether there may be none.
fn look(config: &Config, learner: bool) -> Result<Found, OpenError> {
    let marker = joined::read(config, learner)?;
    if LogStore::exists(&config.dir).map_err(|error| OpenError::disk(config, error))? {
        return Ok(Found::Store);
    }
    match marker {
        Some(joined) if joined.raft_id == config.raft_id => {
            Err(OpenError::lost(config, joined.raft_id, "the marker is there and the store is not"))
        }
        // A minted id with nothing on disk, opened as a voter that had joined: the store is gone with its marker.
        None if !learner && config.raft_id >= FIRST_MINTED_ID => {
            Err(OpenError::lost(config, config.raft_id, "ids like this one are minted for nodes that join"))
        }
        _ => Ok(Found::Nothing),
    }
}

/// Identity first, then the marker, then votes: a crash in between leaves nothing that looks like a loss.
fn open_files(config: &Config, formation: &[(u64, u64)]) -> Result<(LogStore, Machine), OpenError> {
    let identity = Identity::new(&config.cluster, &config.node, config.raft_id);
    let log = LogStore::open(&config.dir, &identity, formation).map_err(|error| OpenError::disk(config, error))?;
    let opened = joined::write(config).and_then(|()| {
        let snapshots = SnapshotDir::new(&config.dir);
        let loaded = snapshots.load(log.purged()).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => OpenError::Corrupted {
                dir: config.dir.display().to_string(),
                node: config.node.clone(),
                why: error.to_string(),
            },
            _ => OpenError::Io { what: "reading the snapshots".into(), error },
        })?;
        Ok(Machine::new(snapshots, loaded))
    });
    match opened {
        Ok(machine) => Ok((log, machine)),
        Err(error) => {
            log.close();
            Err(error)
        }
    }
}

async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    tokio::task::spawn_blocking(run).await.map_err(|error| OpenError::Core(error.to_string()))?
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "embedded_tests.rs"]
mod tests;
