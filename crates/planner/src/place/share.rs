//! Groups that together ask nodes for more slots than they have: who gives way.
//!
//! Exact where all instances take the same number of slots and no service has two sets over racks or sites: one flow.
//! Else sizes are placed largest first, and sets are divided anew where their nodes are taken; what then still lacks
//! something is searched through if it is small ([`super::search`]). What is found always holds the slots; it may not
//! be the best.

use super::choose::{Room, choose};
use super::cost::Cost;
use super::divide::{Full, divide};
use super::each_alone;
use super::flow::{ARCS_MAX, Flow};
use super::problem::{Blocks, Group, GroupNo, Problem};
use super::search::{search, worth};
use crate::topology::NodeNo;

/// How often the sets of services that lack something are divided anew.
const DIVISIONS_MAX: usize = 3;
/// How often what was found is taken for what is current, to see whether it stays.
const ROUNDS_MAX: usize = 4;

/// The nodes of each group.
pub(super) type Picks = Vec<Vec<NodeNo>>;

/// The nodes of each group within the slots that there are; `alone` has the best of each.
pub(super) fn share_out(problem: &mut Problem<'_>, alone: &Picks) -> Picks {
    let mut arcs = ARCS_MAX;
    let has_sets = problem.groups.iter().any(|group| matches!(group.blocks, Blocks::Sets(_)));
    if !has_sets && sizes(problem).len() < 2 {
        return by_size(problem, alone, &mut arcs);
    }
    // What is not exact may find something better once it stands where it went: it goes on until it would stay there.
    let mut picks = search_out(problem, alone, &mut arcs);
    let mut settled = problem.clone();
    for _ in 0..ROUNDS_MAX {
        let stays = |(group, nodes): (&Group, &Vec<NodeNo>)| {
            nodes.len() == group.current().count() && group.current().all(|node| nodes.contains(&node))
        };
        if settled.groups.iter().zip(&picks).all(stays) {
            break;
        }
        settled.settle(&picks);
        let (alone, room) = each_alone(&mut settled);
        picks = if room.is_overfull() { search_out(&mut settled, &alone, &mut arcs) } else { alone };
        for (group, known) in problem.groups.iter_mut().zip(&settled.groups) {
            group.blocks.clone_from(&known.blocks);
        }
    }
    picks
}

/// The best that is found for sizes that differ, or services with two sets.
fn search_out(problem: &mut Problem<'_>, alone: &Picks, arcs: &mut u64) -> Picks {
    let mut best = Draft::new(problem, by_size(problem, alone, arcs));
    for _ in 0..DIVISIONS_MAX {
        match divided_anew(problem, alone, &best, arcs) {
            Some(other) if other.cost < best.cost => best = other,
            _ => break,
        }
    }
    best.restore(problem);
    let losers = losers(problem, alone, &best.picks);
    if !losers.is_empty()
        && let Some(found) = search(problem, &best.picks, &losers)
    {
        for (number, nodes) in found {
            problem.groups[number].blocks = worth(problem, &problem.groups[number], &nodes).1;
            best.picks[number] = nodes;
        }
        best = Draft::new(problem, best.picks);
    }
    match as_it_is(problem) {
        Some(stay) if stay.cost <= best.cost => best = stay,
        _ => {}
    }
    best.restore(problem);
    best.picks
}

/// A way to place everything, with the blocks that it counts on.
struct Draft {
    cost: Cost,
    picks: Picks,
    blocks: Vec<Blocks>,
}

impl Draft {
    fn new(problem: &Problem<'_>, picks: Picks) -> Self {
        let costs = problem.groups.iter().zip(&picks).map(|(group, nodes)| problem.cost(group, nodes));
        let cost = costs.fold(Cost::default(), |sum, cost| sum + cost);
        Self { cost, picks, blocks: problem.groups.iter().map(|group| group.blocks.clone()).collect() }
    }

    fn restore(&self, problem: &mut Problem<'_>) {
        for (group, blocks) in problem.groups.iter_mut().zip(&self.blocks) {
            group.blocks.clone_from(blocks);
        }
    }
}

/// The sizes of instances, largest first.
fn sizes(problem: &Problem<'_>) -> Vec<u32> {
    let mut sizes: Vec<u32> = problem.groups.iter().map(|group| group.slots).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.dedup();
    sizes
}

