//! Instants of one machine's CLOCK_BOOTTIME. They are never compared between machines: what crosses carries durations.

use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Nanoseconds of CLOCK_BOOTTIME, which goes on through suspend and is untouched by steps of the wall clock.
///
/// Made by the one clock module of each crate that touches the world, and by the simulator; pure code only compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instant(pub u64);

impl Instant {
    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A duration as people write it: `350 ms`, `2.7 s`, `4 m 10 s`, `3 h`, `12 d`.
pub fn human(duration: Duration) -> String {
    let ms = duration.as_millis();
    let s = duration.as_secs();
    match s {
        _ if ms < 1000 => format!("{ms} ms"),
        0..=9 => format!("{:.1} s", duration.as_secs_f64()),
        10..=59 => format!("{s} s"),
        60..=3599 => match s % 60 {
            0 => format!("{} m", s / 60),
            rest => format!("{} m {rest} s", s / 60),
        },
        3600..=172_799 => format!("{} h", s / 3600),
        _ => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        let read = |ms| human(Duration::from_millis(ms));
        assert_eq!(read(350), "350 ms");
        assert_eq!(read(2_700), "2.7 s");
        assert_eq!(read(250_000), "4 m 10 s");
        assert_eq!(read(3 * 3_600_000), "3 h");
    }
}
