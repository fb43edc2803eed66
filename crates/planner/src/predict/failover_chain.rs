//! Failovers as a chain: N units carry, s are spares, and a failover takes time and sometimes fails.
//!
//! States OK(i) with i failed · FO(i) failing over · UN(i) failover did not happen, people recover · DN(i) more failed than
//! there are spares. While in FO and UN nothing else happens; the error of that is of the order of failover time over
//! time to failure. Closed forms from cut equations (availability.md §2.3), equal to GTH on the same chain.

use super::gth::Chain;
use super::k_of_n::birth_death;
use super::range::{self, OutOfRange, UNITS_MAX};

/// `need` units carry, `spares` stand by; one that fails is replaced by a spare.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ActivePassive {
    /// Units that carry, all of them needed.
    pub need: u32,
    /// Units that stand by.
    pub spares: u32,
    /// Mean time to failure of a unit that carries, in hours; infinite: never.
    pub mttf_h: f64,
    /// Mean time to failure of a spare, in hours: that of a unit that carries when hot, infinite when cold.
    pub spare_mttf_h: f64,
    /// Mean time to repair of a unit, in hours.
    pub mttr_h: f64,
    /// Units that can be under repair at once.
    pub crews: u32,
    /// The probability that a failover works.
    pub coverage: f64,
    /// How long one that works takes, in hours.
    pub failover_h: f64,
    /// How long people take when it does not, in hours.
    pub uncovered_h: f64,
}

/// All units carry; one that fails is ejected after a while, and the rest suffices as long as `need` are left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ActiveActive {
    /// Units that must work.
    pub need: u32,
    /// Units beyond that; they carry too.
    pub spares: u32,
    /// Mean time to failure of a unit, in hours; infinite: never.
    pub mttf_h: f64,
    /// Mean time to repair of a unit, in hours.
    pub mttr_h: f64,
    /// Units that can be under repair at once.
    pub crews: u32,
    /// The probability that a failed unit is ejected.
    pub coverage: f64,
    /// How long that takes, in hours; meanwhile its share of the requests is lost.
    pub detect_h: f64,
    /// How long people take when it is not, in hours; meanwhile the service counts as down.
    pub uncovered_h: f64,
}

/// What becomes of [`ActivePassive`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ActivePassiveDowntime {
    /// Part of the time in failovers.
    pub failover: f64,
    /// Part of the time in which people recover from failovers that did not happen.
    pub uncovered: f64,
    /// Part of the time with fewer working units than needed.
    pub exhausted: f64,
    /// Interruptions per hour, of all three kinds.
    pub outages_per_h: f64,
    /// Capacity missing, as a part of that of `need` units.
    pub capacity_weighted: f64,
    /// Mean time in hours from all up to the first interruption.
    pub mttf_from_all_up_h: f64,
}

impl ActivePassiveDowntime {
    /// Part of the time in which fewer than `need` units carry.
    pub fn unavailability(&self) -> f64 {
        self.failover + self.uncovered + self.exhausted
    }
}

/// What becomes of [`ActiveActive`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ActiveActiveDowntime {
    /// Part of the time in which a failed unit still gets requests.
    pub detecting: f64,
    /// Part of the time in which people recover.
    pub uncovered: f64,
    /// Part of the time with fewer working units than needed.
    pub exhausted: f64,
    /// Outages per hour: of the last two kinds.
    pub outages_per_h: f64,
    /// Part of the requests lost at a load that needs `need` units.
    pub request_weighted: f64,
}

impl ActiveActiveDowntime {
    /// Part of the time in which the service is down or has fewer than `need` units.
    pub fn unavailability(&self) -> f64 {
        self.uncovered + self.exhausted
    }
}

/// A state of the chains of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// So many failed; the service holds.
    Holding(u32),
    /// The so many-th failed just now; a spare takes over, or the balancer has yet to notice.
    FailingOver(u32),
    /// The same, but nothing happens until people act.
    Uncovered(u32),
    /// So many failed, more than there are spares.
    Exhausted(u32),
}

/// The chain behind a closed form, for solving it by [`Chain::stationary`] instead.
#[derive(Clone, Debug)]
pub struct FailoverChain {
    /// Rates between the states.
    pub chain: Chain,
    /// What the states are.
    pub states: Vec<State>,
}

