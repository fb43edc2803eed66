//! Closed forms against elimination on the chains they solve, and against a simulation that knows neither.

use backstay_planner::predict::{ActiveActive, ActivePassive, Chain, CommonCause, FailoverChain, KOfN, State};
use proptest::prelude::*;

/// Nothing random about it: the same numbers from the same seed (splitmix64).
pub struct Numbers(pub u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Above 0, at most 1.
    pub fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.unit().ln()
    }
}

fn near(a: f64, b: f64) -> bool {
    a == b || (a / b - 1.0).abs() < 1e-11
}

/// Time in the states of one kind, by elimination.
fn time_in(solved: &FailoverChain, is_meant: fn(&State) -> bool) -> f64 {
    let time = solved.chain.stationary().unwrap();
    solved.states.iter().zip(time).filter(|(state, _)| is_meant(state)).map(|(_, time)| time).sum()
}

/// Hours from a tenth to ten thousand, evenly over the powers of ten.
fn hours() -> impl Strategy<Value = f64> {
    (-1.0..4.0_f64).prop_map(|exponent| 10_f64.powf(exponent))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn active_passive_is_its_chain(
        (need, spares, crews) in (1..8_u32, 0..6_u32, 1..9_u32),
        (mttf_h, spare_mttf_h, mttr_h, failover_h, uncovered_h) in (hours(), hours(), hours(), hours(), hours()),
        coverage in 0.0..=1.0_f64,
    ) {
        let units = ActivePassive {
            need, spares, mttf_h, spare_mttf_h, mttr_h, crews, coverage, failover_h, uncovered_h,
        };
        let (closed, chain) = (units.downtime().unwrap(), units.chain().unwrap());
        prop_assert!(near(closed.failover, time_in(&chain, |state| matches!(state, State::FailingOver(_)))));
        prop_assert!(near(closed.uncovered, time_in(&chain, |state| matches!(state, State::Uncovered(_)))));
        prop_assert!(near(closed.exhausted, time_in(&chain, |state| matches!(state, State::Exhausted(_)))));
        let holding = time_in(&chain, |state| matches!(state, State::Holding(_)));
        prop_assert!(near(closed.outages_per_h, holding * f64::from(need) / mttf_h));
        let down: Vec<_> = (0..chain.states.len()).filter(|i| !matches!(chain.states[*i], State::Holding(_))).collect();
        prop_assert!(near(closed.mttf_from_all_up_h, chain.chain.mean_time_to(0, &down).unwrap()));
        let time = chain.chain.stationary().unwrap();
        let missing: f64 = chain.states.iter().zip(time).map(|(state, time)| time * match state {
            State::Holding(_) => 0.0,
            State::FailingOver(_) | State::Uncovered(_) => 1.0,
            State::Exhausted(failed) => f64::from(failed - spares),
        }).sum();
        prop_assert!(near(closed.capacity_weighted, missing / f64::from(need)));
    }

    #[test]
    fn active_active_is_its_chain(
        (need, spares, crews) in (1..8_u32, 0..6_u32, 1..9_u32),
        (mttf_h, mttr_h, detect_h, uncovered_h) in (hours(), hours(), hours(), hours()),
        coverage in 0.0..=1.0_f64,
    ) {
        let units = ActiveActive { need, spares, mttf_h, mttr_h, crews, coverage, detect_h, uncovered_h };
        let (closed, chain) = (units.downtime().unwrap(), units.chain().unwrap());
        prop_assert!(near(closed.detecting, time_in(&chain, |state| matches!(state, State::FailingOver(_)))));
        prop_assert!(near(closed.uncovered, time_in(&chain, |state| matches!(state, State::Uncovered(_)))));
        prop_assert!(near(closed.exhausted, time_in(&chain, |state| matches!(state, State::Exhausted(_)))));
        let time = chain.chain.stationary().unwrap();
        let (mut lost, mut outages) = (0.0, 0.0);
        for (state, time) in chain.states.iter().zip(time) {
            lost += time * match state {
                State::Holding(_) => 0.0,
                State::FailingOver(failed) => 1.0 / f64::from(need + spares - failed + 1),
                State::Uncovered(_) => 1.0,
                State::Exhausted(failed) => f64::from(failed - spares) / f64::from(need),
            };
            outages += time * match state {
                State::Holding(failed) if *failed == spares => f64::from(need) / mttf_h,
                State::Holding(failed) => (1.0 - coverage) * f64::from(need + spares - failed) / mttf_h,
                _ => 0.0,
            };
        }
        prop_assert!(near(closed.request_weighted, lost));
        prop_assert!(near(closed.outages_per_h, outages));
    }

    #[test]
    fn k_of_n_is_its_chain(
        (n, crews) in (1..12_u32, 1..13_u32),
        part in 0.0..1.0_f64,
        (mttf_h, mttr_h) in (hours(), hours()),
        dormancy in 0.0..=1.0_f64,
    ) {
        let k = 1 + (part * f64::from(n)) as u32;
        let units = KOfN { n, k, mttf_h, mttr_h, crews, dormancy };
        let mut chain = Chain::new(n as usize + 1).unwrap();
        let failures = |failed: u32| {
            let working = k.min(n - failed);
            (f64::from(working) + dormancy * f64::from(n - failed - working)) / mttf_h
        };
        for failed in 0..n {
            chain.add(failed as usize, failed as usize + 1, failures(failed)).unwrap();
            let repairs = f64::from((failed + 1).min(crews)) / mttr_h;
            chain.add(failed as usize + 1, failed as usize, repairs).unwrap();
        }
        let time = chain.stationary().unwrap();
        let holding = (n - k) as usize;
        let closed = units.downtime().unwrap();
        prop_assert!(near(closed.unavailability, time[holding + 1..].iter().sum()));
        prop_assert!(near(closed.outages_per_h, time[holding] * failures(n - k)));
        let down: Vec<_> = (holding + 1..=n as usize).collect();
        prop_assert!(near(units.mttf_from_all_up_h().unwrap(), chain.mean_time_to(0, &down).unwrap()));
    }

    #[test]
    fn nothing_that_is_accepted_gives_nonsense(
        (n, k, crews) in (0..40_u32, 0..40_u32, 0..5_u32),
        (mttf_h, mttr_h, part) in (any::<f64>(), any::<f64>(), any::<f64>()),
        short in hours(),
    ) {
        let is_part = |value: f64| (0.0..=1.0 + 1e-12).contains(&value);
        for (mttf_h, mttr_h, part) in [(mttf_h, mttr_h, part), (mttf_h.abs(), short, part.fract().abs()), (short, mttr_h, 0.5)] {
            if let Ok(downtime) = (KOfN { n, k, mttf_h, mttr_h, crews, dormancy: part }).downtime() {
                prop_assert!(is_part(downtime.unavailability) && downtime.outages_per_h >= 0.0, "{downtime:?}");
            }
            if let Ok(downtime) = (CommonCause { n, k, mttf_h, mttr_h, crews, beta: part }).downtime() {
                prop_assert!(is_part(downtime.unavailability) && downtime.outages_per_h >= 0.0, "{downtime:?}");
            }
            let units = ActivePassive {
                need: k, spares: n, mttf_h, spare_mttf_h: mttf_h, mttr_h, crews, coverage: part, failover_h: short,
                uncovered_h: mttr_h,
            };
            if let Ok(downtime) = units.downtime() {
                prop_assert!(is_part(downtime.unavailability()) && downtime.outages_per_h >= 0.0, "{downtime:?}");
                prop_assert!(is_part(downtime.capacity_weighted), "{downtime:?}");
            }
            let units = ActiveActive {
                need: k, spares: n, mttf_h, mttr_h, crews, coverage: part, detect_h: short, uncovered_h: mttr_h,
            };
            if let Ok(downtime) = units.downtime() {
                prop_assert!(is_part(downtime.unavailability()) && is_part(downtime.request_weighted), "{downtime:?}");
            }
        }
    }
}

