//! A node's own clocks. True time is the simulator's; no node can read it.

/// Nanoseconds in a millisecond.
pub(crate) const MS: u64 = 1_000_000;
/// Nanoseconds in a second.
pub(crate) const SECOND: u64 = 1000 * MS;
/// Parts of a rate: a clock of exactly this rate is right.
const RIGHT: u64 = 1_000_000;
/// How far a clock's rate may be off, in parts per million; two nodes then differ by less than the 5 % of S1.
pub(crate) const DRIFT_PPM_MAX: u64 = 20_000;

/// CLOCK_BOOTTIME of one machine: runs at its own rate, goes on through suspend, starts anew at a reboot.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// Parts per million of true time.
    rate: u64,
    /// Its reading at `since`.
    base: u64,
    /// True time at which it started.
    since: u64,
}

impl Clock {
    /// A clock that runs fast or slow by `drift` (0: slowest allowed, twice the maximum: fastest).
    pub(crate) fn new(drift: u64, base: u64, since: u64) -> Self {
        Self { rate: RIGHT - DRIFT_PPM_MAX + drift, base, since }
    }

    /// What it shows at this true time.
    pub(crate) fn reading(&self, now: u64) -> u64 {
        self.base + now.saturating_sub(self.since) * self.rate / RIGHT
    }

    /// How long in true time until it has gone on by this much; never too short.
    pub(crate) fn stretch(&self, by: u64) -> u64 {
        by.saturating_mul(RIGHT) / self.rate + 1
    }

    /// Starts anew, as after a reboot.
    pub(crate) fn restart(&mut self, now: u64) {
        (self.base, self.since) = (SECOND, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_as_long_as_it_says_reaches_the_reading() {
        for drift in [0, 1, 20_000, 39_999] {
            let clock = Clock::new(drift, 17, 1000);
            let start = clock.reading(5 * SECOND);
            let later = clock.reading(5 * SECOND + clock.stretch(2_700 * MS));
            assert!(later >= start + 2_700 * MS, "drift {drift}");
            assert!(later < start + 2_700 * MS + 4, "drift {drift}");
        }
    }
}
