//! One service by itself: the best of all its placements.

use std::collections::BTreeSet;

use backstay_model::NodeName;
use backstay_planner::{Demand, Placement, Topology, place, sets};
use backstay_spec::{Redundancy, ServiceSpec};

use super::brute::{CROWDING, add, choices, counted, inside, scopes, worth_in_all};
use super::random::{Dice, Kind, demand, names, prefer, service, topology};

const KIND: Kind = Kind { nodes: 7, racks: 4, sites: 3, need: 3, sizes: Vec::new(), slots: (30, 2) };

fn case(seed: u64) -> (Topology, ServiceSpec, Dice) {
    let kind = Kind { sizes: vec![1, 1, 2], ..KIND };
    let mut dice = Dice::new(seed);
    let topology = topology(&mut dice, &kind);
    let mut service = service(&mut dice, &kind, "web");
    prefer(&mut dice, &topology, &mut service);
    (topology, service, dice)
}

fn placed(placement: &Placement, service: &ServiceSpec) -> Vec<NodeName> {
    placement.nodes[&service.id].clone()
}

#[test]
fn nothing_better_exists() {
    let (mut full, mut short, mut kept) = (0, 0, 0);
    for seed in 0..4000 {
        let (topology, service, mut dice) = case(seed);
        let demand = demand(&mut dice, &topology, &service);
        let placement = place(&topology, std::slice::from_ref(&demand));
        let nodes = placed(&placement, &service);
        let at_once: BTreeSet<_> = nodes.iter().collect();
        assert_eq!(at_once.len(), nodes.len(), "seed {seed}: two instances on one node");
        assert!(nodes.iter().all(|node| !demand.barred.contains(node)), "seed {seed}: a barred node");

        let scopes = scopes(&service);
        let best = scopes.iter().map(|scope| choices(&topology, &demand, scope.as_ref())[0].0);
        let (mut best, mut found) = (best.fold([0; 8], add), worth_in_all(&topology, &demand, &nodes));
        if !matches!(service.redundancy, Redundancy::NPlus1 | Redundancy::NPlus2) {
            (best[CROWDING], found[CROWDING]) = (0, 0);
        }
        assert_eq!(found, best, "seed {seed}: {:?} of {service:#?}\n{demand:#?}\n{topology:#?}", nodes);

        let missing = service.instances_wanted() as i64 + best[1];
        match placement.short.get(&service.id) {
            None => assert_eq!(missing, 0, "seed {seed}"),
            Some(shortage) => {
                assert_eq!(i64::from(shortage.placed), -best[1], "seed {seed}");
                assert_eq!(shortage.gaps.iter().map(|gap| i64::from(gap.missing)).sum::<i64>(), missing, "seed {seed}");
            }
        }
        match missing {
            0 => full += 1,
            _ => short += 1,
        }
        kept += usize::from(best[6] < -best[2]);
    }
    assert!(full > 1000 && short > 1000 && kept > 1000, "{full} full, {short} short, {kept} kept some");
}

#[test]
fn the_judge_agrees_with_trying_every_split() {
    for seed in 0..3000 {
        let (topology, service, mut dice) = case(seed);
        let nodes: Vec<NodeName> = names(&topology).into_iter().filter(|_| dice.chance(70)).collect();
        let per_site = service.instances_per_site();
        let in_scope = |site: Option<&String>| -> Vec<NodeName> {
            nodes.iter().filter(|node| inside(&topology, site, node)).cloned().collect()
        };
        let counts: Vec<u32> =
            scopes(&service).iter().map(|site| counted(&topology, &service, &in_scope(site.as_ref()))).collect();
        match sets(&topology, &service, &nodes) {
            Ok(sets) => {
                assert!(counts.iter().all(|count| *count == per_site), "seed {seed}");
                check_sets(&topology, &service, &sets, seed);
            }
            Err(lacking) => {
                let known: Vec<u32> = counts.into_iter().filter(|count| *count < per_site).collect();
                assert_eq!(lacking.iter().map(|site| site.counted).collect::<Vec<_>>(), known, "seed {seed}");
            }
        }
    }
}

