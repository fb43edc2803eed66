//! The cluster's memory as this agent last read it: one watch over the whole store, decoded into words.
//!
//! Readers take a whole [`Reading`]; nothing of it is ever changed in place. `read_at` says how old it may be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use backstay_coord::Store;
use backstay_failover::Session;
use backstay_model::memory::Entry;
use backstay_model::{Goal, Grant, Instant, NodeName, RoleKey, Subject};
use backstay_spec::Spec;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use crate::clock;

/// The adopted file.
pub const FILE_KEY: &str = "file";
/// The goal in force.
pub const GOAL_KEY: &str = "goal";
const SESSION_PREFIX: &str = "session/";
const GRANT_PREFIX: &str = "grant/";
const DRAIN_PREFIX: &str = "request/drain/";
const SWITCHOVER_PREFIX: &str = "request/switchover/";
const EVENT_PREFIX: &str = "event/";

/// One long poll; the store may shorten it. Also the longest time a silent store goes unnoticed.
const POLL: Duration = Duration::from_millis(300);
/// Pause after a failed read, so that a dead store costs little.
const RETRY_AFTER: Duration = Duration::from_millis(150);

/// The key of a node's session.
pub fn session_key(node: &NodeName) -> String {
    format!("{SESSION_PREFIX}{node}")
}

/// The key of an operator's wish to drain a node.
pub fn drain_key(node: &NodeName) -> String {
    format!("{DRAIN_PREFIX}{node}")
}

/// The key of an operator's wish to move a role.
pub fn switchover_key(subject: &Subject) -> String {
    format!("{SWITCHOVER_PREFIX}{subject}")
}

/// The key of one event; keys sort as the events happened.
pub fn event_key(serial: u64) -> String {
    format!("{EVENT_PREFIX}{serial:020}")
}

/// The value of a session's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionValue {
    /// The session.
    pub id: u64,
    /// The run of the agent.
    pub boot: String,
}

/// The adopted file's value: the text and the hash by which `config apply` swaps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileValue {
    /// Hash of the text.
    pub hash: String,
    /// The text.
    pub text: String,
}

/// What was decided, for people: kept in the store, the newest few hundred.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventValue {
    /// The goal it led to.
    pub generation: backstay_model::Generation,
    /// Wall clock of the coordinator, for display alone.
    pub unix_ms: u64,
    /// Why.
    pub reasons: Vec<backstay_model::Reason>,
}

/// The adopted file, read.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// Hash of its text.
    pub hash: String,
    /// Its text.
    pub text: String,
    /// Its revision in the store.
    pub revision: u64,
    /// What it means.
    pub spec: Arc<Spec>,
}

/// Everything this agent last read.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Revision of the store.
    pub revision: u64,
    /// When it was last known to be up to date (when the read that said so was sent).
    pub read_at: Option<Instant>,
    /// The adopted file; none before the first coordinator has adopted one.
    pub file: Option<Adopted>,
    /// The goal in force.
    pub goal: Goal,
    /// Its revision in the store; 0 while there is none.
    pub goal_revision: u64,
    /// When this agent first read it.
    pub goal_read_at: Instant,
    /// Live sessions.
    pub sessions: BTreeMap<NodeName, Session>,
    /// Grants in force, with their revisions.
    pub grants: BTreeMap<RoleKey, (Grant, u64)>,
    /// Nodes being drained.
    pub drains: BTreeSet<NodeName>,
    /// Moves asked for, with the revisions of the requests.
    pub switchovers: BTreeMap<Subject, (NodeName, u64)>,
    /// Events by serial.
    pub events: BTreeMap<u64, EventValue>,
    /// What could not be read, for `status`: written by a newer version, or damaged.
    pub unreadable: BTreeSet<String>,
}

impl Reading {
    /// How old this may be.
    pub fn age(&self) -> Option<Duration> {
        self.read_at.map(|at| clock::now().since(at))
    }

    /// Grants without their revisions, as `next_steps` wants them.
    pub fn grants_only(&self) -> BTreeMap<RoleKey, Grant> {
        self.grants.iter().map(|(role, (grant, _))| (role.clone(), grant.clone())).collect()
    }

    fn set(&mut self, key: &str, value: &[u8], revision: u64) -> Option<()> {
        if let Some(node) = key.strip_prefix(SESSION_PREFIX) {
            let SessionValue { id, boot } = decode(value)?;
            self.sessions.insert(node.into(), Session { id, boot });
        } else if let Some(role) = key.strip_prefix(GRANT_PREFIX) {
            self.grants.insert(role.parse().ok()?, (decode(value)?, revision));
        } else if let Some(node) = key.strip_prefix(DRAIN_PREFIX) {
            self.drains.insert(node.into());
        } else if let Some(subject) = key.strip_prefix(SWITCHOVER_PREFIX) {
            self.switchovers.insert(parse_subject(subject)?, (decode(value)?, revision));
        } else if let Some(serial) = key.strip_prefix(EVENT_PREFIX) {
            self.events.insert(serial.parse().ok()?, decode(value)?);
        } else if key == GOAL_KEY {
            self.goal = decode(value)?;
            self.goal_revision = revision;
            self.goal_read_at = clock::now();
        } else if key == FILE_KEY {
            let FileValue { hash, text } = decode(value)?;
            let spec = Arc::new(backstay_spec::parse("the adopted file", &text).spec?);
            self.file = Some(Adopted { hash, text, revision, spec });
        }
        Some(())
    }

