//! Placement: which nodes carry the instances of each service.
//!
//! A model of N + k instances survives any k domains at the spread level exactly if no two instances share one, so each
//! further instance takes a domain of its own. Where domains run out, instances that the load itself needs are placed
//! anyway, doubled up, and the shortage is reported: running short beats not running.

mod answer;
mod choose;
mod cost;
mod divide;
mod fixes;
mod flow;
mod losses;
mod moves;
mod problem;
mod reserve;
mod search;
mod sets;
mod share;
mod shortage;

use std::collections::{BTreeMap, BTreeSet};

use backstay_model::{NodeName, ServiceId};
use backstay_spec::{Mode, ServiceSpec};

use self::answer::answer;
use self::choose::{Room, choose};
use self::divide::{Full, divide};
use self::problem::{Blocks, Problem};
use self::share::{Picks, share_out};

pub use self::fixes::fixes;
pub use self::losses::{Losses, Slot, survive_losses};
pub use self::moves::{Deadlock, Move, Places, moves};
pub use self::reserve::{Standby, standby_reserve};
pub use self::sets::{Lacking, sets};
pub use self::shortage::{Cause, Fix, Gap, Location, Shortage};
pub use crate::topology::{Carrier, Topology};

/// What one service asks of placement.
#[derive(Clone, Debug)]
pub struct Demand<'a> {
    /// The service.
    pub service: &'a ServiceSpec,
    /// Where its instances are now.
    pub current: BTreeSet<NodeName>,
    /// Nodes it should be on before all others, best first: an operator's choice, or preferred nodes that are steady.
    pub pull: Vec<NodeName>,
    /// Nodes that take an instance only when there is no other: held down.
    pub reluctant: BTreeSet<NodeName>,
    /// Nodes that take none: lost, drained.
    pub barred: BTreeSet<NodeName>,
}

/// The answer of [`place`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Placement {
    /// The nodes of each service, best first.
    pub nodes: BTreeMap<ServiceId, Vec<NodeName>>,
    /// Services that got fewer instances, or fewer domains, than their model asks for.
    pub short: BTreeMap<ServiceId, Shortage>,
}

