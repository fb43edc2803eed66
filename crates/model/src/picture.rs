//! The coordinator's picture of the cluster, handed back to every agent that reports: routes and `status` are made of it.
//!
//! It is advice, never a right: exclusive roles follow grants from the store. An agent keeps the last picture it got when
//! the coordinator is gone, and says its age.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, NodeName};
use crate::observation::{Observation, millis};
use crate::reason::Reason;

/// What the coordinator knew when it answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// Who decides.
    pub coordinator: NodeName,
    /// The goal in force when it was made.
    pub generation: Generation,
    /// What each node last said.
    pub nodes: BTreeMap<NodeName, Sighting>,
    /// Reasons of the newest decision, also for what was not done.
    pub reasons: Vec<Reason>,
}

/// One node as the coordinator last saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sighting {
    /// It has a live session.
    pub session: bool,
    /// How long ago it reported, at the time the picture was made.
    #[serde(with = "millis")]
    pub age: Duration,
    /// What it said; nothing if it has not reported to this coordinator.
    pub observation: Option<Observation>,
}