impl ActivePassive {
    /// Solves it in closed form: O(need + spares).
    ///
    /// # Errors
    /// Names the field that is out of its range.
    pub fn downtime(&self) -> Result<ActivePassiveDowntime, OutOfRange> {
        let skeleton = self.skeleton()?;
        let solved = skeleton.solve();
        let need = f64::from(self.need);
        let failover: f64 = solved.delayed.iter().sum();
        Ok(ActivePassiveDowntime {
            failover,
            uncovered: solved.uncovered,
            exhausted: solved.exhausted.iter().sum(),
            outages_per_h: solved.holding.iter().sum::<f64>() * skeleton.carrying_per_h(0),
            capacity_weighted: (failover + solved.uncovered + solved.missing_units()) / need,
            mttf_from_all_up_h: skeleton.carrying_per_h(0).recip(),
        })
    }

    /// The chain itself, without shortcuts.
    ///
    /// # Errors
    /// Names the field that is out of its range; a failover or recovery of no time has no rate.
    pub fn chain(&self) -> Result<FailoverChain, OutOfRange> {
        self.skeleton()?.chain()
    }

    fn skeleton(&self) -> Result<Skeleton, OutOfRange> {
        Skeleton {
            need: self.need,
            spares: self.spares,
            spares_carry: false,
            failure: range::failure_rate("mttf", self.mttf_h)?,
            spare_failure: range::failure_rate("spare_mttf", self.spare_mttf_h)?,
            crews: self.crews,
            repair: range::repair_rate("mttr", self.mttr_h)?,
            coverage: self.coverage,
            delay_h: range::delay("failover", self.failover_h)?,
            uncovered_h: self.uncovered_h,
        }
        .checked()
    }
}

impl ActiveActive {
    /// Solves it in closed form: O(need + spares).
    ///
    /// # Errors
    /// Names the field that is out of its range.
    pub fn downtime(&self) -> Result<ActiveActiveDowntime, OutOfRange> {
        let skeleton = self.skeleton()?;
        let solved = skeleton.solve();
        let units = f64::from(self.need + self.spares);
        let failovers: f64 = skeleton.failovers(&solved.holding).sum();
        let last = solved.holding.last().map_or(0.0, |time| skeleton.carrying_per_h(self.spares) * time);
        let lost_detecting: f64 = (0..).zip(&solved.delayed).map(|(i, time)| time / (units - f64::from(i))).sum();
        Ok(ActiveActiveDowntime {
            detecting: solved.delayed.iter().sum(),
            uncovered: solved.uncovered,
            exhausted: solved.exhausted.iter().sum(),
            outages_per_h: (1.0 - self.coverage) * failovers + last,
            request_weighted: lost_detecting + solved.uncovered + solved.missing_units() / f64::from(self.need),
        })
    }

    /// The chain itself, without shortcuts.
    ///
    /// # Errors
    /// Names the field that is out of its range; a detection or recovery of no time has no rate.
    pub fn chain(&self) -> Result<FailoverChain, OutOfRange> {
        self.skeleton()?.chain()
    }

    fn skeleton(&self) -> Result<Skeleton, OutOfRange> {
        let failure = range::failure_rate("mttf", self.mttf_h)?;
        Skeleton {
            need: self.need,
            spares: self.spares,
            spares_carry: true,
            failure,
            spare_failure: failure,
            crews: self.crews,
            repair: range::repair_rate("mttr", self.mttr_h)?,
            coverage: self.coverage,
            delay_h: range::delay("detect", self.detect_h)?,
            uncovered_h: self.uncovered_h,
        }
        .checked()
    }
}

/// What both have in common; rates per hour and unit.
struct Skeleton {
    need: u32,
    spares: u32,
    spares_carry: bool,
    failure: f64,
    spare_failure: f64,
    crews: u32,
    repair: f64,
    coverage: f64,
    delay_h: f64,
    uncovered_h: f64,
}

/// Parts of the time, all states together being 1.
struct Solved {
    /// In OK(i).
    holding: Vec<f64>,
    /// In FO(i + 1).
    delayed: Vec<f64>,
    /// In any UN.
    uncovered: f64,
    /// In DN(s + 1), DN(s + 2), …
    exhausted: Vec<f64>,
}

impl Solved {
    /// Units missing on average.
    fn missing_units(&self) -> f64 {
        (1..).zip(&self.exhausted).map(|(missing, time)| f64::from(missing) * time).sum()
    }
}

