//! What to change so that the promise holds: changes of the file, each tried, the cheapest that helps first.

use std::collections::BTreeSet;

use backstay_model::DomainLevel;
use backstay_spec::{Edit, Redundancy, ServiceSpec, Spec, edit};
use serde::Serialize;

use super::breaches;
use crate::place::{Fix, Location, Topology, fixes};
use crate::standing::{Standing, demands};

/// A change that helps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// What to change, as `plan --what-if` takes it; several when only together they do.
    pub changes: Vec<String>,
    /// Whether the promise holds then.
    pub meets_goal: bool,
    /// Sentences of [`Plan::broken`] that are left.
    pub left: usize,
}

/// Trying a change means planning anew; in a larger cluster than the product is made for, nothing is tried.
const NODES_TRIED_MAX: usize = 100;
/// So many changes are tried together at most.
const TOGETHER_MAX: usize = 3;
/// So many files are tried in all, so that an answer comes within seconds.
const TRIED_MAX: usize = 150;
/// So many are told.
const TOLD_MAX: usize = 4;

/// Changes of a file after which its promise holds, or is broken in fewer ways; none when it holds. Each was tried, on the
/// cluster as it would come to stand: they are advice for a file, not for what is down just now.
pub fn remedies(text: &str, spec: &Spec) -> Vec<Remedy> {
    let now = breaches(spec);
    if now == 0 || spec.nodes.len() > NODES_TRIED_MAX {
        return Vec::new();
    }
    let mut budget = TRIED_MAX;
    let mut found: Vec<(u32, Remedy)> = Vec::new();
    for (first, mut after) in better(text, spec, now, &mut budget) {
        let (mut cost, mut changes) = (first.cost, first.written());
        while after.left > 0 && changes.len() < TOGETHER_MAX {
            // After a change that helps and does not suffice: the next that helps most.
            let next = better(&after.text, &after.spec, after.left, &mut budget);
            let Some((next, then)) = next.into_iter().min_by_key(|(next, then)| (then.left, next.cost)) else { break };
            cost += next.cost;
            changes.extend(next.written());
            after = then;
        }
        found.push((cost, Remedy { changes, meets_goal: after.left == 0, left: after.left }));
    }
    found.sort_by_key(|(cost, remedy)| (!remedy.meets_goal, *cost, remedy.left, remedy.changes.clone()));
    found.dedup_by(|a, b| a.1.changes == b.1.changes);
    let any_meets = found.iter().any(|(_, remedy)| remedy.meets_goal);
    let told = found.into_iter().map(|(_, remedy)| remedy).filter(|remedy| remedy.meets_goal || !any_meets);
    told.take(TOLD_MAX).collect()
}

/// A changed file, and in how many ways its promise is broken.
struct After {
    text: String,
    spec: Spec,
    left: usize,
}

/// The single changes after which fewer than `now` things break the promise.
fn better(text: &str, spec: &Spec, now: usize, budget: &mut usize) -> Vec<(Candidate, After)> {
    let mut better = Vec::new();
    for candidate in candidates(spec) {
        let Some(left) = budget.checked_sub(1) else { break };
        *budget = left;
        let changed = candidate.edits.iter().try_fold(text.to_owned(), |text, one| edit(&text, one).ok());
        let Some(text) = changed else { continue };
        let Some(spec) = backstay_spec::parse("", &text).spec else { continue };
        let left = breaches(&spec);
        if left < now {
            better.push((candidate, After { text, spec, left }));
        }
    }
    better
}

/// A change that may help. Costs only order them: a key, a machine that only votes, a machine.
struct Candidate {
    cost: u32,
    edits: Vec<Edit>,
}

const KEY: u32 = 1;
const PROMISE: u32 = 40;
const WITNESS: u32 = 10;
const MACHINE: u32 = 20;

impl Candidate {
    fn written(&self) -> Vec<String> {
        let written = |edit: &Edit| match edit {
            Edit::Set { path, value } => format!("{}={value}", path.join(".")),
            Edit::AddNode { name, keys } => {
                let keys = keys
                    .iter()
                    .map(|(key, value)| if value == "true" { format!(" {key}") } else { format!(" {key}={value}") });
                format!("+ node {name}{}", keys.collect::<String>())
            }
            Edit::RemoveNode(name) => format!("- node {name}"),
        };
        self.edits.iter().map(written).collect()
    }
}

