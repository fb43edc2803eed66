//! Groups with instances of one size that want the same slots: a min-cost flow, exact.
//!
//! Instances flow from their group, through a block, to a node, and leave where the node has a slot. Every group has
//! chosen as if it were alone, so that the flow is of least cost but for nodes that take more than they can. Each such
//! instance is sent on along a cheapest path: another node takes it, or its group takes another node and pushes
//! somebody else on, or somebody goes without, whichever costs least over all. That is the method of successive
//! shortest paths from a pseudoflow that satisfies its optimality condition, with Dijkstra's algorithm on reduced costs
//! (Ahuja, Magnanti, Orlin, Network Flows, 1993, §9.7). Arcs are never written down: at a thousand nodes and two
//! thousand services there are millions, and a path sees few of them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::cost::Cost;
use super::problem::{Blocks, Group, GroupNo, Problem};
use crate::topology::NodeNo;

/// The most arcs that one placement looks at, in all its flows: half a second or so. Beyond, what is too much for a
/// node goes to the next best free one, or goes without: slots hold, but it need not be the cheapest way.
pub(super) const ARCS_MAX: u64 = 20_000_000;

/// Where the instances of some groups are, all of one size.
pub(super) struct Flow<'p, 'a> {
    problem: &'p Problem<'a>,
    members: Vec<Member<'p>>,
    /// How many instances of these groups fit on each node; none where any number does.
    fits: Vec<Option<u32>>,
    /// The members with an instance on each node.
    on: Vec<Vec<usize>>,
    /// Of each vertex. The cost of an arc, plus the potential of where it begins, less that of where it ends, is never
    /// negative: that is what it means that the flow is of least cost. Nodes, and whatever lies outside, begin at zero.
    potential: Vec<Cost>,
    labels: Vec<Label>,
    /// The member that the vertex of a part belongs to, and the place of the part there; for vertices after the
    /// members.
    part_at: Vec<(usize, usize)>,
    search: u32,
    arcs_left: u64,
    scratch: Scratch,
}

/// A group and its instances.
struct Member<'p> {
    group: &'p Group,
    nodes: Vec<NodeNo>,
    /// The blocks in use, where there is more than one block.
    parts: Vec<Part>,
    /// Whether the potentials of its vertices are set.
    is_known: bool,
}

/// A block in use, or that was.
#[derive(Clone, Copy)]
struct Part {
    block: u32,
    count: u32,
    vertex: Vertex,
}

/// A place that an instance passes: the nodes first, then the members, then their parts.
type Vertex = usize;

#[derive(Clone, Copy, Default)]
struct Label {
    /// The search that this belongs to; an older one is none.
    search: u32,
    distance: Cost,
    parent: Vertex,
    is_closed: bool,
}

/// A way out: a node with a free slot, or a member that goes without.
#[derive(Clone, Copy)]
struct Exit {
    distance: Cost,
    /// Among ways that cost the same: the node that carries less.
    instances: usize,
    at: Vertex,
}

/// Which nodes and blocks the member at hand uses.
#[derive(Default)]
struct Scratch {
    tick: u32,
    nodes: Vec<u32>,
    blocks: Vec<u32>,
}

impl<'p, 'a> Flow<'p, 'a> {
    /// `groups` have instances of one size, and each of `picks` is the best for its group alone.
    pub(super) fn new(
        problem: &'p Problem<'a>,
        groups: &[GroupNo],
        picks: Vec<Vec<NodeNo>>,
        fits: Vec<Option<u32>>,
    ) -> Self {
        let nodes = problem.topology.len();
        let mut on = vec![Vec::new(); nodes];
        let members = groups.iter().zip(picks).enumerate().map(|(at, (number, nodes))| {
            nodes.iter().for_each(|node| on[*node as usize].push(at));
            Member { group: &problem.groups[*number], nodes, parts: Vec::new(), is_known: false }
        });
        let members: Vec<Member<'p>> = members.collect();
        let blocks = members.iter().map(|member| problem.blocks(member.group)).max().unwrap_or(0);
        let vertices = nodes + members.len();
        Self {
            problem,
            members,
            fits,
            on,
            potential: vec![Cost::default(); vertices],
            labels: vec![Label::default(); vertices],
            part_at: Vec::new(),
            search: 0,
            arcs_left: 0,
            scratch: Scratch { tick: 0, nodes: vec![0; nodes], blocks: vec![0; blocks] },
        }
    }

