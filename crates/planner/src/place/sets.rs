//! The judge: does a placement really give the model? It knows nothing of how placements are made.
//!
//! A model is a list of sets whose domains are disjoint (availability.md §1.3). For N+k each domain is a set of one, so
//! that counting domains decides. For two full sets each domain has to be given to one of them: a partition by subset
//! sums.

use std::collections::{BTreeMap, BTreeSet};

use backstay_model::{DomainLevel, NodeName};
use backstay_spec::{Redundancy, ServiceSpec};

use crate::topology::{DomainNo, NodeNo, Topology};

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
/// N: one set of at least `need`. N+k: need + k sets or more, each in one domain. 2N: two sets of at least `need`, no
/// domain in both; 2N+1: and a third with the spare. Nodes that are unknown or stand outside the service's sites are
/// left out. More instances than the model asks for do no harm: each is in the set of its domain.
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

/// The sites inside which the model of a service holds by itself, by number; none stands for all nodes.
pub(super) fn sites(topology: &Topology, service: &ServiceSpec) -> Vec<Option<DomainNo>> {
    // A site where no carrier stands has a number that no node has.
    let number = |site: &str| topology.site(site).unwrap_or(DomainNo::MAX);
    scopes(service).map(|site| site.map(number)).collect()
}

/// How many instances count for the model, and how many there are, in each of these sites. Nodes that are not in the
/// topology count for nothing.
pub(super) fn counted_by_site(
    topology: &Topology,
    service: &ServiceSpec,
    sites: &[Option<DomainNo>],
    nodes: &[NodeNo],
) -> Vec<(u32, u32)> {
    let known = topology.len() as NodeNo;
    let counted = |site: &Option<DomainNo>| {
        let inside = |node: &&NodeNo| site.is_none_or(|site| topology.domain(**node, DomainLevel::Site) == site);
        let nodes = nodes.iter().filter(|node| **node < known).filter(inside);
        let mut domains: Vec<DomainNo> = nodes.map(|node| topology.domain(*node, service.spread)).collect();
        domains.sort_unstable();
        let counts: Vec<u32> = domains.chunk_by(|a, b| a == b).map(|same| same.len() as u32).collect();
        let wanted = service.instances_per_site();
        (split(service.redundancy, service.need, wanted, &counts).counted, domains.len() as u32)
    };
    sites.iter().map(counted).collect()
}

/// The sites inside which the model holds by itself; none stands for all nodes.
fn scopes(service: &ServiceSpec) -> impl Iterator<Item = Option<&str>> {
    let everywhere = service.sites.is_empty().then_some(None);
    everywhere.into_iter().chain(service.sites.iter().map(|site| Some(site.as_str())))
}

/// The nodes by domain, in the order in which they and their domains are named first.
fn domains_of(topology: &Topology, level: DomainLevel, site: Option<&str>, nodes: &[NodeName]) -> Vec<Vec<NodeName>> {
    let mut domains: Vec<Vec<NodeName>> = Vec::new();
    let mut at: BTreeMap<DomainNo, usize> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let site = site.map(|site| topology.site(site));
    for name in nodes {
        let Some(node) = topology.number(name) else { continue };
        let inside = site.is_none_or(|site| site == Some(topology.domain(node, DomainLevel::Site)));
        if !inside || !seen.insert(node) {
            continue;
        }
        let number = *at.entry(topology.domain(node, level)).or_insert(domains.len());
        match domains.get_mut(number) {
            Some(members) => members.push(name.clone()),
            None => domains.push(vec![name.clone()]),
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
            // Domains with as many instances are alike to the spare: one of each count is tried, and none at all. The
            // one that is named last is the least loss to the sets.
            let mut tried = BTreeSet::new();
            let spares = (0..counts.len()).rev().filter(|at| counts[*at] > 0 && tried.insert(counts[*at]));
            let spares: Vec<_> = spares.map(Some).chain([None]).collect();
            let splits = spares.into_iter().map(|spare| halve(need, counts, spare));
            splits.reduce(|best, other| if other.counted > best.counted { other } else { best }).unwrap_or_default()
        }
    }
}

/// Gives each domain, but the spare's, to one of two sets, so that together they hold most of `need` each.
///
/// Exact, by subset sums: O(domains × instances). `added_last[s]` is the domain by which the sum s was first reached;
/// the rest of that sum was reached by domains before it.
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
    // The set of the domain that is named first comes first.
    let first = (0..counts.len()).find(|at| Some(*at) != spare);
    if first.is_some_and(|at| set_of[at] == 1) {
        set_of.iter_mut().for_each(|set| *set = 1 - *set);
    }
    if let Some(spare) = spare {
        set_of[spare] = 2;
    }
    Split { counted: counted as u32, set_of }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_split_so_that_most_instances_count() {
        let counted = |model, need, wanted, counts: &[u32]| split(model, need, wanted, counts).counted;
        assert_eq!(counted(Redundancy::NPlus1, 2, 3, &[2, 2]), 2, "two racks, whatever is in them");
        assert_eq!(counted(Redundancy::TwoN, 3, 6, &[2, 2, 1, 1]), 6);
        assert_eq!(counted(Redundancy::TwoN, 3, 6, &[5, 1]), 4);
        assert_eq!(counted(Redundancy::TwoNPlus1, 2, 5, &[2, 2]), 4, "the spare has no rack of its own");
        assert_eq!(counted(Redundancy::TwoNPlus1, 2, 5, &[1, 2, 1, 1]), 5);
    }

    #[test]
    fn a_domain_is_in_one_set() {
        let found = split(Redundancy::TwoN, 3, 6, &[2, 2, 1, 1]);
        let sum = |set: u32| -> u32 { (0..4).filter(|at| found.set_of[*at] == set).map(|at| [2, 2, 1, 1][at]).sum() };
        assert_eq!((sum(0), sum(1)), (3, 3));
    }
}
