//! Two full sets: which domains belong to which, and which nodes of them to take.
//!
//! Exact by dynamic programming over domains. A state says how many instances each set has so far; a domain gives some
//! of its best nodes to one of the sets, or none. A domain's nodes are best in one order whatever the others do, so
//! that how many it gives is all there is to choose.

use std::ops::Add;

use super::choose::{Room, choose, standing_out};
use super::cost::Cost;
use super::problem::{Group, Problem};
use crate::topology::{DomainNo, NodeNo};

/// The most steps that one division may take: states × domains × ways to go on. A service that needs twenty instances
/// and has fifty domains takes half of it. Beyond, sets are as they can be filled, and not those with the fewest moves.
const STEPS_MAX: usize = 4_000_000;

/// Of a domain that belongs to no set.
pub(super) const NO_SET: u32 = u32::MAX;

/// The sets of a group's domains, and its nodes.
pub(super) struct Division {
    pub(super) set_of: Vec<u32>,
    pub(super) picks: Vec<NodeNo>,
}

/// How much it matters that a node has no room.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// Between nodes that are equal otherwise.
    Tie,
    /// Before everything else.
    First,
}

/// The best division of a group's domains, as if nobody else wanted them.
pub(super) fn divide(problem: &Problem<'_>, group: &Group, room: &Room, full: Full) -> Division {
    if full == Full::Tie
        && let Some(division) = as_it_stands(problem, group, room)
    {
        return division;
    }
    let offers = offers(problem, group, room, full);
    let Some(taken) = solve(group, &offers) else { return by_capacity(problem, group, room) };
    let mut set_of = vec![NO_SET; problem.topology.domains(group.level)];
    let mut picks = Vec::new();
    for (offer, set, count) in taken {
        set_of[offers[offer].domain as usize] = set;
        picks.extend(&offers[offer].nodes[..count]);
    }
    share_the_rest(problem, group, &mut set_of);
    if picks.len() < group.wanted as usize {
        picks = choose(problem, &group.divided(set_of.clone()), room);
    }
    Division { set_of, picks }
}

/// The best nodes of all, where they happen to fall into two sets: a cluster that is left alone, mostly.
fn as_it_stands(problem: &Problem<'_>, group: &Group, room: &Room) -> Option<Division> {
    let mut picks = standing_out(group, room);
    picks.truncate(group.wanted as usize);
    if picks.len() < group.wanted as usize {
        return None;
    }
    let (counted, mut set_of) = as_split(problem, group, &picks);
    if counted < group.wanted {
        return None;
    }
    share_the_rest(problem, group, &mut set_of);
    Some(Division { set_of, picks })
}

/// The best sets for these nodes, with how many of them count; domains without one have no set.
pub(super) fn as_split(problem: &Problem<'_>, group: &Group, nodes: &[NodeNo]) -> (u32, Vec<u32>) {
    let domains = problem.counts(group, nodes.iter().copied());
    let split = group.split(&domains);
    let mut set_of = vec![NO_SET; problem.topology.domains(group.level)];
    for ((domain, _), set) in domains.into_iter().zip(split.set_of) {
        set_of[domain as usize] = set;
    }
    (split.counted, set_of)
}

/// What one domain has to give.
struct Offer {
    domain: DomainNo,
    /// Its best nodes, at most as many as a set needs.
    nodes: Vec<NodeNo>,
    /// What the first one, two, … of them cost together.
    prices: Vec<Price>,
}

/// What nodes cost while sets are made: lower is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Price {
    /// Nodes without room, when that comes first.
    blocked: i32,
    cost: Cost,
    /// Nodes without room; pairs that share a domain; instances on the nodes.
    ties: [i32; 3],
}

impl Add for Price {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let [full, pairs, instances] = other.ties;
        let ties = [self.ties[0] + full, self.ties[1] + pairs, self.ties[2].saturating_add(instances)];
        Self { blocked: self.blocked + other.blocked, cost: self.cost + other.cost, ties }
    }
}

fn offers(problem: &Problem<'_>, group: &Group, room: &Room, full: Full) -> Vec<Offer> {
    let mut nodes: Vec<(DomainNo, Price, NodeNo)> = problem
        .candidates(group)
        .map(|node| {
            let is_full = i32::from(!room.fits(group, node));
            let blocked = if full == Full::First { is_full } else { 0 };
            let ties = [is_full, 0, room.instances[node as usize] as i32];
            (problem.domain(group, node), Price { blocked, cost: group.of_node(node), ties }, node)
        })
        .collect();
    nodes.sort_unstable();
    let offers = nodes.chunk_by(|a, b| a.0 == b.0).map(|same| {
        let best = &same[..same.len().min(group.need as usize)];
        let mut sum = Price::default();
        let prices = best.iter().zip(0..).map(|((_, price, _), before)| {
            sum = sum + *price + Price { ties: [0, before, 0], ..Price::default() };
            sum
        });
        Offer { domain: same[0].0, prices: prices.collect(), nodes: best.iter().map(|(_, _, node)| *node).collect() }
    });
    worth_trying(offers.collect(), group)
}

