//! The plan: whether the promise of the file holds, what every failure does, what follows from the file, and what to change.

mod derived;
mod remedies;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use backstay_model::{DomainLevel, NodeName, ServiceId};
use backstay_spec::{MaxLoss, Redundancy, ServiceSpec, Spec, duration_text};
use serde::Serialize;

use crate::contingency::{Contingencies, Contingency, Effect, Pair, Thing, assess};
use crate::forecast::{Forecast, Forecaster};
use crate::place::{Cause, Gap, Placement, Shortage, Topology, sets};
use crate::standing::Standing;

pub use self::derived::Derived;
pub use self::remedies::{Remedy, remedies};

/// What a cluster measured itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// The newest outage that the loss of each thing really caused.
    pub proofs: BTreeMap<Thing, Proof>,
    /// All failovers of lost nodes on record.
    pub failovers: Vec<Duration>,
}

/// An outage that really happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// How long clients went without.
    pub outage: Duration,
    /// How long ago.
    pub ago: Duration,
}

/// The whole answer of `plan`. Its JSON form is pinned: fields may be added.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The cluster.
    pub cluster: String,
    /// The promise in words: `survive any 1 node, outage ≤ 10 s, loss 0`.
    pub goal: String,
    /// Whether it holds.
    pub goal_met: bool,
    /// Why not, a sentence each.
    pub broken: Vec<String>,
    /// What stands badly before anything else fails.
    pub now: Vec<String>,
    /// Every single failure.
    pub failures: Vec<Failure>,
    /// What must not fail: `node db1`.
    pub spofs: Vec<String>,
    /// How many pairs of domains are borne one by one and not together.
    pub fatal_pairs_count: usize,
    /// The first of them.
    pub fatal_pairs: Vec<Pair>,
    /// Each service: where it is, what it survives, what to expect.
    pub services: Vec<ServicePlan>,
    /// What follows from the file without being written in it.
    pub derived: Vec<Derived>,
    /// Minutes per year without a quorum of the store, as predicted.
    pub store_min_per_year: Option<f64>,
}

/// One failure.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// What fails.
    pub domain: Thing,
    /// The worst that happens to anything.
    pub effect: Effect,
    /// The longest outage of anything; null when something stays away until it is mended.
    pub outage_ms: Option<u64>,
    /// Acknowledged writes lost; null when nobody can say how many.
    pub loss_bytes: Option<u64>,
    /// How this is known: `reasoned`, or `measured 3.4 s, 2 d ago`.
    pub proof: String,
    /// Whether the file promises that this may fail.
    pub promised: bool,
    /// Why it breaks the promise; null when it does not.
    pub breach: Option<String>,
    /// What happens, in words.
    pub what: String,
    /// Each part that notices.
    pub parts: Vec<PartEffect>,
}

/// What a failure does to one part.
#[derive(Clone, Debug, Serialize)]
pub struct PartEffect {
    /// The part: `app.web`.
    pub name: String,
    /// What becomes of it.
    pub effect: Effect,
    /// How long it is away; null until it is mended.
    pub outage_ms: Option<u64>,
    /// How it gets over it, or why it does not.
    pub how: String,
}

/// One service.
#[derive(Clone, Debug, Serialize)]
pub struct ServicePlan {
    /// Its name.
    pub name: ServiceId,
    /// Its model: `N+1`.
    pub model: String,
    /// Instances there are, of those that the model asks for.
    pub instances: u32,
    /// Instances that the model asks for.
    pub wanted: u32,
    /// Where they are, those that serve first.
    pub nodes: Vec<NodeName>,
    /// The model's sets, when it holds: of 2N the two full ones.
    pub sets: Vec<Vec<NodeName>>,
    /// Whether the model holds as the file declares it.
    pub holds: bool,
    /// Domains that it does not survive the loss of.
    pub spofs: Vec<String>,
    /// What to expect; null when it has fewer instances than it needs.
    pub forecast: Option<Forecast>,
}

/// Pairs that a plan lists; all are counted.
const PAIRS_LISTED_MAX: usize = 20;
/// Beyond so many services, how sure each prediction is stays unsaid: a file of hundreds should answer at once.
const THOROUGH_SERVICES_MAX: usize = 50;