impl Skeleton {
    fn checked(self) -> Result<Self, OutOfRange> {
        range::count("need", self.need, 1, UNITS_MAX)?;
        range::count("spares", self.spares, 0, UNITS_MAX - self.need)?;
        range::count("crews", self.crews, 1, u32::MAX)?;
        range::fraction("coverage", self.coverage)?;
        range::delay("uncovered", self.uncovered_h)?;
        Ok(self)
    }

    fn units(&self) -> u32 {
        self.need + self.spares
    }

    /// Failures of units that carry, with so many failed.
    fn carrying_per_h(&self, failed: u32) -> f64 {
        let spares_left = self.spares.saturating_sub(failed);
        let working = self.units() - failed;
        f64::from(if self.spares_carry { working } else { working - spares_left }) * self.failure
    }

    /// Failures of units that wait, with so many failed.
    fn waiting_per_h(&self, failed: u32) -> f64 {
        let waiting = if self.spares_carry { 0 } else { self.spares.saturating_sub(failed) };
        f64::from(waiting) * self.spare_failure
    }

    fn repairs_per_h(&self, failed: u32) -> f64 {
        f64::from(failed.min(self.crews)) * self.repair
    }

    /// Failures with a spare left, of each OK(i) that has one, weighted by the time in it.
    fn failovers(&self, holding: &[f64]) -> impl Iterator<Item = f64> {
        (0..self.spares).zip(holding).map(|(failed, time)| self.carrying_per_h(failed) * time)
    }

    /// FO and UN hang off the chain of OK and DN, to which they return where they left: that chain is solved by itself,
    /// as birth and death, and their time is added to it.
    fn solve(&self) -> Solved {
        let up = |failed| self.carrying_per_h(failed) + self.waiting_per_h(failed);
        let mut holding = birth_death((0..self.units()).map(|i| up(i) / self.repairs_per_h(i + 1)));
        let mut exhausted = holding.split_off(self.spares as usize + 1);
        let mut delayed: Vec<_> = self.failovers(&holding).map(|rate| self.coverage * rate * self.delay_h).collect();
        let uncovered = (1.0 - self.coverage) * self.failovers(&holding).sum::<f64>() * self.uncovered_h;
        let total = 1.0 + delayed.iter().sum::<f64>() + uncovered;
        for time in holding.iter_mut().chain(&mut exhausted).chain(&mut delayed) {
            *time /= total;
        }
        Solved { holding, delayed, uncovered: uncovered / total, exhausted }
    }

