//! The order of moves: every step is judged, and where there is a way it is found.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use backstay_model::{NodeName, ServiceId};
use backstay_planner::{Demand, Move, Places, Topology, moves, place, sets};
use backstay_spec::ServiceSpec;

use super::brute::{counted, inside, scopes};
use super::random::{Dice, Kind, demand, names, service, topology};

struct Case {
    topology: Topology,
    services: BTreeMap<ServiceId, ServiceSpec>,
    current: Places,
    target: Places,
}

/// What each service must not fall below: what counts and how many there are, in each of its scopes and in all.
type Floors<'a> = BTreeMap<&'a ServiceId, Vec<(u32, usize)>>;

/// From one placement to another, both as the planner makes them.
fn case(seed: u64, sizes: &[u32]) -> Case {
    let kind = Kind { nodes: 5, racks: 4, sites: 2, need: 2, sizes: sizes.to_vec(), slots: (85, 1 + sizes.len()) };
    let mut dice = Dice::new(seed);
    let topology = topology(&mut dice, &kind);
    let services: BTreeMap<ServiceId, ServiceSpec> = (0..2 + dice.below(2))
        .map(|at| service(&mut dice, &kind, &format!("s{at}")))
        .map(|service| (service.id.clone(), service))
        .collect();
    let mut places = || -> Places {
        let demands: Vec<Demand<'_>> = services
            .values()
            .map(|service| Demand { current: BTreeSet::new(), ..demand(&mut dice, &topology, service) })
            .collect();
        place(&topology, &demands).nodes
    };
    let (current, target) = (places(), places());
    Case { topology, services, current, target }
}

fn used(services: &BTreeMap<ServiceId, ServiceSpec>, places: &Places, node: &NodeName) -> u32 {
    let here = places.iter().filter(|(_, nodes)| nodes.contains(node));
    here.map(|(id, _)| services[id].slots).sum()
}

fn slots_hold(case: &Case, places: &Places) -> bool {
    let mut carriers = case.topology.carriers().iter();
    carriers.all(|carrier| carrier.slots.is_none_or(|slots| used(&case.services, places, &carrier.name) <= slots))
}

fn floor(case: &Case, service: &ServiceSpec) -> Vec<(u32, usize)> {
    let of = |places: &Places| counts(&case.topology, service, &places[&service.id]);
    let both = of(&case.current).into_iter().zip(of(&case.target));
    both.map(|(a, b)| (a.0.min(b.0), a.1.min(b.1))).collect()
}

fn counts(topology: &Topology, service: &ServiceSpec, nodes: &[NodeName]) -> Vec<(u32, usize)> {
    let here = |scope: &Option<String>| -> Vec<NodeName> {
        nodes.iter().filter(|node| inside(topology, scope.as_ref(), node)).cloned().collect()
    };
    let scopes = scopes(service);
    let counts = scopes.iter().map(|scope| (counted(topology, service, &here(scope)), here(scope).len()));
    counts.chain([(0, nodes.len())]).collect()
}

fn is_safe(case: &Case, floors: &Floors<'_>, places: &Places) -> bool {
    case.services.iter().all(|(id, service)| {
        let now = counts(&case.topology, service, &places[id]);
        now.iter().zip(&floors[id]).all(|(now, floor)| now.0 >= floor.0 && now.1 >= floor.1)
    })
}

/// What came of some cases.
#[derive(Debug, Default)]
struct Tally {
    ways: usize,
    steps: usize,
    blocked: usize,
    /// Where there was a way.
    overlooked: Vec<u64>,
}

#[test]
fn at_every_step_slots_hold_and_no_model_is_broken() {
    let tally = tally(0..1500, &[1]);
    assert!(tally.ways > 1000 && tally.steps > 1500 && tally.blocked > 100, "{tally:?}");
    assert!(tally.overlooked.len() <= 1, "{tally:?}");
}

#[test]
fn so_it_is_with_instances_of_several_sizes() {
    let tally = tally(5000..6000, &[1, 2]);
    assert!(tally.ways > 700 && tally.steps > 1000, "{tally:?}");
    assert!(tally.overlooked.len() <= 10, "{tally:?}");
}

fn tally(seeds: std::ops::Range<u64>, sizes: &[u32]) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds {
        let case = case(seed, sizes);
        let floors: Floors<'_> = case.services.iter().map(|(id, service)| (id, floor(&case, service))).collect();
        match moves(&case.topology, &case.services, &case.current, &case.target) {
            Ok(order) => {
                tally.ways += 1;
                tally.steps += order.len();
                walk(&case, &floors, order, seed);
            }
            Err(deadlock) => {
                tally.blocked += 1;
                assert!(!deadlock.cycle.is_empty(), "seed {seed}");
                if can_be_reached(&case, &floors) {
                    tally.overlooked.push(seed);
                }
            }
        }
    }
    tally
}

/// Makes the moves, start by start and stop by stop, and judges what is in between.
fn walk(case: &Case, floors: &Floors<'_>, order: Vec<Move>, seed: u64) {
    let mut places = case.current.clone();
    for step in order {
        let nodes = places.get_mut(&step.service).unwrap();
        if let Some(to) = step.to {
            assert!(!nodes.contains(&to), "seed {seed}");
            nodes.push(to);
            assert!(slots_hold(case, &places), "seed {seed}: a node is over its slots");
        }
        let nodes = places.get_mut(&step.service).unwrap();
        if let Some(from) = step.from {
            assert!(nodes.contains(&from), "seed {seed}");
            nodes.retain(|node| *node != from);
        }
        assert!(is_safe(case, floors, &places), "seed {seed}: a model is broken on the way");
        for (id, service) in &case.services {
            let both = [&case.current, &case.target].map(|end| sets(&case.topology, service, &end[id]));
            let kept = sets(&case.topology, service, &places[id]).is_ok();
            assert!(kept || both.iter().any(Result::is_err), "seed {seed}: {id} loses its model");
        }
    }
    let sorted = |places: &Places| -> Vec<BTreeSet<NodeName>> {
        places.values().map(|nodes| nodes.iter().cloned().collect()).collect()
    };
    assert_eq!(sorted(&places), sorted(&case.target), "seed {seed}");
}

/// Every order of starts and stops is tried.
fn can_be_reached(case: &Case, floors: &Floors<'_>) -> bool {
    let sorted = |places: &Places| -> Places {
        let mut places = places.clone();
        places.values_mut().for_each(|nodes| nodes.sort());
        places
    };
    let target = sorted(&case.target);
    let mut seen = BTreeSet::from([sorted(&case.current)]);
    let mut queue: VecDeque<Places> = seen.iter().cloned().collect();
    while let Some(places) = queue.pop_front() {
        if places == target {
            return true;
        }
        for id in case.services.keys() {
            for node in names(&case.topology) {
                let mut next = places.clone();
                let nodes = next.get_mut(id).unwrap();
                match nodes.iter().position(|other| *other == node) {
                    Some(at) => drop(nodes.remove(at)),
                    None => nodes.push(node),
                }
                let next = sorted(&next);
                if slots_hold(case, &next) && is_safe(case, floors, &next) && seen.insert(next.clone()) {
                    queue.push_back(next);
                }
            }
        }
    }
    false
}
