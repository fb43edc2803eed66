//! Who follows a primary that is gone: by promises, where commits wait for standbys; by position, where they wait for nobody.

use std::time::Duration;

use backstay_model::{
    Generation, InstanceState, NodeName, Position, Promise, Reason, ReplicaGoal, RoleGoal, Timeline, reason::MoveCause,
};
use backstay_spec::MaxLoss;

use super::{Outcome, Turn};
use crate::decide::Draft;

/// A planned move that has not come to an end after this time is called off, if the old primary is still there.
const MOVE_WITHIN: Duration = Duration::from_secs(10);
/// So long a takeover waits for the node that was asked for.
const NEXT_WITHIN: Duration = Duration::from_secs(1);
/// After this time without enough promises the role returns to the last primary, if that is here.
const RETURN_AFTER: Duration = Duration::from_secs(3);

impl Turn<'_> {
    pub(super) fn without_holder(&self, draft: &mut Draft) -> Outcome {
        let cause = self.before.why.unwrap_or(MoveCause::First);
        if self.replicas.timeline == Timeline::default() {
            return self.first(draft);
        }
        if self.replicas.asks.is_some() {
            return self.judge_promises(draft, cause);
        }
        // A planned move: the old primary stops and releases.
        let Some(grant) = self.grant else {
            return match self.replicas.stored.k {
                0 => self.furthest(draft, None, cause),
                _ => self.ask(draft, None, cause),
            };
        };
        if self.is_lost(&grant.holder) && self.replicas.stored.k > 0 {
            return self.ask(draft, Some(&grant.holder.clone()), MoveCause::HolderLost);
        }
        let waited = self.stood();
        if waited >= MOVE_WITHIN && self.is_alive(&grant.holder) {
            return self.returns_to(draft, &grant.holder.clone());
        }
        draft.look_again_in(MOVE_WITHIN.saturating_sub(waited).max(Duration::from_secs(1)));
        draft.because(Reason::waiting_for(&self.role, grant));
        let role = RoleGoal { next: self.before.next.clone(), why: Some(cause), ..RoleGoal::default() };
        self.only(role)
    }

    /// Nothing was ever written: existing data is taken over where it is, else the first node makes it. Only once every
    /// node that might have data has spoken.
    fn first(&self, draft: &mut Draft) -> Outcome {
        let nobody = |turn: &Self| turn.only(RoleGoal::default());
        let silent: Vec<NodeName> = self
            .members
            .iter()
            .filter(|(node, m)| !m.known && !self.never_primary(node))
            .map(|(n, _)| n.clone())
            .collect();
        let gone = self.view.settled && silent.iter().all(|node| !self.members.present(node));
        if !silent.is_empty() && !gone {
            draft.because(Reason::WaitingForNodes { missing: silent });
            return nobody(self);
        }
        let fit = |node: &&NodeName| self.members.fit(node) && !self.never_primary(node);
        let position = |node: &NodeName| self.copy(node).filter(|copy| copy.has_data).map(|copy| copy.position);
        let furthest = self.placed.iter().filter(fit).rev().max_by_key(|node| position(node));
        match (furthest, self.grant) {
            (Some(node), None) => self.named(draft, node, MoveCause::First, false),
            (Some(_), Some(grant)) => {
                draft.because(Reason::waiting_for(&self.role, grant));
                nobody(self)
            }
            (None, _) => {
                draft.because(Reason::NoCandidate { role: self.role.clone() });
                nobody(self)
            }
        }
    }

    /// Promises of this asking, by members of the stored set.
    fn promises(&self) -> Vec<(&NodeName, Promise)> {
        let asked = self.replicas.asks.unwrap_or(Generation(u64::MAX));
        let of = |node: &NodeName| self.view.promises.get(&(self.service.id.clone(), node.clone())).copied();
        let members = self.replicas.stored.members.iter();
        members.filter_map(|node| Some((node, of(node)?))).filter(|(_, promise)| promise.generation >= asked).collect()
    }

    fn judge_promises(&self, draft: &mut Draft, cause: MoveCause) -> Outcome {
        let promises = self.promises();
        let needed = self.replicas.stored.certain() as usize;
        // R positions not beyond its own: one of those members has every acknowledged write, so it has them too.
        let has_all = |at: Position| promises.iter().filter(|(_, promise)| promise.position <= at).count() >= needed;
        let able = |node: &NodeName| {
            let fit = self.members.speaks(node) && self.members.fit_at_need(node);
            fit && !self.is_suspected(node) && !self.never_primary(node)
        };
        let lossless = promises.iter().filter(|(_, promise)| has_all(promise.position));
        let mut lossless: Vec<&NodeName> = lossless.map(|(node, _)| *node).filter(|node| able(node)).collect();
        let rank = |node: &NodeName| self.placed.iter().position(|placed| placed == node).unwrap_or(usize::MAX);
        let reluctant = |node: &NodeName| self.weary(node) || !self.members.fit(node);
        lossless.sort_by_key(|node| (self.before.next.as_ref() != Some(*node), reluctant(node), rank(node)));
        // Whoever was asked for has a moment to promise, even if another is certain to have everything already.
        let waited = self.stood();
        let next = self.before.next.as_ref().filter(|next| self.replicas.stored.members.contains(*next) && able(next));
        if next.is_some_and(|next| waited < NEXT_WITHIN && !promises.iter().any(|(node, _)| *node == next)) {
            draft.look_again_in(NEXT_WITHIN.saturating_sub(waited));
            return self.only(self.before.clone());
        }
        if let Some(node) = lossless.first() {
            return self.named(draft, &(*node).clone(), cause, true);
        }
        // Nobody is certain to have everything but the one that wrote it.
        let returns = |last: &NodeName| {
            self.may_return(last) && (waited >= RETURN_AFTER || (cause == MoveCause::HolderLost && self.is_alive(last)))
        };
        if let Some(last) = self.replicas.last.clone().filter(returns) {
            return self.returns_to(draft, &last);
        }
        draft.look_again_in(RETURN_AFTER.saturating_sub(waited).max(Duration::from_secs(1)));
        let (role, promised) = (self.role.clone(), promises.len() as u32);
        draft.because(Reason::PromisesMissing { role, promised, needed: needed as u32 });
        self.only(self.before.clone())
    }

    /// Its database acts as primary, as its agent says of late.
    fn is_alive(&self, node: &NodeName) -> bool {
        let seen = self.view.instance(node, &self.service.id);
        !self.is_lost(node) && seen.is_some_and(|seen| seen.state == InstanceState::Running && seen.token.is_some())
    }

    /// The last primary is here with its data: every acknowledged write was on its disk first.
    fn may_return(&self, last: &NodeName) -> bool {
        let here = !self.is_lost(last) && self.members.speaks(last);
        let whole = self.copy(last).is_some_and(|copy| copy.has_data && copy.whole);
        let free = self.grant.is_none_or(|grant| grant.holder == *last);
        here && whole && free && !self.never_primary(last)
    }

    fn returns_to(&self, draft: &mut Draft, node: &NodeName) -> Outcome {
        if self.grant.is_none_or(|grant| grant.holder != *node) {
            return self.named(draft, node, MoveCause::Returned, false);
        }
        draft.because(Reason::HolderNamed { role: self.role.clone(), node: node.clone(), cause: MoveCause::Returned });
        let replicas = ReplicaGoal { asks: None, covered: false, ..self.replicas.clone() };
        Outcome { role: RoleGoal::held_by(node.clone()), replicas }
    }

    /// Where commits wait for nobody: the furthest copy among those that speak, if what may be lost is within the bound. A bound
    /// in time says nothing about bytes; what is lost is reported.
    pub(super) fn furthest(&self, draft: &mut Draft, lost: Option<&NodeName>, cause: MoveCause) -> Outcome {
        let able = |node: &&NodeName| {
            let whole = self.copy(node).is_some_and(|copy| copy.whole && copy.has_data);
            self.members.fit_at_need(node) && whole && !self.never_primary(node) && lost != Some(*node)
        };
        let reached = |node: &NodeName| self.copy(node).map(|copy| copy.position);
        let preferred = |node: &NodeName| self.before.next.as_ref() == Some(node);
        let best = self.copies.iter().filter(able).rev().max_by_key(|node| (reached(node), preferred(node)));
        let keep = self.only(self.before.clone());
        let Some(best) = best else {
            draft.because(Reason::NoCandidate { role: self.role.clone() });
            return keep;
        };
        // A planned move: whoever is next has everything a moment after the old primary has stopped.
        let waited = self.stood();
        let last = self.replicas.last.as_ref().filter(|_| lost.is_none());
        if let Some(next) = self.before.next.as_ref().filter(|next| able(next) && waited < RETURN_AFTER) {
            let has_stopped = |last: &NodeName| {
                self.knows_goal(last)
                    && self.view.instance(last, &self.service.id).is_none_or(|seen| seen.token.is_none())
            };
            let has_all = last.is_none_or(|last| has_stopped(last) && reached(next) >= reached(last));
            if has_all && reached(next) >= reached(best) {
                return self.named(draft, &next.clone(), cause, false);
            }
            draft.look_again_in(RETURN_AFTER.saturating_sub(waited));
            return keep;
        }
        let published = self.view.published.get(&self.service.id);
        let behind = published.map(|last| last.lsn.0.saturating_sub(reached(best).unwrap_or_default().lsn.0));
        let (role, node) = (self.role.clone(), best.clone());
        match (self.view.spec.goal.max_loss, behind) {
            (MaxLoss::Bytes(bound), Some(bytes)) if bytes > bound => {
                draft.because(Reason::WouldLose { role, node, bytes, bound });
                keep
            }
            (MaxLoss::Zero, Some(bytes)) if bytes > 0 && !self.may_degrade() => {
                draft.because(Reason::WouldLose { role, node, bytes, bound: 0 });
                keep
            }
            (_, behind) => {
                if let Some(bytes) = behind.filter(|bytes| *bytes > 0) {
                    draft.because(Reason::Loses { role, node, bytes });
                }
                self.named(draft, &best.clone(), cause, false)
            }
        }
    }

    /// A new reign: another timeline, and the last primary counts as a member, for it has what was acknowledged with it.
    fn named(&self, draft: &mut Draft, node: &NodeName, cause: MoveCause, covered: bool) -> Outcome {
        draft.because(Reason::HolderNamed { role: self.role.clone(), node: node.clone(), cause });
        let mut stored = self.replicas.stored.clone();
        if self.replicas.timeline == Timeline::default() {
            stored.k = self.k_wanted(0);
        } else if stored.members.remove(node) {
            stored.members.extend(self.replicas.last.clone().filter(|last| last != node));
        }
        let replicas = ReplicaGoal {
            wanted: stored.clone(),
            stored,
            asks: None,
            covered,
            timeline: Timeline(self.replicas.timeline.0 + 1),
            last: self.replicas.last.clone(),
        };
        Outcome { role: RoleGoal::held_by(node.clone()), replicas }
    }
}
