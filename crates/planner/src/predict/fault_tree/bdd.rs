//! Decision diagrams: a formula as a graph in which every question is asked once, in one order.
//!
//! Reduced and ordered (Bryant 1986), built with if-then-else and a memo. The order is that in which a walk from the top
//! meets the events, which keeps what belongs together near together.

use std::collections::BTreeMap;

use super::FaultTreeError;
use super::parse::{Formula, Gate};

/// The diagram of what never happens.
pub(super) const NEVER: usize = 0;
/// The diagram of what always does.
pub(super) const ALWAYS: usize = 1;

/// One question: has the event happened? Terminals ask nothing, and stand behind all events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Node {
    pub event: usize,
    /// Where to go on if it has not.
    pub without: usize,
    /// Where to go on if it has.
    pub with: usize,
}

/// Nodes, each after those it leads to, no two alike.
#[derive(Clone, Debug)]
pub(super) struct Nodes {
    all: Vec<Node>,
    known: BTreeMap<Node, usize>,
    most: usize,
}

impl Nodes {
    pub fn new(most: usize) -> Self {
        let terminal = |number| Node { event: usize::MAX, without: number, with: number };
        Self { all: vec![terminal(NEVER), terminal(ALWAYS)], known: BTreeMap::new(), most }
    }

    pub fn get(&self, number: usize) -> Node {
        self.all[number]
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether a memo of so many answers is still in proportion: memory is bounded by the nodes and these.
    pub fn permit_memo(&self, answers: usize) -> Result<(), FaultTreeError> {
        const ANSWERS_PER_NODE: usize = 8;
        if answers / ANSWERS_PER_NODE >= self.most { Err(self.too_large()) } else { Ok(()) }
    }

    fn too_large(&self) -> FaultTreeError {
        FaultTreeError::TooLarge { what: "nodes in its decision diagram", most: self.most }
    }

    /// The number of this node, a new one if there was none like it.
    pub fn add(&mut self, node: Node) -> Result<usize, FaultTreeError> {
        if let Some(number) = self.known.get(&node) {
            return Ok(*number);
        }
        if self.all.len() >= self.most {
            return Err(self.too_large());
        }
        self.all.push(node);
        self.known.insert(node, self.all.len() - 1);
        Ok(self.all.len() - 1)
    }
}

/// The diagram of a formula.
pub(super) struct Diagram {
    pub nodes: Nodes,
    pub top: usize,
    memo: BTreeMap<[usize; 3], usize>,
}

impl Diagram {
    pub fn of(formula: &Formula, nodes_max: usize) -> Result<Self, FaultTreeError> {
        let mut diagram = Self { nodes: Nodes::new(nodes_max), top: NEVER, memo: BTreeMap::new() };
        let mut gates = Vec::with_capacity(formula.gates.len());
        for gate in &formula.gates {
            gates.push(match gate {
                Gate::Event(event) => diagram.nodes.add(Node { event: *event, without: NEVER, with: ALWAYS })?,
                Gate::AtLeast(needed, inputs) => {
                    let inputs: Vec<_> = inputs.iter().map(|gate| gates[*gate]).collect();
                    diagram.at_least(*needed as usize, &inputs)?
                }
            });
        }
        diagram.top = gates.last().copied().unwrap_or(NEVER);
        diagram.memo.clear();
        Ok(diagram)
    }

    /// True when `needed` of the inputs are. Row after row: after the last i inputs, the diagrams of "j of them".
    fn at_least(&mut self, needed: usize, inputs: &[usize]) -> Result<usize, FaultTreeError> {
        let mut row = vec![NEVER; needed + 1];
        row[0] = ALWAYS;
        for (seen, input) in inputs.iter().rev().enumerate() {
            // More than those seen cannot be true, and fewer than those to come are enough do not matter.
            let still_to_see = inputs.len() - seen - 1;
            for wanted in (needed.saturating_sub(still_to_see).max(1)..=needed.min(seen + 1)).rev() {
                row[wanted] = self.if_then_else(*input, row[wanted - 1], row[wanted])?;
            }
        }
        Ok(row[needed])
    }

    /// `f` decides between `g` and `h`. Recursion goes down one event each, of which there are at most
    /// [`EVENTS_MAX`](super::EVENTS_MAX).
    fn if_then_else(&mut self, f: usize, g: usize, h: usize) -> Result<usize, FaultTreeError> {
        match (f, g, h) {
            (ALWAYS, ..) => return Ok(g),
            (NEVER, ..) => return Ok(h),
            (_, ALWAYS, NEVER) => return Ok(f),
            _ if g == h => return Ok(g),
            _ => {}
        }
        if let Some(known) = self.memo.get(&[f, g, h]) {
            return Ok(*known);
        }
        let nodes = [f, g, h].map(|number| self.nodes.get(number));
        let event = nodes.iter().map(|node| node.event).min().unwrap_or(usize::MAX);
        let follow = |number: usize, node: Node, with: bool| match node.event == event {
            false => number,
            true if with => node.with,
            true => node.without,
        };
        let [[f1, g1, h1], [f0, g0, h0]] =
            [true, false].map(|with| [0, 1, 2].map(|i| follow([f, g, h][i], nodes[i], with)));
        let with = self.if_then_else(f1, g1, h1)?;
        let without = self.if_then_else(f0, g0, h0)?;
        let result = if with == without { with } else { self.nodes.add(Node { event, without, with })? };
        self.nodes.permit_memo(self.memo.len())?;
        self.memo.insert([f, g, h], result);
        Ok(result)
    }

    /// Nodes that the top leads to, each after those it leads to; terminals left out.
    pub fn reachable(&self) -> Vec<usize> {
        let mut is_met = vec![false; self.nodes.len()];
        is_met[self.top] = true;
        // A node's number is above those of the nodes it leads to.
        for number in (2..self.nodes.len()).rev().filter(|number| *number <= self.top) {
            if is_met[number] {
                let node = self.nodes.get(number);
                (is_met[node.without], is_met[node.with]) = (true, true);
            }
        }
        (2..self.nodes.len()).filter(|number| is_met[*number]).collect()
    }
}
