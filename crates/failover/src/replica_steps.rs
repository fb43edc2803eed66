//! What one node owes to the goal of a replicated database. Standbys run all the time, so this differs from a program that
//! only its holder runs: a grant makes one of the running copies primary.

use backstay_model::{
    Generation, InstanceObservation, InstanceState, NodeName, Reign, ReplicaGoal, Role, RoleKey, ServiceGoal,
    ServiceId, Step,
};

use crate::next_step::{Local, is_ours};

/// The steps for one database, in the order in which they should be tried.
pub(crate) fn owed(
    id: &ServiceId,
    service: &ServiceGoal,
    generation: Generation,
    local: &Local<'_>,
    steps: &mut Vec<Step>,
) {
    let (Some(primary), Some(replicas)) = (&service.primary, &service.replicas) else { return };
    let seen = local.seen.instances.get(id);
    if primary.holder.as_ref() == Some(local.node) {
        return hold(id, replicas, generation, local, seen, steps);
    }
    if !service.instances.contains_key(local.node) || acts(id, local, seen) {
        return;
    }
    steps.push(Step::Start { service: id.clone(), role: Role::Standby, token: None, generation, reign: None });
    match &primary.holder {
        Some(upstream) => follow(id, upstream, generation, local, steps),
        None => promise(id, replicas, local, seen, steps),
    }
}

/// The holder takes its grant, then acts under it.
fn hold(
    id: &ServiceId,
    replicas: &ReplicaGoal,
    generation: Generation,
    local: &Local<'_>,
    seen: Option<&InstanceObservation>,
    steps: &mut Vec<Step>,
) {
    let role = RoleKey::Service(id.clone());
    let grant = local.grants.get(&role);
    match grant {
        Some(grant) if is_ours(grant, local) => {
            if local.runs_until.get(&role).is_some_and(|hold| hold.token == grant.token) {
                let reign = Some(Reign { timeline: replicas.timeline, rule: replicas.wanted.clone() });
                let token = Some(grant.token);
                steps.push(Step::Start { service: id.clone(), role: Role::Primary, token, generation, reign });
                steps.push(Step::Sync { service: id.clone(), rule: replicas.wanted.clone() });
            }
        }
        // What acts here under an earlier grant must be gone before another is taken.
        _ if acts(id, local, seen) => {}
        None => steps.push(Step::TakeGrant { role, token: generation, instead_of: None }),
        Some(grant) if replicas.covered => {
            let instead_of = Some(grant.token);
            steps.push(Step::TakeGrant { role, token: generation, instead_of });
        }
        Some(_) => {}
    }
}

/// A standby follows the holder once that has its grant; until then, and while nobody is named, it stays with whom it has (S7).
fn follow(id: &ServiceId, upstream: &NodeName, generation: Generation, local: &Local<'_>, steps: &mut Vec<Step>) {
    if let Some(grant) = local.grants.get(&RoleKey::Service(id.clone())).filter(|grant| grant.holder == *upstream) {
        let (service, upstream, token) = (id.clone(), upstream.clone(), grant.token);
        steps.push(Step::Follow { service, upstream, token, generation });
    }
}

/// A member of the stored set that is asked promises, if it has a whole copy and has not yet.
fn promise(
    id: &ServiceId,
    replicas: &ReplicaGoal,
    local: &Local<'_>,
    seen: Option<&InstanceObservation>,
    steps: &mut Vec<Step>,
) {
    let whole = seen.and_then(|seen| seen.replica.as_ref()).is_some_and(|copy| copy.whole);
    let Some(asked) = replicas.asks.filter(|_| whole) else { return };
    if replicas.stored.members.contains(local.node) {
        steps.push(Step::Promise { service: id.clone(), generation: asked });
    }
}

/// Something here may act as primary: under a token, or about to be started again under this node's grant.
pub(crate) fn acts(id: &ServiceId, local: &Local<'_>, seen: Option<&InstanceObservation>) -> bool {
    let Some(seen) = seen else { return false };
    let ours = local.grants.get(&RoleKey::Service(id.clone())).is_some_and(|grant| is_ours(grant, local));
    let stopped = seen.state == InstanceState::Prepared;
    !stopped && (seen.token.is_some() || (seen.state == InstanceState::Failed && ours))
}

/// Whether what runs here is what the goal wants: a standby anywhere in the goal, a primary only with the goal and its grant.
pub(crate) fn is_wanted(id: &ServiceId, service: &ServiceGoal, local: &Local<'_>, seen: &InstanceObservation) -> bool {
    if !acts(id, local, Some(seen)) {
        return service.instances.contains_key(local.node);
    }
    let named = service.primary.as_ref().is_some_and(|primary| primary.holder.as_ref() == Some(local.node));
    let grant = local.grants.get(&RoleKey::Service(id.clone()));
    named && grant.is_some_and(|grant| is_ours(grant, local) && seen.token.is_none_or(|token| token == grant.token))
}
