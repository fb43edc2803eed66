//! Where everything stands: which node carries which instance, what is down. From the file alone, or as a cluster is now.

use std::collections::{BTreeMap, BTreeSet};

use backstay_model::{ListenerName, NodeName, ServiceId};
use backstay_spec::Spec;
use serde::{Deserialize, Serialize};

use crate::place::{Demand, Placement, Topology, place, wanted_active};

/// One instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// It carries traffic: active or primary.
    pub serves: bool,
    /// It works, or would once it is asked to.
    pub well: bool,
}

/// What stands where.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The instances of each service.
    pub seats: BTreeMap<ServiceId, BTreeMap<NodeName, Seat>>,
    /// Nodes that are lost. One that is drained still votes, and carries what it has.
    pub down: BTreeSet<NodeName>,
    /// Who holds each floating address, where that is known; else any node may be the holder.
    pub holders: BTreeMap<ListenerName, NodeName>,
    /// Who decides, where that is known.
    pub coordinator: Option<NodeName>,
}

impl Standing {
    /// As a cluster with this file comes to stand by itself, and then without the nodes in `lost`: what they carried has
    /// been taken over as far as there is room.
    pub fn planned(spec: &Spec, lost: &BTreeSet<NodeName>) -> (Self, Placement) {
        let first = place(&Topology::of(spec), &demands(spec, None, &BTreeSet::new()));
        let placement = match lost.is_empty() {
            true => first,
            false => place(&Topology::of(spec), &demands(spec, Some(&first), lost)),
        };
        let seats = spec.services.values().map(|service| {
            let serving = if service.exclusive { 1 } else { wanted_active(service) as usize };
            let nodes = placement.nodes.get(&service.id).into_iter().flatten();
            let seat = |(at, node): (usize, &NodeName)| (node.clone(), Seat { serves: at < serving, well: true });
            (service.id.clone(), nodes.enumerate().map(seat).collect())
        });
        let standing = Self { seats: seats.collect(), down: lost.clone(), holders: BTreeMap::new(), coordinator: None };
        (standing, placement)
    }

    /// The same, with further nodes and instances gone and nothing taken over yet.
    pub fn without(mut self, nodes: &BTreeSet<NodeName>, instances: &[(ServiceId, NodeName)]) -> Self {
        self.down.extend(nodes.iter().cloned());
        for (service, node) in instances {
            if let Some(seat) = self.seats.get_mut(service).and_then(|seats| seats.get_mut(node)) {
                seat.well = false;
            }
        }
        self
    }
}

/// What a quiet cluster asks of placement: no operator's wishes, preferred nodes first.
pub(crate) fn demands<'a>(spec: &'a Spec, current: Option<&Placement>, lost: &BTreeSet<NodeName>) -> Vec<Demand<'a>> {
    let demand = |service: &'a backstay_spec::ServiceSpec| Demand {
        service,
        current: current.and_then(|placed| placed.nodes.get(&service.id)).into_iter().flatten().cloned().collect(),
        pull: service.prefer.clone(),
        reluctant: BTreeSet::new(),
        barred: lost.clone(),
    };
    spec.services.values().map(demand).collect()
}
