//! S3: nobody acts past its deadline, and the store never ends a lease before its holder must have stopped.
//!
//! The arithmetic is written down a second time here, on purpose.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::MS;

/// How late a runnable guard may be (S1: "within the margin").
const GUARD_LATE_MAX: u64 = 60 * MS;
/// A lease of three seconds, and what a slow clock adds.
const LATE_FOR: u64 = 3100 * MS;

/// The deadlines that follow from what holders were told.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    /// By role and session, on the holder's CLOCK_BOOTTIME.
    by_session: BTreeMap<(usize, u64), u64>,
    /// By node and role: the latest of its sessions.
    by_node: BTreeMap<(usize, usize), u64>,
    nodes: BTreeMap<u64, usize>,
    /// Nodes whose clocks stood, and until when in true time: the store cannot know that they are late.
    late_since: BTreeMap<usize, u64>,
}

impl Leases {
    pub(crate) fn belongs(&mut self, session: u64, node: usize) {
        self.nodes.insert(session, node);
    }

    pub(crate) fn node_of(&self, session: u64) -> Option<usize> {
        self.nodes.get(&session).copied()
    }

    /// A holder has got the answer to something it sent at this reading of its clock.
    pub(crate) fn acknowledged(&mut self, node: usize, role: usize, session: u64, sent: u64, ttl: Duration) {
        let ttl = ttl.as_nanos() as u64;
        let deadline = sent + ttl - (ttl / 10).max(100 * MS);
        for kept in [self.by_session.entry((role, session)).or_default(), self.by_node.entry((node, role)).or_default()]
        {
            *kept = (*kept).max(deadline);
        }
    }

    /// A machine's clock stands, or stood until now.
    pub(crate) fn lags(&mut self, node: usize, until: u64) {
        self.late_since.insert(node, until);
    }

    /// Whether a node's clock stood so short a time ago that its leases are later than the store knows.
    pub(crate) fn is_late(&self, now: u64, node: usize) -> bool {
        self.late_since.get(&node).is_some_and(|until| now <= until.saturating_add(LATE_FOR))
    }

    /// The machine's clock starts anew, and with it everything that was counted on it.
    pub(crate) fn rebooted(&mut self, node: usize) {
        self.by_node.retain(|(known, _), _| *known != node);
        let sessions = &self.nodes;
        self.by_session.retain(|(_, session), _| sessions.get(session) != Some(&node));
        self.nodes.retain(|_, known| *known != node);
    }

    /// Something acts in a role now, at this reading of its node's clock.
    pub(crate) fn acts(&self, node: usize, role: usize, reading: u64, key: &str) -> Result<(), String> {
        match self.by_node.get(&(node, role)) {
            None => Err(format!("S3: {key} acts without ever having been acknowledged")),
            Some(deadline) if reading > deadline + GUARD_LATE_MAX => {
                Err(format!("S3: {key} acts {} ms past its deadline", (reading - deadline) / MS))
            }
            Some(_) => Ok(()),
        }
    }

    /// The store ends a role's lease, at this reading of its holder's clock.
    pub(crate) fn store_ends(&self, role: usize, session: u64, reading: u64, key: &str) -> Result<(), String> {
        match self.by_session.get(&(role, session)) {
            Some(deadline) if reading <= *deadline => {
                Err(format!("S3: the store ended {key} {} ms before its holder's deadline", (deadline - reading) / MS))
            }
            _ => Ok(()),
        }
    }
}

/// The store proposes to end a lease: by its own clock the whole of it, 1 % and 50 ms must have passed.
pub(crate) fn store_waits(reading: u64, applied: u64, ttl: Duration) -> Result<(), String> {
    let ttl = ttl.as_nanos() as u64;
    let due = applied + ttl + ttl / 100 + 50 * MS;
    if reading < due {
        return Err(format!("S3: the store ends a lease {} ms early by its own clock", (due - reading) / MS));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_seconds_are_2700_for_the_holder_and_3080_for_the_store() {
        let mut seen = Leases::default();
        let ttl = Duration::from_secs(3);
        assert!(seen.acts(0, 1, 5, "k").is_err(), "never acknowledged");
        seen.acknowledged(0, 1, 77, 0, ttl);
        assert!(seen.acts(0, 1, 2760 * MS, "k").is_ok());
        assert!(seen.acts(0, 1, 2761 * MS, "k").is_err());
        assert!(seen.store_ends(1, 77, 2700 * MS, "k").is_err());
        assert!(seen.store_ends(1, 77, 2701 * MS, "k").is_ok());
        assert!(store_waits(3079 * MS, 0, ttl).is_err());
        assert!(store_waits(3080 * MS, 0, ttl).is_ok());
    }
}
