//! Runs with one fault and nothing else: what DESIGN §6 promises is then due, in true time.

use backstay_model::{InstanceState, NodeName, RoleKey, Subject};

use crate::clock::{MS, SECOND};
use crate::plan::{Kind, Strike};
use crate::world::{Happening, World};

/// A lost node's roles act elsewhere: a lease, an election and a start, with room for clock rates.
const AFTER_NODE_LOSS: u64 = 6 * SECOND;
/// A crashed instance runs again: its first back-off and its start.
const AFTER_CRASH: u64 = 1500 * MS;
/// A hung instance acts again, there or elsewhere: `proof_within`, a lease and a start.
const AFTER_HANG: u64 = 16 * SECOND;
/// An instance that cannot start where it is runs elsewhere: three tries with their back-offs, and a planned move.
const AFTER_FAILURES: u64 = 6 * SECOND;
/// Longer than any run.
const FOR_GOOD: u64 = 3600 * SECOND;
/// A planned move is done: a stop, two goals and a start.
const AFTER_SWITCHOVER: u64 = 4 * SECOND;

/// A planned move of a database, which ships what its standbys lack and asks for promises.
const AFTER_PROMISED_MOVE: u64 = 6 * SECOND;

/// What must be true when the time is up.
#[derive(Clone, Debug)]
pub(crate) enum Promise {
    /// Every exclusive role acts on a node that is there.
    /// `again`: a database may be on its way back to its preferred node and is looked at once more.
    RolesAct { within: u64, again: bool },
    /// The role acts on this node.
    ActsOn { role: usize, node: usize },
}

impl World {
    /// Strikes once, and notes what is then promised.
    pub(crate) fn strike_alone(&mut self, strike: &Strike) {
        let (role, node) = (strike.role, strike.node);
        if self.grant_in_store(role).is_none() {
            return;
        }
        let (promise, within) = match strike.kind {
            Kind::LoneLoss => {
                self.kill_node_until_healed(node);
                (Promise::RolesAct { within: AFTER_NODE_LOSS, again: true }, AFTER_NODE_LOSS)
            }
            Kind::LoneCrash => {
                let Some(service) = self.service_of_role(role) else { return };
                self.crash_instance(node, service);
                match self.is_database(service) {
                    true => (Promise::RolesAct { within: AFTER_PROMISED_MOVE, again: true }, AFTER_PROMISED_MOVE),
                    false => (Promise::ActsOn { role, node }, AFTER_CRASH),
                }
            }
            Kind::LoneHang => {
                let Some(service) = self.service_of_role(role) else { return };
                self.hang(node, service, FOR_GOOD);
                (Promise::RolesAct { within: AFTER_HANG, again: true }, AFTER_HANG)
            }
            Kind::LoneFailure => {
                let Some(service) = self.service_of_role(role) else { return };
                self.nodes[node].cannot_start[service] = true;
                self.crash_instance(node, service);
                (Promise::RolesAct { within: AFTER_FAILURES, again: true }, AFTER_FAILURES)
            }
            _ => {
                let Some(target) = self.standby_of(role) else { return };
                let RoleKey::Service(id) = self.roles[role].clone() else { return };
                self.say(|w| format!("asked: {id} to {}", w.names[target]));
                self.switchovers.insert(Subject::Service(id), self.names[target].clone());
                match self.is_database_role(role) {
                    // Whose copy has just not been whole is refused.
                    true => (Promise::RolesAct { within: AFTER_PROMISED_MOVE, again: true }, AFTER_PROMISED_MOVE),
                    false => (Promise::ActsOn { role, node: target }, AFTER_SWITCHOVER),
                }
            }
        };
        self.push_in(within, Happening::Due(promise));
    }

    fn is_database_role(&self, role: usize) -> bool {
        self.service_of_role(role).is_some_and(|service| self.is_database(service))
    }

    fn service_of_role(&self, role: usize) -> Option<usize> {
        match &self.roles[role] {
            RoleKey::Service(id) => self.services.iter().position(|known| known == id),
            _ => None,
        }
    }

    fn standby_of(&self, role: usize) -> Option<usize> {
        let RoleKey::Service(id) = &self.roles[role] else { return None };
        let service = self.goals[self.in_force?].goal.services.get(id)?;
        let holder = service.primary.as_ref()?.holder.as_ref();
        let standby: Option<&NodeName> = service.instances.keys().find(|node| Some(*node) != holder);
        self.node_named(standby?)
    }

    /// The time of a promise is up.
    pub(crate) fn due(&mut self, promise: &Promise) {
        let acts = |role: usize, on: Option<usize>| {
            let mut nodes = self.nodes.iter().enumerate().filter(|(n, node)| node.up && on.is_none_or(|on| on == *n));
            nodes.any(|(_, node)| match self.service_of_role(role) {
                Some(service) => {
                    let slot = &node.instances[service];
                    slot.state == InstanceState::Running && slot.token.is_some() && slot.hung_since.is_none()
                }
                None => {
                    let listener = role + self.listeners.len() - self.roles.len();
                    node.addresses[listener].bound.is_some()
                }
            })
        };
        // A database that went back to its preferred node just now is given the time that takes.
        let database = (1..self.roles.len()).find(|role| self.is_database_role(*role));
        if let (Promise::RolesAct { within, again: true }, Some(role)) = (promise, database)
            && !acts(role, None)
        {
            return self
                .push_in(AFTER_PROMISED_MOVE / 2, Happening::Due(Promise::RolesAct { within: *within, again: false }));
        }
        let verdict = match promise {
            Promise::RolesAct { within, .. } => match (1..self.roles.len()).find(|role| !acts(*role, None)) {
                Some(role) => {
                    Err(format!("{} s after its holder failed, {} acts nowhere", within / SECOND, self.roles[role]))
                }
                None => Ok(()),
            },
            Promise::ActsOn { role, node } if acts(*role, Some(*node)) => Ok(()),
            Promise::ActsOn { role, node } => {
                Err(format!("{} does not act on {} in the time promised", self.roles[*role], self.names[*node]))
            }
        };
        self.judge(verdict);
    }
}
