//! The order of moves from one placement to another.
//!
//! An instance is started in its new place before the old one is stopped, so that nothing is lost on the way; for that its
//! new node needs a free slot first. One more instance never harms a model, so that only stopping is judged, and only slots
//! can block: whoever still stands on a full node has to leave it first. Where several wait for each other in a circle, one of
//! them makes way through a third node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use backstay_model::{NodeName, ServiceId};
use backstay_spec::ServiceSpec;

use super::sets::counted_by_site;
use crate::topology::Topology;

/// One instance goes from one node to another: it is started there first, then stopped here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Move {
    /// The service.
    pub service: ServiceId,
    /// The node that gives it up; none when it is one more.
    pub from: Option<NodeName>,
    /// The node that takes it; none when it is one less.
    pub to: Option<NodeName>,
}

/// Moves that wait for each other in a circle, with no free slot that would open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadlock {
    /// The circle: each move needs a slot that the next one would free.
    pub cycle: Vec<Move>,
}

/// Where the instances of each service are, as in [`super::Placement::nodes`].
pub type Places = BTreeMap<ServiceId, Vec<NodeName>>;

/// An order of moves from `current` to `target` in which slots hold and no service falls below its model at any step.
///
/// A service that has its model before and after has it in between. One that has less keeps the lesser of what it has before
/// and after. Any node of `topology` may be passed through; nodes that are not in it are only left. Services that are not
/// declared are left alone.
///
/// # Errors
/// When no way was found that does not need a slot which is not there. Mostly there is none; one that needs two instances of
/// a service out of the way at once, or a detour past instances of another size, may be overlooked.
pub fn moves(
    topology: &Topology,
    services: &BTreeMap<ServiceId, ServiceSpec>,
    current: &Places,
    target: &Places,
) -> Result<Vec<Move>, Deadlock> {
    // What is missing is started first: it makes services safer. Where it takes the slot by which others could pass, last.
    let travel = |growth| Journey::new(topology, services, current, target, growth).travel();
    travel(Growth::First).or_else(|_| travel(Growth::Last))
}

/// When instances are started that take no other's place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Growth {
    First,
    Last,
}

/// A service, the node it leaves, and the node it goes to.
type Step<'a> = (&'a ServiceId, Option<NodeName>, NodeName);

/// All services on their way.
#[derive(Clone)]
struct Journey<'a> {
    topology: &'a Topology,
    travellers: BTreeMap<&'a ServiceId, Traveller<'a>>,
    /// Slots taken of each node.
    used: BTreeMap<NodeName, u32>,
    growth: Growth,
    done: Vec<Move>,
}

/// A service on its way.
#[derive(Clone)]
struct Traveller<'a> {
    service: &'a ServiceSpec,
    at: BTreeSet<NodeName>,
    target: BTreeSet<NodeName>,
    /// How many instances must count in each site, and how many there must be.
    floor: Vec<(u32, u32)>,
    /// How many there must be in all.
    least: usize,
}

impl Traveller<'_> {
    fn leaves(&self) -> Vec<NodeName> {
        self.at.difference(&self.target).cloned().collect()
    }

    fn enters(&self) -> Vec<NodeName> {
        self.target.difference(&self.at).cloned().collect()
    }

    /// How many instances are not yet where they should be, or where they should not.
    fn open(&self) -> usize {
        self.at.symmetric_difference(&self.target).count()
    }
}

impl<'a> Journey<'a> {
    fn new(
        topology: &'a Topology,
        services: &'a BTreeMap<ServiceId, ServiceSpec>,
        current: &Places,
        target: &Places,
        growth: Growth,
    ) -> Self {
        let mut used: BTreeMap<NodeName, u32> = BTreeMap::new();
        let traveller = |(id, service): (&'a ServiceId, &'a ServiceSpec)| {
            let of = |places: &Places| places.get(id).into_iter().flatten().cloned().collect::<BTreeSet<_>>();
            let (at, target) = (of(current), of(target));
            for node in &at {
                *used.entry(node.clone()).or_default() += service.slots;
            }
            let before = counted_by_site(topology, service, &at).into_iter();
            let both = before.zip(counted_by_site(topology, service, &target));
            let floor = both.map(|(before, after)| (before.0.min(after.0), before.1.min(after.1))).collect();
            let least = at.len().min(target.len());
            (id, Traveller { service, at, target, floor, least })
        };
        let travellers = services.iter().map(traveller).collect();
        Self { topology, travellers, used, growth, done: Vec::new() }
    }

