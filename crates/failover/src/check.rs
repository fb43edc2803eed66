//! A second pair of eyes: an independent linter of goals, run after every decision by tests and by the simulator.

use backstay_model::{Goal, Role};
use backstay_spec::Spec;

/// What is wrong with a goal that follows `parent`; nothing when it is sound.
pub fn check(spec: &Spec, parent: &Goal, goal: &Goal) -> Vec<String> {
    let mut notes = Vec::new();
    if goal.generation <= parent.generation {
        notes.push(format!("generation {} does not follow {}", goal.generation, parent.generation));
    }
    if goal.parent != parent.generation {
        notes.push(format!("parent {} is not the goal in force, {}", goal.parent, parent.generation));
    }
    for (id, service) in &goal.services {
        let Some(declared) = spec.services.get(id) else {
            notes.push(format!("{id} is not declared"));
            continue;
        };
        let primaries = service.instances.values().filter(|i| i.role == Role::Primary).count();
        match (&service.primary, declared.exclusive) {
            (Some(primary), true) => {
                if primaries != usize::from(primary.holder.is_some()) {
                    notes.push(format!("{id} has {primaries} primaries, its holder is {:?}", primary.holder));
                }
                if primary.holder.is_some() && primary.next.is_some() {
                    notes.push(format!("{id} has both a holder and a next one"));
                }
                let idle = service.instances.values().all(|i| i.runs == (i.role == Role::Primary));
                if !idle {
                    notes.push(format!("{id} is exclusive, yet a standby should run"));
                }
                move_is_in_two_goals(
                    &mut notes,
                    &id.to_string(),
                    parent.services.get(id).and_then(|s| s.primary.as_ref()),
                    primary,
                );
            }
            (None, false) if primaries == 0 => {}
            _ => notes.push(format!("{id} mixes exclusive and balanced roles")),
        }
        let witness = service.instances.keys().find(|node| spec.nodes.get(*node).is_none_or(|n| n.witness));
        if let Some(node) = witness {
            notes.push(format!("{id} is placed on {node}, which carries nothing"));
        }
    }
    for name in goal.addresses.keys() {
        if spec.listeners.get(name).is_none_or(|listener| listener.vip.is_none()) {
            notes.push(format!("listen.{name} has no address to hold"));
        }
    }
    notes
}

/// A present holder is never replaced in one goal unless it never held anything.
fn move_is_in_two_goals(
    notes: &mut Vec<String>,
    what: &str,
    before: Option<&backstay_model::RoleGoal>,
    after: &backstay_model::RoleGoal,
) {
    let next_jumped = before.is_some_and(|b| b.holder.is_some() && b.next.is_some());
    if next_jumped || (after.holder.is_none() && after.next.is_none() && before.is_some_and(|b| b.holder.is_some())) {
        notes.push(format!("{what} lost its holder with nobody next"));
    }
}
