//! The slow twin: a placement's worth from the words of the models, and the best of all placements.

use std::collections::BTreeMap;

use backstay_model::{DomainLevel, NodeName};
use backstay_planner::{Demand, Topology};
use backstay_spec::{Redundancy, ServiceSpec};

/// What counts, in this order; less is better: instances that the load needs, that count, and at all (each −1);
/// reluctant nodes; pulls; extra instances that share a domain (N+k only); moves; places among the preferred nodes.
pub type Worth = [i64; 8];
pub const CROWDING: usize = 5;

pub fn add(a: Worth, b: Worth) -> Worth {
    std::array::from_fn(|at| a[at] + b[at])
}

/// The scopes in which a model holds by itself.
pub fn scopes(service: &ServiceSpec) -> Vec<Option<String>> {
    if service.sites.is_empty() { vec![None] } else { service.sites.iter().cloned().map(Some).collect() }
}

pub fn inside(topology: &Topology, scope: Option<&String>, node: &NodeName) -> bool {
    scope.is_none_or(|site| topology.domain_of(node, DomainLevel::Site) == Some(site))
}

/// Instances by domain.
fn by_domain(topology: &Topology, service: &ServiceSpec, nodes: &[NodeName]) -> Vec<u32> {
    let mut domains: BTreeMap<&str, u32> = BTreeMap::new();
    for node in nodes {
        *domains.entry(topology.domain_of(node, service.spread).unwrap()).or_default() += 1;
    }
    domains.into_values().collect()
}

/// How many instances count for the model: every way to give each domain to a set is tried.
pub fn counted(topology: &Topology, service: &ServiceSpec, nodes: &[NodeName]) -> u32 {
    let domains = by_domain(topology, service, nodes);
    let quotas: Vec<u32> = match service.redundancy {
        Redundancy::N => return (nodes.len() as u32).min(service.need),
        Redundancy::NPlus1 => return (domains.len() as u32).min(service.need + 1),
        Redundancy::NPlus2 => return (domains.len() as u32).min(service.need + 2),
        Redundancy::TwoN => vec![service.need; 2],
        Redundancy::TwoNPlus1 => vec![service.need, service.need, 1],
    };
    let ways = quotas.len().pow(domains.len() as u32);
    let counted = |mut way: usize| {
        let mut sums = vec![0; quotas.len()];
        for count in &domains {
            sums[way % quotas.len()] += count;
            way /= quotas.len();
        }
        sums.iter().zip(&quotas).map(|(sum, quota)| sum.min(quota)).sum::<u32>()
    };
    (0..ways).map(counted).max().unwrap()
}

/// The worth of one service's nodes in one scope.
pub fn worth(topology: &Topology, demand: &Demand<'_>, nodes: &[NodeName]) -> Worth {
    let service = demand.service;
    let place = |list: &[NodeName], node: &NodeName| list.iter().position(|other| other == node).unwrap_or(list.len());
    let pull = |node: &NodeName| {
        demand.pull.iter().position(|other| other == node).map_or(0, |at| -(1_i64 << 15_usize.saturating_sub(at)))
    };
    let crowding = match service.redundancy {
        Redundancy::NPlus1 | Redundancy::NPlus2 => {
            by_domain(topology, service, nodes).iter().map(|count| i64::from(count * (count - 1) / 2)).sum()
        }
        _ => 0,
    };
    let count = |of: &dyn Fn(&NodeName) -> bool| nodes.iter().filter(|node| of(node)).count() as i64;
    [
        -i64::from(service.need.min(nodes.len() as u32)),
        -i64::from(counted(topology, service, nodes)),
        -(nodes.len() as i64),
        count(&|node| demand.reluctant.contains(node)),
        nodes.iter().map(pull).sum(),
        crowding,
        count(&|node| !demand.current.contains(node)),
        nodes.iter().map(|node| place(&service.prefer, node) as i64).sum(),
    ]
}

/// All placements of one service in one scope that its own node's slots allow, with their worth, best first.
pub fn choices(topology: &Topology, demand: &Demand<'_>, scope: Option<&String>) -> Vec<(Worth, Vec<NodeName>)> {
    let may = |node: &NodeName, slots: Option<u32>| {
        inside(topology, scope, node)
            && !demand.barred.contains(node)
            && slots.is_none_or(|slots| demand.service.slots <= slots)
    };
    let carriers = topology.carriers().iter().filter(|carrier| may(&carrier.name, carrier.slots));
    let nodes: Vec<NodeName> = carriers.map(|carrier| carrier.name.clone()).collect();
    let wanted = demand.service.instances_per_site() as usize;
    let subsets = (0..1_usize << nodes.len()).filter(|bits| bits.count_ones() as usize <= wanted);
    let chosen = |bits: usize| (0..nodes.len()).filter(move |at| bits >> at & 1 == 1).map(|at| nodes[at].clone());
    let subsets = subsets.map(|bits| chosen(bits).collect::<Vec<_>>());
    let mut choices: Vec<_> = subsets.map(|nodes| (worth(topology, demand, &nodes), nodes)).collect();
    choices.sort();
    choices
}

/// The worth of a whole service, over its scopes.
pub fn worth_in_all(topology: &Topology, demand: &Demand<'_>, nodes: &[NodeName]) -> Worth {
    let mut sum = [0; 8];
    for scope in scopes(demand.service) {
        let here: Vec<_> = nodes.iter().filter(|node| inside(topology, scope.as_ref(), node)).cloned().collect();
        sum = add(sum, worth(topology, demand, &here));
    }
    sum
}
