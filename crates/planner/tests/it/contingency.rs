//! "What may fail now" against an evaluation that tries everything and knows no shortcut, and against the vectors.

use std::collections::{BTreeMap, BTreeSet};

use backstay_model::NodeName;
use backstay_planner::contingency::{Contingencies, Effect, Pair, Thing, assess};
use backstay_planner::{Seat, Standing};
use backstay_spec::{Degrade, MaxLoss, Spec, Workload};
use serde_json::Value;

/// xorshift64*: the same worlds in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

fn world(dice: &mut Dice) -> Spec {
    let mut text = "cluster = \"t\"\n[nodes]\n".to_owned();
    let (racks, sites) = (1 + dice.below(4), 1 + dice.below(3));
    let named = (dice.one_in(2), dice.one_in(2));
    let nodes = 2 + dice.below(6);
    for node in 0..nodes {
        let rack = if named.0 { format!(", rack = \"r{}\"", dice.below(racks)) } else { String::new() };
        let site = if named.1 { format!(", site = \"s{}\"", dice.below(sites)) } else { String::new() };
        let witness = if node > 2 && dice.one_in(5) { ", witness = true" } else { "" };
        text.push_str(&format!("n{node} = {{ addr = \"10.0.0.{}\"{rack}{site}{witness} }}\n", node + 1));
    }
    for service in 0..1 + dice.below(3) {
        let model = ["N", "N+1", "N+2", "2N", "2N+1"][dice.below(5) as usize];
        match dice.below(4) {
            0 => text
                .push_str(&format!("[app.a{service}]\nexclusive = true\nrun = [\"/x\"]\nredundancy = \"{model}\"\n")),
            1 => {
                let degrade = if dice.one_in(2) { "async" } else { "wait" };
                let port = 5000 + service;
                text.push_str(&format!(
                    "[postgres.a{service}]\nport = {port}\nredundancy = \"{model}\"\ndegrade = \"{degrade}\"\n"
                ));
            }
            kind => {
                let mode = if kind == 2 { "active/active" } else { "active/passive" };
                let need = 1 + dice.below(2);
                text.push_str(&format!(
                    "[app.a{service}]\nrun = [\"/x\"]\nneed = {need}\nredundancy = \"{model}\"\nmode = \"{mode}\"\n"
                ));
            }
        }
    }
    if dice.one_in(2) {
        text.push_str("[listen.front]\nvip = \"10.0.0.100\"\nx = { port = 80, to = \"TARGET\" }\n");
        let target = ["app.a0", "postgres.a0.primary"]
            .into_iter()
            .find(|t| text.contains(&format!("[{}]", t.trim_end_matches(".primary"))));
        text = text.replace("TARGET", target.unwrap_or("app.a0"));
    }
    let parsed = backstay_spec::parse("t", &text);
    parsed.spec.unwrap_or_else(|| panic!("{text}\n{:?}", parsed.diagnostics))
}

/// Any state, not only one that the product would come to.
fn state(dice: &mut Dice, spec: &Spec) -> Standing {
    let mut standing = Standing::default();
    for node in spec.nodes.keys() {
        if dice.one_in(6) {
            standing.down.insert(node.clone());
        }
    }
    for service in spec.services.values() {
        let seats = standing.seats.entry(service.id.clone()).or_default();
        let carriers = spec.nodes.iter().filter(|(_, node)| !node.witness);
        for (node, _) in carriers {
            if !dice.one_in(3) {
                let serves = if service.exclusive { seats.is_empty() } else { !dice.one_in(3) };
                seats.insert(node.clone(), Seat { serves, well: !dice.one_in(8) });
            }
        }
    }
    standing
}

