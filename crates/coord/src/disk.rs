//! The voter's log and vote on disk: one redb file, written by one thread.
//!
//! A voter must never forget a vote it gave or an entry it acknowledged. So every commit is durable and two-phase
//! (a damaged newest commit then shows as damage instead of being rolled back), every entry carries a checksum over
//! its index and bytes, and the whole log is read and checked when it is opened. Nothing is retried: the first error
//! ends this store for good, and with it the voter (S12).
//!
//! One thread writes, in order. It takes everything that waits into one commit and then answers in order, so that
//! the consensus core, which waits inline for some of these calls, is never stuck behind one fsync per entry.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use redb::{Database, Durability, ReadableDatabase, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::checksum::crc32c;
use crate::raft_types::{Entry, LogId, Types, Vote};

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");

/// Version of the layout; another one is refused.
const FORMAT: u32 = 1;
/// Name of the one file in the voter's directory.
pub(crate) const FILE: &str = "raft.redb";
/// Most requests that wait for the writer.
const QUEUE: usize = 1024;
/// Most requests in one commit.
const MAX_GROUP: usize = 256;
/// Page cache of redb, in bytes.
const CACHE_BYTES: usize = 8 << 20;
/// Length of the checksum behind each entry.
const CRC_BYTES: usize = 4;

/// Whose store this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub format: u32,
    pub cluster: String,
    pub node: String,
    pub raft_id: u64,
}

impl Identity {
    pub(crate) fn new(cluster: &str, node: &str, raft_id: u64) -> Self {
        Self { format: FORMAT, cluster: cluster.to_owned(), node: node.to_owned(), raft_id }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    #[error("{0}")]
    Corrupted(String),
    #[error("it is open in another process")]
    InUse,
    #[error("it belongs to node `{}` (voter {:x}) of cluster `{}`", .0.node, .0.raft_id, .0.cluster)]
    Foreign(Identity),
    #[error(transparent)]
    Io(#[from] io::Error),
}

enum Job {
    Append { entries: Vec<Entry>, flushed: IOFlushed<Types> },
    Vote { vote: Vote, done: oneshot::Sender<io::Result<()>> },
    Committed { committed: Option<LogId> },
    TruncateFrom { index: u64, done: oneshot::Sender<io::Result<()>> },
    Purge { upto: LogId, done: oneshot::Sender<io::Result<()>> },
    Stop,
}

/// The log, and a reader of it; clones share one file and one writer.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    database: RwLock<Option<Arc<Database>>>,
    /// Entries handed to the writer that no commit holds yet: they must be readable at once.
    pending: Mutex<BTreeMap<u64, Entry>>,
    vote: Mutex<Option<Vote>>,
    bounds: Mutex<Bounds>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Size of all entries in the file.
    log_bytes: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    purged: Option<LogId>,
    last: Option<LogId>,
}

impl LogStore {
    /// Whether the directory holds a store that belongs to somebody. A file without an identity was never used: the
    /// identity is committed before the first vote can be.
    pub(crate) fn exists(dir: &Path) -> Result<bool, DiskError> {
        let path = dir.join(FILE);
        if !path.try_exists()? {
            return Ok(false);
        }
        let database = open_database(&path)?;
        Ok(guard(|| read_meta::<Identity>(&database, "identity"))??.is_some())
    }

    /// Opens the store of `identity`, making an empty one where there is none, and checks every entry.
    ///
    /// A store that is made now keeps `formation`: who was fresh when the cluster was formed (raft id, nonce).
    pub(crate) fn open(dir: &Path, identity: &Identity, formation: &[(u64, u64)]) -> Result<Self, DiskError> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(FILE);
        let database = open_database(&path)?;
        let checked = guard(|| -> Result<_, DiskError> {
            claim(&database, identity, formation)?;
            check(&database)
        })??;
        sync_dir(dir)?;
        dir.parent().map(sync_dir).transpose()?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let database = Arc::new(database);
        let shared = Arc::new(Shared {
            path,
            database: RwLock::new(Some(Arc::clone(&database))),
            pending: Mutex::default(),
            vote: Mutex::new(checked.vote),
            bounds: Mutex::new(checked.bounds),
            writer: Mutex::default(),
            log_bytes: AtomicU64::new(checked.log_bytes),
        });
        let for_writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("store-log".into())
            .spawn(move || Writer { database, shared: for_writer, failed: None, hint: None }.run(queue))?;
        *lock(&shared.writer) = Some(thread);
        Ok(Self { shared, jobs })
    }

