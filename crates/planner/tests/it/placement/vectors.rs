//! The placement vectors of `vectors.json`: computed elsewhere, by network simplex and exhaustive search.

use std::collections::{BTreeMap, BTreeSet};

use backstay_model::{DomainLevel, NodeName};
use backstay_planner::{Carrier, Demand, Losses, Slot, Standby, Topology, place, standby_reserve, survive_losses};
use backstay_spec::{Redundancy, ServiceSpec};
use serde_json::Value;

use super::random::plain_service;

fn of_kind(kind: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../vectors.json")).unwrap();
    let vectors = all["placement_vectors"].as_array().unwrap();
    vectors.iter().filter(|vector| vector["kind"] == kind).cloned().collect()
}

fn number(value: &Value) -> u32 {
    value.as_u64().unwrap() as u32
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn one_service_in_a_tree_of_domains() {
    let vectors = of_kind("placement_single");
    assert_eq!(vectors.len(), 5);
    for vector in &vectors {
        let (id, inputs, expected) = (text(&vector["id"]), &vector["inputs"], &vector["expected"]);
        let mut slots = Vec::new();
        for (host, described) in inputs["hosts"].as_object().unwrap() {
            let running = inputs["current"].get(host).map_or(0, number);
            for at in 0..number(&described["slots"]) {
                let above = described["path"].as_array().unwrap().iter().map(text);
                slots.push(Slot { path: above.chain([host.as_str()]).collect(), in_use: at < running });
            }
        }
        let caps: BTreeMap<&str, u32> =
            inputs["caps"].as_object().unwrap().iter().map(|(domain, cap)| (domain.as_str(), number(cap))).collect();
        let (units, required) = (number(&inputs["units"]), number(&inputs["required"]));
        let losses = Losses {
            instances: units,
            to_spare: units - required,
            domains: number(&inputs["survive_losses"]),
            level: number(&inputs["level_index"]) as usize,
        };
        let taken = survive_losses(&slots, losses, &caps);
        assert_eq!(taken.is_some(), expected["feasible"].as_bool().unwrap(), "{id}");
        let kept = taken.map(|taken| taken.iter().filter(|at| slots[**at].in_use).count() as u32);
        assert_eq!(kept.map(|kept| units - kept), expected["min_moves"].as_u64().map(|moves| moves as u32), "{id}");
    }
}

#[test]
fn services_that_share_hosts() {
    let vectors = of_kind("placement_multi");
    assert_eq!(vectors.len(), 1);
    for vector in &vectors {
        let (inputs, expected) = (&vector["inputs"], &vector["expected"]);
        let hosts = inputs["hosts"].as_object().unwrap().iter();
        let topology = Topology::new(hosts.map(|(host, described)| Carrier {
            name: NodeName(host.clone()),
            rack: None,
            site: text(&described["path"][0]).to_owned(),
            slots: Some(number(&described["slots"])),
        }));
        // One instance to a site is N+1 over sites.
        let services: Vec<(ServiceSpec, BTreeSet<NodeName>)> = inputs["services"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, described)| {
                assert!(described["caps"].as_object().unwrap().values().all(|cap| number(cap) == 1));
                let service = ServiceSpec {
                    need: number(&described["units"]) - 1,
                    redundancy: Redundancy::NPlus1,
                    spread: DomainLevel::Site,
                    ..plain_service(name)
                };
                let current = described["current"].as_object().unwrap().keys();
                (service, current.map(|host| NodeName(host.clone())).collect())
            })
            .collect();
        let demand = |(service, current): &'_ (ServiceSpec, BTreeSet<NodeName>)| (service.clone(), current.clone());
        let services: Vec<_> = services.iter().map(demand).collect();
        let demands: Vec<Demand<'_>> = services
            .iter()
            .map(|(service, current)| Demand {
                service,
                current: current.clone(),
                pull: Vec::new(),
                reluctant: BTreeSet::new(),
                barred: BTreeSet::new(),
            })
            .collect();
        let placement = place(&topology, &demands);
        assert_eq!(placement.short.is_empty(), expected["feasible"].as_bool().unwrap());
        let moved = services
            .iter()
            .flat_map(|(service, current)| placement.nodes[&service.id].iter().filter(|node| !current.contains(*node)));
        assert_eq!(moved.count() as u32, number(&expected["min_moves"]));
    }
}

#[test]
fn reserves_are_shared_between_domains() {
    let vectors = of_kind("standby_reserve");
    assert_eq!(vectors.len(), 1);
    for vector in &vectors {
        let inputs = &vector["inputs"];
        let reserve = |domain_of: &dyn Fn(usize, &str) -> String| {
            let instances = inputs["service_instances"].as_array().unwrap();
            let domains: Vec<String> =
                instances.iter().enumerate().map(|(at, one)| domain_of(at, text(&one["active"]))).collect();
            let standbys: Vec<Standby<'_>> = instances
                .iter()
                .zip(&domains)
                .map(|(one, active_in)| Standby {
                    active_in,
                    standby_on: text(&one["standby"]),
                    load: number(&one["load"]),
                })
                .collect();
            standby_reserve(&standbys)
                .into_iter()
                .map(|(node, load)| (node.to_owned(), load))
                .collect::<BTreeMap<_, _>>()
        };
        let host_level = reserve(&|_, host| host.to_owned());
        let site_level = reserve(&|_, host| text(&inputs["host_site"][host]).to_owned());
        for (node, expected) in vector["expected"].as_object().unwrap() {
            assert_eq!(host_level[node], number(&expected["host_level"]), "{node}");
            assert_eq!(site_level[node], number(&expected["site_level"]), "{node}");
            let dedicated = inputs["service_instances"].as_array().unwrap().iter();
            let dedicated = dedicated.filter(|one| text(&one["standby"]) == node).map(|one| number(&one["load"]));
            assert_eq!(dedicated.sum::<u32>(), number(&expected["dedicated"]), "{node}");
        }
    }
}
