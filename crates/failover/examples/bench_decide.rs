//! How long one decision takes, and how that grows: `cargo run --release -p backstay-failover --example bench_decide`.
//!
//! Clusters of 25 to 400 nodes with two and a half services a node, all placed and running: the quiet turn (nothing to
//! change) and the turn in which a node has just been lost. Medians of many turns.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::{Duration, Instant as Stopwatch};

use backstay_failover::{Session, View, decide};
use backstay_model::{Fact, Goal, Grant, Instant, NodeName, Observation, RoleKey};
use backstay_spec::Spec;

const TURNS: usize = 21;

fn main() {
    println!("{:>6} {:>9} {:>14} {:>18}", "nodes", "services", "quiet turn", "a node was lost");
    for nodes in [25, 50, 100, 200, 400] {
        let services = nodes * 5 / 2;
        let (quiet, lost) = measure(nodes, services);
        println!("{nodes:>6} {services:>9} {:>11.2} ms {:>15.2} ms", millis(quiet), millis(lost));
    }
}

fn measure(nodes: usize, services: usize) -> (Duration, Duration) {
    let text = file(nodes, services);
    let parsed = backstay_spec::parse("bench.toml", &text);
    let spec = parsed.spec.unwrap_or_else(|| panic!("the bench's file is wrong: {:?}", parsed.diagnostics.first()));
    let goal = decide(&view(&spec, &Goal::default(), nodes), Instant(0)).goal.unwrap_or_default();
    assert_eq!(goal.services.len(), services);
    let quiet = median(|| assert!(decide(&view(&spec, &goal, nodes), Instant(0)).goal.is_none()));
    let lost = median(|| assert!(decide(&view(&spec, &goal, nodes - 1), Instant(0)).goal.is_some()));
    (quiet, lost)
}

fn median(turn: impl Fn()) -> Duration {
    let mut times: Vec<_> = (0..TURNS)
        .map(|_| {
            // A bench reads the clock; the crate itself never does.
            let started = Stopwatch::now();
            turn();
            started.elapsed()
        })
        .collect();
    times.sort();
    times[TURNS / 2]
}

fn view<'a>(spec: &'a Spec, goal: &'a Goal, present: usize) -> View<'a> {
    let names: Vec<_> = spec.nodes.keys().take(present).cloned().collect();
    let session = |(id, name): (usize, &NodeName)| (name.clone(), Session { id: id as u64, boot: String::new() });
    let fact = |name: &NodeName| (name.clone(), Fact::Known { value: report(name), age: Duration::ZERO });
    View {
        spec,
        spec_hash: "bench",
        incarnation: 0,
        goal,
        goal_age: Duration::from_secs(60),
        sessions: names.iter().enumerate().map(session).collect(),
        grants: names.iter().enumerate().flat_map(|(id, name)| grants(goal, name, id as u64)).collect(),
        promises: BTreeMap::new(),
        published: BTreeMap::new(),
        observations: names.iter().map(fact).collect(),
        drains: BTreeSet::new(),
        switchovers: BTreeMap::new(),
        settled: true,
    }
}

/// Grants of everything that the goal gives to one node.
fn grants(goal: &Goal, node: &NodeName, session: u64) -> Vec<(RoleKey, Grant)> {
    let held = goal
        .services
        .iter()
        .filter(|(_, service)| service.primary.as_ref().is_some_and(|primary| primary.holder.as_ref() == Some(node)));
    let grant = Grant { holder: node.clone(), session, token: goal.generation };
    held.map(|(id, _)| (RoleKey::Service(id.clone()), grant.clone())).collect()
}

fn report(node: &NodeName) -> Observation {
    Observation {
        node: node.clone(),
        boot: String::new(),
        serial: 0,
        generation: backstay_model::Generation::ZERO,
        instances: BTreeMap::new(),
        addresses: BTreeMap::new(),
        balancer_up: true,
        suspects: BTreeSet::new(),
        notes: Vec::new(),
    }
}

fn file(nodes: usize, services: usize) -> String {
    let mut text = String::from("cluster = \"bench\"\n[nodes]\n");
    for n in 0..nodes {
        let (rack, low) = (n / 8, n % 250);
        let _ = writeln!(text, "n{n:03} = {{ addr = \"10.0.{}.{}\", rack = \"r{rack}\" }}", n / 250, low + 1);
    }
    for s in 0..services {
        let kind = if s % 5 == 0 { "exclusive = true" } else { "need = 2" };
        let _ = writeln!(text, "[app.s{s:04}]\n{kind}\nredundancy = \"N+1\"\nrun = [\"/bin/app\"]");
    }
    text
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
