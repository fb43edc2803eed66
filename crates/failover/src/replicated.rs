//! Who is primary of a replicated database, whom its commits wait for, and who may follow it (S2, S4, S7, S10).
//!
//! A role changes hands in up to three goals. *Asked*: a planned move names nobody and who is next; the old primary stops
//! and releases. *Asking*: nobody is primary, and the members of the synchronous set promise to follow nothing older; a lost
//! primary leads here at once, for promises end its reign whether or not it still runs. *Named*: a copy that has reached so
//! many promised positions that it must have every acknowledged write. If the old primary turns out to be alive first, it is
//! named again.
//!
//! Where commits wait for nobody, no promise proves anything: there the role waits for the end of its grant, and goes to the
//! furthest copy.

use std::time::Duration;

use backstay_model::{
    Generation, Grant, InstanceGoal, InstanceState, NodeName, Reason, ReplicaGoal, ReplicaObservation, Role, RoleGoal,
    RoleKey, ServiceGoal, Subject,
    reason::{MoveCause, WhyNot},
};
use backstay_spec::{Failback, ServiceSpec};

use crate::decide::Draft;
use crate::exclusive::{self, TAKE_WITHIN};
use crate::members::Members;
use crate::view::View;

mod synchronous;
mod takeover;

/// One turn of thought about one database.
struct Turn<'a> {
    view: &'a View<'a>,
    members: &'a Members,
    service: &'a ServiceSpec,
    role: RoleKey,
    placed: &'a [NodeName],
    /// Where there may be a copy: as placed, best first, then as the goal before had it.
    copies: Vec<NodeName>,
    before: RoleGoal,
    replicas: ReplicaGoal,
    grant: Option<&'a Grant>,
    /// The generation of the goal that this turn may make.
    next_generation: Generation,
}

/// What one turn comes to.
struct Outcome {
    role: RoleGoal,
    replicas: ReplicaGoal,
}

/// Revises the primary, the standbys and the synchronous set of one database.
pub(crate) fn revise(
    draft: &mut Draft,
    view: &View<'_>,
    members: &Members,
    service: &ServiceSpec,
    placed: &[NodeName],
) {
    let before = view.goal.services.get(&service.id).cloned().unwrap_or_default();
    let role = RoleKey::Service(service.id.clone());
    let turn = Turn {
        view,
        members,
        service,
        placed,
        copies: placed.iter().chain(before.instances.keys().filter(|node| !placed.contains(node))).cloned().collect(),
        before: before.primary.clone().unwrap_or_default(),
        replicas: before.replicas.clone().unwrap_or_default(),
        grant: view.grants.get(&role),
        role,
        next_generation: view.goal.generation.next(view.incarnation),
    };
    let subject = Subject::Service(service.id.clone());
    let ready = turn.ready(draft, &subject);
    // A choice that stands waits until its node is ready; a new one is met or refused.
    let eligible = turn.eligible();
    let candidates = if members.asked(view, &subject).is_some() { &ready } else { &eligible };
    let is_placed = |node: &NodeName| placed.contains(node);
    let chosen = exclusive::choice(draft, view, members, &subject, before.chosen.as_ref(), candidates, is_placed);
    let outcome = match turn.before.holder.clone() {
        Some(holder) => turn.with_holder(draft, &holder, &ready, chosen.as_ref()),
        None => turn.without_holder(draft),
    };
    let mut role_after = outcome.role;
    let asks_on = outcome.replicas.asks == turn.replicas.asks;
    let stands = asks_on && role_after.holder == turn.before.holder && role_after.next == turn.before.next;
    role_after.stood_for = if stands { turn.stood() } else { Duration::ZERO };

    let holder = role_after.holder.clone();
    let mut after = ServiceGoal { chosen, replicas: Some(outcome.replicas), ..ServiceGoal::default() };
    // While there is no primary no copy leaves: it may be the one that has everything, and elsewhere nothing can be copied.
    let stays = |node: &&NodeName| placed.contains(node) || (holder.is_none() && members.present(node));
    for node in turn.copies.iter().filter(stays).chain(&holder) {
        let role = if holder.as_ref() == Some(node) { Role::Primary } else { Role::Standby };
        after.instances.insert(node.clone(), InstanceGoal { role, runs: true, leaving: false });
    }
    after.primary = Some(role_after);
    exclusive::say_placement(draft, service, &before, &after);
    draft.goal.services.insert(service.id.clone(), after);
}

