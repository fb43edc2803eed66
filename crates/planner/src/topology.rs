//! The machines that may carry instances, and what they share: nodes in racks in sites.
//!
//! Names become numbers once, here. Placement runs over every node and service of a cluster several times a second, and
//! comparing numbers is what makes that cheap.

use std::collections::{BTreeMap, BTreeSet};

use backstay_model::{DomainLevel, NodeName};
use backstay_spec::{Spec, UNNAMED_SITE};

/// The number of a node, in the order of their names.
pub(crate) type NodeNo = u32;
/// The number of a failure domain among those of its level.
pub(crate) type DomainNo = u32;

/// One machine that may carry instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carrier {
    /// Its name.
    pub name: NodeName,
    /// The rack it stands in; without one it is a rack of its own.
    pub rack: Option<String>,
    /// The site it stands at.
    pub site: String,
    /// How many slots of instances fit; unlimited when absent.
    pub slots: Option<u32>,
}

/// The nodes that may carry instances, and what they share.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    carriers: Vec<Carrier>,
    racks: Domains,
    sites: Domains,
}

/// The domains of one level.
#[derive(Clone, Debug, Default)]
struct Domains {
    names: Vec<String>,
    of_node: Vec<DomainNo>,
}

impl Topology {
    /// The nodes of a file, witnesses left out: they carry nothing.
    pub fn of(spec: &Spec) -> Self {
        let carriers = spec.nodes.iter().filter(|(_, node)| !node.witness);
        Self::new(carriers.map(|(name, node)| Carrier {
            name: name.clone(),
            rack: node.rack.clone(),
            site: node.site.clone().unwrap_or_else(|| UNNAMED_SITE.to_owned()),
            slots: node.slots,
        }))
    }

    /// These machines. Of two with one name the later counts.
    pub fn new(carriers: impl IntoIterator<Item = Carrier>) -> Self {
        let carriers: BTreeMap<NodeName, Carrier> =
            carriers.into_iter().map(|carrier| (carrier.name.clone(), carrier)).collect();
        let carriers: Vec<Carrier> = carriers.into_values().collect();
        let (racks, sites) = (racks(&carriers), domains(&carriers, |carrier| &carrier.site, |site| (*site).clone()));
        Self { carriers, racks, sites }
    }

    /// The machines, in the order of their names.
    pub fn carriers(&self) -> &[Carrier] {
        &self.carriers
    }

    /// The failure domain of a node, as [`Spec::domain_of`] names it.
    pub fn domain_of(&self, node: &NodeName, level: DomainLevel) -> Option<&str> {
        let node = self.number(node)?;
        Some(self.domain_name(self.domain(node, level), level))
    }

    pub(crate) fn len(&self) -> usize {
        self.carriers.len()
    }

    pub(crate) fn nodes(&self) -> std::ops::Range<NodeNo> {
        0..self.carriers.len() as NodeNo
    }

    pub(crate) fn number(&self, name: &NodeName) -> Option<NodeNo> {
        self.carriers.binary_search_by(|carrier| carrier.name.cmp(name)).ok().map(|at| at as NodeNo)
    }

    /// The numbers of those names that are known, ascending.
    pub(crate) fn numbers(&self, names: &BTreeSet<NodeName>) -> Vec<NodeNo> {
        // Looking each name up costs more than walking both lists once there are many of them.
        if names.len().saturating_mul(8) < self.len() {
            return names.iter().filter_map(|name| self.number(name)).collect();
        }
        let mut wanted = names.iter().peekable();
        let mut is_wanted = |carrier: &Carrier| {
            while wanted.next_if(|name| **name < carrier.name).is_some() {}
            wanted.next_if(|name| **name == carrier.name).is_some()
        };
        (0..).zip(&self.carriers).filter(|(_, carrier)| is_wanted(carrier)).map(|(node, _)| node).collect()
    }

    pub(crate) fn name(&self, node: NodeNo) -> &NodeName {
        &self.carriers[node as usize].name
    }

    pub(crate) fn slots(&self, node: NodeNo) -> Option<u32> {
        self.carriers[node as usize].slots
    }

    pub(crate) fn domain(&self, node: NodeNo, level: DomainLevel) -> DomainNo {
        match level {
            DomainLevel::Node => node,
            DomainLevel::Rack => self.racks.of_node[node as usize],
            DomainLevel::Site => self.sites.of_node[node as usize],
        }
    }

    /// How many domains there are at a level.
    pub(crate) fn domains(&self, level: DomainLevel) -> usize {
        match level {
            DomainLevel::Node => self.len(),
            DomainLevel::Rack => self.racks.names.len(),
            DomainLevel::Site => self.sites.names.len(),
        }
    }

    pub(crate) fn domain_name(&self, domain: DomainNo, level: DomainLevel) -> &str {
        match level {
            DomainLevel::Node => self.name(domain).as_str(),
            DomainLevel::Rack => &self.racks.names[domain as usize],
            DomainLevel::Site => &self.sites.names[domain as usize],
        }
    }

    /// The number of a site, if a carrier stands there.
    pub(crate) fn site(&self, name: &str) -> Option<DomainNo> {
        self.sites.names.iter().position(|site| site == name).map(|at| at as DomainNo)
    }
}

/// Racks of two sites may share a name and are not one rack; then each is named with its site, as in the file's own
/// [`Spec::rack_of`].
fn racks(carriers: &[Carrier]) -> Domains {
    let mut sites_of: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for carrier in carriers {
        if let Some(rack) = &carrier.rack {
            sites_of.entry(rack).or_default().insert(&carrier.site);
        }
    }
    domains(
        carriers,
        |carrier| match &carrier.rack {
            Some(rack) => (true, rack.as_str(), carrier.site.as_str()),
            None => (false, carrier.name.as_str(), ""),
        },
        |(is_named, rack, site)| match sites_of.get(rack) {
            Some(sites) if *is_named && sites.len() > 1 => format!("{site}/{rack}"),
            _ => (*rack).to_owned(),
        },
    )
}

fn domains<'a, K: Ord>(
    carriers: &'a [Carrier],
    key: impl Fn(&'a Carrier) -> K,
    name: impl Fn(&K) -> String,
) -> Domains {
    let mut numbers: BTreeMap<K, DomainNo> = BTreeMap::new();
    let mut names = Vec::new();
    let of_node = carriers.iter().map(|carrier| {
        let key = key(carrier);
        if let Some(number) = numbers.get(&key) {
            return *number;
        }
        let number = names.len() as DomainNo;
        names.push(name(&key));
        numbers.insert(key, number);
        number
    });
    let of_node = of_node.collect();
    Domains { names, of_node }
}
