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

use std::collections::BTreeSet;
use std::time::Duration;

use backstay_model::{
    Generation, Grant, InstanceGoal, InstanceState, NodeName, Position, Promise, Reason, ReplicaGoal,
    ReplicaObservation, Role, RoleGoal, RoleKey, ServiceGoal, Subject, SyncRule, Timeline,
    reason::{MoveCause, WhyNot},
};
use backstay_spec::{Degrade, Failback, MaxLoss, PostgresSpec, ServiceSpec, Workload};

use crate::decide::Draft;
use crate::exclusive::{self, TAKE_WITHIN};
use crate::members::Members;
use crate::view::View;

/// A planned move that has not come to an end after this time is called off, if the old primary is still there.
const MOVE_WITHIN: Duration = Duration::from_secs(10);
/// So long a takeover waits for the node that was asked for.
const NEXT_WITHIN: Duration = Duration::from_secs(1);
/// After this time without enough promises the role returns to the last primary, if that is here.
const RETURN_AFTER: Duration = Duration::from_secs(3);
/// So long a standby may take to follow a new primary before commits stop counting on it.
const FOLLOW_WITHIN: Duration = Duration::from_secs(3);
/// So many failures within a minute, and the fault is likely the node's.
const FAILURES_TO_AVOID: u32 = 3;

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
    role_after.stood_for = if stands { turn.before.stood_for + view.goal_age } else { Duration::ZERO };

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
    fn postgres(&self) -> Option<&PostgresSpec> {
        match &self.service.workload {
            Workload::Postgres(postgres) => Some(postgres),
            Workload::App(_) => None,
        }
    }

    /// How many standbys a commit should wait for: as the file says, else one where nothing may be lost.
    fn k_wanted(&self, whole: usize) -> u32 {
        let postgres = self.postgres();
        let derived = u32::from(self.view.spec.goal.max_loss == MaxLoss::Zero);
        let k = postgres.and_then(|postgres| postgres.sync).unwrap_or(derived);
        match postgres.map(|postgres| postgres.degrade) {
            Some(Degrade::Async) => k.min(whole as u32),
            _ => k,
        }
    }

    fn copy(&self, node: &NodeName) -> Option<&ReplicaObservation> {
        self.view.instance(node, &self.service.id)?.replica.as_ref()
    }

    fn never_primary(&self, node: &NodeName) -> bool {
        self.view.spec.nodes.get(node).is_none_or(|node| node.postgres.no_primary || node.witness)
    }

    fn weary(&self, node: &NodeName) -> bool {
        let seen = self.view.instance(node, &self.service.id);
        seen.is_some_and(|seen| seen.failures >= FAILURES_TO_AVOID && !seen.is_well())
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
        let fit = |node: &&NodeName| self.members.get(node).is_some_and(|member| member.unfit.is_none());
        let placed = self.placed.iter().filter(fit).filter(|node| !self.never_primary(node));
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

    fn outcome(&self, role: RoleGoal, replicas: ReplicaGoal) -> Outcome {
        Outcome { role, replicas }
    }

    fn with_holder(
        &self,
        draft: &mut Draft,
        holder: &NodeName,
        ready: &[NodeName],
        chosen: Option<&NodeName>,
    ) -> Outcome {
        let keep = RoleGoal { holder: Some(holder.clone()), ..RoleGoal::default() };
        let held = self.grant.is_some_and(|grant| grant.holder == *holder);
        let other = ready.iter().find(|node| *node != holder);
        let sync = self.replicas.stored.k > 0;

        if self.is_lost(holder) {
            return match self.grant {
                // Nobody could promise anything: it may still be the only one there is.
                _ if sync && !self.can_ask() => {
                    draft.because(Reason::NoCandidate { role: self.role.clone() });
                    self.outcome(keep, self.replicas.clone())
                }
                _ if sync => self.ask(draft, Some(holder), MoveCause::HolderLost),
                Some(grant) => {
                    draft.because(self.waits_for(grant));
                    self.outcome(keep, self.replicas.clone())
                }
                // Only an ended session frees a role without promises.
                None if !self.members.present(holder) => self.furthest(draft, Some(holder), MoveCause::HolderLost),
                None => self.outcome(keep, self.replicas.clone()),
            };
        }
        // Another still has the grant: where promises cover the takeover the holder takes it; else it waits.
        if let Some(grant) = self.grant.filter(|grant| grant.holder != *holder) {
            if !self.replicas.covered {
                draft.because(self.waits_for(grant));
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
                    self.outcome(keep, self.tend(draft, holder))
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
        self.outcome(keep, self.tend(draft, holder))
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
        let speaks = self.members.get(holder).is_some_and(|member| member.known);
        let named_for = self.before.stood_for + self.view.goal_age;
        let free = self.grant.is_none() || self.replicas.covered;
        if speaks && free {
            if named_for >= TAKE_WITHIN && self.can_ask() {
                return self.ask(draft, Some(holder), MoveCause::NotTaken);
            }
            draft.look_again_in(TAKE_WITHIN.saturating_sub(named_for).max(Duration::from_secs(1)));
        }
        self.outcome(keep, self.replicas.clone())
    }

    /// A copy to which the role returns must have been well as long as its node, and the present reign must have lasted as long:
    /// a role that has just moved does not move again at once.
    fn is_steady(&self, draft: &mut Draft, node: &NodeName) -> bool {
        let seen = self.view.instance(node, &self.service.id);
        let reigned = self.before.stood_for + self.view.goal_age;
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
            _ if self.members.get(holder).is_some_and(|m| m.unfit == Some(WhyNot::Drained)) => Some(MoveCause::Drained),
            _ if self.never_primary(holder) => Some(MoveCause::NotAllowed),
            // A preferred node that takes its place first gets a copy, then the role.
            _ if !self.placed.contains(holder) && !self.has_better(holder) => Some(MoveCause::NotAllowed),
            _ if seen.is_some_and(|seen| seen.state == InstanceState::Failed) => Some(MoveCause::HolderFailing),
            _ => None,
        }
    }

    /// A node is placed to which the role will return.
    fn has_better(&self, holder: &NodeName) -> bool {
        let rank = |node: &NodeName| self.service.prefer.iter().position(|n| n == node).unwrap_or(usize::MAX);
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
        self.outcome(role, replicas)
    }

    /// Nobody is primary, and every member of the stored set is asked for its promise.
    fn ask(&self, draft: &mut Draft, holder: Option<&NodeName>, cause: MoveCause) -> Outcome {
        let needed = self.replicas.stored.certain();
        draft.because(Reason::PromisesAsked { role: self.role.clone(), needed, cause });
        let last = holder.cloned().or_else(|| self.replicas.last.clone());
        let asks = Some(self.next_generation);
        let role = RoleGoal { next: self.before.next.clone(), why: Some(cause), ..RoleGoal::default() };
        self.outcome(role, ReplicaGoal { asks, last, covered: false, ..self.replicas.clone() })
    }

    fn without_holder(&self, draft: &mut Draft) -> Outcome {
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
        let waited = self.before.stood_for + self.view.goal_age;
        if waited >= MOVE_WITHIN && self.is_alive(&grant.holder) {
            return self.returns_to(draft, &grant.holder.clone());
        }
        draft.look_again_in(MOVE_WITHIN.saturating_sub(waited).max(Duration::from_secs(1)));
        draft.because(self.waits_for(grant));
        let role = RoleGoal { next: self.before.next.clone(), why: Some(cause), ..RoleGoal::default() };
        self.outcome(role, self.replicas.clone())
    }

    /// Nothing was ever written: existing data is taken over where it is, else the first node makes it. Only once every
    /// node that might have data has spoken.
    fn first(&self, draft: &mut Draft) -> Outcome {
        let nobody = |turn: &Self| turn.outcome(RoleGoal::default(), turn.replicas.clone());
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
        let fit = |node: &&NodeName| {
            self.members.get(node).is_some_and(|member| member.unfit.is_none()) && !self.never_primary(node)
        };
        let position = |node: &NodeName| self.copy(node).filter(|copy| copy.has_data).map(|copy| copy.position);
        let furthest = self.placed.iter().filter(fit).rev().max_by_key(|node| position(node));
        match (furthest, self.grant) {
            (Some(node), None) => self.named(draft, node, MoveCause::First, false),
            (Some(_), Some(grant)) => {
                draft.because(self.waits_for(grant));
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
            let fit =
                self.members.get(node).is_some_and(|m| m.known && matches!(m.unfit, None | Some(WhyNot::HeldDown)));
            fit && !self.is_suspected(node) && !self.never_primary(node)
        };
        let lossless = promises.iter().filter(|(_, promise)| has_all(promise.position));
        let mut lossless: Vec<&NodeName> = lossless.map(|(node, _)| *node).filter(|node| able(node)).collect();
        let rank = |node: &NodeName| self.placed.iter().position(|placed| placed == node).unwrap_or(usize::MAX);
        let reluctant = |node: &NodeName| self.weary(node) || self.members.get(node).is_some_and(|m| m.unfit.is_some());
        lossless.sort_by_key(|node| (self.before.next.as_ref() != Some(*node), reluctant(node), rank(node)));
        // Whoever was asked for has a moment to promise, even if another is certain to have everything already.
        let waited = self.before.stood_for + self.view.goal_age;
        let next = self.before.next.as_ref().filter(|next| self.replicas.stored.members.contains(*next) && able(next));
        if next.is_some_and(|next| waited < NEXT_WITHIN && !promises.iter().any(|(node, _)| *node == next)) {
            draft.look_again_in(NEXT_WITHIN.saturating_sub(waited));
            return self.outcome(self.before.clone(), self.replicas.clone());
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
        self.outcome(self.before.clone(), self.replicas.clone())
    }

    /// Its database acts as primary, as its agent says of late.
    fn is_alive(&self, node: &NodeName) -> bool {
        let seen = self.view.instance(node, &self.service.id);
        !self.is_lost(node) && seen.is_some_and(|seen| seen.state == InstanceState::Running && seen.token.is_some())
    }

    /// The last primary is here with its data: every acknowledged write was on its disk first.
    fn may_return(&self, last: &NodeName) -> bool {
        let here = !self.is_lost(last) && self.members.get(last).is_some_and(|member| member.known);
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
        self.outcome(RoleGoal { holder: Some(node.clone()), ..RoleGoal::default() }, replicas)
    }

    /// Where commits wait for nobody: the furthest copy among those that speak, if what may be lost is within the bound. A bound
    /// in time says nothing about bytes; what is lost is reported.
    fn furthest(&self, draft: &mut Draft, lost: Option<&NodeName>, cause: MoveCause) -> Outcome {
        let able = |node: &&NodeName| {
            let fit = self.members.get(node).is_some_and(|m| matches!(m.unfit, None | Some(WhyNot::HeldDown)));
            let whole = self.copy(node).is_some_and(|copy| copy.whole && copy.has_data);
            fit && whole && !self.never_primary(node) && lost != Some(*node)
        };
        let reached = |node: &NodeName| self.copy(node).map(|copy| copy.position);
        let preferred = |node: &NodeName| self.before.next.as_ref() == Some(node);
        let best = self.copies.iter().filter(able).rev().max_by_key(|node| (reached(node), preferred(node)));
        let keep = self.outcome(self.before.clone(), self.replicas.clone());
        let Some(best) = best else {
            draft.because(Reason::NoCandidate { role: self.role.clone() });
            return keep;
        };
        // A planned move: whoever is next has everything a moment after the old primary has stopped.
        let waited = self.before.stood_for + self.view.goal_age;
        let last = self.replicas.last.as_ref().filter(|_| lost.is_none());
        if let Some(next) = self.before.next.as_ref().filter(|next| able(next) && waited < RETURN_AFTER) {
            let has_stopped = |last: &NodeName| {
                let current =
                    self.view.report(last).is_some_and(|report| report.generation >= self.view.goal.generation);
                current && self.view.instance(last, &self.service.id).is_none_or(|seen| seen.token.is_none())
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

    /// `degrade = "async"` lets writes go on alone; that they may then be lost was chosen.
    fn may_degrade(&self) -> bool {
        self.postgres().is_some_and(|postgres| postgres.degrade == Degrade::Async)
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
        self.outcome(RoleGoal { holder: Some(node.clone()), ..RoleGoal::default() }, replicas)
    }

    /// One step of the synchronous set towards the standbys that are whole, in the order that S10 asks for: whoever is added
    /// is stored first and waited for then; whoever goes is no longer waited for first, and is forgotten only once the
    /// database goes by the smaller rule and that covers everything that was acknowledged before.
    fn tend(&self, draft: &mut Draft, holder: &NodeName) -> ReplicaGoal {
        let mut after = self.replicas.clone();
        let good: BTreeSet<NodeName> = self
            .placed
            .iter()
            .filter(|node| *node != holder && self.members.present(node) && self.follows(node))
            .cloned()
            .collect();
        let reigned = self.before.stood_for + self.view.goal_age;
        let bad = |node: &NodeName| {
            let known = self.members.get(node).is_some_and(|member| member.known) && reigned >= FOLLOW_WITHIN;
            !self.members.present(node) || !self.placed.contains(node) || (known && !good.contains(node))
        };
        let say = |draft: &mut Draft, rule: &SyncRule| {
            let (role, members) = (self.role.clone(), rule.members.iter().cloned().collect());
            draft.because(Reason::WaitsFor { role, members, k: rule.k });
        };
        if after.wanted != after.stored {
            let copy = self.copy(holder);
            // A report from before this goal may speak of an earlier time at which it went by the same rule.
            let current = self.view.report(holder).is_some_and(|report| report.generation >= self.view.goal.generation);
            let follows = copy.is_some_and(|copy| copy.rule.as_ref() == Some(&after.wanted) && copy.rule_covers);
            let obeyed = current && follows;
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

    fn waits_for(&self, grant: &Grant) -> Reason {
        Reason::WaitingForGrant { role: self.role.clone(), holder: grant.holder.clone(), token: grant.token }
    }
}
