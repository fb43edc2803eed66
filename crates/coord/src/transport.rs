//! What the store needs from the network, given from outside.
//!
//! The transport finds a node by name, proves to it who is calling and hands the body to the other side's
//! [`crate::Embedded::handle`]. Each lane is a connection of its own, so that a snapshot cannot hold up a heartbeat.

use std::time::Duration;

use crate::store::BoxFuture;

/// Largest body in either direction: a full store as a snapshot, and its envelope.
pub const MAX_BODY_BYTES: usize = 80 << 20;

/// Which connection a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Votes, heartbeats, log entries: small and urgent.
    Control,
    /// Snapshots.
    Bulk,
    /// Requests of agents.
    Client,
}

/// Why a call brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The request certainly never reached the other side; it may be sent again.
    #[error("`{to}` was not reached: {detail}")]
    NotSent {
        /// The node called.
        to: String,
        /// What happened.
        detail: String,
    },
    /// The request may have been handled; the answer was lost or came too late.
    #[error("no answer from `{to}`: {detail}")]
    NoAnswer {
        /// The node called.
        to: String,
        /// What happened.
        detail: String,
    },
}

/// Calls other nodes by name.
pub trait Transport: Send + Sync + 'static {
    /// Sends `body` to the node named `to` and returns its answer, within `timeout`.
    fn call<'a>(
        &'a self,
        to: &'a str,
        lane: Lane,
        body: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, TransportError>>;
}