/// One flow for each size, in what larger ones leave: first so that smaller ones may stay where they are, then, if that
/// leaves somebody short, as if there were none.
fn by_size(problem: &Problem<'_>, alone: &Picks, arcs: &mut u64) -> Picks {
    let mut picks = alone.clone();
    for size in sizes(problem) {
        let groups: Vec<GroupNo> = (0..picks.len()).filter(|number| problem.groups[*number].slots == size).collect();
        let before: Picks = groups.iter().map(|number| alone[*number].clone()).collect();
        let mut flow = |beside: &dyn Fn(u32) -> bool| {
            let fits = left_for(problem, &picks, size, beside);
            Flow::new(problem, &groups, before.clone(), fits).run(arcs)
        };
        let beside_all = flow(&|slots| slots != size);
        let is_short = beside_all.iter().zip(&before).any(|(after, before)| after.len() < before.len());
        let has_smaller = problem.groups.iter().any(|group| group.slots < size);
        let found = if is_short && has_smaller { flow(&|slots| slots > size) } else { beside_all };
        for (number, nodes) in groups.iter().zip(found) {
            picks[*number] = nodes;
        }
    }
    picks
}

/// How many instances of a size fit on each node beside those of certain other sizes.
fn left_for(problem: &Problem<'_>, picks: &Picks, size: u32, beside: &dyn Fn(u32) -> bool) -> Vec<Option<u32>> {
    let mut room = Room::empty(problem);
    for (group, nodes) in problem.groups.iter().zip(picks).filter(|(group, _)| beside(group.slots)) {
        room.put(group, nodes.iter().copied());
    }
    let left = |node| Some(problem.topology.slots(node)?.saturating_sub(room.used[node as usize]) / size.max(1));
    problem.topology.nodes().map(left).collect()
}

/// The groups that got less than they would have alone.
fn losers(problem: &Problem<'_>, alone: &Picks, picks: &Picks) -> Vec<GroupNo> {
    let got = |number: GroupNo, picks: &Picks| {
        let cost = worth(problem, &problem.groups[number], &picks[number]).0;
        (cost.load, cost.apart, cost.placed)
    };
    (0..picks.len()).filter(|number| got(*number, picks) > got(*number, alone)).collect()
}

/// With other sets for the services that lack instances: of nodes that have room, as far as that is possible.
fn divided_anew(problem: &mut Problem<'_>, alone: &Picks, best: &Draft, arcs: &mut u64) -> Option<Draft> {
    let mut room = Room::empty(problem);
    for (group, nodes) in problem.groups.iter().zip(&best.picks) {
        room.put(group, nodes.iter().copied());
    }
    // Other sets are of no use to a group if no node has room for it.
    let divided = losers(problem, alone, &best.picks).into_iter().filter(|number| {
        let group = &problem.groups[*number];
        matches!(group.blocks, Blocks::Sets(_)) && problem.candidates(group).any(|node| room.fits(group, node))
    });
    let divided: Vec<GroupNo> = divided.collect();
    if divided.is_empty() {
        return None;
    }
    let mut start = alone.clone();
    for number in divided {
        let group = &problem.groups[number];
        room.take(group, best.picks[number].iter().copied());
        let division = divide(problem, group, &room, Full::First);
        room.put(group, division.picks.iter().copied());
        problem.groups[number].blocks = Blocks::Sets(division.set_of);
    }
    for (number, group) in problem.groups.iter().enumerate() {
        if matches!(group.blocks, Blocks::Sets(_)) {
            start[number] = choose(problem, group, &room);
        }
    }
    Some(Draft::new(problem, by_size(problem, &start, arcs)))
}

/// Everything stays where it is, if that is possible.
fn as_it_is(problem: &mut Problem<'_>) -> Option<Draft> {
    let picks: Picks = problem.groups.iter().map(|group| group.current().collect()).collect();
    let mut room = Room::empty(problem);
    for (group, nodes) in problem.groups.iter().zip(&picks) {
        if nodes.len() > group.wanted as usize {
            return None;
        }
        room.put(group, nodes.iter().copied());
    }
    if room.is_overfull() {
        return None;
    }
    for (number, nodes) in picks.iter().enumerate() {
        problem.groups[number].blocks = worth(problem, &problem.groups[number], nodes).1;
    }
    Some(Draft::new(problem, picks))
}
