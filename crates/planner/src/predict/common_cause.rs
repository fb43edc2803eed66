//! What like units have in common besides their domains: a part β of their failures strikes all of them at once.
//!
//! Better to say what they share (power, a switch, a release) as a domain of its own and to keep β for the rest; the
//! effect is large either way: 2 % of 2-of-3 make it eight times worse (availability.md §2.4).

use super::downtime::Downtime;
use super::gth::Chain;
use super::range::{self, OutOfRange};

/// The most units with a common cause: its chain is solved by elimination.
pub const COMMON_CAUSE_UNITS_MAX: u32 = 1000;

/// `n` like units of which `k` must work, and a shock that fails all that still do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CommonCause {
    /// Units.
    pub n: u32,
    /// Units that must work.
    pub k: u32,
    /// Mean time to failure of a unit for any reason, in hours; infinite: never.
    pub mttf_h: f64,
    /// Mean time to repair of a unit, in hours; after a shock each is repaired by itself.
    pub mttr_h: f64,
    /// Units that can be under repair at once.
    pub crews: u32,
    /// The part of a unit's failures that strikes all of them.
    pub beta: f64,
}

impl CommonCause {
    /// Unavailability and outages in the long run, by GTH on the number of failed units with an arc from each to all.
    ///
    /// # Errors
    /// Names the field that is out of its range.
    pub fn downtime(&self) -> Result<Downtime, OutOfRange> {
        range::count("n", self.n, 1, COMMON_CAUSE_UNITS_MAX)?;
        range::count("k", self.k, 1, self.n)?;
        range::count("crews", self.crews, 1, u32::MAX)?;
        let failure = range::failure_rate("mttf", self.mttf_h)?;
        let repair = range::repair_rate("mttr", self.mttr_h)?;
        let shock = range::fraction("beta", self.beta)? * failure;
        let alone = (1.0 - self.beta) * failure;
        let (all, holding) = (self.n as usize, (self.n - self.k) as usize);
        let mut chain = Chain::new(all + 1)?;
        for failed in 0..self.n {
            let at = failed as usize;
            chain.add(at, at + 1, f64::from(self.n - failed) * alone)?;
            chain.add(at, all, shock)?;
            chain.add(at + 1, at, f64::from((failed + 1).min(self.crews)) * repair)?;
        }
        let time = chain.stationary()?;
        let one_by_one = time[holding] * f64::from(self.k) * alone;
        // The last unit's own failure takes the service down just as a shock does.
        let shocks = time[..=holding].iter().sum::<f64>() * shock;
        Ok(Downtime { unavailability: time[holding + 1..].iter().sum(), outages_per_h: one_by_one + shocks })
    }
}

#[cfg(test)]
mod tests {
    use super::super::k_of_n::KOfN;
    use super::*;

    const THREE: CommonCause = CommonCause { n: 3, k: 2, mttf_h: 1e4, mttr_h: 8.0, crews: 3, beta: 0.0 };

    #[test]
    fn without_shocks_it_is_birth_and_death() {
        let alike = KOfN { n: 3, k: 2, mttf_h: 1e4, mttr_h: 8.0, crews: 3, dormancy: 1.0 }.downtime().unwrap();
        let shocked = THREE.downtime().unwrap();
        assert!((shocked.unavailability / alike.unavailability - 1.0).abs() < 1e-13, "{shocked:?} {alike:?}");
        assert!((shocked.outages_per_h / alike.outages_per_h - 1.0).abs() < 1e-13, "{shocked:?} {alike:?}");
    }

    #[test]
    fn only_shocks_make_many_units_worth_one() {
        let shocked = CommonCause { k: 3, beta: 1.0, ..THREE }.downtime().unwrap();
        assert!((shocked.outages_per_h * 1e4 - 1.0).abs() < 2e-3, "{shocked:?}");
        let never = CommonCause { mttf_h: f64::INFINITY, ..THREE }.downtime().unwrap();
        assert_eq!(never, Downtime::default());
    }

    #[test]
    fn the_largest_is_solved() {
        let large = CommonCause { n: COMMON_CAUSE_UNITS_MAX, k: 900, beta: 0.05, ..THREE }.downtime().unwrap();
        assert!(large.unavailability > 0.0 && large.unavailability < 1.0, "{large:?}");
    }

    #[test]
    fn wrong_inputs_are_named() {
        for (bad, what) in [
            (CommonCause { n: 0, ..THREE }, "n"),
            (CommonCause { n: 1001, ..THREE }, "n"),
            (CommonCause { k: 4, ..THREE }, "k"),
            (CommonCause { crews: 0, ..THREE }, "crews"),
            (CommonCause { mttf_h: 0.0, ..THREE }, "mttf"),
            (CommonCause { mttr_h: -1.0, ..THREE }, "mttr"),
            (CommonCause { beta: f64::NAN, ..THREE }, "beta"),
        ] {
            assert_eq!(bad.downtime().unwrap_err().what, what);
        }
    }
}
