//! What is said over the control socket: one JSON object a line each way, strictly in turn.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::table::Table;

/// Longest line either side accepts, in bytes.
pub const LINE_MAX: usize = 4 << 20;

/// What the balancer is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// Put this table in force.
    Table(Table),
    /// Move `valid_until` of what is named further into the future; it never moves back.
    Extend(Extend),
    /// Report.
    Stats {},
    /// Drain for at most two seconds, then exit.
    Shutdown {},
}

/// New instants, in ns on CLOCK_BOOTTIME, by name. Names that the table in force does not have are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extend {
    /// By listener.
    #[serde(default)]
    pub listeners: BTreeMap<String, u64>,
    /// By upstream.
    #[serde(default)]
    pub upstreams: BTreeMap<String, u64>,
}

/// The answer to a command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Generation of the table in force.
    pub generation: u64,
    /// Serial of the table in force.
    pub serial: u64,
    /// Process id of the balancer.
    pub pid: u32,
    /// Listeners that are bound.
    pub bound: Vec<Bound>,
    /// Listeners that the table asks for and that are not bound; the bind is retried every 50 ms.
    pub failed: Vec<Failed>,
    /// Counters, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<Stats>,
    /// Why the command was refused; then nothing has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A bound listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Its name.
    pub listener: String,
    /// Its address, with the real port where the table asked for port 0.
    pub addr: SocketAddr,
}

/// A listener that could not be bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Its name.
    pub listener: String,
    /// The address asked for.
    pub bind: SocketAddr,
    /// What the system answered, or that `valid_until` has passed.
    pub error: String,
    /// Who listens on the port, where that can be seen: `pid 123 (name)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
}

/// Counters since the start of the process, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// By listener.
    pub listeners: BTreeMap<String, ListenerStats>,
    /// By upstream, then by backend id.
    pub upstreams: BTreeMap<String, BTreeMap<String, BackendStats>>,
}

/// Counters of a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections open now.
    pub active: u64,
    /// HTTP requests whose head was whole and valid, or TCP sessions.
    pub requests: u64,
    /// Requests or sessions that failed in a way the client could see.
    pub failed: u64,
    /// Requests sent again to another backend, or connections tried again.
    pub retried: u64,
    /// Requests or connections that had to wait for a backend.
    pub held: u64,
    /// Heads refused because of their framing.
    pub refused: u64,
    /// Sessions cut because a permission ended.
    pub cut: u64,
}

/// State and counters of a backend.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStats {
    /// Whether its active check passes; true where there is none.
    pub up: bool,
    /// Whether it is left out for now because connections or requests to it failed.
    pub ejected: bool,
    /// Sessions or requests on it now.
    pub active: u64,
    /// Sessions or requests given to it.
    pub requests: u64,
    /// Those that failed on it.
    pub errors: u64,
    /// Connections opened to it.
    pub connects: u64,
}
