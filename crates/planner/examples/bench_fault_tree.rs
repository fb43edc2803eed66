//! How long the planner's sums take, where they are largest: a fault tree of sixty events and some 46 000 minimal cut sets,
//! and two thousand services on a thousand nodes.
//!
//! `cargo run --release -p backstay-planner --example bench_fault_tree`

// An example may time what it runs.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::time::Instant;

use backstay_planner::predict::fault_tree::FaultTree;
use backstay_planner::predict::service::{Layout, Recovery, Service, Unit, band, predict, tornado};
use backstay_planner::predict::{Level, Rates};
use backstay_spec::Mode;

fn main() {
    fault_tree();
    services();
}

/// Four of eight shelves, each of which fails with any of its five disks, or three of ten pairs; the disks of two
/// shelves hang on what two of the pairs hang on.
fn fault_tree() {
    let p: BTreeMap<_, _> = (0..60).map(|event| (format!("e{event}"), 0.01)).collect();
    let group = |first: usize, size: usize| -> String {
        let names: Vec<_> = (first..first + size).map(|event| format!("e{event}")).collect();
        format!("({})", names.join(" or "))
    };
    let shelves: Vec<_> = (0..8).map(|shelf| group(5 * shelf, 5)).collect();
    let pairs: Vec<_> = (0..10).map(|pair| group(40 + 2 * pair, 2)).collect();
    let cross = "(e0 and e41 and e50 and (e7 or e9)) or (e12 and e44 and e17 and e58)";
    let top = format!("4 of ({}) or 3 of ({}) or {cross}", shelves.join(", "), pairs.join(", "));
    let began = Instant::now();
    let tree = FaultTree::parse(&top, &BTreeMap::new(), &p).expect("a good tree");
    let solved = tree.solve(usize::MAX).expect("a small diagram");
    println!(
        "fault tree: {} events, {} minimal cut sets listed, {} nodes, Q {:e}: {:?}",
        p.len(),
        solved.cut_sets.listed.len(),
        solved.nodes,
        solved.probability,
        began.elapsed()
    );
}

fn services() {
    const SERVICES: usize = 2000;
    let rates = Rates::default();
    let mut layout = Layout::default();
    let mut nodes = Vec::new();
    for site in 0..5 {
        let site = layout.add(format!("site{site}"), Level::Site, None, rates.site.times).expect("good times");
        for rack in 0..10 {
            let rack =
                layout.add(format!("rack{rack}"), Level::Rack, Some(site), rates.rack.times).expect("good times");
            for node in 0..20 {
                let name = format!("node{node}");
                nodes.push(layout.add(name, Level::Node, Some(rack), rates.node.times).expect("good times"));
            }
        }
    }
    let service = |number: usize| Service {
        layout: &layout,
        units: (0..10)
            .map(|i| Unit { domain: nodes[(number * 7 + i * 101) % nodes.len()], is_active: i < 8 })
            .collect(),
        unit: rates.instance.times,
        need: 8,
        mode: Mode::ActivePassive,
        recovery: Recovery { failover_h: 10.0 / 3600.0, coverage: 0.99, uncovered_h: 0.5 },
        crews: None,
        drills: None,
        latent: None,
        measured: BTreeMap::new(),
    };
    let began = Instant::now();
    let minutes: f64 = (0..SERVICES)
        .map(|number| predict(&service(number)).map_or(f64::NAN, |prediction| prediction.downtime_min_per_year))
        .sum();
    let took = began.elapsed();
    println!("{SERVICES} services of 10 units on {} nodes: {took:?}, {minutes:.1} min/yr in all", nodes.len());
    let began = Instant::now();
    let found = band(&service(0)).expect("a good service");
    println!("one band, {:.1} to {:.1} min/yr: {:?}", found.low_min_per_year, found.high_min_per_year, began.elapsed());
    let began = Instant::now();
    let worst = tornado(&service(0)).expect("a good service")[0];
    println!("one tornado, led by {}: {:?}", worst.parameter, began.elapsed());
}
