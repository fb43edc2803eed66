//! Placement: which nodes carry the instances of each service.
//!
//! A model of N + k instances survives any k domains at the spread level exactly if no two instances share one, so each
//! further instance takes a domain of its own. Where domains run out, instances that the load itself needs are placed
//! anyway, doubled up, and the shortage is reported: running short beats not running.

use std::collections::{BTreeMap, BTreeSet};

use backstay_model::{DomainLevel, NodeName, ServiceId};
use backstay_spec::{Mode, Redundancy, ServiceSpec, Spec};

/// The nodes that may carry instances, and what they share.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    nodes: BTreeMap<NodeName, Site>,
}

/// Where one node stands and how much fits on it.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its rack; a node without one is a rack of its own.
    pub rack: String,
    /// Its site; nodes without one share one.
    pub site: String,
    /// Slots; unlimited when absent.
    pub slots: Option<u32>,
}

impl Topology {
    /// The nodes of a file, witnesses left out: they carry nothing.
    pub fn of(spec: &Spec) -> Self {
        let carriers = spec.nodes.iter().filter(|(_, node)| !node.witness);
        let nodes = carriers.map(|(name, node)| {
            let rack = node.rack.clone().unwrap_or_else(|| format!("node {name}"));
            let site = node.site.clone().unwrap_or_default();
            // Racks of two sites may share a name; they are not one rack.
            (name.clone(), Site { rack: format!("{site}/{rack}"), site, slots: node.slots })
        });
        Self { nodes: nodes.collect() }
    }

    fn domain<'a>(&'a self, node: &'a NodeName, level: DomainLevel) -> &'a str {
        match (level, self.nodes.get(node)) {
            (DomainLevel::Rack, Some(site)) => &site.rack,
            (DomainLevel::Site, Some(site)) => &site.site,
            _ => node.as_str(),
        }
    }
}

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

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Instances placed in a domain of their own.
    pub placed: u32,
    /// Instances that the model asks for.
    pub wanted: u32,
    /// The level at which there is no further domain.
    pub level: DomainLevel,
}

/// Places every service of a cluster, in the order of their names.
///
/// Sticky: an instance stays where it is unless the node is barred, a pulled node takes its place, or its domain is
/// doubled up while another is free. Deterministic. Services share slots first come, first served.
pub fn place(topology: &Topology, demands: &[Demand<'_>]) -> Placement {
    let mut placement = Placement::default();
    let mut used: BTreeMap<&NodeName, Load> = BTreeMap::new();
    for demand in demands {
        let wanted = wanted(demand.service);
        let ranked = rank(topology, demand, &used);
        let (chosen, apart) = choose(topology, demand.service, &ranked, wanted);
        for node in &chosen {
            let load = used.entry(node).or_default();
            load.slots += demand.service.slots;
            load.instances += 1;
        }
        if apart < wanted {
            let short = Shortage { placed: apart, wanted, level: demand.service.spread };
            placement.short.insert(demand.service.id.clone(), short);
        }
        placement.nodes.insert(demand.service.id.clone(), chosen.into_iter().cloned().collect());
    }
    placement
}

/// How many instances a service's model asks for.
pub fn wanted(service: &ServiceSpec) -> u32 {
    let need = service.need;
    match service.redundancy {
        Redundancy::N => need,
        Redundancy::NPlus1 => need + 1,
        Redundancy::NPlus2 => need + 2,
        Redundancy::TwoN => need * 2,
        Redundancy::TwoNPlus1 => need * 2 + 1,
    }
}

/// How many of its instances carry traffic.
pub fn wanted_active(service: &ServiceSpec) -> u32 {
    match service.mode {
        Mode::ActivePassive => service.need,
        Mode::ActiveActive => wanted(service),
    }
}

#[derive(Default)]
struct Load {
    slots: u32,
    instances: u32,
}

/// The nodes that could take an instance, best first.
fn rank<'a>(topology: &'a Topology, demand: &Demand<'_>, used: &BTreeMap<&NodeName, Load>) -> Vec<&'a NodeName> {
    let fits = |name: &NodeName, site: &Site| {
        let taken = used.get(name).map_or(0, |load| load.slots);
        site.slots.is_none_or(|slots| taken + demand.service.slots <= slots)
    };
    let position = |list: &[NodeName], name: &NodeName| list.iter().position(|n| n == name).unwrap_or(usize::MAX);
    let mut ranked: Vec<_> = topology
        .nodes
        .iter()
        .filter(|(name, site)| !demand.barred.contains(*name) && fits(name, site))
        .map(|(name, _)| {
            let key = (
                demand.reluctant.contains(name),
                position(&demand.pull, name),
                !demand.current.contains(name),
                position(&demand.service.prefer, name),
                used.get(name).map_or(0, |load| load.instances),
                name,
            );
            (key, name)
        })
        .collect();
    ranked.sort();
    ranked.into_iter().map(|(_, name)| name).collect()
}

/// Takes nodes in domains of their own first; then, only as far as the load needs it, doubles up.
fn choose<'a>(
    topology: &'a Topology,
    service: &ServiceSpec,
    ranked: &[&'a NodeName],
    wanted: u32,
) -> (Vec<&'a NodeName>, u32) {
    let mut domains = BTreeSet::new();
    let mut chosen: Vec<&NodeName> = Vec::new();
    for node in ranked {
        if chosen.len() == wanted as usize {
            break;
        }
        if domains.insert(topology.domain(node, service.spread)) {
            chosen.push(node);
        }
    }
    let apart = chosen.len() as u32;
    let rest: Vec<_> = ranked.iter().filter(|node| !chosen.contains(node)).copied().collect();
    for node in rest {
        if chosen.len() >= service.need as usize {
            break;
        }
        chosen.push(node);
    }
    (chosen, apart)
}

#[cfg(test)]
mod tests {
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
        assert_eq!(short, Some(Shortage { placed: 2, wanted: 4, level: DomainLevel::Rack }));
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
