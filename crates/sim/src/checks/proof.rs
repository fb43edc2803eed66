//! S5: a role whose holder gives no proof of life is lost, hung or not.

use crate::clock::SECOND;

/// `proof_within`, one lease, and a second for rounds and rates.
const LOST_WITHIN: u64 = 14 * SECOND;

/// An instance of an exclusive role has been hung since one reading of its node's clock, and lives at another.
pub(crate) fn of_life(since: u64, reading: u64, key: &str) -> Result<(), String> {
    let hung = reading.saturating_sub(since);
    if hung > LOST_WITHIN {
        return Err(format!("S5: {key} is held by an instance without proof of life for {} s", hung / SECOND));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hang_is_borne_for_proof_within_and_a_lease() {
        assert!(of_life(SECOND, 15 * SECOND, "k").is_ok());
        assert!(of_life(SECOND, 15 * SECOND + 1, "k").is_err());
    }
}
