//! The contract of the cluster's memory, whatever keeps it: get, transactions, sessions with leases, watch.
//!
//! Reads are linearizable. A write has one of three ends: it was applied, it certainly was not, or nobody can say
//! ([`StoreError::Unknown`]). The third is never repeated silently, because a repeated transaction may undo what
//! others built on the first; whoever asked reads and compares.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use backstay_model::memory::{Entry, Event, Memory, Refusal, Renewal, Txn};
use serde::{Deserialize, Serialize};

/// A future that can be named, so that stores can be used behind `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Longest wait of one [`Store::changes`] call; longer ones are shortened to it.
pub const MAX_CHANGES_WAIT: Duration = Duration::from_secs(30);

/// What one key held, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Got {
    /// The revision of the state that was read.
    pub revision: u64,
    /// What was there.
    pub entry: Option<Entry>,
}

/// What a range of keys held, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranged {
    /// The revision of the state that was read.
    pub revision: u64,
    /// Keys and entries, in order of the keys.
    pub entries: Vec<(String, Entry)>,
}

/// The end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnReply {
    /// Whether every compare held.
    pub succeeded: bool,
    /// The revision at which it was applied; the modification revision of what it put.
    pub revision: u64,
}

/// A session that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedSession {
    /// Its id.
    pub session: u64,
    /// The caller's CLOCK_BOOTTIME before the request was sent, in nanoseconds: what its deadline counts from (S3).
    pub sent_ns: u64,
}

/// The end of a renewal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewReply {
    /// The session runs on. When false it has ended or was superseded, and a new one must be opened.
    pub session_alive: bool,
    /// Those of the listed keys that the session still leases, now renewed.
    pub alive_keys: Vec<String>,
    /// The caller's CLOCK_BOOTTIME before the request was sent, in nanoseconds: what deadlines count from (S3).
    pub sent_ns: u64,
}

/// What changed after a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Ask again from here.
    pub revision: u64,
    /// Changes under the prefix after the revision that was asked for, in order; whole revisions only.
    pub events: Vec<Event>,
    /// Set when the changes are no longer known: everything under the prefix as it is at `revision`.
    pub resync: Option<Vec<(String, Entry)>>,
}

/// The state of the nearest replica, which may be old.
#[derive(Clone, Debug)]
pub struct LocalState {
    /// The state as last applied here.
    pub memory: Arc<Memory>,
    /// How long ago this replica last knew to be up to date.
    pub age: Duration,
}

/// Why the store did not answer as asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum StoreError {
    /// Too few voters answered. Nothing was written; asking again later may work.
    #[error("the store has no quorum: {detail}; retry once a majority of voters is reachable")]
    NoQuorum {
        /// What was seen.
        detail: String,
    },
    /// This voter does not lead. Nothing was written; ask the one named.
    #[error("this voter is not the leader (leader: {})", hint.as_deref().unwrap_or("unknown"))]
    NotLeader {
        /// Node name of the leader, where it is known.
        hint: Option<String>,
    },
    /// The write may have been applied or not, now or later. Read before you repeat it.
    #[error("nobody can say whether the write was applied: {detail}; read and compare before repeating it")]
    Unknown {
        /// What happened.
        detail: String,
    },
    /// The request was understood and refused; repeating it gives the same answer.
    #[error("refused: {why}")]
    Refused {
        /// Why.
        why: String,
    },
    /// A limit of size was exceeded. Nothing was written.
    #[error("too large: {why}")]
    TooLarge {
        /// Which limit.
        why: String,
    },
    /// The voter is not serving: no room on its disk, still forming, or closed. Nothing was written.
    #[error("this voter is shut: {why}; the other voters go on")]
    Shut {
        /// Why.
        why: String,
    },
}

impl StoreError {
    /// Whether the same request may be sent again without a look first.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NoQuorum { .. } | Self::NotLeader { .. } | Self::Shut { .. })
    }
}

impl From<Refusal> for StoreError {
    fn from(refusal: Refusal) -> Self {
        let why = refusal.to_string();
        if refusal.is_too_large() { Self::TooLarge { why } } else { Self::Refused { why } }
    }
}

/// The cluster's memory.
pub trait Store: Send + Sync {
    /// Reads one key, linearizably.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Got, StoreError>>;

    /// Reads every key that begins with `prefix`, linearizably.
    fn range<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Ranged, StoreError>>;

    /// Applies a transaction, all or nothing.
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, StoreError>>;

    /// Opens a session for a node. An older session of the node cannot be renewed any more; its keys run out.
    fn open_session<'a>(
        &'a self,
        node: &'a str,
        ttl: Duration,
        boot: &'a str,
    ) -> BoxFuture<'a, Result<OpenedSession, StoreError>>;

    /// Renews a session and the leased keys it lists. `seq` must grow with every call, repeats included.
    fn renew(&self, renewal: Renewal) -> BoxFuture<'_, Result<RenewReply, StoreError>>;

    /// Ends a session at once and deletes its leased keys.
    fn close_session(&self, session: u64) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Waits up to `wait` for changes under `prefix` after `after_revision`; an empty answer moves the revision on.
    fn changes<'a>(
        &'a self,
        prefix: &'a str,
        after_revision: u64,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Changes, StoreError>>;

    /// The nearest replica's state, possibly old; `None` where there is none. For display only.
    fn local_state(&self) -> Option<LocalState>;
}