    /// The nodes of each group, so that no node takes more than fits. Takes the arcs it looks at from `arcs_left`.
    pub(super) fn run(mut self, arcs_left: &mut u64) -> Vec<Vec<NodeNo>> {
        self.arcs_left = *arcs_left;
        for node in self.problem.topology.nodes() {
            while self.fits[node as usize].is_some_and(|fits| self.on[node as usize].len() > fits as usize) {
                match self.cheapest_exit(node) {
                    Some(exit) => self.send_on(node, exit),
                    None => self.push_aside(node),
                }
            }
        }
        *arcs_left = self.arcs_left;
        self.members.into_iter().map(|member| member.nodes).collect()
    }

    fn has_room(&self, node: NodeNo) -> bool {
        self.fits[node as usize].is_none_or(|fits| self.on[node as usize].len() < fits as usize)
    }

    fn member_vertex(&self, member: usize) -> Vertex {
        self.problem.topology.len() + member
    }

    /// Dijkstra's algorithm from a node with too many. Among equals the service that comes last yields.
    fn cheapest_exit(&mut self, from: NodeNo) -> Option<Exit> {
        let (nodes, members) = (self.problem.topology.len(), self.members.len());
        self.search += 1;
        let mut queue = Queue::default();
        self.labels[from as usize] =
            Label { search: self.search, distance: Cost::default(), parent: from as usize, is_closed: false };
        queue.heap.push(Reverse((Cost::default(), Reverse(from as usize))));
        while let Some(Reverse((distance, Reverse(vertex)))) = queue.heap.pop() {
            if queue.exit.is_some_and(|exit| exit.distance <= distance) {
                break;
            }
            if self.arcs_left == 0 {
                return None;
            }
            if self.labels[vertex].is_closed || self.labels[vertex].distance != distance {
                continue;
            }
            self.labels[vertex].is_closed = true;
            queue.closed.push(vertex);
            if vertex < nodes {
                self.leave_node(vertex as NodeNo, &mut queue);
            } else if vertex < nodes + members {
                self.leave_member(vertex - nodes, &mut queue);
            } else {
                let (member, part) = self.part_at[vertex - nodes - members];
                self.leave_part(member, part, &mut queue);
            }
        }
        let exit = queue.exit?;
        for vertex in queue.closed {
            self.potential[vertex] += self.labels[vertex].distance - exit.distance;
        }
        Some(exit)
    }

    /// Back to whoever has an instance here: that is what it would cost less.
    fn leave_node(&mut self, node: NodeNo, queue: &mut Queue) {
        for at in 0..self.on[node as usize].len() {
            let number = self.on[node as usize][at];
            self.know(number);
            let member = &self.members[number];
            let cost = member.group.of_node(node);
            match member.part_of(self.problem.block(member.group, node)) {
                Some(part) => self.relax(node as usize, member.parts[part].vertex, -cost, queue),
                None => {
                    let counts = member.group.of_block(0, 0);
                    self.relax(node as usize, self.member_vertex(number), -(cost + counts), queue);
                }
            }
        }
    }

    /// To another node of the block, or out of the block.
    fn leave_part(&mut self, number: usize, part: usize, queue: &mut Queue) {
        let problem = self.problem;
        let tick = self.mark(number);
        let member = &self.members[number];
        let (group, Part { block, count, vertex }) = (member.group, member.parts[part]);
        for node in problem.block_nodes(group, block) {
            if self.scratch.nodes[node as usize] != tick && problem.allowed(group, node) {
                self.relax(vertex, node as usize, group.of_node(node), queue);
            }
        }
        let last = group.of_block(block, count.saturating_sub(1));
        self.relax(vertex, self.member_vertex(number), -last, queue);
    }

    /// To any node of another block, or to nowhere.
    fn leave_member(&mut self, number: usize, queue: &mut Queue) {
        let (problem, vertex) = (self.problem, self.member_vertex(number));
        let tick = self.mark(number);
        let member = &self.members[number];
        let (group, parts, count) = (member.group, member.parts.clone(), member.nodes.len() as u32);
        let last = group.of_instance(count.saturating_sub(1));
        let distance = self.labels[vertex].distance + self.potential[vertex] - last;
        queue.offer(Exit { distance, instances: 0, at: vertex });
        for node in problem.candidates(group) {
            let block = problem.block(group, node);
            if self.scratch.nodes[node as usize] != tick && self.scratch.blocks[block as usize] != tick {
                self.relax(vertex, node as usize, group.of_block(block, 0) + group.of_node(node), queue);
            }
        }
        for part in parts.iter().filter(|part| part.count > 0) {
            self.relax(vertex, part.vertex, group.of_block(part.block, part.count), queue);
        }
    }

