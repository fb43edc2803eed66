//! What may fail now: every single failure is tried on paper, from how things stand, and every pair that matters.
//!
//! Power grids are run like this (contingency analysis, "N−1"): not how much redundancy there is counts, but what is left
//! after each loss. What services share is part of it: the store's quorum, floating addresses, the place of the copies.
//!
//! Exact and near-linear: a failure is only judged against what it touches. [`assess`] equals the exhaustive evaluation
//! that its tests carry.

mod system;
mod thing;
mod times;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use backstay_spec::Spec;
use serde::Serialize;

pub use self::system::sync_standbys;
use self::system::{NodeNo, Part, PartKind, System, Verdict};
pub use self::thing::Thing;
pub use self::times::{ejection, takeover, takeover_of_database};
use crate::standing::Standing;

/// What a failure does to a service, or to all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// The full load is carried, at the latest once a spare has taken over.
    Holds,
    /// Something is still served, but less than the load, or only reads.
    Degraded,
    /// Nothing is served until something is mended.
    Lost,
}

/// How a part gets over a failure, or why it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It has nothing to do with it.
    Untouched,
    /// The other active instances carry the load.
    OthersCarryOn,
    /// A spare gets the traffic.
    SpareTakesOver {
        /// It must be started first; that comes on top.
        started: bool,
    },
    /// The role moves to another node once its grant has ended.
    RoleMoves,
    /// It is started again where it was, or elsewhere.
    RestartedOrMoved,
    /// Another node takes the address.
    AddressMoves,
    /// Too few instances are left.
    Short {
        /// What is left.
        up: usize,
        /// What carries the load.
        need: usize,
    },
    /// Reads go on; a commit waits for a standby that is not there.
    WritesWait {
        /// Standbys that are left.
        standbys: usize,
        /// Standbys that a commit waits for.
        sync: usize,
    },
    /// There are instances, and none of them serves now.
    NobodyServes,
    /// No instance is left.
    NothingLeft,
    /// The store has no quorum: nothing exclusive may go on, and nothing is decided.
    NoQuorum,
    /// Another node decides from then on.
    DecidesElsewhere,
    /// The store has no quorum: what runs goes on, and nothing that fails is replaced.
    NobodyDecides,
    /// No copies are taken until it is back; nothing that serves depends on it.
    CopiesWait,
    /// The copies were only there.
    CopiesGone,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untouched => f.write_str("nothing"),
            Self::OthersCarryOn => f.write_str("the others carry on"),
            Self::SpareTakesOver { started: false } => f.write_str("a spare takes over"),
            Self::SpareTakesOver { started: true } => f.write_str("a spare is started"),
            Self::RoleMoves => f.write_str("moves to another node"),
            Self::RestartedOrMoved => f.write_str("started again"),
            Self::AddressMoves => f.write_str("address moves"),
            Self::Short { up, need } => write!(f, "{up} of {need} instances left"),
            Self::WritesWait { standbys, sync } => write!(f, "writes wait: {standbys} of {sync} standbys left"),
            Self::NobodyServes => f.write_str("nobody serves now"),
            Self::NothingLeft => f.write_str("no instance left"),
            Self::NoQuorum => f.write_str("stops: the store has no quorum"),
            Self::DecidesElsewhere => f.write_str("another node decides"),
            Self::NobodyDecides => f.write_str("nobody decides: the store has no quorum"),
            Self::CopiesWait => f.write_str("no copies until it is back"),
            Self::CopiesGone => f.write_str("its copies are only there"),
        }
    }
}

/// What a failure does to one part.
#[derive(Clone, Debug, PartialEq)]
pub struct Affected {
    /// The part: `app.web`, `listen.db`, `backup.main`, `coordinator`.
    pub what: String,
    /// What becomes of it.
    pub effect: Effect,
    /// How long it is away; none when only a repair brings it back.
    pub outage: Option<Duration>,
    /// How it gets over it, or why it does not.
    pub how: How,
}

/// One failure, judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Contingency {
    /// What fails.
    pub thing: Thing,
    /// The worst that happens to anything.
    pub effect: Effect,
    /// The longest outage of anything; none when something stays away until it is mended.
    pub outage: Option<Duration>,
    /// A database may lose acknowledged writes.
    pub loses_writes: bool,
    /// Everything that notices, worst first.
    pub affected: Vec<Affected>,
}

impl Contingency {
    /// Whether it takes something away from a part: `app.web`, `listen.db`.
    pub fn fells(&self, part: &str) -> bool {
        self.affected.iter().any(|one| one.what == part && one.effect > Effect::Holds)
    }
}

/// Two failures that are borne one by one and not together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Pair(pub Thing, pub Thing);

