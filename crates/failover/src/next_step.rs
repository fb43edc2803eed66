//! What one node still owes to the goal: derived from the goal, the grants and what the node sees of itself. It chooses
//! nothing, so two agents that read the same goal can never disagree about it.

use std::collections::BTreeMap;

use backstay_model::{
    AddressState, Goal, Grant, InstanceState, ListenerName, NodeName, Observation, RoleKey, Step, Token,
};

use crate::replica_steps;

/// What an agent knows of its own hold on things.
#[derive(Clone, Debug)]
pub struct Local<'a> {
    /// Which node this is.
    pub node: &'a NodeName,
    /// The session it renews.
    pub session: u64,
    /// Grants as this node last read them from the store.
    pub grants: &'a BTreeMap<RoleKey, Grant>,
    /// What it sees of itself.
    pub seen: &'a Observation,
    /// Which roles' deadlines still run, by this node's own clock.
    pub runs_until: &'a BTreeMap<RoleKey, Hold>,
}

/// A role that this node may act in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Under which token.
    pub token: Token,
}

/// The steps that this node owes, in the order in which they should be tried: stopping comes before starting.
pub fn next_steps(goal: &Goal, local: &Local<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    stop_what_is_unwanted(goal, local, &mut steps);
    for (id, service) in &goal.services {
        match &service.primary {
            Some(_) if service.replicas.is_some() => {
                replica_steps::owed(id, service, goal.generation, local, &mut steps);
            }
            Some(primary) => {
                let role = RoleKey::Service(id.clone());
                let idle = seen_state(local, id).is_none_or(|(state, _)| is_idle(state));
                let named = primary.holder.as_ref() == Some(local.node);
                if let Some(token) = enter(goal, local, &role, named, idle, &mut steps) {
                    let instance = service.instances.get(local.node);
                    let (role, generation) =
                        (instance.map_or(backstay_model::Role::Primary, |i| i.role), goal.generation);
                    steps.push(Step::Start { service: id.clone(), role, token: Some(token), generation, reign: None });
                }
            }
            None => {
                if let Some(instance) = service.instances.get(local.node).filter(|instance| instance.runs) {
                    let (role, generation) = (instance.role, goal.generation);
                    steps.push(Step::Start { service: id.clone(), role, token: None, generation, reign: None });
                }
            }
        }
    }
    for (name, address) in &goal.addresses {
        let role = RoleKey::Address(name.clone());
        let idle = is_closed(local, name);
        let named = address.role.holder.as_ref() == Some(local.node);
        if let Some(token) = enter(goal, local, &role, named, idle, &mut steps) {
            steps.push(Step::Bind { listener: name.clone(), token });
        }
    }
    release_what_is_over(goal, local, &mut steps);
    steps
}

/// An exclusive role here: with the grant and a running deadline, its token; named and free, the step that takes it.
fn enter(
    goal: &Goal,
    local: &Local<'_>,
    role: &RoleKey,
    named: bool,
    idle: bool,
    steps: &mut Vec<Step>,
) -> Option<Token> {
    if !named {
        return None;
    }
    match local.grants.get(role) {
        Some(grant) if is_ours(grant, local) => {
            let runs = local.runs_until.get(role).is_some_and(|hold| hold.token == grant.token);
            runs.then_some(grant.token)
        }
        Some(_) => None,
        // Taken only by a node that runs nothing of it: what an older grant left must be gone first.
        None if idle => {
            steps.push(Step::TakeGrant { role: role.clone(), token: goal.generation, instead_of: None });
            None
        }
        None => None,
    }
}

/// Everything that runs here and should not: not in the goal, or under a grant that is not ours any more.
fn stop_what_is_unwanted(goal: &Goal, local: &Local<'_>, steps: &mut Vec<Step>) {
    for (id, seen) in &local.seen.instances {
        if is_idle(seen.state) {
            continue;
        }
        let wanted = goal.services.get(id).is_some_and(|service| match &service.primary {
            Some(_) if service.replicas.is_some() => replica_steps::is_wanted(id, service, local, seen),
            Some(primary) => {
                let grant = local.grants.get(&RoleKey::Service(id.clone()));
                let ours =
                    grant.is_some_and(|grant| is_ours(grant, local) && seen.token.is_none_or(|t| t == grant.token));
                primary.holder.as_ref() == Some(local.node) && ours
            }
            None => service.instances.get(local.node).is_some_and(|instance| instance.runs),
        });
        if !wanted {
            steps.push(Step::Stop { service: id.clone() });
        }
    }
    for (name, seen) in &local.seen.addresses {
        // One that cannot be bound may be bound in part: it is told to close like any other.
        let token = match seen {
            AddressState::Closed => continue,
            AddressState::Bound(token) => Some(*token),
            AddressState::Failed(_) => None,
        };
        let named = goal.addresses.get(name).is_some_and(|a| a.role.holder.as_ref() == Some(local.node));
        let grant = local.grants.get(&RoleKey::Address(name.clone()));
        let ours = grant.is_some_and(|grant| is_ours(grant, local) && token.is_none_or(|token| grant.token == token));
        if !(named && ours) {
            steps.push(Step::Unbind { listener: name.clone() });
        }
    }
}

/// Grants of ours that the goal no longer gives us, once nothing of them is left here.
fn release_what_is_over(goal: &Goal, local: &Local<'_>, steps: &mut Vec<Step>) {
    for (role, grant) in local.grants.iter().filter(|(_, grant)| is_ours(grant, local)) {
        let (named, idle) = match role {
            RoleKey::Coordinator => continue,
            RoleKey::Service(id) => {
                let primary = goal.services.get(id).and_then(|service| service.primary.as_ref());
                let named = primary.is_some_and(|primary| primary.holder.as_ref() == Some(local.node));
                let replicated = goal.services.get(id).is_some_and(|service| service.replicas.is_some());
                let seen = local.seen.instances.get(id);
                let idle = match replicated {
                    true => !replica_steps::acts(id, local, seen),
                    false => seen.is_none_or(|seen| is_idle(seen.state)),
                };
                (named, idle)
            }
            RoleKey::Address(name) => {
                let named = goal.addresses.get(name).is_some_and(|a| a.role.holder.as_ref() == Some(local.node));
                (named, is_closed(local, name))
            }
        };
        if !named && idle {
            steps.push(Step::ReleaseGrant { role: role.clone(), token: grant.token });
        }
    }
}

fn is_closed(local: &Local<'_>, name: &ListenerName) -> bool {
    local.seen.addresses.get(name).is_none_or(|state| *state == AddressState::Closed)
}

pub(crate) fn is_ours(grant: &Grant, local: &Local<'_>) -> bool {
    grant.holder == *local.node && grant.session == local.session
}

/// Nothing runs and nothing will be started: one that failed is started again by its hand until it is told to stop.
fn is_idle(state: InstanceState) -> bool {
    state == InstanceState::Prepared
}

fn seen_state(local: &Local<'_>, id: &backstay_model::ServiceId) -> Option<(InstanceState, Option<Token>)> {
    local.seen.instances.get(id).map(|seen| (seen.state, seen.token))
}
