//! The question in numbers: what is placed as one, on which nodes it may be, and what each of them costs.
//!
//! Every model is the same question here. The nodes of a service fall into *blocks*, and the first few instances in a
//! block (its quota) count for the model: N+k has a block with quota 1 for each domain, 2N two with quota `need`, and
//! where every node is a domain of its own nothing tells nodes apart, so that one block holds them all. Further
//! instances in a block do not count, but still survive the loss of a program or a node.

use std::collections::BTreeSet;
use std::rc::Rc;

use backstay_model::{DomainLevel, NodeName};
use backstay_spec::{Redundancy, ServiceSpec};

use super::Demand;
use super::cost::Cost;
use super::sets::{self, Split};
use crate::topology::{DomainNo, NodeNo, Topology};

/// The number of a [`Group`].
pub(super) type GroupNo = usize;

/// All that is to be placed.
#[derive(Clone)]
pub(super) struct Problem<'a> {
    pub(super) topology: &'a Topology,
    /// In the order of the demands; those of one service in the order of its sites.
    pub(super) groups: Vec<Group>,
    /// Lists of nodes that groups are confined to.
    scopes: Vec<Vec<NodeNo>>,
    /// The nodes of each rack, and of each site.
    racks: Vec<Vec<NodeNo>>,
    sites: Vec<Vec<NodeNo>>,
}

/// What is placed as one: a service, or the part of a geographic service in one of its sites.
#[derive(Clone)]
pub(super) struct Group {
    /// Its place among the demands.
    pub(super) demand: usize,
    /// The place of its site among those of the service.
    pub(super) site: Option<usize>,
    pub(super) need: u32,
    pub(super) wanted: u32,
    pub(super) slots: u32,
    pub(super) redundancy: Redundancy,
    pub(super) level: DomainLevel,
    pub(super) blocks: Blocks,
    /// Nodes that cost something else than most: current, pulled or preferred. By their number.
    pub(super) special: Vec<Special>,
    /// What any other node costs.
    plain: Cost,
    wishes: Rc<Wishes>,
    scope: usize,
}

/// How the nodes of a group fall into blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Blocks {
    /// All in one, and every instance counts.
    One,
    /// Each domain is one, and one instance counts.
    Domains,
    /// Two full sets, and perhaps a spare: the set of each domain.
    Sets(Vec<u32>),
}

/// A node that stands out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Special {
    pub(super) node: NodeNo,
    pub(super) cost: Cost,
    pub(super) is_current: bool,
}

/// What a demand says of nodes that are to be avoided.
struct Wishes {
    barred: Marks,
    reluctant: Marks,
}

/// A set of nodes.
#[derive(Default)]
struct Marks(Vec<u64>);

impl Marks {
    fn of(topology: &Topology, names: &BTreeSet<NodeName>) -> Self {
        let mut marks = Vec::new();
        for node in topology.numbers(names) {
            marks.resize(topology.len().div_ceil(64), 0);
            marks[node as usize / 64] |= 1 << (node % 64);
        }
        Self(marks)
    }

    fn contains(&self, node: NodeNo) -> bool {
        self.0.get(node as usize / 64).is_some_and(|bits| bits >> (node % 64) & 1 == 1)
    }
}