    fn travel(mut self) -> Result<Vec<Move>, Deadlock> {
        // Each detour lets another move be made; more than so many only lead in circles.
        let mut detours = 2 * self.travellers.values().map(Traveller::open).sum::<usize>();
        loop {
            let steps = self.done.len();
            let names: Vec<&ServiceId> = self.travellers.keys().copied().collect();
            for name in names {
                while self.go_on(name) {}
            }
            if self.travellers.values().all(|traveller| traveller.open() == 0) {
                return Ok(self.done);
            }
            if self.done.len() > steps {
                continue;
            }
            if detours > 0 && self.make_way() {
                detours -= 1;
            } else if !self.start_ahead() {
                return Err(Deadlock { cycle: self.circle() });
            }
        }
    }

    fn has_room(&self, node: &NodeName, slots: u32) -> bool {
        let taken = self.used.get(node).copied().unwrap_or(0);
        let number = self.topology.number(node);
        number.is_some_and(|number| self.topology.slots(number).is_none_or(|all| taken.saturating_add(slots) <= all))
    }

    /// Whether a service still has what it must have with these changes.
    fn holds(&self, traveller: &Traveller<'_>, without: &NodeName, with: Option<&NodeName>) -> bool {
        let mut at = traveller.at.clone();
        at.remove(without);
        at.extend(with.cloned());
        let counts = counted_by_site(self.topology, traveller.service, &at);
        let mut both = counts.iter().zip(&traveller.floor);
        at.len() >= traveller.least && both.all(|(now, floor)| now.0 >= floor.0 && now.1 >= floor.1)
    }

    /// Makes one move of a service, if one can be made.
    fn go_on(&mut self, name: &'a ServiceId) -> bool {
        let Some(traveller) = self.travellers.get(name) else { return false };
        let (leaves, enters) = (traveller.leaves(), traveller.enters());
        // What is too much goes first: it frees a slot and needs none.
        let surplus = leaves.iter().find(|from| self.holds(traveller, from, None));
        if let Some(from) = surplus.filter(|_| traveller.at.len() > traveller.target.len()).cloned() {
            self.make(name, Some(from), None);
            return true;
        }
        for to in enters.iter().filter(|to| self.has_room(to, traveller.service.slots)) {
            if leaves.is_empty() && self.growth == Growth::First {
                let to = to.clone();
                self.make(name, None, Some(to));
                return true;
            }
            let domain = |node: &NodeName| self.topology.domain_of(node, traveller.service.spread);
            let mut sources: Vec<&NodeName> = leaves.iter().collect();
            sources.sort_by_key(|from| domain(from) != domain(to));
            if let Some(from) = sources.into_iter().find(|from| self.holds(traveller, from, Some(to))) {
                let (from, to) = (from.clone(), to.clone());
                self.make(name, Some(from), Some(to));
                return true;
            }
        }
        false
    }

    fn make(&mut self, name: &'a ServiceId, from: Option<NodeName>, to: Option<NodeName>) {
        let Some(traveller) = self.travellers.get_mut(name) else { return };
        let slots = traveller.service.slots;
        if let Some(to) = &to {
            traveller.at.insert(to.clone());
            *self.used.entry(to.clone()).or_default() += slots;
        }
        if let Some(from) = &from {
            traveller.at.remove(from);
            let used = self.used.entry(from.clone()).or_default();
            *used = used.saturating_sub(slots);
        }
        self.done.push(Move { service: name.clone(), from, to });
    }

    /// Starts an instance where no old one may be stopped for it alone: two that change domains with each other, say.
    fn start_ahead(&mut self) -> bool {
        let start = self.travellers.iter().find_map(|(name, traveller)| {
            let mut enters = traveller.enters().into_iter();
            Some((*name, enters.find(|to| self.has_room(to, traveller.service.slots))?))
        });
        let Some((name, to)) = start else { return false };
        self.make(name, None, Some(to));
        true
    }

