//! The goal: who should do what. Immutable, numbered, linked to its parent, adopted by one transaction in the store.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, ListenerName, NodeName, ServiceId};
use crate::observation::millis;
use crate::reason::MoveCause;
use crate::replica::ReplicaGoal;
use crate::role::Role;

/// What every agent should bring about. It names the world it wants, never acts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// Its place in the order of goals.
    pub generation: Generation,
    /// The goal it follows; a transaction adopts it only while that one is in force.
    pub parent: Generation,
    /// Which file it serves (the hash of the adopted text).
    pub spec_hash: String,
    /// What each service should look like.
    pub services: BTreeMap<ServiceId, ServiceGoal>,
    /// Who should hold each listener's address.
    pub addresses: BTreeMap<ListenerName, AddressGoal>,
    /// What must be remembered of each node to decide well.
    pub nodes: BTreeMap<NodeName, NodeMemory>,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceGoal {
    /// Where its instances should be, and in which role.
    pub instances: BTreeMap<NodeName, InstanceGoal>,
    /// For an exclusive service: who should be primary.
    pub primary: Option<RoleGoal>,
    /// A node that an operator chose; failback leaves it alone until it is lost.
    pub chosen: Option<NodeName>,
    /// For a replicated database: whom commits wait for, and what is asked of whom while there is no primary.
    #[serde(default)]
    pub replicas: Option<ReplicaGoal>,
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceGoal {
    /// What it is there for.
    pub role: Role,
    /// Whether it should run, or only be prepared.
    pub runs: bool,
    /// It goes on until its replacement is well, and gets no new traffic.
    pub leaving: bool,
}

/// Who should hold an exclusive role.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoleGoal {
    /// The holder; nobody while a planned move waits for the old holder's release.
    pub holder: Option<NodeName>,
    /// Whom a planned move is for.
    pub next: Option<NodeName>,
    /// Why it moves there.
    pub why: Option<MoveCause>,
    /// How long the present answer has stood, as of this goal.
    #[serde(with = "millis")]
    pub stood_for: Duration,
}

impl RoleGoal {
    /// This node should hold it, and nothing else is under way.
    pub fn held_by(node: NodeName) -> Self {
        Self { holder: Some(node), ..Self::default() }
    }
}

/// A listener's address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AddressGoal {
    /// Who should hold it.
    pub role: RoleGoal,
    /// A node that an operator chose.
    pub chosen: Option<NodeName>,
}

/// What is remembered of a node between decisions. Durations, as of this goal: the coordinator that reads it ages them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeMemory {
    /// It has a live session.
    pub present: bool,
    /// It has been present (or absent) this long without a break.
    #[serde(with = "millis")]
    pub steady_for: Duration,
    /// How long ago each of its recent losses was, newest first; at most [`NodeMemory::LOSSES_MAX`].
    pub losses_ms: Vec<u64>,
    /// The run of its agent that was last seen; another run after a loss is a return.
    pub boot: String,
}

impl NodeMemory {
    /// Losses beyond this many say nothing more.
    pub const LOSSES_MAX: usize = 8;
}
