//! A worker thread: one epoll, its own sessions and its own pool of backend connections; nothing shared on the path of a byte.
//!
//! Sockets are registered once, edge-triggered. An event only notes what a socket may do; then the session is driven as far as it
//! goes. Whatever a session does, it is taken out of its slot meanwhile, so that the worker and the session can be changed freely.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::clock::{boottime_ns, ms};
use crate::link::PROBES_PER_TICK;
use crate::plan::{Board, NEVER, Plan, Route, Tried};
use crate::session::{Flow, Http, Link, Phase, Pipe, Session, Step};
use crate::slab::{Key, Slab};
use crate::sys::{self, Ready};
use crate::table::Proto;

/// Bytes read at a time: one buffer per thread, never per connection.
pub(crate) const BUFFER_BYTES: usize = 64 << 10;
/// Events taken from the kernel at a time.
const EVENTS_MAX: usize = 256;
/// Connections accepted from one listener before other work gets its turn.
const ACCEPTS_MAX: usize = 64;
/// Sessions of one worker; more wait in the kernel's queue.
pub(crate) const SESSIONS_MAX: usize = 50_000;
/// For how long nothing is accepted after the process ran out of descriptors or memory.
const ACCEPT_PAUSE_MS: u64 = 100;
/// How often sessions that wait for something short are looked at.
const FAST_TICK_MS: u64 = 50;
/// How often all sessions are looked at.
const SLOW_TICK_MS: u64 = 1_000;
/// Times a session may go on before others get their turn.
pub(crate) const TURNS_MAX: usize = 16;
/// Recycled buffers kept per worker, and the largest that is kept.
const SPARES_MAX: usize = 64;
const SPARE_BYTES_MAX: usize = 128 << 10;
/// Recycled pipes kept per worker.
pub(crate) const PIPES_MAX: usize = 64;

const KIND_SHIFT: u32 = 61;
const KIND_CLIENT: u64 = 0;
const KIND_BACKEND: u64 = 1;
const KIND_LISTENER: u64 = 2;
const KIND_WAKE: u64 = 3;

/// Where a backend connection is.
pub(crate) enum Owner {
    Session(Key),
    Pool(Link),
}

pub(crate) struct Worker {
    pub(crate) at: usize,
    pub(crate) board: Arc<Board>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) epoll: OwnedFd,
    pub(crate) sessions: Slab<Box<Session>>,
    pub(crate) links: Slab<Owner>,
    /// Idle backend connections by backend, last in first out.
    pub(crate) pool: HashMap<u64, Vec<Key>>,
    /// Sessions in a phase whose deadline is short.
    pub(crate) urgent: Vec<Key>,
    /// Sessions that had more to do when their turn was over.
    pub(crate) again: Vec<Key>,
    /// Sessions that wait for a backend.
    pub(crate) held: usize,
    /// Held sessions that may still try an ejected backend in this tick.
    pub(crate) probes_left: u32,
    pub(crate) buffer: Box<[u8]>,
    pub(crate) spares: Vec<Vec<u8>>,
    pub(crate) pipes: Vec<Pipe>,
    pub(crate) now_ns: u64,
    pub(crate) now_ms: u64,
    /// Sockets registered with epoll, by listener id.
    listening: Vec<(u64, Arc<OwnedFd>)>,
    paused_until_ms: u64,
    fast_tick_ms: u64,
    slow_tick_ms: u64,
    /// Whether sessions of what has expired were ended, and for which set of expired instants.
    pub(crate) expired_sweep_done: bool,
    pub(crate) swept_expiry_ns: u64,
}

