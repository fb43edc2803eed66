//! What one client connection is, from accept to close.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::body::Body;
use crate::plan::{Listener, ListenerCounts, Peer, PeerCounts, Tried, Upstream};
use crate::slab::Key;
use crate::sys::Ready;
use crate::table::Proto;

/// A client connection with the backend connection it uses now.
pub(crate) struct Session {
    pub(crate) key: Key,
    pub(crate) fd: OwnedFd,
    pub(crate) ready: Ready,
    pub(crate) peer: IpAddr,
    pub(crate) listener: Arc<Listener>,
    pub(crate) proto: Proto,
    pub(crate) phase: Phase,
    /// When the phase times out, in ms on CLOCK_BOOTTIME.
    pub(crate) deadline_ms: u64,
    /// When a session that has lost its listener or backend is cut at last.
    pub(crate) drain_by_ms: u64,
    /// The upstream in use, while there is one.
    pub(crate) upstream: Option<Arc<Upstream>>,
    pub(crate) link: Option<Link>,
    /// Until when this request or connection may wait for a backend; 0 before it has asked for one.
    pub(crate) hold_until_ms: u64,
    /// Whether it was counted as held.
    pub(crate) was_held: bool,
    pub(crate) tried: Tried,
    /// Backends asked in this round.
    pub(crate) attempts: u32,
    /// Towards the backend.
    pub(crate) up: Flow,
    /// Towards the client.
    pub(crate) down: Flow,
    pub(crate) http: Http,
}

/// What a session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A request head from the client.
    Head,
    /// A backend that can be used.
    Held,
    /// A backend to accept the connection.
    Connecting,
    /// A request and its response.
    Exchange,
    /// Bytes either way.
    Pump,
    /// The client to take the last bytes and close.
    Linger,
}

/// What to do with a session after it went as far as it could.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Look at its phase again.
    Again,
    /// Wait for an event.
    Wait,
    /// Close it; the client has all it gets.
    Close,
    /// Close it so that the client sees a failure.
    Reset,
}

/// A connection to a backend.
pub(crate) struct Link {
    pub(crate) key: Key,
    pub(crate) fd: OwnedFd,
    pub(crate) ready: Ready,
    pub(crate) peer: Arc<Peer>,
    /// Came from the pool rather than from a new connect.
    pub(crate) reused: bool,
    pub(crate) connected: bool,
    /// When it was put into the pool.
    pub(crate) idle_since_ms: u64,
}

/// Bytes on their way to one side.
#[derive(Default)]
pub(crate) struct Flow {
    /// Read and not yet written; `sent` of them are gone.
    pub(crate) pending: Vec<u8>,
    pub(crate) sent: usize,
    /// The source has ended.
    pub(crate) ended: bool,
    /// The end was passed on.
    pub(crate) shut: bool,
    /// Large reads in a row: what tells bulk from talk.
    pub(crate) large_reads: u32,
    /// For bulk: a pipe that spares the copies.
    pub(crate) pipe: Option<Pipe>,
}

/// A kernel pipe with `filled` bytes inside.
pub(crate) struct Pipe {
    pub(crate) read: OwnedFd,
    pub(crate) write: OwnedFd,
    pub(crate) filled: usize,
}

impl Flow {
    /// Whether nothing waits to be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.pending.len() && self.pipe.as_ref().is_none_or(|pipe| pipe.filled == 0)
    }

    /// Forgets what was written.
    pub(crate) fn rewind(&mut self) {
        if self.sent == self.pending.len() {
            self.pending.clear();
            self.sent = 0;
        }
    }
}

/// The HTTP side of a session.
#[derive(Default)]
pub(crate) struct Http {
    /// Read from the client and not yet understood or not yet due: a partial head, a body, pipelined requests.
    pub(crate) input: Vec<u8>,
    /// How far `input` was searched for the end of a head.
    pub(crate) searched: usize,
    /// A partial response head.
    pub(crate) answer: Vec<u8>,
    /// The request in hand.
    pub(crate) request: Request,
    pub(crate) response: Response,
}

/// The request in hand.
#[derive(Default)]
pub(crate) struct Request {
    pub(crate) idempotent: bool,
    pub(crate) is_head: bool,
    pub(crate) is_http10: bool,
    /// The client wants the connection kept.
    pub(crate) keep: bool,
    /// The client asks for another protocol.
    pub(crate) upgrade: bool,
    /// What of the body is still to come from the client.
    pub(crate) body: Body,
    /// All that went to the backend is still in `Session::up` and can be sent again.
    pub(crate) replayable: bool,
    /// Some byte went to the backend of this attempt.
    pub(crate) sent: bool,
    /// The backend took no more; what it answered is still read.
    pub(crate) stopped: bool,
    /// Times it was sent again.
    pub(crate) retries: u32,
    /// Take a new connection rather than one from the pool.
    pub(crate) fresh: bool,
}

/// The response in hand.
#[derive(Default)]
pub(crate) struct Response {
    /// A byte of it went, or is on its way, to the client.
    pub(crate) started: bool,
    /// Its head is whole.
    pub(crate) head_done: bool,
    pub(crate) body: Body,
    pub(crate) done: bool,
    /// The client cannot take chunks: send what is inside them.
    pub(crate) unchunk: bool,
    /// The backend connection can be used again.
    pub(crate) reusable: bool,
}

impl Session {
    pub(crate) fn counts(&self, worker: usize) -> &ListenerCounts {
        &self.listener.counts[worker]
    }

    /// Starts a phase with its deadline.
    pub(crate) fn enter(&mut self, phase: Phase, deadline_ms: u64) {
        self.phase = phase;
        self.deadline_ms = deadline_ms;
    }

    /// Forgets the backends asked so far: a new round or a new request begins.
    pub(crate) fn new_round(&mut self) {
        self.tried = Tried::default();
        self.attempts = 0;
    }

    /// Whether the session may not live on as it is.
    pub(crate) fn is_overdue(&self, now_ms: u64) -> bool {
        self.deadline_ms <= now_ms || self.drain_by_ms <= now_ms
    }
}

impl Link {
    pub(crate) fn counts(&self, worker: usize) -> &PeerCounts {
        &self.peer.counts[worker]
    }
}