    fn chain(&self) -> Result<FailoverChain, OutOfRange> {
        for (what, hours) in [("failover", self.delay_h), ("uncovered", self.uncovered_h)] {
            range::repair_rate(what, hours)?;
        }
        let with_spare = 0..self.spares;
        let states: Vec<_> = (0..=self.spares)
            .map(State::Holding)
            .chain(with_spare.clone().map(|i| State::FailingOver(i + 1)))
            .chain(with_spare.map(|i| State::Uncovered(i + 1)))
            .chain((self.spares + 1..=self.units()).map(State::Exhausted))
            .collect();
        let mut chain = Chain::new(states.len())?;
        let spares = self.spares as usize;
        let (delayed, uncovered) = (|i: usize| spares + i, |i: usize| 2 * spares + i);
        let after = |failed: usize| if failed <= spares { failed } else { 2 * spares + failed };
        for failed in 0..self.units() {
            let (at, next) = (failed as usize, failed as usize + 1);
            let carrying = self.carrying_per_h(failed);
            if at < spares {
                chain.add(at, delayed(next), carrying * self.coverage)?;
                chain.add(delayed(next), next, self.delay_h.recip())?;
                chain.add(at, uncovered(next), carrying * (1.0 - self.coverage))?;
                chain.add(uncovered(next), next, self.uncovered_h.recip())?;
                chain.add(at, next, self.waiting_per_h(failed))?;
            } else {
                chain.add(after(at), after(next), carrying)?;
            }
            chain.add(after(next), after(at), self.repairs_per_h(failed + 1))?;
        }
        Ok(FailoverChain { chain, states })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_plus_one() -> ActivePassive {
        ActivePassive {
            need: 1,
            spares: 1,
            mttf_h: 2190.0,
            spare_mttf_h: 2190.0,
            mttr_h: 4.0,
            crews: 2,
            coverage: 0.99,
            failover_h: 30.0 / 3600.0,
            uncovered_h: 0.5,
        }
    }

    fn four_plus_one() -> ActiveActive {
        ActiveActive {
            need: 4,
            spares: 1,
            mttf_h: 2190.0,
            mttr_h: 4.0,
            crews: 1,
            coverage: 0.99,
            detect_h: 10.0 / 3600.0,
            uncovered_h: 0.5,
        }
    }

    /// U ≈ λ·(c·t_fo + (1−c)·t_unc) + λ(λ+λ_s)/μ² ÷ 2 with a crew for each unit.
    #[test]
    fn the_rule_of_thumb_is_near() {
        let solved = one_plus_one().downtime().unwrap();
        let failure: f64 = 1.0 / 2190.0;
        let thumb = failure * (0.99 * 30.0 / 3600.0 + 0.01 * 0.5) + (failure * 4.0).powi(2);
        assert!((solved.unavailability() / thumb - 1.0).abs() < 0.01, "{solved:?} {thumb}");
    }

    #[test]
    fn what_never_fails_is_never_down() {
        let solid = ActivePassive { mttf_h: f64::INFINITY, spare_mttf_h: f64::INFINITY, ..one_plus_one() };
        let solved = solid.downtime().unwrap();
        assert_eq!((solved.unavailability(), solved.outages_per_h), (0.0, 0.0));
        assert_eq!(solved.mttf_from_all_up_h, f64::INFINITY);
        let solid = ActiveActive { mttf_h: f64::INFINITY, ..four_plus_one() };
        assert_eq!(solid.downtime().unwrap().request_weighted, 0.0);
    }

    #[test]
    fn without_spares_nothing_fails_over() {
        let bare = ActivePassive { spares: 0, ..one_plus_one() };
        let solved = bare.downtime().unwrap();
        assert_eq!((solved.failover, solved.uncovered), (0.0, 0.0));
        assert!((solved.exhausted - 4.0 / 2194.0).abs() < 1e-17);
        assert_eq!(bare.chain().unwrap().states, [State::Holding(0), State::Exhausted(1)]);
    }

    #[test]
    fn instant_failovers_cost_nothing_and_have_no_rate() {
        let instant = ActivePassive { failover_h: 0.0, ..one_plus_one() };
        assert_eq!(instant.downtime().unwrap().failover, 0.0);
        assert_eq!(instant.chain().unwrap_err().what, "failover");
    }

    #[test]
    fn wrong_inputs_are_named() {
        let good = one_plus_one();
        for (bad, what) in [
            (ActivePassive { need: 0, ..good }, "need"),
            (ActivePassive { need: u32::MAX, ..good }, "need"),
            (ActivePassive { spares: u32::MAX, ..good }, "spares"),
            (ActivePassive { crews: 0, ..good }, "crews"),
            (ActivePassive { mttf_h: -1.0, ..good }, "mttf"),
            (ActivePassive { spare_mttf_h: 0.0, ..good }, "spare_mttf"),
            (ActivePassive { mttr_h: f64::INFINITY, ..good }, "mttr"),
            (ActivePassive { coverage: f64::NAN, ..good }, "coverage"),
            (ActivePassive { failover_h: -1.0, ..good }, "failover"),
            (ActivePassive { uncovered_h: f64::INFINITY, ..good }, "uncovered"),
        ] {
            assert_eq!(bad.downtime().unwrap_err().what, what, "{bad:?}");
            assert!(bad.chain().is_err(), "{bad:?}");
        }
        let bad = ActiveActive { detect_h: f64::NAN, ..four_plus_one() };
        assert_eq!(bad.downtime().unwrap_err().what, "detect");
    }

    #[test]
    fn perfect_coverage_leaves_only_exhaustion() {
        let perfect = ActiveActive { coverage: 1.0, ..four_plus_one() };
        let solved = perfect.downtime().unwrap();
        assert_eq!(solved.uncovered, 0.0);
        let into_exhausted = solved.outages_per_h * perfect.mttr_h;
        assert!((into_exhausted / solved.exhausted - 1.0).abs() < 0.01, "one crew: DN(2) takes an MTTR, {solved:?}");
    }
}
