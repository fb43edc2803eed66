//! Quantiles of the gamma and beta distributions, to the last digits of a float.
//!
//! The distribution functions are those of `statrs`; they are inverted here by Newton steps in ln x, kept within a bracket,
//! because the error of a general inverse would be visible in the interval of a measured rate.

use statrs::function::beta::{beta_reg, ln_beta};
use statrs::function::gamma::{gamma_lr, gamma_ur, ln_gamma};

/// Steps after which a search gives up being more exact; each at least halves the bracket.
const STEPS_MAX: u32 = 200;

/// The x below which a gamma variable of this shape and scale 1 lies with probability `p`. Callers pass a positive
/// shape and 0 < p < 1.
pub(super) fn gamma(shape: f64, p: f64) -> f64 {
    // P(a, x) ≤ xᵃ/Γ(a + 1), so that the quantile lies above this.
    let least = (p.ln() + ln_gamma(shape + 1.0)) / shape;
    let density = |ln_x: f64| (shape * ln_x - ln_x.exp() - ln_gamma(shape)).exp();
    // The smaller tail is compared, which keeps its digits.
    let excess = |ln_x: f64| {
        let x = ln_x.exp().max(f64::MIN_POSITIVE);
        if p < 0.5 { gamma_lr(shape, x) - p } else { (1.0 - p) - gamma_ur(shape, x) }
    };
    let mut most = least.max(shape.ln()) + 1.0;
    while excess(most) < 0.0 {
        most += 1.0;
    }
    root(excess, density, least, most).exp()
}

/// The x below which a beta variable lies with probability `p`. Callers pass positive a and b and 0 < p < 1.
pub(super) fn beta(a: f64, b: f64, p: f64) -> f64 {
    let excess = |ln_x: f64| beta_reg(a, b, ln_x.exp().min(1.0)) - p;
    let density = |ln_x: f64| (a * ln_x + (b - 1.0) * (-ln_x.exp()).ln_1p() - ln_beta(a, b)).exp();
    // I_x(a, b) ≤ xᵃ/(a·B(a, b)) for b ≥ 1; below that the bracket starts far enough down.
    let least = if b >= 1.0 { ((p.ln() + a.ln() + ln_beta(a, b)) / a).min(0.0) } else { p.ln() / a.min(1.0) - 100.0 };
    root(excess, density, least - 1e-9, 0.0).exp().min(1.0)
}

/// Where a growing function crosses zero between `low` and `high`.
fn root(value: impl Fn(f64) -> f64, slope: impl Fn(f64) -> f64, mut low: f64, mut high: f64) -> f64 {
    let mut x = 0.5 * (low + high);
    for _ in 0..STEPS_MAX {
        let at = value(x);
        let newton = x - at / slope(x);
        if (newton - x).abs() <= f64::EPSILON * x.abs() {
            return x;
        }
        if at < 0.0 {
            low = x;
        } else {
            high = x;
        }
        x = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_and_power_have_closed_forms() {
        for p in [1e-6, 0.025, 0.3, 0.5, 0.7, 0.975, 0.999_999] {
            let closed = -f64::ln_1p(-p);
            assert!((gamma(1.0, p) / closed - 1.0).abs() < 1e-13, "{p}");
            for a in [0.5, 1.0, 17.0, 3000.0] {
                let closed = f64::powf(p, 1.0 / a);
                assert!((beta(a, 1.0, p) / closed - 1.0).abs() < 1e-12, "{p} {a}: {} {closed}", beta(a, 1.0, p));
            }
        }
    }

    #[test]
    fn the_inverse_comes_back() {
        for shape in [0.5, 2.0, 3.5, 40.0, 1e4, 1e6] {
            for p in [1e-4, 0.05, 0.5, 0.95, 0.9999] {
                assert!((gamma_lr(shape, gamma(shape, p)) - p).abs() < 1e-8, "{shape} {p}");
            }
        }
        for (a, b) in [(0.5, 0.5), (97.0, 4.0), (300.5, 0.5), (1.0, 1e6), (0.5, 300.5), (5000.0, 4.0)] {
            for p in [1e-4, 0.05, 0.5, 0.95] {
                assert!((beta_reg(a, b, beta(a, b, p)) - p).abs() < 1e-10, "{a} {b} {p}");
            }
        }
    }
}
