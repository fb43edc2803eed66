//! The state machine of the store: keys, transactions, sessions and leased keys.
//!
//! It is here, and not in the store's own crate, because the embedded store (under Raft) and the simulator's model
//! of it must run the very same code. It is deterministic: the same commands at the same revisions give the same
//! bytes, on every voter and in every run. So time never enters. [`Memory::apply`] says which leases were granted or
//! renewed ([`Stamp`]); the host stamps its own clock for them and later proposes [`Command::Expire`], which does
//! nothing unless the lease is still the one the host saw: an old
//! leader's expiry must be harmless.
//!
//! Rules for a host of this state machine:
//! - keep one deadline per stamp (`lease::store_deadline_ns`), and never bring a deadline forward;
//! - after a restart or the install of a snapshot, stamp "now" for everything in [`Memory::stamps`];
//! - propose an expiry only for a deadline that has passed, with the `renew_seq` of that stamp.
//!
//! A holder that shortens its lease (after a planned restart, S15) gives up its longer deadline before it sends the
//! shorter renewal.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use serde::{Deserialize, Serialize};

/// Largest value of one key, in bytes.
pub const MAX_VALUE_BYTES: usize = 1 << 20;
/// Largest sum of what all entries weigh, in bytes; see [`Memory::total_bytes`].
pub const MAX_TOTAL_BYTES: u64 = 64 << 20;
/// What an entry weighs besides its key and value, in bytes, so that many small ones cannot make a large snapshot.
pub const ENTRY_OVERHEAD_BYTES: u64 = 64;
/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 256;
/// Most operations in one branch of a transaction; compares have the same limit.
pub const MAX_TXN_OPS: usize = 1024;
/// Most sessions at once: 20 machines, and room for the ones that run out.
pub const MAX_SESSIONS: usize = 1024;
/// Longest lease, in milliseconds: one hour. Longer ones are refused, because they outlive every repair.
pub const MAX_TTL_MS: u64 = 3_600_000;

/// One agreed change. New kinds go at the end: the log of older voters holds the positions of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Compare, then do one of two lists of operations, all or nothing.
    Txn(Txn),
    /// Open a session. The id is minted by whoever asks, so that asking again is harmless.
    OpenSession {
        /// Id of the new session; never 0.
        session: u64,
        /// Name of the node whose session it is.
        node: String,
        /// Length of the lease in milliseconds.
        ttl_ms: u64,
        /// Boot id of the machine, for the readers of the session; limited like a key.
        boot: String,
    },
    /// Renew sessions and the leased keys each still vouches for.
    Renew(Vec<Renewal>),
    /// End a session at the wish of its node; deletes its leased keys.
    CloseSession {
        /// The session to end.
        session: u64,
    },
    /// End leases that have run out. Each does nothing unless it names the newest renewal.
    Expire(Vec<Expiry>),
    /// Raise the incarnation to this number; never lowers it.
    RaiseIncarnation {
        /// The new incarnation.
        to: u32,
    },
}

/// Compares, evaluated when applied, and what to do when all hold or when one does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// All must hold for `then`.
    pub compares: Vec<Compare>,
    /// Done when every compare holds.
    pub then: Vec<Op>,
    /// Done when one does not.
    pub otherwise: Vec<Op>,
}

/// One condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    /// The key was last changed at this revision; 0 means that it is absent.
    Revision {
        /// The key.
        key: String,
        /// Its modification revision, or 0.
        revision: u64,
    },
    /// The session exists and was not superseded by a newer one of its node.
    SessionAlive {
        /// The session.
        session: u64,
    },
    /// The key exists with exactly this value.
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: Vec<u8>,
    },
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Set a key. With a session the key is leased: it has a deadline of its own, which this put renews (and the
    /// session's with it); without one it stays until it is deleted.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The session that vouches for it.
        session: Option<u64>,
    },
    /// Delete a key; nothing when it is absent.
    Delete {
        /// The key.
        key: String,
    },
    /// Delete every key that begins with this.
    DeletePrefix {
        /// The beginning; not empty.
        prefix: String,
    },
}

