//! Copies of one body of data: how far each has got, whom a commit waits for, and what a standby promises (S4, S10).
//!
//! A write is acknowledged once `k` of the members of the synchronous set have it on disk. Whoever becomes primary must have
//! every acknowledged write, so it must be the furthest of so many members that every possible `k` of them is among those:
//! of `n` members, `R = n - k + 1`. `R + k > n` is what makes two such groups always meet in one member; the goal and the
//! database change in an order that keeps it true at every step, crashes in between included.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, NodeName, Token};

/// A place in the log, in bytes since its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

/// A branch of the log: every promotion opens one with a higher number. No two promotions share a number, for the goal that
/// names a primary also names the timeline it opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

/// How far a copy has got: of two, the one on the later timeline has whatever was acknowledged on the earlier one, because
/// a timeline is only opened by a copy that has it all. So timelines compare first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The newest timeline it has something of.
    pub timeline: Timeline,
    /// Everything before this is on its disk.
    pub lsn: Lsn,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.timeline.0, self.lsn.0))
    }
}

/// Whom a commit waits for: any `k` of the members. With fewer members than `k` it waits for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRule {
    /// Standbys whose acknowledgement counts.
    pub members: BTreeSet<NodeName>,
    /// How many of them must acknowledge; 0: a commit waits for nobody.
    pub k: u32,
}

impl SyncRule {
    /// R: of so many members one is certain to have every write that was acknowledged under this rule. More than there are
    /// when `k` is 0, where nothing is certain.
    #[must_use]
    pub fn certain(&self) -> u32 {
        (self.members.len() as u32 + 1).saturating_sub(self.k)
    }
}

/// What a primary begins with: its first commit must already wait for the right standbys, so both come with the order to
/// start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reign {
    /// The timeline that it opens, unless it is on it already.
    pub timeline: Timeline,
    /// Whom its commits wait for, from the first.
    pub rule: SyncRule,
}

/// What a replicated service's goal says beyond who should be primary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaGoal {
    /// The synchronous set as the store holds it: a takeover asks these members, [`SyncRule::certain`] of them.
    pub stored: SyncRule,
    /// What the primary's database should wait for: `stored`, or a step ahead of it towards fewer members or a larger k.
    pub wanted: SyncRule,
    /// Members are asked to promise this goal, because nobody is primary.
    pub asks: Option<Generation>,
    /// The holder may take the grant although another has it: promises cover it (S4).
    pub covered: bool,
    /// The timeline that the holder opens, or has opened.
    pub timeline: Timeline,
    /// Who was primary before the present holder, or before there was none.
    pub last: Option<NodeName>,
}

/// What a member of the synchronous set wrote to the store: it follows nothing older than `generation` any more, and has
/// everything up to `position`. Made only after its receiver is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// The goal that asked.
    pub generation: Generation,
    /// What it has on disk.
    pub position: Position,
}

/// A database instance, as its node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaObservation {
    /// There is data here; without it a copy must be made first.
    pub has_data: bool,
    /// Its copy is consistent and has reached what its source had when the copy was made: it may promise and be promoted. A
    /// copy that is just being made or rewound is not.
    pub whole: bool,
    /// What it has on disk.
    pub position: Position,
    /// It streams from the holder of this token, directly or through a cascade (S8).
    pub streams: Option<Token>,
    /// What it has promised: it follows no goal older than this.
    pub promised: Generation,
    /// On a primary: the rule its database goes by.
    pub rule: Option<SyncRule>,
    /// On a primary: `k` members of the rule have everything that was written before the rule came into effect, so whatever
    /// was acknowledged under an earlier one is covered by this one too.
    pub rule_covers: bool,
    /// On a primary: it takes clients. A new or restarted one does not before its rule covers what it found (S2).
    pub open: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_timeline_is_further_than_any_place_on_an_earlier_one() {
        let at = |timeline, lsn| Position { timeline: Timeline(timeline), lsn: Lsn(lsn) };
        assert!(at(2, 100) > at(1, 900));
        assert!(at(2, 101) > at(2, 100));
    }

    #[test]
    fn any_certain_members_meet_any_k() {
        for members in 0..6_u32 {
            for k in 1..=members {
                let names = (0..members).map(|n| NodeName(format!("n{n}"))).collect();
                let rule = SyncRule { members: names, k };
                assert_eq!(rule.certain() + k, members + 1);
            }
        }
        assert_eq!(SyncRule::default().certain(), 1, "of nobody, one can never be asked");
    }
}