/// Time down and time in all, cycle by cycle from all up to all up again.
struct Cycles(Vec<(f64, f64)>);

impl Cycles {
    /// The ratio, and its standard error: cycles are independent of each other, so the error is an honest one.
    fn ratio(&self) -> (f64, f64) {
        let count = self.0.len() as f64;
        let (down, all) = self.0.iter().fold((0.0, 0.0), |sum, cycle| (sum.0 + cycle.0, sum.1 + cycle.1));
        let ratio = down / all;
        let squares: f64 = self.0.iter().map(|(down, all)| (down - ratio * all).powi(2)).sum();
        (ratio, (squares / (count - 1.0) / count).sqrt() / (all / count))
    }
}

/// The accelerated 1 + 1 of `c-ap-mc`, told as a story: who fails when, and what happens then.
fn one_plus_one(numbers: &mut Numbers, cycles: usize) -> Cycles {
    const ACTIVE_MTTF: f64 = 100.0;
    const SPARE_MTTF: f64 = 200.0;
    const MTTR: f64 = 5.0;
    let mut seen = Vec::with_capacity(cycles);
    for _ in 0..cycles {
        let (mut down, mut all) = (0.0, 0.0);
        let (active, spare) = (numbers.exponential(ACTIVE_MTTF), numbers.exponential(SPARE_MTTF));
        all += active.min(spare);
        if active < spare {
            let works = numbers.unit() <= 0.9;
            let outage = if works { numbers.exponential(1.0 / 60.0) } else { numbers.exponential(1.0) };
            (down, all) = (down + outage, all + outage);
        }
        // One is left; one crew repairs the other.
        loop {
            let (fails, repaired) = (numbers.exponential(ACTIVE_MTTF), numbers.exponential(MTTR));
            if repaired < fails {
                all += repaired;
                break;
            }
            let second_repair = numbers.exponential(MTTR);
            down += second_repair;
            all += fails + second_repair;
        }
        seen.push((down, all));
    }
    Cycles(seen)
}

