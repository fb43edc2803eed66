//! A few groups that get in each other's way where no flow is exact: every way is tried, within bounds.
//!
//! Instances of different sizes on shared nodes are bin packing, and the sets of several 2N services on the same
//! domains are no easier: both are NP-hard. Small cases are what an operator can check by hand, and there an avoidable
//! shortage would be noticed. So each group's choices are listed, cheapest first, and combined depth first; a branch
//! ends where even the cheapest choices of the rest could not beat the best so far.

use super::cost::Cost;
use super::divide::{NO_SET, as_split};
use super::problem::{Blocks, Group, GroupNo, Problem};
use crate::topology::NodeNo;

/// The most groups that are combined.
const GROUPS_MAX: usize = 6;
/// The most choices that are listed for one group: some 14 nodes for four instances.
const CHOICES_MAX: usize = 1500;
/// The most combinations that are looked at.
const STEPS_MAX: usize = 200_000;

/// One way to place a group.
struct Choice {
    cost: Cost,
    nodes: Vec<NodeNo>,
}

/// Better nodes for groups that got less than they could have, and whoever stands in their way; none when there are
/// none, or too many ways to try.
pub(super) fn search(
    problem: &Problem<'_>,
    picks: &[Vec<NodeNo>],
    losers: &[GroupNo],
) -> Option<Vec<(GroupNo, Vec<NodeNo>)>> {
    let mut groups = involved(problem, picks, losers)?;
    groups.sort_by_key(|number| (std::cmp::Reverse(problem.groups[*number].slots), *number));
    let choices = groups.iter().map(|number| choices(problem, &problem.groups[*number]));
    let choices: Vec<Vec<Choice>> = choices.collect::<Option<_>>()?;
    let mut least = vec![Cost::default(); groups.len() + 1];
    for at in (0..groups.len()).rev() {
        least[at] = least[at + 1] + choices[at].first()?.cost;
    }
    let others = (0..picks.len()).filter(|number| !groups.contains(number));
    let mut used = vec![0_u32; problem.topology.len()];
    for number in others {
        for node in &picks[number] {
            used[*node as usize] += problem.groups[number].slots;
        }
    }
    let now = groups.iter().map(|number| worth(problem, &problem.groups[*number], &picks[*number]).0);
    let best_cost = now.fold(Cost::default(), |sum, cost| sum + cost);
    let mut combining = Combining {
        problem,
        groups: &groups,
        choices: &choices,
        least,
        used,
        taken: Vec::new(),
        best_cost,
        best: None,
        steps: 0,
    };
    combining.go_on(Cost::default());
    let best = combining.best?;
    Some(groups.iter().zip(best).zip(&choices).map(|((number, at), of)| (*number, of[at].nodes.clone())).collect())
}

/// The groups with an instance on a node that one of them could use, beginning with the losers.
fn involved(problem: &Problem<'_>, picks: &[Vec<NodeNo>], losers: &[GroupNo]) -> Option<Vec<GroupNo>> {
    let mut groups = losers.to_vec();
    let mut wanted = vec![false; problem.topology.len()];
    let mut seen = 0;
    while seen < groups.len() {
        if groups.len() > GROUPS_MAX {
            return None;
        }
        problem.candidates(&problem.groups[groups[seen]]).for_each(|node| wanted[node as usize] = true);
        seen += 1;
        let stands_there = |number: &GroupNo| picks[*number].iter().any(|node| wanted[*node as usize]);
        let more: Vec<_> = (0..picks.len()).filter(|number| !groups.contains(number) && stands_there(number)).collect();
        groups.extend(more);
    }
    Some(groups)
}

/// All choices of a group, cheapest first.
fn choices(problem: &Problem<'_>, group: &Group) -> Option<Vec<Choice>> {
    let nodes: Vec<NodeNo> = problem.candidates(group).collect();
    let mut all: Vec<Vec<NodeNo>> = vec![Vec::new()];
    for node in nodes {
        let open = all.iter().filter(|chosen| chosen.len() < group.wanted as usize);
        let with: Vec<_> = open.map(|chosen| [&chosen[..], &[node]].concat()).collect();
        all.extend(with);
        if all.len() > CHOICES_MAX {
            return None;
        }
    }
    let mut choices: Vec<Choice> =
        all.into_iter().map(|nodes| Choice { cost: worth(problem, group, &nodes).0, nodes }).collect();
    choices.sort_by_key(|choice| choice.cost);
    Some(choices)
}

/// What these nodes cost, with the sets that suit them best.
pub(super) fn worth(problem: &Problem<'_>, group: &Group, nodes: &[NodeNo]) -> (Cost, Blocks) {
    if !matches!(group.blocks, Blocks::Sets(_)) {
        return (problem.cost(group, nodes), group.blocks.clone());
    }
    let (_, mut set_of) = as_split(problem, group, nodes);
    set_of.iter_mut().filter(|set| **set == NO_SET).for_each(|set| *set = 0);
    let divided = group.divided(set_of);
    (problem.cost(&divided, nodes), divided.blocks)
}

struct Combining<'s, 'p> {
    problem: &'s Problem<'p>,
    groups: &'s [GroupNo],
    choices: &'s [Vec<Choice>],
    /// What the groups from each place on cost at least.
    least: Vec<Cost>,
    /// Slots taken of each node.
    used: Vec<u32>,
    taken: Vec<usize>,
    best_cost: Cost,
    best: Option<Vec<usize>>,
    steps: usize,
}

impl Combining<'_, '_> {
    fn go_on(&mut self, cost: Cost) {
        let at = self.taken.len();
        if at == self.groups.len() {
            (self.best_cost, self.best) = (cost, Some(self.taken.clone()));
            return;
        }
        let slots = self.problem.groups[self.groups[at]].slots;
        let choices = self.choices;
        for (number, choice) in choices[at].iter().enumerate() {
            self.steps += 1;
            if self.steps > STEPS_MAX || cost + choice.cost + self.least[at + 1] >= self.best_cost {
                return;
            }
            let has_room = |node: &NodeNo| {
                let free = self.problem.topology.slots(*node);
                free.is_none_or(|free| self.used[*node as usize] + slots <= free)
            };
            if !choice.nodes.iter().all(has_room) {
                continue;
            }
            choice.nodes.iter().for_each(|node| self.used[*node as usize] += slots);
            self.taken.push(number);
            self.go_on(cost + choice.cost);
            self.taken.pop();
            choice.nodes.iter().for_each(|node| self.used[*node as usize] -= slots);
        }
    }
}
