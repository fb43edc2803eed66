//! What will go wrong in a run, written down before it begins: every strike has its own random stream, so that leaving one
//! out changes nothing of the others.

use std::collections::BTreeSet;

use crate::clock::{DRIFT_PPM_MAX, MS, SECOND};
use crate::rng::Rng;

/// So many runs in a thousand only have a bad network; up to the second number, only one fault.
const MILD_BELOW: u64 = 50;
const LONE_BELOW: u64 = 150;
/// By then everything is placed and runs, and a preferred node has its role.
const LONE_AT: u64 = 10 * SECOND;
/// Longer than any promise that follows it.
const LONE_LASTS: u64 = 20 * SECOND;
pub(crate) const LONE_KINDS: [Kind; 5] =
    [Kind::LoneLoss, Kind::LoneCrash, Kind::LoneHang, Kind::LoneFailure, Kind::LoneSwitchover];
/// The first agents have started by then.
const FIRST_AT: u64 = 3 * SECOND;
/// No run has more strikes than this.
pub const STRIKES_MAX: u32 = 256;
/// A hang outlasts `proof_within` of S5, a lease, and what the checker allows.
const HANG_MAX: u64 = 20 * SECOND;
/// How often a flapping node is cut off.
const FLAPS: usize = 6;
/// How often the agents of a storm are killed.
const STORMS: usize = 4;
/// So many runs in a thousand heal only a core of nodes; the others stay dead.
const CORE_BELOW: u64 = 150;
/// Streams of one seed: strikes have the numbers from here on.
const STREAM_OF_PLAN: u64 = 1;
const STREAM_OF_STRIKES: u64 = 1000;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    InstanceCrash,
    InstanceHang,
    CannotStart,
    AgentKill,
    AgentFreeze,
    NodeKill,
    NodePause,
    Isolation,
    Halves,
    OneWay,
    Loss,
    Delay,
    Repeat,
    Silence,
    LeaderKill,
    SlowCommit,
    BalancerKill,
    WallStep,
    Drain,
    Switchover,
    Flapping,
    NearLapse,
    /// Each node hears only its two neighbours.
    Ring,
    /// Two halves that only one node joins.
    Bridge,
    /// Links are cut one by one, and joined in another order.
    Swizzle,
    /// A clock goes at another rate from now on.
    Drift,
    WallStepAhead,
    /// A hypervisor stops a machine together with its clock (S1: bounded, not strict).
    ClockStop,
    FullDisk,
    SlowDisk,
    HungDisk,
    DiskLoss,
    RestartStorm,
    /// Every machine loses its power at once.
    Blackout,
    /// The agent beside the database's primary stands still, and the database goes on without it.
    PrimaryAgentFreeze,
    /// The node of the database's primary is lost.
    PrimaryLoss,
    /// A standby's database ends by itself.
    StandbyCrash,
    /// The only fault of a run: the holder of a role is lost, its instance crashes, hangs or fails again and again, or it is
    /// asked to move.
    LoneLoss,
    LoneCrash,
    LoneHang,
    LoneFailure,
    LoneSwitchover,
}

/// What swarms that are about databases draw from besides.
const DATABASE_KINDS: [Kind; 3] = [Kind::PrimaryAgentFreeze, Kind::PrimaryLoss, Kind::StandbyCrash];
/// So many swarms in a thousand are.
const DATABASE_BELOW: u64 = 300;

/// What a swarm draws from.
const KINDS: [Kind; 34] = [
    Kind::InstanceCrash,
    Kind::InstanceHang,
    Kind::CannotStart,
    Kind::AgentKill,
    Kind::AgentFreeze,
    Kind::NodeKill,
    Kind::NodePause,
    Kind::Isolation,
    Kind::Halves,
    Kind::OneWay,
    Kind::Loss,
    Kind::Delay,
    Kind::Repeat,
    Kind::Silence,
    Kind::LeaderKill,
    Kind::SlowCommit,
    Kind::BalancerKill,
    Kind::WallStep,
    Kind::Drain,
    Kind::Switchover,
    Kind::Flapping,
    Kind::NearLapse,
    Kind::Ring,
    Kind::Bridge,
    Kind::Swizzle,
    Kind::Drift,
    Kind::WallStepAhead,
    Kind::ClockStop,
    Kind::FullDisk,
    Kind::SlowDisk,
    Kind::HungDisk,
    Kind::DiskLoss,
    Kind::RestartStorm,
    Kind::Blackout,
];

