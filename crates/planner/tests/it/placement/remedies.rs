//! Fixes: each of them does what it says, and there is nearly always one.

use backstay_model::{DomainLevel, NodeName};
use backstay_planner::{Carrier, Demand, Fix, Gap, Location, Topology, fixes, place};
use backstay_spec::ServiceSpec;

use super::random::{Dice, Kind, demand, service, topology};

/// The same cluster with a fix applied, by hand.
fn applied(topology: &Topology, service: &ServiceSpec, fix: &Fix) -> (Topology, ServiceSpec) {
    let (mut carriers, mut service) = (topology.carriers().to_vec(), service.clone());
    match fix {
        Fix::LowerNeed(need) => service.need = *need,
        Fix::LowerModel(model) => service.redundancy = *model,
        Fix::LowerSpread(level) => service.spread = *level,
        Fix::RaiseSlots { node, slots } => {
            let carrier = carriers.iter_mut().find(|carrier| carrier.name == *node).unwrap();
            assert!(carrier.slots.unwrap() < *slots);
            carrier.slots = Some(*slots);
        }
        Fix::AddNodes { count, location, slots } => {
            for at in 0..*count {
                let name = NodeName(format!("x{at}"));
                let first = carriers[0].site.clone();
                let (rack, site) = match location {
                    Location::NewDomain { level: DomainLevel::Site, .. } => (None, format!("x{at}")),
                    Location::NewDomain { site, .. } => (None, site.clone().unwrap_or(first)),
                    Location::Inside { level: DomainLevel::Site, domain } => (None, domain.clone()),
                    Location::Inside { level, domain } => {
                        let inside = |carrier: &&Carrier| topology.domain_of(&carrier.name, *level) == Some(domain);
                        let other = topology.carriers().iter().find(inside).unwrap();
                        (other.rack.clone(), other.site.clone())
                    }
                };
                carriers.push(Carrier { name, rack, site, slots: *slots });
            }
        }
    }
    (Topology::new(carriers), service)
}

#[test]
fn every_fix_does_what_it_says_and_there_is_one() {
    let kind = Kind { nodes: 6, racks: 3, sites: 2, need: 3, sizes: vec![1, 1, 2], slots: (60, 3) };
    let (mut tried, mut none, mut kinds) = (0, 0, [0; 5]);
    for seed in 0..250 {
        let mut dice = Dice::new(seed);
        let topology = topology(&mut dice, &kind);
        let services: Vec<_> = (0..3).map(|at| service(&mut dice, &kind, &format!("s{at}"))).collect();
        let demands: Vec<Demand<'_>> = services.iter().map(|service| demand(&mut dice, &topology, service)).collect();
        let before = place(&topology, &demands);
        for (at, service) in services.iter().enumerate() {
            let offered = fixes(&topology, &demands, &service.id);
            let Some(short) = before.short.get(&service.id) else {
                assert!(offered.is_empty(), "seed {seed}");
                continue;
            };
            none += usize::from(offered.is_empty());
            for fix in offered {
                tried += 1;
                let (topology, service) = applied(&topology, service, &fix);
                let mut demands = demands.clone();
                demands[at].service = &service;
                let after = place(&topology, &demands);
                let gaps = after.short.get(&service.id).map_or(0, |short| short.gaps.len());
                let (kind, adds) = match &fix {
                    Fix::LowerNeed(_) => (0, false),
                    Fix::LowerModel(_) => (1, false),
                    Fix::LowerSpread(_) => (2, false),
                    Fix::RaiseSlots { .. } => (3, true),
                    Fix::AddNodes { .. } => (4, true),
                };
                kinds[kind] += 1;
                let lacks = |gap: &Gap| before.short[&service.id].gaps.iter().any(|known| known.site == gap.site);
                assert!(gaps == 0 || (adds && gaps < short.gaps.len()), "seed {seed}: {fix:?} leaves {after:?}");
                assert!(after.short.get(&service.id).is_none_or(|short| short.gaps.iter().all(lacks)), "seed {seed}");
                for (id, other) in after.short.iter().filter(|(id, _)| **id != service.id) {
                    assert!(before.short[id].placed <= other.placed, "seed {seed}: {fix:?} takes from {id}");
                }
            }
        }
    }
    assert!(tried > 500 && kinds.iter().all(|count| *count > 10), "{tried} {kinds:?}");
    assert!(none * 100 < tried, "{none} services for which nothing was offered");
}
