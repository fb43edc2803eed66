//! A second pair of eyes: an independent linter of goals, run after every decision by tests and by the simulator.

use backstay_model::{Goal, ReplicaGoal, Role, RoleGoal};
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
                if !idle && service.replicas.is_none() {
                    notes.push(format!("{id} is exclusive, yet a standby should run"));
                }
                let before = parent.services.get(id);
                match &service.replicas {
                    None => move_is_in_two_goals(
                        &mut notes,
                        &id.to_string(),
                        before.and_then(|s| s.primary.as_ref()),
                        primary,
                    ),
                    Some(replicas) => {
                        let before = before.and_then(|s| Some((s.primary.as_ref()?, s.replicas.as_ref()?)));
                        synchronous_set(&mut notes, &id.to_string(), before, (primary, replicas));
                    }
                }
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
fn move_is_in_two_goals(notes: &mut Vec<String>, what: &str, before: Option<&RoleGoal>, after: &RoleGoal) {
    let next_jumped = before.is_some_and(|b| b.holder.is_some() && b.next.is_some());
    if next_jumped || (after.holder.is_none() && after.next.is_none() && before.is_some_and(|b| b.holder.is_some())) {
        notes.push(format!("{what} lost its holder with nobody next"));
    }
}

/// S10, in its own words: what the store holds is never less than what the database may wait for, and a reign that follows
/// another counts every copy that may have an acknowledged write.
fn synchronous_set(
    notes: &mut Vec<String>,
    what: &str,
    before: Option<(&RoleGoal, &ReplicaGoal)>,
    (primary, after): (&RoleGoal, &ReplicaGoal),
) {
    let mut wrong = |text: String| notes.push(format!("{what}: {text}"));
    if !after.wanted.members.is_subset(&after.stored.members) {
        wrong("the database would wait for a standby that the store does not know of".to_owned());
    }
    if after.wanted.k < after.stored.k {
        wrong(format!(
            "the store counts on {} acknowledgements, the database waits for {}",
            after.stored.k, after.wanted.k
        ));
    }
    if primary.holder.as_ref().is_some_and(|holder| after.stored.members.contains(holder)) {
        wrong("the primary counts as its own standby".to_owned());
    }
    if primary.holder.is_some() && after.asks.is_some() {
        wrong("a primary is named while promises are asked".to_owned());
    }
    let Some((role, before)) = before else { return };
    let reigns_on = role.holder == primary.holder || primary.holder.is_none();
    if after.timeline.0 < before.timeline.0 || (primary.holder.is_none() && after.timeline != before.timeline) {
        wrong(format!("timeline {} follows {}", after.timeline.0, before.timeline.0));
    }
    let forgotten: Vec<_> = before.stored.members.difference(&after.stored.members).collect();
    if reigns_on && !forgotten.is_empty() && after.stored != before.wanted {
        wrong(format!("{forgotten:?} is forgotten while the database may still wait for it"));
    }
    let took_over = primary.holder.as_ref().filter(|_| before.stored.k > 0 && before.timeline.0 > 0);
    if let Some(holder) = took_over.filter(|holder| role.holder.as_ref() != Some(*holder)) {
        if forgotten.iter().any(|node| *node != holder) {
            wrong(format!("{forgotten:?} is forgotten at a takeover"));
        }
        if after.stored.certain() < before.stored.certain() {
            wrong(format!("{} promises are enough after {}", after.stored.certain(), before.stored.certain()));
        }
    }
}
