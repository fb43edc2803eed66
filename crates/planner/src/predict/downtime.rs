//! Unavailability and what people call it: outages a year, minutes a year, nines.
//!
//! All arithmetic is on the unavailability U, never on the availability 1 − U: subtracting from one throws away the very
//! digits that are asked for. The complement appears only in text, and there in decimal.

use statrs::function::gamma::gamma_lr;

use super::range::{self, OutOfRange};

/// Hours of the year that every figure "per year" is counted on.
pub const HOURS_PER_YEAR: f64 = 8760.0;

/// The long run of something that is either up or down.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Downtime {
    /// Part of the time that it is down.
    pub unavailability: f64,
    /// How often it goes down, per hour.
    pub outages_per_h: f64,
}

impl Downtime {
    /// How often it goes down, per year of 8760 h.
    pub fn outages_per_year(&self) -> f64 {
        self.outages_per_h * HOURS_PER_YEAR
    }

    /// Minutes that it is down, per year of 8760 h.
    pub fn minutes_per_year(&self) -> f64 {
        minutes_per_year(self.unavailability)
    }

    /// How long one outage lasts on average, in hours; none when there is never one.
    pub fn mean_outage_h(&self) -> Option<f64> {
        (self.outages_per_h > 0.0).then(|| self.unavailability / self.outages_per_h)
    }
}

/// Minutes down per year of 8760 h.
pub fn minutes_per_year(unavailability: f64) -> f64 {
    unavailability * HOURS_PER_YEAR * 60.0
}

/// How many nines: −log₁₀ U; 99.95 % has 3.3. Infinite for what is never down.
pub fn nines(unavailability: f64) -> f64 {
    -unavailability.log10()
}

/// The unavailability of things in series, each needed: −expm1(Σ ln(1 − uᵢ)), which keeps the digits of small uᵢ.
///
/// # Errors
/// When one of them is no probability.
pub fn series(unavailabilities: &[f64]) -> Result<f64, OutOfRange> {
    let mut log_up = 0.0;
    for &u in unavailabilities {
        log_up += (-range::fraction("unavailability", u)?).ln_1p();
    }
    Ok(-log_up.exp_m1())
}

/// The unavailability of independent things of which one suffices: ∏ uᵢ; of none at all it is 1.
///
/// # Errors
/// When one of them is no probability.
pub fn parallel(unavailabilities: &[f64]) -> Result<f64, OutOfRange> {
    unavailabilities.iter().try_fold(1.0, |product, &u| Ok(product * range::fraction("unavailability", u)?))
}

/// The probability of at least `at_least` outages within a year that has `outages_per_year` on average (Poisson).
///
/// # Errors
/// When the average is negative or not finite.
pub fn probability_of_outages(outages_per_year: f64, at_least: u32) -> Result<f64, OutOfRange> {
    let mean = range::amount("outages_per_year", outages_per_year)?;
    Ok(match at_least {
        0 => 1.0,
        _ if mean == 0.0 => 0.0,
        // The tail of a Poisson sum is a regularised gamma function: no subtraction from one.
        _ => gamma_lr(f64::from(at_least), mean),
    })
}

/// The unavailability that an availability leaves, from its decimal text: `"0.9995"` or `"99.95%"`.
///
/// The complement is taken digit by digit, so that `"99.99999%"` means 10⁻⁷ and not what 1 − 0.9999999 rounds to.
///
/// # Errors
/// When the text is not a plain decimal number from 0 to 1, or from 0 % to 100 %.
pub fn unavailability_of(availability: &str) -> Result<f64, OutOfRange> {
    const DIGITS_MAX: usize = 30;
    let wrong = || OutOfRange::new("availability", availability, "a decimal from 0 to 1, or from 0% to 100%");
    let text = availability.trim();
    let (number, places) = text.strip_suffix('%').map_or((text, 0), |number| (number.trim_end(), 2));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if whole.is_empty() || digits.len() > DIGITS_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    // DIGITS_MAX digits fit; so does the power of ten they are a part of.
    let exponent = fraction.len() + places;
    let (part, one) = (digits.parse::<u128>().map_err(|_| wrong())?, 10_u128.pow(exponent as u32));
    let rest = one.checked_sub(part).ok_or_else(wrong)?;
    format!("{rest}e-{exponent}").parse().map_err(|_| wrong())
}

/// An availability in percent with two digits behind its nines: `99.9975 %`.
pub fn availability_text(unavailability: f64) -> String {
    const DIGITS_MAX: usize = 16;
    if unavailability <= 0.0 {
        return "100 %".to_owned();
    }
    let places = (nines(unavailability).clamp(2.0, DIGITS_MAX as f64)) as usize;
    // Decimal, because 1 − U in binary would round the nines away.
    let units = (unavailability.clamp(0.0, 1.0) * 10_f64.powi(places as i32 + 2)).round();
    let one = 10_u128.pow(places as u32 + 2);
    let rest = one.saturating_sub(units as u128);
    let scale = 10_u128.pow(places as u32);
    format!("{}.{:0places$} %", rest / scale, rest % scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_complements_are_exact() {
        for (text, u) in
            [("0.9", 0.1), ("99.99%", 1e-4), ("0.999999", 1e-6), ("99.9999999 %", 1e-9), ("1", 0.0), ("0%", 1.0)]
        {
            assert_eq!(unavailability_of(text), Ok(u), "{text}");
        }
        for bad in ["", "1.1", "100.1%", "-0.1", "0.9e1", ".5", "nan", "99,9%", "0x1", "9".repeat(40).as_str()] {
            assert!(unavailability_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn availability_is_written_with_its_nines() {
        for (u, text) in [
            (1e-4, "99.9900 %"),
            (2.5e-5, "99.9975 %"),
            (0.0, "100 %"),
            (1.0, "0.00 %"),
            (0.13, "87.00 %"),
            (1.2e-9, "99.99999988 %"),
        ] {
            assert_eq!(availability_text(u), text, "{u}");
        }
    }

    #[test]
    fn years_without_outages_have_no_outage() {
        assert_eq!(probability_of_outages(0.0, 1), Ok(0.0));
        assert_eq!(probability_of_outages(3.0, 0), Ok(1.0));
        let some = probability_of_outages(2.19, 1).unwrap();
        assert!((some - -(-2.19_f64).exp_m1()).abs() < 1e-15, "{some}");
        assert!(probability_of_outages(-1.0, 1).is_err() && probability_of_outages(f64::NAN, 1).is_err());
        assert_eq!(probability_of_outages(1e9, 1), Ok(1.0));
    }

    #[test]
    fn nothing_in_series_or_parallel() {
        assert_eq!(series(&[]), Ok(0.0));
        assert_eq!(parallel(&[]), Ok(1.0));
        assert_eq!(series(&[1.0, 0.5]), Ok(1.0));
        assert_eq!(series(&[1e-18]), Ok(1e-18), "no digit is lost");
        assert!(series(&[1.5]).is_err() && parallel(&[-0.1]).is_err());
    }

    #[test]
    fn what_never_fails_has_no_mean_outage() {
        assert_eq!(Downtime::default().mean_outage_h(), None);
        assert_eq!(nines(0.0), f64::INFINITY);
    }
}