impl Turn<'_> {
    fn copy(&self, node: &NodeName) -> Option<&ReplicaObservation> {
        self.view.instance(node, &self.service.id)?.replica.as_ref()
    }

    fn never_primary(&self, node: &NodeName) -> bool {
        self.view.spec.nodes.get(node).is_none_or(|node| node.postgres.no_primary || node.witness)
    }

    fn weary(&self, node: &NodeName) -> bool {
        exclusive::is_weary(self.view, node, &self.service.id)
    }

    /// Its report was made after it had read the goal in force.
    fn knows_goal(&self, node: &NodeName) -> bool {
        self.view.report(node).is_some_and(|report| report.generation >= self.view.goal.generation)
    }

    /// Whole, and streaming from the present primary.
    fn follows(&self, node: &NodeName) -> bool {
        let Some(token) = self.grant.map(|grant| grant.token) else { return false };
        self.copy(node).is_some_and(|copy| copy.whole && copy.streams == Some(token))
    }

    /// Standbys that a planned move may go to, best first; says why others are passed over.
    fn ready(&self, draft: &mut Draft, subject: &Subject) -> Vec<NodeName> {
        let mut ready = Vec::new();
        let followers = self.replicas.stored.members.iter().filter(|node| self.follows(node)).count();
        let enough = self.replicas.stored.k == 0 || followers >= self.replicas.stored.certain() as usize;
        for node in self.placed.iter().filter(|node| self.before.holder.as_ref() != Some(*node)) {
            let unfit = self.members.get(node).map_or(Some(WhyNot::NotInFile), |member| member.unfit);
            let counts = self.replicas.stored.k == 0 || self.replicas.stored.members.contains(node);
            let why = match () {
                _ if unfit.is_some() => unfit,
                _ if self.never_primary(node) => Some(WhyNot::NoPrimary),
                _ if self.weary(node) => Some(WhyNot::Failing),
                _ if self.before.holder.is_none() => None,
                _ if !(counts && self.follows(node)) => Some(WhyNot::Behind),
                _ if !enough => Some(WhyNot::TooFewCopies),
                _ => None,
            };
            match why {
                Some(why) => draft.because(Reason::PassedOver { subject: subject.clone(), node: node.clone(), why }),
                None => ready.push(node.clone()),
            }
        }
        // The holder may be chosen to stay.
        ready.extend(self.before.holder.clone().filter(|holder| self.members.present(holder)));
        ready
    }

    /// Nodes that may be primary at all.
    fn eligible(&self) -> Vec<NodeName> {
        let placed = self.placed.iter().filter(|node| self.members.fit(node) && !self.never_primary(node));
        placed.chain(self.before.holder.iter().filter(|holder| self.members.present(holder))).cloned().collect()
    }

    /// Its session has ended, or most voters have not heard of it of late: enough to ask for promises, never to take a grant.
    fn is_lost(&self, node: &NodeName) -> bool {
        !self.members.present(node) || self.is_suspected(node)
    }

    fn is_suspected(&self, node: &NodeName) -> bool {
        let voters = self.view.spec.voters();
        let suspect = |voter: &&NodeName| {
            *voter != node && self.view.report(voter).is_some_and(|report| report.suspects.contains(node))
        };
        voters.iter().filter(suspect).count() * 2 > voters.len()
    }

    /// The role as told, and everything else as it was.
    fn only(&self, role: RoleGoal) -> Outcome {
        Outcome { role, replicas: self.replicas.clone() }
    }

    /// How long the present answer has stood.
    fn stood(&self) -> Duration {
        self.before.stood_for + self.view.goal_age
    }

    fn with_holder(
        &self,
        draft: &mut Draft,
        holder: &NodeName,
        ready: &[NodeName],
        chosen: Option<&NodeName>,
    ) -> Outcome {
        let keep = RoleGoal::held_by(holder.clone());
        let held = self.grant.is_some_and(|grant| grant.holder == *holder);
        let other = ready.iter().find(|node| *node != holder);
        let sync = self.replicas.stored.k > 0;

        if self.is_lost(holder) {
            return match self.grant {
                // Nobody could promise anything: it may still be the only one there is.
                _ if sync && !self.can_ask() => {
                    draft.because(Reason::NoCandidate { role: self.role.clone() });
                    self.only(keep)
                }
                _ if sync => self.ask(draft, Some(holder), MoveCause::HolderLost),
                Some(grant) => {
                    draft.because(Reason::waiting_for(&self.role, grant));
                    self.only(keep)
                }
                // Only an ended session frees a role without promises.
                None if !self.members.present(holder) => self.furthest(draft, Some(holder), MoveCause::HolderLost),
                None => self.only(keep),
            };
        }
        // Another still has the grant: where promises cover the takeover the holder takes it; else it waits.
        if let Some(grant) = self.grant.filter(|grant| grant.holder != *holder) {
            if !self.replicas.covered {
                draft.because(Reason::waiting_for(&self.role, grant));
            }
            return self.untaken(draft, holder, keep);
        }
        let wanted = self.wanted(draft, holder, ready, chosen);
        if let Some(cause) = self.must_leave(holder) {
            return match other {
                Some(other) => self.move_to(draft, holder, other, cause),
                // It cannot work, so nobody can come to follow it: promises tell who has everything all the same.
                None if cause == MoveCause::HolderFailing && self.weary(holder) && self.can_ask() => {
                    self.ask(draft, Some(holder), cause)
                }
                None => {
                    draft.because(Reason::NoCandidate { role: self.role.clone() });
                    Outcome { role: keep, replicas: self.tend(draft, holder) }
                }
            };
        }
        let wanted = wanted.filter(|(node, cause)| *cause == MoveCause::Asked || self.is_steady(draft, node));
        if let Some((node, cause)) = wanted {
            return self.move_to(draft, holder, &node, cause);
        }
        if !held {
            return self.untaken(draft, holder, keep);
        }
        Outcome { role: keep, replicas: self.tend(draft, holder) }
    }

    /// The node that should be primary although the present one is well: an operator's choice, or the preferred node.
    fn wanted(
        &self,
        draft: &mut Draft,
        holder: &NodeName,
        ready: &[NodeName],
        chosen: Option<&NodeName>,
    ) -> Option<(NodeName, MoveCause)> {
        let wanted = match chosen {
            Some(node) => ready.contains(node).then(|| (node.clone(), MoveCause::Asked)),
            None => {
                let subject = Subject::Service(self.service.id.clone());
                exclusive::failback(draft, self.members, self.service, &subject, &self.before, ready)
            }
        };
        wanted.filter(|(node, _)| node != holder)
    }

    /// Named, and the grant not yet taken. Only a holder that speaks is judged: unknown moves nothing.
    fn untaken(&self, draft: &mut Draft, holder: &NodeName, keep: RoleGoal) -> Outcome {
        let speaks = self.members.speaks(holder);
        let named_for = self.stood();
        let free = self.grant.is_none() || self.replicas.covered;
        if speaks && free {
            if named_for >= TAKE_WITHIN && self.can_ask() {
                return self.ask(draft, Some(holder), MoveCause::NotTaken);
            }
            draft.look_again_in(TAKE_WITHIN.saturating_sub(named_for).max(Duration::from_secs(1)));
        }
        self.only(keep)
    }

    /// A copy to which the role returns must have been well as long as its node, and the present reign must have lasted as long:
    /// a role that has just moved does not move again at once.
    fn is_steady(&self, draft: &mut Draft, node: &NodeName) -> bool {
        let seen = self.view.instance(node, &self.service.id);
        let reigned = self.stood();
        let well_for = seen.map_or(Duration::ZERO, |seen| seen.healthy_for).min(reigned);
        let remaining = self.service.steady.saturating_sub(well_for);
        if !remaining.is_zero() {
            let subject = Subject::Service(self.service.id.clone());
            draft.because(Reason::FailbackWaits { subject, node: node.clone(), remaining });
            draft.look_again_in(remaining);
        }
        remaining.is_zero()
    }

    /// Why a present holder should go, if another is ready.
    fn must_leave(&self, holder: &NodeName) -> Option<MoveCause> {
        let seen = self.view.instance(holder, &self.service.id);
        match () {
            _ if self.members.drained(holder) => Some(MoveCause::Drained),
            _ if self.never_primary(holder) => Some(MoveCause::NotAllowed),
            // A preferred node that takes its place first gets a copy, then the role.
            _ if !self.placed.contains(holder) && !self.has_better(holder) => Some(MoveCause::NotAllowed),
            _ if seen.is_some_and(|seen| seen.state == InstanceState::Failed) => Some(MoveCause::HolderFailing),
            _ => None,
        }
    }

    /// A node is placed to which the role will return.
    fn has_better(&self, holder: &NodeName) -> bool {
        let rank = |node: &NodeName| self.service.preference(node);
        let better = |node: &NodeName| rank(node) < rank(holder) && !self.never_primary(node);
        self.service.failback == Failback::Auto && self.placed.iter().any(better)
    }

    /// There are members to promise.
    fn can_ask(&self) -> bool {
        self.replicas.stored.k > 0 && !self.replicas.stored.members.is_empty()
    }

    /// A planned move: the old primary stops first, so that everything it wrote is on the others.
    fn move_to(&self, draft: &mut Draft, holder: &NodeName, to: &NodeName, cause: MoveCause) -> Outcome {
        let (role, from) = (self.role.clone(), holder.clone());
        draft.because(Reason::HolderAsked { role, from, to: to.clone(), cause });
        let role = RoleGoal { next: Some(to.clone()), why: Some(cause), ..RoleGoal::default() };
        let replicas = ReplicaGoal { last: Some(holder.clone()), covered: false, ..self.replicas.clone() };
        Outcome { role, replicas }
    }

    /// Nobody is primary, and every member of the stored set is asked for its promise.
    fn ask(&self, draft: &mut Draft, holder: Option<&NodeName>, cause: MoveCause) -> Outcome {
        let needed = self.replicas.stored.certain();
        draft.because(Reason::PromisesAsked { role: self.role.clone(), needed, cause });
        let last = holder.cloned().or_else(|| self.replicas.last.clone());
        let asks = Some(self.next_generation);
        let role = RoleGoal { next: self.before.next.clone(), why: Some(cause), ..RoleGoal::default() };
        Outcome { role, replicas: ReplicaGoal { asks, last, covered: false, ..self.replicas.clone() } }
    }
}
