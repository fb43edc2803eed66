//! The replicated state on this voter, and what belongs to it but is not replicated: lease deadlines, the ring of
//! recent changes for watchers, and when this replica last knew to be up to date.
//!
//! Deadlines are stamped with this machine's boot clock when an entry is *applied*. The holder counts from when it
//! sent, which was before, so every voter's deadline is later than the holder's, whichever voter leads next (S3).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use backstay_model::lease::store_deadline_ns;
use backstay_model::memory::{Answer, Entry as KeyEntry, Event, Expiry, Memory, Outcome, Stamp};
use futures_util::{Stream, StreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use crate::clock::boot_ns;
use crate::raft_types::{Entry, LogId, Membership, Reply, Snapshot, SnapshotMeta, Types};
use crate::snapshots::{Loaded, SnapshotDir, decode, encode};
use crate::store::Changes;

/// Most changes kept for watchers.
pub(crate) const RING_EVENTS: usize = 10_000;
/// Most bytes of keys and values kept for watchers.
const RING_BYTES: usize = 16 << 20;
/// Most leases ended by one command.
const MAX_EXPIRIES: usize = 256;

/// The state machine as the consensus library drives it.
#[derive(Clone, Debug)]
pub struct Machine {
    replica: Arc<Replica>,
    snapshots: SnapshotDir,
}

/// The state that requests read.
#[derive(Debug)]
pub(crate) struct Replica {
    applied: RwLock<Applied>,
    ring: Mutex<Ring>,
    deadlines: Mutex<BTreeMap<(u64, Option<String>), Deadline>>,
    revision: watch::Sender<u64>,
    heard_ns: AtomicU64,
    current: Mutex<Option<(SnapshotMeta, Arc<Vec<u8>>)>>,
}

#[derive(Debug, Default)]
struct Applied {
    memory: Arc<Memory>,
    last: Option<LogId>,
    membership: Membership,
}

#[derive(Clone, Copy, Debug)]
struct Deadline {
    renew_seq: u64,
    deadline_ns: u64,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Event>,
    bytes: usize,
    /// Everything after this revision is in `events`.
    floor: u64,
}

impl Machine {
    /// The state as of a snapshot, or empty; what the log holds beyond it is applied by the consensus core.
    pub(crate) fn new(snapshots: SnapshotDir, loaded: Option<Loaded>) -> Self {
        let (revision, _) = watch::channel(0);
        let replica = Arc::new(Replica {
            applied: RwLock::default(),
            ring: Mutex::default(),
            deadlines: Mutex::default(),
            revision,
            heard_ns: AtomicU64::new(boot_ns()),
            current: Mutex::default(),
        });
        if let Some(Loaded { meta, memory, bytes }) = loaded {
            replica.replace(&meta, memory, bytes);
        }
        Self { replica, snapshots }
    }

    pub(crate) fn replica(&self) -> Arc<Replica> {
        Arc::clone(&self.replica)
    }
}

impl Replica {
    /// The state as last applied.
    pub(crate) fn memory(&self) -> Arc<Memory> {
        Arc::clone(&self.applied.read().unwrap_or_else(PoisonError::into_inner).memory)
    }

    /// Position and membership as last applied.
    pub(crate) fn position(&self) -> (Option<LogId>, Membership) {
        let applied = self.applied.read().unwrap_or_else(PoisonError::into_inner);
        (applied.last, applied.membership.clone())
    }

    /// Notes that this replica just heard from the leader, or confirmed that it leads.
    pub(crate) fn heard(&self) {
        self.heard_ns.store(boot_ns(), Ordering::Relaxed);
    }

    /// How long ago that was.
    pub(crate) fn age(&self) -> Duration {
        crate::clock::since_ns(self.heard_ns.load(Ordering::Relaxed))
    }

    /// A receiver of the revision last applied.
    pub(crate) fn watch_revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// What changed under `prefix` after a revision, as far as this replica has applied.
    pub(crate) fn changes(&self, prefix: &str, after_revision: u64) -> Changes {
        // The ring is locked while the state is read, so that no change falls between the two.
        let ring = lock(&self.ring);
        let memory = self.memory();
        let revision = memory.revision();
        if after_revision < ring.floor {
            let all = memory.range(prefix).map(|(key, entry)| (key.to_owned(), entry.clone()));
            let all: Vec<(String, KeyEntry)> = all.collect();
            return Changes { revision, events: Vec::new(), resync: Some(all) };
        }
        let start = ring.events.partition_point(|event| event.revision <= after_revision);
        let newer = ring.events.range(start..).filter(|event| event.revision <= revision);
        let events = newer.filter(|event| event.key.starts_with(prefix)).cloned().collect();
        Changes { revision: revision.max(after_revision), events, resync: None }
    }

    /// Leases whose deadline on this machine's clock has passed.
    pub(crate) fn due(&self) -> Vec<Expiry> {
        let now = boot_ns();
        let memory = self.memory();
        let mut deadlines = lock(&self.deadlines);
        let mut due = Vec::new();
        let mut over = Vec::new();
        for ((session, key), deadline) in deadlines.iter() {
            if deadline.deadline_ns > now {
                continue;
            }
            let expiry = Expiry { session: *session, renew_seq: deadline.renew_seq, key: key.clone() };
            if !memory.is_current(&expiry) {
                over.push((*session, key.clone()));
            } else if due.len() < MAX_EXPIRIES {
                due.push(expiry);
            }
        }
        for gone in over {
            deadlines.remove(&gone);
        }
        due
    }

    fn apply(&self, entry: Entry) -> Reply {
        let revision = entry.log_id.index;
        let mut ring = lock(&self.ring);
        let mut applied = self.applied.write().unwrap_or_else(PoisonError::into_inner);
        applied.last = Some(entry.log_id());
        let answer = match entry.payload {
            EntryPayload::Blank => {
                Arc::make_mut(&mut applied.memory).skip(revision);
                Answer::Nothing
            }
            EntryPayload::Membership(membership) => {
                Arc::make_mut(&mut applied.memory).skip(revision);
                applied.membership = Membership::new(Some(entry.log_id), membership);
                Answer::Nothing
            }
            EntryPayload::Normal(proposal) => {
                let outcome = Arc::make_mut(&mut applied.memory).apply(revision, &proposal.0);
                let Outcome { answer, events, stamps } = outcome;
                ring.push(events);
                self.stamp(&stamps);
                answer
            }
        };
        Reply { revision, answer }
    }

    /// Gives leases their deadlines, counted from now. A deadline never comes forward: the holder may still count
    /// on the longer lease it was granted before.
    fn stamp(&self, stamps: &[Stamp]) {
        let now = boot_ns();
        let mut deadlines = lock(&self.deadlines);
        for stamp in stamps {
            let deadline_ns = store_deadline_ns(now, Duration::from_millis(stamp.ttl_ms));
            let place = (stamp.session, stamp.key.clone());
            let entry = deadlines.entry(place).or_insert(Deadline { renew_seq: 0, deadline_ns: 0 });
            entry.renew_seq = stamp.renew_seq;
            entry.deadline_ns = entry.deadline_ns.max(deadline_ns);
        }
    }

    fn replace(&self, meta: &SnapshotMeta, memory: Memory, bytes: Vec<u8>) {
        let mut ring = lock(&self.ring);
        self.stamp(&memory.stamps());
        *ring = Ring { floor: memory.revision(), ..Ring::default() };
        let revision = memory.revision();
        *self.applied.write().unwrap_or_else(PoisonError::into_inner) =
            Applied { memory: Arc::new(memory), last: meta.last_log_id, membership: meta.last_membership.clone() };
        *lock(&self.current) = Some((meta.clone(), Arc::new(bytes)));
        drop(ring);
        self.revision.send_replace(revision);
    }
}

impl Ring {
    fn push(&mut self, events: Vec<Event>) {
        for event in events {
            self.bytes += weight(&event);
            self.events.push_back(event);
        }
        while self.events.len() > RING_EVENTS || self.bytes > RING_BYTES {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= weight(&oldest);
            self.floor = oldest.revision;
        }
        // Whole revisions only: what is left of the one that was cut goes too.
        while self.events.front().is_some_and(|event| event.revision <= self.floor) {
            let Some(rest) = self.events.pop_front() else { break };
            self.bytes -= weight(&rest);
        }
    }
}

fn weight(event: &Event) -> usize {
    size_of::<Event>() + event.key.len() + event.value.as_ref().map_or(0, Vec::len)
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        Ok(self.replica.position())
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let revision = entry.log_id.index;
            let reply = self.replica.apply(entry);
            self.replica.revision.send_replace(revision);
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Vec<u8>) -> io::Result<()> {
        let (found, memory) = decode(&snapshot)?;
        if found != *meta {
            return Err(io::Error::other("the snapshot stands for another position than it was announced for"));
        }
        let (snapshots, meta) = (self.snapshots.clone(), found);
        let (meta, snapshot) = blocking(move || {
            snapshots.save(&meta, &snapshot)?;
            Ok((meta, snapshot))
        })
        .await?;
        self.replica.replace(&meta, memory, snapshot);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let current = lock(&self.replica.current).clone();
        Ok(current.map(|(meta, bytes)| Snapshot { meta, snapshot: bytes.as_ref().clone() }))
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let (meta, memory) = {
            let applied = self.replica.applied.read().unwrap_or_else(PoisonError::into_inner);
            let meta = SnapshotMeta { last_log_id: applied.last, last_membership: applied.membership.clone() };
            (meta, Arc::clone(&applied.memory))
        };
        let snapshots = self.snapshots.clone();
        let (meta, bytes) = blocking(move || {
            let bytes = encode(&meta, &memory)?;
            snapshots.save(&meta, &bytes)?;
            Ok((meta, bytes))
        })
        .await?;
        let mut current = lock(&self.replica.current);
        // An install may have overtaken this build.
        if current.as_ref().is_none_or(|(newest, _)| newest.last_log_id < meta.last_log_id) {
            *current = Some((meta.clone(), Arc::new(bytes.clone())));
        }
        Ok(Snapshot { meta, snapshot: bytes })
    }
}

async fn blocking<T: Send + 'static>(run: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(run).await.map_err(io::Error::other)?
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
