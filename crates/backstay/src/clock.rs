//! The one place of this crate that reads a clock.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the machine started, sleep included: CLOCK_BOOTTIME. The same for all processes of a machine.
pub fn boottime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    // Never negative on Linux; a clock that says otherwise is at its start.
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// [`boottime`] in whole nanoseconds.
pub fn boottime_ns() -> u64 {
    u64::try_from(boottime().as_nanos()).unwrap_or(u64::MAX)
}
