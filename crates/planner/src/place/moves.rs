//! The order of moves from one placement to another.
//!
//! An instance is started in its new place before the old one is stopped, so that nothing is lost on the way; for that
//! its new node needs a free slot first. One more instance never harms a model, so that only stopping is judged, and
//! only slots can block: whoever still stands on a full node has to leave it first. Where several wait for each other
//! in a circle, one of them makes way through a third node.

use std::collections::{BTreeMap, VecDeque};

use backstay_model::{NodeName, ServiceId};
use backstay_spec::ServiceSpec;

use super::sets::{counted_by_site, sites};
use crate::topology::{DomainNo, NodeNo, Topology};

/// The most ways out that are looked at, over all detours: some tens of milliseconds. Decisions ask for an order while
/// they are being made.
const WAYS_MAX: usize = 200_000;

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
/// A service that has its model before and after has it in between. One that has less keeps the lesser of what it has
/// before and after. Any node of `topology` may be passed through; nodes that are not in it are only left. Services
/// that are not declared are left alone.
///
/// # Errors
/// When no way was found that does not need a slot which is not there. Mostly there is none; one that needs two
/// instances of a service out of the way at once, or a detour past instances of another size or far through a full
/// cluster, may be overlooked.
pub fn moves(
    topology: &Topology,
    services: &BTreeMap<ServiceId, ServiceSpec>,
    current: &Places,
    target: &Places,
) -> Result<Vec<Move>, Deadlock> {
    // What is missing is started first: it makes services safer. Where it takes the slot by which others could pass,
    // last.
    let travel = |growth| Journey::new(topology, services, current, target, growth).travel();
    travel(Growth::First).or_else(|_| travel(Growth::Last))
}

/// When instances are started that take no other's place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Growth {
    First,
    Last,
}

/// A traveller, the node it leaves, and the node it goes to.
type Step = (usize, Option<NodeNo>, Option<NodeNo>);

/// All services on their way.
struct Journey<'a> {
    topology: &'a Topology,
    /// Nodes that are left and are not in the topology: their numbers follow those that are.
    gone: Vec<&'a NodeName>,
    travellers: Vec<Traveller<'a>>,
    /// The travellers with an instance on each node.
    on: Vec<Vec<usize>>,
    /// The travellers that have to enter each node at some time.
    entering: Vec<Vec<usize>>,
    /// Slots taken of each node.
    used: Vec<u32>,
    growth: Growth,
    /// Travellers that may be able to go on.
    ready: VecDeque<usize>,
    done: Vec<Step>,
    ways_left: usize,
}

/// A service on its way.
struct Traveller<'a> {
    service: &'a ServiceSpec,
    sites: Vec<Option<DomainNo>>,
    at: Vec<NodeNo>,
    target: Vec<NodeNo>,
    /// How many instances must count in each site, and how many there must be.
    floor: Vec<(u32, u32)>,
    /// How many there must be in all.
    least: usize,
}

impl Traveller<'_> {
    fn leaves(&self) -> Vec<NodeNo> {
        self.at.iter().copied().filter(|node| !self.target.contains(node)).collect()
    }

    fn enters(&self) -> Vec<NodeNo> {
        self.target.iter().copied().filter(|node| !self.at.contains(node)).collect()
    }

    /// How many instances are not yet where they should be, or where they should not.
    fn open(&self) -> usize {
        self.leaves().len() + self.enters().len()
    }
}

impl<'a> Journey<'a> {
    fn new(
        topology: &'a Topology,
        services: &'a BTreeMap<ServiceId, ServiceSpec>,
        current: &'a Places,
        target: &'a Places,
        growth: Growth,
    ) -> Self {
        let mut journey = Self {
            topology,
            gone: Vec::new(),
            travellers: Vec::with_capacity(services.len()),
            on: vec![Vec::new(); topology.len()],
            entering: vec![Vec::new(); topology.len()],
            used: vec![0; topology.len()],
            growth,
            ready: VecDeque::new(),
            done: Vec::new(),
            ways_left: WAYS_MAX,
        };
        for (id, service) in services {
            journey.add(service, current.get(id), target.get(id));
        }
        journey
    }