    fn relax(&mut self, from: Vertex, to: Vertex, cost: Cost, queue: &mut Queue) {
        self.arcs_left = self.arcs_left.saturating_sub(1);
        let distance = self.labels[from].distance + cost + self.potential[from] - self.potential[to];
        debug_assert!(distance >= self.labels[from].distance, "the flow is not of least cost");
        let label = &mut self.labels[to];
        if label.search == self.search && label.distance <= distance {
            return;
        }
        *label = Label { search: self.search, distance, parent: from, is_closed: false };
        if to < self.problem.topology.len() && self.has_room(to as NodeNo) {
            queue.offer(Exit { distance, instances: self.on[to].len(), at: to });
        } else {
            queue.heap.push(Reverse((distance, Reverse(to))));
        }
    }

    /// Notes which nodes and blocks a member uses.
    fn mark(&mut self, number: usize) -> u32 {
        let (member, scratch) = (&self.members[number], &mut self.scratch);
        scratch.tick += 1;
        member.nodes.iter().for_each(|node| scratch.nodes[*node as usize] = scratch.tick);
        let used = member.parts.iter().filter(|part| part.count > 0);
        used.for_each(|part| scratch.blocks[part.block as usize] = scratch.tick);
        scratch.tick
    }

    /// Sets the potentials of a member's vertices, the first time that it is met: from what it chose alone.
    fn know(&mut self, number: usize) {
        if self.members[number].is_known {
            return;
        }
        let problem = self.problem;
        let group = self.members[number].group;
        let nodes = self.members[number].nodes.clone();
        self.members[number].is_known = true;
        if group.blocks != Blocks::One {
            nodes.iter().for_each(|node| self.add_to_block(number, problem.block(group, *node)));
        }
        let vertex = self.member_vertex(number);
        let dearest = |block: Option<u32>| {
            let inside = nodes.iter().filter(|node| block.is_none_or(|block| problem.block(group, **node) == block));
            inside.map(|node| group.of_node(*node)).max().unwrap_or_default()
        };
        let member = &self.members[number];
        let last = match group.blocks {
            Blocks::One => dearest(None) + group.of_block(0, 0),
            _ => {
                let parts = member.parts.iter();
                let lasts = parts.map(|part| dearest(Some(part.block)) + group.of_block(part.block, part.count - 1));
                lasts.max().unwrap_or_default()
            }
        };
        self.potential[vertex] = -last;
        if (nodes.len() as u32) < group.wanted {
            self.potential[vertex] = self.potential[vertex].min(group.of_instance(nodes.len() as u32));
        }
        for part in &self.members[number].parts {
            let next = self.potential[vertex] + group.of_block(part.block, part.count);
            self.potential[part.vertex] = next.min(-dearest(Some(part.block)));
        }
    }

    /// One more of a member's instances is in a block.
    fn add_to_block(&mut self, number: usize, block: u32) {
        let member = &mut self.members[number];
        if let Some(part) = member.parts.iter_mut().find(|part| part.block == block) {
            part.count += 1;
            return;
        }
        if let Some(part) = member.parts.iter_mut().find(|part| part.count == 0) {
            (part.block, part.count) = (block, 1);
            return;
        }
        let vertex = self.potential.len();
        self.part_at.push((number, member.parts.len()));
        member.parts.push(Part { block, count: 1, vertex });
        self.potential.push(Cost::default());
        self.labels.push(Label::default());
    }

    /// Moves one instance along the path from a node to a way out.
    fn send_on(&mut self, from: NodeNo, exit: Exit) {
        let nodes = self.problem.topology.len();
        let mut at = exit.at;
        while at != from as usize {
            let parent = self.labels[at].parent;
            // Towards a node its new instance, away from one its old; between a member and its parts nothing happens.
            if at < nodes {
                self.put(self.member_of(parent), at as NodeNo);
            } else if parent < nodes {
                self.take(self.member_of(at), parent as NodeNo);
            }
            at = parent;
        }
    }

    fn member_of(&self, vertex: Vertex) -> usize {
        let nodes = self.problem.topology.len();
        match (vertex - nodes).checked_sub(self.members.len()) {
            Some(part) => self.part_at[part].0,
            None => vertex - nodes,
        }
    }

