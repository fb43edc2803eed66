//! Unknown moves nothing: a node with a live session whose reports are lost never loses a role because of it.

use std::collections::BTreeMap;

use backstay_model::memory::Memory;
use backstay_model::reason::MoveCause;
use backstay_model::{Goal, NodeName, Reason, RoleKey, Subject};

use crate::clock::SECOND;
use crate::coordinator::exclusive_roles;
use crate::world::Proposed;

/// A session younger than this may be unknown to a coordinator that reads a little behind the store.
const YOUNG: u64 = 2 * SECOND;

/// When sessions were opened, in true time.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    opened: BTreeMap<u64, u64>,
}

impl Silence {
    pub(crate) fn opened(&mut self, session: u64, now: u64) {
        self.opened.entry(session).or_insert(now);
    }

    pub(crate) fn adopted(&self, now: u64, parent: &Goal, made: &Proposed, memory: &Memory) -> Result<(), String> {
        let lives = |node: &NodeName| {
            let session = made.sessions.get(node).copied();
            session.is_some_and(|id| {
                let old = self.opened.get(&id).is_some_and(|at| now.saturating_sub(*at) > YOUNG);
                old && memory.session_alive(id)
            })
        };
        for reason in &made.reasons {
            if let Reason::ChoiceEnded { subject, node } = reason
                && !made.answered.contains(subject)
                && !made.drained.contains(node)
                && made.silent.contains(node)
                && still_placed(&made.goal, subject, node)
                && lives(node)
            {
                return Err(format!(
                    "the choice of {node} for {subject} was forgotten, and only silence was known of it"
                ));
            }
            if let Reason::NodeLost { node } = reason
                && lives(node)
            {
                return Err(format!("{node} is counted as lost although its session lives"));
            }
            if let Reason::HolderNamed { role, cause, .. } = reason
                && matches!(cause, MoveCause::HolderLost | MoveCause::HolderFailing | MoveCause::NotTaken)
                && let Some(holder) = holder_before(parent, &made.goal, role)
                && made.silent.contains(&holder)
                && lives(&holder)
            {
                return Err(format!("{role} left {holder}, of which only silence was known"));
            }
            if let Reason::HolderAsked { role, from, cause: MoveCause::HolderFailing, .. } = reason
                && made.silent.contains(from)
            {
                return Err(format!("{role} was asked of {from}, of which only silence was known"));
            }
        }
        Ok(())
    }
}

fn still_placed(goal: &Goal, subject: &Subject, node: &NodeName) -> bool {
    match subject {
        Subject::Service(id) => goal.services.get(id).is_some_and(|service| service.instances.contains_key(node)),
        _ => true,
    }
}

fn holder_before(parent: &Goal, goal: &Goal, role: &RoleKey) -> Option<NodeName> {
    let mut roles = exclusive_roles(parent, goal);
    roles.find(|(known, _, _)| known == role).and_then(|(_, before, _)| before?.holder.clone())
}