    fn add(&mut self, service: &'a ServiceSpec, current: Option<&'a Vec<NodeName>>, target: Option<&'a Vec<NodeName>>) {
        let number = self.travellers.len();
        let (at, target) = (self.numbers(current), self.numbers(target));
        // What has to be on a node that is not there never gets there.
        let known = self.topology.len() as NodeNo;
        let target: Vec<NodeNo> = target.into_iter().filter(|node| *node < known || at.contains(node)).collect();
        let sites = sites(self.topology, service);
        let before = counted_by_site(self.topology, service, &sites, &at).into_iter();
        let both = before.zip(counted_by_site(self.topology, service, &sites, &target));
        let floor = both.map(|(before, after)| (before.0.min(after.0), before.1.min(after.1))).collect();
        for node in &at {
            self.on[*node as usize].push(number);
            self.used[*node as usize] = self.used[*node as usize].saturating_add(service.slots);
        }
        let least = at.len().min(target.len());
        let traveller = Traveller { service, sites, at, target, floor, least };
        traveller.enters().into_iter().for_each(|node| self.entering[node as usize].push(number));
        if traveller.open() > 0 {
            self.ready.push_back(number);
        }
        self.travellers.push(traveller);
    }

    /// The numbers of nodes, ascending.
    fn numbers(&mut self, names: Option<&'a Vec<NodeName>>) -> Vec<NodeNo> {
        let mut numbers = Vec::new();
        for name in names.into_iter().flatten() {
            let known = self.topology.len();
            let number = self.topology.number(name).unwrap_or_else(|| {
                let at = self.gone.iter().position(|gone| *gone == name).unwrap_or_else(|| {
                    self.gone.push(name);
                    self.on.push(Vec::new());
                    self.entering.push(Vec::new());
                    self.used.push(0);
                    self.gone.len() - 1
                });
                (known + at) as NodeNo
            });
            numbers.push(number);
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    fn travel(mut self) -> Result<Vec<Move>, Deadlock> {
        // Each detour lets another move be made; more than so many only lead in circles.
        let mut detours = 2 * self.travellers.iter().map(Traveller::open).sum::<usize>();
        loop {
            while let Some(number) = self.ready.pop_front() {
                while self.go_on(number) {}
            }
            if self.travellers.iter().all(|traveller| traveller.open() == 0) {
                return Ok(self.done.iter().map(|step| self.named(*step)).collect());
            }
            if detours > 0 && self.make_way() {
                detours -= 1;
            } else if !self.start_ahead() {
                return Err(Deadlock { cycle: self.circle().into_iter().map(|step| self.named(step)).collect() });
            }
        }
    }

    fn named(&self, (number, from, to): Step) -> Move {
        let known = self.topology.len();
        let name = |node: NodeNo| match (node as usize).checked_sub(known) {
            Some(gone) => self.gone[gone].clone(),
            None => self.topology.name(node).clone(),
        };
        Move { service: self.travellers[number].service.id.clone(), from: from.map(name), to: to.map(name) }
    }

    fn has_room(&self, node: NodeNo, slots: u32) -> bool {
        let taken = self.used[node as usize].saturating_add(slots);
        (node as usize) < self.topology.len() && self.topology.slots(node).is_none_or(|all| taken <= all)
    }

    /// Whether a service still has what it must have with one instance less, and perhaps one more.
    fn holds(&self, traveller: &Traveller<'_>, without: NodeNo, with: Option<NodeNo>) -> bool {
        let stay = traveller.at.iter().copied().filter(|node| *node != without);
        let at: Vec<NodeNo> = stay.chain(with).collect();
        let counts = counted_by_site(self.topology, traveller.service, &traveller.sites, &at);
        let mut both = counts.iter().zip(&traveller.floor);
        at.len() >= traveller.least && both.all(|(now, floor)| now.0 >= floor.0 && now.1 >= floor.1)
    }

    /// Makes one move of a service, if one can be made.
    fn go_on(&mut self, number: usize) -> bool {
        let traveller = &self.travellers[number];
        let (leaves, enters) = (traveller.leaves(), traveller.enters());
        // What is too much goes first: it frees a slot and needs none.
        if leaves.len() > enters.len()
            && let Some(from) = leaves.iter().copied().find(|from| self.holds(traveller, *from, None))
        {
            self.make((number, Some(from), None));
            return true;
        }
        for to in enters.into_iter().filter(|to| self.has_room(*to, traveller.service.slots)) {
            if leaves.is_empty() && self.growth == Growth::First {
                self.make((number, None, Some(to)));
                return true;
            }
            if let Some(from) = self.source(traveller, &leaves, to) {
                self.make((number, Some(from), Some(to)));
                return true;
            }
        }
        false
    }

    /// The instance that one on this node may take the place of: of its own domain, if it can be.
    fn source(&self, traveller: &Traveller<'_>, leaves: &[NodeNo], to: NodeNo) -> Option<NodeNo> {
        let level = traveller.service.spread;
        let is_near = |from: NodeNo| {
            (from as usize) < self.topology.len()
                && self.topology.domain(from, level) == self.topology.domain(to, level)
        };
        let mut sources = leaves.to_vec();
        sources.sort_by_key(|from| !is_near(*from));
        sources.into_iter().find(|from| self.holds(traveller, *from, Some(to)))
    }

    fn make(&mut self, step: Step) {
        self.apply(step);
        self.done.push(step);
        if let (number, Some(from), _) = step {
            self.ready.extend(&self.entering[from as usize]);
            self.ready.push_back(number);
        }
    }

    fn apply(&mut self, (number, from, to): Step) {
        let traveller = &mut self.travellers[number];
        let slots = traveller.service.slots;
        if let Some(to) = to {
            traveller.at.push(to);
            self.on[to as usize].push(number);
            self.used[to as usize] = self.used[to as usize].saturating_add(slots);
        }
        if let Some(from) = from {
            traveller.at.retain(|node| *node != from);
            self.on[from as usize].retain(|other| *other != number);
            self.used[from as usize] = self.used[from as usize].saturating_sub(slots);
        }
    }

    /// Starts an instance where no old one may be stopped for it alone: two that change domains with each other, say.
    fn start_ahead(&mut self) -> bool {
        let start = self.travellers.iter().enumerate().find_map(|(number, traveller)| {
            let mut enters = traveller.enters().into_iter();
            Some((number, None, Some(enters.find(|to| self.has_room(*to, traveller.service.slots))?)))
        });
        let Some(step) = start else { return false };
        self.make(step);
        self.ready.push_back(step.0);
        true
    }

    /// Frees a slot on a node that somebody waits for, by the shortest chain of instances that each take the place of
    /// the next; then lets the one who waited have it.
    fn make_way(&mut self) -> bool {
        let mut chains: Vec<Vec<Step>> = Vec::new();
        for number in 0..self.travellers.len() {
            for (from, to) in self.waiting(&self.travellers[number]) {
                if let Some(mut chain) = self.chain(to, number) {
                    chain.push((number, from, Some(to)));
                    chains.push(chain);
                }
            }
        }
        chains.sort_by_key(Vec::len);
        chains.into_iter().any(|chain| self.follow(&chain))
    }

    /// The moves that a service could make if only there were slots.
    fn waiting(&self, traveller: &Traveller<'_>) -> Vec<(Option<NodeNo>, NodeNo)> {
        let leaves = traveller.leaves();
        let moves = traveller.enters().into_iter().filter_map(|to| {
            let from = self.source(traveller, &leaves, to);
            (from.is_some() || leaves.is_empty()).then_some((from, to))
        });
        moves.collect()
    }

    /// Makes all of these steps or none: each was judged for itself, and together they may not go.
    fn follow(&mut self, steps: &[Step]) -> bool {
        for (at, step) in steps.iter().enumerate() {
            let (number, from, to) = *step;
            let traveller = &self.travellers[number];
            let is_safe = from.is_none_or(|from| traveller.at.contains(&from) && self.holds(traveller, from, to));
            let fits = to.is_none_or(|to| !traveller.at.contains(&to) && self.has_room(to, traveller.service.slots));
            if !is_safe || !fits {
                let back = steps[..at].iter().rev().map(|(number, from, to)| (*number, *to, *from));
                back.for_each(|step| self.apply(step));
                return false;
            }
            self.apply(*step);
        }
        for step in steps {
            self.done.push(*step);
            self.ready.extend(step.1.into_iter().flat_map(|from| self.entering[from as usize].iter().copied()));
            self.ready.push_back(step.0);
        }
        true
    }

    /// Steps after which a full node has a free slot, in the order in which they can be made; none of them of the
    /// service that the slot is for. Breadth first, so that no shorter chain exists.
    fn chain(&mut self, full: NodeNo, beneficiary: usize) -> Option<Vec<Step>> {
        let mut came: BTreeMap<NodeNo, (usize, NodeNo)> = BTreeMap::new();
        let mut queue = VecDeque::from([(full, self.travellers[beneficiary].service.slots)]);
        while let Some((node, slots)) = queue.pop_front() {
            for at in 0..self.on[node as usize].len() {
                let number = self.on[node as usize][at];
                let size = self.travellers[number].service.slots;
                if size < slots || number == beneficiary {
                    continue;
                }
                for next in self.topology.nodes() {
                    self.ways_left = self.ways_left.checked_sub(1)?;
                    let other = &self.travellers[number];
                    let is_seen = next == full || came.contains_key(&next) || other.at.contains(&next);
                    if is_seen || !self.holds(other, node, Some(next)) {
                        continue;
                    }
                    came.insert(next, (number, node));
                    if self.has_room(next, size) {
                        return Some(backwards(&came, next));
                    }
                    queue.push_back((next, size));
                }
            }
        }
        None
    }

    /// Follows who waits for whom until somebody comes up again.
    fn circle(&self) -> Vec<Step> {
        let mut path: Vec<Step> = Vec::new();
        let first = |number: usize| self.travellers[number].enters().first().copied();
        let open = (0..self.travellers.len()).find_map(|number| Some((number, first(number)?)));
        let mut next = open.map(|(number, to)| (number, self.travellers[number].leaves().first().copied(), to));
        while let Some((number, from, to)) = next {
            if let Some(at) = path.iter().position(|known| known.0 == number && known.2 == Some(to)) {
                path.drain(..at);
                break;
            }
            path.push((number, from, Some(to)));
            let leaves = |number: &&usize| !self.travellers[**number].target.contains(&to);
            let blocker = self.on[to as usize].iter().find(leaves);
            next = blocker.and_then(|number| Some((*number, Some(to), first(*number)?)));
        }
        path
    }
}

/// The steps that lead to a node, the last one first: it is the one that can be made at once.
fn backwards(came: &BTreeMap<NodeNo, (usize, NodeNo)>, to: NodeNo) -> Vec<Step> {
    let step = |to: NodeNo| came.get(&to).map(|(number, from)| (*number, Some(*from), Some(to)));
    std::iter::successors(step(to), |(_, from, _)| step((*from)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Carrier;

    /// `a` on n1 and `b` on n2 change places; each node has one slot.
    fn exchange(nodes: usize) -> Result<Vec<Move>, Deadlock> {
        let carrier =
            |at: usize| Carrier { name: NodeName(format!("n{at}")), rack: None, site: String::new(), slots: Some(1) };
        let topology = Topology::new((1..=nodes).map(carrier));
        let app = |name: &str| format!("[app.{name}]\nrun = [\"/bin/x\"]\nredundancy = \"N\"\n");
        let text = format!("cluster = \"t\"\n[nodes]\nn = {{ addr = \"10.0.0.1\" }}\n{}{}", app("a"), app("b"));
        let services = backstay_spec::parse("t.toml", &text).spec.expect("a file").services;
        let places = |a: &str, b: &str| -> Places {
            [("a", a), ("b", b)].map(|(name, node)| (ServiceId::app(name), vec![NodeName::from(node)])).into()
        };
        moves(&topology, &services, &places("n1", "n2"), &places("n2", "n1"))
    }

    fn step(name: &str, from: &str, to: &str) -> Move {
        Move { service: ServiceId::app(name), from: Some(from.into()), to: Some(to.into()) }
    }

    #[test]
    fn one_makes_way_through_a_third_node() {
        assert_eq!(exchange(3), Ok(vec![step("b", "n2", "n3"), step("a", "n1", "n2"), step("b", "n3", "n1")]));
    }

    #[test]
    fn without_a_third_node_the_circle_is_named() {
        assert_eq!(exchange(2), Err(Deadlock { cycle: vec![step("a", "n1", "n2"), step("b", "n2", "n1")] }));
    }
}
