//! How many units a promise takes, and how many sets of nodes share all of some data.

use statrs::function::gamma::ln_gamma;

use super::range::{self, OutOfRange};

/// The fewest units, spread evenly over `domains`, of which `need` are left when any `losses` of the domains are lost.
///
/// N + ⌈N/(D − 1)⌉ for one loss: the rule behind 3N/2 over three zones and 4N/3 over four (availability.md §1.5).
///
/// # Errors
/// When there are not more domains than losses, or nothing is needed.
pub fn units_to_survive(need: u32, domains: u32, losses: u32) -> Result<u64, OutOfRange> {
    range::count("need", need, 1, u32::MAX)?;
    let least = losses.checked_add(1).ok_or_else(|| OutOfRange::new("losses", losses, "less than the domains"))?;
    range::count("domains", domains, least, u32::MAX)?;
    let left = domains - losses;
    let (each, rest) = (u64::from(need / left), u64::from(need % left));
    // The fullest domains are the ones to be lost, so that what does not divide is only worth having beyond them.
    let uneven = if rest > 0 { u64::from(losses) + rest } else { 0 };
    Ok(u64::from(domains) * each + uneven)
}

/// The probability that, of `nodes` nodes, a random loss of `failed` takes all `copies` copies of some data which lies on
/// `copysets` different sets of nodes: 1 − (1 − C(f, R)/C(N, R))ˢ (Cidon et al., Copysets, USENIX ATC 2013).
///
/// # Errors
/// When there are more copies or failures than nodes, or the number of sets is negative or not finite.
pub fn copyset_loss(nodes: u32, copies: u32, failed: u32, copysets: f64) -> Result<f64, OutOfRange> {
    range::count("nodes", nodes, 1, u32::MAX)?;
    range::count("copies", copies, 1, nodes)?;
    range::count("failed", failed, 0, nodes)?;
    range::amount("copysets", copysets)?;
    if copies > failed {
        return Ok(0.0);
    }
    const FACTORS_MAX: u32 = 1000;
    let all_in_one = if copies <= FACTORS_MAX {
        (0..copies).map(|i| f64::from(failed - i) / f64::from(nodes - i)).product()
    } else {
        let ln_choose = |of: u32| ln_gamma(f64::from(of) + 1.0) - ln_gamma(f64::from(of - copies) + 1.0);
        (ln_choose(failed) - ln_choose(nodes)).exp()
    };
    Ok(-(copysets * f64::ln_1p(-all_in_one)).exp_m1())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left when the fullest domains go.
    fn left(units: u64, domains: u64, losses: u64) -> u64 {
        let (each, uneven) = (units / domains, units % domains);
        units - losses * each - losses.min(uneven)
    }

    #[test]
    fn it_is_enough_and_one_less_is_not() {
        for need in 1..30 {
            for domains in 2..9 {
                for losses in 0..domains {
                    let units = units_to_survive(need, domains, losses).unwrap();
                    let left_of = |units| left(units, u64::from(domains), u64::from(losses));
                    assert!(left_of(units) >= u64::from(need), "{need} {domains} {losses}");
                    assert!(left_of(units - 1) < u64::from(need), "{need} {domains} {losses}");
                }
            }
        }
    }

    #[test]
    fn the_impossible_is_named() {
        assert_eq!(
            units_to_survive(4, 1, 1).unwrap_err().to_string(),
            "domains is 1, but must be from 2 to 4294967295"
        );
        assert!(units_to_survive(0, 2, 1).is_err() && units_to_survive(1, 2, u32::MAX).is_err());
        assert_eq!(units_to_survive(u32::MAX, u32::MAX, 0), Ok(u64::from(u32::MAX)));
        assert!(copyset_loss(3, 4, 1, 1.0).is_err() && copyset_loss(3, 2, 4, 1.0).is_err());
        assert!(copyset_loss(3, 2, 2, f64::NAN).is_err());
    }

    #[test]
    fn copysets_at_their_limits() {
        assert_eq!(copyset_loss(10, 3, 2, 100.0), Ok(0.0), "too few failed");
        assert_eq!(copyset_loss(10, 3, 10, 1.0), Ok(1.0), "all failed");
        let (short, long) =
            (copyset_loss(5000, 1000, 4999, 1.0).unwrap(), copyset_loss(5000, 1001, 4999, 1.0).unwrap());
        assert!((long / short - 3999.0 / 4000.0).abs() < 1e-9, "both formulas agree: {short} {long}");
    }
}
