//! How long placement takes, and how that grows: `cargo run --release -p backstay-planner --example bench_place`.
//!
//! Clusters of 125 to 1,000 nodes, 20 to a rack and five racks to a site, with two services a node: all models, over
//! nodes, racks and sites, one to three instances needed. The first placement, a quiet re-run, the re-run after a node
//! was lost, the one in which each tenth service is asked to another node, and the order of those moves. Without limit,
//! with slots for half as much again, with hardly any to spare, with too few, and with instances of one to three slots.
//! Medians of several runs.

// An example may time what it runs.
#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant as Stopwatch};

use backstay_model::{DomainLevel, NodeName, ServiceId};
use backstay_planner::{Carrier, Demand, Placement, Topology, moves, place};
use backstay_spec::{Redundancy, ServiceSpec};

const RUNS: usize = 7;

fn main() {
    println!(
        "{:>14} {:>6} {:>9} {:>11} {:>11} {:>11} {:>11} {:>11} {:>7} {:>6}",
        "slots", "nodes", "services", "first", "quiet", "node lost", "asked", "moves", "short", "moves"
    );
    for (name, percent, sizes) in [
        ("no limit", None, 1),
        ("150 %", Some(150), 1),
        ("101 %", Some(101), 1),
        ("95 %", Some(95), 1),
        ("1-3, 150 %", Some(150), 3),
        ("1-3, 105 %", Some(105), 3),
    ] {
        for nodes in [125, 250, 500, 1000] {
            let services = services(nodes * 2, sizes);
            let topology = topology(nodes, percent, &services);
            let no_wish = |_: &ServiceId| None;
            let (first, placement) = measure(&topology, &services, None, None, no_wish);
            let (quiet, again) = measure(&topology, &services, Some(&placement), None, no_wish);
            assert!(again.nodes == placement.nodes, "a quiet re-run changes nothing");
            let lost = NodeName(format!("n{:04}", nodes / 2));
            let (lost, _) = measure(&topology, &services, Some(&placement), Some(&lost), no_wish);
            let wish = |id: &ServiceId| {
                let number: usize = id.name[1..].parse().ok()?;
                number.is_multiple_of(10).then(|| NodeName(format!("n{:04}", number * 37 % nodes)))
            };
            let (asked, target) = measure(&topology, &services, Some(&placement), None, wish);
            let (order, steps) = timed(|| moves(&topology, &services, &placement.nodes, &target.nodes));
            println!(
                "{name:>14} {nodes:>6} {:>9} {} {} {} {} {} {:>7} {:>6}",
                services.len(),
                millis(first),
                millis(quiet),
                millis(lost),
                millis(asked),
                millis(order),
                placement.short.len(),
                steps.map_or("none".to_owned(), |steps| steps.len().to_string())
            );
        }
    }
}

fn measure<'a>(
    topology: &Topology,
    services: &'a BTreeMap<ServiceId, ServiceSpec>,
    current: Option<&Placement>,
    lost: Option<&NodeName>,
    wish: impl Fn(&ServiceId) -> Option<NodeName>,
) -> (Duration, Placement) {
    let demand = |service: &'a ServiceSpec| demand(service, current, lost, wish(&service.id));
    let demands: Vec<Demand<'_>> = services.values().map(demand).collect();
    timed(|| place(topology, &demands))
}

fn demand<'a>(
    service: &'a ServiceSpec,
    current: Option<&Placement>,
    lost: Option<&NodeName>,
    wish: Option<NodeName>,
) -> Demand<'a> {
    let nodes = current.and_then(|placement| placement.nodes.get(&service.id));
    Demand {
        service,
        current: nodes.into_iter().flatten().filter(|node| Some(*node) != lost).cloned().collect(),
        pull: wish.into_iter().collect(),
        reluctant: BTreeSet::new(),
        barred: lost.into_iter().cloned().collect(),
    }
}

fn timed<T>(run: impl Fn() -> T) -> (Duration, T) {
    let mut times = Vec::new();
    loop {
        // A bench reads the clock; the crate itself never does.
        let started = Stopwatch::now();
        let answer = run();
        times.push(started.elapsed());
        if times.len() == RUNS {
            times.sort();
            return (times[times.len() / 2], answer);
        }
    }
}

fn services(count: usize, sizes: usize) -> BTreeMap<ServiceId, ServiceSpec> {
    let text =
        "cluster = \"b\"\n[nodes]\nn = { addr = \"10.0.0.1\" }\n[app.s]\nrun = [\"/bin/app\"]\nredundancy = \"N\"\n";
    let parsed = backstay_spec::parse("bench.toml", text);
    let spec = parsed.spec.unwrap_or_else(|| panic!("the bench's file is wrong: {:?}", parsed.diagnostics.first()));
    let Some(plain) = spec.services.into_values().next() else { panic!("the bench's file has a service") };
    let models = [Redundancy::NPlus1, Redundancy::NPlus2, Redundancy::TwoN, Redundancy::TwoNPlus1];
    let levels = [DomainLevel::Node, DomainLevel::Rack, DomainLevel::Site];
    (0..count)
        .map(|at| {
            let id = ServiceId::app(&format!("s{at:04}"));
            let service = ServiceSpec {
                id: id.clone(),
                need: 1 + (at / 12 % 3) as u32,
                redundancy: models[at % 4],
                spread: levels[at / 4 % 3],
                slots: 1 + (at / 36 % sizes) as u32,
                ..plain.clone()
            };
            (id, service)
        })
        .collect()
}

fn topology(nodes: usize, percent: Option<u32>, services: &BTreeMap<ServiceId, ServiceSpec>) -> Topology {
    let asked: u32 = services.values().map(|service| service.instances_wanted() * service.slots).sum();
    let all = percent.map(|percent| asked * percent / 100);
    // Small and large machines side by side: from half of the mean to half as much again.
    let parts = |n: usize| 2 + n as u64 * 7 % 5;
    let whole: u64 = (0..nodes).map(parts).sum();
    let mut before = 0;
    Topology::new((0..nodes).map(|n| {
        let (from, to) = (before, before + parts(n));
        before = to;
        Carrier {
            name: NodeName(format!("n{n:04}")),
            rack: Some(format!("r{}", n / 20)),
            site: format!("s{}", n / 100),
            slots: all.map(|all| (u64::from(all) * to / whole - u64::from(all) * from / whole) as u32),
        }
    }))
}

fn millis(duration: Duration) -> String {
    format!("{:>8.2} ms", duration.as_secs_f64() * 1000.0)
}