/// The worst that becomes of anything when these nodes are gone: rule by rule, on sets of names.
fn exhaustive(spec: &Spec, standing: &Standing, gone: &BTreeSet<NodeName>) -> Effect {
    let up = |node: &NodeName| !standing.down.contains(node) && !gone.contains(node);
    let voters = spec.voters();
    let quorum = voters.iter().filter(|node| up(node)).count() > voters.len() / 2;
    let mut worst = if quorum { Effect::Holds } else { Effect::Degraded };
    for service in spec.services.values() {
        let seats = || standing.seats[&service.id].iter().filter(|(node, seat)| seat.well && up(node));
        let effect = match &service.workload {
            _ if service.exclusive && !quorum => Effect::Lost,
            _ if seats().count() == 0 => Effect::Lost,
            _ if quorum
                && !standing.seats[&service.id]
                    .iter()
                    .any(|(node, s)| s.serves && s.well && !standing.down.contains(node)) =>
            {
                Effect::Degraded
            }
            Workload::Postgres(postgres) => {
                let sync = postgres.sync.unwrap_or(if spec.goal.max_loss == MaxLoss::Zero { 1 } else { 0 });
                let waits = seats().count() - 1 < sync as usize && postgres.degrade == Degrade::Wait;
                if waits { Effect::Degraded } else { Effect::Holds }
            }
            Workload::App(_) if service.exclusive => Effect::Holds,
            Workload::App(_) => match seats().filter(|(_, seat)| quorum || seat.serves).count() {
                0 => Effect::Lost,
                carry if carry < service.need as usize => Effect::Degraded,
                _ => Effect::Holds,
            },
        };
        worst = worst.max(effect);
    }
    let carriers = spec.nodes.iter().filter(|(node, declared)| !declared.witness && up(node)).count();
    let unheld = spec.listeners.values().any(|listener| listener.vip.is_some()) && (!quorum || carriers == 0);
    if unheld { Effect::Lost } else { worst }
}

/// Every domain with the nodes in it that are up.
fn domains(spec: &Spec, standing: &Standing) -> BTreeMap<Thing, BTreeSet<NodeName>> {
    let mut domains: BTreeMap<Thing, BTreeSet<NodeName>> = BTreeMap::new();
    for (name, node) in spec.nodes.iter().filter(|(name, _)| !standing.down.contains(*name)) {
        domains.entry(Thing::Node(name.clone())).or_default().insert(name.clone());
        if node.rack.is_some() {
            domains.entry(Thing::Rack(spec.rack_of(name))).or_default().insert(name.clone());
        }
        if let Some(site) = &node.site {
            domains.entry(Thing::Site(site.clone())).or_default().insert(name.clone());
        }
    }
    domains
}

#[test]
fn every_single_failure_and_every_fatal_pair_equals_trying_them() {
    let mut dice = Dice(0x5eed);
    let (mut bad_singles, mut fatal) = (0, 0);
    for round in 0..1500 {
        let spec = world(&mut dice);
        let standing = state(&mut dice, &spec);
        let all = assess(&spec, &standing);
        let domains = domains(&spec, &standing);
        let mut spofs = BTreeSet::new();
        for (thing, gone) in &domains {
            let wanted = exhaustive(&spec, &standing, gone);
            let found = all.singles.iter().find(|single| single.thing == *thing).map(|single| single.effect);
            assert_eq!(found, Some(wanted), "round {round}: {thing} of {spec:#?} as {standing:#?}");
            if wanted > Effect::Holds {
                spofs.insert(thing.clone());
            }
        }
        assert_eq!(
            all.now.is_empty(),
            exhaustive(&spec, &standing, &BTreeSet::new()) == Effect::Holds,
            "round {round}"
        );
        let pairs = pairs_by_trying(&spec, &standing, &domains, &spofs);
        assert_eq!(all.fatal_pairs, pairs, "round {round}: {spec:#?} as {standing:#?}");
        bad_singles += spofs.len();
        fatal += pairs.len();
    }
    assert!(bad_singles > 1000 && fatal > 1000, "the worlds are too tame: {bad_singles} {fatal}");
}

