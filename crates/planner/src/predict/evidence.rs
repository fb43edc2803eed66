//! What was seen, and what it proves: failures over time, drills that worked.

use super::quantile;
use super::range::{self, OutOfRange};

/// Events beyond which nothing is left to estimate.
pub const EVENTS_MAX: u32 = 1_000_000_000;

/// A failure rate per hour as measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateEstimate {
    /// The most likely one: failures over hours.
    pub mle_per_h: f64,
    /// Lower end of the interval.
    pub lower: f64,
    /// Upper end of the interval.
    pub upper: f64,
    /// Mean of the posterior under Jeffreys' prior, Gamma(failures + ½, hours): never zero.
    pub jeffreys_mean: f64,
    /// Lower and upper end of the interval of the same probability under it.
    pub jeffreys: (f64, f64),
}

/// Estimates a failure rate from `failures` within `unit_hours` of all units together.
///
/// The interval is the exact one, from χ² quantiles: [χ²(2k, α/2), χ²(2k + 2, 1 − α/2)] / 2T (MIL-HDBK-189). With no
/// failures only the upper end is unknown, so that it has all of α: −ln α / T, the rule of three.
///
/// # Errors
/// When the hours are not positive, or the level does not lie between 0 and 1.
pub fn estimate_rate(failures: u32, unit_hours: f64, level: f64) -> Result<RateEstimate, OutOfRange> {
    range::count("failures", failures, 0, EVENTS_MAX)?;
    if range::amount("hours", unit_hours)? < range::TIME_MIN_H {
        return Err(OutOfRange::new("hours", unit_hours, "more than 0"));
    }
    let seen = f64::from(failures);
    let beyond = 1.0 - range::open_fraction("level", level)?;
    let (low, high) = (beyond / 2.0, 1.0 - beyond / 2.0);
    let (lower, upper) = match failures {
        0 => (0.0, -beyond.ln()),
        _ => (quantile::gamma(seen, low), quantile::gamma(seen + 1.0, high)),
    };
    let jeffreys = (quantile::gamma(seen + 0.5, low) / unit_hours, quantile::gamma(seen + 0.5, high) / unit_hours);
    Ok(RateEstimate {
        mle_per_h: seen / unit_hours,
        lower: lower / unit_hours,
        upper: upper / unit_hours,
        jeffreys_mean: (seen + 0.5) / unit_hours,
        jeffreys,
    })
}

/// The probability of working that drills prove: with confidence `confidence` the true one is higher (Clopper–Pearson,
/// one-sided). 59 clean drills prove 0.95 at 95 %, 299 prove 0.99.
///
/// # Errors
/// When there were no drills, or the confidence does not lie between 0 and 1.
pub fn coverage_lower_bound(passed: u32, failed: u32, confidence: f64) -> Result<f64, OutOfRange> {
    let doubt = 1.0 - range::open_fraction("confidence", confidence)?;
    drills(passed, failed)?;
    Ok(match (passed, failed) {
        (0, _) => 0.0,
        (_, 0) => (doubt.ln() / f64::from(passed)).exp(),
        _ => quantile::beta(f64::from(passed), f64::from(failed) + 1.0, doubt),
    })
}

/// The interval that holds the probability of working with probability `level`, under Jeffreys' prior:
/// Beta(passed + ½, failed + ½).
///
/// # Errors
/// When there were no drills, or the level does not lie between 0 and 1.
pub fn coverage_interval(passed: u32, failed: u32, level: f64) -> Result<(f64, f64), OutOfRange> {
    let beyond = 1.0 - range::open_fraction("level", level)?;
    drills(passed, failed)?;
    let (a, b) = (f64::from(passed) + 0.5, f64::from(failed) + 0.5);
    Ok((quantile::beta(a, b, beyond / 2.0), quantile::beta(a, b, 1.0 - beyond / 2.0)))
}

/// How many drills in a row have to work to prove a coverage of 1 − `gap` with this confidence: 299 for 1 % at 95 %.
///
/// # Errors
/// When either does not lie between 0 and 1.
pub fn clean_drills_to_prove(gap: f64, confidence: f64) -> Result<f64, OutOfRange> {
    let doubt = 1.0 - range::open_fraction("confidence", confidence)?;
    Ok((doubt.ln() / f64::ln_1p(-range::open_fraction("gap", gap)?)).ceil())
}

