//! The one place of this crate that reads a clock or takes randomness.
//!
//! Lease arithmetic uses CLOCK_BOOTTIME, which goes on through suspend; timers of the runtime do not, so everything
//! that waits for a deadline reads this clock again after it wakes (S3).

use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// Nanoseconds of CLOCK_BOOTTIME.
#[must_use]
pub fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// How long ago `earlier_ns` of this clock was.
#[must_use]
pub fn since_ns(earlier_ns: u64) -> Duration {
    Duration::from_nanos(boot_ns().saturating_sub(earlier_ns))
}

/// An instant of the runtime's timers, for waits. It stands still in suspend: never for leases.
#[must_use]
#[allow(clippy::disallowed_methods)]
pub fn timer_now() -> Instant {
    Instant::now()
}

/// A random number that is not 0, for ids that nobody hands out.
///
/// # Errors
/// When the kernel gives no randomness, which on Linux happens only before its pool is ready and is then awaited.
pub fn random_id() -> std::io::Result<u64> {
    let mut bytes = [0u8; 8];
    let filled = getrandom(&mut bytes[..], GetRandomFlags::empty())?;
    if filled != bytes.len() {
        return Err(std::io::Error::other("the kernel gave too little randomness"));
    }
    Ok(u64::from_le_bytes(bytes).max(1))
}
