//! The answer in names: the nodes of each service, best first, and what is missing and why.

use std::collections::BTreeSet;

use super::cost::Cost;
use super::problem::{Blocks, Group, Problem};
use super::share::Picks;
use super::shortage::{Cause, Gap, NAMED_MAX, Shortage};
use super::{Demand, Placement};
use crate::topology::NodeNo;

/// What was found, in words; `alone` has what each group would have got without the others.
pub(super) fn answer(problem: &Problem<'_>, demands: &[Demand<'_>], alone: &Picks, picks: &Picks) -> Placement {
    let mut placement = Placement::default();
    let mut instances = vec![0; problem.topology.len()];
    let mut used: Option<Vec<u32>> = None;
    let mut number = 0;
    for (at, demand) in demands.iter().enumerate() {
        let (mut nodes, mut gaps, mut counted_in_all) = (Vec::new(), Vec::new(), 0);
        while let Some(group) = problem.groups.get(number).filter(|group| group.demand == at) {
            let ordered = best_first(problem, group, &picks[number], &instances);
            let counted = problem.counted(group, &ordered);
            counted_in_all += counted;
            if counted < group.wanted {
                let used = used.get_or_insert_with(|| slots_used(problem, picks));
                let cause = cause(problem, group, &alone[number], &ordered, used);
                let site = group.site.and_then(|site| demand.service.sites.get(site)).cloned();
                gaps.push(Gap { site, missing: group.wanted - counted, cause });
            }
            nodes.extend(ordered);
            number += 1;
        }
        nodes.iter().for_each(|node| instances[*node as usize] += 1);
        if !gaps.is_empty() {
            let (placed, level) = (counted_in_all, demand.service.spread);
            let short = Shortage { placed, wanted: demand.service.instances_wanted(), level, gaps };
            placement.short.insert(demand.service.id.clone(), short);
        }
        let names = nodes.into_iter().map(|node| problem.topology.name(node).clone());
        placement.nodes.insert(demand.service.id.clone(), names.collect());
    }
    placement
}

/// Those that count before those that do not; by cost, by what nodes carry of services before, by name.
fn best_first(problem: &Problem<'_>, group: &Group, picks: &[NodeNo], instances: &[u32]) -> Vec<NodeNo> {
    let mut ranked: Vec<(Cost, u32, NodeNo)> =
        picks.iter().map(|node| (group.of_node(*node), instances[*node as usize], *node)).collect();
    ranked.sort_unstable();
    let nodes = ranked.into_iter().map(|(_, _, node)| node);
    if group.blocks != Blocks::Domains {
        return nodes.collect();
    }
    let mut domains = BTreeSet::new();
    let (mut first, further): (Vec<_>, Vec<_>) = nodes.partition(|node| domains.insert(problem.domain(group, *node)));
    first.extend(further);
    first
}

fn slots_used(problem: &Problem<'_>, picks: &Picks) -> Vec<u32> {
    let mut used = vec![0_u32; problem.topology.len()];
    for (group, nodes) in problem.groups.iter().zip(picks) {
        nodes.iter().for_each(|node| used[*node as usize] = used[*node as usize].saturating_add(group.slots));
    }
    used
}

fn cause(problem: &Problem<'_>, group: &Group, alone: &[NodeNo], nodes: &[NodeNo], used: &[u32]) -> Cause {
    if problem.counted(group, nodes) < problem.counted(group, alone) {
        let is_full = |node: &NodeNo| {
            let slots = problem.topology.slots(*node);
            slots.is_some_and(|slots| used[*node as usize].saturating_add(group.slots) > slots)
        };
        let domains = problem.counts(group, nodes.iter().copied());
        let would_do = |node: &NodeNo| {
            let domain = problem.domain(group, *node);
            let is_new = domains.binary_search_by_key(&domain, |(known, _)| *known).is_err();
            !nodes.contains(node) && (is_new || group.blocks != Blocks::Domains)
        };
        let full = problem.candidates(group).filter(|node| is_full(node) && would_do(node)).take(NAMED_MAX);
        return Cause::TooFewSlots { full: full.map(|node| problem.topology.name(node).clone()).collect() };
    }
    let domains = problem.counts(group, problem.candidates(group));
    let nodes = domains.iter().map(|(_, nodes)| nodes).sum();
    if nodes < group.wanted {
        return Cause::TooFewNodes { nodes };
    }
    let of_use = if group.blocks == Blocks::Domains { 1 } else { group.need };
    let crowded = domains.iter().filter(|(_, nodes)| *nodes > of_use).take(NAMED_MAX);
    let crowded = crowded.map(|(domain, _)| problem.topology.domain_name(*domain, group.level).to_owned()).collect();
    Cause::TooFewDomains { domains: domains.len() as u32, crowded }
}
