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
    /// Since when it stands, in true time.
    stands_since: Option<u64>,
}

impl Clock {
    /// A clock that runs fast or slow by `drift` (0: slowest allowed, twice the maximum: fastest).
    pub(crate) fn new(drift: u64, base: u64, since: u64) -> Self {
        Self { rate: RIGHT - DRIFT_PPM_MAX + drift, base, since, stands_since: None }
    }

    /// What it shows at this true time.
    pub(crate) fn reading(&self, now: u64) -> u64 {
        let until = self.stands_since.map_or(now, |stands| stands.min(now));
        self.base + until.saturating_sub(self.since) * self.rate / RIGHT
    }

    /// How long in true time until it has gone on by this much; never too short.
    pub(crate) fn stretch(&self, by: u64) -> u64 {
        by.saturating_mul(RIGHT) / self.rate + 1
    }

    /// Starts anew, as after a reboot.
    pub(crate) fn restart(&mut self, now: u64) {
        (self.base, self.since, self.stands_since) = (SECOND, now, None);
    }

    /// Goes on from its reading at another rate; the drift as in [`Clock::new`].
    pub(crate) fn drift(&mut self, now: u64, drift: u64) {
        (self.base, self.since) = (self.reading(now), now);
        self.rate = RIGHT - DRIFT_PPM_MAX + drift;
    }

    /// Stands still, with the machine that a hypervisor stopped.
    pub(crate) fn stop(&mut self, now: u64) {
        self.stands_since = Some(now);
    }

    /// Goes on from where it stood; whether it stood.
    pub(crate) fn go_on(&mut self, now: u64) -> bool {
        let reading = self.reading(now);
        let stood = self.stands_since.take().is_some();
        if stood {
            (self.base, self.since) = (reading, now);
        }
        stood
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_stood_or_drifts_never_goes_back() {
        let mut clock = Clock::new(DRIFT_PPM_MAX, 0, 0);
        clock.stop(10);
        assert_eq!(clock.reading(1000), 10);
        assert!(clock.go_on(1000));
        assert!(!clock.go_on(1000));
        assert_eq!(clock.reading(1005), 15);
        clock.drift(2000, 2 * DRIFT_PPM_MAX);
        assert_eq!(clock.reading(2000), 1010);
        assert_eq!(clock.reading(2000 + RIGHT), 1010 + RIGHT + DRIFT_PPM_MAX);
    }

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