/// Makes the plan of a file, from how things stand.
pub fn plan(spec: &Spec, standing: &Standing, placement: &Placement, measured: &Measured) -> Plan {
    let all = assess(spec, standing);
    let failures: Vec<Failure> = all.singles.iter().map(|single| failure(spec, single, &measured.proofs)).collect();
    let broken = broken(spec, &all, &failures, placement);
    let forecaster = Forecaster::new(spec, &measured.failovers).ok();
    let topology = Topology::of(spec);
    let thorough = spec.services.len() <= THOROUGH_SERVICES_MAX;
    let services = spec.services.values().map(|service| {
        let forecast = forecaster.as_ref().and_then(|by| by.forecast(service, standing, thorough).ok());
        service_plan(service, standing, &topology, &all, forecast)
    });
    Plan {
        cluster: spec.cluster.clone(),
        goal: goal_text(spec),
        goal_met: broken.is_empty(),
        broken,
        now: all.now.iter().map(|part| format!("{}: {}", part.what, part.how)).collect(),
        spofs: all.spofs().map(|single| single.thing.to_string()).collect(),
        fatal_pairs_count: all.fatal_pairs.len(),
        fatal_pairs: all.fatal_pairs.iter().take(PAIRS_LISTED_MAX).cloned().collect(),
        services: services.collect(),
        derived: derived::derived(spec),
        store_min_per_year: forecaster.as_ref().map(Forecaster::store_min_per_year),
        failures,
    }
}

/// Why the promise does not hold, a sentence each; none when it does.
fn broken(spec: &Spec, all: &Contingencies, failures: &[Failure], placement: &Placement) -> Vec<String> {
    let mut broken: Vec<String> = all.now.iter().map(|part| format!("now: {}: {}", part.what, part.how)).collect();
    broken.extend(failures.iter().filter_map(|failure| failure.breach.clone()));
    if spec.voters().len() == 1 && spec.nodes.len() == 2 && failures.iter().any(|failure| failure.breach.is_some()) {
        broken.push("two nodes can't outvote each other: a witness is missing, a third that only votes".to_owned());
    }
    broken.extend(placement.short.iter().map(|(id, short)| short_text(&spec.services[id], short)));
    broken
}

/// How many ways the promise of a file is broken as its cluster would come to stand, without predictions.
fn breaches(spec: &Spec) -> usize {
    let (standing, placement) = Standing::planned(spec, &BTreeSet::new());
    let all = assess(spec, &standing);
    let failures: Vec<Failure> = all.singles.iter().map(|single| failure(spec, single, &BTreeMap::new())).collect();
    broken(spec, &all, &failures, &placement).len()
}

/// The promise of a file, in words.
fn goal_text(spec: &Spec) -> String {
    let goal = &spec.goal;
    format!("survive any 1 {}, outage ≤ {}, loss {}", goal.survive, duration_text(goal.max_outage), goal.max_loss)
}

fn failure(spec: &Spec, single: &Contingency, proofs: &BTreeMap<Thing, Proof>) -> Failure {
    let loss_bytes = match (single.loses_writes, spec.goal.max_loss) {
        (false, _) => Some(0),
        (true, MaxLoss::Bytes(bytes)) => Some(bytes),
        (true, _) => None,
    };
    let proof = match proofs.get(&single.thing) {
        Some(proof) => format!("measured {}, {} ago", seconds(proof.outage), backstay_model::time::human(proof.ago)),
        None => "reasoned".to_owned(),
    };
    let parts = single.affected.iter().map(|part| PartEffect {
        name: part.what.clone(),
        effect: part.effect,
        outage_ms: part.outage.map(millis),
        how: part.how.to_string(),
    });
    let mut told = Failure {
        domain: single.thing.clone(),
        effect: single.effect,
        outage_ms: single.outage.map(millis),
        loss_bytes,
        proof,
        promised: single.thing.level().is_none_or(|level| level <= spec.goal.survive),
        breach: None,
        what: what_happens(single),
        parts: parts.collect(),
    };
    let measured = proofs.get(&single.thing).map(|proof| millis(proof.outage));
    if let (Some(reasoned), Some(measured)) = (told.outage_ms, measured) {
        // What was measured counts where it was worse than what is promised.
        told.outage_ms = Some(reasoned.max(measured));
    }
    told.breach = breach(spec, &told, measured);
    told
}