fn candidates(spec: &Spec) -> Vec<Candidate> {
    let mut all = Vec::new();
    let voters = spec.voters();
    if voters.len() < 3 {
        let keys = new_place(spec, spec.goal.survive).into_iter().chain([("witness".to_owned(), "true".to_owned())]);
        all.push(Candidate { cost: WITNESS, edits: vec![add_node(spec, 0, keys.collect())] });
    }
    let (_, placement) = Standing::planned(spec, &BTreeSet::new());
    let topology = Topology::of(spec);
    let demands = demands(spec, None, &BTreeSet::new());
    for service in spec.services.values() {
        if placement.short.contains_key(&service.id) {
            let offered = fixes(&topology, &demands, &service.id);
            all.extend(offered.iter().filter_map(|fix| candidate(spec, service, fix)));
        } else if let Some(more) = more_than(service.redundancy) {
            all.push(Candidate { cost: KEY, edits: vec![set(service, "redundancy", more)] });
        }
    }
    // One machine more, where everything shares the last one.
    all.push(Candidate { cost: MACHINE, edits: vec![add_node(spec, 0, new_place(spec, spec.goal.survive))] });
    let outage = ["4s", "10s", "30s"]
        .into_iter()
        .map(|bound| Edit::Set { path: vec!["goal".to_owned(), "max_outage".to_owned()], value: bound.to_owned() });
    all.extend(outage.map(|edit| Candidate { cost: PROMISE, edits: vec![edit] }));
    all.sort_by_key(|candidate| candidate.cost);
    all
}

fn candidate(spec: &Spec, service: &ServiceSpec, fix: &Fix) -> Option<Candidate> {
    Some(match fix {
        Fix::LowerNeed(need) => Candidate { cost: PROMISE, edits: vec![set(service, "need", need)] },
        Fix::LowerModel(model) => Candidate { cost: PROMISE, edits: vec![set(service, "redundancy", model)] },
        Fix::LowerSpread(level) => Candidate { cost: PROMISE, edits: vec![set(service, "spread", level)] },
        Fix::RaiseSlots { node, slots } => {
            let path = vec!["nodes".to_owned(), node.to_string(), "slots".to_owned()];
            Candidate { cost: KEY * 2, edits: vec![Edit::Set { path, value: slots.to_string() }] }
        }
        Fix::AddNodes { count, location, slots } => {
            let keys = |number: u32| {
                let mut keys = match location {
                    Location::NewDomain { level, site } => {
                        let mut keys = vec![(level.to_string(), free_name(spec, *level, number))];
                        keys.retain(|(key, _)| key != "node");
                        keys.extend(site.iter().map(|site| ("site".to_owned(), site.clone())));
                        keys
                    }
                    Location::Inside { level, domain } => vec![(level.to_string(), domain.clone())],
                };
                keys.extend(slots.iter().map(|slots| ("slots".to_owned(), slots.to_string())));
                keys
            };
            let edits = (0..*count).map(|number| add_node(spec, number, keys(number)));
            Candidate { cost: MACHINE * count, edits: edits.collect() }
        }
    })
}

fn more_than(model: Redundancy) -> Option<&'static str> {
    match model {
        Redundancy::N => Some("N+1"),
        Redundancy::NPlus1 => Some("N+2"),
        _ => None,
    }
}

fn set(service: &ServiceSpec, key: &str, value: impl std::fmt::Display) -> Edit {
    let path = service.id.to_string().split('.').map(str::to_owned).chain([key.to_owned()]).collect();
    Edit::Set { path, value: value.to_string() }
}

fn add_node(spec: &Spec, number: u32, mut keys: Vec<(String, String)>) -> Edit {
    keys.dedup();
    let names = (1..).map(|at| format!("new{at}")).filter(|name| !spec.nodes.contains_key(&name.as_str().into()));
    let name = names.skip(number as usize).take(1).next().unwrap_or_default();
    Edit::AddNode { name: name.as_str().into(), keys }
}

/// Where a further machine would stand so that it shares as little as the promise asks: a rack, or a site, of its own.
fn new_place(spec: &Spec, level: DomainLevel) -> Vec<(String, String)> {
    match level {
        DomainLevel::Node => Vec::new(),
        level => vec![(level.to_string(), free_name(spec, level, 0))],
    }
}

fn free_name(spec: &Spec, level: DomainLevel, number: u32) -> String {
    let taken: BTreeSet<String> = spec.nodes.keys().map(|node| spec.domain_of(node, level)).collect();
    let names = (1..).map(|at| format!("new-{level}{at}")).filter(|name| !taken.contains(name));
    names.skip(number as usize).take(1).next().unwrap_or_default()
}
