//! The failure detector: who has not been heard of late, by beats that every agent sends to every other (DESIGN §6).
//!
//! It is a hint and takes nothing: a majority of voters that suspect a node lets members of a synchronous set be asked for
//! promises sooner, and a balancer try elsewhere first. An observer that was itself late suspects nobody until it has listened
//! for a whole silence again: its own pause looks like everybody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use backstay_model::{Instant, NodeName};

/// How often every agent sends a beat.
pub const BEAT_EVERY: Duration = Duration::from_millis(100);
/// After so much silence a node is suspected: with one beat in twenty lost, eight in a row are lost once in 10^10.
pub const SILENCE: Duration = Duration::from_millis(800);
/// An observer that looks later than this after its last look was asleep.
pub const LATE: Duration = Duration::from_millis(300);

/// One observer's memory. Instants are its own clock's.
#[derive(Clone, Debug, Default)]
pub struct Detector {
    heard: BTreeMap<NodeName, Instant>,
    looked: Option<Instant>,
    /// Since when it has looked without a gap.
    awake_since: Option<Instant>,
}

impl Detector {
    /// A beat of this node has arrived.
    pub fn heard(&mut self, node: &NodeName, now: Instant) {
        let at = self.heard.entry(node.clone()).or_insert(now);
        *at = (*at).max(now);
    }

    /// Who is suspected now. To be asked every [`BEAT_EVERY`]; nodes never heard are not suspected, for nothing is known of them.
    pub fn look(&mut self, now: Instant) -> BTreeSet<NodeName> {
        let was_late = self.looked.is_none_or(|looked| now.since(looked) > LATE);
        self.looked = Some(now);
        if was_late {
            self.awake_since = Some(now);
        }
        let awake_since = self.awake_since.unwrap_or(now);
        if now.since(awake_since) < SILENCE {
            return BTreeSet::new();
        }
        // What it slept through is no silence of others.
        let silent = |at: Instant| now.since(at.max(awake_since)) > SILENCE;
        self.heard.iter().filter(|(_, at)| silent(**at)).map(|(node, _)| node.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::default() + Duration::from_millis(ms)
    }

    /// Looks every 100 ms from one time to another, with beats of `b` up to `until`; who is suspected at the end.
    fn watch(detector: &mut Detector, from: u64, to: u64, until: u64) -> BTreeSet<NodeName> {
        let mut suspects = BTreeSet::new();
        for ms in (from..=to).step_by(100) {
            if ms <= until {
                detector.heard(&"b".into(), at(ms));
            }
            suspects = detector.look(at(ms));
        }
        suspects
    }

    #[test]
    fn silence_is_suspected_and_a_beat_clears_it() {
        let mut detector = Detector::default();
        assert!(watch(&mut detector, 0, 2800, 2000).is_empty(), "eight beats late");
        assert_eq!(watch(&mut detector, 2900, 2900, 0), BTreeSet::from(["b".into()]));
        detector.heard(&"b".into(), at(2950));
        assert!(detector.look(at(3000)).is_empty());
    }

    #[test]
    fn whoever_slept_suspects_nobody() {
        let mut detector = Detector::default();
        watch(&mut detector, 0, 2000, 2000);
        assert!(detector.look(at(9000)).is_empty());
        assert!(watch(&mut detector, 9100, 9800, 0).is_empty(), "it listens for a whole silence first");
        assert!(!watch(&mut detector, 9900, 9900, 0).is_empty());
    }

    #[test]
    fn nothing_is_known_of_a_node_never_heard() {
        let mut detector = Detector::default();
        assert!(watch(&mut detector, 0, 5000, 0).iter().all(|node| node.as_str() == "b"));
        assert!(!detector.look(at(5100)).contains(&NodeName::from("c")));
    }
}
