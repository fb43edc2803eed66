//! HTTP sessions: one request at a time, in order, over a backend connection that is borrowed from the pool for it.
//!
//! Bytes are retained rather than turned into a model: a request head is written anew once, everything else passes through. What
//! was sent of an idempotent request is kept while it is small, so that it can be sent again when its backend fails.

use std::io::Write;

use crate::head::{self, Reject};
use crate::link::Opened;
use crate::plan::{NEVER, Tried};
use crate::session::{Phase, Request, Response, Session, Step};
use crate::sys::{self, Got, Put};
use crate::worker::{BUFFER_BYTES, TURNS_MAX, Worker};

/// How long a client has to send a whole head.
pub(crate) const HEAD_TIMEOUT_MS: u64 = 10_000;
/// How long a client connection may rest between requests.
const IDLE_TIMEOUT_MS: u64 = 60_000;
/// How long a backend has to answer, and either side to go on.
const STALL_TIMEOUT_MS: u64 = 60_000;
/// How long a client has to close after the last answer.
const LINGER_MS: u64 = 1_000;
/// Most bytes of a request that are kept to be sent again.
const REPLAY_MAX: usize = 64 << 10;
/// Times a request is sent again because a backend failed.
const RETRIES_MAX: u32 = 2;
/// What `Retry-After` says, in seconds.
const RETRY_AFTER_S: u32 = 1;

impl Worker {
    /// One step of an HTTP session.
    pub(crate) fn step_http(&mut self, session: &mut Session) -> Step {
        match session.phase {
            Phase::Head => self.read_head(session),
            Phase::Exchange => self.exchange(session),
            Phase::Pump => self.pump(session),
            Phase::Linger => self.linger(session),
            Phase::Connecting if session.link.is_some() => match self.connected(session) {
                None => Step::Wait,
                Some(true) => self.begin_exchange(session),
                Some(false) => {
                    self.connect_failed(session);
                    Step::Again
                }
            },
            Phase::Held | Phase::Connecting => self.open_http(session),
        }
    }

