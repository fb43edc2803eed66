//! Goals, generations and tokens only grow; a grant is taken only when it is free; every goal is sound and says why.

use backstay_failover::check;
use backstay_model::{Generation, Goal, Grant, NodeName, RoleKey, Token};
use backstay_spec::Spec;

use crate::world::Proposed;

/// What was seen so far.
#[derive(Debug)]
pub(crate) struct Order {
    /// The newest grant of each role.
    granted: Vec<Option<(Token, NodeName)>>,
    /// The highest token that anything acted under, by role.
    acted: Vec<Token>,
    /// The highest goal that each node obeyed.
    obeyed: Vec<Generation>,
}

impl Order {
    pub(crate) fn new(roles: usize, nodes: usize) -> Self {
        Self { granted: vec![None; roles], acted: vec![Token::ZERO; roles], obeyed: vec![Generation::ZERO; nodes] }
    }

    /// A goal has come into force after `parent`.
    pub(crate) fn adopted(&self, spec: &Spec, parent: &Goal, proposed: &Proposed) -> Result<(), String> {
        let Proposed { goal, reasons, .. } = proposed;
        if goal.generation <= parent.generation || goal.parent != parent.generation {
            let (new, follows, old) = (goal.generation, goal.parent, parent.generation);
            return Err(format!("goal {new} (made to follow {follows}) came into force after {old}"));
        }
        if reasons.is_empty() {
            return Err(format!("goal {} came into force without a reason", goal.generation));
        }
        match check::check(spec, parent, goal).as_slice() {
            [] => Ok(()),
            notes => Err(format!("goal {} is unsound: {}", goal.generation, notes.join("; "))),
        }
    }

    /// The store has given a role to somebody.
    pub(crate) fn granted(
        &mut self,
        role: usize,
        key: &RoleKey,
        old: Option<&Grant>,
        new: &Grant,
    ) -> Result<(), String> {
        let before = self.granted[role].replace((new.token, new.holder.clone()));
        // The coordinator's grant is the one that its successor takes from it.
        let coordinator = *key == RoleKey::Coordinator;
        if let Some(old) = old.filter(|_| !coordinator) {
            return Err(format!("{key} was granted to {} while {} held it", new.holder, old.holder));
        }
        let Some((token, holder)) = before else { return Ok(()) };
        let grows = new.token > token || (new.token == token && (holder == new.holder || coordinator));
        match grows {
            true => Ok(()),
            false => Err(format!("token of {key} went from {token} ({holder}) to {} ({})", new.token, new.holder)),
        }
    }

    /// Something begins to act in a role.
    pub(crate) fn acts_under(&mut self, role: usize, token: Option<Token>, key: &str) -> Result<(), String> {
        let Some(token) = token else { return Err(format!("{key} acts without a token")) };
        let highest = self.acted[role];
        self.acted[role] = highest.max(token);
        match token < highest {
            true => Err(format!("{key} acts under the old token {token}; {highest} was obeyed before")),
            false => Ok(()),
        }
    }

    /// A node lost its disk, and with it what it had obeyed.
    pub(crate) fn wiped(&mut self, node: usize) {
        self.obeyed[node] = Generation::ZERO;
    }

    /// A node acts on a goal.
    pub(crate) fn obeys(&mut self, node: usize, _boot: u32, generation: Generation) -> Result<(), String> {
        let before = std::mem::replace(&mut self.obeyed[node], generation);
        match generation < before {
            true => Err(format!("node {node} went back from goal {before} to {generation}")),
            false => Ok(()),
        }
    }
}
