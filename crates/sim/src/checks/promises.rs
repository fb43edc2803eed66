//! S4: a reign that promises are to cover is covered, by what members really wrote into the store.

use std::collections::BTreeMap;

use backstay_model::{NodeName, Position, Promise, ReplicaGoal};

/// A goal names a holder, and says that promises cover it. `asked` is what the goal before it held.
pub(crate) fn cover(
    asked: &ReplicaGoal,
    holder: &NodeName,
    written: &BTreeMap<NodeName, Promise>,
) -> Result<(), String> {
    let Some(generation) = asked.asks else {
        return Err(format!("{holder} is covered by promises that nobody asked for"));
    };
    let by_members = written.iter().filter(|(node, _)| asked.stored.members.contains(*node));
    let promised: BTreeMap<_, Position> = by_members
        .filter(|(_, promise)| promise.generation >= generation)
        .map(|(node, p)| (node, p.position))
        .collect();
    let Some(own) = promised.get(holder) else { return Err(format!("{holder} is named without a promise of its own")) };
    // Of n members any k may have acknowledged a write: n - k + 1 of them are sure to include one that did.
    let sure = asked.stored.members.len() + 1 - asked.stored.k as usize;
    let not_beyond = promised.values().filter(|position| *position <= own).count();
    if not_beyond < sure {
        return Err(format!("{holder} has reached {not_beyond} promised positions where {sure} make sure"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstay_model::{Generation, Lsn, SyncRule, Timeline};

    #[test]
    fn the_furthest_of_enough_is_covered_and_no_other() {
        let members = ["a", "b", "c"].map(NodeName::from).into();
        let stored = SyncRule { members, k: 2 };
        let asked = ReplicaGoal { stored, asks: Some(Generation(7)), ..ReplicaGoal::default() };
        let promise = |generation, lsn| Promise {
            generation: Generation(generation),
            position: Position { timeline: Timeline(1), lsn: Lsn(lsn) },
        };
        let written = BTreeMap::from([(NodeName::from("a"), promise(7, 10)), (NodeName::from("b"), promise(7, 9))]);
        assert!(cover(&asked, &"a".into(), &written).is_ok());
        assert!(cover(&asked, &"b".into(), &written).is_err(), "one is further");
        assert!(cover(&asked, &"c".into(), &written).is_err(), "it promised nothing");
        let old = BTreeMap::from([(NodeName::from("a"), promise(6, 10)), (NodeName::from("b"), promise(7, 9))]);
        assert!(cover(&asked, &"b".into(), &old).is_err(), "a promise of an earlier goal does not count");
        assert!(cover(&ReplicaGoal { asks: None, ..asked }, &"a".into(), &written).is_err());
    }
}
