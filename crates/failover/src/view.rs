//! Everything `decide` may know: plain data, gathered by the coordinator from the store and from the agents' reports.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use backstay_model::{
    Fact, Goal, Grant, InstanceObservation, NodeName, Observation, Position, Promise, RoleKey, ServiceId, Subject,
};
use backstay_spec::Spec;

/// All sightings, with the goal they are judged against.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The adopted file.
    pub spec: &'a Spec,
    /// Its hash.
    pub spec_hash: &'a str,
    /// The store's incarnation.
    pub incarnation: u16,
    /// The goal in force.
    pub goal: &'a Goal,
    /// How long this coordinator has known it to be in force; ages what the goal remembers.
    pub goal_age: Duration,
    /// Live sessions. A node without one is absent: that is positive evidence, not silence.
    pub sessions: BTreeMap<NodeName, Session>,
    /// Grants in force.
    pub grants: BTreeMap<RoleKey, Grant>,
    /// What members of synchronous sets have promised, as the store has it.
    pub promises: BTreeMap<(ServiceId, NodeName), Promise>,
    /// Where each primary of an asynchronous database was when it last wrote that into the store.
    pub published: BTreeMap<ServiceId, Position>,
    /// What each node last said. `Unknown` moves and stops nothing.
    pub observations: BTreeMap<NodeName, Fact<Observation>>,
    /// Nodes that an operator drains.
    pub drains: BTreeSet<NodeName>,
    /// Moves that an operator asked for: what, and to which node.
    pub switchovers: BTreeMap<Subject, NodeName>,
    /// Everybody has reported to this coordinator, or one session time has passed since it took over. Until then nothing is
    /// placed for the first time and no request is refused for a node that is only unheard. Nothing else needs it: a node that
    /// has not reported is unknown, and unknown moves nothing.
    pub settled: bool,
}

/// One live session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: u64,
    /// The run of the agent that opened it.
    pub boot: String,
}

impl View<'_> {
    /// What a node last said, if it is known.
    pub(crate) fn report(&self, node: &NodeName) -> Option<&Observation> {
        self.observations.get(node).and_then(Fact::known)
    }

    /// What a node last said of one of its instances.
    pub(crate) fn instance(&self, node: &NodeName, service: &ServiceId) -> Option<&InstanceObservation> {
        self.report(node).and_then(|report| report.instances.get(service))
    }
}
