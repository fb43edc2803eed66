//! The only place that reads the clock. CLOCK_BOOTTIME counts through suspend, so an instant that passed while the machine slept
//! has passed.

use rustix::time::{ClockId, clock_gettime};

/// Now, in nanoseconds on CLOCK_BOOTTIME of this machine: the clock of every `valid_until` in a table.
pub fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// Milliseconds of an instant in nanoseconds: the unit of the lazy timers.
pub(crate) fn ms(ns: u64) -> u64 {
    ns / 1_000_000
}