    /// Stops the writer after what it was given and closes the file. Blocks for one commit.
    pub(crate) fn close(&self) {
        if let Some(thread) = lock(&self.shared.writer).take() {
            // A full queue cannot last: the writer drains it. Blocking is allowed here and bounded by its commits.
            let mut stop = Job::Stop;
            while let Err(mpsc::error::TrySendError::Full(back)) = self.jobs.try_send(stop) {
                stop = back;
                std::thread::yield_now();
            }
            if thread.join().is_err() {
                tracing::error!(path = %self.shared.path.display(), "the writer of the store panicked");
            }
        }
        self.shared.database.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Who was fresh when this store was formed; empty for a store that joined later.
    pub(crate) fn formation(&self) -> Result<Vec<(u64, u64)>, DiskError> {
        let database = self.shared.database()?;
        Ok(guard(|| read_meta(&database, "formation"))??.unwrap_or_default())
    }

    /// Index of the last purged entry.
    pub(crate) fn purged(&self) -> Option<u64> {
        lock(&self.shared.bounds).purged.map(|id| id.index)
    }

    /// Size of all entries in the file, in bytes.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.shared.log_bytes.load(Ordering::Relaxed)
    }

    async fn send(&self, job: Job) -> io::Result<()> {
        self.jobs.send(job).await.map_err(|_| closed())
    }

    async fn send_and_wait(&self, make: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Job) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.send(make(done)).await?;
        wait.await.map_err(|_| closed())?
    }
}

impl Shared {
    fn database(&self) -> io::Result<Arc<Database>> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database.clone().ok_or_else(closed)
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        if is_empty(bounds) {
            return Ok(Vec::new());
        }
        // Pending first: an entry leaves it only after the commit that a later read of the file must show.
        let pending: Vec<_> = {
            let pending = lock(&self.shared.pending);
            pending.range(bounds).map(|(index, entry)| (*index, entry.clone())).collect()
        };
        let database = self.shared.database()?;
        let mut entries = guard(|| read_log(&database, bounds)).map_err(to_io)?.map_err(to_io)?;
        entries.extend(pending);
        let consecutive = entries.keys().zip(entries.keys().skip(1)).all(|(one, next)| one + 1 == *next);
        if !consecutive {
            return Err(io::Error::other(format!("the log has a hole within {range:?}")));
        }
        Ok(entries.into_values().collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(*lock(&self.shared.vote))
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let bounds = *lock(&self.shared.bounds);
        Ok(LogState { last_purged_log_id: bounds.purged, last_log_id: bounds.last.or(bounds.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = *vote;
        self.send_and_wait(|done| Job::Vote { vote, done }).await?;
        *lock(&self.shared.vote) = Some(vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.send(Job::Committed { committed }).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let database = self.shared.database()?;
        let read = guard(|| read_meta::<Option<LogId>>(&database, "committed")).map_err(to_io)?;
        Ok(read.map_err(to_io)?.flatten())
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        {
            let mut pending = lock(&self.shared.pending);
            pending.extend(entries.iter().map(|entry| (entry.log_id.index, entry.clone())));
        }
        if let Some(last) = entries.last() {
            lock(&self.shared.bounds).last = Some(last.log_id());
        }
        self.send(Job::Append { entries, flushed }).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let index = last_log_id.map_or(0, |id| id.index + 1);
        self.send_and_wait(|done| Job::TruncateFrom { index, done }).await?;
        let mut bounds = lock(&self.shared.bounds);
        if bounds.last > last_log_id {
            bounds.last = last_log_id;
        }
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        {
            let mut bounds = lock(&self.shared.bounds);
            bounds.purged = Some(upto);
            bounds.last = bounds.last.filter(|last| last.index > upto.index);
        }
        self.send_and_wait(|done| Job::Purge { upto, done }).await
    }
}

/// The thread that writes.
struct Writer {
    database: Arc<Database>,
    shared: Arc<Shared>,
    /// The first error; everything after it fails with it.
    failed: Option<String>,
    /// The newest commit position, written with the next commit: it is a hint and not worth one of its own.
    hint: Option<Option<LogId>>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let mut group = vec![first];
            while group.len() < MAX_GROUP {
                let Ok(next) = queue.try_recv() else { break };
                group.push(next);
            }
            if !self.write(group) {
                return;
            }
        }
    }

    /// Writes one group and answers it in order. False when told to stop.
    fn write(&mut self, group: Vec<Job>) -> bool {
        let stop = group.iter().any(|job| matches!(job, Job::Stop));
        for job in &group {
            if let Job::Committed { committed } = job {
                self.hint = Some(*committed);
            }
        }
        let durable = group.iter().any(|job| !matches!(job, Job::Committed { .. } | Job::Stop));
        if self.failed.is_none() && (durable || (stop && self.hint.is_some())) {
            let committed = catch_unwind(AssertUnwindSafe(|| self.commit(&group)));
            let error = match committed {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the storage library panicked".to_owned()),
            };
            if let Some(error) = error {
                tracing::error!(path = %self.shared.path.display(), error, "writing the store failed; it stops here");
                self.failed = Some(error);
            }
        }
        for job in group {
            self.answer(job);
        }
        !stop
    }

    fn commit(&mut self, group: &[Job]) -> Result<(), redb::Error> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        txn.set_two_phase_commit(true);
        txn.set_quick_repair(true);
        let mut log_bytes = self.shared.log_bytes.load(Ordering::Relaxed);
        {
            let mut log = txn.open_table(LOG)?;
            let mut meta = txn.open_table(META)?;
            for job in group {
                match job {
                    Job::Append { entries, .. } => {
                        for entry in entries {
                            let index = entry.log_id.index;
                            let sealed = seal_entry(index, entry)?;
                            log_bytes += sealed.len() as u64;
                            log.insert(index, sealed.as_slice())?;
                        }
                    }
                    Job::Vote { vote, .. } => put_meta(&mut meta, "vote", vote)?,
                    Job::TruncateFrom { index, .. } => {
                        log.retain_in(*index.., |_, bytes| drop_entry(bytes, &mut log_bytes))?;
                    }
                    Job::Purge { upto, .. } => {
                        put_meta(&mut meta, "purged", upto)?;
                        log.retain_in(..=upto.index, |_, bytes| drop_entry(bytes, &mut log_bytes))?;
                    }
                    Job::Committed { .. } | Job::Stop => {}
                }
            }
            if let Some(hint) = self.hint.take() {
                put_meta(&mut meta, "committed", &hint)?;
            }
        }
        txn.commit()?;
        self.shared.log_bytes.store(log_bytes, Ordering::Relaxed);
        Ok(())
    }

    fn answer(&self, job: Job) {
        let result = match &self.failed {
            None => Ok(()),
            Some(error) => Err(io::Error::other(error.clone())),
        };
        match job {
            Job::Append { entries, flushed } => {
                if result.is_ok() {
                    let mut pending = lock(&self.shared.pending);
                    for entry in &entries {
                        // A later append may already hold the place of an entry that was truncated since.
                        let index = entry.log_id.index;
                        if pending.get(&index).is_some_and(|found| found.log_id == entry.log_id) {
                            pending.remove(&index);
                        }
                    }
                }
                flushed.io_completed(result);
            }
            Job::Vote { done, .. } | Job::TruncateFrom { done, .. } | Job::Purge { done, .. } => {
                // Nobody waits any more when the core was shut down.
                let _ = done.send(result);
            }
            Job::Committed { .. } | Job::Stop => {}
        }
    }
}

/// What a check of the whole file found.
struct Checked {
    vote: Option<Vote>,
    bounds: Bounds,
    log_bytes: u64,
}

/// Opens the file with redb's own check of every page, so that later reads cannot meet a surprise.
fn open_database(path: &Path) -> Result<Database, DiskError> {
    let opened =
        guard(|| redb::Builder::new().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).create(path))?;
    opened.map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => DiskError::InUse,
        redb::DatabaseError::Storage(redb::StorageError::Io(error)) => match error.kind() {
            // What redb says of a file that is not one of its own.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => DiskError::Corrupted(error.to_string()),
            _ => DiskError::Io(error),
        },
        other => DiskError::Corrupted(other.to_string()),
    })
}

