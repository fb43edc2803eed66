//! One group by itself: the best nodes for it, as if nobody else wanted them.
//!
//! The worth of a set of nodes is a sum of worths of nodes, of counts in blocks and of the whole count, each further
//! instance in a block worth less than the one before: laminar concave. For such a worth, taking the best next node
//! until there are enough is exact for every number of nodes (the greedy on a laminar matroid, availability.md §5.2,
//! and on the valuated matroid that a laminar concave function is).

use backstay_model::DomainLevel;

use super::cost::Cost;
use super::problem::{Blocks, Group, Problem};
use crate::topology::NodeNo;

/// What the nodes carry so far.
#[derive(Clone)]
pub(super) struct Room {
    /// Slots taken of each node.
    pub(super) used: Vec<u32>,
    /// Instances on each node.
    pub(super) instances: Vec<u32>,
    free: Vec<Option<u32>>,
}

impl Room {
    /// Nodes that carry nothing.
    pub(super) fn empty(problem: &Problem<'_>) -> Self {
        let nodes = problem.topology.nodes();
        let free = nodes.map(|node| problem.topology.slots(node)).collect();
        Self { used: vec![0; problem.topology.len()], instances: vec![0; problem.topology.len()], free }
    }

    pub(super) fn put(&mut self, group: &Group, nodes: impl IntoIterator<Item = NodeNo>) {
        for node in nodes {
            let used = &mut self.used[node as usize];
            *used = used.saturating_add(group.slots);
            self.instances[node as usize] += 1;
        }
    }

    pub(super) fn take(&mut self, group: &Group, nodes: impl IntoIterator<Item = NodeNo>) {
        for node in nodes {
            let used = &mut self.used[node as usize];
            *used = used.saturating_sub(group.slots);
            self.instances[node as usize] -= 1;
        }
    }

    pub(super) fn fits(&self, group: &Group, node: NodeNo) -> bool {
        let at = node as usize;
        self.free[at].is_none_or(|slots| self.used[at].saturating_add(group.slots) <= slots)
    }

    pub(super) fn is_overfull(&self) -> bool {
        self.free.iter().zip(&self.used).any(|(slots, used)| slots.is_some_and(|slots| *used > slots))
    }

    /// Between nodes that cost the same: one with room, then the one that carries least, then by name.
    fn rank(&self, group: &Group, node: NodeNo) -> Rank {
        (!self.fits(group, node), self.instances[node as usize], node)
    }
}

/// Lower is better.
pub(super) type Rank = (bool, u32, NodeNo);

/// The best nodes for a group whose blocks are known, best first: as many as its model has, or as there are.
pub(super) fn choose(problem: &Problem<'_>, group: &Group, room: &Room) -> Vec<NodeNo> {
    let mut picks = Picks::none(problem, group);
    // While instances count, a node that stands out beats all that do not, unless it is one to avoid.
    for node in standing_out(group, room) {
        picks.put_if_it_counts(node);
    }
    if !picks.is_full() {
        alike(&picks, room).into_iter().for_each(|node| picks.put_if_it_counts(node));
    }
    if !picks.is_full() {
        fill(&mut picks, room);
    }
    picks.nodes
}

/// The nodes that stand out and need not be avoided, best first.
pub(super) fn standing_out(group: &Group, room: &Room) -> Vec<NodeNo> {
    let willing = group.special.iter().filter(|special| special.cost.reluctant == 0);
    let mut ranked: Vec<(Cost, Rank)> = willing.map(|special| (special.cost, room.rank(group, special.node))).collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, (_, _, node))| node).collect()
}

/// A choice in the making.
struct Picks<'p, 'a> {
    problem: &'p Problem<'a>,
    group: &'p Group,
    nodes: Vec<NodeNo>,
    /// How many are in each block.
    counts: Vec<u32>,
}

impl<'p, 'a> Picks<'p, 'a> {
    fn none(problem: &'p Problem<'a>, group: &'p Group) -> Self {
        Self { problem, group, nodes: Vec::new(), counts: vec![0; problem.blocks(group)] }
    }

    fn is_full(&self) -> bool {
        self.nodes.len() >= self.group.wanted as usize
    }

    /// What one more instance on a node costs; that there is one more costs the same for all.
    fn cost_of(&self, node: NodeNo) -> Cost {
        let block = self.problem.block(self.group, node);
        self.group.of_node(node) + self.group.of_block(block, self.counts[block as usize])
    }

    fn counts_on(&self, node: NodeNo) -> bool {
        let block = self.problem.block(self.group, node);
        self.group.of_block(block, self.counts[block as usize]).apart < 0
    }

    fn put_if_it_counts(&mut self, node: NodeNo) {
        if !self.is_full() && self.counts_on(node) {
            self.put(node);
        }
    }

    fn put(&mut self, node: NodeNo) {
        self.counts[self.problem.block(self.group, node) as usize] += 1;
        self.nodes.push(node);
    }
}

/// The best of the nodes that do not stand out, as many as are wanted yet: from each block that has none the best.
///
/// Nothing where nodes of one block differ by more than their rank.
fn alike(picks: &Picks<'_, '_>, room: &Room) -> Vec<NodeNo> {
    let (problem, group) = (picks.problem, picks.group);
    let plain = problem.candidates(group).filter(|node| !group.is_special(*node) && !group.is_reluctant(*node));
    let plain = plain.map(|node| room.rank(group, node));
    let mut ranked: Vec<Rank> = match group.blocks {
        Blocks::One if group.level == DomainLevel::Node => plain.collect(),
        Blocks::Domains => {
            let mut best: Vec<Option<Rank>> = vec![None; picks.counts.len()];
            for rank in plain {
                let block = problem.block(group, rank.2) as usize;
                if picks.counts[block] == 0 {
                    best[block] = Some(best[block].map_or(rank, |known| known.min(rank)));
                }
            }
            best.into_iter().flatten().collect()
        }
        _ => return Vec::new(),
    };
    let wanted = group.wanted as usize - picks.nodes.len();
    if wanted < ranked.len() {
        ranked.select_nth_unstable(wanted);
        ranked.truncate(wanted);
    }
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, _, node)| node).collect()
}

/// The best of all nodes that are left, one after the other. Between equals, one that shares its fate with fewest: at
/// the level of the spread, then below.
fn fill(picks: &mut Picks<'_, '_>, room: &Room) {
    let (problem, group) = (picks.problem, picks.group);
    let levels = [group.level, DomainLevel::Rack.min(group.level)];
    let mut crowds = levels.map(|level| vec![0_u32; problem.topology.domains(level)]);
    let mut left: Vec<NodeNo> = problem.candidates(group).filter(|node| !picks.nodes.contains(node)).collect();
    let domain = |node: NodeNo, at: usize| problem.topology.domain(node, levels[at]) as usize;
    for node in &picks.nodes {
        (0..levels.len()).for_each(|at| crowds[at][domain(*node, at)] += 1);
    }
    while !picks.is_full() {
        let best = left.iter().enumerate().min_by_key(|(_, node)| {
            let (is_full, instances, node) = room.rank(group, **node);
            let crowd = [0, 1].map(|at| crowds[at][domain(node, at)]);
            (picks.cost_of(node), is_full, crowd, instances, node)
        });
        let Some((at, _)) = best else { return };
        let node = left.swap_remove(at);
        (0..levels.len()).for_each(|at| crowds[at][domain(node, at)] += 1);
        picks.put(node);
    }
}