impl<'a> Problem<'a> {
    pub(super) fn new(topology: &'a Topology, demands: &[Demand<'_>]) -> Self {
        let by_domain = |level| {
            let mut nodes = vec![Vec::new(); topology.domains(level)];
            topology.nodes().for_each(|node| nodes[topology.domain(node, level) as usize].push(node));
            nodes
        };
        let (racks, sites) = (by_domain(DomainLevel::Rack), by_domain(DomainLevel::Site));
        // After the sites: the whole cluster, and a site where no carrier stands.
        let mut scopes = sites.clone();
        scopes.extend([topology.nodes().collect(), Vec::new()]);
        let mut problem = Self { topology, groups: Vec::with_capacity(demands.len()), scopes, racks, sites };
        for (at, demand) in demands.iter().enumerate() {
            problem.add(at, demand);
        }
        problem
    }

    fn add(&mut self, at: usize, demand: &Demand<'_>) {
        let (topology, service) = (self.topology, demand.service);
        let wishes = Rc::new(Wishes {
            barred: Marks::of(topology, &demand.barred),
            reluctant: Marks::of(topology, &demand.reluctant),
        });
        let special = special(topology, demand, &wishes);
        let elsewhere = self.sites.len();
        let scopes = service.sites.iter().enumerate().map(|(site, name)| {
            let scope = topology.site(name).map_or(elsewhere + 1, |number| number as usize);
            (Some(site), scope)
        });
        let scopes: Vec<_> = if service.sites.is_empty() { vec![(None, elsewhere)] } else { scopes.collect() };
        for (site, scope) in scopes {
            let inside = |special: &&Special| match site {
                Some(_) => topology.domain(special.node, DomainLevel::Site) as usize == scope,
                None => true,
            };
            self.groups.push(Group {
                demand: at,
                site,
                need: service.need,
                wanted: service.instances_per_site(),
                slots: service.slots,
                redundancy: service.redundancy,
                level: service.spread,
                blocks: blocks(service),
                special: special.iter().filter(inside).copied().collect(),
                plain: Cost { moves: 1, prefer: service.prefer.len() as i32, ..Cost::default() },
                wishes: Rc::clone(&wishes),
                scope,
            });
        }
    }

    /// Takes what was found for what is current.
    pub(super) fn settle(&mut self, picks: &[Vec<NodeNo>]) {
        for (group, nodes) in self.groups.iter_mut().zip(picks) {
            for special in &mut group.special {
                special.is_current = nodes.contains(&special.node);
                special.cost.moves = i32::from(!special.is_current);
            }
            let plain = group.plain;
            group.special.retain(|special| Cost { reluctant: 0, ..special.cost } != plain);
            for node in nodes.iter().filter(|node| !group.is_special(**node)).copied().collect::<Vec<_>>() {
                let cost = Cost { moves: 0, ..group.of_node(node) };
                let at = group.special.partition_point(|special| special.node < node);
                group.special.insert(at, Special { node, cost, is_current: true });
            }
        }
    }

    /// The nodes that a group is confined to, whether they can take an instance or not.
    pub(super) fn scope(&self, group: &Group) -> &[NodeNo] {
        &self.scopes[group.scope]
    }

    /// Whether a node may take an instance of a group, if it has room.
    pub(super) fn allowed(&self, group: &Group, node: NodeNo) -> bool {
        !group.wishes.barred.contains(node) && self.topology.slots(node).is_none_or(|slots| group.slots <= slots)
    }

    /// The nodes that may take an instance of a group.
    pub(super) fn candidates<'g>(&'g self, group: &'g Group) -> impl Iterator<Item = NodeNo> + 'g {
        self.scope(group).iter().copied().filter(|node| self.allowed(group, *node))
    }

    /// The nodes of a block, whether they can take an instance or not; those out of the group's scope may be among them
    /// only if the block has no other.
    pub(super) fn block_nodes<'g>(&'g self, group: &'g Group, block: u32) -> impl Iterator<Item = NodeNo> + 'g {
        let nodes = match (&group.blocks, group.level) {
            (Blocks::Domains, DomainLevel::Rack) => &self.racks[block as usize],
            (Blocks::Domains, DomainLevel::Site) => &self.sites[block as usize],
            _ => self.scope(group),
        };
        nodes.iter().copied().filter(move |node| self.block(group, *node) == block)
    }

    pub(super) fn domain(&self, group: &Group, node: NodeNo) -> DomainNo {
        self.topology.domain(node, group.level)
    }

    pub(super) fn block(&self, group: &Group, node: NodeNo) -> u32 {
        match &group.blocks {
            Blocks::One => 0,
            Blocks::Domains => self.domain(group, node),
            Blocks::Sets(set_of) => set_of[self.domain(group, node) as usize],
        }
    }

    /// How many blocks there are, at most.
    pub(super) fn blocks(&self, group: &Group) -> usize {
        match group.blocks {
            Blocks::One => 1,
            Blocks::Domains => self.topology.domains(group.level),
            Blocks::Sets(_) => 3,
        }
    }

    /// How many of these nodes are in each domain of a group's spread, domains without one left out.
    pub(super) fn counts(&self, group: &Group, nodes: impl IntoIterator<Item = NodeNo>) -> Vec<(DomainNo, u32)> {
        let mut domains: Vec<DomainNo> = nodes.into_iter().map(|node| self.domain(group, node)).collect();
        domains.sort_unstable();
        domains.chunk_by(|a, b| a == b).map(|same| (same[0], same.len() as u32)).collect()
    }

    /// How many of a group's instances count, by the judge that knows nothing of blocks.
    pub(super) fn counted(&self, group: &Group, nodes: &[NodeNo]) -> u32 {
        if group.blocks == Blocks::One {
            return group.wanted.min(nodes.len() as u32);
        }
        group.split(&self.counts(group, nodes.iter().copied())).counted
    }

    /// What the instances of a group cost together, with the blocks as they are.
    pub(super) fn cost(&self, group: &Group, picks: &[NodeNo]) -> Cost {
        let mut counts = vec![0; self.blocks(group)];
        let mut cost = Cost::default();
        for (before, node) in (0..).zip(picks) {
            let block = self.block(group, *node);
            cost += group.of_node(*node) + group.of_block(block, counts[block as usize]) + group.of_instance(before);
            counts[block as usize] += 1;
        }
        cost
    }
}