    fn read_head(&mut self, session: &mut Session) -> Step {
        if !session.http.input.is_empty() {
            match head::find_end(&session.http.input, &mut session.http.searched) {
                Err(reject) => return self.reject(session, reject),
                Ok(Some(end)) => {
                    let mut input = std::mem::take(&mut session.http.input);
                    let step = self.begin_request(session, &input[..end]);
                    input.drain(..end);
                    session.http.input = input;
                    return step;
                }
                Ok(None) => {}
            }
        }
        if !session.ready.read {
            return Step::Wait;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let step = match sys::recv(&session.fd, &mut session.ready, &mut buffer) {
            Got::Data(count) => self.take_head(session, &buffer[..count]),
            Got::Wait => Step::Wait,
            Got::End | Got::Gone => Step::Close,
        };
        self.buffer = buffer;
        step
    }

    fn take_head(&mut self, session: &mut Session, bytes: &[u8]) -> Step {
        if session.http.input.is_empty() {
            session.http.searched = 0;
            // The usual case: the whole head in one read, understood where it lies.
            match head::find_end(bytes, &mut session.http.searched) {
                Err(reject) => return self.reject(session, reject),
                Ok(Some(end)) => {
                    let step = self.begin_request(session, &bytes[..end]);
                    self.keep_input(session, &bytes[end..]);
                    return step;
                }
                Ok(None) => session.deadline_ms = session.deadline_ms.min(self.now_ms + HEAD_TIMEOUT_MS),
            }
        }
        self.keep_input(session, bytes);
        Step::Again
    }

    fn keep_input(&mut self, session: &mut Session, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if session.http.input.capacity() == 0 {
            session.http.input = self.spare();
        }
        session.http.input.extend_from_slice(bytes);
    }

    fn begin_request(&mut self, session: &mut Session, bytes: &[u8]) -> Step {
        let mut out = self.spare();
        let head = match head::request(bytes, session.peer, session.listener.addr, &mut out) {
            Ok(head) => head,
            Err(reject) => {
                self.recycle(out);
                return self.reject(session, reject);
            }
        };
        session.counts(self.at).requests.up();
        session.up.pending = out;
        session.up.sent = 0;
        session.http.searched = 0;
        session.http.response = Response::default();
        session.http.request = Request {
            idempotent: head.idempotent,
            is_head: head.is_head,
            is_http10: head.is_http10,
            keep: head.keep,
            upgrade: head.upgrade,
            body: head.body,
            replayable: head.idempotent,
            ..Request::default()
        };
        session.hold_until_ms = 0;
        session.was_held = false;
        session.new_round();
        session.enter(Phase::Connecting, self.now_ms + STALL_TIMEOUT_MS);
        Step::Again
    }

    fn open_http(&mut self, session: &mut Session) -> Step {
        if session.ready.dead {
            return Step::Close;
        }
        match self.open(session) {
            Opened::Held => Step::Wait,
            Opened::Refused => self.refuse(session),
            Opened::Linked if session.link.as_ref().is_some_and(|link| link.connected) => self.begin_exchange(session),
            Opened::Linked => self.send_early(session),
        }
    }

    /// Sends to a connection that has only just been started: nearby, it is often there already.
    fn send_early(&mut self, session: &mut Session) -> Step {
        if let Err(step) = self.absorb(session) {
            return step;
        }
        let Some(link) = session.link.as_mut() else {
            return Step::Reset;
        };
        link.ready.write = true;
        match sys::send(&link.fd, &mut link.ready, &session.up.pending) {
            Put::Sent(count) => {
                link.connected = true;
                link.peer.health.reached();
                session.up.sent = count;
                session.http.request.sent = true;
                self.forget_sent(session);
                self.begin_exchange(session)
            }
            Put::Wait => Step::Wait,
            Put::Gone => {
                self.connect_failed(session);
                Step::Again
            }
        }
    }

    fn begin_exchange(&mut self, session: &mut Session) -> Step {
        session.enter(Phase::Exchange, self.now_ms + STALL_TIMEOUT_MS);
        Step::Again
    }

    /// Moves request and response as far as both sides allow.
    fn exchange(&mut self, session: &mut Session) -> Step {
        if session.ready.dead {
            return Step::Reset;
        }
        for _ in 0..TURNS_MAX {
            let mut moved = match self.flush_down(session) {
                Ok(moved) => moved,
                Err(step) => return step,
            };
            if moved {
                session.deadline_ms = self.now_ms + STALL_TIMEOUT_MS;
            }
            if session.http.response.done {
                return match session.down.is_empty() {
                    true => self.finish(session),
                    false => Step::Wait,
                };
            }
            match self.push_request(session) {
                Ok(pushed) => moved |= pushed,
                Err(step) => return step,
            }
            if session.down.is_empty() {
                match self.pull_response(session) {
                    Ok(pulled) => moved |= pulled,
                    Err(step) => return step,
                }
            }
            if !moved {
                return Step::Wait;
            }
            session.deadline_ms = self.now_ms + STALL_TIMEOUT_MS;
        }
        Step::Again
    }

    fn flush_down(&mut self, session: &mut Session) -> Result<bool, Step> {
        if session.down.is_empty() || !session.ready.write {
            return Ok(false);
        }
        let waiting = &session.down.pending[session.down.sent..];
        match sys::send(&session.fd, &mut session.ready, waiting) {
            Put::Sent(count) => {
                session.down.sent += count;
                if session.down.is_empty() {
                    let buffer = std::mem::take(&mut session.down.pending);
                    session.down.sent = 0;
                    self.recycle(buffer);
                }
                Ok(true)
            }
            Put::Wait => Ok(false),
            Put::Gone => Err(Step::Reset),
        }
    }

    fn push_request(&mut self, session: &mut Session) -> Result<bool, Step> {
        let mut moved = false;
        for _ in 0..TURNS_MAX {
            self.absorb(session)?;
            let Some(link) = session.link.as_mut() else {
                return Ok(moved);
            };
            if session.http.request.stopped {
                return Ok(moved);
            }
            if session.up.sent < session.up.pending.len() {
                if !link.ready.write {
                    return Ok(moved);
                }
                match sys::send(&link.fd, &mut link.ready, &session.up.pending[session.up.sent..]) {
                    Put::Sent(count) => {
                        session.up.sent += count;
                        session.http.request.sent = true;
                        self.forget_sent(session);
                        moved = true;
                    }
                    Put::Wait => return Ok(moved),
                    Put::Gone => {
                        // It may have answered before it stopped to listen.
                        session.http.request.stopped = true;
                        link.ready.read = true;
                        return Ok(moved);
                    }
                }
            } else if session.http.request.body.is_done() || !session.ready.read {
                return Ok(moved);
            } else {
                moved |= self.read_body(session)?;
            }
        }
        Ok(moved)
    }

    /// Drops what was sent and need not be sent again.
    fn forget_sent(&mut self, session: &mut Session) {
        if !session.http.request.replayable {
            session.up.rewind();
        }
    }

    /// Moves what was read of the body behind the head, as far as there is room.
    fn absorb(&mut self, session: &mut Session) -> Result<(), Step> {
        let (http, up) = (&mut session.http, &mut session.up);
        let full = up.pending.len() - up.sent >= BUFFER_BYTES;
        if http.request.body.is_done() || http.input.is_empty() || full {
            return Ok(());
        }
        match http.request.body.feed(&http.input, |_| ()) {
            Ok(count) => {
                if up.pending.len() + count > REPLAY_MAX {
                    http.request.replayable = false;
                }
                up.pending.extend_from_slice(&http.input[..count]);
                http.input.drain(..count);
                Ok(())
            }
            Err(_) => Err(self.bad_body(session)),
        }
    }

    /// Reads more of the body, when all that was read before is sent.
    fn read_body(&mut self, session: &mut Session) -> Result<bool, Step> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = match sys::recv(&session.fd, &mut session.ready, &mut buffer) {
            Got::Data(count) => self.take_body(session, &buffer[..count]).map(|()| true),
            Got::Wait => Ok(false),
            // The client gave up; the backend must not take what came for the whole.
            Got::End | Got::Gone => Err(Step::Reset),
        };
        self.buffer = buffer;
        result
    }

