//! Placement: which nodes carry the instances of each service.
//!
//! Three steps, and mostly the first is all. Each service takes the best nodes as if it were alone (`choose`; `divide`
//! where its model has two sets), which is exact. Where nodes would then carry more than they have slots for, services
//! share them (`share`): a min-cost flow (`flow`), exact where all instances are of one size. What cannot be had is
//! told with its cause (`answer`); running short beats not running, so that everything else is placed all the same.
//!
//! Beside it stand the judge, who knows nothing of all this ([`sets()`]), what would close a gap ([`fixes()`]), and the
//! order in which instances get from where they are to where they should be ([`moves()`]).

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
/// What counts, each before all that follow and over all services together: instances that the load needs, instances
/// that count for the models, further ones; few on reluctant nodes; pulls; further ones evenly over domains; few moves;
/// preferred nodes. Between equals: nodes with room, few that share a fate, even load, names.
///
/// An instance stays where it is unless its node is barred, a pulled node takes its place, or its domain is doubled up
/// while another is free. With the answer as what is current, the answer is the same again. Deterministic.
///
/// Exact for services that do not compete for slots, and for all if instances are of one size and no service has two
/// sets over racks or sites. Else slots hold, but there may be more moves than need be, and where more than a handful
/// of services and a dozen nodes are involved, a shortage that could be avoided. Two sets of dozens of instances are
/// found if there are any, perhaps with more moves than need be.
pub fn place(topology: &Topology, demands: &[Demand<'_>]) -> Placement {
    let mut problem = Problem::new(topology, demands);

    // 1. Each service takes the best nodes for it, as if it were alone: exact, and mostly all there is to do.
    let (alone, room) = each_alone(&mut problem);

    // 2. Where together they ask a node for more slots than it has, some give way: as few as possible, for as little
    // loss.
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

/// How many of a service's instances carry traffic.
pub fn wanted_active(service: &ServiceSpec) -> u32 {
    match service.mode {
        Mode::ActivePassive => service.need,
        Mode::ActiveActive => service.instances_wanted(),
    }
}

#[cfg(test)]
mod tests {
    use backstay_model::DomainLevel;
    use backstay_spec::Spec;

    use super::*;

    fn cluster(nodes: &[(&str, &str)], apps: &[(&str, &str)]) -> Spec {
        let mut text = "cluster = \"t\"\n[nodes]\n".to_owned();
        for (at, (name, keys)) in nodes.iter().enumerate() {
            text += &format!("{name} = {{ addr = \"10.0.{}.{}\", {keys} }}\n", at / 200, at % 200 + 1);
        }
        for (name, keys) in apps {
            text += &format!("[app.{name}]\nrun = [\"/bin/{name}\"]\n{keys}\n");
        }
        let parsed = backstay_spec::parse("t.toml", &text);
        parsed.spec.unwrap_or_else(|| panic!("{:?}", parsed.diagnostics))
    }

    fn spec(nodes: &[(&str, &str)], app: &str) -> Spec {
        cluster(nodes, &[("web", app)])
    }

    fn names(list: &[&str]) -> Vec<NodeName> {
        list.iter().map(|name| NodeName::from(*name)).collect()
    }

    fn demand(service: &ServiceSpec) -> Demand<'_> {
        let (current, pull) = (BTreeSet::new(), Vec::new());
        let (reluctant, barred) = (BTreeSet::new(), BTreeSet::new());
        Demand { service, current, pull, reluctant, barred }
    }

    fn placed(spec: &Spec, change: impl FnOnce(&mut Demand<'_>)) -> (Vec<NodeName>, Option<Shortage>) {
        let service = spec.services.values().next().expect("one service");
        let mut demand = demand(service);
        change(&mut demand);
        let mut placement = place(&Topology::of(spec), &[demand]);
        let nodes = placement.nodes.remove(&service.id).expect("an answer for each demand");
        (nodes, placement.short.remove(&service.id))
    }

    const RACKS: [(&str, &str); 4] =
        [("n1", "rack = \"a\""), ("n2", "rack = \"a\""), ("n3", "rack = \"b\""), ("n4", "rack = \"c\"")];

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
    fn a_spare_that_does_not_count_is_placed_all_the_same() {
        let spec = spec(&RACKS, "need = 2\nspread = \"rack\"");
        let (nodes, short) = placed(&spec, |demand| demand.barred.extend(names(&["n3"])));
        assert_eq!(nodes, names(&["n1", "n4", "n2"]), "it survives the loss of a node, though not of its rack");
        let cause = Cause::TooFewDomains { domains: 2, crowded: vec!["a".to_owned()] };
        let gaps = vec![Gap { site: None, missing: 1, cause }];
        assert_eq!(short, Some(Shortage { placed: 2, wanted: 3, level: DomainLevel::Rack, gaps }));
    }

    #[test]
    fn two_sets_share_no_rack_and_the_spare_has_its_own() {
        let app = "redundancy = \"2N+1\"\nspread = \"rack\"";
        let spec = spec(&RACKS, app);
        assert_eq!(placed(&spec, |_| {}), (names(&["n1", "n3", "n4"]), None));
        let sets = sets(&Topology::of(&spec), &spec.services[&ServiceId::app("web")], &names(&["n1", "n3", "n4"]));
        assert_eq!(sets, Ok(vec![names(&["n1"]), names(&["n3"]), names(&["n4"])]));
    }

    #[test]
    fn large_sets_are_found_and_kept() {
        let nodes: Vec<(String, String)> =
            (0..480).map(|at| (format!("n{at:03}"), format!("rack = \"r{}\"", at % 3))).collect();
        let nodes: Vec<(&str, &str)> = nodes.iter().map(|(name, keys)| (name.as_str(), keys.as_str())).collect();
        let spec = spec(&nodes, "need = 150\nredundancy = \"2N\"\nspread = \"rack\"");
        let (found, short) = placed(&spec, |_| {});
        assert_eq!((found.len(), short), (300, None));
        let (again, _) = placed(&spec, |demand| demand.current.extend(found.iter().cloned()));
        assert_eq!(again, found);
        let (moved, short) = placed(&spec, |demand| {
            demand.current.extend(found.iter().cloned());
            demand.barred.insert(found[0].clone());
        });
        let fresh = moved.iter().filter(|node| !found.contains(node)).count();
        assert_eq!((moved.len(), fresh, short), (300, 1, None), "a lost node is replaced, and all others stay");
    }

    #[test]
    fn each_site_has_the_model_by_itself_in_the_order_of_sites() {
        let nodes = [("n1", "site = \"x\""), ("n2", "site = \"y\""), ("n3", "site = \"y\""), ("n4", "site = \"z\"")];
        let spec = spec(&nodes, "need = 1\nsites = [\"y\", \"x\"]");
        let (nodes, short) = placed(&spec, |_| {});
        assert_eq!(nodes, names(&["n2", "n3", "n1"]));
        let gap = Gap { site: Some("x".to_owned()), missing: 1, cause: Cause::TooFewNodes { nodes: 1 } };
        assert_eq!(short, Some(Shortage { placed: 3, wanted: 4, level: DomainLevel::Node, gaps: vec![gap] }));
    }

    #[test]
    fn what_the_load_needs_comes_before_what_does_not_count() {
        let nodes = ["n1", "n2", "n3"].map(|name| (name, "site = \"x\", slots = 1"));
        let apps = [("a", "spread = \"site\""), ("b", "need = 2\nredundancy = \"N\"")];
        let spec = cluster(&nodes, &apps);
        let demands: Vec<Demand<'_>> = spec.services.values().map(demand).collect();
        let placement = place(&Topology::of(&spec), &demands);
        let counts: Vec<usize> = placement.nodes.values().map(Vec::len).collect();
        assert_eq!(counts, [1, 2], "a's second instance would share the site of its first");
    }

    #[test]
    fn a_pull_to_a_full_node_moves_somebody_else_on() {
        let nodes = ["n1", "n2", "n3"].map(|name| (name, "slots = 1"));
        let spec = cluster(&nodes, &[("a", "redundancy = \"N\""), ("b", "redundancy = \"N\"")]);
        let mut demands: Vec<Demand<'_>> = spec.services.values().map(demand).collect();
        demands[0].current.extend(names(&["n1"]));
        demands[0].pull = names(&["n2"]);
        demands[1].current.extend(names(&["n2"]));
        let placement = place(&Topology::of(&spec), &demands);
        assert_eq!(placement.nodes[&ServiceId::app("a")], names(&["n2"]));
        assert_eq!(placement.nodes[&ServiceId::app("b")].len(), 1);
        let short = place(&Topology::of(&cluster(&nodes[..1], &[("a", ""), ("b", "")])), &demands).short;
        let cause = |name: &str| short[&ServiceId::app(name)].gaps[0].cause.clone();
        assert_eq!(cause("b"), Cause::TooFewSlots { full: names(&["n1"]) });
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
