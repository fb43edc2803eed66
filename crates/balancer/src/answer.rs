//! The response side of an HTTP session: what a backend answers, checked and passed on.

use crate::body::Body;
use crate::head::{self, HEAD_MAX, Persist, ResponseHead};
use crate::session::{Session, Step};
use crate::sys::{self, Got, Put};
use crate::worker::Worker;

impl Worker {
    /// Reads once from the backend and passes on what came.
    pub(crate) fn pull_response(&mut self, session: &mut Session) -> Result<bool, Step> {
        let Some(link) = session.link.as_mut() else {
            return Ok(false);
        };
        if !link.ready.read {
            return Ok(false);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = match sys::recv(&link.fd, &mut link.ready, &mut buffer) {
            Got::Data(count) => self.take_answer(session, &buffer[..count]).map(|()| true),
            Got::Wait if session.http.request.stopped => Err(self.backend_ended(session, true)),
            Got::Wait => Ok(false),
            Got::End => self.end_of_answer(session, false),
            Got::Gone => self.end_of_answer(session, true),
        };
        self.buffer = buffer;
        result
    }

    fn take_answer(&mut self, session: &mut Session, bytes: &[u8]) -> Result<(), Step> {
        if session.http.response.head_done {
            return self.take_answer_body(session, bytes);
        }
        if session.http.answer.is_empty() {
            return self.take_answer_head(session, bytes);
        }
        let mut answer = std::mem::take(&mut session.http.answer);
        answer.extend_from_slice(bytes);
        let result = self.take_answer_head(session, &answer);
        self.recycle(answer);
        result
    }

    fn take_answer_head(&mut self, session: &mut Session, mut bytes: &[u8]) -> Result<(), Step> {
        while !bytes.is_empty() {
            let end = match head::find_end(bytes, &mut 0) {
                Ok(Some(end)) => end,
                Ok(None) if bytes.len() < HEAD_MAX => {
                    session.http.answer = self.spare();
                    session.http.answer.extend_from_slice(bytes);
                    return Ok(());
                }
                Ok(None) | Err(_) => return Err(self.bad_answer(session)),
            };
            let Some(head) = head::response(&bytes[..end], session.http.request.is_head) else {
                return Err(self.bad_answer(session));
            };
            match head.status {
                101 => return self.switch_protocol(session, &bytes[..end], &bytes[end..]),
                100..=199 => {
                    // HTTP/1.0 knows no interim answers.
                    if !session.http.request.is_http10 {
                        session.http.response.started = true;
                        let mut interim = self.spare();
                        head::render_response(&bytes[..end], Persist::Implied, false, &mut interim);
                        let result = self.send_down(session, &interim);
                        self.recycle(interim);
                        result?;
                    }
                    bytes = &bytes[end..];
                }
                _ => return self.final_head(session, head, bytes, end),
            }
        }
        Ok(())
    }

    /// `bytes` begins with the head, `end` bytes long; what follows is body.
    fn final_head(&mut self, session: &mut Session, head: ResponseHead, bytes: &[u8], end: usize) -> Result<(), Step> {
        if let Some(link) = &session.link {
            link.peer.health.passed();
        }
        let leaving = self.is_leaving(session);
        let (request, response) = (&mut session.http.request, &mut session.http.response);
        let chunked = matches!(head.body, Body::Chunked(_));
        response.started = true;
        response.head_done = true;
        response.unchunk = chunked && request.is_http10;
        response.body = head.body;
        response.reusable = head.reusable;
        let endless = response.unchunk || head.body == Body::UntilClose;
        request.keep &= !endless && request.body.is_done() && !leaving;
        let persist = match (request.keep, request.is_http10) {
            (true, false) => Persist::Implied,
            (true, true) => Persist::KeepAlive,
            (false, _) => Persist::Close,
        };
        if head.plain && persist == Persist::Implied {
            return self.pass_whole(session, bytes, end);
        }
        let mut out = self.spare();
        head::render_response(&bytes[..end], persist, session.http.response.unchunk, &mut out);
        let result = self.send_down(session, &out);
        self.recycle(out);
        result?;
        self.take_answer_body(session, &bytes[end..])
    }

    /// Passes head and body on as they came, in one write.
    fn pass_whole(&mut self, session: &mut Session, bytes: &[u8], end: usize) -> Result<(), Step> {
        let Ok(count) = session.http.response.body.feed(&bytes[end..], |_| ()) else {
            return Err(self.truncated(session));
        };
        self.send_down(session, &bytes[..end + count])?;
        self.after_body(session, end + count < bytes.len());
        Ok(())
    }

    fn take_answer_body(&mut self, session: &mut Session, bytes: &[u8]) -> Result<(), Step> {
        let response = &mut session.http.response;
        let fed = if response.unchunk {
            let mut inside = std::mem::take(&mut session.down.pending);
            let fed = response.body.feed(bytes, |data| inside.extend_from_slice(data));
            session.down.pending = inside;
            fed
        } else {
            response.body.feed(bytes, |_| ())
        };
        let Ok(count) = fed else {
            return Err(self.truncated(session));
        };
        if !session.http.response.unchunk && count > 0 {
            self.send_down(session, &bytes[..count])?;
        }
        self.after_body(session, count < bytes.len());
        Ok(())
    }

    /// Lets the backend go once the body is whole. `surplus`: it said more than its head had promised.
    fn after_body(&mut self, session: &mut Session, surplus: bool) {
        session.http.response.reusable &= !surplus;
        if session.http.response.body.is_done() {
            self.answer_done(session);
        }
    }

    pub(crate) fn answer_done(&mut self, session: &mut Session) {
        session.http.response.done = true;
        let request = &session.http.request;
        let all_sent = request.body.is_done() && session.up.sent == session.up.pending.len() && !request.stopped;
        if session.http.response.reusable && all_sent {
            self.pool_link(session);
        } else {
            self.drop_link(session, false);
        }
    }

    fn end_of_answer(&mut self, session: &mut Session, broken: bool) -> Result<bool, Step> {
        if !session.http.response.head_done {
            return Err(self.backend_ended(session, true));
        }
        if session.http.response.body == Body::UntilClose && !broken {
            session.http.response.body = Body::Done;
            self.answer_done(session);
            return Ok(true);
        }
        Err(self.truncated(session))
    }

    /// Sends to the client, or keeps what it does not take.
    fn send_down(&mut self, session: &mut Session, bytes: &[u8]) -> Result<(), Step> {
        let mut sent = 0;
        if session.down.is_empty() && session.ready.write {
            match sys::send(&session.fd, &mut session.ready, bytes) {
                Put::Sent(count) => sent = count,
                Put::Wait => {}
                Put::Gone => return Err(Step::Reset),
            }
        }
        if sent < bytes.len() {
            if session.down.pending.capacity() == 0 {
                session.down.pending = self.spare();
            }
            session.down.pending.extend_from_slice(&bytes[sent..]);
        }
        Ok(())
    }

    fn switch_protocol(&mut self, session: &mut Session, head: &[u8], rest: &[u8]) -> Result<(), Step> {
        if !session.http.request.upgrade {
            return Err(self.bad_answer(session));
        }
        session.http.response.started = true;
        self.send_down(session, head)?;
        self.send_down(session, rest)?;
        session.up.pending.clear();
        session.up.sent = 0;
        session.up.pending.append(&mut session.http.input);
        Err(self.begin_pump(session))
    }

    /// Part of a response went out and the rest will not come: the client must not take it for the whole.
    pub(crate) fn truncated(&mut self, session: &mut Session) -> Step {
        session.counts(self.at).failed.up();
        if let Some(link) = &session.link {
            link.counts(self.at).errors.up();
            link.peer.health.failed(self.now_ms);
        }
        Step::Reset
    }

    pub(crate) fn bad_answer(&mut self, session: &mut Session) -> Step {
        session.counts(self.at).failed.up();
        if let Some(link) = &session.link {
            link.counts(self.at).errors.up();
            link.peer.health.failed(self.now_ms);
        }
        if session.http.response.started {
            return Step::Reset;
        }
        self.respond(session, 502, "the backend gave a malformed answer")
    }
}