/// Writes the identity into an empty store, or compares it.
fn claim(database: &Database, identity: &Identity, formation: &[(u64, u64)]) -> Result<(), DiskError> {
    match read_meta::<Identity>(database, "identity")? {
        Some(found) if found == *identity => Ok(()),
        Some(found) => Err(DiskError::Foreign(found)),
        None => write_claim(database, identity, formation).map_err(|error| DiskError::Corrupted(error.to_string())),
    }
}

/// Reads every entry: checksums, no holes, nothing missing between what was purged and the first.
fn check(database: &Database) -> Result<Checked, DiskError> {
    let vote = read_meta::<Vote>(database, "vote")?;
    let purged = read_meta::<LogId>(database, "purged")?;
    let rows = read_rows(database, (Bound::Unbounded, Bound::Unbounded))?;
    let (mut last, mut log_bytes) = (None, 0);
    for (expected, (index, bytes)) in (purged.map_or(0, |id| id.index + 1)..).zip(rows) {
        if index != expected {
            return Err(DiskError::Corrupted(format!("entry {expected} of the log is missing")));
        }
        last = Some(unseal_entry(index, &bytes)?.log_id);
        log_bytes += bytes.len() as u64;
    }
    Ok(Checked { vote, bounds: Bounds { purged, last }, log_bytes })
}

