//! The judge: does a placement really give the model? It knows nothing of how placements are made.
//!
//! A model is a list of sets whose domains are disjoint (availability.md §1.3). For N+k each domain is a set of one, so that
//! counting domains decides. For two full sets each domain has to be given to one of them: a partition by subset sums.

use std::collections::{BTreeMap, BTreeSet};

use backstay_model::{DomainLevel, NodeName};
use backstay_spec::{Redundancy, ServiceSpec};

use crate::topology::Topology;

/// What a placement lacks of its model in one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// The site, when the service names its sites.
    pub site: Option<String>,
    /// Instances that count, as in [`super::Shortage::placed`].
    pub counted: u32,
    /// Instances that the model asks for in this site.
    pub wanted: u32,
}

/// The sets of a placement: those of each site after those of the site before.
///
/// N: one set of at least `need`. N+k: need + k sets or more, each in one domain. 2N: two sets of at least `need`, no domain
/// in both; 2N+1: and a third with the spare. Nodes that are unknown or stand outside the service's sites are left out. More
/// instances than the model asks for do no harm: each is in the set of its domain.
///
/// # Errors
/// What is lacking, of each site that lacks something.
pub fn sets(
    topology: &Topology,
    service: &ServiceSpec,
    nodes: &[NodeName],
) -> Result<Vec<Vec<NodeName>>, Vec<Lacking>> {
    let (mut sets, mut lacking) = (Vec::new(), Vec::new());
    let wanted = service.instances_per_site();
    for site in scopes(service) {
        let domains = domains_of(topology, service.spread, site, nodes);
        let counts: Vec<u32> = domains.iter().map(|members| members.len() as u32).collect();
        let split = split(service.redundancy, service.need, wanted, &counts);
        if split.counted < wanted {
            lacking.push(Lacking { site: site.map(str::to_owned), counted: split.counted, wanted });
            continue;
        }
        let mut here: BTreeMap<u32, Vec<NodeName>> = BTreeMap::new();
        for (members, set) in domains.into_iter().zip(split.set_of) {
            here.entry(set).or_default().extend(members);
        }
        sets.extend(here.into_values());
    }
    if lacking.is_empty() { Ok(sets) } else { Err(lacking) }
}

/// How many instances count for the model, and how many there are, in each of its sites.
pub(super) fn counted_by_site<'n>(
    topology: &Topology,
    service: &ServiceSpec,
    nodes: impl IntoIterator<Item = &'n NodeName> + Copy,
) -> Vec<(u32, u32)> {
    let counted = |site| {
        let domains = domains_of(topology, service.spread, site, nodes);
        let counts: Vec<u32> = domains.iter().map(|members| members.len() as u32).collect();
        (split(service.redundancy, service.need, service.instances_per_site(), &counts).counted, counts.iter().sum())
    };
    scopes(service).map(counted).collect()
}

/// The sites inside which the model holds by itself; none stands for all nodes.
fn scopes(service: &ServiceSpec) -> impl Iterator<Item = Option<&str>> {
    let everywhere = service.sites.is_empty().then_some(None);
    everywhere.into_iter().chain(service.sites.iter().map(|site| Some(site.as_str())))
}

/// The nodes by domain, in the order in which they and their domains are named first.
fn domains_of<'n>(
    topology: &Topology,
    level: DomainLevel,
    site: Option<&str>,
    nodes: impl IntoIterator<Item = &'n NodeName>,
) -> Vec<Vec<NodeName>> {
    let mut domains: Vec<Vec<NodeName>> = Vec::new();
    let mut at: BTreeMap<&str, usize> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for node in nodes {
        let inside = site.is_none_or(|site| topology.domain_of(node, DomainLevel::Site) == Some(site));
        let Some(domain) = topology.domain_of(node, level).filter(|_| inside && seen.insert(node)) else { continue };
        let number = *at.entry(domain).or_insert(domains.len());
        match domains.get_mut(number) {
            Some(members) => members.push(node.clone()),
            None => domains.push(vec![node.clone()]),
        }
    }
    domains
}

/// The best split of domains into sets.
#[derive(Default)]
pub(super) struct Split {
    /// Instances that count for the model.
    pub(super) counted: u32,
    /// The set of each domain.
    pub(super) set_of: Vec<u32>,
}

/// The split that lets most instances count; `counts` has the instances in each domain.
pub(super) fn split(model: Redundancy, need: u32, wanted: u32, counts: &[u32]) -> Split {
    match model {
        Redundancy::N => Split { counted: wanted.min(counts.iter().sum()), set_of: vec![0; counts.len()] },
        Redundancy::NPlus1 | Redundancy::NPlus2 => {
            let used = counts.iter().filter(|count| **count > 0).count() as u32;
            Split { counted: wanted.min(used), set_of: (0..counts.len() as u32).collect() }
        }
        Redundancy::TwoN => halve(need, counts, None),
        Redundancy::TwoNPlus1 => {
            // Domains with as many instances are alike to the spare: one of each count is tried, and none at all.
            let mut tried = BTreeSet::new();
            let spares = (0..counts.len()).filter(|at| counts[*at] > 0 && tried.insert(counts[*at]));
            let spares: Vec<_> = spares.map(Some).chain([None]).collect();
            let splits = spares.into_iter().map(|spare| halve(need, counts, spare));
            splits.reduce(|best, other| if other.counted > best.counted { other } else { best }).unwrap_or_default()
        }
    }
}

/// Gives each domain, but the spare's, to one of two sets, so that together they hold most of `need` each.
///
/// Exact, by subset sums: O(domains × instances). `added_last[s]` is the domain by which the sum s was first reached; the
/// rest of that sum was reached by domains before it.
fn halve(need: u32, counts: &[u32], spare: Option<usize>) -> Split {
    let of = |at: usize| if Some(at) == spare { 0 } else { counts[at] as usize };
    let total: usize = (0..counts.len()).map(of).sum();
    let mut added_last: Vec<Option<usize>> = vec![None; total + 1];
    let mut reached = vec![false; total + 1];
    reached[0] = true;
    for at in (0..counts.len()).filter(|at| of(*at) > 0) {
        for sum in (of(at)..=total).rev() {
            if !reached[sum] && reached[sum - of(at)] {
                reached[sum] = true;
                added_last[sum] = Some(at);
            }
        }
    }
    let need = need as usize;
    let worth = |sum: usize| sum.min(need) + (total - sum).min(need);
    let sums = (0..=total).filter(|sum| reached[*sum]);
    let mut sum = sums.reduce(|best, sum| if worth(sum) > worth(best) { sum } else { best }).unwrap_or(0);
    let counted = worth(sum) + usize::from(spare.is_some());
    let mut set_of = vec![1; counts.len()];
    while let Some(at) = added_last[sum] {
        set_of[at] = 0;
        sum -= of(at);
    }
    if let Some(spare) = spare {
        set_of[spare] = 2;
    }
    Split { counted: counted as u32, set_of }
}