/// What may fail, and what must not.
#[derive(Clone, Debug, PartialEq)]
pub struct Contingencies {
    /// What holds and what does not as things stand, before anything else fails.
    pub now: Vec<Affected>,
    /// Every single failure, in the order of [`Thing`].
    pub singles: Vec<Contingency>,
    /// Pairs of domains of machines of which neither lies within the other and neither is a single point of failure.
    pub fatal_pairs: BTreeSet<Pair>,
}

impl Contingencies {
    /// What must not fail.
    pub fn spofs(&self) -> impl Iterator<Item = &Contingency> {
        self.singles.iter().filter(|single| single.effect > Effect::Holds)
    }
}

/// Judges every single failure and every pair of domains, from how things stand.
pub fn assess(spec: &Spec, standing: &Standing) -> Contingencies {
    let system = System::new(spec, standing);
    let now = standing_badly(&system);
    let mut singles = domain_failures(&system, &now);
    let fatal_pairs = fatal_pairs(&system, &singles);
    singles.extend(instance_failures(&system, &now));
    singles.extend(spec.backups.keys().map(|name| repository_failure(name)));
    singles.sort_by(|a, b| a.thing.cmp(&b.thing));
    Contingencies { now, singles, fatal_pairs }
}

/// Domains of machines that must not fail, without the pairs: cheap enough to be asked all the time.
pub fn must_not_fail(spec: &Spec, standing: &Standing) -> Vec<Thing> {
    let system = System::new(spec, standing);
    let failures = domain_failures(&system, &standing_badly(&system));
    failures.into_iter().filter(|single| single.effect > Effect::Holds).map(|single| single.thing).collect()
}

/// What is degraded or lost before anything else fails.
fn standing_badly(system: &System) -> Vec<Affected> {
    let quorum = system.has_quorum_without(&|_| false);
    let verdicts = system.parts.iter().map(|part| (part, part.verdict(&|_| false, true, quorum)));
    let badly = verdicts.filter(|(_, verdict)| verdict.effect > Effect::Holds);
    badly.map(|(part, verdict)| verdict.of(part)).collect()
}

/// What each part has to do with each domain: only where it has instances, or where the quorum hangs.
fn touched(system: &System, part: usize) -> BTreeSet<u32> {
    let seats = system.parts[part].seats.iter().map(|(node, _)| *node);
    seats.flat_map(|node| system.domains_of[node as usize].iter().copied()).collect()
}

fn voting_domains(system: &System) -> BTreeSet<u32> {
    system.voters_up.iter().flat_map(|node| system.domains_of[*node as usize].iter().copied()).collect()
}

fn domain_failures(system: &System, now: &[Affected]) -> Vec<Contingency> {
    let mut affected: Vec<Vec<Affected>> = vec![Vec::new(); system.domains.len()];
    let mut losing: BTreeSet<u32> = BTreeSet::new();
    let voting = voting_domains(system);
    let without_quorum: BTreeSet<u32> =
        voting.iter().filter(|d| !system.has_quorum_without(&|node| is_in(system, node, **d))).copied().collect();
    let quorum_now = system.has_quorum_without(&|_| false);
    for part in 0..system.parts.len() {
        // What a domain does not touch stands as it stood.
        for domain in touched(system, part).union(&without_quorum).copied() {
            let lost = |node: NodeNo| is_in(system, node, domain);
            let quorum = quorum_now && !without_quorum.contains(&domain);
            let verdict = system.parts[part].verdict(&lost, true, quorum);
            if !verdict.is_untouched() {
                affected[domain as usize].push(verdict.of(&system.parts[part]));
            }
            if system.parts[part].may_lose_writes(&lost) {
                losing.insert(domain);
            }
        }
    }
    let domains = system.domains.iter().zip(affected).zip(0..);
    domains.map(|(((thing, _), affected), at)| judged(thing.clone(), affected, losing.contains(&at), now)).collect()
}

fn is_in(system: &System, node: NodeNo, domain: u32) -> bool {
    system.domains_of[node as usize].contains(&domain)
}

/// One failure with all it does; what stands badly already is not mended by it.
fn judged(thing: Thing, mut affected: Vec<Affected>, loses_writes: bool, now: &[Affected]) -> Contingency {
    affected.sort_by_key(|one| (std::cmp::Reverse((one.effect, one.outage.is_none(), one.outage)), one.what.clone()));
    let with_now = || affected.iter().chain(now);
    let effect = with_now().map(|one| one.effect).max().unwrap_or(Effect::Holds);
    let outage = with_now().map(|one| one.outage).try_fold(Duration::ZERO, |longest, one| Some(longest.max(one?)));
    Contingency { thing, effect, outage, loses_writes, affected }
}