fn read_log(database: &Database, range: (Bound<u64>, Bound<u64>)) -> Result<BTreeMap<u64, Entry>, DiskError> {
    let rows = read_rows(database, range)?.into_iter();
    rows.map(|(index, bytes)| Ok((index, unseal_entry(index, &bytes)?))).collect()
}

fn read_rows(database: &Database, range: (Bound<u64>, Bound<u64>)) -> Result<Vec<(u64, Vec<u8>)>, DiskError> {
    let read = || -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
        let txn = database.begin_read()?;
        let table = match txn.open_table(LOG) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut found = Vec::new();
        for row in table.range::<u64>(range)? {
            let (index, bytes) = row?;
            found.push((index.value(), bytes.value().to_vec()));
        }
        Ok(found)
    };
    read().map_err(|error| DiskError::Corrupted(error.to_string()))
}

fn read_meta<T: DeserializeOwned>(database: &Database, name: &str) -> Result<Option<T>, DiskError> {
    let read = || -> Result<Option<Vec<u8>>, redb::Error> {
        let txn = database.begin_read()?;
        match txn.open_table(META) {
            Ok(table) => Ok(table.get(name)?.map(|bytes| bytes.value().to_vec())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    let Some(bytes) = read().map_err(|error| DiskError::Corrupted(error.to_string()))? else {
        return Ok(None);
    };
    let body = unseal(name.as_bytes(), &bytes).ok_or_else(|| damaged(name))?;
    postcard::from_bytes(body).map(Some).map_err(|_| damaged(name))
}

fn damaged(what: &str) -> DiskError {
    DiskError::Corrupted(format!("the record `{what}` is damaged"))
}

fn write_claim(database: &Database, identity: &Identity, formation: &[(u64, u64)]) -> Result<(), redb::Error> {
    let mut txn = database.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_two_phase_commit(true);
    txn.set_quick_repair(true);
    {
        let mut meta = txn.open_table(META)?;
        put_meta(&mut meta, "identity", identity)?;
        put_meta(&mut meta, "formation", &formation.to_vec())?;
    }
    txn.commit()?;
    Ok(())
}

fn put_meta<T: Serialize>(
    table: &mut redb::Table<'_, &'static str, &'static [u8]>,
    name: &str,
    value: &T,
) -> Result<(), redb::Error> {
    let body = postcard::to_stdvec(value).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
    table.insert(name, seal(name.as_bytes(), body).as_slice())?;
    Ok(())
}

/// Bytes with a checksum over their place and themselves, so that a misplaced record is a damaged one.
fn seal(place: &[u8], mut body: Vec<u8>) -> Vec<u8> {
    let crc = crc32c(&[place, &body]);
    body.extend_from_slice(&crc.to_le_bytes());
    body
}

fn unseal<'a>(place: &[u8], bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (body, crc) = bytes.split_at(bytes.len().checked_sub(CRC_BYTES)?);
    (crc32c(&[place, body]).to_le_bytes() == crc).then_some(body)
}

fn seal_entry(index: u64, entry: &Entry) -> Result<Vec<u8>, redb::Error> {
    let body = postcard::to_stdvec(entry).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
    Ok(seal(&index.to_le_bytes(), body))
}

fn unseal_entry(index: u64, bytes: &[u8]) -> Result<Entry, DiskError> {
    let bad = || DiskError::Corrupted(format!("entry {index} of the log is damaged"));
    let body = unseal(&index.to_le_bytes(), bytes).ok_or_else(bad)?;
    let entry: Entry = postcard::from_bytes(body).map_err(|_| bad())?;
    if entry.log_id.index != index {
        return Err(bad());
    }
    Ok(entry)
}

/// Says "do not keep it" and takes it off the books.
fn drop_entry(bytes: &[u8], log_bytes: &mut u64) -> bool {
    *log_bytes = log_bytes.saturating_sub(bytes.len() as u64);
    false
}

/// redb may panic on a file that something else has written to; that is damage, not a bug of ours.
fn guard<T>(run: impl FnOnce() -> T) -> Result<T, DiskError> {
    catch_unwind(AssertUnwindSafe(run))
        .map_err(|_| DiskError::Corrupted("the storage library met damage it has no name for".into()))
}

fn is_empty(bounds: (Bound<u64>, Bound<u64>)) -> bool {
    let start = match bounds.0 {
        Bound::Included(start) => start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    match bounds.1 {
        Bound::Included(end) => start > end,
        Bound::Excluded(end) => start >= end,
        Bound::Unbounded => false,
    }
}

fn to_io(error: DiskError) -> io::Error {
    match error {
        DiskError::Io(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

fn closed() -> io::Error {
    io::Error::other("the store is closed")
}

/// Makes names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    std::fs::File::open(dir)?.sync_all()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
