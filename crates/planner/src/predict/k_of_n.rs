//! Services of n like units of which k must work: with any number of repair crews, and spares that rest.
//!
//! Source of the formulas: birth and death of failed units (availability.md §2.1 and §2.2; any textbook of queues).

use super::downtime::Downtime;
use super::range::{self, OutOfRange, UNITS_MAX};

/// `n` like units of which `k` must work. Units go on failing while the service is down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KOfN {
    /// Units.
    pub n: u32,
    /// Units that must work.
    pub k: u32,
    /// Mean time to failure of a unit that works, in hours; infinite: never.
    pub mttf_h: f64,
    /// Mean time to repair of a unit, in hours, once a crew is at it.
    pub mttr_h: f64,
    /// Units that can be under repair at once.
    pub crews: u32,
    /// Rate at which a resting unit fails, as a part of that of a working one: 1 hot, between warm, 0 cold. While it is
    /// 1 all units work; below that only `k` do.
    pub dormancy: f64,
}

impl KOfN {
    /// The part of the time in which i of the units are failed, for every i from 0 to n.
    ///
    /// # Errors
    /// Names the field that is out of its range.
    pub fn failed_units(&self) -> Result<Vec<f64>, OutOfRange> {
        self.checked()?;
        Ok(birth_death((0..self.n).map(|i| self.failures_per_h(i) / self.repairs_per_h(i + 1))))
    }

    /// Unavailability and outages in the long run.
    ///
    /// # Errors
    /// Names the field that is out of its range.
    pub fn downtime(&self) -> Result<Downtime, OutOfRange> {
        let time = self.failed_units()?;
        let spares = self.n - self.k;
        Ok(Downtime {
            unavailability: time[spares as usize + 1..].iter().sum(),
            outages_per_h: time[spares as usize] * self.failures_per_h(spares),
        })
    }

    /// Mean time in hours from all units up to the first outage; infinite for units that never fail.
    ///
    /// h₀ = 1/Λ₀, hⱼ = 1/Λⱼ + (Mⱼ/Λⱼ) hⱼ₋₁; the sum over the states that hold (availability.md §2.2).
    ///
    /// # Errors
    /// Names the field that is out of its range.
    pub fn mttf_from_all_up_h(&self) -> Result<f64, OutOfRange> {
        self.checked()?;
        let (mut total, mut step) = (0.0, 0.0);
        for failed in 0..=self.n - self.k {
            let failures = self.failures_per_h(failed);
            if failures == 0.0 {
                return Ok(f64::INFINITY);
            }
            step = (1.0 + self.repairs_per_h(failed) * step) / failures;
            total += step;
        }
        Ok(total)
    }

    fn checked(&self) -> Result<(), OutOfRange> {
        range::count("n", self.n, 1, UNITS_MAX)?;
        range::count("k", self.k, 1, self.n)?;
        range::count("crews", self.crews, 1, u32::MAX)?;
        range::failure_rate("mttf", self.mttf_h)?;
        range::repair_rate("mttr", self.mttr_h)?;
        range::fraction("dormancy", self.dormancy).map(drop)
    }

    fn failures_per_h(&self, failed: u32) -> f64 {
        let working = self.k.min(self.n - failed);
        let resting = self.n - failed - working;
        (f64::from(working) + self.dormancy * f64::from(resting)) / self.mttf_h
    }

    fn repairs_per_h(&self, failed: u32) -> f64 {
        f64::from(failed.min(self.crews)) / self.mttr_h
    }
}

/// The time shares of the states 0, 1, … of a chain that only steps up and down by one: each ratio is the rate up from a
/// state over the rate down from the next.
///
/// Products only. Weights leave the range of a float long before their shares do, so they are kept in blocks of 2⁵⁰⁰.
pub(super) fn birth_death(ratios: impl IntoIterator<Item = f64>) -> Vec<f64> {
    const BLOCK: f64 = 3.273_390_607_896_142e150;
    let (mut weight, mut block) = (1.0, 0_u32);
    let mut weights = vec![(weight, block)];
    for ratio in ratios {
        weight *= ratio;
        if weight > BLOCK {
            weight /= BLOCK;
            block += 1;
        }
        weights.push((weight, block));
    }
    // Blocks only go up: what lies two below the last is less than any float beside it.
    let in_last = |(weight, of): (f64, u32)| match block - of {
        0 => weight,
        1 => weight / BLOCK,
        _ => 0.0,
    };
    let total: f64 = weights.iter().map(|w| in_last(*w)).sum();
    weights.into_iter().map(|w| in_last(w) / total).collect()
}

/// The probability of i failed among independent units, for every i, by convolution: O(n²), non-negative terms only.
///
/// # Errors
/// When one of the unavailabilities is no probability.
pub fn failed_of(unavailabilities: &[f64]) -> Result<Vec<f64>, OutOfRange> {
    let mut failed = vec![1.0];
    for &u in unavailabilities {
        range::fraction("unavailability", u)?;
        failed.push(0.0);
        for i in (0..failed.len()).rev() {
            failed[i] = failed[i] * (1.0 - u) + if i > 0 { failed[i - 1] * u } else { 0.0 };
        }
    }
    Ok(failed)
}