/// One line for people: what becomes of each part, the worst first, those alike together.
fn what_happens(single: &Contingency) -> String {
    const PARTS_NAMED_MAX: usize = 3;
    let mut told: Vec<(String, Vec<&str>)> = Vec::new();
    for part in &single.affected {
        let how = part.how.to_string();
        match told.iter_mut().find(|(known, _)| *known == how) {
            Some((_, parts)) => parts.push(&part.what),
            None => told.push((how, vec![&part.what])),
        }
    }
    // What stands badly already is not told by every failure again.
    let worst = single.affected.iter().map(|part| part.effect).max().unwrap_or(Effect::Holds);
    let already = (single.effect > worst).then(|| "no better than now".to_owned());
    if told.is_empty() {
        return already.unwrap_or_else(|| "nothing: it carries nothing now".to_owned());
    }
    let told = told.iter().map(|(how, parts)| {
        let named = parts.iter().take(PARTS_NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
        match parts.len().saturating_sub(PARTS_NAMED_MAX) {
            0 => format!("{named}: {how}"),
            more => format!("{named} and {more} more: {how}"),
        }
    });
    told.chain(already).collect::<Vec<_>>().join("; ")
}

/// Why a failure breaks the promise; none when it does not, or when nothing is promised about it.
fn breach(spec: &Spec, failure: &Failure, measured_ms: Option<u64>) -> Option<String> {
    if !failure.promised {
        return None;
    }
    let domain = &failure.domain;
    // A lost place of copies is told among what must not fail; it takes nothing from what serves.
    let serving = || failure.parts.iter().filter(|part| !part.name.starts_with("backup."));
    if let Some(part) = serving().find(|part| part.effect > Effect::Holds) {
        return Some(format!("{domain} lost: {}: {}", part.name, part.how));
    }
    let bound = millis(spec.goal.max_outage);
    let longest = serving().filter_map(|part| Some((part.outage_ms?, part))).max_by_key(|(outage, _)| *outage);
    if let Some((outage, part)) = longest.filter(|(outage, _)| *outage > bound) {
        let (outage, bound) = (seconds(Duration::from_millis(outage)), duration_text(spec.goal.max_outage));
        return Some(format!("{domain} lost: {} is away for {outage}, more than {bound}", part.name));
    }
    if let Some(measured) = measured_ms.filter(|measured| *measured > bound) {
        return Some(format!("{domain} lost: away for {}, as measured", seconds(Duration::from_millis(measured))));
    }
    if failure.loss_bytes != Some(0) && spec.goal.max_loss == MaxLoss::Zero {
        return Some(format!("{domain} lost: acknowledged writes may be lost"));
    }
    None
}

fn short_text(service: &ServiceSpec, short: &Shortage) -> String {
    let id = &service.id;
    let gaps: Vec<String> = short.gaps.iter().map(|gap| gap_text(gap, short.level)).collect();
    let why = if gaps.is_empty() { String::new() } else { format!(": {}", gaps.join("; ")) };
    format!(
        "{id} does not have {} over {}s: {} of {} instances count{why}",
        service.redundancy, short.level, short.placed, short.wanted
    )
}

fn gap_text(gap: &Gap, level: DomainLevel) -> String {
    let place = gap.site.as_ref().map_or_else(String::new, |site| format!("in site {site} "));
    let missing = gap.missing;
    let listed = |names: &[String]| if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
    match &gap.cause {
        Cause::TooFewNodes { nodes } => format!("{place}{missing} missing: only {nodes} nodes can take an instance"),
        Cause::TooFewDomains { domains, crowded } => {
            let crowded = listed(crowded);
            format!("{place}{missing} missing: the nodes stand in {domains} {level}s only{crowded}")
        }
        Cause::TooFewSlots { full } => {
            let full: Vec<String> = full.iter().map(ToString::to_string).collect();
            format!("{place}{missing} missing: no slots are left{}", listed(&full))
        }
    }
}

fn service_plan(
    service: &ServiceSpec,
    standing: &Standing,
    topology: &Topology,
    all: &Contingencies,
    forecast: Option<Forecast>,
) -> ServicePlan {
    let seats = standing.seats.get(&service.id).into_iter().flatten();
    let mut seats: Vec<_> = seats.filter(|(node, seat)| seat.well && !standing.down.contains(*node)).collect();
    seats.sort_by_key(|(node, seat)| (!seat.serves, *node));
    let nodes: Vec<NodeName> = seats.into_iter().map(|(node, _)| node.clone()).collect();
    let sets = sets(topology, service, &nodes).ok();
    let name = service.id.to_string();
    ServicePlan {
        name: service.id.clone(),
        model: service.redundancy.to_string(),
        instances: nodes.len() as u32,
        wanted: service.instances_wanted(),
        holds: sets.is_some(),
        sets: sets
            .filter(|_| matches!(service.redundancy, Redundancy::TwoN | Redundancy::TwoNPlus1))
            .unwrap_or_default(),
        nodes,
        spofs: all.singles.iter().filter(|single| single.fells(&name)).map(|single| single.thing.to_string()).collect(),
        forecast,
    }
}

/// A duration for people: `3.6 s`, `50 ms`, `0 s`.
pub fn seconds(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "0 s".to_owned(),
        ms @ 1..1000 => format!("{ms} ms"),
        ms => format!("{}.{} s", (ms + 50) / 1000, (ms + 50) % 1000 / 100),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
