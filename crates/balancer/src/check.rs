//! Active checks of backends: one thread, one poll, bounded by the number of backends.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock::{boottime_ns, ms};
use crate::plan::{Board, Peer};
use crate::sys::{self, Got, Put, Ready};
use crate::table::{Check, CheckKind};

/// How often the thread looks whether a check is due or the plan has changed.
const TICK_MS: u64 = 20;
/// The same while nothing is checked.
const IDLE_TICK_MS: u64 = 100;
/// As much of an answer as a status line needs.
const ANSWER_MAX_BYTES: usize = 64;
/// First bytes of an answer from which the status is read: `HTTP/1.1 200`.
const STATUS_BYTES: usize = 12;

/// Runs the checks of the plan in force.
pub(crate) struct Checker {
    board: Arc<Board>,
    version: u64,
    watched: HashMap<u64, Watched>,
}

struct Watched {
    peer: Arc<Peer>,
    check: Check,
    due_ms: u64,
    /// Results in a row that speak against the present state.
    against: u32,
    probe: Option<Probe>,
}

/// A check under way.
struct Probe {
    fd: OwnedFd,
    connected: bool,
    deadline_ms: u64,
    answer: Vec<u8>,
}

impl Checker {
    pub(crate) fn new(board: Arc<Board>) -> Self {
        Self { board, version: u64::MAX, watched: HashMap::new() }
    }

    pub(crate) fn run(mut self) {
        while !self.board.is_exiting() {
            self.follow_plan();
            self.wait();
            let now_ms = ms(boottime_ns());
            let mut news = false;
            for watched in self.watched.values_mut() {
                news |= watched.advance(now_ms);
            }
            if news {
                // Whoever is held may find a backend now.
                self.board.wake();
            }
        }
    }

    fn follow_plan(&mut self) {
        let plan = self.board.plan();
        if plan.version == self.version {
            return;
        }
        self.version = plan.version;
        let mut old = std::mem::take(&mut self.watched);
        for upstream in &plan.upstreams {
            for member in &upstream.members {
                let Some(check) = &upstream.check else {
                    member.peer.health.down.store(false, Relaxed);
                    continue;
                };
                let known = old.remove(&member.peer.uid).filter(|known| known.check == *check);
                let watched = known.unwrap_or_else(|| Watched {
                    peer: Arc::clone(&member.peer),
                    check: check.clone(),
                    due_ms: 0,
                    against: 0,
                    probe: None,
                });
                self.watched.insert(member.peer.uid, watched);
            }
        }
    }

    fn wait(&self) {
        let mut fds: Vec<PollFd<'_>> = self
            .watched
            .values()
            .filter_map(|watched| watched.probe.as_ref())
            .map(|probe| {
                let flags = if probe.connected { PollFlags::IN } else { PollFlags::OUT };
                PollFd::new(&probe.fd, flags)
            })
            .collect();
        let wait_ms = if self.watched.is_empty() { IDLE_TICK_MS } else { TICK_MS };
        let timeout = Timespec { tv_sec: 0, tv_nsec: (wait_ms * 1_000_000) as _ };
        let _ = poll(&mut fds, Some(&timeout));
    }
}

impl Watched {
    /// Moves the check on; says whether the backend's state has changed.
    fn advance(&mut self, now_ms: u64) -> bool {
        let Some(probe) = self.probe.as_mut() else {
            if now_ms < self.due_ms {
                return false;
            }
            self.due_ms = now_ms + self.check.every_ms;
            return match sys::connect(self.peer.addr) {
                Ok(fd) => {
                    self.probe = Some(Probe {
                        fd,
                        connected: false,
                        deadline_ms: now_ms + self.check.timeout_ms,
                        answer: Vec::new(),
                    });
                    false
                }
                // What this process lacks says nothing about the backend.
                Err(errno) if sys::is_exhausted(errno) => false,
                Err(_) => self.judge(false),
            };
        };
        let result = match probe.advance(&self.check.kind, self.peer.addr) {
            None if now_ms >= probe.deadline_ms => Some(false),
            result => result,
        };
        let Some(passed) = result else {
            return false;
        };
        if let Some(probe) = self.probe.take() {
            // Spares the backend the port that an orderly close would keep busy.
            sys::reset_on_close(&probe.fd);
        }
        self.judge(passed)
    }

    fn judge(&mut self, passed: bool) -> bool {
        let up = !self.peer.health.down.load(Relaxed);
        if passed == up {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let needed = if passed { self.check.rise } else { self.check.fall };
        if self.against < needed {
            return false;
        }
        self.against = 0;
        self.peer.health.down.store(!passed, Relaxed);
        if passed {
            self.peer.health.passed();
        }
        true
    }
}

impl Probe {
    /// `None` while it is undecided.
    fn advance(&mut self, kind: &CheckKind, addr: std::net::SocketAddr) -> Option<bool> {
        if !self.connected {
            if !writable(&self.fd) {
                return None;
            }
            if sys::connect_error(&self.fd).is_some() {
                return Some(false);
            }
            self.connected = true;
            let CheckKind::Http(path) = kind else {
                return Some(true);
            };
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nUser-Agent: backstay\r\nConnection: close\r\n\r\n");
            let mut ready = Ready::default();
            // A fresh socket takes a head of this size whole.
            match sys::send(&self.fd, &mut ready, request.as_bytes()) {
                Put::Sent(count) if count == request.len() => {}
                _ => return Some(false),
            }
        }
        let mut buffer = [0u8; ANSWER_MAX_BYTES];
        let mut ready = Ready::default();
        match sys::recv(&self.fd, &mut ready, &mut buffer) {
            Got::Data(count) => self.answer.extend_from_slice(&buffer[..count]),
            Got::End | Got::Gone => return Some(false),
            Got::Wait => return None,
        }
        if self.answer.len() < STATUS_BYTES {
            return None;
        }
        let version = &self.answer[..9];
        let status = std::str::from_utf8(&self.answer[9..STATUS_BYTES]).ok().and_then(|text| text.parse::<u16>().ok());
        let spoken = version == b"HTTP/1.1 " || version == b"HTTP/1.0 ";
        Some(spoken && status.is_some_and(|status| (200..400).contains(&status)))
    }
}

fn writable(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
}