    /// Frees a slot on a node that somebody waits for, by the shortest chain of instances that each take the place of the
    /// next; then lets the one who waited have it.
    fn make_way(&mut self) -> bool {
        let travellers = self.travellers.iter();
        let chains = travellers.flat_map(|(name, traveller)| {
            let waiting = self.waiting(traveller).into_iter();
            waiting.filter_map(|(from, to)| {
                let mut chain = self.chain(&to, traveller)?;
                chain.push((name, from, to));
                Some(chain)
            })
        });
        let mut chains: Vec<Vec<Step<'a>>> = chains.collect();
        chains.sort_by_key(Vec::len);
        // Each step was judged for itself; whether they go together shows when they are made.
        let Some(after) = chains.into_iter().find_map(|chain| self.clone().followed(chain)) else { return false };
        *self = after;
        true
    }

    /// The moves that a service could make if only there were slots.
    fn waiting(&self, traveller: &Traveller<'_>) -> Vec<(Option<NodeName>, NodeName)> {
        let leaves = traveller.leaves();
        let enters = traveller.enters().into_iter();
        let moves = enters.filter_map(|to| {
            let from = leaves.iter().find(|from| self.holds(traveller, from, Some(&to))).cloned();
            (from.is_some() || leaves.is_empty()).then_some((from, to))
        });
        moves.collect()
    }

    /// After these steps, if each of them can be made.
    fn followed(mut self, steps: Vec<Step<'a>>) -> Option<Self> {
        for (name, from, to) in steps {
            let traveller = self.travellers.get(name)?;
            let is_safe = from.as_ref().is_none_or(|from| self.holds(traveller, from, Some(&to)));
            if !is_safe || traveller.at.contains(&to) || !self.has_room(&to, traveller.service.slots) {
                return None;
            }
            self.make(name, from, Some(to));
        }
        Some(self)
    }

    /// Moves that leave a free slot on a full node, last one first in space and in time; none of them by `beneficiary`.
    fn chain(&self, full: &NodeName, beneficiary: &Traveller<'a>) -> Option<Vec<Step<'a>>> {
        let mut came: BTreeMap<NodeName, (&'a ServiceId, NodeName)> = BTreeMap::new();
        let mut queue = VecDeque::from([(full.clone(), beneficiary.service.slots)]);
        while let Some((node, slots)) = queue.pop_front() {
            for (name, other) in self.travellers.iter().filter(|(_, other)| other.at.contains(&node)) {
                let is_enough = other.service.slots >= slots && other.service.id != beneficiary.service.id;
                let carriers = self.topology.carriers().iter().map(|carrier| &carrier.name).filter(|_| is_enough);
                for next in carriers.filter(|next| !other.at.contains(*next)) {
                    if next == full || came.contains_key(next) || !self.holds(other, &node, Some(next)) {
                        continue;
                    }
                    came.insert(next.clone(), (*name, node.clone()));
                    if !self.has_room(next, other.service.slots) {
                        queue.push_back((next.clone(), other.service.slots));
                        continue;
                    }
                    let mut to = next.clone();
                    let chain = path(&came, next)
                        .map(|(name, from)| (name, Some(from.clone()), std::mem::replace(&mut to, from.clone())));
                    return Some(chain.collect());
                }
            }
        }
        None
    }

    /// Follows who waits for whom until somebody comes up again.
    fn circle(&self) -> Vec<Move> {
        let mut path: Vec<Move> = Vec::new();
        let open = self.travellers.iter().find(|(_, traveller)| !traveller.enters().is_empty());
        let mut next = open.and_then(|(name, traveller)| {
            Some((*name, traveller.leaves().into_iter().next(), traveller.enters().into_iter().next()?))
        });
        while let Some((name, from, to)) = next {
            let this = Move { service: name.clone(), from, to: Some(to.clone()) };
            if let Some(at) = path.iter().position(|known| known.service == this.service && known.to == this.to) {
                path.drain(..at);
                break;
            }
            path.push(this);
            let blocker =
                self.travellers.iter().find(|(_, other)| other.at.contains(&to) && !other.target.contains(&to));
            next =
                blocker.and_then(|(name, other)| Some((*name, Some(to.clone()), other.enters().into_iter().next()?)));
        }
        path
    }
}

/// Who would come to a node, from where, and so on backwards.
fn path<'c, 'a>(
    came: &'c BTreeMap<NodeName, (&'a ServiceId, NodeName)>,
    node: &NodeName,
) -> impl Iterator<Item = (&'a ServiceId, &'c NodeName)> {
    let step = |node: &NodeName| came.get(node).map(|(name, from)| (*name, from));
    std::iter::successors(step(node), move |(_, from)| step(from))
}
