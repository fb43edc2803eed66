//! S1: at any instant of true time at most one instance can act in an exclusive role, and an address is bound once.

use std::collections::BTreeMap;

use backstay_model::NodeName;

use crate::clock::MS;

/// After a pause of a whole machine, what it ran may act until its guard has run: so long at most, and only then (S1).
const AFTER_PAUSE_MAX: u64 = 60 * MS;
/// After a pause that stopped the machine's clock, too, it may act for what was left of its lease, by a clock that runs
/// slow, and until its guard has run.
const AFTER_CLOCK_STOP_MAX: u64 = 2700 * MS * 103 / 100 + AFTER_PAUSE_MAX;

/// Something that can act now.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    pub(crate) role: usize,
    pub(crate) id: u64,
    pub(crate) node: usize,
    /// It stands still with its machine: it cannot act.
    paused: bool,
    /// Until then an overlap is the pause's, not the product's.
    excused_until: u64,
}

/// Everything that can act.
#[derive(Debug, Default)]
pub(crate) struct Exclusivity {
    actors: Vec<Actor>,
    /// Nodes that stood still, and until when that excuses them.
    paused: BTreeMap<usize, u64>,
    /// Nodes whose clocks stood, and until when in true time what they hold is theirs by those clocks.
    late_until: BTreeMap<usize, u64>,
}

impl Exclusivity {
    pub(crate) fn begins(
        &mut self,
        now: u64,
        role: usize,
        id: u64,
        node: usize,
        key: &str,
        names: &[NodeName],
    ) -> Result<(), String> {
        let other = self.actors.iter().find(|other| other.role == role && !other.paused && other.excused_until < now);
        let excused_until = self.late_until.get(&node).copied().unwrap_or(0);
        let verdict = match other {
            None => Ok(()),
            Some(_) if excused_until >= now => Ok(()),
            Some(other) => Err(format!("S1: {key} acts on {} and on {} at once", names[other.node], names[node])),
        };
        self.actors.push(Actor { role, id, node, paused: false, excused_until });
        verdict
    }

    pub(crate) fn ceases(&mut self, id: u64) {
        self.actors.retain(|actor| actor.id != id);
    }

    pub(crate) fn pauses(&mut self, node: usize) {
        self.paused.insert(node, u64::MAX);
        self.actors.iter_mut().filter(|actor| actor.node == node).for_each(|actor| actor.paused = true);
    }

    pub(crate) fn resumes(&mut self, now: u64, node: usize) {
        self.paused.insert(node, now + AFTER_PAUSE_MAX);
        for actor in self.actors.iter_mut().filter(|actor| actor.node == node && actor.paused) {
            (actor.paused, actor.excused_until) = (false, now + AFTER_PAUSE_MAX);
        }
    }

    /// Whether a node stood still until just now, or its clock did.
    pub(crate) fn was_paused(&self, now: u64, node: usize) -> bool {
        self.paused.get(&node).is_some_and(|until| *until >= now) || self.is_late(now, node)
    }

    /// A machine and its clock stood, and go on now: what it held then it may hold for one more lease, and not longer (S1).
    pub(crate) fn lags(&mut self, now: u64, node: usize) {
        let until = now + AFTER_CLOCK_STOP_MAX;
        self.late_until.insert(node, until);
        for actor in self.actors.iter_mut().filter(|actor| actor.node == node) {
            actor.excused_until = actor.excused_until.max(until);
        }
    }

    /// Whether a node is late through no fault of its own.
    pub(crate) fn is_late(&self, now: u64, node: usize) -> bool {
        self.late_until.get(&node).is_some_and(|until| now <= *until)
    }

    /// Whether what an actor does just now is the fault of a pause.
    pub(crate) fn is_excused(&self, now: u64, id: u64) -> bool {
        self.actors.iter().any(|actor| actor.id == id && (actor.paused || actor.excused_until >= now))
    }

    /// Those that can act now and are not excused.
    pub(crate) fn acting(&self, now: u64) -> impl Iterator<Item = &Actor> {
        self.actors.iter().filter(move |actor| !actor.paused && actor.excused_until < now)
    }

    /// No two act in one role: what began as the excuse of a pause must have ended by now.
    pub(crate) fn verify(&self, now: u64, keys: &[String], names: &[NodeName]) -> Result<(), String> {
        for one in self.acting(now) {
            if let Some(other) = self.acting(now).find(|other| other.role == one.role && other.id != one.id) {
                let (key, one, other) = (&keys[one.role], &names[one.node], &names[other.node]);
                return Err(format!("S1: {key} goes on acting on {one} and on {other} at once"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_excuses_an_overlap_only_until_the_guard_could_run() {
        let (keys, names) = (vec!["grant/app.x".to_owned()], vec![NodeName::from("n1"), NodeName::from("n2")]);
        let mut seen = Exclusivity::default();
        assert!(seen.begins(0, 0, 1, 0, &keys[0], &names).is_ok());
        seen.pauses(0);
        assert!(seen.begins(10, 0, 2, 1, &keys[0], &names).is_ok(), "what stands still cannot act");
        seen.resumes(1000 * MS, 0);
        assert!(seen.verify(1050 * MS, &keys, &names).is_ok());
        assert!(seen.verify(1070 * MS, &keys, &names).is_err(), "its guard had its chance");
        seen.ceases(1);
        assert!(seen.verify(1070 * MS, &keys, &names).is_ok());
        assert!(seen.begins(1080 * MS, 0, 3, 0, &keys[0], &names).is_err());
    }

    #[test]
    fn a_clock_that_stood_excuses_an_overlap_for_one_lease() {
        let (keys, names) = (vec!["grant/app.x".to_owned()], vec![NodeName::from("n1"), NodeName::from("n2")]);
        let mut seen = Exclusivity::default();
        assert!(seen.begins(0, 0, 1, 0, &keys[0], &names).is_ok());
        seen.pauses(0);
        assert!(seen.begins(10, 0, 2, 1, &keys[0], &names).is_ok());
        seen.resumes(1000 * MS, 0);
        seen.lags(1000 * MS, 0);
        assert!(seen.verify(3800 * MS, &keys, &names).is_ok());
        assert!(seen.verify(3900 * MS, &keys, &names).is_err());
    }
}
