//! The only place of this crate that reads a clock. Everything is CLOCK_BOOTTIME, which counts on through a suspend and
//! cannot be set: a deadline that passed while the machine slept has passed.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Now, in nanoseconds since the machine started, on CLOCK_BOOTTIME.
#[must_use]
pub fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(SECOND_NS).saturating_add(nanos)
}

/// The instant `after` from now, in nanoseconds on CLOCK_BOOTTIME; saturates at the end of the clock.
#[must_use]
pub fn boottime_ns_after(after: Duration) -> u64 {
    boottime_ns().saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX))
}

/// An instant or a span in nanoseconds as the kernel wants it.
pub(crate) fn timespec(ns: u64) -> Timespec {
    Timespec { tv_sec: i64::try_from(ns / SECOND_NS).unwrap_or(i64::MAX), tv_nsec: (ns % SECOND_NS) as _ }
}

/// A descriptor that becomes readable at the instant it is set to, also if that passed during a suspend.
pub(crate) fn timer() -> io::Result<OwnedFd> {
    Ok(timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?)
}

/// Sets a timer to an instant on CLOCK_BOOTTIME in ns, or to never.
pub(crate) fn set_timer(timer: &OwnedFd, at_boottime_ns: Option<u64>) -> io::Result<()> {
    // Zero would mean never.
    let at = at_boottime_ns.map_or(0, |at| at.max(1));
    let value = Itimerspec { it_interval: timespec(0), it_value: timespec(at) };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &value)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boottime_moves_forward_and_after_adds() {
        let first = boottime_ns();
        let later = boottime_ns_after(Duration::from_secs(5));
        assert!(first > 0);
        assert!(later >= first + 5 * SECOND_NS);
        assert_eq!(boottime_ns_after(Duration::MAX), u64::MAX);
    }

    #[test]
    fn spans_split_into_seconds_and_nanoseconds() {
        let t = timespec(3 * SECOND_NS + 7);
        assert_eq!((t.tv_sec, t.tv_nsec as u64), (3, 7));
    }
}
