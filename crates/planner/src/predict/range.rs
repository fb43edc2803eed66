//! The ranges of inputs, and the error that names the one outside its range.
//!
//! Rates are checked once, at the door: behind it no division meets a zero and no sum meets a NaN, so the kernels stay
//! formulas.

use std::fmt;

/// The longest mean time to failure that is told from "never": 10¹² hours.
pub const MTTF_MAX_H: f64 = 1e12;
/// The longest repair, failover or recovery: 10⁹ hours, longer than anything that is still maintained.
pub const DELAY_MAX_H: f64 = 1e9;
/// The shortest mean time that counts as one: 10⁻⁹ hours, a few microseconds.
pub const TIME_MIN_H: f64 = 1e-9;
/// The most units that the closed forms take.
pub const UNITS_MAX: u32 = 1_000_000;

/// An input outside its range: which, what it was, and what it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfRange {
    /// The input, as the struct that holds it calls it.
    pub what: String,
    /// What was given.
    pub value: String,
    /// What is permitted.
    pub permitted: String,
}

impl OutOfRange {
    /// For inputs whose range depends on others.
    pub fn new(what: impl Into<String>, value: impl fmt::Display, permitted: impl Into<String>) -> Self {
        Self { what: what.into(), value: value.to_string(), permitted: permitted.into() }
    }
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, but must be {}", self.what, self.value, self.permitted)
    }
}

impl std::error::Error for OutOfRange {}

/// Mean time to failure in hours → failures per hour; infinity means that it never fails.
pub(super) fn failure_rate(what: &str, mttf_h: f64) -> Result<f64, OutOfRange> {
    let permitted = "more than 0 h, at most 10¹² h, or infinite for what never fails";
    let fits = mttf_h == f64::INFINITY || (TIME_MIN_H..=MTTF_MAX_H).contains(&mttf_h);
    if fits { Ok(mttf_h.recip()) } else { Err(OutOfRange::new(what, Hours(mttf_h), permitted)) }
}

/// Mean time to repair in hours → repairs per hour.
pub(super) fn repair_rate(what: &str, mttr_h: f64) -> Result<f64, OutOfRange> {
    let fits = (TIME_MIN_H..=DELAY_MAX_H).contains(&mttr_h);
    if fits { Ok(mttr_h.recip()) } else { Err(OutOfRange::new(what, Hours(mttr_h), "more than 0 h, at most 10⁹ h")) }
}

/// A time that may be nothing at all.
pub(super) fn delay(what: &str, hours: f64) -> Result<f64, OutOfRange> {
    let fits = (0.0..=DELAY_MAX_H).contains(&hours);
    if fits { Ok(hours) } else { Err(OutOfRange::new(what, Hours(hours), "from 0 h to 10⁹ h")) }
}

/// A probability, or the part of something.
pub(super) fn fraction(what: &str, value: f64) -> Result<f64, OutOfRange> {
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(OutOfRange::new(what, value, "from 0 to 1")) }
}

/// A probability that leaves both outcomes open: a confidence, a quantile.
pub(super) fn open_fraction(what: &str, value: f64) -> Result<f64, OutOfRange> {
    let fits = value > 0.0 && value < 1.0;
    if fits { Ok(value) } else { Err(OutOfRange::new(what, value, "between 0 and 1, both ends excluded")) }
}

/// A finite number that is not negative.
pub(super) fn amount(what: &str, value: f64) -> Result<f64, OutOfRange> {
    let fits = (0.0..=f64::MAX).contains(&value);
    if fits { Ok(value) } else { Err(OutOfRange::new(what, value, "a finite number, not negative")) }
}

/// A number of things.
pub(super) fn count(what: &str, value: u32, least: u32, most: u32) -> Result<u32, OutOfRange> {
    let fits = (least..=most).contains(&value);
    if fits { Ok(value) } else { Err(OutOfRange::new(what, value, format!("from {least} to {most}"))) }
}

struct Hours(f64);

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} h", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_no_number_passes() {
        for value in [f64::NAN, f64::NEG_INFINITY, -1.0] {
            assert!(failure_rate("mttf", value).is_err() && repair_rate("mttr", value).is_err(), "{value}");
            assert!(delay("failover", value).is_err() && fraction("coverage", value).is_err(), "{value}");
            assert!(amount("price", value).is_err() && open_fraction("level", value).is_err(), "{value}");
        }
        assert!(repair_rate("mttr", f64::INFINITY).is_err() && amount("price", f64::INFINITY).is_err());
        assert_eq!(failure_rate("mttf", f64::INFINITY), Ok(0.0), "what never fails has no rate");
    }

    #[test]
    fn the_error_says_who_what_and_why() {
        let error = fraction("coverage", 1.2).unwrap_err();
        assert_eq!(error.to_string(), "coverage is 1.2, but must be from 0 to 1");
        let error = count("k", 4, 1, 3).unwrap_err();
        assert_eq!(error.to_string(), "k is 4, but must be from 1 to 3");
    }
}