fn pairs_by_trying(
    spec: &Spec,
    standing: &Standing,
    domains: &BTreeMap<Thing, BTreeSet<NodeName>>,
    spofs: &BTreeSet<Thing>,
) -> BTreeSet<Pair> {
    let mut pairs = BTreeSet::new();
    for (a, gone_a) in domains.iter().filter(|(thing, _)| !spofs.contains(thing)) {
        for (b, gone_b) in domains.iter().filter(|(thing, _)| !spofs.contains(thing)) {
            let nested = gone_a.is_subset(gone_b) || gone_b.is_subset(gone_a);
            let both = gone_a | gone_b;
            if a < b && !nested && exhaustive(spec, standing, &both) > Effect::Holds {
                pairs.insert(Pair(a.clone(), b.clone()));
            }
        }
    }
    pairs
}

/// A vector's tree as a file: `A.r1.h1` is a node of that name but for its dots.
fn of_vector(inputs: &Value) -> (Spec, Standing) {
    let mut text = "cluster = \"t\"\n[nodes]\n".to_owned();
    let mut address = 0;
    for (site, racks) in inputs["layout"].as_object().unwrap() {
        for (rack, hosts) in racks.as_object().unwrap() {
            for host in hosts.as_array().unwrap() {
                address += 1;
                let host = host.as_str().unwrap();
                let name = format!("{}-{rack}-{host}", site.to_lowercase());
                text.push_str(&format!(
                    "{name} = {{ addr = \"10.0.0.{address}\", rack = \"{site}.{rack}\", site = \"{site}\" }}\n"
                ));
            }
        }
    }
    text.push_str(&format!("[app.web]\nrun = [\"/x\"]\nneed = {}\nredundancy = \"N+2\"\n", inputs["required"]));
    let spec = backstay_spec::parse("t", &text).spec.unwrap();
    let down = inputs["down_now"].as_array().unwrap().iter();
    let down: BTreeSet<NodeName> =
        down.map(|name| NodeName(name.as_str().unwrap().to_lowercase().replace('.', "-"))).collect();
    let seats = spec.nodes.keys().map(|node| (node.clone(), Seat { serves: true, well: true })).collect();
    let seats = [(backstay_model::ServiceId::app("web"), seats)].into();
    (spec, Standing { seats, down, ..Standing::default() })
}

fn as_vector(thing: &Thing) -> String {
    match thing {
        Thing::Node(node) => {
            let (site, rest) = node.as_str().split_once('-').unwrap();
            format!("{}.{}", site.to_uppercase(), rest.replace('-', "."))
        }
        Thing::Rack(name) | Thing::Site(name) => name.clone(),
        other => panic!("{other} is no domain"),
    }
}

#[test]
fn the_vectors_of_what_may_fail_now() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors.json");
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let vectors = vectors["placement_vectors"].as_array().unwrap();
    let vectors: Vec<_> = vectors.iter().filter(|vector| vector["kind"] == "what_may_fail_now").collect();
    assert_eq!(vectors.len(), 2);
    for vector in vectors {
        let (spec, standing) = of_vector(&vector["inputs"]);
        let all: Contingencies = assess(&spec, &standing);
        let expected = &vector["expected"];
        let named = |list: &Value| {
            list.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
        };
        let domains = || all.singles.iter().filter(|single| single.thing.level().is_some());
        let found = |may: bool| {
            let those = domains().filter(move |single| (single.effect == Effect::Holds) == may);
            those.map(|single| as_vector(&single.thing)).collect::<BTreeSet<_>>()
        };
        assert_eq!(found(false), named(&expected["must_not_fail"]), "{}", vector["id"]);
        assert_eq!(found(true), named(&expected["may_fail_one"]), "{}", vector["id"]);
        assert_eq!(all.fatal_pairs.len() as u64, expected["fatal_pairs_count"].as_u64().unwrap(), "{}", vector["id"]);
    }
}