/// One fault that will strike, with everything about it that chance decides.
#[derive(Clone, Debug)]
pub(crate) struct Strike {
    /// Its place in the plan.
    pub(crate) index: u32,
    /// In true time.
    pub(crate) at: u64,
    pub(crate) kind: Kind,
    /// Whom it strikes. Kinds that need something that is there (an instance that lives, a leader) look for it when they
    /// strike, in an order that `pick` decides.
    pub(crate) node: usize,
    pub(crate) service: usize,
    pub(crate) role: usize,
    pub(crate) pick: u64,
    /// How long until it is mended, or until what was killed starts again.
    pub(crate) lasts: u64,
    /// How much: per mille, nanoseconds, parts per million, as its kind says.
    pub(crate) amount: u64,
    /// Directions of the network that it cuts.
    pub(crate) links: Vec<(usize, usize)>,
    /// Waits between its own steps.
    pub(crate) waits: Vec<u64>,
}

/// What kind of run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// Some kinds of fault, again and again.
    Swarm,
    /// Nothing fails; the network is as bad as a cluster must bear without a single failover (DESIGN §6).
    Mild,
    /// One fault only, so that the times promised in DESIGN §6 are due.
    Lone,
}

/// How many there are of what can be struck.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) nodes: usize,
    pub(crate) voters: usize,
    pub(crate) services: usize,
    pub(crate) roles: usize,
}

/// The plan of one seed.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) course: Course,
    pub(crate) strikes: Vec<Strike>,
    /// True time at which faults end.
    pub(crate) until: u64,
    /// The nodes that are healed then, a majority of the voters among them; none: all.
    pub(crate) core: Option<Vec<usize>>,
    /// Strikes that are left out.
    pub(crate) without: BTreeSet<u32>,
}

impl Plan {
    /// Draws the plan of a seed. What is left out is part of the plan and not of what chance decides.
    pub(crate) fn draw(seed: u64, extent: Extent, without: BTreeSet<u32>) -> Self {
        let mut rng = Rng::stream(seed, STREAM_OF_PLAN);
        let share = [60, 150, 300][rng.index(3)];
        let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| rng.chance(share)).collect();
        if kinds.is_empty() {
            kinds.push(KINDS[rng.index(KINDS.len())]);
        }
        if rng.chance(DATABASE_BELOW) {
            kinds.extend(DATABASE_KINDS);
        }
        let every = [500 * MS, 1500 * MS, 4 * SECOND][rng.index(3)];
        let until = rng.between(12 * SECOND, 26 * SECOND);
        let course = match rng.below(1000) {
            0..MILD_BELOW => Course::Mild,
            MILD_BELOW..LONE_BELOW => Course::Lone,
            _ => Course::Swarm,
        };
        let has_core = course == Course::Swarm && rng.chance(CORE_BELOW);
        let core = has_core.then(|| core(extent, &mut rng));
        let mut plan = Self { course, strikes: Vec::new(), until, core, without };
        match course {
            Course::Mild => {}
            Course::Lone => plan.draw_lone(seed, extent),
            Course::Swarm => plan.draw_swarm(seed, extent, &kinds, every),
        }
        plan
    }

    fn draw_lone(&mut self, seed: u64, extent: Extent) {
        let mut rng = Rng::stream(seed, STREAM_OF_STRIKES);
        let kind = LONE_KINDS[rng.index(LONE_KINDS.len())];
        self.strikes.push(Strike::draw(0, LONE_AT, kind, extent, &mut rng));
        self.until = self.until.max(LONE_AT + LONE_LASTS);
    }

    fn draw_swarm(&mut self, seed: u64, extent: Extent, kinds: &[Kind], every: u64) {
        let mut at = FIRST_AT;
        for index in 0..STRIKES_MAX {
            if at >= self.until {
                break;
            }
            let mut rng = Rng::stream(seed, STREAM_OF_STRIKES + u64::from(index));
            let next = at + rng.between(every / 4, every * 2);
            let kind = kinds[rng.index(kinds.len())];
            self.strikes.push(Strike::draw(index, at, kind, extent, &mut rng));
            at = next;
        }
    }
}

impl Strike {
    fn draw(index: u32, at: u64, kind: Kind, extent: Extent, rng: &mut Rng) -> Self {
        let node = rng.index(extent.nodes);
        let service = rng.index(extent.services);
        // The coordinator's role moves by itself; it is not asked to.
        let role = 1 + rng.index(extent.roles - 1);
        let (pick, lasts) = (rng.next(), lasts(rng));
        let strike =
            Self { index, at, kind, node, service, role, pick, lasts, amount: 0, links: Vec::new(), waits: Vec::new() };
        strike.in_detail(extent.nodes, rng)
    }

