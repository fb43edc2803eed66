//! Minimal cut sets: the smallest sets of events that suffice, counted without being listed.
//!
//! Rauzy (1993): minsol(v, without, with) = (v, minsol(without), minsol(with) ∖ minsol(without)), the families of sets
//! being diagrams themselves in which a missing event is one that is not in the set (zero-suppressed, Minato 1993).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::FaultTreeError;
use super::bdd::{ALWAYS, Diagram, NEVER, Node, Nodes};

/// A family of sets of events. The terminals are no set at all, and the empty set.
pub(super) struct Family {
    nodes: Nodes,
    top: usize,
    /// Of each node, how many sets of each size.
    counts: Vec<Vec<u128>>,
}

impl Family {
    /// The minimal cut sets of a diagram.
    pub fn minimal(diagram: &Diagram, nodes_max: usize) -> Result<Self, FaultTreeError> {
        let mut building = Building { nodes: Nodes::new(nodes_max), memo: BTreeMap::new() };
        let mut minimal = vec![NEVER; diagram.nodes.len()];
        minimal[ALWAYS] = ALWAYS;
        for number in diagram.reachable() {
            let node = diagram.nodes.get(number);
            let (without, with) = (minimal[node.without], minimal[node.with]);
            let with = building.minus(with, without)?;
            minimal[number] = building.add(node.event, without, with)?;
        }
        let mut family = Self { nodes: building.nodes, top: minimal[diagram.top], counts: Vec::new() };
        family.count();
        Ok(family)
    }

    /// How many sets there are of each size, from 0 on.
    pub fn by_order(&self) -> &[u128] {
        &self.counts[self.top]
    }

    /// The events that are a set by themselves.
    pub fn singles(&self) -> Vec<usize> {
        self.list_order(1, usize::MAX).into_iter().flatten().collect()
    }

    /// At most `limit` sets, small ones first.
    pub fn list(&self, limit: usize) -> Vec<Vec<usize>> {
        let mut sets = Vec::new();
        for order in 0..self.by_order().len() {
            sets.append(&mut self.list_order(order, limit - sets.len()));
        }
        sets
    }

    /// Sums; a number of sets beyond 128 bits stays at the largest.
    fn count(&mut self) {
        self.counts = vec![vec![], vec![1]];
        for number in 2..self.nodes.len() {
            let node = self.nodes.get(number);
            let (without, with) = (&self.counts[node.without], &self.counts[node.with]);
            let mut sum = vec![0_u128; without.len().max(with.len() + 1)];
            for (order, sets) in without.iter().enumerate() {
                sum[order] = *sets;
            }
            for (order, sets) in with.iter().enumerate() {
                sum[order + 1] = sum[order + 1].saturating_add(*sets);
            }
            self.counts.push(sum);
        }
    }

    /// Walks only where sets of this size are.
    fn list_order(&self, order: usize, limit: usize) -> Vec<Vec<usize>> {
        let mut sets = Vec::new();
        let mut todo = vec![(self.top, Vec::new())];
        while let Some((number, chosen)) = todo.pop() {
            let missing = order - chosen.len();
            if sets.len() >= limit || self.counts[number].get(missing).is_none_or(|sets| *sets == 0) {
                continue;
            }
            if number == ALWAYS {
                sets.push(chosen);
                continue;
            }
            let node = self.nodes.get(number);
            todo.push((node.without, chosen.clone()));
            if missing > 0 {
                let mut with = chosen;
                with.push(node.event);
                todo.push((node.with, with));
            }
        }
        sets
    }
}

struct Building {
    nodes: Nodes,
    memo: BTreeMap<(usize, usize), usize>,
}

impl Building {
    /// The family of `without`, and of `with` with the event added to each.
    fn add(&mut self, event: usize, without: usize, with: usize) -> Result<usize, FaultTreeError> {
        if with == NEVER { Ok(without) } else { self.nodes.add(Node { event, without, with }) }
    }

    /// The sets of `a` that contain no set of `b`; both families are minimal, so that one with the empty set has no other.
    fn minus(&mut self, a: usize, b: usize) -> Result<usize, FaultTreeError> {
        match (a, b) {
            (NEVER, _) | (_, ALWAYS) => return Ok(NEVER),
            (_, NEVER) | (ALWAYS, _) => return Ok(a),
            _ if a == b => return Ok(NEVER),
            _ => {}
        }
        if let Some(known) = self.memo.get(&(a, b)) {
            return Ok(*known);
        }
        let (of_a, of_b) = (self.nodes.get(a), self.nodes.get(b));
        let result = match of_a.event.cmp(&of_b.event) {
            Ordering::Less => {
                let (without, with) = (self.minus(of_a.without, b)?, self.minus(of_a.with, b)?);
                self.add(of_a.event, without, with)?
            }
            // No set of `a` has that event.
            Ordering::Greater => self.minus(a, of_b.without)?,
            Ordering::Equal => {
                let without = self.minus(of_a.without, of_b.without)?;
                let with = self.minus(of_a.with, of_b.without)?;
                let with = self.minus(with, of_b.with)?;
                self.add(of_a.event, without, with)?
            }
        };
        self.nodes.permit_memo(self.memo.len())?;
        self.memo.insert((a, b), result);
        Ok(result)
    }
}
