//! Redundancy returns: once faults have ended, every service has the instances of its model, every role its holder.

use backstay_model::{Health, InstanceState, NodeName, Role, RoleKey, ServiceGoal};
use backstay_planner::wanted_active;
use backstay_spec::ServiceSpec;

use crate::world::World;

/// What is still missing; none when everything is as the file asks.
pub(crate) fn missing(world: &World) -> Option<String> {
    let Some(index) = world.in_force else { return Some("there is no goal".to_owned()) };
    let goal = &world.goals[index].goal;
    for (number, id) in world.services.iter().enumerate() {
        let (Some(service), Some(declared)) = (goal.services.get(id), world.spec.services.get(id)) else {
            return Some(format!("{id} is not in the goal"));
        };
        // Where machines are gone for good, whoever has everything that was acknowledged may be among them: then nobody reigns.
        if world.is_database(number) && world.nodes.iter().any(|node| !node.up) {
            continue;
        }
        let placed = service.instances.len();
        if placed != placeable(world, declared) {
            return Some(format!("{id} has {placed} instances"));
        }
        let active = service.instances.values().filter(|i| i.role == Role::Active).count();
        if !declared.exclusive && active != (wanted_active(declared) as usize).min(placed) {
            return Some(format!("{id} has {active} active instances"));
        }
        for (n, name) in world.names.iter().enumerate() {
            let runs = service.instances.get(name).is_some_and(|instance| instance.runs);
            let state = world.nodes[n].instances[number].state;
            if runs != (state == InstanceState::Running) || !world.nodes[n].orphans.is_empty() {
                return Some(format!("{id} on {name} is {state:?}"));
            }
        }
        if world.is_database(number)
            && let Some(text) = copies(world, service)
        {
            return Some(text);
        }
        let role = RoleKey::Service(id.clone());
        if let Some(primary) = &service.primary
            && let Some(text) = unheld(world, &role, primary.holder.as_ref())
        {
            return Some(text);
        }
    }
    for (number, name) in world.listeners.iter().enumerate() {
        let holder = goal.addresses.get(name).and_then(|address| address.role.holder.as_ref());
        let role = RoleKey::Address(name.clone());
        if let Some(text) = unheld(world, &role, holder) {
            return Some(text);
        }
        let bound = |n: &usize| world.nodes[*n].addresses[number].bound.is_some();
        let bound: Vec<_> = (0..world.nodes.len()).filter(bound).map(|n| &world.names[n]).collect();
        if bound != Vec::from_iter(holder) {
            return Some(format!("{role} is bound on {bound:?}"));
        }
    }
    None
}

/// Every standby has a whole copy and counts, and the primary takes clients.
fn copies(world: &World, service: &ServiceGoal) -> Option<String> {
    let holder = service.primary.as_ref()?.holder.as_ref()?;
    let replicas = service.replicas.as_ref()?;
    for name in service.instances.keys() {
        let n = world.node_named(name)?;
        let seen = world.observe_database(n, Health::Passing);
        if name == holder {
            let rule = seen.rule.as_ref();
            if !seen.open || rule != Some(&replicas.wanted) || replicas.wanted != replicas.stored {
                return Some(format!("the database on {name} is not settled as primary: {seen:?}, {replicas:?}"));
            }
        } else if !seen.whole || seen.streams.is_none() {
            return Some(format!("the copy on {name} is not whole: {seen:?}"));
        } else if replicas.stored.k > 0 && !replicas.stored.members.contains(name) {
            return Some(format!("commits do not count on {name}"));
        }
        if let Err(text) = world.checks.durability.has_all(name, &world.nodes[n].database.copy) {
            return Some(text);
        }
    }
    None
}

/// How many instances the model asks for and the nodes that are there allow; where domains run out they are doubled up.
fn placeable(world: &World, service: &ServiceSpec) -> usize {
    let carries = |name: &NodeName| world.spec.nodes.get(name).is_some_and(|node| !node.witness);
    let carriers = world.names.iter().zip(&world.nodes).filter(|(name, node)| node.up && carries(name)).count();
    (service.instances_wanted() as usize).min(carriers)
}

fn unheld(world: &World, role: &RoleKey, holder: Option<&NodeName>) -> Option<String> {
    let index = world.roles.iter().position(|known| known == role)?;
    let granted = world.grant_in_store(index).map(|grant| grant.holder);
    match holder {
        None => Some(format!("{role} has no holder")),
        holder if granted.as_ref() != holder => Some(format!("{role} is not granted to its holder")),
        _ => None,
    }
}