    /// What only some kinds have.
    fn in_detail(mut self, nodes: usize, rng: &mut Rng) -> Self {
        match self.kind {
            Kind::InstanceHang => {
                self.lasts = if rng.chance(500) { HANG_MAX } else { rng.between(SECOND, HANG_MAX) };
            }
            Kind::AgentKill | Kind::LeaderKill => {
                // The parent mostly starts it again at once.
                self.lasts = if rng.chance(500) { rng.between(20 * MS, 300 * MS) } else { self.lasts };
            }
            Kind::PrimaryAgentFreeze => self.lasts = rng.between(SECOND, 5 * SECOND),
            Kind::NodeKill | Kind::PrimaryLoss => self.lasts = rng.between(SECOND, 8 * SECOND),
            Kind::BalancerKill => self.lasts = rng.between(100 * MS, 3 * SECOND),
            Kind::Isolation | Kind::Flapping => self.links = around(nodes, self.node),
            Kind::Halves => {
                let side: Vec<bool> = (0..nodes).map(|_| rng.chance(500)).collect();
                self.links = pairs(nodes).filter(|(one, other)| side[*one] != side[*other]).collect();
            }
            Kind::Ring | Kind::Bridge | Kind::Swizzle => self.links = shaped(self.kind, nodes, rng),
            Kind::OneWay => self.links = pairs(nodes).filter(|_| rng.chance(200)).collect(),
            Kind::Loss => self.amount = rng.between(20, 600),
            Kind::Delay | Kind::SlowCommit | Kind::SlowDisk => self.amount = slowness(rng),
            Kind::Drift => self.amount = rng.between(0, 2 * DRIFT_PPM_MAX),
            Kind::DiskLoss | Kind::Blackout => self.lasts = rng.between(SECOND, 6 * SECOND),
            Kind::WallStep | Kind::WallStepAhead => self.amount = rng.between(SECOND, 60 * SECOND),
            Kind::NearLapse => {
                // A renewal that arrives just when its lease runs out, while the log is behind.
                self.links = around(nodes, self.node);
                self.lasts = rng.between(2400 * MS, 3000 * MS);
                self.amount = rng.between(200 * MS, 900 * MS);
            }
            _ => {}
        }
        self.waits = match self.kind {
            Kind::Flapping => (0..2 * FLAPS).map(|_| rng.between(1500 * MS, 4 * SECOND)).collect(),
            Kind::RestartStorm => (0..STORMS).map(|_| rng.between(100 * MS, 1500 * MS)).collect(),
            Kind::Swizzle => self.links.iter().map(|_| rng.between(20 * MS, 900 * MS)).collect(),
            _ => Vec::new(),
        };
        self
    }

    /// The nodes of a storm: the one it names, and each other one as `pick` decides.
    pub(crate) fn crowd(&self, nodes: usize) -> Vec<usize> {
        (0..nodes).filter(|n| *n == self.node || self.pick >> n & 1 == 1).collect()
    }
}

/// Every direction between two nodes.
fn pairs(nodes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..nodes).flat_map(move |one| (0..nodes).filter(move |other| *other != one).map(move |other| (one, other)))
}

/// Every direction to and from one node.
fn around(nodes: usize, node: usize) -> Vec<(usize, usize)> {
    pairs(nodes).filter(|(one, other)| *one == node || *other == node).collect()
}

/// Everything in one of many orders.
fn shuffled<T>(mut all: Vec<T>, rng: &mut Rng) -> Vec<T> {
    (1..all.len()).rev().for_each(|last| all.swap(last, rng.index(last + 1)));
    all
}

/// What a network of this shape cuts. A ring of three is one where all hear each other: it is opened.
fn shaped(kind: Kind, nodes: usize, rng: &mut Rng) -> Vec<(usize, usize)> {
    let place = shuffled((0..nodes).collect(), rng);
    let half = rng.between(1, nodes as u64 - 2) as usize;
    let apart = |one: usize, other: usize| one.abs_diff(other);
    match kind {
        Kind::Ring => {
            let neighbours =
                |one: usize, other: usize| apart(one, other) == 1 || (nodes > 3 && apart(one, other) == nodes - 1);
            pairs(nodes).filter(|(one, other)| !neighbours(place[*one], place[*other])).collect()
        }
        // The node in place `half` hears both sides.
        Kind::Bridge => {
            let side = |node: usize| place[node].cmp(&half) as i8;
            pairs(nodes).filter(|(one, other)| side(*one) * side(*other) < 0).collect()
        }
        _ => {
            let links: Vec<_> = pairs(nodes).filter(|(one, other)| one < other && rng.chance(600)).collect();
            let cuts = shuffled(links.clone(), rng);
            [cuts, shuffled(links, rng)].concat()
        }
    }
}

