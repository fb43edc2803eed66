//! Roles that only one node may hold: primaries of exclusive services, and addresses.
//!
//! Whoever should hold such a role is named here; whoever does, holds its grant in the store. So a planned move is two
//! goals: first "nobody, next is B", and only when the old holder's grant is released or has ended, "B". A lost holder is
//! replaced in one, because its grant has ended by then.

use std::time::Duration;

use backstay_model::{
    AddressGoal, AddressState, Grant, InstanceGoal, InstanceState, ListenerName, NodeName, Reason, Role, RoleGoal,
    RoleKey, ServiceGoal, ServiceId, Subject,
    reason::{MoveCause, WhyNot},
};
use backstay_spec::{Failback, ListenerSpec, ServiceSpec};

use crate::decide::Draft;
use crate::members::Members;
use crate::view::View;

/// A holder that was named and does not take its free grant within this time is passed over: its agent renews its session,
/// but its hands hang or what it should run cannot start. As long as S5's `proof_within`.
pub(crate) const TAKE_WITHIN: Duration = Duration::from_secs(10);
/// So many failures within a minute, and the fault is likely the node's: restarting there has had its chance.
const FAILURES_TO_MOVE: u32 = 3;

/// One exclusive role, its past and who may have it.
struct Contest<'a> {
    role: RoleKey,
    before: RoleGoal,
    grant: Option<&'a Grant>,
    /// Nodes that may take it, best first.
    candidates: Vec<NodeName>,
    /// Why the present holder must leave although it is there.
    must_leave: Option<MoveCause>,
    /// The node that should have it, if its holder is well too: an operator's choice or the preferred node.
    wanted: Option<(NodeName, MoveCause)>,
}

/// Revises the primary and the standbys of one exclusive service.
pub(crate) fn revise_service(
    draft: &mut Draft,
    view: &View<'_>,
    members: &Members,
    service: &ServiceSpec,
    placed: &[NodeName],
) {
    let before = view.goal.services.get(&service.id).cloned().unwrap_or_default();
    let role = RoleKey::Service(service.id.clone());
    let subject = Subject::Service(service.id.clone());
    let fails = |node: &NodeName| {
        let seen = view.instance(node, &service.id);
        seen.is_some_and(|i| i.state == InstanceState::Failed && i.failures >= FAILURES_TO_MOVE)
    };
    let weary = |node: &NodeName| is_weary(view, node, &service.id);
    let holder_is_here = before.primary.as_ref().and_then(|primary| primary.holder.as_ref());
    let holder_is_here = holder_is_here.is_some_and(|holder| members.present(holder));
    let fresh = |node: &NodeName| members.fit(node) && !weary(node);
    let avoid_weary = holder_is_here || placed.iter().any(fresh);
    let trouble = |node: &NodeName| (fails(node) || (avoid_weary && weary(node))).then_some(WhyNot::Failing);
    let candidates = candidates(draft, members, &subject, placed, trouble);
    let placed_here = |node: &NodeName| placed.contains(node);
    let chosen = choice(draft, view, members, &subject, before.chosen.as_ref(), &candidates, placed_here);
    let role_before = before.primary.clone().unwrap_or_default();
    let must_leave = role_before.holder.as_ref().and_then(|holder| match () {
        _ if members.drained(holder) => Some(MoveCause::Drained),
        _ if members.present(holder) && !placed.contains(holder) => Some(MoveCause::NotAllowed),
        _ if fails(holder) => Some(MoveCause::HolderFailing),
        _ => None,
    });
    let wanted = match &chosen {
        // A choice that cannot be followed just now stands all the same: no failback against it.
        Some(node) => candidates.contains(node).then(|| (node.clone(), MoveCause::Asked)),
        None => failback(draft, members, service, &subject, &role_before, &candidates),
    };
    // A holder that its preferred successor displaces from the placement goes by failback, not because of the file.
    let must_leave = must_leave.filter(|cause| *cause != MoveCause::NotAllowed || wanted.is_none());
    let grant = view.grants.get(&role);
    let contest = Contest { role, before: role_before, grant, candidates, must_leave, wanted };
    let after_role = contest.settle(draft, view, members);

    let mut after = ServiceGoal { chosen, ..ServiceGoal::default() };
    let holder = after_role.holder.clone();
    for node in placed.iter().chain(&holder) {
        let is_primary = holder.as_ref() == Some(node);
        let role = if is_primary { Role::Primary } else { Role::Standby };
        after.instances.insert(node.clone(), InstanceGoal { role, runs: is_primary, leaving: false });
    }
    after.primary = Some(after_role);
    say_placement(draft, service, &before, &after);
    draft.goal.services.insert(service.id.clone(), after);
}