    fn take_body(&mut self, session: &mut Session, bytes: &[u8]) -> Result<(), Step> {
        let Ok(count) = session.http.request.body.feed(bytes, |_| ()) else {
            return Err(self.bad_body(session));
        };
        self.keep_input(session, &bytes[count..]);
        let (request, up) = (&mut session.http.request, &mut session.up);
        if request.replayable && up.pending.len() + count > REPLAY_MAX {
            request.replayable = false;
        }
        if request.replayable {
            up.pending.extend_from_slice(&bytes[..count]);
            return Ok(());
        }
        up.rewind();
        let mut sent = 0;
        if let Some(link) = session.link.as_mut()
            && link.ready.write
            && let Put::Sent(count) = sys::send(&link.fd, &mut link.ready, &bytes[..count])
        {
            sent = count;
            request.sent = true;
        }
        // A broken connection is met again, and judged, by the next write.
        up.pending.extend_from_slice(&bytes[sent..count]);
        Ok(())
    }

    fn bad_body(&mut self, session: &mut Session) -> Step {
        if session.http.response.started {
            session.counts(self.at).refused.up();
            return Step::Reset;
        }
        self.reject(session, Reject { status: 400, why: "malformed chunk" })
    }

    /// The answer is whole and sent: on to the next request, or the end.
    fn finish(&mut self, session: &mut Session) -> Step {
        let up = std::mem::take(&mut session.up.pending);
        self.recycle(up);
        session.up.sent = 0;
        session.upstream = None;
        if !session.http.request.keep || self.is_leaving(session) {
            let unread = session.ready.read || !session.http.input.is_empty() || !session.http.request.body.is_done();
            if !unread {
                return Step::Close;
            }
            return self.begin_linger(session);
        }
        if session.http.input.is_empty() {
            let input = std::mem::take(&mut session.http.input);
            self.recycle(input);
        }
        // Only the backend had left the table, and the request has finished.
        session.drain_by_ms = NEVER;
        session.enter(Phase::Head, self.now_ms + IDLE_TIMEOUT_MS);
        Step::Again
    }

    /// Whether the listener of the session has left the table.
    pub(crate) fn is_leaving(&self, session: &Session) -> bool {
        let mut routes = self.plan.routes.iter();
        !routes.any(|route| route.listener.id == session.listener.id)
    }

