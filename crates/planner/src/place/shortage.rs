//! What a placement lacks, and why: in words that lead to a remedy.

use backstay_model::{DomainLevel, NodeName};
use backstay_spec::Redundancy;

/// A service whose model could not be had in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Instances that count for the model, over all sites.
    ///
    /// N: all of them. N+1 and N+2: domains with an instance, since further ones in a domain are lost together with the
    /// first. 2N: the best sum of what the two sets hold of `need` each, over all ways to split the domains between
    /// them; 2N+1: with the spare.
    pub placed: u32,
    /// Instances that the model asks for, over all sites.
    pub wanted: u32,
    /// The level that the model is spread over.
    pub level: DomainLevel,
    /// What is missing in each site that lacks something; of a service without `sites`, in one entry.
    pub gaps: Vec<Gap>,
}

/// What one site lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The site, when the service names its sites.
    pub site: Option<String>,
    /// So many of the instances that the model asks for here are not there, or do not count.
    pub missing: u32,
    /// Why.
    pub cause: Cause,
}

/// Why instances are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Fewer nodes can take an instance at all than the model has instances.
    TooFewNodes {
        /// How many can.
        nodes: u32,
    },
    /// There are nodes, but they share domains that the model keeps apart.
    TooFewDomains {
        /// How many domains have nodes that can take an instance.
        domains: u32,
        /// Those of them with more nodes than the model can use there, as many as are worth naming.
        crowded: Vec<String>,
    },
    /// There would be nodes and domains, but other services have their slots.
    TooFewSlots {
        /// Full nodes of which one more instance would do, as many as are worth naming.
        full: Vec<NodeName>,
    },
}

/// The longest list of names in a [`Cause`]: a reader wants examples, and a decision carries these every half second.
pub(super) const NAMED_MAX: usize = 8;

/// A change after which a service has its model in full. Each was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fix {
    /// Fewer instances carry the load.
    LowerNeed(u32),
    /// A smaller model.
    LowerModel(Redundancy),
    /// Spread over smaller domains, which promises less.
    LowerSpread(DomainLevel),
    /// A node takes more.
    RaiseSlots {
        /// The node.
        node: NodeName,
        /// Its slots from then on.
        slots: u32,
    },
    /// Further nodes.
    AddNodes {
        /// How many.
        count: u32,
        /// Where each of them stands.
        location: Location,
        /// The slots that each needs; none where slots do not matter.
        slots: Option<u32>,
    },
}

/// Where a further node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// Each in a further domain of this level.
    NewDomain {
        /// The level.
        level: DomainLevel,
        /// The site that these domains are in, where it matters.
        site: Option<String>,
    },
    /// All in this domain, which exists.
    Inside {
        /// Its level.
        level: DomainLevel,
        /// Its name.
        domain: String,
    },
}