/// An instance failed there again and again. That it was then stopped has not mended it; only a window without failures clears
/// it, or that nobody else is left.
pub(crate) fn is_weary(view: &View<'_>, node: &NodeName, service: &ServiceId) -> bool {
    view.instance(node, service).is_some_and(|seen| seen.failures >= FAILURES_TO_MOVE && !seen.is_well())
}

/// Revises the holder of one listener's address.
pub(crate) fn revise_address(
    draft: &mut Draft,
    view: &View<'_>,
    members: &Members,
    name: &ListenerName,
    listener: &ListenerSpec,
) {
    let before = view.goal.addresses.get(name).cloned().unwrap_or_default();
    let subject = Subject::Address(name.clone());
    let cannot_bind = |node: &NodeName| {
        let seen = view.report(node).and_then(|report| report.addresses.get(name));
        matches!(seen, Some(AddressState::Failed(_)))
    };
    let nodes: Vec<_> = members.iter().map(|(node, _)| node.clone()).collect();
    let mut candidates = candidates(draft, members, &subject, &nodes, |node| match view.report(node) {
        Some(report) if !report.balancer_up => Some(WhyNot::NoBalancer),
        _ if cannot_bind(node) => Some(WhyNot::CannotBind),
        _ => None,
    });
    // Off the node of a primary it leads to, when it can be: one lost node should not take both.
    let primaries = primaries_behind(draft, listener);
    let holds_now = |node: &NodeName| before.role.holder.as_ref() == Some(node);
    candidates.sort_by_key(|node| (!holds_now(node), primaries.contains(node)));
    let chosen = choice(draft, view, members, &subject, before.chosen.as_ref(), &candidates, |_| true);
    let must_leave = before.role.holder.as_ref().and_then(|holder| match () {
        _ if members.get(holder).is_none_or(|m| m.unfit == Some(WhyNot::Drained)) => Some(MoveCause::Drained),
        _ if view.report(holder).is_some_and(|report| !report.balancer_up) => Some(MoveCause::HolderFailing),
        _ if cannot_bind(holder) => Some(MoveCause::HolderFailing),
        _ => None,
    });
    let role = RoleKey::Address(name.clone());
    let grant = view.grants.get(&role);
    let wanted = chosen.clone().filter(|node| candidates.contains(node)).map(|node| (node, MoveCause::Asked));
    let contest = Contest { role, before: before.role, grant, candidates, must_leave, wanted };
    let role = contest.settle(draft, view, members);
    draft.goal.addresses.insert(name.clone(), AddressGoal { role, chosen });
}

/// Nodes that may take a role, best first: as placed, those held down last. Says why the others are passed over.
fn candidates(
    draft: &mut Draft,
    members: &Members,
    subject: &Subject,
    placed: &[NodeName],
    trouble: impl Fn(&NodeName) -> Option<WhyNot>,
) -> Vec<NodeName> {
    let (mut fit, mut reluctant) = (Vec::new(), Vec::new());
    for node in placed {
        let unfit = members.get(node).map_or(Some(WhyNot::NotInFile), |member| member.unfit);
        match unfit.filter(|why| *why != WhyNot::HeldDown).or_else(|| trouble(node)) {
            Some(why) => {
                draft.because(Reason::PassedOver { subject: subject.clone(), node: node.clone(), why });
            }
            None if unfit.is_some() => reluctant.push(node.clone()),
            None => fit.push(node.clone()),
        }
    }
    fit.append(&mut reluctant);
    fit
}

