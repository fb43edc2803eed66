//! The probability of the top, and what each event contributes: two walks over the decision diagram.

use std::collections::BTreeMap;

use super::Importance;
use super::bdd::{ALWAYS, Diagram, NEVER};

/// Pairs of nodes beyond which differences are taken of rounded numbers after all: memory is bounded.
const PAIRS_MAX: usize = 2_000_000;

pub(super) struct Probabilities<'a> {
    diagram: &'a Diagram,
    events: &'a [(String, f64)],
    order: Vec<usize>,
    /// Of each node, that it leads to ALWAYS, and that it does not.
    happens: Vec<f64>,
    fails_to: Vec<f64>,
    differences: BTreeMap<(usize, usize), f64>,
}

impl<'a> Probabilities<'a> {
    pub fn of(diagram: &'a Diagram, events: &'a [(String, f64)]) -> Self {
        let order = diagram.reachable();
        let mut all =
            Self { diagram, events, order, happens: Vec::new(), fails_to: Vec::new(), differences: BTreeMap::new() };
        all.happens = all.up(ALWAYS, None);
        all.fails_to = all.up(NEVER, None);
        all
    }

    /// The probability of the top.
    pub fn top(&self) -> f64 {
        self.happens[self.diagram.top]
    }

    /// From the terminals up: the probability of each node of leading to `terminal`, `never` being an event that does not
    /// happen.
    fn up(&self, terminal: usize, never: Option<usize>) -> Vec<f64> {
        let mut leads = vec![0.0; self.diagram.nodes.len()];
        leads[terminal] = 1.0;
        for &number in &self.order {
            let node = self.diagram.nodes.get(number);
            let p = if never == Some(node.event) { 0.0 } else { self.events[node.event].1 };
            leads[number] = (1.0 - p) * leads[node.without] + p * leads[node.with];
        }
        leads
    }

    /// What each event contributes. One walk down gives each node the probability of being asked; an event matters there
    /// by how much more likely its one branch is than the other (Birnbaum's importance of all events at once).
    pub fn importance(&mut self) -> Vec<Importance> {
        let mut asked = vec![0.0; self.diagram.nodes.len()];
        let mut birnbaum = vec![0.0; self.events.len()];
        asked[self.diagram.top] = 1.0;
        for number in std::mem::take(&mut self.order).into_iter().rev() {
            let node = self.diagram.nodes.get(number);
            let p = self.events[node.event].1;
            asked[node.with] += asked[number] * p;
            asked[node.without] += asked[number] * (1.0 - p);
            birnbaum[node.event] += asked[number] * self.difference(node.with, node.without);
        }
        self.order = self.diagram.reachable();
        birnbaum.into_iter().enumerate().map(|(event, mif)| self.measures(event, mif)).collect()
    }

    /// By how much `more` is more likely than `less`, which it contains: a sum of products instead of a difference, so
    /// that no digit is lost where both are nearly alike.
    fn difference(&mut self, more: usize, less: usize) -> f64 {
        match (more, less) {
            _ if more == less => return 0.0,
            (_, NEVER) => return self.happens[more],
            (ALWAYS, _) => return self.fails_to[less],
            _ => {}
        }
        if let Some(known) = self.differences.get(&(more, less)) {
            return *known;
        }
        if self.differences.len() >= PAIRS_MAX {
            return (self.happens[more] - self.happens[less]).max(0.0);
        }
        let nodes = [more, less].map(|number| (number, self.diagram.nodes.get(number)));
        let event = nodes[0].1.event.min(nodes[1].1.event);
        let branch = |with: bool| {
            nodes.map(|(number, node)| match node.event == event {
                false => number,
                true if with => node.with,
                true => node.without,
            })
        };
        let (with, without, p) = (branch(true), branch(false), self.events[event].1);
        let value = p * self.difference(with[0], with[1]) + (1.0 - p) * self.difference(without[0], without[1]);
        self.differences.insert((more, less), value);
        value
    }

    fn measures(&self, event: usize, mif: f64) -> Importance {
        let (q, p) = (self.top(), self.events[event].1);
        let if_certain = q + (1.0 - p) * mif;
        if q <= 0.0 {
            let raw = if if_certain > 0.0 { f64::INFINITY } else { 1.0 };
            return Importance { mif, cif: 0.0, dif: 0.0, raw, rrw: 1.0 };
        }
        let cif = p * mif / q;
        // Where most of the probability goes with the event, what is left is added up anew instead of subtracted.
        const MOST: f64 = 0.9;
        let if_never = if cif < MOST { q - p * mif } else { self.up(ALWAYS, Some(event))[self.diagram.top] };
        Importance { mif, cif, dif: p * if_certain / q, raw: if_certain / q, rrw: q / if_never }
    }
}
