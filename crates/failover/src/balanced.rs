//! Services of which several instances may act at once: who carries traffic, who is a spare.
//!
//! Of a geographic service one site carries the traffic (active/passive) or all do (active/active): see [`serving_site`].

use std::time::Duration;

use backstay_model::{
    Health, InstanceGoal, InstanceObservation, InstanceState, NodeName, Reason, Role, ServiceGoal, Subject,
    reason::{MoveCause, WhyNot},
};
use backstay_planner::wanted_active;
use backstay_spec::{Failback, Mode, ServiceSpec, SpareKind};

use crate::decide::Draft;
use crate::members::Members;
use crate::view::View;

/// An instance that was just made active may not be started yet, or not be seen started yet, for this long.
const BEGIN_WITHIN: Duration = Duration::from_secs(3);

/// How fit an instance is to carry traffic, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fitness {
    /// Runs and passes its check, or carries traffic and nothing is known against it.
    Well,
    /// Could be started, or is starting.
    Ready,
    /// Fails, or its node was lost too often.
    Sick,
    /// Its node is lost or drained.
    Gone,
}

/// One node that may carry an instance.
struct Candidate<'a> {
    node: &'a NodeName,
    fitness: Fitness,
    /// Its place among the preferred nodes, if it may have its role back.
    claim: usize,
    was_active: bool,
    /// How long it has been whole.
    whole_for: Duration,
}

impl Candidate<'_> {
    /// How it is ranked: a spare that does not run until it takes over is as good as one that does, if it may have the role.
    fn standing(&self, service: &ServiceSpec) -> Fitness {
        let may_start = service.spare != SpareKind::Hot && self.claim != usize::MAX;
        if may_start && self.fitness == Fitness::Ready { Fitness::Well } else { self.fitness }
    }
}

/// Revises one service.
pub(crate) fn revise(
    draft: &mut Draft,
    view: &View<'_>,
    members: &Members,
    service: &ServiceSpec,
    placed: &[NodeName],
) {
    let before = view.goal.services.get(&service.id).cloned().unwrap_or_default();
    let chosen = choice(draft, view, members, service, placed, &before);
    let mut candidates: Vec<_> = placed
        .iter()
        .map(|node| {
            let was_active = before.instances.get(node).is_some_and(|i| i.role == Role::Active && !i.leaving);
            let fitness = fitness(view, members, service, node, was_active);
            let claim = match &chosen {
                Some(chosen) if chosen == node && fitness <= Fitness::Ready => 0,
                _ => claim(draft, view, members, service, node, fitness, was_active),
            };
            Candidate { node, fitness, claim, was_active, whole_for: whole_for(view, members, service, node) }
        })
        .collect();
    let site = serving_site(draft, view, service, &candidates, chosen.as_ref());
    let abroad = |node: &NodeName| site.as_ref().is_some_and(|site| view.spec.site_of(node) != *site);
    candidates.sort_by_key(|c| {
        let choice = chosen.as_ref() != Some(c.node);
        (c.standing(service), abroad(c.node), choice, c.claim, !c.was_active, position(&service.prefer, c.node), c.node)
    });

    let active_count = wanted_active(service) as usize;
    let mut after = ServiceGoal { chosen, ..ServiceGoal::default() };
    for (index, candidate) in candidates.iter().enumerate() {
        let role = if index < active_count { Role::Active } else { Role::Spare };
        let runs = role == Role::Active || service.spare == SpareKind::Hot;
        after.instances.insert(candidate.node.clone(), InstanceGoal { role, runs, leaving: false });
    }
    let well = candidates.iter().take(active_count).filter(|c| c.fitness == Fitness::Well).count() as u32;
    keep_until_replaced(&mut after, &before, view, members, service, well);
    say_changes(draft, view, members, service, &before, &after, &candidates);
    if well < service.need {
        draft.because(Reason::BelowNeed { service: service.id.clone(), well, need: service.need });
    }
    draft.goal.services.insert(service.id.clone(), after);
}

/// A node that an operator chose by `switchover`, as long as it is there.
fn choice(
    draft: &mut Draft,
    view: &View<'_>,
    members: &Members,
    service: &ServiceSpec,
    placed: &[NodeName],
    before: &ServiceGoal,
) -> Option<NodeName> {
    let subject = Subject::Service(service.id.clone());
    let kept = before.chosen.clone().filter(|node| members.present(node));
    let Some(asked) = members.asked(view, &subject) else {
        draft.say_choice(&subject, before.chosen.as_ref(), kept.as_ref());
        return kept;
    };
    draft.answer(subject.clone());
    let why = match members.get(asked) {
        None => Some(WhyNot::NotInFile),
        Some(member) if member.unfit.is_some() => member.unfit,
        Some(_) if !placed.contains(asked) => Some(WhyNot::NotPlaced),
        Some(_) => None,
    };
    match why {
        None => {
            draft.say_choice(&subject, before.chosen.as_ref(), Some(asked));
            Some(asked.clone())
        }
        Some(why) => {
            draft.say_choice(&subject, before.chosen.as_ref(), kept.as_ref());
            draft.because(Reason::Refused { subject, node: asked.clone(), why });
            kept
        }
    }
}