fn drills(passed: u32, failed: u32) -> Result<(), OutOfRange> {
    // Beyond this the incomplete beta function does not converge any more, and nobody drills that often.
    const DRILLS_MAX: u32 = 1_000_000;
    range::count("passed drills", passed, 0, DRILLS_MAX)?;
    range::count("failed drills", failed, 0, DRILLS_MAX)?;
    if passed == 0 && failed == 0 { Err(OutOfRange::new("number of drills", 0, "1 or more")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The chance of at most `failed` failures: a sum without special functions.
    fn at_most(failed: u32, drills: u32, gap: f64) -> f64 {
        let mut term = (f64::from(drills) * f64::ln_1p(-gap)).exp();
        let mut sum = term;
        for i in 1..=failed {
            term *= f64::from(drills - i + 1) / f64::from(i) * gap / (1.0 - gap);
            sum += term;
        }
        sum
    }

    #[test]
    fn the_bound_is_where_so_few_failures_become_unlikely() {
        for (passed, failed) in [(97, 3), (9, 1), (1, 1), (5000, 2), (3, 7), (20_000, 30), (999_999, 1), (900_000, 400)]
        {
            let bound = coverage_lower_bound(passed, failed, 0.95).unwrap();
            let chance = at_most(failed, passed + failed, 1.0 - bound);
            assert!((chance / 0.05 - 1.0).abs() < 1e-6, "{passed} {failed}: {bound} {chance}");
        }
    }

    #[test]
    fn clean_drills() {
        assert_eq!(clean_drills_to_prove(0.05, 0.95), Ok(59.0));
        assert_eq!(clean_drills_to_prove(0.01, 0.95), Ok(299.0));
        assert_eq!(clean_drills_to_prove(0.001, 0.95), Ok(2995.0));
        assert!(coverage_lower_bound(299, 0, 0.95).unwrap() >= 0.99);
        assert!(coverage_lower_bound(298, 0, 0.95).unwrap() < 0.99);
        assert_eq!(coverage_lower_bound(0, 5, 0.95), Ok(0.0));
    }

    #[test]
    fn no_failures_still_bound_the_rate() {
        let quiet = estimate_rate(0, 1000.0, 0.95).unwrap();
        assert_eq!((quiet.mle_per_h, quiet.lower), (0.0, 0.0));
        assert!((quiet.upper - 2.9957e-3).abs() < 1e-6, "the rule of three: {quiet:?}");
        assert!(quiet.jeffreys.0 > 0.0 && quiet.jeffreys.0 < quiet.jeffreys_mean);
    }

    #[test]
    fn intervals_hold_their_estimates_and_shrink() {
        let (few, many) = (estimate_rate(3, 1e4, 0.95).unwrap(), estimate_rate(EVENTS_MAX, 1e9, 0.95).unwrap());
        assert!(few.lower < few.mle_per_h && few.mle_per_h < few.upper);
        assert!((many.upper / many.lower - 1.0) < 2e-4 && many.lower < 1.0 && many.upper > 1.0, "{many:?}");
        let (low, high) = coverage_interval(97, 3, 0.9).unwrap();
        assert!(low < 0.97 && high > 0.97 && high < 1.0, "{low} {high}");
    }

    #[test]
    fn wrong_inputs_are_named() {
        for hours in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(estimate_rate(1, hours, 0.95).unwrap_err().what, "hours");
        }
        assert_eq!(estimate_rate(1, 1.0, 1.0).unwrap_err().what, "level");
        assert_eq!(estimate_rate(u32::MAX, 1.0, 0.9).unwrap_err().what, "failures");
        assert_eq!(coverage_lower_bound(0, 0, 0.95).unwrap_err().what, "number of drills");
        assert_eq!(coverage_lower_bound(1, 0, 0.0).unwrap_err().what, "confidence");
        assert!(coverage_interval(u32::MAX, 1, 0.9).is_err() && clean_drills_to_prove(0.0, 0.9).is_err());
    }
}
