//! Room for moves: where slots are tight, an instance is started only once the one that has its slot is gone.
//!
//! The planner says where everything should be; how to get there without ever having less than the model, and without
//! asking more of a node than it has, is an order of moves. A decision takes those for which there is room now; what is
//! left follows from later decisions, which see the room that these have made.

use std::collections::BTreeMap;

use backstay_model::{NodeName, Reason, ServiceId};
use backstay_planner::{Move, Placement, Places, Topology, moves};

use crate::decide::Draft;
use crate::members::Members;
use crate::view::View;

/// The part of a placement that there is room for now.
pub(crate) fn for_now(
    draft: &mut Draft,
    view: &View<'_>,
    members: &Members,
    topology: &Topology,
    target: Placement,
) -> Placement {
    if view.spec.nodes.values().all(|node| node.slots.is_none()) {
        return target;
    }
    let current = current(view, members);
    if fits_at_once(view, &current, &target.nodes) {
        return target;
    }
    // Where every order needs a slot that is not there, or a way through a third node, a node carries one more for as long
    // as a start takes: a service that never gets to its place would be worse.
    let Ok(order) = moves(topology, &view.spec.services, &current, &target.nodes) else { return target };
    let detours = |step: &Move| {
        step.to.as_ref().is_some_and(|to| target.nodes.get(&step.service).is_none_or(|nodes| !nodes.contains(to)))
    };
    if order.iter().any(detours) {
        return target;
    }
    taken(draft, view, &current, target, order)
}

/// Instances that the goal in force places on nodes that are here; what a lost node carried is gone.
fn current(view: &View<'_>, members: &Members) -> Places {
    let places = view.goal.services.iter().map(|(id, service)| {
        let nodes = service.instances.keys().filter(|node| members.present(node));
        (id.clone(), nodes.cloned().collect())
    });
    places.collect()
}

/// Whether old and new places together stay within everybody's slots, so that no order is needed.
fn fits_at_once(view: &View<'_>, current: &Places, target: &Places) -> bool {
    let mut used: BTreeMap<&NodeName, u32> = BTreeMap::new();
    for (id, service) in &view.spec.services {
        let (old, new) = (current.get(id), target.get(id));
        let old = old.into_iter().flatten().filter(|node| new.is_none_or(|new| !new.contains(node)));
        for node in old.chain(new.into_iter().flatten()) {
            *used.entry(node).or_default() += service.slots;
        }
    }
    used.into_iter().all(|(node, used)| slots(view, node).is_none_or(|slots| used <= slots))
}

/// The moves whose new node has room while all that leaves is still there; the others stay where they are.
fn taken(draft: &mut Draft, view: &View<'_>, current: &Places, mut target: Placement, order: Vec<Move>) -> Placement {
    let mut used: BTreeMap<NodeName, u32> = BTreeMap::new();
    let size = |id: &ServiceId| view.spec.services.get(id).map_or(0, |service| service.slots);
    for (id, nodes) in current {
        for node in nodes {
            *used.entry(node.clone()).or_default() += size(id);
        }
    }
    for step in order {
        let (Some(to), id) = (&step.to, &step.service) else { continue };
        let used = used.entry(to.clone()).or_default();
        if slots(view, to).is_none_or(|slots| *used + size(id) <= slots) {
            *used += size(id);
        } else if let Some(nodes) = target.nodes.get_mut(id) {
            draft.because(Reason::WaitsForRoom { service: id.clone(), to: to.clone() });
            nodes.retain(|node| node != to);
            nodes.extend(step.from.clone());
        }
    }
    target
}

fn slots(view: &View<'_>, node: &NodeName) -> Option<u32> {
    view.spec.nodes.get(node).and_then(|node| node.slots)
}