fn fitness(view: &View<'_>, members: &Members, service: &ServiceSpec, node: &NodeName, was_active: bool) -> Fitness {
    match members.get(node).map(|member| member.unfit) {
        None | Some(Some(WhyNot::Absent | WhyNot::Drained | WhyNot::Witness)) => return Fitness::Gone,
        // Unknown is not dead: it keeps its role and gets no new one.
        Some(Some(WhyNot::Unknown)) => return if was_active { Fitness::Well } else { Fitness::Sick },
        Some(Some(WhyNot::HeldDown)) if !was_active => return Fitness::Sick,
        _ => {}
    }
    match view.instance(node, &service.id) {
        None => Fitness::Ready,
        Some(seen) if seen.is_well() => Fitness::Well,
        Some(seen) if was_active && begins(seen, view.goal_age) => Fitness::Well,
        Some(seen) if seen.state == InstanceState::Failed || seen.health == Health::Failing => Fitness::Sick,
        Some(_) => Fitness::Ready,
    }
}

/// Its first start is under way, or about to be: no reason to hand its traffic to another that was a little quicker.
fn begins(seen: &InstanceObservation, goal_age: Duration) -> bool {
    let starts = match seen.state {
        InstanceState::Starting => seen.health != Health::Failing,
        InstanceState::Prepared => goal_age < BEGIN_WITHIN,
        _ => false,
    };
    starts && seen.failures == 0
}

/// The place of a preferred node that may be active: it already is, nobody is yet, or failback allows its return.
fn claim(
    draft: &mut Draft,
    view: &View<'_>,
    members: &Members,
    service: &ServiceSpec,
    node: &NodeName,
    fitness: Fitness,
    was_active: bool,
) -> usize {
    let rank = position(&service.prefer, node);
    let first = !view.goal.services.contains_key(&service.id);
    if rank == usize::MAX || was_active || first {
        return rank;
    }
    let displaced = service.prefer.iter().take(wanted_active(service) as usize).any(|preferred| preferred == node);
    if !displaced || service.failback == Failback::Manual || fitness > Fitness::Ready {
        return usize::MAX;
    }
    let remaining = service.steady.saturating_sub(whole_for(view, members, service, node));
    if remaining.is_zero() {
        return rank;
    }
    draft.look_again_in(remaining);
    let subject = Subject::Service(service.id.clone());
    draft.because(Reason::FailbackWaits { subject, node: node.clone(), remaining });
    usize::MAX
}

/// How long a node has been here, and its hot spare well.
fn whole_for(view: &View<'_>, members: &Members, service: &ServiceSpec, node: &NodeName) -> Duration {
    let well_for = match (service.spare, view.instance(node, &service.id)) {
        (SpareKind::Hot, seen) => seen.map_or(Duration::ZERO, |seen| seen.healthy_for),
        _ => Duration::MAX,
    };
    members.get(node).map_or(Duration::ZERO, |member| member.steady_for).min(well_for)
}

