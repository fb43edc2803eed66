//! How well the checkers see: each mutant is hunted from several seeds on, so that one lucky seed proves nothing.

use crate::{Mutant, Options, rule_of, run};

/// How many hunts of one mutant there are; odd, so that there is a median.
pub const HUNTS: usize = 11;
/// How far apart they begin.
const APART: u64 = 10_000;

/// What became of one mutant.
#[derive(Clone, Debug)]
pub struct Hunted {
    /// Which.
    pub mutant: Mutant,
    /// The first seed from 1 on that catches it, and by which rule.
    pub first: Option<(u64, String)>,
    /// How many seeds it took, the median over all hunts; none when most ended without a catch.
    pub seeds_median: Option<u64>,
    /// In how many hunts it was caught.
    pub caught: usize,
}

/// Hunts one mutant, with at most `seeds_max` seeds in each hunt.
pub fn hunt(mutant: Mutant, seeds_max: u64) -> Hunted {
    let options = Options { mutant: Some(mutant), ..Options::default() };
    let one = |number: usize| {
        let before = number as u64 * APART;
        (1..=seeds_max).find_map(|count| Some((count, run(before + count, &options).violation?)))
    };
    let hunts: Vec<Option<(u64, String)>> = (0..HUNTS).map(one).collect();
    let mut needed: Vec<u64> = hunts.iter().map(|hunt| hunt.as_ref().map_or(u64::MAX, |(count, _)| *count)).collect();
    needed.sort_unstable();
    let median = needed[HUNTS / 2];
    Hunted {
        mutant,
        caught: hunts.iter().flatten().count(),
        first: hunts[0].as_ref().map(|(seed, violation)| (*seed, rule_of(violation))),
        seeds_median: (median <= seeds_max).then_some(median),
    }
}
