//! Several services on the same slots.

use std::collections::{BTreeMap, BTreeSet};

use backstay_model::{DomainLevel, NodeName};
use backstay_planner::{Demand, Placement, Topology, place};
use backstay_spec::{Redundancy, ServiceSpec};

use super::brute::{Worth, add, choices, scopes, worth_in_all};
use super::random::{Dice, Kind, demand, prefer, service, topology};

fn kind(sizes: &[u32]) -> Kind {
    Kind { nodes: 5, racks: 3, sites: 2, need: 2, sizes: sizes.to_vec(), slots: (80, 2 * sizes.len()) }
}

struct Case {
    topology: Topology,
    services: Vec<ServiceSpec>,
    dice: Dice,
}

fn case(seed: u64, sizes: &[u32], suits: impl Fn(&ServiceSpec) -> bool) -> Case {
    let kind = kind(sizes);
    let mut dice = Dice::new(seed);
    let topology = topology(&mut dice, &kind);
    let count = 2 + dice.below(2);
    let mut services = Vec::new();
    while services.len() < count {
        let mut one = service(&mut dice, &kind, &format!("s{}", services.len()));
        prefer(&mut dice, &topology, &mut one);
        if suits(&one) {
            services.push(one);
        }
    }
    Case { topology, services, dice }
}

fn demands(case: &mut Case) -> Vec<Demand<'_>> {
    let Case { topology, services, dice } = case;
    services.iter().map(|service| demand(dice, topology, service)).collect()
}

/// The size of a service's instances, and where they can be.
type Choices = (u32, Vec<(Worth, Vec<NodeName>)>);

/// The best that all services together can have, with every combination tried.
fn best(topology: &Topology, demands: &[Demand<'_>]) -> Worth {
    let of_service = |demand| scopes(service_of(demand)).into_iter().map(move |scope| (demand, scope));
    let lists: Vec<Choices> = demands
        .iter()
        .flat_map(of_service)
        .map(|(demand, scope)| (demand.service.slots, choices(topology, demand, scope.as_ref())))
        .collect();
    let mut free: BTreeMap<NodeName, Option<u32>> = BTreeMap::new();
    topology.carriers().iter().for_each(|carrier| {
        free.insert(carrier.name.clone(), carrier.slots);
    });
    let mut best = [i64::MAX; 8];
    go_on(&lists, &mut free, [0; 8], &mut best);
    best
}

fn service_of<'a>(demand: &Demand<'a>) -> &'a ServiceSpec {
    demand.service
}

fn go_on(lists: &[Choices], free: &mut BTreeMap<NodeName, Option<u32>>, sum: Worth, best: &mut Worth) {
    let Some(((slots, choices), rest)) = lists.split_first() else {
        *best = sum.min(*best);
        return;
    };
    let least = rest.iter().map(|(_, choices)| choices[0].0).fold([0; 8], add);
    for (worth, nodes) in choices {
        if add(add(sum, *worth), least) >= *best {
            return;
        }
        if nodes.iter().any(|node| free[node].is_some_and(|free| free < *slots)) {
            continue;
        }
        nodes.iter().for_each(|node| *free.get_mut(node).unwrap() = free[node].map(|free| free - slots));
        go_on(rest, free, add(sum, *worth), best);
        nodes.iter().for_each(|node| *free.get_mut(node).unwrap() = free[node].map(|free| free + slots));
    }
}

fn found(topology: &Topology, demands: &[Demand<'_>], placement: &Placement) -> Worth {
    let worths = demands.iter().map(|demand| worth_in_all(topology, demand, &placement.nodes[&demand.service.id]));
    worths.fold([0; 8], add)
}

fn check_slots(topology: &Topology, demands: &[Demand<'_>], placement: &Placement, seed: u64) {
    let mut used: BTreeMap<&NodeName, u32> = BTreeMap::new();
    for demand in demands {
        let nodes = &placement.nodes[&demand.service.id];
        assert_eq!(nodes.iter().collect::<BTreeSet<_>>().len(), nodes.len(), "seed {seed}: two on one node");
        nodes.iter().for_each(|node| *used.entry(node).or_default() += demand.service.slots);
    }
    for carrier in topology.carriers() {
        let used = used.get(&carrier.name).copied().unwrap_or(0);
        assert!(carrier.slots.is_none_or(|slots| used <= slots), "seed {seed}: {} is over its slots", carrier.name);
    }
}

fn with_sets(service: &ServiceSpec) -> bool {
    matches!(service.redundancy, Redundancy::TwoN | Redundancy::TwoNPlus1) && service.spread > DomainLevel::Node
}

#[test]
fn with_instances_of_one_size_nothing_better_exists() {
    let mut contended = 0;
    for seed in 0..2000 {
        let mut case = case(seed, &[1], |service| !with_sets(service));
        let topology = case.topology.clone();
        let demands = demands(&mut case);
        let placement = place(&topology, &demands);
        check_slots(&topology, &demands, &placement, seed);
        let best = best(&topology, &demands);
        assert_eq!(
            found(&topology, &demands, &placement),
            best,
            "seed {seed}: {placement:#?}\n{demands:#?}\n{topology:#?}"
        );
        let alone = demands.iter().map(|demand| super::shared::best(&topology, std::slice::from_ref(demand)));
        contended += usize::from(alone.fold([0; 8], add) != best);
    }
    assert!(contended > 500, "{contended}");
}

/// Up to what is placed and counts; the moves may be more.
#[test]
fn with_sizes_and_sets_what_can_be_had_is_had() {
    let mut worse = 0;
    for seed in 0..2000 {
        let mut case = case(seed, &[1, 2, 3], |_| true);
        let topology = case.topology.clone();
        let demands = demands(&mut case);
        let placement = place(&topology, &demands);
        check_slots(&topology, &demands, &placement, seed);
        let (found, best) = (found(&topology, &demands, &placement), best(&topology, &demands));
        assert_eq!(found[..3], best[..3], "seed {seed}: {placement:#?}\n{demands:#?}\n{topology:#?}");
        worse += usize::from(found > best);
    }
    assert!(worse < 200, "{worse} could be had with less");
}

#[test]
fn the_answer_again_is_the_same_answer() {
    for seed in 0..3000 {
        let mut case = case(seed, &[1, 2, 3], |_| true);
        let topology = case.topology.clone();
        let demands = demands(&mut case);
        let placement = place(&topology, &demands);
        let again: Vec<_> = demands
            .iter()
            .map(|demand| Demand {
                current: placement.nodes[&demand.service.id].iter().cloned().collect(),
                ..demand.clone()
            })
            .collect();
        let sorted = |placement: &Placement| -> Vec<BTreeSet<NodeName>> {
            placement.nodes.values().map(|nodes| nodes.iter().cloned().collect()).collect()
        };
        assert_eq!(sorted(&place(&topology, &again)), sorted(&placement), "seed {seed}");
    }
}