    fn unset(&mut self, key: &str) -> Option<()> {
        if let Some(node) = key.strip_prefix(SESSION_PREFIX) {
            self.sessions.remove(&NodeName::from(node));
        } else if let Some(role) = key.strip_prefix(GRANT_PREFIX) {
            self.grants.remove(&role.parse().ok()?);
        } else if let Some(node) = key.strip_prefix(DRAIN_PREFIX) {
            self.drains.remove(&NodeName::from(node));
        } else if let Some(subject) = key.strip_prefix(SWITCHOVER_PREFIX) {
            self.switchovers.remove(&parse_subject(subject)?);
        } else if let Some(serial) = key.strip_prefix(EVENT_PREFIX) {
            self.events.remove(&serial.parse().ok()?);
        }
        Some(())
    }

    fn note(&mut self, key: &str, value: Option<&[u8]>, revision: u64) {
        self.unreadable.remove(key);
        let understood = match value {
            Some(value) => self.set(key, value, revision),
            None => self.unset(key),
        };
        if understood.is_none() {
            tracing::warn!(key, "a key of the store cannot be read; it is left alone");
            self.unreadable.insert(key.to_owned());
        }
    }

    fn begin_again(&mut self, entries: Vec<(String, Entry)>) {
        let kept = (self.goal.clone(), self.goal_revision, self.goal_read_at);
        *self = Self::default();
        for (key, entry) in entries {
            self.note(&key, Some(&entry.value), entry.modified);
        }
        // The same goal read again is not a new one: its age goes on.
        if kept.1 == self.goal_revision {
            (self.goal, self.goal_revision, self.goal_read_at) = kept;
        }
    }
}

/// `app.web` or `listen.web`.
pub fn parse_subject(text: &str) -> Option<Subject> {
    match text.strip_prefix("listen.") {
        Some(listener) => Some(Subject::Address(listener.into())),
        None => text.parse().ok().map(Subject::Service),
    }
}

/// A value of the store, as bytes.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Only maps with keys that are no strings can fail here, and none of ours has them (see the test below).
    serde_json::to_vec(value).unwrap_or_default()
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}

/// Where the store stood when this agent started, by a read that a majority confirmed. A replica that lags behind it would
/// show goals and grants of the past, and the agent would obey them.
async fn first_revision(store: &Arc<dyn Store>) -> u64 {
    loop {
        match store.get(GOAL_KEY).await {
            Ok(got) => return got.revision,
            Err(error) => tracing::debug!(%error, "the store cannot be read yet"),
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

/// Follows the store for as long as the agent lives.
pub async fn follow(store: Arc<dyn Store>, publish: watch::Sender<Arc<Reading>>) {
    let mut reading = Reading::default();
    let floor = first_revision(&store).await;
    loop {
        let sent = clock::now();
        match store.changes("", reading.revision, POLL).await {
            Ok(changes) => {
                if let Some(entries) = changes.resync {
                    reading.begin_again(entries);
                }
                for event in changes.events {
                    reading.note(&event.key, event.value.as_deref(), event.revision);
                }
                reading.revision = changes.revision;
                // What was asked for at that instant is up to date at least as of then.
                reading.read_at = Some(sent);
                if reading.revision >= floor {
                    publish.send_replace(Arc::new(reading.clone()));
                } else {
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the store does not answer");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstay_model::{Generation, Reason, RoleGoal, ServiceGoal, ServiceId};

    #[test]
    fn what_is_written_can_be_read() {
        let mut goal = Goal { generation: Generation(7), ..Goal::default() };
        let primary = RoleGoal::held_by("n1".into());
        let service = ServiceGoal { primary: Some(primary), ..ServiceGoal::default() };
        goal.services.insert(ServiceId::app("till"), service);
        let reason = Reason::NodeLost { node: "n1".into() };
        let event = EventValue { generation: Generation(7), unix_ms: 1, reasons: vec![reason] };

        let mut reading = Reading::default();
        reading.note(GOAL_KEY, Some(&encode(&goal)), 3);
        reading.note(&event_key(4), Some(&encode(&event)), 4);
        reading.note(&switchover_key(&Subject::Address("web".into())), Some(&encode(&NodeName::from("n2"))), 5);
        assert_eq!(reading.goal, goal);
        assert_eq!(reading.events[&4], event);
        assert_eq!(reading.switchovers[&Subject::Address("web".into())], ("n2".into(), 5));
        assert!(reading.unreadable.is_empty());

        reading.note("grant/app.till", Some(b"nonsense"), 6);
        assert_eq!(reading.unreadable.len(), 1);
    }
}