impl Worker {
    pub(crate) fn new(at: usize, board: Arc<Board>) -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, board.waker(at), epoll::EventData::new_u64(KIND_WAKE << KIND_SHIFT), epoll::EventFlags::IN)?;
        let now_ns = boottime_ns();
        Ok(Self {
            at,
            plan: board.plan(),
            board,
            epoll,
            sessions: Slab::new(),
            links: Slab::new(),
            pool: HashMap::new(),
            urgent: Vec::new(),
            again: Vec::new(),
            held: 0,
            probes_left: PROBES_PER_TICK,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            spares: Vec::new(),
            pipes: Vec::new(),
            now_ns,
            now_ms: ms(now_ns),
            listening: Vec::new(),
            paused_until_ms: 0,
            fast_tick_ms: 0,
            slow_tick_ms: 0,
            expired_sweep_done: false,
            swept_expiry_ns: 0,
        })
    }

    /// Forwards until the process exits.
    pub(crate) fn run(mut self) {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS_MAX);
        while !self.board.is_exiting() {
            let timeout = self.patience();
            events.clear();
            let waited = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout));
            self.tell_time();
            // Before any byte is forwarded: what is no longer allowed ends first, even after a long sleep.
            self.end_expired();
            if waited.is_ok() {
                for event in &events {
                    self.on_event(event);
                }
            }
            self.go_on();
            self.tick();
        }
    }

    fn tell_time(&mut self) {
        self.now_ns = boottime_ns();
        self.now_ms = ms(self.now_ns);
    }

    fn on_event(&mut self, event: &epoll::Event) {
        let data = event.data.u64();
        let key = Key(data & ((1 << KIND_SHIFT) - 1));
        let ready = ready_of(event.flags);
        match data >> KIND_SHIFT {
            KIND_CLIENT => {
                if let Some(mut session) = self.sessions.take(key) {
                    merge(&mut session.ready, ready);
                    self.drive(session);
                }
            }
            KIND_BACKEND => self.on_backend(key, ready),
            KIND_LISTENER => self.accept(key.0),
            _ => self.follow_plan(),
        }
    }

    fn on_backend(&mut self, key: Key, ready: Ready) {
        let owner = match self.links.at(key) {
            Some(Owner::Session(owner)) => *owner,
            // The edge that says "you may write" comes once to a connection that is still fresh; anything else ends its rest.
            Some(Owner::Pool(link)) => {
                if ready.read || ready.ended || ready.dead {
                    self.drop_pooled(key);
                } else {
                    merge(&mut link.ready, ready);
                }
                return;
            }
            None => return,
        };
        if let Some(mut session) = self.sessions.take(owner) {
            if let Some(link) = session.link.as_mut() {
                merge(&mut link.ready, ready);
            }
            self.drive(session);
        }
    }

    /// Takes a session as far as it goes and puts it back, or ends it.
    pub(crate) fn drive(&mut self, mut session: Box<Session>) {
        let mut step = Step::Again;
        for _ in 0..TURNS_MAX {
            step = match session.proto {
                Proto::Tcp => self.step_tcp(&mut session),
                Proto::Http => self.step_http(&mut session),
            };
            if step != Step::Again {
                break;
            }
        }
        match step {
            Step::Again => {
                self.again.push(session.key);
                self.sessions.put(session.key, session);
            }
            Step::Wait => self.sessions.put(session.key, session),
            Step::Close => self.end(session, false),
            Step::Reset => self.end(session, true),
        }
    }

    /// Ends a session that was taken out of its slot.
    pub(crate) fn end(&mut self, mut session: Box<Session>, reset: bool) {
        if session.phase == Phase::Held {
            self.held -= 1;
        }
        if reset {
            sys::reset_on_close(&session.fd);
        }
        self.drop_link(&mut session, reset);
        session.counts(self.at).active.down();
        self.recycle_session(&mut session);
        self.sessions.free(session.key);
    }

    fn go_on(&mut self) {
        if self.again.is_empty() {
            return;
        }
        for key in std::mem::take(&mut self.again) {
            if let Some(session) = self.sessions.take(key) {
                self.drive(session);
            }
        }
    }

    fn accept(&mut self, listener: u64) {
        for _ in 0..ACCEPTS_MAX {
            let Some(route) = self.plan.routes.iter().find(|route| route.listener.id == listener) else {
                return;
            };
            if route.listener.until.load(Relaxed) <= self.now_ns {
                // Clients that still knock would wake this thread for ever.
                let _ = epoll::delete(&self.epoll, &route.socket);
                self.listening.retain(|(id, _)| *id != listener);
                return;
            }
            if self.sessions.len() >= SESSIONS_MAX {
                return self.pause_accepting();
            }
            match sys::accept(&route.socket) {
                Ok((fd, peer)) => {
                    let session = begin(route, fd, peer, self.now_ms);
                    self.start(session);
                }
                Err(Errno::AGAIN) => return,
                Err(errno) if sys::is_exhausted(errno) => return self.pause_accepting(),
                // The client went away before it was accepted, or a signal came: the next one may be fine.
                Err(_) => {}
            }
        }
    }

    fn start(&mut self, mut session: Box<Session>) {
        session.key = self.sessions.reserve();
        session.counts(self.at).accepted.up();
        session.counts(self.at).active.up();
        if self.register(&session.fd, KIND_CLIENT, session.key).is_err() {
            return self.end(session, true);
        }
        self.drive(session);
    }

    pub(crate) fn register_backend(&self, fd: &OwnedFd, key: Key) -> Result<(), Errno> {
        self.register(fd, KIND_BACKEND, key)
    }

    fn register(&self, fd: &OwnedFd, kind: u64, key: Key) -> Result<(), Errno> {
        use epoll::EventFlags;
        epoll::add(
            &self.epoll,
            fd,
            epoll::EventData::new_u64(kind << KIND_SHIFT | key.0),
            EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET,
        )
    }

    /// Listens to exactly the sockets of the plan. They are level-triggered and wake one worker at a time.
    pub(crate) fn listen_to_plan(&mut self) {
        for (id, socket) in std::mem::take(&mut self.listening) {
            if self.plan.routes.iter().any(|route| route.listener.id == id) {
                self.listening.push((id, socket));
            } else {
                let _ = epoll::delete(&self.epoll, &socket);
            }
        }
        if self.paused_until_ms > self.now_ms {
            return;
        }
        for route in &self.plan.routes {
            let id = route.listener.id;
            let expired = route.listener.until.load(Relaxed) <= self.now_ns;
            if expired || self.listening.iter().any(|(known, _)| *known == id) {
                continue;
            }
            let added = epoll::add(
                &self.epoll,
                &route.socket,
                epoll::EventData::new_u64(KIND_LISTENER << KIND_SHIFT | id),
                epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE,
            );
            if added.is_ok() {
                self.listening.push((id, Arc::clone(&route.socket)));
            }
        }
    }

    fn pause_accepting(&mut self) {
        self.paused_until_ms = self.now_ms + ACCEPT_PAUSE_MS;
        for (_, socket) in std::mem::take(&mut self.listening) {
            let _ = epoll::delete(&self.epoll, &socket);
        }
    }

    fn tick(&mut self) {
        if self.now_ms >= self.fast_tick_ms {
            self.fast_tick_ms = self.now_ms + FAST_TICK_MS;
            self.probes_left = PROBES_PER_TICK;
            // A failed registration is repaired here as well as a pause.
            if self.listening.len() < self.plan.routes.len() {
                self.listen_to_plan();
            }
            self.look_at_urgent();
        }
        if self.now_ms >= self.slow_tick_ms {
            self.slow_tick_ms = self.now_ms + SLOW_TICK_MS;
            self.look_at_all();
        }
    }

    /// How long to wait for events.
    fn patience(&self) -> Timespec {
        let busy = !self.urgent.is_empty() || self.listening.len() < self.plan.routes.len();
        let tick_ms = if busy { FAST_TICK_MS } else { SLOW_TICK_MS };
        let mut wait_ns = tick_ms * 1_000_000;
        if !self.again.is_empty() {
            wait_ns = 0;
        }
        let next = self.next_expiry();
        if next != NEVER {
            wait_ns = wait_ns.min(next.saturating_sub(boottime_ns()));
        }
        Timespec { tv_sec: (wait_ns / 1_000_000_000) as i64, tv_nsec: (wait_ns % 1_000_000_000) as _ }
    }

    /// A buffer from those put back, so that a request allocates nothing.
    pub(crate) fn spare(&mut self) -> Vec<u8> {
        self.spares.pop().unwrap_or_default()
    }

    pub(crate) fn recycle(&mut self, mut buffer: Vec<u8>) {
        let fits = (1..=SPARE_BYTES_MAX).contains(&buffer.capacity());
        if fits && self.spares.len() < SPARES_MAX {
            buffer.clear();
            self.spares.push(buffer);
        }
    }

    fn recycle_session(&mut self, session: &mut Session) {
        for flow in [&mut session.up, &mut session.down] {
            self.recycle(std::mem::take(&mut flow.pending));
            if let Some(pipe) = flow.pipe.take() {
                self.recycle_pipe(pipe);
            }
        }
        self.recycle(std::mem::take(&mut session.http.input));
        self.recycle(std::mem::take(&mut session.http.answer));
    }

    pub(crate) fn recycle_pipe(&mut self, pipe: Pipe) {
        // Bytes left inside belong to a session that has ended; such a pipe is closed.
        if pipe.filled == 0 && self.pipes.len() < PIPES_MAX {
            self.pipes.push(pipe);
        }
    }
}

