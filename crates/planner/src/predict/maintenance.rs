//! Planned work: units are taken out one at a time, which is harmless exactly as long as nothing else is out.

use super::downtime::{Downtime, HOURS_PER_YEAR};
use super::gth::Chain;
use super::k_of_n::KOfN;
use super::range::{self, OutOfRange};

/// Like units, hot, some of which are taken out for work now and then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Maintained {
    /// The units; all of them work, whatever its `dormancy`.
    pub units: KOfN,
    /// How often one is taken out, per year of 8760 h, all units together.
    pub per_year: f64,
    /// How long the work takes, in hours.
    pub hours: f64,
    /// Work starts only when all units are well. Without this it starts whenever one is.
    pub is_gated: bool,
}

impl Maintained {
    /// Unavailability and outages in the long run, work included: GTH on (units failed, one out or none).
    ///
    /// A unit that is out does not fail; work that was begun is finished. The switchovers themselves are not counted.
    ///
    /// # Errors
    /// Names the field that is out of its range.
    pub fn downtime(&self) -> Result<Downtime, OutOfRange> {
        const UNITS_MAX: u32 = 1000;
        range::count("n", self.units.n, 1, UNITS_MAX)?;
        let KOfN { n, k, crews, .. } = KOfN { dormancy: 1.0, ..self.units };
        range::count("k", k, 1, n)?;
        range::count("crews", crews, 1, u32::MAX)?;
        let failure = range::failure_rate("mttf", self.units.mttf_h)?;
        let repair = range::repair_rate("mttr", self.units.mttr_h)?;
        let starts = range::amount("maintenance per year", self.per_year)? / HOURS_PER_YEAR;
        let ends = range::repair_rate("maintenance", self.hours)?;
        let at = |failed: u32, out: u32| 2 * failed as usize + out as usize;
        let mut chain = Chain::new(2 * n as usize + 1)?;
        for failed in 0..n {
            for out in 0..=1 {
                let working = n - failed - out;
                if working > 0 {
                    chain.add(at(failed, out), at(failed + 1, out), f64::from(working) * failure)?;
                    let repairs = f64::from((failed + 1).min(crews)) * repair;
                    chain.add(at(failed + 1, out), at(failed, out), repairs)?;
                }
            }
            if failed == 0 || !self.is_gated {
                chain.add(at(failed, 0), at(failed, 1), starts)?;
            }
            chain.add(at(failed, 1), at(failed, 0), ends)?;
        }
        let time = chain.stationary()?;
        let is_down = |failed: u32, out: u32| n - failed - out < k;
        let mut sum = Downtime::default();
        for (failed, out) in (0..=n).flat_map(|failed| [(failed, 0), (failed, 1)]).filter(|(f, out)| f + out <= n) {
            let share = time[at(failed, out)];
            if is_down(failed, out) {
                sum.unavailability += share;
                continue;
            }
            if is_down(failed + 1, out) {
                sum.outages_per_h += share * f64::from(n - failed - out) * failure;
            }
            if out == 0 && is_down(failed, 1) && (failed == 0 || !self.is_gated) {
                sum.outages_per_h += share * starts;
            }
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNITS: KOfN = KOfN { n: 3, k: 2, mttf_h: 2190.0, mttr_h: 4.0, crews: 1, dormancy: 1.0 };
    const WORK: Maintained = Maintained { units: UNITS, per_year: 12.0, hours: 0.5, is_gated: true };

    #[test]
    fn no_work_changes_nothing() {
        let idle = Maintained { per_year: 0.0, ..WORK }.downtime().unwrap();
        let alike = UNITS.downtime().unwrap();
        assert!((idle.unavailability / alike.unavailability - 1.0).abs() < 1e-13, "{idle:?} {alike:?}");
        assert!((idle.outages_per_h / alike.outages_per_h - 1.0).abs() < 1e-13, "{idle:?} {alike:?}");
    }

    #[test]
    fn the_gate_keeps_most_of_the_harm_away() {
        let gated = WORK.downtime().unwrap().unavailability;
        let free = Maintained { is_gated: false, ..WORK }.downtime().unwrap().unavailability;
        assert!((free / 2.352e-5 - 1.0).abs() < 1e-3 && gated < free, "availability.md §2.7: {free:e}");
    }

    #[test]
    fn work_on_the_only_unit_is_an_outage() {
        let alone = KOfN { n: 1, k: 1, mttf_h: f64::INFINITY, ..UNITS };
        let down = Maintained { units: alone, ..WORK }.downtime().unwrap();
        assert!((down.outages_per_h * HOURS_PER_YEAR - 12.0).abs() < 0.01, "{down:?}");
        assert!((down.mean_outage_h().unwrap() - 0.5).abs() < 1e-12);
    }

    #[test]
    fn wrong_inputs_are_named() {
        for (bad, what) in [
            (Maintained { units: KOfN { n: 0, ..UNITS }, ..WORK }, "n"),
            (Maintained { units: KOfN { k: 0, ..UNITS }, ..WORK }, "k"),
            (Maintained { units: KOfN { mttf_h: f64::NAN, ..UNITS }, ..WORK }, "mttf"),
            (Maintained { per_year: -1.0, ..WORK }, "maintenance per year"),
            (Maintained { hours: 0.0, ..WORK }, "maintenance"),
        ] {
            assert_eq!(bad.downtime().unwrap_err().what, what);
        }
    }
}
