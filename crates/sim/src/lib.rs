//! A seeded world that runs the real decision code under faults.
//!
//! One seed is one run: a cluster of three to five nodes with clocks that drift, a network that loses, delays and repeats,
//! agents that are killed and frozen, machines that pause, lose their power or their disk, a store whose leader falls. In it run, unchanged,
//! [`backstay_failover::decide`], [`backstay_failover::next_steps`], the store's state machine
//! ([`backstay_model::memory::Memory`]), the lease arithmetic and placement; what touches the world is modelled.
//! Checkers, apart from everything else, watch the safety rules of DESIGN §5 in true time. After the faults end,
//! redundancy must return and the goal must come to rest: of the whole cluster, or of a core with the others dead for good.
//!
//! What goes wrong is drawn before the run begins ([`Options::without`] leaves strikes out); [`shrink`] finds the few that
//! matter.
//!
//! Pure: no clock, no thread, no randomness but the seed's. The same seed gives the same run, byte for byte.
//!
//! That the checkers see something is proven by [`Mutant`]s: wrong products, each of which must be caught.
//!
//! Not modelled: consensus itself (one agreed order stands for it), a store that is restored.

mod agent;
mod checks;
mod clock;
mod cluster;
mod coordinator;
mod database;
mod detection;
mod disk;
mod faults;
mod hands;
mod hunt;
mod lone;
mod machines;
mod message;
mod mutant;
mod network;
mod node;
mod plan;
mod rng;
mod shrink;
mod store;
mod trace;
mod watchers;
mod world;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

pub use faults::Struck;
pub use hunt::{HUNTS, Hunted, hunt};
pub use mutant::Mutant;
pub use plan::STRIKES_MAX;
pub use shrink::{Shrunk, rule_of, shrink};
pub use trace::TRACE_LINES_MAX;

use clock::SECOND;
use world::World;

/// After the faults have ended, redundancy must be back within this much true time: a lease, an election, back-offs, a
/// failback and the wait for a holder that does not take its grant, with room.
const RETURNS_WITHIN: u64 = 60 * SECOND;
/// Redundancy is back when nothing is missing and the goal has not changed for this long.
const QUIET_FOR: u64 = 3 * SECOND;
/// A run in which clients succeeded less often proves nothing.
const OPS_LEAST: u64 = 100;
/// No run has more happenings than this; one that has is a livelock.
const EVENTS_MAX: u64 = 2_000_000;

/// How to run a seed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A wrong product to run instead of the right one.
    pub mutant: Option<Mutant>,
    /// How many of the newest trace lines to keep; 0: none, which is faster.
    pub trace_lines: usize,
    /// A line for everything that happens, not only for what is told.
    pub every_event: bool,
    /// Strikes of the seed's plan that are left out, by index; the others are what they would have been.
    pub without: BTreeSet<u32>,
}

/// What came of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunReport {
    /// The seed.
    pub seed: u64,
    /// A digest of everything that happened; the same seed gives the same one.
    pub hash: u64,
    /// How many things happened.
    pub events: u64,
    /// How often a client of a service or an address succeeded.
    pub ops_ok: u64,
    /// No rule was broken, and enough operations succeeded to tell.
    pub passed: bool,
    /// The first rule that was broken, and when.
    pub violation: Option<String>,
    /// Goals that came into force.
    pub goals: u64,
    /// Faults that struck.
    pub faults: u64,
    /// Strikes of the plan that hit, in order.
    pub struck: Vec<Struck>,
    /// How many strikes the plan of the seed has, those left out included.
    pub planned: u32,
    /// Moves of exclusive roles, first placements included.
    pub moves: u64,
    /// The newest lines of the trace, if they were asked for.
    pub trace: Vec<String>,
}

/// Runs one seed.
pub fn run(seed: u64, options: &Options) -> RunReport {
    let mut world = World::new(seed, options);
    while world.step() {
        if world.events > EVENTS_MAX {
            world.judge(Err(format!("more than {EVENTS_MAX} events: the run does not come to an end")));
        } else if world.now > world.faults.until && world.events.is_multiple_of(64) && is_over(&mut world) {
            break;
        }
    }
    if world.violation.is_none() && world.ops_ok < OPS_LEAST {
        let ops = world.ops_ok;
        world.judge(Err(format!("only {ops} operations succeeded: the run proves nothing")));
    }
    let memory = world.store.memory.hash();
    world.fold(memory);
    RunReport {
        seed,
        hash: world.hash,
        events: world.events,
        ops_ok: world.ops_ok,
        passed: world.violation.is_none(),
        goals: world.in_force.map_or(0, |index| world.goals[index].goal.generation.0),
        faults: world.faults.struck,
        planned: world.faults.plan.strikes.len() as u32,
        struck: world.faults.list,
        moves: world.checks.changes.moves,
        trace: world.trace.take(),
        violation: world.violation,
    }
}

/// Whether redundancy is back and the goal at rest; judges a run in which that takes too long.
fn is_over(world: &mut World) -> bool {
    let missing = world.still_missing();
    let rests = world.now.saturating_sub(world.goal_changed_at) > QUIET_FOR;
    if missing.is_none() && rests {
        let (faults, roles) = (world.faults.struck, world.roles.len() as u64);
        let verdict = world.checks.changes.verify(faults, roles);
        world.judge(verdict);
        return true;
    }
    if world.now > world.faults.until + RETURNS_WITHIN {
        let what = missing.unwrap_or_else(|| "the goal does not come to rest".to_owned());
        world.judge(Err(format!("redundancy did not return within {} s: {what}", RETURNS_WITHIN / SECOND)));
        return true;
    }
    false
}

/// What came of many runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many seeds ran.
    pub runs: u64,
    /// How many passed.
    pub passed: u64,
    /// Everything that happened in them.
    pub events: u64,
    /// Operations that succeeded in them.
    pub ops_ok: u64,
    /// The seeds that did not pass, and what was broken; at most [`Summary::FAILED_MAX`].
    pub failed: Vec<(u64, String)>,
}

impl Summary {
    /// More failures than these say nothing more.
    pub const FAILED_MAX: usize = 1000;

    /// Adds one run.
    pub fn add(&mut self, report: RunReport) {
        self.runs += 1;
        self.passed += u64::from(report.passed);
        self.events += report.events;
        self.ops_ok += report.ops_ok;
        if let Some(violation) = report.violation
            && self.failed.len() < Self::FAILED_MAX
        {
            self.failed.push((report.seed, violation));
        }
    }

    /// Adds the runs of another range, as from another thread.
    pub fn merge(&mut self, other: Self) {
        self.runs += other.runs;
        self.passed += other.passed;
        self.events += other.events;
        self.ops_ok += other.ops_ok;
        self.failed.extend(other.failed);
        self.failed.truncate(Self::FAILED_MAX);
    }
}

/// Runs a range of seeds, one after the other. Callers with more processors split the range and merge the summaries.
pub fn run_many(seeds: RangeInclusive<u64>, options: &Options) -> Summary {
    let mut summary = Summary::default();
    seeds.for_each(|seed| summary.add(run(seed, options)));
    summary
}

/// Runs every mutant on seeds from 1 up to `seeds_max` until one is caught: the mutant and that seed.
pub fn mutants(seeds_max: u64) -> Vec<(Mutant, Option<u64>)> {
    let caught = |mutant: &Mutant| {
        let options = Options { mutant: Some(*mutant), ..Options::default() };
        (1..=seeds_max).find(|seed| !run(*seed, &options).passed)
    };
    Mutant::all().iter().map(|mutant| (*mutant, caught(mutant))).collect()
}

#[cfg(test)]
mod tests;