#[test]
fn a_simulation_finds_the_same_downtime() {
    const EXPECTED: f64 = 0.004_537_457_171_960_367;
    for seed in [1, 2, 3] {
        let (found, error) = one_plus_one(&mut Numbers(seed), 100_000).ratio();
        assert!(error < 0.02 * EXPECTED, "sharp enough to tell: {error:e}");
        assert!((found - EXPECTED).abs() < 4.0 * error, "seed {seed}: {found:e} ± {error:e}");
    }
}

/// Unavailability depends on the means alone: two of three whose lives and repairs are uniform are as often down as
/// exponential ones.
#[test]
fn the_shape_of_lives_and_repairs_does_not_matter() {
    let expected = KOfN { n: 3, k: 2, mttf_h: 20.0, mttr_h: 2.0, crews: 3, dormancy: 1.0 }.downtime().unwrap();
    let mut numbers = Numbers(7);
    let mut batches = Vec::new();
    // Each unit's next change; batches are far longer than anything that one of them could still remember.
    let mut units = [(true, 1.0_f64), (true, 7.0), (true, 13.0)];
    let mut now = 0.0;
    for _ in 0..100 {
        let (mut down, begin) = (0.0, now);
        for _ in 0..1500 {
            let next = (0..3).min_by(|a, b| units[*a].1.total_cmp(&units[*b].1)).expect("three of them");
            let working = units.iter().filter(|(is_up, _)| *is_up).count();
            let (is_up, at) = units[next];
            down += if working < 2 { at - now } else { 0.0 };
            now = at;
            let length = numbers.unit() * if is_up { 2.0 * 2.0 } else { 2.0 * 20.0 };
            units[next] = (!is_up, now + length);
        }
        batches.push((down, now - begin));
    }
    let (found, error) = Cycles(batches).ratio();
    assert!(error < 0.05 * expected.unavailability, "sharp enough to tell: {error:e}");
    assert!((found - expected.unavailability).abs() < 4.0 * error, "{found:e} ± {error:e}, {expected:?}");
}