fn begin(route: &Route, fd: OwnedFd, peer: std::net::IpAddr, now_ms: u64) -> Box<Session> {
    let phase = match route.proto {
        Proto::Tcp => Phase::Connecting,
        Proto::Http => Phase::Head,
    };
    Box::new(Session {
        key: Key(0),
        fd,
        // Tried at once: the first bytes of a client are often there when it is accepted.
        ready: Ready { read: true, write: true, ..Ready::default() },
        peer,
        listener: Arc::clone(&route.listener),
        proto: route.proto,
        phase,
        deadline_ms: now_ms + crate::http::HEAD_TIMEOUT_MS,
        drain_by_ms: NEVER,
        upstream: None,
        link: None,
        hold_until_ms: 0,
        was_held: false,
        tried: Tried::default(),
        attempts: 0,
        up: Flow::default(),
        down: Flow::default(),
        http: Http::default(),
    })
}

fn ready_of(flags: epoll::EventFlags) -> Ready {
    use epoll::EventFlags;
    // A hang-up alone only says that both sides have sent their end, which is how good sessions end.
    let dead = flags.contains(EventFlags::ERR);
    let ended = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
    Ready { read: flags.contains(EventFlags::IN) || ended, write: flags.contains(EventFlags::OUT) || dead, ended, dead }
}

fn merge(into: &mut Ready, new: Ready) {
    into.read |= new.read;
    into.write |= new.write;
    into.ended |= new.ended;
    into.dead |= new.dead;
}
