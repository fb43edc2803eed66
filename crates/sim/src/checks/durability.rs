//! S2, S4 and S10 for databases: whatever was acknowledged under a synchronous rule is in every later reign, no older reign
//! acknowledges after a newer one has, no two promotions open one timeline.

use std::collections::{BTreeMap, BTreeSet};

use backstay_model::NodeName;

use crate::clock::MS;
use crate::database::Copy;

/// What was acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Durability {
    /// By timeline: the furthest place that a client was told is safe, while commits waited for standbys.
    safe: BTreeMap<u32, u64>,
    /// The newest timeline that acknowledged anything, and what its reign began with.
    newest: u32,
    began_with: Copy,
    reigns: BTreeMap<u32, Copy>,
    opened: BTreeSet<u32>,
    /// Writes that were acknowledged.
    pub(crate) acknowledged: u64,
}

impl Durability {
    /// A primary tells clients that everything up to `place` is safe.
    pub(crate) fn acknowledged(
        &mut self,
        now: u64,
        node: &NodeName,
        copy: &Copy,
        place: u64,
        is_sync: bool,
        is_excused: bool,
    ) -> Result<(), String> {
        let timeline = copy.timeline();
        // An acknowledgement that was on its way when its sender promised: what it confirms is in the new reign too.
        let is_in_newest = self.began_with.contains(timeline, place);
        if timeline < self.newest && !is_in_newest && (is_sync || !is_excused) {
            let newest = self.newest;
            return Err(format!(
                "S1: at {} ms {node} acknowledges on timeline {timeline} after timeline {newest} has",
                now / MS
            ));
        }
        if timeline > self.newest {
            self.newest = timeline;
            self.began_with = self.reigns.get(&timeline).cloned().unwrap_or_default();
        }
        self.acknowledged += 1;
        if is_sync {
            let safe = self.safe.entry(timeline).or_default();
            *safe = (*safe).max(place);
        }
        Ok(())
    }

    /// A copy becomes primary.
    pub(crate) fn reigns(&mut self, node: &NodeName, copy: &Copy, is_new: bool) -> Result<(), String> {
        if is_new && !self.opened.insert(copy.timeline()) {
            return Err(format!("two promotions open timeline {}, the second on {node}", copy.timeline()));
        }
        self.reigns.insert(copy.timeline(), copy.clone());
        // One that goes on where it was may have been replaced meanwhile: it must not take clients.
        if is_new { self.has_all(node, copy) } else { Ok(()) }
    }

    /// Commits wait for nobody from now on, as the file allows where standbys are lacking: what is not copied may be lost.
    pub(crate) fn degrades(&mut self) {
        self.safe.clear();
    }

    /// A primary takes clients again: it must have what its own reign and those before it promised. A newer one may reign by
    /// then; until its deadline the old one may be read.
    pub(crate) fn opens(&self, node: &NodeName, copy: &Copy) -> Result<(), String> {
        self.has(node, copy, copy.timeline())
    }

    /// A copy has everything that was promised to clients.
    pub(crate) fn has_all(&self, node: &NodeName, copy: &Copy) -> Result<(), String> {
        self.has(node, copy, u32::MAX)
    }

    fn has(&self, node: &NodeName, copy: &Copy, until: u32) -> Result<(), String> {
        let lost = self.safe.range(..=until).find(|(timeline, place)| !copy.contains(**timeline, **place));
        match lost {
            None => Ok(()),
            Some((timeline, place)) => Err(format!(
                "S2: {node} is at {} and lacks what was acknowledged: timeline {timeline} up to {place}",
                copy.position()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    fn copy(branches: &[(u32, u64)], flushed: u64) -> Copy {
        Copy { history: Rc::new(branches.to_vec()), flushed, ..Copy::default() }
    }

    #[test]
    fn what_was_acknowledged_must_be_in_the_next_reign() {
        let (mut seen, node) = (Durability::default(), NodeName::from("n1"));
        assert!(seen.reigns(&node, &copy(&[(1, 0)], 1), true).is_ok());
        assert!(seen.acknowledged(0, &node, &copy(&[(1, 0)], 120), 100, true, false).is_ok());
        assert!(seen.reigns(&node, &copy(&[(1, 0), (2, 100)], 101), true).is_ok());
        assert!(seen.reigns(&node, &copy(&[(1, 0), (3, 99)], 130), true).is_err(), "one short");
        assert!(seen.reigns(&node, &copy(&[(1, 0), (2, 100)], 101), true).is_err(), "the same timeline again");
    }

    #[test]
    fn an_old_reign_is_over_once_a_new_one_has_acknowledged() {
        let (mut seen, node) = (Durability::default(), NodeName::from("n1"));
        let (old, new) = (copy(&[(1, 0)], 50), copy(&[(1, 0), (2, 40)], 60));
        assert!(seen.reigns(&node, &new, true).is_ok());
        assert!(seen.acknowledged(0, &node, &new, 50, true, false).is_ok());
        assert!(
            seen.acknowledged(1, &node, &old, 45, true, true).is_err(),
            "a pause excuses nothing where standbys promised"
        );
        assert!(seen.acknowledged(1, &node, &old, 40, true, false).is_ok(), "the new reign has it too");
        assert!(seen.acknowledged(1, &node, &old, 45, false, true).is_ok());
        assert!(seen.acknowledged(1, &node, &old, 45, false, false).is_err());
    }
}
