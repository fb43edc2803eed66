//! Fault trees: what has to fail together to take a service down, with parts that several paths share.
//!
//! Multiplying the availabilities of paths that share a part is wrong, and wrong on the unsafe side; a decision diagram
//! asks every question once, so it is exact (availability.md §2.6). Coherent trees only: gates are `and`, `or` and `k of`.

mod bdd;
mod cut_sets;
mod parse;
mod probability;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// The most basic events of one tree.
pub const EVENTS_MAX: usize = 1000;
/// The most nodes of the diagrams it is solved with; beyond this it has to be cut into parts.
const NODES_MAX: usize = 1_000_000;

/// A tree of gates over events that have a probability.
#[derive(Clone, Debug)]
pub struct FaultTree {
    formula: parse::Formula,
}

/// Why a tree cannot be read or solved.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultTreeError {
    /// The text of a gate is wrong.
    Syntax {
        /// Which: `top`, or its name.
        gate: String,
        /// Where in it, in characters from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// An event's probability is none.
    Probability {
        /// Which.
        event: String,
        /// What it has.
        probability: f64,
    },
    /// It does not fit.
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How many there may be.
        most: usize,
    },
}

impl fmt::Display for FaultTreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { gate, column, message } => write!(f, "{gate}, column {column}: {message}"),
            Self::Probability { event, probability } => {
                write!(f, "event {event} has probability {probability}, which must be from 0 to 1")
            }
            Self::TooLarge { what, most } => {
                write!(f, "the tree has more than {most} {what}; cut it into parts that share no event")
            }
        }
    }
}

impl std::error::Error for FaultTreeError {}

/// What one event contributes to the top. Q is the probability of the top, Q(1) and Q(0) those with the event certain
/// and impossible.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Importance {
    /// Birnbaum: Q(1) − Q(0).
    pub mif: f64,
    /// Criticality: p · MIF / Q, the part of Q that goes when the event does. What to improve.
    pub cif: f64,
    /// Diagnosis: p · Q(1) / Q, the probability that the event has happened when the top has.
    pub dif: f64,
    /// Risk achievement: Q(1) / Q. What to lose last; infinite when the top cannot happen otherwise.
    pub raw: f64,
    /// Risk reduction: Q / Q(0); infinite when the top cannot happen without the event.
    pub rrw: f64,
}

/// The minimal cut sets: sets of events which together cause the top, and of which none can be left out.
#[derive(Clone, Debug, PartialEq)]
pub struct CutSets {
    /// How many there are with 0, 1, 2, … events.
    pub by_order: Vec<u128>,
    /// The smallest of them, up to the limit.
    pub listed: Vec<Vec<String>>,
}

impl CutSets {
    /// How many there are.
    pub fn total(&self) -> u128 {
        self.by_order.iter().fold(0, |sum, sets| sum.saturating_add(*sets))
    }
}

/// What a tree says.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultTreeReport {
    /// Q, the probability of the top: exact, no bound.
    pub probability: f64,
    /// Events and what they contribute, in the order in which the text names them.
    pub importance: Vec<(String, Importance)>,
    /// The minimal cut sets.
    pub cut_sets: CutSets,
    /// Events that suffice alone: the cut sets of one event.
    pub spofs: Vec<String>,
    /// Nodes of the decision diagram, a measure of how hard the tree was.
    pub nodes: usize,
}

impl FaultTree {
    /// Reads a tree: `dns or lb or ((w1 or db1 or san) and (w2 or db2 or san))`, `2 of (a, b, c)`.
    ///
    /// `gates` are texts of the same kind that the top and other gates may name; `p` has the probability of each event.
    ///
    /// # Errors
    /// Where the text is wrong, at its column; an event without a probability; too many events.
    pub fn parse(
        top: &str,
        gates: &BTreeMap<String, String>,
        p: &BTreeMap<String, f64>,
    ) -> Result<Self, FaultTreeError> {
        Ok(Self { formula: parse::parse(top, gates, p)? })
    }

    /// Solves it. At most `list` cut sets are written out; all are counted.
    ///
    /// # Errors
    /// When its decision diagram becomes too large.
    pub fn solve(&self, list: usize) -> Result<FaultTreeReport, FaultTreeError> {
        self.solve_within(NODES_MAX, list)
    }

