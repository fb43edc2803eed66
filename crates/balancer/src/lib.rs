//! The balancer forwards traffic: TCP and HTTP/1.1, from listeners to the backends of an upstream.
//!
//! It is a process of its own. It is handed whole routing tables over a Unix socket, knows nothing of what stands behind a
//! backend, and goes on forwarding on its last table when everything else on the machine is dead. What must not outlive its
//! permission (an address, a route to an exclusive role) carries an instant in the table; past it the balancer acts alone.
//!
//! Reading order: `table` (what it is told), `control` (how it is told), `plan` (the table as the workers see it), `worker` (the
//! event loop), `link` (choosing and reaching a backend), then `tcp` and `http`.

mod answer;
mod body;
mod check;
mod claim;
pub mod client;
mod clock;
mod control;
mod head;
mod http;
mod link;
mod plan;
mod session;
mod slab;
mod sys;
mod tcp;
mod upkeep;
mod worker;

pub mod table;
pub mod wire;

use std::path::PathBuf;

pub use clock::boottime_ns;
pub use control::run;
pub use table::{Backend, BackendState, Check, CheckKind, Listener, Proto, Table, Upstream};

/// How the balancer is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Path of the control socket, created with mode 0600. At most 100 bytes. `PATH.lock` beside it is held while the process lives.
    pub socket: PathBuf,
    /// Number of worker threads; 0 means one per core, at most 4.
    pub workers: usize,
    /// Write one line to standard error for each new table, bind, failed bind and shutdown.
    pub log: bool,
}

/// Why the balancer could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another balancer serves this control socket.
    #[error(
        "the balancer at {0} is already running; use it through its control socket, or shut it down first (retrying helps once it has gone)"
    )]
    AlreadyServed(PathBuf),
    /// The path does not fit into a Unix socket address.
    #[error(
        "the control socket path {path} has {bytes} bytes, at most 100 fit; choose a shorter one (retrying does not help)"
    )]
    PathTooLong {
        /// The path asked for.
        path: PathBuf,
        /// Its length in bytes.
        bytes: usize,
    },
    /// The operating system refused something the balancer cannot work without.
    #[error("the balancer cannot {what}: {source} (retrying may help once the cause is removed)")]
    System {
        /// What was attempted.
        what: String,
        /// What the system answered.
        #[source]
        source: std::io::Error,
    },
}