/// The renewal of one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// The session.
    pub session: u64,
    /// Grows with every renewal that is sent, repeats included (the sender's boot clock serves). One that is not
    /// above the last applied is stale: it renews nothing, so that a delayed copy cannot bring back a key that its
    /// holder has dropped since.
    pub seq: u64,
    /// Length of the lease from now on, in milliseconds.
    pub ttl_ms: u64,
    /// The leased keys the holder still vouches for; the others of the session run out.
    pub keys: Vec<String>,
}

/// A lease that has run out on the proposer's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiry {
    /// The session.
    pub session: u64,
    /// The [`Stamp::renew_seq`] whose deadline passed.
    pub renew_seq: u64,
    /// One leased key of the session, or the whole session with all its keys.
    pub key: Option<String>,
}

/// What is stored under one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The bytes; the store does not know what they mean.
    pub value: Vec<u8>,
    /// Revision at which the key came to be; a later put keeps it.
    pub created: u64,
    /// Revision of the last put.
    pub modified: u64,
    /// Set for a leased key.
    pub lease: Option<Lease>,
}

/// The lease of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The session that vouches for the key.
    pub session: u64,
    /// Revision of the last grant or renewal of this key.
    pub renew_seq: u64,
    /// Length granted then, in milliseconds.
    pub ttl_ms: u64,
}

/// A node's session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Name of the node.
    pub node: String,
    /// Boot id of the machine when it opened.
    pub boot: String,
    /// Length granted last, in milliseconds.
    pub ttl_ms: u64,
    /// Revision at which it was opened.
    pub opened: u64,
    /// Revision of the last grant or renewal.
    pub renew_seq: u64,
    /// [`Renewal::seq`] of the last renewal applied.
    pub seq: u64,
    /// A newer session of the same node exists: this one cannot be renewed and runs out with its keys.
    pub superseded: bool,
    /// Its leased keys.
    pub keys: BTreeSet<String>,
}

/// What one command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The answer for whoever asked.
    pub answer: Answer,
    /// What changed, in order.
    pub events: Vec<Event>,
    /// Leases granted or renewed; the host stamps its clock for each.
    pub stamps: Vec<Stamp>,
}

/// The answer to a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Nothing to say: the entry carried no command.
    #[default]
    Nothing,
    /// A transaction was applied.
    Txn {
        /// Whether every compare held, so that `then` was done.
        succeeded: bool,
    },
    /// The session is open.
    Opened {
        /// Its id.
        session: u64,
    },
    /// One answer per renewal, in order.
    Renewed(Vec<Renewed>),
    /// A session was closed.
    Closed {
        /// Whether there was one.
        existed: bool,
    },
    /// Leases ended.
    Expired {
        /// How many of those proposed were still current.
        ended: u64,
    },
    /// The incarnation now.
    Incarnation(u32),
    /// Nothing was changed.
    Refused(Refusal),
}

/// The answer to one renewal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Renewed {
    /// The session runs on, and so do these of the keys it listed.
    Alive {
        /// Keys that the session still leases, as listed.
        keys: Vec<String>,
    },
    /// A newer renewal was applied before; this one counts for nothing.
    Stale,
    /// The session has ended or was superseded; a new one must be opened.
    Gone,
}

/// Why a command was refused. Repeating it gives the same answer until something else changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// A key is empty or longer than [`MAX_KEY_BYTES`].
    BadKey {
        /// Its length in bytes.
        bytes: u64,
    },
    /// A value is larger than [`MAX_VALUE_BYTES`].
    ValueTooLarge {
        /// The key it was meant for.
        key: String,
        /// Its size in bytes.
        bytes: u64,
    },
    /// The store would hold more than [`MAX_TOTAL_BYTES`].
    Full {
        /// What it would hold, in bytes.
        would_hold_bytes: u64,
    },
    /// More than [`MAX_TXN_OPS`] operations or compares.
    TooManyOps {
        /// How many.
        ops: u64,
    },
    /// More than [`MAX_SESSIONS`] sessions.
    TooManySessions,
    /// The lease is zero or longer than [`MAX_TTL_MS`].
    BadTtl {
        /// What was asked for, in milliseconds.
        ttl_ms: u64,
    },
    /// A leased put names a session that has ended or was superseded.
    NoSession {
        /// The session.
        session: u64,
    },
    /// The id belongs to a session of another node, to a superseded one, or is 0.
    SessionTaken {
        /// The session.
        session: u64,
    },
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BadKey { bytes } => write!(f, "a key of {bytes} bytes; 1 to {MAX_KEY_BYTES} are allowed"),
            Self::ValueTooLarge { key, bytes } => {
                write!(f, "the value of `{key}` has {bytes} bytes; at most {MAX_VALUE_BYTES} are allowed")
            }
            Self::Full { would_hold_bytes } => {
                write!(f, "the store would hold {would_hold_bytes} bytes; at most {MAX_TOTAL_BYTES} are allowed")
            }
            Self::TooManyOps { ops } => write!(f, "{ops} operations in one transaction; at most {MAX_TXN_OPS}"),
            Self::TooManySessions => write!(f, "more than {MAX_SESSIONS} sessions"),
            Self::BadTtl { ttl_ms } => {
                write!(f, "a lease of {ttl_ms} ms; 1 to {MAX_TTL_MS} are allowed")
            }
            Self::NoSession { session } => {
                write!(f, "session {session:x} has ended or was superseded")
            }
            Self::SessionTaken { session } => {
                write!(f, "session id {session:x} is taken; mint another")
            }
        }
    }
}

