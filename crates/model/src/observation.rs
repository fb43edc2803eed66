//! What one node saw of itself: sent whole, straight to the coordinator, newest wins. It never passes through the store.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, ListenerName, NodeName, ServiceId, Token};
use crate::replica::ReplicaObservation;

/// Something a View holds about the world: known, with its age, or not known at all. Unknown moves and stops nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact<T> {
    /// Seen, this long ago.
    Known {
        /// What was seen.
        value: T,
        /// How long ago, on the reader's clock.
        age: Duration,
    },
    /// Never seen, or too long ago to mean anything.
    Unknown,
}

impl<T> Fact<T> {
    /// The value, if it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known { value, .. } => Some(value),
            Self::Unknown => None,
        }
    }
}

/// Everything one agent saw on its node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Who saw it.
    pub node: NodeName,
    /// This run of the agent: a new value means it started again.
    pub boot: String,
    /// Counts up within one run; a lower one arriving later is dropped.
    pub serial: u64,
    /// The goal this node has seen and is acting on.
    pub generation: Generation,
    /// Instances on this node, also those only prepared.
    pub instances: BTreeMap<ServiceId, InstanceObservation>,
    /// What this node's balancer does with each listener that has an address.
    pub addresses: BTreeMap<ListenerName, AddressState>,
    /// The balancer answers.
    pub balancer_up: bool,
    /// Nodes that this one's failure detector has not heard of late. It hurries what is safe anyway, and takes nothing.
    #[serde(default)]
    pub suspects: BTreeSet<NodeName>,
    /// Short sentences about trouble here that a person should read: a file that differs, a port that is taken.
    pub notes: Vec<String>,
}

/// One instance as its node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceObservation {
    /// What it is doing.
    pub state: InstanceState,
    /// What its check says.
    pub health: Health,
    /// Where it listens or would listen, if it has a port.
    pub endpoint: Option<SocketAddr>,
    /// The token it runs under (exclusive services).
    pub token: Option<Token>,
    /// How often it ended by itself within the last minute.
    pub failures: u32,
    /// How long it has been passing its check without a break; zero when it is not.
    #[serde(with = "millis")]
    pub healthy_for: Duration,
    /// Process id of the program, for people.
    pub pid: Option<u32>,
    /// How it is contained: `pid-namespace`, `cgroup` or `subreaper`.
    pub containment: Option<String>,
    /// Why it is not well, in a sentence.
    pub trouble: Option<String>,
    /// For a replicated database: how far its copy is, and whom it follows.
    #[serde(default)]
    pub replica: Option<ReplicaObservation>,
}

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// Not there, and nothing will start it without a further step: a spare that is started on takeover. Only then may a grant
    /// be given back.
    Prepared,
    /// Started, not yet seen to work.
    Starting,
    /// Runs.
    Running,
    /// Told to stop.
    Stopping,
    /// Ended by itself, or could not start; waits for its next try.
    Failed,
}

/// What the newest checks of an instance say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Not yet checked since its start.
    Unknown,
    /// Its check passes; a program without a check passes while it runs.
    Passing,
    /// Its check fails.
    Failing,
}

impl InstanceObservation {
    /// Runs and passes its check.
    pub fn is_well(&self) -> bool {
        self.state == InstanceState::Running && self.health == Health::Passing
    }
}

/// A listener's address on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressState {
    /// Not bound here.
    Closed,
    /// Bound here, under this token.
    Bound(Token),
    /// Should be bound here but could not be; the sentence says why.
    Failed(String),
}

/// Durations as whole milliseconds: what crosses a machine carries durations, never instants.
pub mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes whole milliseconds.
    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    /// Reads whole milliseconds.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}