/// The node that an operator chose: a new request if it can be met, else the standing one while that node is there. A node
/// that is only silent is there: unknown moves nothing.
pub(crate) fn choice(
    draft: &mut Draft,
    view: &View<'_>,
    members: &Members,
    subject: &Subject,
    before: Option<&NodeName>,
    candidates: &[NodeName],
    allowed: impl Fn(&NodeName) -> bool,
) -> Option<NodeName> {
    let stands = |node: &&NodeName| {
        let silent = members.get(node).is_some_and(|member| member.unfit == Some(WhyNot::Unknown));
        candidates.contains(node) || (silent && allowed(node))
    };
    let kept = before.filter(stands).cloned();
    let Some(asked) = members.asked(view, subject) else {
        draft.say_choice(subject, before, kept.as_ref());
        return kept;
    };
    draft.answer(subject.clone());
    if candidates.contains(asked) {
        draft.say_choice(subject, before, Some(asked));
        return Some(asked.clone());
    }
    draft.say_choice(subject, before, kept.as_ref());
    let why = match members.get(asked) {
        None => WhyNot::NotInFile,
        Some(member) => member.unfit.unwrap_or(WhyNot::NotPlaced),
    };
    draft.because(Reason::Refused { subject: subject.clone(), node: asked.clone(), why });
    kept
}

/// The preferred node that the role returns to, once it has been whole long enough.
pub(crate) fn failback(
    draft: &mut Draft,
    members: &Members,
    service: &ServiceSpec,
    subject: &Subject,
    before: &RoleGoal,
    candidates: &[NodeName],
) -> Option<(NodeName, MoveCause)> {
    let present = before.holder.as_ref().or(before.next.as_ref())?;
    let better = service.prefer.iter().find(|node| candidates.contains(node))?;
    if service.failback == Failback::Manual || service.preference(better) >= service.preference(present) {
        return None;
    }
    let steady_for = members.get(better).map_or(Duration::ZERO, |member| member.steady_for);
    let remaining = service.steady.saturating_sub(steady_for);
    if remaining.is_zero() {
        return Some((better.clone(), MoveCause::Failback));
    }
    draft.look_again_in(remaining);
    draft.because(Reason::FailbackWaits { subject: subject.clone(), node: better.clone(), remaining });
    None
}

/// Where the primaries are that a listener leads to.
fn primaries_behind(draft: &Draft, listener: &ListenerSpec) -> Vec<NodeName> {
    let services = listener.entries.values().filter_map(|entry| draft.goal.services.get(entry.to.service()));
    services.filter_map(|service| service.primary.as_ref()?.holder.clone()).collect()
}

pub(crate) fn say_placement(draft: &mut Draft, service: &ServiceSpec, before: &ServiceGoal, after: &ServiceGoal) {
    for (node, instance) in after.instances.iter().filter(|(node, _)| !before.instances.contains_key(*node)) {
        let role = instance.role;
        draft.because(Reason::Placed { service: service.id.clone(), node: node.clone(), role });
    }
    for node in before.instances.keys().filter(|node| !after.instances.contains_key(*node)) {
        draft.because(Reason::Removed { service: service.id.clone(), node: node.clone() });
    }
}