impl Refusal {
    /// Whether a size limit was the reason.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::BadKey { .. } | Self::ValueTooLarge { .. } | Self::Full { .. } | Self::TooManyOps { .. })
    }
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The revision of the command that did it.
    pub revision: u64,
    /// The key.
    pub key: String,
    /// The new value; none when the key is gone.
    pub value: Option<Vec<u8>>,
    /// What happened.
    pub kind: EventKind,
}

/// How a key changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// It was set.
    Put,
    /// It was deleted by a transaction.
    Deleted,
    /// Its lease ran out.
    Expired,
    /// Its session was closed.
    Closed,
}

/// A lease that was granted or renewed and now needs a deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The session.
    pub session: u64,
    /// One leased key of it, or the session itself.
    pub key: Option<String>,
    /// What an [`Expiry`] for this stamp must name.
    pub renew_seq: u64,
    /// Length in milliseconds.
    pub ttl_ms: u64,
}

/// The whole state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    incarnation: u32,
    applied: u64,
    total_bytes: u64,
    entries: BTreeMap<String, Entry>,
    sessions: BTreeMap<u64, Session>,
}

/// What an apply collects while it runs.
struct Effects {
    revision: u64,
    events: Vec<Event>,
    stamps: Vec<Stamp>,
}

impl Txn {
    /// Checks the limits that do not depend on the state, of both branches. A host refuses with it before it puts a
    /// transaction into the agreed order; applying checks again.
    ///
    /// # Errors
    /// The first limit that is exceeded.
    pub fn check_limits(&self) -> Result<(), Refusal> {
        let longest = self.compares.len().max(self.then.len()).max(self.otherwise.len());
        if longest > MAX_TXN_OPS {
            return Err(Refusal::TooManyOps { ops: longest as u64 });
        }
        for op in self.then.iter().chain(&self.otherwise) {
            match op {
                Op::Put { key, value, .. } => {
                    check_key(key)?;
                    if value.len() > MAX_VALUE_BYTES {
                        return Err(Refusal::ValueTooLarge { key: key.clone(), bytes: value.len() as u64 });
                    }
                }
                Op::Delete { key } => check_key(key)?,
                Op::DeletePrefix { prefix } => check_key(prefix)?,
            }
        }
        Ok(())
    }
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies one command. `revision` is the position of the command in the agreed order and must grow.
    pub fn apply(&mut self, revision: u64, command: &Command) -> Outcome {
        debug_assert!(revision > self.applied, "revision {revision} after {}", self.applied);
        self.applied = revision;
        let mut effects = Effects { revision, events: Vec::new(), stamps: Vec::new() };
        let answer = match command {
            Command::Txn(txn) => self.txn(txn, &mut effects),
            Command::OpenSession { session, node, ttl_ms, boot } => {
                self.open(*session, node, *ttl_ms, boot, &mut effects)
            }
            Command::Renew(renewals) => {
                Answer::Renewed(renewals.iter().map(|one| self.renew(one, &mut effects)).collect())
            }
            Command::CloseSession { session } => {
                Answer::Closed { existed: self.end_session(*session, EventKind::Closed, &mut effects) }
            }
            Command::Expire(expiries) => {
                Answer::Expired { ended: expiries.iter().map(|one| u64::from(self.expire(one, &mut effects))).sum() }
            }
            Command::RaiseIncarnation { to } => {
                self.incarnation = self.incarnation.max(*to);
                Answer::Incarnation(self.incarnation)
            }
        };
        Outcome { answer, events: effects.events, stamps: effects.stamps }
    }