impl Group {
    /// What an instance on a node costs, for the node's sake.
    pub(super) fn of_node(&self, node: NodeNo) -> Cost {
        match self.special.binary_search_by_key(&node, |special| special.node) {
            Ok(at) => self.special[at].cost,
            Err(_) => Cost { reluctant: i32::from(self.is_reluctant(node)), ..self.plain },
        }
    }

    /// The same group, with these sets of its domains.
    pub(super) fn divided(&self, set_of: Vec<u32>) -> Self {
        Self { blocks: Blocks::Sets(set_of), ..self.clone() }
    }

    /// The best way to split domains with so many instances between the sets of the model.
    pub(super) fn split(&self, counts: &[(DomainNo, u32)]) -> Split {
        let counts: Vec<u32> = counts.iter().map(|(_, count)| *count).collect();
        sets::split(self.redundancy, self.need, self.wanted, &counts)
    }

    /// How many spares the model has beside two full sets.
    pub(super) fn spares(&self) -> u32 {
        self.wanted.saturating_sub(self.need.saturating_mul(2))
    }

    pub(super) fn is_special(&self, node: NodeNo) -> bool {
        self.special.binary_search_by_key(&node, |special| special.node).is_ok()
    }

    pub(super) fn is_reluctant(&self, node: NodeNo) -> bool {
        self.wishes.reluctant.contains(node)
    }

    /// What one more instance in a block costs, where there are so many already: more with each.
    pub(super) fn of_block(&self, block: u32, before: u32) -> Cost {
        let quota = match (&self.blocks, block) {
            (Blocks::One, _) => u32::MAX,
            (Blocks::Domains, _) => 1,
            (Blocks::Sets(_), 0 | 1) => self.need,
            (Blocks::Sets(_), _) => 1,
        };
        match before.checked_sub(quota) {
            None => Cost { apart: -1, ..Cost::default() },
            Some(beyond) => Cost { crowding: beyond as i32 + 1, ..Cost::default() },
        }
    }

    /// What one more instance costs, for its own sake, where the group has so many already.
    pub(super) fn of_instance(&self, before: u32) -> Cost {
        Cost { load: if before < self.need { -1 } else { 0 }, placed: -1, ..Cost::default() }
    }

    /// Where the group is now, as far as it may stay.
    pub(super) fn current(&self) -> impl Iterator<Item = NodeNo> + '_ {
        self.special.iter().filter(|special| special.is_current).map(|special| special.node)
    }
}

fn blocks(service: &ServiceSpec) -> Blocks {
    match (service.redundancy, service.spread) {
        (Redundancy::N, _) | (_, DomainLevel::Node) => Blocks::One,
        (Redundancy::NPlus1 | Redundancy::NPlus2, _) => Blocks::Domains,
        // The set of each domain is yet to be found.
        (Redundancy::TwoN | Redundancy::TwoNPlus1, _) => Blocks::Sets(Vec::new()),
    }
}

/// The nodes that a demand names, as far as they may take an instance.
fn special(topology: &Topology, demand: &Demand<'_>, wishes: &Wishes) -> Vec<Special> {
    let service = demand.service;
    let last = service.prefer.len();
    let mut named: Vec<(NodeNo, Cost, bool)> = Vec::new();
    let mut put = |name: &NodeName, cost: Cost, is_current: bool| {
        if let Some(node) = topology.number(name) {
            named.push((node, cost, is_current));
        }
    };
    for name in &demand.current {
        put(name, Cost { moves: -1, ..Cost::default() }, true);
    }
    for (at, name) in demand.pull.iter().enumerate() {
        put(name, Cost { pull: Cost::of_pull(at), ..Cost::default() }, false);
    }
    for (at, name) in service.prefer.iter().enumerate() {
        put(name, Cost { prefer: at as i32 - last as i32, ..Cost::default() }, false);
    }
    named.sort_unstable();
    let mut special: Vec<Special> = Vec::with_capacity(named.len());
    for (node, cost, is_current) in named {
        match special.last_mut().filter(|known| known.node == node) {
            // A node that is named twice in one list counts as often as its best place does.
            Some(known) => {
                known.cost.moves = known.cost.moves.min(cost.moves + 1);
                known.cost.pull = known.cost.pull.min(cost.pull);
                known.cost.prefer = known.cost.prefer.min(cost.prefer + last as i32);
                known.is_current |= is_current;
            }
            None => {
                let reluctant = i32::from(wishes.reluctant.contains(node));
                let plain = Cost { reluctant, moves: 1, prefer: last as i32, ..Cost::default() };
                special.push(Special { node, cost: plain + cost, is_current });
            }
        }
    }
    let fits = |node: NodeNo| topology.slots(node).is_none_or(|slots| service.slots <= slots);
    special.retain(|special| !wishes.barred.contains(special.node) && fits(special.node));
    special
}
