//! The acts that one node may owe to a goal. A hand carries a step out; it chooses nothing.

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, ListenerName, NodeName, RoleKey, ServiceId, Token};
use crate::replica::{Reign, SyncRule};
use crate::role::Role;

/// One idempotent act on one node, stamped with the goal it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Take the grant of an exclusive role: the goal names this node and the role is free.
    TakeGrant {
        /// Which role.
        role: RoleKey,
        /// The token it will carry.
        token: Token,
        /// The grant of another that it replaces: promises cover it (S4). None: only a free role is taken.
        instead_of: Option<Token>,
    },
    /// Give the grant back: nothing of the role is left running here.
    ReleaseGrant {
        /// Which role.
        role: RoleKey,
        /// The token it carries.
        token: Token,
    },
    /// Make sure that an instance runs.
    Start {
        /// Which service.
        service: ServiceId,
        /// In which role.
        role: Role,
        /// Under which token (exclusive services).
        token: Option<Token>,
        /// For which goal.
        generation: Generation,
        /// What a database's primary begins with.
        reign: Option<Reign>,
    },
    /// Make sure that no instance runs: its stop signal, its grace, then the end of everything inside.
    Stop {
        /// Which service.
        service: ServiceId,
    },
    /// Make sure that a standby streams from this primary, and from nobody else.
    Follow {
        /// Which service.
        service: ServiceId,
        /// The primary.
        upstream: NodeName,
        /// Under which token it is primary.
        token: Token,
        /// The goal that says so: a standby that promised a newer one does not follow.
        generation: Generation,
    },
    /// Promise to follow nothing older than this goal: clear the upstream on disk, see the receiver gone, then write position
    /// and goal to the store, in this order.
    Promise {
        /// Which service.
        service: ServiceId,
        /// The goal that asks.
        generation: Generation,
    },
    /// Make sure that the primary's commits wait for these.
    Sync {
        /// Which service.
        service: ServiceId,
        /// Whom to wait for.
        rule: SyncRule,
    },
    /// Bind a listener's address here.
    Bind {
        /// Which listener.
        listener: ListenerName,
        /// Under which token.
        token: Token,
    },
    /// Close a listener's address here, with every session on it.
    Unbind {
        /// Which listener.
        listener: ListenerName,
    },
}