    /// Notes a position in the agreed order that carries no command.
    pub fn skip(&mut self, revision: u64) {
        self.applied = self.applied.max(revision);
    }

    /// The revision of the last command applied.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.applied
    }

    /// Raised when the store is restored or forced; prefixes generations and tokens.
    #[must_use]
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// What all entries weigh, in bytes: value, twice the key (its session lists it too) and a fixed overhead.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// What is stored under a key.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Everything whose key begins with `prefix`, in order.
    pub fn range<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Entry)> + 'a {
        self.entries
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(key, entry)| (key.as_str(), entry))
    }

    /// A session by its id, superseded ones included.
    #[must_use]
    pub fn session(&self, session: u64) -> Option<&Session> {
        self.sessions.get(&session)
    }

    /// All sessions, by id.
    pub fn sessions(&self) -> impl Iterator<Item = (u64, &Session)> {
        self.sessions.iter().map(|(id, session)| (*id, session))
    }

    /// Whether a session exists and may be renewed.
    #[must_use]
    pub fn session_alive(&self, session: u64) -> bool {
        self.sessions.get(&session).is_some_and(|found| !found.superseded)
    }

    /// Every lease there is, for a host that must stamp them all (restart, snapshot).
    #[must_use]
    pub fn stamps(&self) -> Vec<Stamp> {
        let of_sessions = self.sessions.iter().map(|(id, session)| Stamp {
            session: *id,
            key: None,
            renew_seq: session.renew_seq,
            ttl_ms: session.ttl_ms,
        });
        let of_keys = self.entries.iter().filter_map(|(key, entry)| {
            entry.lease.as_ref().map(|lease| Stamp {
                session: lease.session,
                key: Some(key.clone()),
                renew_seq: lease.renew_seq,
                ttl_ms: lease.ttl_ms,
            })
        });
        of_sessions.chain(of_keys).collect()
    }

    /// Whether the lease that an expiry names is still the one it saw.
    #[must_use]
    pub fn is_current(&self, expiry: &Expiry) -> bool {
        match &expiry.key {
            None => self.sessions.get(&expiry.session).is_some_and(|found| found.renew_seq == expiry.renew_seq),
            Some(key) => self
                .entries
                .get(key)
                .and_then(|entry| entry.lease.as_ref())
                .is_some_and(|lease| lease.session == expiry.session && lease.renew_seq == expiry.renew_seq),
        }
    }

    /// A digest of the whole state, equal on voters that applied the same commands.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut digest = Digest::new();
        digest.number(u64::from(self.incarnation));
        digest.number(self.applied);
        digest.number(self.total_bytes);
        digest.number(self.entries.len() as u64);
        for (key, entry) in &self.entries {
            digest.bytes(key.as_bytes());
            digest.bytes(&entry.value);
            digest.number(entry.created);
            digest.number(entry.modified);
            match &entry.lease {
                None => digest.number(0),
                Some(lease) => {
                    digest.number(1);
                    digest.number(lease.session);
                    digest.number(lease.renew_seq);
                    digest.number(lease.ttl_ms);
                }
            }
        }
        digest.number(self.sessions.len() as u64);
        for (id, session) in &self.sessions {
            digest.number(*id);
            digest.bytes(session.node.as_bytes());
            digest.bytes(session.boot.as_bytes());
            for number in [session.ttl_ms, session.opened, session.renew_seq, session.seq] {
                digest.number(number);
            }
            digest.number(u64::from(session.superseded));
            digest.number(session.keys.len() as u64);
            session.keys.iter().for_each(|key| digest.bytes(key.as_bytes()));
        }
        digest.0
    }

    fn txn(&mut self, txn: &Txn, effects: &mut Effects) -> Answer {
        if let Err(refusal) = txn.check_limits() {
            return Answer::Refused(refusal);
        }
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        if let Err(refusal) = self.admit(ops) {
            return Answer::Refused(refusal);
        }
        for op in ops {
            match op {
                Op::Put { key, value, session } => self.put(key, value, *session, effects),
                Op::Delete { key } => {
                    self.remove(key, EventKind::Deleted, effects);
                }
                Op::DeletePrefix { prefix } => {
                    let keys: Vec<String> = self.range(prefix).map(|(key, _)| key.to_owned()).collect();
                    for key in keys {
                        self.remove(&key, EventKind::Deleted, effects);
                    }
                }
            }
        }
        Answer::Txn { succeeded }
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Revision { key, revision } => self.entries.get(key).map_or(0, |entry| entry.modified) == *revision,
            Compare::SessionAlive { session } => self.session_alive(*session),
            Compare::Value { key, value } => self.entries.get(key).is_some_and(|entry| entry.value == *value),
        }
    }

    /// Checks every limit before anything is changed, so that a refused transaction changes nothing.
    fn admit(&self, ops: &[Op]) -> Result<(), Refusal> {
        let mut sizes: BTreeMap<&str, Option<u64>> = BTreeMap::new();
        let mut total = self.total_bytes;
        for op in ops {
            match op {
                Op::Put { key, value, session } => {
                    if let Some(session) = session.filter(|session| !self.session_alive(*session)) {
                        return Err(Refusal::NoSession { session });
                    }
                    let size = weight(key, value);
                    let before = sizes.insert(key, Some(size)).unwrap_or_else(|| self.size_of(key));
                    total = total - before.unwrap_or(0) + size;
                }
                Op::Delete { key } => {
                    let before = sizes.insert(key, None).unwrap_or_else(|| self.size_of(key));
                    total -= before.unwrap_or(0);
                }
                Op::DeletePrefix { prefix } => {
                    for (key, _) in self.range(prefix) {
                        sizes.entry(key).or_insert_with(|| self.size_of(key));
                    }
                    let hit = sizes.iter_mut().filter(|(key, _)| key.starts_with(prefix.as_str()));
                    total -= hit.filter_map(|(_, size)| size.take()).sum::<u64>();
                }
            }
        }
        // A store that is already too full (an older limit) must still be able to shrink.
        if total > MAX_TOTAL_BYTES && total > self.total_bytes {
            return Err(Refusal::Full { would_hold_bytes: total });
        }
        Ok(())
    }

    fn size_of(&self, key: &str) -> Option<u64> {
        self.entries.get(key).map(|entry| weight(key, &entry.value))
    }

    fn put(&mut self, key: &str, value: &[u8], session: Option<u64>, effects: &mut Effects) {
        let revision = effects.revision;
        let before = self.take(key);
        let lease = session.and_then(|id| {
            let found = self.sessions.get_mut(&id)?;
            found.keys.insert(key.to_owned());
            // The session must not end before a key of it that was granted later.
            found.renew_seq = revision;
            let ttl_ms = found.ttl_ms;
            effects.stamps.push(Stamp { session: id, key: None, renew_seq: revision, ttl_ms });
            let key = Some(key.to_owned());
            effects.stamps.push(Stamp { session: id, key, renew_seq: revision, ttl_ms });
            Some(Lease { session: id, renew_seq: revision, ttl_ms })
        });
        self.total_bytes += weight(key, value);
        let created = before.map_or(revision, |entry| entry.created);
        self.entries.insert(key.to_owned(), Entry { value: value.to_vec(), created, modified: revision, lease });
        effects.events.push(Event { revision, key: key.to_owned(), value: Some(value.to_vec()), kind: EventKind::Put });
    }

    fn remove(&mut self, key: &str, kind: EventKind, effects: &mut Effects) -> bool {
        let existed = self.take(key).is_some();
        if existed {
            let event = Event { revision: effects.revision, key: key.to_owned(), value: None, kind };
            effects.events.push(event);
        }
        existed
    }

    /// Takes an entry out and keeps the books (bytes, the session's keys) right.
    fn take(&mut self, key: &str) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.total_bytes = self.total_bytes.saturating_sub(weight(key, &entry.value));
        if let Some(session) = entry.lease.as_ref().and_then(|lease| self.sessions.get_mut(&lease.session)) {
            session.keys.remove(key);
        }
        Some(entry)
    }

    fn open(&mut self, id: u64, node: &str, ttl_ms: u64, boot: &str, effects: &mut Effects) -> Answer {
        if let Err(refusal) = check_ttl(ttl_ms) {
            return Answer::Refused(refusal);
        }
        let known = self.sessions.get(&id);
        if id == 0 || known.is_some_and(|found| found.node != node || found.superseded) {
            return Answer::Refused(Refusal::SessionTaken { session: id });
        }
        if known.is_none() && self.sessions.len() >= MAX_SESSIONS {
            return Answer::Refused(Refusal::TooManySessions);
        }
        if let Err(refusal) = check_key(node).and_then(|()| check_key(boot)) {
            return Answer::Refused(refusal);
        }
        let revision = effects.revision;
        for (other, session) in &mut self.sessions {
            session.superseded |= session.node == node && *other != id;
        }
        let session = self.sessions.entry(id).or_insert_with(|| Session {
            node: node.to_owned(),
            boot: boot.to_owned(),
            ttl_ms,
            opened: revision,
            renew_seq: revision,
            seq: 0,
            superseded: false,
            keys: BTreeSet::new(),
        });
        session.ttl_ms = ttl_ms;
        session.renew_seq = revision;
        effects.stamps.push(Stamp { session: id, key: None, renew_seq: revision, ttl_ms });
        Answer::Opened { session: id }
    }

    fn renew(&mut self, renewal: &Renewal, effects: &mut Effects) -> Renewed {
        let id = renewal.session;
        let Some(session) = self.sessions.get_mut(&id).filter(|found| !found.superseded) else {
            return Renewed::Gone;
        };
        if renewal.seq <= session.seq || check_ttl(renewal.ttl_ms).is_err() {
            return Renewed::Stale;
        }
        let (renew_seq, ttl_ms) = (effects.revision, renewal.ttl_ms);
        session.seq = renewal.seq;
        session.ttl_ms = ttl_ms;
        session.renew_seq = renew_seq;
        effects.stamps.push(Stamp { session: id, key: None, renew_seq, ttl_ms });
        let mut alive = Vec::new();
        for key in &renewal.keys {
            let lease = self.entries.get_mut(key).and_then(|entry| entry.lease.as_mut());
            if let Some(lease) = lease.filter(|lease| lease.session == id) {
                lease.renew_seq = renew_seq;
                lease.ttl_ms = ttl_ms;
                effects.stamps.push(Stamp { session: id, key: Some(key.clone()), renew_seq, ttl_ms });
                alive.push(key.clone());
            }
        }
        Renewed::Alive { keys: alive }
    }

    fn expire(&mut self, expiry: &Expiry, effects: &mut Effects) -> bool {
        if !self.is_current(expiry) {
            return false;
        }
        match &expiry.key {
            Some(key) => self.remove(key, EventKind::Expired, effects),
            None => self.end_session(expiry.session, EventKind::Expired, effects),
        }
    }

    fn end_session(&mut self, id: u64, kind: EventKind, effects: &mut Effects) -> bool {
        let Some(session) = self.sessions.remove(&id) else {
            return false;
        };
        for key in session.keys {
            self.remove(&key, kind, effects);
        }
        true
    }
}

fn weight(key: &str, value: &[u8]) -> u64 {
    (2 * key.len() + value.len()) as u64 + ENTRY_OVERHEAD_BYTES
}

fn check_key(key: &str) -> Result<(), Refusal> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(Refusal::BadKey { bytes: key.len() as u64 });
    }
    Ok(())
}

fn check_ttl(ttl_ms: u64) -> Result<(), Refusal> {
    if ttl_ms == 0 || ttl_ms > MAX_TTL_MS {
        return Err(Refusal::BadTtl { ttl_ms });
    }
    Ok(())
}

/// FNV-1a with lengths written in, so that neighbouring fields cannot run into one another.
struct Digest(u64);

impl Digest {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        bytes.iter().for_each(|byte| self.byte(*byte));
    }

    fn number(&mut self, number: u64) {
        number.to_le_bytes().iter().for_each(|byte| self.byte(*byte));
    }

    fn byte(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
