//! How long one recovery takes, as a distribution, and what becomes of spares that nobody tries.

use super::range::{self, OutOfRange};

/// What a failover consists of: silence noticed, decision, fencing, promotion.
///
/// A beat is missed `misses` times in a row before anybody believes it, and the failure falls anywhere between two
/// beats: detection takes misses · heartbeat − U(0, heartbeat). Promotion is exponential (availability.md §2.10).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecoveryTime {
    /// Seconds between two beats.
    pub heartbeat_s: f64,
    /// Beats missed before a node counts as lost.
    pub misses: u32,
    /// Seconds to decide.
    pub elect_s: f64,
    /// Seconds to fence the former holder.
    pub fence_s: f64,
    /// Mean seconds to promote and replay.
    pub promote_mean_s: f64,
}

impl RecoveryTime {
    /// Its mean, in seconds.
    ///
    /// # Errors
    /// Names the field that is out of its range.
    pub fn mean_s(&self) -> Result<f64, OutOfRange> {
        Ok(self.least_s()? + 0.5 * self.heartbeat_s + self.promote_mean_s)
    }

    /// The probability that it takes at most so many seconds.
    ///
    /// # Errors
    /// Names the field that is out of its range.
    pub fn within(&self, seconds: f64) -> Result<f64, OutOfRange> {
        range::amount("seconds", seconds)?;
        let past = seconds - self.least_s()?;
        Ok(if past < 0.0 { 0.0 } else { 1.0 - self.longer_than(past) })
    }

    /// The seconds within which it is over with probability `p`, such as 0.99.
    ///
    /// # Errors
    /// Names the field that is out of its range.
    pub fn quantile_s(&self, p: f64) -> Result<f64, OutOfRange> {
        range::open_fraction("quantile", p)?;
        let least = self.least_s()?;
        let (mut low, mut high) = (0.0, self.heartbeat_s + self.promote_mean_s * 800.0);
        // Halving down to neighbouring floats.
        while low < 0.5 * (low + high) && 0.5 * (low + high) < high {
            let middle = 0.5 * (low + high);
            if self.longer_than(middle) > 1.0 - p {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(least + high)
    }

    /// The shortest it can be.
    fn least_s(&self) -> Result<f64, OutOfRange> {
        for (what, seconds) in [
            ("heartbeat", self.heartbeat_s),
            ("elect", self.elect_s),
            ("fence", self.fence_s),
            ("promote_mean", self.promote_mean_s),
        ] {
            range::delay(what, seconds)?;
        }
        range::count("misses", self.misses, 1, u32::MAX)?;
        Ok(f64::from(self.misses - 1) * self.heartbeat_s + self.elect_s + self.fence_s)
    }

    /// The probability that the random part, U(0, heartbeat) + Exp(promote), exceeds so many seconds.
    fn longer_than(&self, seconds: f64) -> f64 {
        let (beat, mean) = (self.heartbeat_s, self.promote_mean_s);
        let tail = |t: f64| if mean > 0.0 { (-t / mean).exp() } else { 0.0 };
        if beat == 0.0 {
            return tail(seconds);
        }
        let still_beating = (beat - seconds).max(0.0);
        let beaten = beat - still_beating;
        // ∫ over the beat's part that is past of P(Exp > rest) dt, and all of the part that is not.
        let promoting = if mean > 0.0 { mean * tail(seconds - beaten) * -(-beaten / mean).exp_m1() } else { 0.0 };
        (still_beating + promoting) / beat
    }
}

/// The probability that a spare has died unnoticed by the time it is needed: 1 − (1 − e⁻ˣ)/x with x = interval/MTTF,
/// its failures being seen only by a drill every `drilled_every_h` hours (the PFDavg form of IEC 61508-6).
///
/// # Errors
/// When a time is out of its range.
pub fn latent_probability(mttf_h: f64, drilled_every_h: f64) -> Result<f64, OutOfRange> {
    let x = range::failure_rate("latent_mttf", mttf_h)? * range::delay("drilled_every", drilled_every_h)?;
    // Below this the difference of the two loses digits, and two terms of the series are exact.
    const SMALL: f64 = 1e-5;
    Ok(if x < SMALL { x / 2.0 - x * x / 6.0 } else { 1.0 + (-x).exp_m1() / x })
}

/// The same when drills come at random, once in `drilled_every_h` on average: x/(1 + x).
///
/// # Errors
/// When a time is out of its range.
pub fn latent_probability_random(mttf_h: f64, drilled_every_h: f64) -> Result<f64, OutOfRange> {
    let x = range::failure_rate("latent_mttf", mttf_h)? * range::delay("drilled_every", drilled_every_h)?;
    Ok(x / (1.0 + x))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: RecoveryTime =
        RecoveryTime { heartbeat_s: 1.0, misses: 3, elect_s: 1.0, fence_s: 2.0, promote_mean_s: 5.0 };

    #[test]
    fn the_quantile_is_where_the_distribution_says() {
        for p in [0.001, 0.05, 0.1, 0.5, 0.9, 0.99, 0.999_999] {
            let at = EXAMPLE.quantile_s(p).unwrap();
            assert!((EXAMPLE.within(at).unwrap() - p).abs() < 1e-12, "{p}: {at}");
        }
        assert_eq!(EXAMPLE.within(4.9), Ok(0.0), "two beats, the decision and the fence have to pass");
    }

    #[test]
    fn parts_may_be_missing() {
        let fixed = RecoveryTime { heartbeat_s: 0.0, promote_mean_s: 0.0, ..EXAMPLE };
        assert_eq!((fixed.mean_s(), fixed.quantile_s(0.99)), (Ok(3.0), Ok(3.0)));
        assert_eq!((fixed.within(2.9), fixed.within(3.0)), (Ok(0.0), Ok(1.0)));
        let uniform = RecoveryTime { promote_mean_s: 0.0, ..EXAMPLE };
        assert_eq!(uniform.quantile_s(0.5), Ok(5.5));
        let exponential = RecoveryTime { heartbeat_s: 0.0, ..EXAMPLE };
        assert!((exponential.quantile_s(0.5).unwrap() - (3.0 + 5.0 * 2_f64.ln())).abs() < 1e-12);
    }

    #[test]
    fn wrong_inputs_are_named() {
        assert_eq!(RecoveryTime { misses: 0, ..EXAMPLE }.mean_s().unwrap_err().what, "misses");
        assert_eq!(RecoveryTime { fence_s: f64::NAN, ..EXAMPLE }.within(1.0).unwrap_err().what, "fence");
        assert!(EXAMPLE.quantile_s(1.0).is_err() && EXAMPLE.within(-1.0).is_err());
        assert!(latent_probability(0.0, 1.0).is_err() && latent_probability(1.0, f64::NAN).is_err());
    }

    #[test]
    fn short_and_long_intervals_meet() {
        let x = |x: f64| latent_probability(1e6, x * 1e6).unwrap();
        assert!((x(1.000_001e-5) / x(0.999_999e-5) - 1.000_002).abs() < 1e-9, "no step where the formula changes");
        assert_eq!(latent_probability(f64::INFINITY, 720.0), Ok(0.0));
        assert!(x(1e3) > 0.998 && x(1e-9) == 5e-10 - 1e-18 / 6.0);
    }
}