/// Places every service of a cluster.
///
/// Sticky: an instance stays where it is unless its node is barred, a pulled node takes its place, or its domain is doubled
/// up while another is free; with the answer as what is current, the answer is the same again. Deterministic. What comes
/// first, over all services together: instances that the load needs, those that count for the models, further ones; then as
/// few as possible on reluctant nodes, pulls followed, extra instances evenly over domains, few moves, preferred nodes, load
/// even, names. See [`Topology`] for what nodes share and the modules below for how far this is exact.
pub fn place(topology: &Topology, demands: &[Demand<'_>]) -> Placement {
    let mut problem = Problem::new(topology, demands);

    // 1. Each service takes the best nodes for it, as if it were alone: exact, and mostly all there is to do.
    let (alone, room) = each_alone(&mut problem);

    // 2. Where together they ask a node for more slots than it has, some give way: as few as possible, for as little loss.
    let shared = room.is_overfull().then(|| share_out(&mut problem, &alone));

    // 3. In words again, with what is missing and why.
    answer(&problem, demands, &alone, shared.as_ref().unwrap_or(&alone))
}

/// The best nodes of each group. Those to which nodes are alike keep out of each other's way as far as they can.
fn each_alone(problem: &mut Problem<'_>) -> (Picks, Room) {
    let mut room = Room::empty(problem);
    problem.groups.iter().for_each(|group| room.put(group, group.current()));
    let mut picks = Vec::with_capacity(problem.groups.len());
    for number in 0..problem.groups.len() {
        let group = &problem.groups[number];
        room.take(group, group.current());
        let nodes = match group.blocks {
            Blocks::One | Blocks::Domains => choose(problem, group, &room),
            Blocks::Sets(_) => {
                let division = divide(problem, group, &room, Full::Tie);
                problem.groups[number].blocks = Blocks::Sets(division.set_of);
                division.picks
            }
        };
        room.put(&problem.groups[number], nodes.iter().copied());
        picks.push(nodes);
    }
    (picks, room)
}

/// How many instances a service's model asks for, over all its sites.
pub fn wanted(service: &ServiceSpec) -> u32 {
    service.instances_per_site().saturating_mul(u32::try_from(service.sites.len().max(1)).unwrap_or(u32::MAX))
}

/// How many of its instances carry traffic.
pub fn wanted_active(service: &ServiceSpec) -> u32 {
    match service.mode {
        Mode::ActivePassive => service.need,
        Mode::ActiveActive => wanted(service),
    }
}

#[cfg(test)]
mod tests {
    use backstay_model::DomainLevel;
    use backstay_spec::Spec;

    use super::*;

    fn spec(nodes: &[(&str, &str)], app: &str) -> Spec {
        let nodes = nodes.iter().enumerate();
        let nodes =
            nodes.map(|(i, (name, rack))| format!("{name} = {{ addr = \"10.0.0.{}\", rack = \"{rack}\" }}\n", i + 1));
        let text =
            format!("cluster = \"t\"\n[nodes]\n{}[app.web]\nrun = [\"/bin/web\"]\n{app}\n", nodes.collect::<String>());
        let parsed = backstay_spec::parse("t.toml", &text);
        parsed.spec.unwrap_or_else(|| panic!("{:?}", parsed.diagnostics))
    }

    fn names(list: &[&str]) -> Vec<NodeName> {
        list.iter().map(|name| NodeName::from(*name)).collect()
    }

    fn placed(spec: &Spec, change: impl FnOnce(&mut Demand<'_>)) -> (Vec<NodeName>, Option<Shortage>) {
        let service = spec.services.values().next().expect("one service");
        let (current, pull) = (BTreeSet::new(), Vec::new());
        let (reluctant, barred) = (BTreeSet::new(), BTreeSet::new());
        let mut demand = Demand { service, current, pull, reluctant, barred };
        change(&mut demand);
        let mut placement = place(&Topology::of(spec), &[demand]);
        let nodes = placement.nodes.remove(&service.id).expect("an answer for each demand");
        (nodes, placement.short.remove(&service.id))
    }

    const RACKS: [(&str, &str); 4] = [("n1", "a"), ("n2", "a"), ("n3", "b"), ("n4", "c")];

    #[test]
    fn no_two_instances_share_a_domain_of_the_spread() {
        let spec = spec(&RACKS, "need = 2\nspread = \"rack\"");
        assert_eq!(placed(&spec, |_| {}), (names(&["n1", "n3", "n4"]), None));
    }

    #[test]
    fn where_domains_run_out_the_load_is_doubled_up_and_the_shortage_said() {
        let spec = spec(&RACKS, "need = 3\nspread = \"rack\"");
        let (nodes, short) = placed(&spec, |demand| demand.barred.extend(names(&["n4"])));
        assert_eq!(nodes, names(&["n1", "n3", "n2"]), "two racks are left for three instances");
        let cause = Cause::TooFewNodes { nodes: 3 };
        let gaps = vec![Gap { site: None, missing: 2, cause }];
        assert_eq!(short, Some(Shortage { placed: 2, wanted: 4, level: DomainLevel::Rack, gaps }));
    }

    #[test]
    fn instances_stay_where_they_are_unless_something_pulls_or_bars() {
        let spec = spec(&RACKS, "need = 1");
        let stay = |demand: &mut Demand<'_>| demand.current.extend(names(&["n3", "n4"]));
        assert_eq!(placed(&spec, stay).0, names(&["n3", "n4"]));
        let pulled = |demand: &mut Demand<'_>| {
            stay(demand);
            demand.pull = names(&["n2"]);
        };
        assert_eq!(placed(&spec, pulled).0, names(&["n2", "n3"]));
        let barred = |demand: &mut Demand<'_>| {
            stay(demand);
            demand.barred.extend(names(&["n3"]));
        };
        assert_eq!(placed(&spec, barred).0, names(&["n4", "n1"]));
    }

    #[test]
    fn a_reluctant_node_is_the_last_choice_and_still_one() {
        let spec = spec(&RACKS, "need = 1");
        let reluctant = |demand: &mut Demand<'_>| demand.reluctant.extend(names(&["n1", "n2", "n3"]));
        assert_eq!(placed(&spec, reluctant).0, names(&["n4", "n1"]));
    }
}
