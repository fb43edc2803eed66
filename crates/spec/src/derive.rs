//! What follows from a [`Spec`] without being written in it: voters, domains, counts of instances, its hash.

use std::collections::BTreeMap;
use std::net::IpAddr;

use backstay_model::{DomainLevel, NodeName};

use crate::types::{Redundancy, ServiceSpec, Spec};

/// The site of nodes that name none: they all share it.
pub const UNNAMED_SITE: &str = "default";

/// Why addresses do not tell which entry of `[nodes]` a machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeByAddrError {
    /// No entry has any of them.
    NoMatch,
    /// Several entries have one of them.
    Several(Vec<NodeName>),
}

impl std::fmt::Display for NodeByAddrError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoMatch => f.write_str("no entry of [nodes] has an address of this machine; name it with --node"),
            Self::Several(names) => {
                let names: Vec<_> = names.iter().map(NodeName::as_str).collect();
                write!(f, "this machine has the addresses of {}; name one with --node", names.join(", "))
            }
        }
    }
}

impl std::error::Error for NodeByAddrError {}

impl Spec {
    /// Who votes on the cluster's memory: one of 1–2 nodes, three of 3–4, five of 5 and more.
    ///
    /// `voter = true` and `false` are honoured first; then witnesses, then nodes in the sites and racks that have the fewest
    /// voters so far, then by name. Left to itself the number is odd, since one more than an odd number survives no more.
    pub fn voters(&self) -> Vec<NodeName> {
        let wanted = match self.nodes.len() {
            0..=2 => 1,
            3..=4 => 3,
            _ => 5,
        };
        let mut chosen: Vec<NodeName> = self.nodes_where(|name| self.nodes[name].voter == Some(true));
        let mut left: Vec<NodeName> = self.nodes_where(|name| self.nodes[name].voter.is_none());
        let possible = chosen.len() + left.len();
        let odd = if possible.is_multiple_of(2) { possible.saturating_sub(1) } else { possible };
        let wanted = wanted.min(odd);
        while chosen.len() < wanted && !left.is_empty() {
            let next =
                left.iter().enumerate().min_by_key(|(_, name)| self.voter_rank(name, &chosen)).map_or(0, |(at, _)| at);
            chosen.push(left.remove(next));
        }
        chosen.sort();
        chosen
    }

    fn nodes_where(&self, keep: impl Fn(&NodeName) -> bool) -> Vec<NodeName> {
        self.nodes.keys().filter(|name| keep(name)).cloned().collect()
    }

    /// Lower votes rather.
    fn voter_rank(&self, name: &NodeName, chosen: &[NodeName]) -> (bool, usize, usize, NodeName) {
        let is_witness = self.nodes.get(name).is_some_and(|node| node.witness);
        let (site, rack) = (self.site_of(name), self.rack_of(name));
        let in_site = chosen.iter().filter(|other| self.site_of(other) == site).count();
        let in_rack = chosen.iter().filter(|other| self.rack_of(other) == rack).count();
        (!is_witness, in_site, in_rack, name.clone())
    }

    /// Which entry of `[nodes]` a machine with these addresses is.
    ///
    /// # Errors
    /// When no entry, or more than one, has one of them.
    pub fn node_by_addr(&self, addrs: &[IpAddr]) -> Result<&NodeName, NodeByAddrError> {
        let found: Vec<_> =
            self.nodes.iter().filter(|(_, node)| addrs.contains(&node.addr)).map(|(name, _)| name).collect();
        match found[..] {
            [] => Err(NodeByAddrError::NoMatch),
            [one] => Ok(one),
            _ => Err(NodeByAddrError::Several(found.into_iter().cloned().collect())),
        }
    }

    /// The rack of a node: with its site where two sites have a rack of that name; a node without one is a rack of its own.
    pub fn rack_of(&self, node: &NodeName) -> String {
        let Some(rack) = self.nodes.get(node).and_then(|spec| spec.rack.as_ref()) else {
            return node.to_string();
        };
        let site = self.site_of(node);
        let elsewhere =
            self.nodes.iter().any(|(other, spec)| spec.rack.as_ref() == Some(rack) && self.site_of(other) != site);
        if elsewhere { format!("{site}/{rack}") } else { rack.clone() }
    }

    /// The site of a node; those without one share [`UNNAMED_SITE`].
    pub fn site_of(&self, node: &NodeName) -> String {
        self.nodes.get(node).and_then(|spec| spec.site.clone()).unwrap_or_else(|| UNNAMED_SITE.to_owned())
    }

    /// What a node fails together with at a level.
    pub fn domain_of(&self, node: &NodeName, level: DomainLevel) -> String {
        match level {
            DomainLevel::Node => node.to_string(),
            DomainLevel::Rack => self.rack_of(node),
            DomainLevel::Site => self.site_of(node),
        }
    }

    /// The domains of a level that can hold instances, each with its nodes; witnesses hold nothing.
    pub fn domains(&self, level: DomainLevel) -> BTreeMap<String, Vec<NodeName>> {
        let mut domains: BTreeMap<String, Vec<NodeName>> = BTreeMap::new();
        for (name, _) in self.nodes.iter().filter(|(_, node)| !node.witness) {
            domains.entry(self.domain_of(name, level)).or_default().push(name.clone());
        }
        domains
    }
}

impl ServiceSpec {
    /// How much a node is preferred: 0 is first; a node that is not named comes after all that are.
    pub fn preference(&self, node: &NodeName) -> usize {
        self.prefer.iter().position(|preferred| preferred == node).unwrap_or(usize::MAX)
    }

    /// How many instances the model asks for, over all sites.
    pub fn instances_wanted(&self) -> u32 {
        self.instances_per_site().saturating_mul(u32::try_from(self.sites.len().max(1)).unwrap_or(u32::MAX))
    }

    /// How many instances the model asks for in one site (or in all, when the service names no sites).
    pub fn instances_per_site(&self) -> u32 {
        let n = self.need;
        match self.redundancy {
            Redundancy::N => n,
            Redundancy::NPlus1 => n.saturating_add(1),
            Redundancy::NPlus2 => n.saturating_add(2),
            Redundancy::TwoN => n.saturating_mul(2),
            Redundancy::TwoNPlus1 => n.saturating_mul(2).saturating_add(1),
        }
    }
}

/// Names a file among all others: the same on every machine and in every version.
///
/// FNV-1a of 128 bits, in hexadecimal: <http://www.isthe.com/chongo/tech/comp/fnv/>. It tells files apart; it does not
/// protect against someone who forges one.
pub fn hash(text: &str) -> String {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = text.bytes().fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    format!("{hash:032x}")
}
