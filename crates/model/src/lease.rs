//! Lease deadlines: when a holder must have stopped, and when the store may give the role to another.
//!
//! The two sides count from different instants and in opposite directions, so that the holder is always first
//! (DESIGN S3). The holder counts from before it *sent* the renewal that was acknowledged and takes a margin off;
//! the store counts from when it *applied* that renewal and adds one. Sending happens before applying, so the
//! holder's deadline lies before that of every voter as long as clock rates differ by less than the margins allow.
//!
//! Instants are nanoseconds on the reader's own `CLOCK_BOOTTIME`; no instant ever crosses a machine.

use std::time::Duration;

/// The lease of sessions and grants on a LAN (S3).
pub const LAN: Duration = Duration::from_secs(3);
/// The least a holder takes off its lease (S3).
pub const HOLDER_MARGIN_LEAST: Duration = Duration::from_millis(100);
/// The share of the lease that a holder takes off, as a divisor: one tenth (S3).
pub const HOLDER_MARGIN_DIVISOR: u32 = 10;
/// The share of the lease that the store adds, as a divisor: one hundredth, for clock rates (S3).
pub const STORE_MARGIN_DIVISOR: u32 = 100;
/// What the store adds besides, for scheduling (S3).
pub const STORE_MARGIN_FIXED: Duration = Duration::from_millis(50);

/// What a holder takes off a lease of this length: the larger of 100 ms and 10 % (S3).
#[must_use]
pub fn holder_margin(ttl: Duration) -> Duration {
    (ttl / HOLDER_MARGIN_DIVISOR).max(HOLDER_MARGIN_LEAST)
}

/// When a holder must have stopped: `sent_ns` + ttl − the larger of 100 ms and 10 % (S3).
///
/// `sent_ns` is the holder's own clock, read *before* it sent the renewal that was then acknowledged. A lease no
/// longer than its margin never runs: the deadline is then `sent_ns` itself.
#[must_use]
pub fn holder_deadline_ns(sent_ns: u64, ttl: Duration) -> u64 {
    sent_ns.saturating_add(nanos(ttl.saturating_sub(holder_margin(ttl))))
}

/// From when on the store may end a lease: `applied_ns` + ttl × 1.01 + 50 ms (S3).
///
/// `applied_ns` is the voter's own clock, read when it applied the renewal.
#[must_use]
pub fn store_deadline_ns(applied_ns: u64, ttl: Duration) -> u64 {
    let full = ttl.saturating_add(ttl / STORE_MARGIN_DIVISOR).saturating_add(STORE_MARGIN_FIXED);
    applied_ns.saturating_add(nanos(full))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn three_seconds_lose_a_tenth_and_gain_a_hundredth() {
        let ttl = Duration::from_secs(3);
        assert_eq!(holder_deadline_ns(SECOND_NS, ttl), SECOND_NS + 2_700_000_000);
        assert_eq!(store_deadline_ns(SECOND_NS, ttl), SECOND_NS + 3_080_000_000);
    }

    #[test]
    fn short_leases_lose_at_least_100_ms() {
        assert_eq!(holder_deadline_ns(0, Duration::from_millis(500)), 400_000_000);
        assert_eq!(holder_deadline_ns(7, Duration::from_millis(60)), 7, "a lease within its margin never runs");
    }

    #[test]
    fn nothing_overflows() {
        assert_eq!(holder_deadline_ns(u64::MAX, Duration::MAX), u64::MAX);
        assert_eq!(store_deadline_ns(u64::MAX, Duration::MAX), u64::MAX);
    }
}