/// Mean time in hours until `fails_when` of units with these failure rates per hour have failed, without repair.
///
/// Walks the subsets that have failed: the probability of each one ever being seen, over the rate at which it is left.
///
/// # Errors
/// When there are no units or more than 20, a rate is not finite and positive, or `fails_when` is not among their number.
pub fn mttf_without_repair_h(rates_per_h: &[f64], fails_when: u32) -> Result<f64, OutOfRange> {
    const MOST: usize = 20;
    if rates_per_h.is_empty() || rates_per_h.len() > MOST {
        return Err(OutOfRange::new("number of rates", rates_per_h.len(), format!("from 1 to {MOST}")));
    }
    if let Some(rate) = rates_per_h.iter().find(|rate| !(**rate > 0.0 && rate.is_finite())) {
        return Err(OutOfRange::new("rate", rate, "finite and more than 0"));
    }
    range::count("fails_when", fails_when, 1, rates_per_h.len() as u32)?;
    let mut seen = vec![0.0; 1 << rates_per_h.len()];
    seen[0] = 1.0;
    let mut total_h = 0.0;
    for failed in 0..seen.len() {
        if failed.count_ones() >= fails_when || seen[failed] == 0.0 {
            continue;
        }
        let working = || rates_per_h.iter().enumerate().filter(|(unit, _)| failed & (1 << unit) == 0);
        let leaving: f64 = working().map(|(_, rate)| rate).sum();
        total_h += seen[failed] / leaving;
        for (unit, rate) in working() {
            seen[failed | (1 << unit)] += seen[failed] * rate / leaving;
        }
    }
    Ok(total_h)
}

/// The part of all requests that find no capacity: Σᵢ πᵢ Σ w·max(0, ℓ − capᵢ) / Σ w·ℓ, the load being independent of
/// the failures (availability.md §2.7).
///
/// `units` says how they fail; `unit_capacity` is what one carries; `load` is a list of (weight, load in the same unit).
///
/// # Errors
/// When a field is out of its range, or there is no load at all.
pub fn lost_requests(units: &KOfN, unit_capacity: f64, load: &[(f64, f64)]) -> Result<f64, OutOfRange> {
    range::amount("unit_capacity", unit_capacity)?;
    let mut offered = 0.0;
    for (weight, load) in load {
        offered += range::amount("weight", *weight)? * range::amount("load", *load)?;
    }
    if offered <= 0.0 {
        return Err(OutOfRange::new("load", offered, "more than 0 in some state"));
    }
    let lost = |failed: usize| -> f64 {
        let capacity = f64::from(units.n - failed as u32) * unit_capacity;
        load.iter().map(|(weight, load)| weight * (load - capacity).max(0.0)).sum()
    };
    let time = units.failed_units()?;
    Ok(time.iter().enumerate().map(|(failed, share)| share * lost(failed)).sum::<f64>() / offered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_of_three() -> KOfN {
        KOfN { n: 3, k: 2, mttf_h: 1000.0, mttr_h: 4.0, crews: 3, dormancy: 1.0 }
    }

    #[test]
    fn with_a_crew_for_each_it_is_binomial() {
        let u: f64 = 4.0 / 1004.0;
        let binomial = failed_of(&[u; 3]).unwrap();
        for (chain, independent) in two_of_three().failed_units().unwrap().iter().zip(&binomial) {
            assert!((chain / independent - 1.0).abs() < 1e-14, "{chain} {independent}");
        }
    }

    #[test]
    fn extremes_stay_numbers() {
        let never = KOfN { mttf_h: f64::INFINITY, ..two_of_three() };
        assert_eq!(never.downtime().unwrap(), Downtime::default());
        assert_eq!(never.mttf_from_all_up_h(), Ok(f64::INFINITY));
        // Nearly always failed, and many: the weights leave the range of a float many times over.
        let hopeless = KOfN { n: 5000, k: 1, mttf_h: 1e-9, mttr_h: 1e9, crews: 1, dormancy: 1.0 };
        assert_eq!(hopeless.downtime().unwrap().unavailability, 1.0);
        let solid = KOfN { n: UNITS_MAX, k: 1, mttf_h: 1e12, mttr_h: 1e-9, crews: 1, dormancy: 0.0 };
        assert_eq!(solid.downtime().unwrap().unavailability, 0.0, "below any float");
        let one = KOfN { n: 1, k: 1, ..two_of_three() };
        assert!((one.downtime().unwrap().unavailability - 4.0 / 1004.0).abs() < 1e-17);
    }

    #[test]
    fn wrong_inputs_are_named() {
        let good = two_of_three();
        for (bad, what) in [
            (KOfN { n: 0, ..good }, "n"),
            (KOfN { n: u32::MAX, ..good }, "n"),
            (KOfN { k: 0, ..good }, "k"),
            (KOfN { k: 4, ..good }, "k"),
            (KOfN { crews: 0, ..good }, "crews"),
            (KOfN { mttf_h: 0.0, ..good }, "mttf"),
            (KOfN { mttr_h: f64::NAN, ..good }, "mttr"),
            (KOfN { dormancy: 1.1, ..good }, "dormancy"),
        ] {
            assert_eq!(bad.downtime().unwrap_err().what, what, "{bad:?}");
            assert!(bad.mttf_from_all_up_h().is_err() && bad.failed_units().is_err(), "{bad:?}");
        }
        assert!(mttf_without_repair_h(&[], 1).is_err() && mttf_without_repair_h(&[1.0; 21], 1).is_err());
        assert!(mttf_without_repair_h(&[1.0, 0.0], 1).is_err() && mttf_without_repair_h(&[1.0], 2).is_err());
        assert!(failed_of(&[f64::NAN]).is_err());
        assert!(lost_requests(&good, 1.0, &[]).is_err() && lost_requests(&good, f64::NAN, &[(1.0, 1.0)]).is_err());
    }

    #[test]
    fn a_load_that_one_unit_carries_is_lost_only_when_all_are_down() {
        let units = two_of_three();
        let all_down = units.failed_units().unwrap()[3];
        assert_eq!(lost_requests(&units, 1.0, &[(1.0, 1.0)]), Ok(all_down));
    }
}
