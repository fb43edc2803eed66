//! What a copy of the data is: branches of a log and how far it has got on them. Plain arithmetic; nothing happens here.

use std::rc::Rc;

use backstay_model::{Generation, Lsn, Position, SyncRule, Timeline, Token};

/// Branches of the log, oldest first: a timeline, and the place from which it goes on.
pub(crate) type History = Rc<Vec<(u32, u64)>>;

/// What is on one node's disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copy {
    pub(crate) history: History,
    pub(crate) flushed: u64,
    pub(crate) has_data: bool,
    pub(crate) whole: bool,
    /// A copy that was made or rewound is whole once it is here.
    pub(crate) must_reach: u64,
    pub(crate) upstream: Option<Upstream>,
    pub(crate) promised: Generation,
    pub(crate) rule: SyncRule,
}

/// Whom a copy follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub(super) node: usize,
    pub(super) token: Token,
}

/// Where two histories part: everything before is the same.
pub(super) fn common(one: &History, one_end: u64, other: &History, other_end: u64) -> u64 {
    let end = |history: &History, at: usize, last: u64| history.get(at + 1).map_or(last, |(_, from)| *from);
    let mut shared = 0;
    for (at, (mine, theirs)) in one.iter().zip(other.iter()).enumerate() {
        if mine != theirs {
            break;
        }
        let (my_end, their_end) = (end(one, at, one_end), end(other, at, other_end));
        shared = my_end.min(their_end);
        if my_end != their_end {
            break;
        }
    }
    shared
}

impl Copy {
    pub(crate) fn timeline(&self) -> u32 {
        self.history.last().map_or(0, |(timeline, _)| *timeline)
    }

    pub(crate) fn position(&self) -> Position {
        // A branch of which nothing is there yet does not count.
        let reached = self.history.iter().rev().find(|(_, from)| *from < self.flushed || self.flushed == 0);
        Position { timeline: Timeline(reached.map_or(0, |(timeline, _)| *timeline)), lsn: Lsn(self.flushed) }
    }

    /// Whether it has this place of this timeline.
    pub(crate) fn contains(&self, timeline: u32, lsn: u64) -> bool {
        let branch = self.history.iter().rev().find(|(_, from)| *from < lsn);
        lsn <= self.flushed && branch.is_some_and(|(found, _)| *found == timeline)
    }
}

/// A copy's own history up to its end, then the source's: whoever skips the comparison keeps what is not the source's.
pub(super) fn continued(copy: &Copy, source: &History) -> History {
    let own = copy.history.iter().filter(|(_, from)| *from < copy.flushed);
    let mut history: Vec<(u32, u64)> = own.copied().collect();
    let after = source.iter().filter(|(_, from)| *from >= copy.flushed).copied();
    let current = source.iter().rev().find(|(_, from)| *from < copy.flushed).map(|(timeline, _)| *timeline);
    if let Some(current) = current.filter(|current| history.last().is_none_or(|(own, _)| own != current)) {
        history.push((current, copy.flushed));
    }
    history.extend(after);
    Rc::new(history)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(branches: &[(u32, u64)]) -> History {
        Rc::new(branches.to_vec())
    }

    #[test]
    fn histories_part_where_a_timeline_was_left() {
        let (old, new) = (history(&[(1, 0)]), history(&[(1, 0), (2, 100)]));
        assert_eq!(common(&old, 130, &new, 150), 100);
        assert_eq!(common(&old, 90, &new, 150), 90);
        assert_eq!(common(&new, 120, &new, 150), 120);
        assert_eq!(common(&history(&[]), 0, &new, 150), 0);
        assert_eq!(common(&history(&[(1, 0), (3, 100)]), 110, &new, 150), 100);
    }

    #[test]
    fn a_copy_has_what_is_on_its_own_branches() {
        let copy = Copy { history: history(&[(1, 0), (2, 100)]), flushed: 120, ..Copy::default() };
        assert!(copy.contains(1, 100));
        assert!(copy.contains(2, 101));
        assert!(!copy.contains(1, 101), "the old timeline went another way");
        assert!(!copy.contains(2, 121));
        let kept = Copy { history: history(&[(1, 0)]), flushed: 130, ..Copy::default() };
        let joined = Copy { history: continued(&kept, &copy.history), flushed: 140, ..Copy::default() };
        assert!(!joined.contains(2, 110), "without a rewind it keeps its own");
        assert!(joined.contains(2, 140));
    }
}