/// A majority of the voters, and as many others as chance adds.
fn core(extent: Extent, rng: &mut Rng) -> Vec<usize> {
    let voters = shuffled((0..extent.voters).collect(), rng);
    let (majority, rest) = voters.split_at(extent.voters / 2 + 1);
    let rest = rest.iter().copied().chain(extent.voters..extent.nodes).filter(|_| rng.chance(400));
    let mut core: Vec<usize> = majority.iter().copied().chain(rest).collect();
    core.sort_unstable();
    core
}

/// How long a fault lasts: often about as long as a lease, where the races are.
fn lasts(rng: &mut Rng) -> u64 {
    match rng.below(10) {
        0..=3 => rng.between(2200 * MS, 3600 * MS),
        4..=7 => rng.between(50 * MS, 1500 * MS),
        _ => rng.between(1500 * MS, 8 * SECOND),
    }
}

/// How long something takes that is slow: mostly well within a lease, sometimes about as long.
fn slowness(rng: &mut Rng) -> u64 {
    match rng.chance(300) {
        true => rng.between(SECOND, 3 * SECOND),
        false => rng.between(20 * MS, 700 * MS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENT: Extent = Extent { nodes: 5, voters: 5, services: 3, roles: 5 };

    #[test]
    fn leaving_a_strike_out_changes_none_of_the_others() {
        for seed in 1..50 {
            let (all, less) =
                (Plan::draw(seed, EXTENT, BTreeSet::new()), Plan::draw(seed, EXTENT, BTreeSet::from([0, 2])));
            assert_eq!(format!("{:?}", all.strikes), format!("{:?}", less.strikes));
            assert_eq!((all.until, all.course), (less.until, less.course));
        }
    }

    #[test]
    fn shapes_cut_what_they_say() {
        let mut rng = Rng::new(3);
        for nodes in 3..=5 {
            let open = |cuts: &[(usize, usize)], one: usize| {
                (0..nodes).filter(|other| *other != one && !cuts.contains(&(one, *other))).count()
            };
            let ring = shaped(Kind::Ring, nodes, &mut rng);
            assert!((0..nodes).all(|node| open(&ring, node) <= 2), "{nodes}: {ring:?}");
            assert!(!ring.is_empty());
            let bridge = shaped(Kind::Bridge, nodes, &mut rng);
            let full = (0..nodes).filter(|node| open(&bridge, *node) == nodes - 1).count();
            assert_eq!(full, 1, "one node hears all: {bridge:?}");
            let swizzle = shaped(Kind::Swizzle, nodes, &mut rng);
            let (mut cuts, mut joins) = (swizzle[..swizzle.len() / 2].to_vec(), swizzle[swizzle.len() / 2..].to_vec());
            cuts.sort_unstable();
            joins.sort_unstable();
            assert_eq!(cuts, joins, "what is cut is joined");
        }
    }

    #[test]
    fn a_core_has_a_majority_of_the_voters() {
        for seed in 0..100 {
            let core = core(Extent { nodes: 4, voters: 3, ..EXTENT }, &mut Rng::new(seed));
            assert!(core.iter().filter(|node| **node < 3).count() >= 2, "{core:?}");
        }
    }

    #[test]
    fn strikes_come_in_order_and_before_the_end() {
        let kinds: BTreeSet<String> = (1..400)
            .flat_map(|seed| {
                let plan = Plan::draw(seed, EXTENT, BTreeSet::new());
                assert!(plan.strikes.is_sorted_by_key(|strike| strike.at));
                assert!(plan.strikes.iter().all(|strike| strike.at < plan.until));
                assert!(plan.strikes.len() < STRIKES_MAX as usize);
                plan.strikes.into_iter().map(|strike| format!("{:?}", strike.kind))
            })
            .collect();
        assert_eq!(
            kinds.len(),
            KINDS.len() + DATABASE_KINDS.len() + LONE_KINDS.len(),
            "every kind is drawn: {kinds:?}"
        );
    }
}
