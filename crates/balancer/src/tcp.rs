//! TCP sessions, and whatever an HTTP session became after an upgrade: bytes both ways, ends passed on, nothing read that cannot be
//! written.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

use crate::link::Opened;
use crate::session::{Flow, Phase, Pipe, Session, Step};
use crate::sys::{self, Got, Put, Ready};
use crate::worker::{BUFFER_BYTES, TURNS_MAX, Worker};

/// A session on which nothing moved for so long is closed. Database sessions may rest for hours; a dead peer is found by
/// keep-alive probes long before.
pub(crate) const IDLE_TIMEOUT_MS: u64 = 24 * 3_600 * 1_000;
/// The same once the backend has said its last word: a client that neither speaks nor closes then is not waited for.
pub(crate) const HALF_CLOSED_TIMEOUT_MS: u64 = 60_000;
/// Reads of at least this size ...
const LARGE_READ_BYTES: usize = 32 << 10;
/// ... so many times in a row prove bulk, which is then spliced.
const LARGE_READS: u32 = 2;
/// A splice of less than this ends splicing.
const SMALL_SPLICE_BYTES: usize = 16 << 10;

enum Pumped {
    Idle,
    Moved,
    More,
    Gone,
}

enum Turn {
    Wait,
    Moved,
    Gone,
}

/// One side of a session: where bytes come from or go to.
struct Side<'a> {
    fd: &'a OwnedFd,
    ready: &'a mut Ready,
}

impl Worker {
    /// One step of a TCP session.
    pub(crate) fn step_tcp(&mut self, session: &mut Session) -> Step {
        match session.phase {
            Phase::Pump => self.pump(session),
            Phase::Connecting if session.link.is_some() => match self.connected(session) {
                None => Step::Wait,
                Some(true) => self.begin_pump(session),
                Some(false) => {
                    self.connect_failed(session);
                    Step::Again
                }
            },
            _ => self.open_tcp(session),
        }
    }

    fn open_tcp(&mut self, session: &mut Session) -> Step {
        if session.ready.dead {
            return Step::Close;
        }
        if session.hold_until_ms == 0 {
            session.counts(self.at).requests.up();
        }
        match self.open(session) {
            Opened::Linked | Opened::Held => Step::Wait,
            Opened::Refused => {
                session.counts(self.at).failed.up();
                Step::Close
            }
        }
    }

    /// Lets bytes flow both ways from now on.
    pub(crate) fn begin_pump(&mut self, session: &mut Session) -> Step {
        let Some(link) = &session.link else {
            return Step::Reset;
        };
        link.peer.health.passed();
        for fd in [&session.fd, &link.fd] {
            let _ = sockopt::set_socket_keepalive(fd, true);
            let _ = sockopt::set_tcp_keepidle(fd, std::time::Duration::from_secs(60));
        }
        session.enter(Phase::Pump, self.now_ms + IDLE_TIMEOUT_MS);
        Step::Again
    }

    /// Moves what can be moved.
    pub(crate) fn pump(&mut self, session: &mut Session) -> Step {
        let Some(link) = session.link.as_mut() else {
            return Step::Reset;
        };
        let (client, backend) = (&session.fd, &link.fd);
        let up = pump_one(
            Side { fd: client, ready: &mut session.ready },
            Side { fd: backend, ready: &mut link.ready },
            &mut session.up,
            &mut self.buffer,
            &mut self.pipes,
        );
        let down = pump_one(
            Side { fd: backend, ready: &mut link.ready },
            Side { fd: client, ready: &mut session.ready },
            &mut session.down,
            &mut self.buffer,
            &mut self.pipes,
        );
        if matches!(up, Pumped::Gone) || matches!(down, Pumped::Gone) {
            return Step::Reset;
        }
        if session.up.shut && session.down.shut {
            return Step::Close;
        }
        // An end was read, then the connection broke: nothing is left to read that would tell.
        if (session.up.ended && session.ready.dead) || (session.down.ended && link.ready.dead) {
            return Step::Reset;
        }
        if !matches!((&up, &down), (Pumped::Idle, Pumped::Idle)) {
            let patience_ms = if session.down.shut { HALF_CLOSED_TIMEOUT_MS } else { IDLE_TIMEOUT_MS };
            session.deadline_ms = self.now_ms + patience_ms;
        }
        if matches!(up, Pumped::More) || matches!(down, Pumped::More) {
            return Step::Again;
        }
        Step::Wait
    }
}