/// Leaves out domains that some other can always replace: a solution uses no more domains than it has instances, so
/// that one which for no number of nodes is among so many best is not needed.
fn worth_trying(offers: Vec<Offer>, group: &Group) -> Vec<Offer> {
    let most = group.wanted as usize;
    if offers.len() <= most {
        return offers;
    }
    let mut worth = vec![false; offers.len()];
    for count in 0..group.need as usize {
        let priced = offers.iter().enumerate().filter_map(|(at, offer)| Some((*offer.prices.get(count)?, at)));
        let mut priced: Vec<(Price, usize)> = priced.collect();
        priced.sort_unstable();
        priced.iter().take(most).for_each(|(_, at)| worth[*at] = true);
    }
    offers.into_iter().zip(worth).filter(|(_, worth)| *worth).map(|(offer, _)| offer).collect()
}

/// How many instances two sets and a spare have, as one number.
#[derive(Clone, Copy)]
struct States {
    need: usize,
    spares: usize,
}

impl States {
    fn count(self) -> usize {
        (self.need + 1) * (self.need + 1) * (self.spares + 1)
    }

    fn step(self, set: u32) -> usize {
        match set {
            0 => 1,
            1 => self.need + 1,
            _ => (self.need + 1) * (self.need + 1),
        }
    }

    fn most(self, set: u32) -> usize {
        if set < 2 { self.need } else { self.spares }
    }

    /// How many a set has in a state.
    fn has(self, state: usize, set: u32) -> usize {
        state / self.step(set) % (self.most(set) + 1)
    }

    fn counted(self, state: usize) -> usize {
        (0..3).map(|set| self.has(state, set)).sum()
    }
}

/// Which offers to take: of each its place, the set it belongs to and how many nodes it gives. None when it would take
/// too long to find out.
fn solve(group: &Group, offers: &[Offer]) -> Option<Vec<(usize, u32, usize)>> {
    let states = States { need: group.need as usize, spares: group.spares() as usize };
    let ways = 2 * group.need as usize + states.spares;
    let steps = states.count().checked_mul(offers.len())?.checked_mul(ways)?;
    if steps > STEPS_MAX {
        return None;
    }
    let mut best: Vec<Option<Price>> = vec![None; states.count()];
    best[0] = Some(Price::default());
    let mut came_by: Vec<Vec<Option<(u32, usize)>>> = Vec::with_capacity(offers.len());
    for offer in offers {
        let before = best.clone();
        let mut way = vec![None; states.count()];
        for (state, price) in before.iter().enumerate().filter_map(|(state, price)| Some((state, (*price)?))) {
            for set in 0..3 {
                let open = states.most(set) - states.has(state, set);
                for (count, more) in (1..=open).zip(&offer.prices) {
                    let (next, sum) = (state + count * states.step(set), price + *more);
                    if best[next].is_none_or(|known| sum < known) {
                        best[next] = Some(sum);
                        way[next] = Some((set, count));
                    }
                }
            }
        }
        came_by.push(way);
    }
    let reached = best.iter().enumerate().filter_map(|(state, price)| Some((state, (*price)?)));
    let rank = |(state, price): &(usize, Price)| (states.count() - states.counted(*state), *price);
    let (mut state, _) = reached.min_by_key(rank)?;
    let mut taken = Vec::new();
    for (at, way) in came_by.iter().enumerate().rev() {
        if let Some((set, count)) = way[state] {
            taken.push((at, set, count));
            state -= count * states.step(set);
        }
    }
    taken.reverse();
    Some(taken)
}

/// The sets that suit where the group is now; if they cannot be filled, those that can be filled best. Then the best nodes
/// for these sets.
fn by_capacity(problem: &Problem<'_>, group: &Group, room: &Room) -> Division {
    let filled = |nodes: &[NodeNo]| {
        let (_, mut set_of) = as_split(problem, group, nodes);
        share_the_rest(problem, group, &mut set_of);
        let picks = choose(problem, &group.divided(set_of.clone()), room);
        Division { set_of, picks }
    };
    let division = filled(&group.current().collect::<Vec<_>>());
    if problem.counted(group, &division.picks) == group.wanted {
        return division;
    }
    filled(&problem.candidates(group).collect::<Vec<_>>())
}

/// Domains that nobody uses yet go to the set that has the fewest nodes for what it needs: when slots run short,
/// instances move inside their set.
fn share_the_rest(problem: &Problem<'_>, group: &Group, set_of: &mut [u32]) {
    let quota = [group.need, group.need, group.spares()];
    let mut nodes = [0_u64; 3];
    let mut rest: Vec<DomainNo> = Vec::new();
    for node in problem.scope(group) {
        let domain = problem.domain(group, *node);
        match nodes.get_mut(set_of[domain as usize] as usize) {
            Some(nodes) => *nodes += 1,
            None => rest.push(domain),
        }
    }
    rest.sort_unstable();
    for same in rest.chunk_by(|a, b| a == b) {
        let sets = (0..3_usize).filter(|set| quota[*set] > 0);
        let poorest = sets.min_by(|a, b| (nodes[*a] * u64::from(quota[*b])).cmp(&(nodes[*b] * u64::from(quota[*a]))));
        let set = poorest.unwrap_or(0);
        set_of[same[0] as usize] = set as u32;
        nodes[set] += same.len() as u64;
    }
    set_of.iter_mut().filter(|set| **set == NO_SET).for_each(|set| *set = 0);
}
