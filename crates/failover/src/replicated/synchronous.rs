//! Whom commits wait for, and in which order that changes (S10).

use std::collections::BTreeSet;
use std::time::Duration;

use backstay_model::{NodeName, Reason, ReplicaGoal, SyncRule};
use backstay_planner::contingency::sync_standbys;
use backstay_spec::{Degrade, Workload};

use super::Turn;
use crate::decide::Draft;

/// So long a standby may take to follow a new primary before commits stop counting on it.
const FOLLOW_WITHIN: Duration = Duration::from_secs(3);

impl Turn<'_> {
    /// How many standbys a commit should wait for: as many as are whole at most, where writes may go on alone.
    pub(super) fn k_wanted(&self, whole: usize) -> u32 {
        let k = sync_standbys(self.view.spec, self.service);
        if self.may_degrade() { k.min(whole as u32) } else { k }
    }

    /// `degrade = "async"` lets writes go on alone; that they may then be lost was chosen.
    pub(super) fn may_degrade(&self) -> bool {
        matches!(&self.service.workload, Workload::Postgres(postgres) if postgres.degrade == Degrade::Async)
    }

    /// One step of the synchronous set towards the standbys that are whole, in the order that S10 asks for: whoever is added
    /// is stored first and waited for then; whoever goes is no longer waited for first, and is forgotten only once the
    /// database goes by the smaller rule and that covers everything that was acknowledged before.
    pub(super) fn tend(&self, draft: &mut Draft, holder: &NodeName) -> ReplicaGoal {
        let mut after = self.replicas.clone();
        let good: BTreeSet<NodeName> = self
            .placed
            .iter()
            .filter(|node| *node != holder && self.members.present(node) && self.follows(node))
            .cloned()
            .collect();
        let reigned = self.stood();
        let bad = |node: &NodeName| {
            let known = self.members.speaks(node) && reigned >= FOLLOW_WITHIN;
            !self.members.present(node) || !self.placed.contains(node) || (known && !good.contains(node))
        };
        let say = |draft: &mut Draft, rule: &SyncRule| {
            let (role, members) = (self.role.clone(), rule.members.iter().cloned().collect());
            draft.because(Reason::WaitsFor { role, members, k: rule.k });
        };
        if after.wanted != after.stored {
            let copy = self.copy(holder);
            // A report from before this goal may speak of an earlier time at which it went by the same rule.
            let follows = copy.is_some_and(|copy| copy.rule.as_ref() == Some(&after.wanted) && copy.rule_covers);
            let obeyed = self.knows_goal(holder) && follows;
            let could = after.wanted.members.intersection(&good).count() >= after.wanted.k as usize;
            if obeyed {
                after.stored = after.wanted.clone();
                say(draft, &after.stored);
            } else if !could {
                // It cannot come into effect: back to what the store holds, which always can.
                after.wanted = after.stored.clone();
                say(draft, &after.wanted);
            }
            return after;
        }
        let k = self.k_wanted(good.len());
        if good.iter().any(|node| !after.stored.members.contains(node)) && k > 0 {
            after.stored.members.extend(good.iter().cloned());
            after.wanted = after.stored.clone();
        } else if k < after.stored.k {
            after.stored.k = k;
            after.wanted.k = k;
        } else if k > after.stored.k && good.len() as u32 >= k {
            after.wanted.k = k;
        } else if after.stored.members.intersection(&good).count() >= k as usize {
            after.wanted.members.retain(|node| !bad(node));
        }
        if after != self.replicas {
            say(draft, &after.wanted);
        }
        after
    }
}