fn pump_one(mut from: Side<'_>, mut to: Side<'_>, flow: &mut Flow, buffer: &mut [u8], pipes: &mut Vec<Pipe>) -> Pumped {
    let mut result = Pumped::Idle;
    for _ in 0..TURNS_MAX {
        match turn(&mut from, &mut to, flow, buffer, pipes) {
            Turn::Moved => result = Pumped::Moved,
            Turn::Wait => return result,
            Turn::Gone => return Pumped::Gone,
        }
    }
    Pumped::More
}

fn turn(from: &mut Side<'_>, to: &mut Side<'_>, flow: &mut Flow, buffer: &mut [u8], pipes: &mut Vec<Pipe>) -> Turn {
    if !flow.is_empty() {
        return write_pending(to, flow);
    }
    if flow.ended {
        if flow.shut {
            return Turn::Wait;
        }
        sys::end_writing(to.fd);
        flow.shut = true;
        return Turn::Moved;
    }
    if !from.ready.read {
        return Turn::Wait;
    }
    if flow.large_reads >= LARGE_READS {
        if flow.pipe.is_none() {
            flow.pipe = pipes.pop().or_else(new_pipe);
        }
        if flow.pipe.is_some() {
            return splice_in(from, flow);
        }
    } else if let Some(pipe) = flow.pipe.take() {
        // Back to talk: someone else may need the pipe.
        if pipes.len() < crate::worker::PIPES_MAX {
            pipes.push(pipe);
        }
    }
    copy(from, to, flow, buffer)
}

fn copy(from: &mut Side<'_>, to: &mut Side<'_>, flow: &mut Flow, buffer: &mut [u8]) -> Turn {
    let count = match sys::recv(from.fd, from.ready, buffer) {
        Got::Data(count) => count,
        Got::End => {
            flow.ended = true;
            return Turn::Moved;
        }
        Got::Wait => return Turn::Wait,
        Got::Gone => return Turn::Gone,
    };
    flow.large_reads = if count >= LARGE_READ_BYTES { flow.large_reads.saturating_add(1) } else { 0 };
    let mut sent = 0;
    if to.ready.write {
        match sys::send(to.fd, to.ready, &buffer[..count]) {
            Put::Sent(count) => sent = count,
            Put::Wait => {}
            Put::Gone => return Turn::Gone,
        }
    }
    flow.rewind();
    flow.pending.extend_from_slice(&buffer[sent..count]);
    Turn::Moved
}

fn write_pending(to: &mut Side<'_>, flow: &mut Flow) -> Turn {
    if !to.ready.write {
        return Turn::Wait;
    }
    if flow.sent < flow.pending.len() {
        return match sys::send(to.fd, to.ready, &flow.pending[flow.sent..]) {
            Put::Sent(count) => {
                flow.sent += count;
                if flow.sent == flow.pending.len() {
                    // A session that was slow once need not own a buffer for ever.
                    flow.pending = Vec::new();
                    flow.sent = 0;
                }
                Turn::Moved
            }
            Put::Wait => Turn::Wait,
            Put::Gone => Turn::Gone,
        };
    }
    let Some(pipe) = flow.pipe.as_mut() else {
        return Turn::Wait;
    };
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    match splice(&pipe.read, None, to.fd, None, pipe.filled, flags) {
        Ok(count) => {
            pipe.filled -= count.min(pipe.filled);
            Turn::Moved
        }
        Err(Errno::INTR) => Turn::Moved,
        Err(Errno::AGAIN) => {
            to.ready.write = false;
            Turn::Wait
        }
        Err(_) => Turn::Gone,
    }
}

fn splice_in(from: &mut Side<'_>, flow: &mut Flow) -> Turn {
    let Some(pipe) = flow.pipe.as_mut() else {
        return Turn::Wait;
    };
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    match splice(from.fd, None, &pipe.write, None, BUFFER_BYTES, flags) {
        Ok(0) => {
            flow.ended = true;
            Turn::Moved
        }
        Ok(count) => {
            pipe.filled = count;
            if count < SMALL_SPLICE_BYTES {
                flow.large_reads = 0;
            }
            Turn::Moved
        }
        Err(Errno::INTR) => Turn::Moved,
        Err(Errno::AGAIN) => {
            from.ready.read = false;
            Turn::Wait
        }
        Err(_) => Turn::Gone,
    }
}

/// A pipe of the default size: larger ones were measured to be slower.
fn new_pipe() -> Option<Pipe> {
    let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
    Some(Pipe { read, write, filled: 0 })
}