/// No domain in two sets, and each set large enough.
fn check_sets(topology: &Topology, service: &ServiceSpec, sets: &[Vec<NodeName>], seed: u64) {
    let domain = |node: &NodeName| topology.domain_of(node, service.spread).unwrap().to_owned();
    let mut seen = BTreeSet::new();
    for set in sets {
        let domains: BTreeSet<_> = set.iter().map(domain).collect();
        for domain in domains {
            assert!(seen.insert(domain), "seed {seed}: a domain in two sets");
        }
    }
    let sites = service.sites.len().max(1);
    let of_need = |count: usize| sets.iter().filter(|set| set.len() >= service.need as usize).count() >= count * sites;
    match service.redundancy {
        Redundancy::N => assert!(of_need(1), "seed {seed}"),
        Redundancy::NPlus1 => assert!(sets.len() > service.need as usize * sites, "seed {seed}"),
        Redundancy::NPlus2 => assert!(sets.len() >= (service.need as usize + 2) * sites, "seed {seed}"),
        Redundancy::TwoN => assert!(of_need(2), "seed {seed}"),
        Redundancy::TwoNPlus1 => assert!(of_need(2) && sets.len() == 3 * sites, "seed {seed}"),
    }
}

#[test]
fn the_answer_again_is_the_same_answer() {
    for seed in 0..4000 {
        let (topology, service, mut dice) = case(seed);
        let first = demand(&mut dice, &topology, &service);
        let placement = place(&topology, std::slice::from_ref(&first));
        assert_eq!(place(&topology, std::slice::from_ref(&first)), placement, "seed {seed}: not deterministic");
        let current = placed(&placement, &service).into_iter().collect();
        let again = place(&topology, &[Demand { current, ..first }]);
        let sorted = |placement: &Placement| placed(placement, &service).into_iter().collect::<BTreeSet<_>>();
        assert_eq!(sorted(&again), sorted(&placement), "seed {seed}");
    }
}

/// What each model promises (DESIGN.md §1): any domain, any two, a whole set, and a set with one more instance.
#[test]
fn what_the_model_promises_to_survive_is_survived() {
    let mut tried = 0;
    for seed in 0..3000 {
        let (topology, service, mut dice) = case(seed);
        let demand = demand(&mut dice, &topology, &service);
        let placement = place(&topology, std::slice::from_ref(&demand));
        if placement.short.contains_key(&service.id) {
            continue;
        }
        let nodes = placed(&placement, &service);
        for site in scopes(&service) {
            let here: Vec<_> = nodes.iter().filter(|node| inside(&topology, site.as_ref(), node)).cloned().collect();
            let sets = sets(&topology, &ServiceSpec { sites: Vec::new(), ..service.clone() }, &here).unwrap();
            for lost in losses(&topology, &service, &here, &sets) {
                let left = here.iter().filter(|node| !lost.contains(node)).count();
                assert!(left >= service.need as usize, "seed {seed}: {left} left without {lost:?}");
                tried += 1;
            }
        }
    }
    assert!(tried > 3000, "{tried}");
}

fn losses(
    topology: &Topology,
    service: &ServiceSpec,
    nodes: &[NodeName],
    sets: &[Vec<NodeName>],
) -> Vec<BTreeSet<NodeName>> {
    let domain = |node: &NodeName| topology.domain_of(node, service.spread).unwrap();
    let with = |lost: &[&str]| -> BTreeSet<NodeName> {
        nodes.iter().filter(|node| lost.contains(&domain(node))).cloned().collect()
    };
    let pairs = nodes.iter().flat_map(|a| nodes.iter().map(move |b| (a, b)));
    match service.redundancy {
        Redundancy::N => Vec::new(),
        Redundancy::NPlus1 => nodes.iter().map(|node| with(&[domain(node)])).collect(),
        Redundancy::NPlus2 => pairs.map(|(a, b)| with(&[domain(a), domain(b)])).collect(),
        Redundancy::TwoN => sets.iter().map(|set| set.iter().cloned().collect()).collect(),
        Redundancy::TwoNPlus1 => {
            let more = |set: &Vec<NodeName>, one: &NodeName| set.iter().chain([one]).cloned().collect();
            sets.iter().take(2).flat_map(|set| nodes.iter().map(move |one| more(set, one))).collect()
        }
    }
}