    fn put(&mut self, number: usize, node: NodeNo) {
        let group = self.members[number].group;
        self.members[number].nodes.push(node);
        self.on[node as usize].push(number);
        if group.blocks == Blocks::One {
            return;
        }
        let block = self.problem.block(group, node);
        let was_unused = self.members[number].part_of(block).is_none();
        self.add_to_block(number, block);
        if was_unused && let Some(part) = self.members[number].part_of(block) {
            let vertex = self.members[number].parts[part].vertex;
            self.potential[vertex] = self.potential[node as usize] - group.of_node(node);
        }
    }

    fn take(&mut self, number: usize, node: NodeNo) {
        let member = &mut self.members[number];
        member.nodes.retain(|other| *other != node);
        self.on[node as usize].retain(|other| *other != number);
        let block = self.problem.block(member.group, node);
        if let Some(part) = member.parts.iter_mut().find(|part| part.block == block && part.count > 0) {
            part.count -= 1;
        }
    }

    /// Without looking far: somebody takes the next best free node, or goes without; whoever loses least by it.
    fn push_aside(&mut self, node: NodeNo) {
        let problem = self.problem;
        let ways = self.on[node as usize].iter().map(|number| {
            let Member { group, nodes, .. } = &self.members[*number];
            let mut counts = vec![0; problem.blocks(group)];
            nodes.iter().for_each(|other| counts[problem.block(group, *other) as usize] += 1);
            counts[problem.block(group, node) as usize] -= 1;
            let cost = |node: NodeNo| {
                let block = problem.block(group, node);
                group.of_node(node) + group.of_block(block, counts[block as usize])
            };
            let free = problem.candidates(group).filter(|to| !nodes.contains(to) && self.has_room(*to));
            let best = free.map(|to| (cost(to), Some(to))).min();
            let (after, to) = best.unwrap_or_else(|| (-group.of_instance(nodes.len() as u32 - 1), None));
            (after - cost(node), Reverse(*number), to)
        });
        if let Some((_, Reverse(number), to)) = ways.min() {
            self.take(number, node);
            to.into_iter().for_each(|to| self.put(number, to));
        }
    }
}

impl Member<'_> {
    /// The place of the part for a block in use.
    fn part_of(&self, block: u32) -> Option<usize> {
        self.parts.iter().position(|part| part.block == block && part.count > 0)
    }
}

/// What one search has before it, and the best way out so far.
#[derive(Default)]
struct Queue {
    heap: BinaryHeap<Reverse<(Cost, Reverse<Vertex>)>>,
    closed: Vec<Vertex>,
    exit: Option<Exit>,
}

impl Queue {
    fn offer(&mut self, exit: Exit) {
        let is_better =
            self.exit.is_none_or(|known| (exit.distance, exit.instances) < (known.distance, known.instances));
        if is_better {
            self.exit = Some(exit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use backstay_model::NodeName;

    use super::super::each_alone;
    use super::*;
    use crate::place::Demand;
    use crate::topology::{Carrier, Topology};

    /// Eight services with two instances each want the first two of ten nodes, which take three of them each.
    #[test]
    fn slots_hold_also_when_there_is_no_time_to_look_far() {
        let carrier =
            |at: usize| Carrier { name: NodeName(format!("n{at}")), rack: None, site: String::new(), slots: Some(3) };
        let topology = Topology::new((0..10).map(carrier));
        let app = |at: usize| format!("[app.s{at}]\nrun = [\"/bin/x\"]\n");
        let apps: String = (0..8).map(app).collect();
        let text = format!("cluster = \"t\"\n[nodes]\nn = {{ addr = \"10.0.0.1\" }}\n{apps}");
        let spec = backstay_spec::parse("t.toml", &text).spec.expect("a file");
        let first = || ["n0", "n1"].map(NodeName::from).to_vec();
        let demands = spec.services.values().map(|service| Demand {
            service,
            current: BTreeSet::new(),
            pull: first(),
            reluctant: BTreeSet::new(),
            barred: BTreeSet::new(),
        });
        let mut problem = Problem::new(&topology, &demands.collect::<Vec<_>>());
        let (alone, _) = each_alone(&mut problem);
        let groups: Vec<GroupNo> = (0..8).collect();
        for mut arcs_left in [ARCS_MAX, 0] {
            let found = Flow::new(&problem, &groups, alone.clone(), vec![Some(3); 10]).run(&mut arcs_left);
            let on = |node: NodeNo| found.iter().filter(|nodes| nodes.contains(&node)).count();
            assert!(topology.nodes().all(|node| on(node) <= 3));
            assert_eq!((on(0), on(1)), (3, 3));
            assert!(found.iter().all(|nodes| nodes.len() == 2), "there is room for all");
        }
    }
}