    /// The backend connection ended before a response head was whole.
    pub(crate) fn backend_ended(&mut self, session: &mut Session, blame: bool) -> Step {
        let Some(link) = &session.link else {
            return Step::Again;
        };
        let peer = std::sync::Arc::clone(&link.peer);
        let rested_too_long = link.reused && session.http.answer.is_empty();
        if blame {
            if rested_too_long {
                self.purge_pool(peer.uid);
            } else {
                peer.health.failed(self.now_ms);
                peer.counts[self.at].errors.up();
                session.tried.add(peer.uid);
            }
        }
        self.drop_link(session, true);
        session.http.answer.clear();
        let request = &mut session.http.request;
        let may_repeat = !session.http.response.started && (!request.sent || request.replayable);
        if !may_repeat || (request.retries >= RETRIES_MAX && !rested_too_long) {
            session.counts(self.at).failed.up();
            if session.http.response.started {
                return Step::Reset;
            }
            return self.respond(session, 502, "the backend closed the connection without an answer");
        }
        request.retries += u32::from(!rested_too_long);
        request.sent = false;
        request.stopped = false;
        request.fresh = true;
        session.up.sent = 0;
        session.counts(self.at).retried.up();
        session.enter(Phase::Connecting, self.now_ms + STALL_TIMEOUT_MS);
        Step::Again
    }

    /// The backend may not be used any longer, through no fault of its own.
    pub(crate) fn lose_backend(&mut self, session: &mut Session) -> Step {
        if session.http.response.head_done {
            if session.http.response.done {
                return Step::Again;
            }
            return self.truncated(session);
        }
        session.new_round();
        self.backend_ended(session, false)
    }

    fn refuse(&mut self, session: &mut Session) -> Step {
        session.counts(self.at).failed.up();
        if session.tried.is_empty() {
            return self.respond(session, 503, "no backend is available");
        }
        self.respond(session, 502, "no backend could be reached")
    }

    fn reject(&mut self, session: &mut Session, reject: Reject) -> Step {
        session.counts(self.at).refused.up();
        session.http.request.is_head = false;
        self.respond(session, reject.status, reject.why)
    }

    /// A deadline of the session has passed.
    pub(crate) fn http_timeout(&mut self, session: &mut Session) -> Step {
        match session.phase {
            Phase::Head if session.http.input.is_empty() => Step::Close,
            Phase::Head => self.respond(session, 408, "the request head took too long"),
            Phase::Connecting if session.link.is_some() => {
                self.connect_failed(session);
                Step::Again
            }
            Phase::Held | Phase::Connecting => {
                session.tried = Tried::default();
                self.refuse(session)
            }
            _ => self.stalled(session),
        }
    }

    fn stalled(&mut self, session: &mut Session) -> Step {
        session.counts(self.at).failed.up();
        if session.http.response.started {
            return Step::Reset;
        }
        let all_sent = session.up.sent == session.up.pending.len();
        if all_sent && !session.http.request.body.is_done() {
            return self.respond(session, 408, "the request body took too long");
        }
        if let Some(link) = &session.link {
            link.counts(self.at).errors.up();
            link.peer.health.failed(self.now_ms);
        }
        self.respond(session, 504, "the backend did not answer in time")
    }

    /// Answers for a backend and closes.
    pub(crate) fn respond(&mut self, session: &mut Session, status: u16, why: &str) -> Step {
        if session.phase == Phase::Held {
            self.held -= 1;
        }
        self.drop_link(session, true);
        let retry_after = match status {
            503 => format!("Retry-After: {RETRY_AFTER_S}\r\n"),
            _ => String::new(),
        };
        let body = if session.http.request.is_head { "" } else { why };
        let newline = if body.is_empty() { "" } else { "\n" };
        let out = &mut session.down.pending;
        let _ = write!(
            out,
            "HTTP/1.1 {status} {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n{retry_after}Connection: close\r\n\r\n{body}{newline}",
            reason(status),
            why.len() + 1,
        );
        self.begin_linger(session)
    }

    fn begin_linger(&mut self, session: &mut Session) -> Step {
        session.enter(Phase::Linger, self.now_ms + LINGER_MS);
        self.urgent.push(session.key);
        Step::Again
    }

    /// Sends the last bytes, says that they were the last, and reads on for a moment: closing with unread bytes would make the
    /// kernel take the answer back.
    fn linger(&mut self, session: &mut Session) -> Step {
        if self.flush_down(session).is_err() {
            return Step::Close;
        }
        if !session.down.is_empty() {
            return Step::Wait;
        }
        if !session.down.shut {
            sys::end_writing(&session.fd);
            session.down.shut = true;
        }
        if !session.ready.read {
            return Step::Wait;
        }
        match sys::recv(&session.fd, &mut session.ready, &mut self.buffer) {
            Got::Data(_) => Step::Again,
            Got::Wait => Step::Wait,
            Got::End | Got::Gone => Step::Close,
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        408 => "Request Timeout",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Error",
    }
}