impl Contest<'_> {
    /// Who should hold the role now.
    fn settle(self, draft: &mut Draft, view: &View<'_>, members: &Members) -> RoleGoal {
        let mut after = match self.before.holder.clone() {
            Some(holder) => self.with_holder(draft, view, members, holder),
            None => self.without_holder(draft),
        };
        let stands = after.holder == self.before.holder && after.next == self.before.next;
        after.stood_for = if stands { self.before.stood_for + view.goal_age } else { Duration::ZERO };
        after
    }

    /// Nobody should hold it: name the next holder as soon as nobody does.
    fn without_holder(&self, draft: &mut Draft) -> RoleGoal {
        let cause = self.before.why.unwrap_or(MoveCause::First);
        let next = self.before.next.clone().filter(|next| self.candidates.contains(next));
        let next = next.or_else(|| self.wanted.clone().map(|(node, _)| node)).or_else(|| self.best());
        match (next, self.grant) {
            (next, Some(grant)) => {
                draft.because(Reason::waiting_for(&self.role, grant));
                RoleGoal { next, why: Some(cause), ..RoleGoal::default() }
            }
            (Some(next), None) => self.named(draft, next, cause),
            (None, None) => {
                draft.because(Reason::NoCandidate { role: self.role.clone() });
                RoleGoal::default()
            }
        }
    }

    fn with_holder(&self, draft: &mut Draft, view: &View<'_>, members: &Members, holder: NodeName) -> RoleGoal {
        let keep = RoleGoal::held_by(holder.clone());
        let other = self.candidates.iter().find(|node| **node != holder).cloned();
        let held_by_it = self.grant.is_some_and(|grant| grant.holder == holder);

        // Lost: its session ended. The role is free once its grant has ended too.
        if !members.present(&holder) {
            return match (self.grant, other) {
                (Some(grant), _) => {
                    draft.because(Reason::waiting_for(&self.role, grant));
                    keep
                }
                (None, Some(other)) => self.named(draft, other, MoveCause::HolderLost),
                (None, None) => {
                    draft.because(Reason::NoCandidate { role: self.role.clone() });
                    keep
                }
            };
        }
        // Somebody else still holds it, from before: it is their turn to release, not ours to hurry.
        if let Some(grant) = self.grant.filter(|grant| grant.holder != holder) {
            draft.because(Reason::waiting_for(&self.role, grant));
            return keep;
        }
        // There, but it must go; it stays while nobody else could take over.
        if let Some(cause) = self.must_leave {
            return match other {
                Some(other) => self.asked(draft, &holder, other, cause),
                None => {
                    draft.because(Reason::NoCandidate { role: self.role.clone() });
                    keep
                }
            };
        }
        if let Some((wanted, cause)) = self.wanted.clone().filter(|(wanted, _)| *wanted != holder) {
            return self.asked(draft, &holder, wanted, cause);
        }
        // Named, free, and not taken. Only a holder that speaks is judged: unknown moves nothing.
        if !held_by_it && members.speaks(&holder) {
            let named_for = self.before.stood_for + view.goal_age;
            match other {
                Some(other) if named_for >= TAKE_WITHIN => return self.named(draft, other, MoveCause::NotTaken),
                _ => draft.look_again_in(TAKE_WITHIN.saturating_sub(named_for).max(Duration::from_secs(1))),
            }
        }
        keep
    }

    fn best(&self) -> Option<NodeName> {
        self.candidates.first().cloned()
    }

    fn named(&self, draft: &mut Draft, node: NodeName, cause: MoveCause) -> RoleGoal {
        draft.because(Reason::HolderNamed { role: self.role.clone(), node: node.clone(), cause });
        RoleGoal::held_by(node)
    }

    /// The first half of a planned move: nobody, and who is next. If nobody holds the grant, the second half at once.
    fn asked(&self, draft: &mut Draft, from: &NodeName, to: NodeName, cause: MoveCause) -> RoleGoal {
        if self.grant.is_none() {
            return self.named(draft, to, cause);
        }
        let (role, from) = (self.role.clone(), from.clone());
        draft.because(Reason::HolderAsked { role, from, to: to.clone(), cause });
        RoleGoal { next: Some(to), why: Some(cause), ..RoleGoal::default() }
    }
}