/// Each instance by itself.
fn instance_failures(system: &System, now: &[Affected]) -> Vec<Contingency> {
    let quorum = system.has_quorum_without(&|_| false);
    let mut failures = Vec::new();
    for part in &system.parts {
        let Some(service) = &part.service else { continue };
        for (node, _) in &part.seats {
            let verdict = part.verdict(&|other| other == *node, false, quorum);
            let affected = if verdict.is_untouched() { Vec::new() } else { vec![verdict.of(part)] };
            let thing = Thing::Instance { service: service.clone(), node: system.name(*node) };
            let loses_writes = part.may_lose_writes(&|other| other == *node);
            failures.push(judged(thing, affected, loses_writes, now));
        }
    }
    failures
}

/// Copies are kept outside: nothing that serves depends on the place, and none can be taken without it.
fn repository_failure(name: &str) -> Contingency {
    let what = format!("backup.{name}");
    let affected = Affected { what, effect: Effect::Holds, outage: Some(Duration::ZERO), how: How::CopiesWait };
    judged(Thing::Repository(name.to_owned()), vec![affected], false, &[])
}

/// Pairs of domains that are borne one by one and not together: only those that hold instances of one part, or its
/// instances and the quorum.
fn fatal_pairs(system: &System, singles: &[Contingency]) -> BTreeSet<Pair> {
    let borne = |domain: &u32| singles.get(*domain as usize).is_some_and(|single| single.effect == Effect::Holds);
    let voting: Vec<u32> = voting_domains(system).into_iter().filter(borne).collect();
    let mut fatal: BTreeSet<(u32, u32)> = BTreeSet::new();
    for part in 0..system.parts.len() {
        for (a, b) in candidate_pairs(system, part, &voting, &borne) {
            if fatal.contains(&(a, b)) {
                continue;
            }
            let falls = verdict_without_both(system, &system.parts[part], a, b).effect > Effect::Holds;
            if falls && !is_nested(system, a, b) {
                fatal.insert((a, b));
            }
        }
    }
    let thing = |domain: u32| system.domains[domain as usize].0.clone();
    fatal.into_iter().map(|(a, b)| Pair(thing(a), thing(b))).collect()
}

/// Whether a pair takes something away from one part by itself, and not only from others or from the quorum.
pub fn pair_fells(spec: &Spec, standing: &Standing, pair: &Pair, part: &str) -> bool {
    let system = System::new(spec, standing);
    let number = |thing: &Thing| (0..).zip(&system.domains).find(|(_, (known, _))| known == thing).map(|(at, _)| at);
    let (Some(a), Some(b)) = (number(&pair.0), number(&pair.1)) else { return false };
    let mut parts = system.parts.iter().filter(|one| one.name == part);
    parts.any(|part| verdict_without_both(&system, part, a, b).effect > Effect::Holds)
}

fn verdict_without_both(system: &System, part: &Part, a: u32, b: u32) -> Verdict {
    let lost = |node: NodeNo| is_in(system, node, a) || is_in(system, node, b);
    part.verdict(&lost, true, system.has_quorum_without(&lost))
}

/// Pairs that could matter to a part. An address could be on any node, so that only the quorum matters to it, and pairs that
/// hold all nodes between them.
fn candidate_pairs(system: &System, part: usize, voting: &[u32], borne: &dyn Fn(&u32) -> bool) -> Vec<(u32, u32)> {
    let part_is_anywhere = matches!(system.parts[part].kind, PartKind::Address { .. });
    let places: BTreeSet<u32> = if part_is_anywhere { BTreeSet::new() } else { touched(system, part) };
    let places: BTreeSet<u32> = places.into_iter().chain(voting.iter().copied()).filter(borne).collect();
    let mut candidates: Vec<(u32, u32)> = pairs(&places.into_iter().collect::<Vec<_>>()).collect();
    if part_is_anywhere {
        let carriers = system.parts[part].seats.len();
        let size = |domain: u32| system.domains[domain as usize].1.len();
        let all = 0..system.domains.len() as u32;
        let large = all.clone().filter(|domain| size(*domain) * 2 >= carriers && borne(domain));
        for a in large {
            let others = all.clone().filter(|b| *b != a && size(a) + size(*b) >= carriers && borne(b));
            candidates.extend(others.map(|b| (a.min(b), a.max(b))));
        }
    }
    candidates
}

fn pairs(sorted: &[u32]) -> impl Iterator<Item = (u32, u32)> {
    sorted.iter().enumerate().flat_map(|(at, a)| sorted[at + 1..].iter().map(|b| (*a, *b)))
}

/// Whether one of two domains lies within the other, by the nodes that are up.
fn is_nested(system: &System, a: u32, b: u32) -> bool {
    let (a, b) = (&system.domains[a as usize].1, &system.domains[b as usize].1);
    let (small, large) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    small.iter().all(|node| large.binary_search(node).is_ok())
}