    fn solve_within(&self, nodes_max: usize, list: usize) -> Result<FaultTreeReport, FaultTreeError> {
        let diagram = bdd::Diagram::of(&self.formula, nodes_max)?;
        let minimal = cut_sets::Family::minimal(&diagram, nodes_max)?;
        let mut probabilities = probability::Probabilities::of(&diagram, &self.formula.events);
        let name = |event: usize| self.formula.events[event].0.clone();
        let names = self.formula.events.iter().map(|(name, _)| name.clone());
        Ok(FaultTreeReport {
            probability: probabilities.top(),
            importance: names.zip(probabilities.importance()).collect(),
            cut_sets: CutSets {
                by_order: minimal.by_order().to_vec(),
                listed: minimal.list(list).into_iter().map(|set| set.into_iter().map(name).collect()).collect(),
            },
            spofs: minimal.singles().into_iter().map(name).collect(),
            nodes: diagram.reachable().len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solve(top: &str, p: &[(&str, f64)]) -> FaultTreeReport {
        let p = p.iter().map(|(name, p)| ((*name).to_owned(), *p)).collect();
        FaultTree::parse(top, &BTreeMap::new(), &p).unwrap().solve(100).unwrap()
    }

    #[test]
    fn absorbed_sets_are_no_cut_sets() {
        let solved = solve("a or (a and b) or (b and c)", &[("a", 0.1), ("b", 0.2), ("c", 0.3)]);
        assert_eq!(solved.cut_sets.listed, [vec!["a"], vec!["b", "c"]]);
        assert_eq!(
            (solved.cut_sets.by_order.as_slice(), solved.spofs.as_slice()),
            ([0, 1, 1].as_slice(), ["a".to_owned()].as_slice())
        );
        assert!((solved.probability - (1.0 - 0.9 * 0.94)).abs() < 1e-15);
    }

    #[test]
    fn certain_and_impossible_events() {
        let solved = solve("a and b", &[("a", 1.0), ("b", 0.0)]);
        assert_eq!((solved.probability, solved.cut_sets.total()), (0.0, 1));
        assert_eq!(solved.importance[1].1.raw, f64::INFINITY);
        let alone = solve("a", &[("a", 0.25)]);
        assert_eq!(alone.importance[0].1, Importance { mif: 1.0, cif: 1.0, dif: 1.0, raw: 4.0, rrw: f64::INFINITY });
        assert_eq!(alone.spofs, ["a"]);
        assert_eq!(solve("2 of (a, a, a)", &[("a", 0.25)]).cut_sets.listed, [["a"]]);
    }

    /// MIF of an event whose branches are nearly alike: 10⁻¹² below a half.
    #[test]
    fn small_differences_keep_their_digits() {
        let p = [("b", 1e-3), ("a", 0.5), ("c", 1e-12)];
        let solved = solve("(b and (a or c)) or a", &p);
        let mif = solved.importance[0].1.mif;
        assert!((mif / 0.5e-12 - 1.0).abs() < 1e-14, "{mif:e}");
        let nearly = 1.0 - 2_f64.powi(-30);
        let solved = solve("a or b or c", &[("a", 0.5), ("b", nearly), ("c", nearly)]);
        assert_eq!(solved.importance[0].1.mif, 2_f64.powi(-60), "what is left is not what is left of one");
    }

    #[test]
    fn rest_without_the_worst_keeps_its_digits() {
        let solved = solve("a or (b and c)", &[("a", 0.5), ("b", 1e-9), ("c", 1e-9)]);
        let rrw = solved.importance[0].1.rrw;
        assert!((rrw * 1e-18 / solved.probability - 1.0).abs() < 1e-14, "{rrw:e}");
    }

    #[test]
    fn lists_stop_at_their_limit_with_the_small_sets_first() {
        let p: BTreeMap<_, _> = (0..20).map(|i| (format!("e{i}"), 0.01)).collect();
        let names: Vec<_> = p.keys().cloned().collect();
        let top = format!("10 of ({}) or e0 and e1", names.join(", "));
        let solved = FaultTree::parse(&top, &BTreeMap::new(), &p).unwrap().solve(3).unwrap();
        assert_eq!(solved.cut_sets.listed.len(), 3);
        assert_eq!(solved.cut_sets.listed[0], ["e0", "e1"]);
        // Of the sets of ten, those with both e0 and e1 are no longer minimal: C(20, 10) − C(18, 8).
        assert_eq!(solved.cut_sets.total(), 1 + 184_756 - 43_758);
        assert_eq!(FaultTree::parse(&top, &BTreeMap::new(), &p).unwrap().solve(0).unwrap().cut_sets.listed.len(), 0);
    }

    #[test]
    fn too_large_is_named() {
        let p: BTreeMap<_, _> = (0..=EVENTS_MAX).map(|i| (format!("e{i}"), 0.01)).collect();
        let names: Vec<_> = p.keys().cloned().collect();
        let error = FaultTree::parse(&names.join(" or "), &BTreeMap::new(), &p).unwrap_err();
        assert!(error.to_string().contains("more than 1000 events"), "{error}");
        // An order as bad as it gets: each pair is 30 events apart.
        let pairs: Vec<_> = (0..30).map(|i| format!("e{i} and e{}", i + 30)).collect();
        let firsts: Vec<_> = (0..30).map(|i| format!("e{i}")).collect();
        let top = format!("({}) and ({})", firsts.join(" or "), pairs.join(" or "));
        let error = FaultTree::parse(&top, &BTreeMap::new(), &p).unwrap().solve_within(20_000, 1).unwrap_err();
        assert!(error.to_string().contains("more than 20000 nodes in its decision diagram"), "{error}");
    }
}