/// The site that carries the traffic of an active/passive service with `sites`.
///
/// The one that does goes on as long as it can carry the load; else the first of `sites` that can, those with running
/// instances before those that would have to start them. An earlier one of `sites` gets the traffic back once enough of
/// its instances were whole for `steady`. Where no site can carry the load by itself, all help.
fn serving_site(
    draft: &mut Draft,
    view: &View<'_>,
    service: &ServiceSpec,
    candidates: &[Candidate<'_>],
    chosen: Option<&NodeName>,
) -> Option<String> {
    if service.sites.is_empty() || service.mode == Mode::ActiveActive {
        return None;
    }
    if let Some(node) = chosen {
        return Some(view.spec.site_of(node));
    }
    let need = service.need as usize;
    let inside = |at: usize| {
        let site = service.sites.get(at).map(String::as_str).unwrap_or_default();
        candidates.iter().filter(move |c| view.spec.site_of(c.node) == site)
    };
    let carries = |at: usize, at_least: Fitness| inside(at).filter(|c| c.fitness <= at_least).count() >= need;
    let first = |at_least: Fitness| (0..service.sites.len()).find(|at| carries(*at, at_least));
    let actives = |at: &usize| inside(*at).filter(|c| c.was_active).count();
    let present = (0..service.sites.len()).rev().max_by_key(actives).filter(|at| actives(at) > 0);
    let named = |at: usize| service.sites.get(at).cloned();
    let Some(present) = present.filter(|at| carries(*at, Fitness::Ready)) else {
        return first(Fitness::Well).or_else(|| first(Fitness::Ready)).and_then(named);
    };
    // Spares that do not run are started for it.
    let ready = if service.spare == SpareKind::Hot { Fitness::Well } else { Fitness::Ready };
    let better = first(ready).filter(|at| *at < present && service.failback == Failback::Auto);
    let Some(better) = better else { return named(present) };
    let mut waits: Vec<_> = inside(better).map(|c| (service.steady.saturating_sub(c.whole_for), c.node)).collect();
    waits.sort();
    match waits.get(need.saturating_sub(1)) {
        Some((remaining, node)) if !remaining.is_zero() => {
            draft.look_again_in(*remaining);
            let subject = Subject::Service(service.id.clone());
            draft.because(Reason::FailbackWaits { subject, node: (*node).clone(), remaining: *remaining });
            named(present)
        }
        _ => named(better),
    }
}

/// An instance that is no longer wanted goes on, also with its traffic, until what replaces it is well, so that a move
/// takes nothing from the model; on a node that is being drained only until the load is carried without it.
fn keep_until_replaced(
    after: &mut ServiceGoal,
    before: &ServiceGoal,
    view: &View<'_>,
    members: &Members,
    service: &ServiceSpec,
    well: u32,
) {
    let carried = well >= service.need;
    // Who fails is no reason to wait: the load is carried without it, or it is not.
    let settled = |seen: &InstanceObservation| {
        seen.is_well() || seen.state == InstanceState::Failed || seen.health == Health::Failing
    };
    let mut running = after.instances.iter().filter(|(_, instance)| instance.runs);
    let replaced = running.all(|(node, _)| view.instance(node, &service.id).is_some_and(settled));
    for (node, instance) in &before.instances {
        let serves = view.instance(node, &service.id).is_none_or(|seen| seen.is_well());
        let drained = members.get(node).is_some_and(|member| member.unfit == Some(WhyNot::Drained));
        let done = carried && (replaced || drained);
        let keeps = !done && instance.runs && members.present(node) && serves;
        // Gone from the model, or to be a spare that does not run.
        if keeps && after.instances.get(node).is_none_or(|next| !next.runs) {
            after.instances.insert(node.clone(), InstanceGoal { leaving: true, ..instance.clone() });
        }
    }
}

fn say_changes(
    draft: &mut Draft,
    view: &View<'_>,
    members: &Members,
    service: &ServiceSpec,
    before: &ServiceGoal,
    after: &ServiceGoal,
    seen: &[Candidate<'_>],
) {
    let id = &service.id;
    let active_before = before.instances.iter().filter(|(_, i)| i.role == Role::Active).map(|(node, _)| node);
    let gone: Vec<_> = active_before.filter(|node| !members.present(node) || view.drains.contains(*node)).collect();
    let drained = gone.iter().any(|node| view.drains.contains(*node));
    for (node, instance) in &after.instances {
        let role = instance.role;
        match before.instances.get(node) {
            None => draft.because(Reason::Placed { service: id.clone(), node: node.clone(), role }),
            Some(was) if was.leaving && !instance.leaving => {
                draft.because(Reason::Placed { service: id.clone(), node: node.clone(), role });
            }
            Some(was) if was.role != role => {
                let cause = match () {
                    _ if after.chosen.as_ref() == Some(node) && before.chosen != after.chosen => MoveCause::Asked,
                    _ if before.chosen != after.chosen && after.chosen.is_some() => MoveCause::Asked,
                    _ if drained => MoveCause::Drained,
                    _ if !gone.is_empty() => MoveCause::HolderLost,
                    _ if seen.iter().any(|c| c.was_active && c.fitness > Fitness::Well) => MoveCause::HolderFailing,
                    _ => MoveCause::Failback,
                };
                draft.because(Reason::RoleChanged { service: id.clone(), node: node.clone(), role, cause });
            }
            Some(_) => {}
        }
    }
    for node in before.instances.keys().filter(|node| !after.instances.contains_key(*node)) {
        draft.because(Reason::Removed { service: id.clone(), node: node.clone() });
    }
}

fn position<T: PartialEq>(list: &[T], wanted: &T) -> usize {
    list.iter().position(|one| one == wanted).unwrap_or(usize::MAX)
}
