//! The one place of this crate that reads a clock.
//!
//! Decisions, back-off and ages rest on CLOCK_BOOTTIME, which goes on through suspend and ignores steps of the wall clock.
//! The wall clock is for what people read and for the validity of certificates; it decides nothing else.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use backstay_model::Instant;
use rustix::time::{ClockId, clock_gettime};

/// Now, on this machine's CLOCK_BOOTTIME.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Instant(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// The wall clock, as time since 1970-01-01 UTC: for display and certificates only. Zero when it stands before 1970.
#[allow(clippy::disallowed_methods, reason = "this is the clock module, and display is what it is for")]
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boottime_never_goes_back() {
        let first = now();
        assert!(first > Instant::default());
        assert!(now() >= first);
    }

    #[test]
    fn the_wall_clock_is_past_the_year_2020() {
        assert!(wall() > Duration::from_secs(1_577_836_800));
    }
}
