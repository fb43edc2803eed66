//! The control thread: takes commands from a Unix socket, binds and closes listeners, and publishes plans to the workers.
//!
//! It is the thread of `run`. The workers need nothing from it to forward or to stop at a deadline.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::check::Checker;
use crate::claim::{ControlSocket, holder_of};
use crate::clock::{boottime_ns, ms};
use crate::plan::{Board, Health, Listener, ListenerCounts, Member, NEVER, Peer, PeerCounts, Plan, Route, Upstream};
use crate::sys::{self, Signals};
use crate::table::{self, BackendState, Proto, Table};
use crate::wire::{Answer, BackendStats, Bound, Command, Extend, Failed, LINE_MAX, ListenerStats, Stats};
use crate::worker::Worker;
use crate::{Error, Options};

/// Most worker threads, and the most that are started by default.
const WORKERS_MAX: usize = 64;
const WORKERS_DEFAULT_MAX: usize = 4;
/// Control connections at a time; the oldest makes room.
const CLIENTS_MAX: usize = 16;
/// How long a client has to take an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the answer to a table waits for the workers.
const WORKERS_PATIENCE: Duration = Duration::from_millis(500);
/// How often a bind is retried.
const BIND_RETRY_MS: u64 = 50;
/// How often the holder of a busy port is looked for.
const HOLDER_EVERY_MS: u64 = 1_000;
/// How often the thread looks around when nothing happens.
const IDLE_TICK_MS: u64 = 1_000;
/// How long open sessions have to finish when the process is told to end.
const STOP_DRAIN_MS: u64 = 2_000;
const STOP_TICK_MS: u64 = 20;

/// Serves until SIGTERM, SIGINT or a shutdown command. SIGHUP is ignored. The signals are taken for the whole process.
pub fn run(options: Options) -> Result<(), Error> {
    let control = ControlSocket::claim(&options.socket)?;
    let signals = Signals::open().map_err(|source| system("receive signals", source))?;
    sys::raise_file_limit();
    let workers = worker_count(options.workers);
    let wakers = (0..workers)
        .map(|_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK))
        .collect::<Result<Vec<OwnedFd>, _>>()
        .map_err(|errno| system("create an eventfd", errno.into()))?;
    let board = Arc::new(Board::new(wakers));
    let mut threads = Vec::new();
    for at in 0..workers {
        let worker = Worker::new(at, Arc::clone(&board)).map_err(|errno| system("create an epoll", errno.into()))?;
        threads.push(start("worker", move || worker.run())?);
    }
    let checker = Checker::new(Arc::clone(&board));
    threads.push(start("checks", move || checker.run())?);
    let mut desk = Desk::new(board, workers, options.log);
    desk.serve(&control, &signals);
    desk.drain();
    desk.board.exit();
    for thread in threads {
        if thread.join().is_err() {
            desk.say("a thread had panicked");
        }
    }
    Ok(())
}

fn start(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name(format!("balancer-{name}"))
        .spawn(move || {
            // A process with a thread less would go on looking healthy. Whoever started it starts another one.
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err() {
                std::process::abort();
            }
        })
        .map_err(|source| system("start a thread", source))
}

fn worker_count(asked: usize) -> usize {
    if asked > 0 {
        return asked.min(WORKERS_MAX);
    }
    std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_DEFAULT_MAX)
}

pub(crate) fn system(what: &str, source: io::Error) -> Error {
    Error::System { what: what.to_owned(), source }
}

/// A control connection and what it has sent of a line.
struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    gone: bool,
}

/// A listener that the table asks for.
struct Wanted {
    table: table::Listener,
    until: u64,
    counts: Arc<[ListenerCounts]>,
    bound: Option<BoundSocket>,
    error: Option<String>,
    holder: Option<String>,
    holder_looked_ms: u64,
}

struct BoundSocket {
    socket: Arc<OwnedFd>,
    listener: Arc<Listener>,
}

/// All that the control thread knows.
struct Desk {
    board: Arc<Board>,
    workers: usize,
    log: bool,
    table: Table,
    wanted: Vec<Wanted>,
    upstreams: Vec<Arc<Upstream>>,
    counts: HashMap<String, Arc<[ListenerCounts]>>,
    version: u64,
    next_id: u64,
    next_bind_ms: u64,
    stop: bool,
}

impl Desk {
    fn new(board: Arc<Board>, workers: usize, log: bool) -> Self {
        Self {
            board,
            workers,
            log,
            table: Table::default(),
            wanted: Vec::new(),
            upstreams: Vec::new(),
            counts: HashMap::new(),
            version: 0,
            next_id: 1,
            next_bind_ms: 0,
            stop: false,
        }
    }

    fn serve(&mut self, control: &ControlSocket<'_>, signals: &Signals) {
        let mut clients: Vec<Client> = Vec::new();
        while !self.stop {
            let readable = self.wait(control, signals, &clients);
            if signals.end_requested() {
                self.stop = true;
            }
            for (client, readable) in clients.iter_mut().zip(readable) {
                if readable {
                    self.hear(client);
                }
            }
            clients.retain(|client| !client.gone);
            while let Ok((stream, _)) = control.listener.accept() {
                if stream.set_nonblocking(true).is_err() {
                    continue;
                }
                if clients.len() >= CLIENTS_MAX {
                    clients.remove(0);
                }
                clients.push(Client { stream, input: Vec::new(), gone: false });
            }
            self.tick();
        }
    }

    /// Waits for something to do and says which clients have sent something.
    fn wait(&self, control: &ControlSocket<'_>, signals: &Signals, clients: &[Client]) -> Vec<bool> {
        let mut fds = vec![
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(control.listener.as_fd(), PollFlags::IN),
        ];
        fds.extend(clients.iter().map(|client| PollFd::from_borrowed_fd(client.stream.as_fd(), PollFlags::IN)));
        let wait_ms = self.patience_ms();
        let timeout = Timespec { tv_sec: (wait_ms / 1_000) as i64, tv_nsec: ((wait_ms % 1_000) * 1_000_000) as _ };
        let _ = poll(&mut fds, Some(&timeout));
        fds[2..].iter().map(|fd| !fd.revents().is_empty()).collect()
    }

    fn patience_ms(&self) -> u64 {
        let now_ns = boottime_ns();
        let mut wait_ms = IDLE_TICK_MS;
        for wanted in &self.wanted {
            match &wanted.bound {
                Some(_) if wanted.until != NEVER => {
                    wait_ms = wait_ms.min(ms(wanted.until.saturating_sub(now_ns)) + 1);
                }
                None if wanted.until > now_ns => wait_ms = wait_ms.min(BIND_RETRY_MS),
                _ => {}
            }
        }
        wait_ms
    }

    fn hear(&mut self, client: &mut Client) {
        let mut buffer = [0u8; 16 << 10];
        loop {
            match client.stream.read(&mut buffer) {
                Ok(0) => client.gone = true,
                Ok(count) => {
                    client.input.extend_from_slice(&buffer[..count]);
                    if client.input.len() <= LINE_MAX {
                        continue;
                    }
                    client.gone = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => client.gone = true,
            }
            break;
        }
        while let Some(end) = client.input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = client.input.drain(..=end).collect();
            let answer = self.answer(&line);
            if write_line(&client.stream, &answer).is_err() {
                client.gone = true;
                return;
            }
        }
    }

    fn answer(&mut self, line: &[u8]) -> Answer {
        let mut answer = Answer::default();
        let mut stats = None;
        match serde_json::from_slice::<Command>(line) {
            Ok(Command::Table(table)) => {
                if let Err(refusal) = self.adopt(table) {
                    self.say(&format!("refused a table: {refusal}"));
                    answer.error = Some(refusal.to_string());
                }
            }
            Ok(Command::Extend(extend)) => self.extend(&extend),
            Ok(Command::Stats {}) => stats = Some(self.stats()),
            Ok(Command::Shutdown {}) => self.stop = true,
            Err(error) => answer.error = Some(format!("not a command: {error}; retrying does not help")),
        }
        answer.stats = stats;
        answer.generation = self.table.generation;
        answer.serial = self.table.serial;
        answer.pid = std::process::id();
        for wanted in &self.wanted {
            match &wanted.bound {
                Some(bound) => {
                    answer.bound.push(Bound { listener: wanted.table.name.clone(), addr: bound.listener.addr })
                }
                None => answer.failed.push(Failed {
                    listener: wanted.table.name.clone(),
                    bind: wanted.table.bind,
                    error: wanted.error.clone().unwrap_or_else(|| "not tried yet".into()),
                    holder: wanted.holder.clone(),
                }),
            }
        }
        answer
    }

    /// Puts a table in force, or says why not.
    fn adopt(&mut self, table: Table) -> Result<(), table::Refusal> {
        table.validate()?;
        table.follows(&self.table)?;
        if table == self.table {
            return Ok(());
        }
        self.upstreams = table.upstreams.iter().map(|upstream| self.upstream(upstream)).collect();
        let mut old: Vec<Wanted> = std::mem::take(&mut self.wanted);
        self.wanted = table
            .listeners
            .iter()
            .map(|listener| {
                let known = old
                    .iter()
                    .position(|old| old.table.name == listener.name && old.table.bind == listener.bind)
                    .map(|at| old.swap_remove(at));
                self.wanted(listener, known)
            })
            .collect();
        // Listeners that left must be closed before their addresses can be bound again.
        let left = !old.is_empty();
        drop(old);
        self.counts.retain(|name, _| table.listeners.iter().any(|listener| listener.name == *name));
        self.table = table;
        if left {
            self.publish(WORKERS_PATIENCE);
        }
        self.bind_missing(true);
        self.publish(WORKERS_PATIENCE);
        self.say(&format!(
            "table (generation {}, serial {}) in force: {} of {} listeners bound",
            self.table.generation,
            self.table.serial,
            self.wanted.iter().filter(|wanted| wanted.bound.is_some()).count(),
            self.wanted.len()
        ));
        Ok(())
    }

    fn wanted(&mut self, listener: &table::Listener, known: Option<Wanted>) -> Wanted {
        let workers = self.workers;
        let counts = self
            .counts
            .entry(listener.name.clone())
            .or_insert_with(|| (0..workers).map(|_| ListenerCounts::default()).collect());
        let until = listener.valid_until.unwrap_or(NEVER);
        let bound = known.and_then(|known| known.bound);
        if let Some(bound) = &bound {
            sys::defer_accept(&bound.socket, listener.proto == Proto::Http);
            bound.listener.until.store(until, Relaxed);
        }
        Wanted {
            table: listener.clone(),
            until,
            counts: Arc::clone(counts),
            bound,
            error: None,
            holder: None,
            holder_looked_ms: 0,
        }
    }

    fn upstream(&mut self, new: &table::Upstream) -> Arc<Upstream> {
        let old = self.upstreams.iter().find(|old| old.name == new.name).cloned();
        let until = match &old {
            Some(old) => Arc::clone(&old.until),
            None => Arc::new(AtomicU64::new(NEVER)),
        };
        until.store(new.valid_until.unwrap_or(NEVER), Relaxed);
        // Only an exclusive role has tokens that matter: elsewhere a backend stays the same one.
        let token = if new.exclusive { new.token } else { 0 };
        let members = new
            .backends
            .iter()
            .map(|backend| {
                let known = old.as_ref().and_then(|old| {
                    old.members.iter().find(|member| {
                        let peer = &member.peer;
                        peer.id == backend.id
                            && peer.addr == backend.addr
                            && peer.token == token
                            && old.exclusive == new.exclusive
                    })
                });
                Member {
                    peer: match known {
                        Some(known) => Arc::clone(&known.peer),
                        None => Arc::new(self.peer(backend, token)),
                    },
                    draining: backend.state == BackendState::Draining,
                }
            })
            .collect();
        Arc::new(Upstream::new(new, members, until))
    }

    fn peer(&mut self, backend: &table::Backend, token: u64) -> Peer {
        Peer {
            uid: self.mint_id(),
            id: backend.id.clone(),
            addr: backend.addr,
            token,
            health: Health::default(),
            counts: (0..self.workers).map(|_| PeerCounts::default()).collect(),
        }
    }

    fn mint_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn extend(&mut self, extend: &Extend) {
        for wanted in &mut self.wanted {
            if let Some(until) = extend.listeners.get(&wanted.table.name)
                && wanted.until != NEVER
            {
                wanted.until = wanted.until.max(*until);
                if let Some(bound) = &wanted.bound {
                    bound.listener.until.fetch_max(wanted.until, Relaxed);
                }
            }
        }
        for upstream in &self.upstreams {
            if let Some(until) = extend.upstreams.get(&upstream.name)
                && upstream.until.load(Relaxed) != NEVER
            {
                upstream.until.fetch_max(*until, Relaxed);
            }
        }
        if self.bind_missing(true) {
            self.publish(WORKERS_PATIENCE);
        } else {
            self.board.wake();
        }
    }

    fn tick(&mut self) {
        let closed = self.close_expired();
        let bound = self.bind_missing(false);
        if closed || bound {
            self.publish(WORKERS_PATIENCE);
        }
    }

    fn close_expired(&mut self) -> bool {
        let now_ns = boottime_ns();
        let mut closed = false;
        for at in 0..self.wanted.len() {
            let wanted = &mut self.wanted[at];
            if wanted.bound.is_some() && wanted.until <= now_ns {
                wanted.bound = None;
                closed = true;
                let name = wanted.table.name.clone();
                self.say(&format!("listener {name} closed: its permission has passed"));
            }
        }
        closed
    }

    /// Binds what is asked for and not bound; says whether something new is.
    fn bind_missing(&mut self, at_once: bool) -> bool {
        let now_ns = boottime_ns();
        if !at_once && ms(now_ns) < self.next_bind_ms {
            return false;
        }
        self.next_bind_ms = ms(now_ns) + BIND_RETRY_MS;
        let mut changed = false;
        for at in 0..self.wanted.len() {
            if self.wanted[at].bound.is_some() {
                continue;
            }
            if self.wanted[at].until <= now_ns {
                self.wanted[at].error = Some("valid_until has passed; extend it or send a newer table".into());
                continue;
            }
            let id = self.mint_id();
            let wanted = &mut self.wanted[at];
            let name = wanted.table.name.clone();
            match wanted.bind(id) {
                Ok(()) => {
                    changed = true;
                    self.say(&format!("listener {name} bound"));
                }
                Err(error) => {
                    let text = error.to_string();
                    let news = wanted.error.as_ref() != Some(&text);
                    wanted.look_for_holder(&error, ms(now_ns));
                    wanted.error = Some(text);
                    if news {
                        self.say(&format!(
                            "listener {name} cannot be bound: {error}; trying again every {BIND_RETRY_MS} ms"
                        ));
                    }
                }
            }
        }
        changed
    }

    fn publish(&mut self, patience: Duration) {
        self.version += 1;
        let routes = self.wanted.iter().filter_map(|wanted| {
            let upstream = self.upstreams.iter().find(|upstream| upstream.name == wanted.table.upstream)?;
            let bound = wanted.bound.as_ref()?;
            Some(Route {
                socket: Arc::clone(&bound.socket),
                listener: Arc::clone(&bound.listener),
                proto: wanted.table.proto,
                upstream: Arc::clone(upstream),
            })
        });
        let plan = Plan {
            version: self.version,
            routes: if self.stop { Vec::new() } else { routes.collect() },
            upstreams: self.upstreams.clone(),
            stopping: self.stop,
        };
        self.board.publish(plan, patience);
    }

    /// Lets open sessions finish for a bounded time, with all listeners closed.
    fn drain(&mut self) {
        self.stop = true;
        self.say("ending: draining sessions");
        self.publish(WORKERS_PATIENCE);
        for wanted in &mut self.wanted {
            wanted.bound = None;
        }
        let end_ms = ms(boottime_ns()) + STOP_DRAIN_MS;
        let active = || -> u64 {
            let counts = self.counts.values().flat_map(|counts| counts.iter());
            counts.fold(0, |sum, count| sum.wrapping_add(count.active.read()))
        };
        while active() > 0 && ms(boottime_ns()) < end_ms {
            std::thread::sleep(Duration::from_millis(STOP_TICK_MS));
        }
    }

    fn stats(&self) -> Stats {
        let now_ms = ms(boottime_ns());
        let listeners = self.counts.iter().map(|(name, counts)| (name.clone(), listener_stats(counts)));
        let upstreams = self.upstreams.iter().map(|upstream| {
            let backends =
                upstream.members.iter().map(|member| (member.peer.id.clone(), backend_stats(&member.peer, now_ms)));
            (upstream.name.clone(), backends.collect())
        });
        Stats { listeners: listeners.collect(), upstreams: upstreams.collect() }
    }

    fn say(&self, what: &str) {
        if self.log {
            // A closed standard error must not end the process.
            let _ = writeln!(io::stderr(), "balancer: {what}");
        }
    }
}

impl Wanted {
    fn bind(&mut self, id: u64) -> io::Result<()> {
        let fd = sys::listen(self.table.bind)?;
        let addr = sys::local_addr(&fd)?;
        sys::defer_accept(&fd, self.table.proto == Proto::Http);
        self.bound = Some(BoundSocket {
            socket: Arc::new(fd),
            listener: Arc::new(Listener {
                id,
                addr,
                until: AtomicU64::new(self.until),
                counts: Arc::clone(&self.counts),
            }),
        });
        self.error = None;
        self.holder = None;
        Ok(())
    }

    fn look_for_holder(&mut self, error: &io::Error, now_ms: u64) {
        if error.kind() != io::ErrorKind::AddrInUse {
            self.holder = None;
        } else if now_ms >= self.holder_looked_ms + HOLDER_EVERY_MS {
            self.holder_looked_ms = now_ms;
            self.holder = holder_of(self.table.bind);
        }
    }
}

fn listener_stats(counts: &[ListenerCounts]) -> ListenerStats {
    let mut sum = ListenerStats::default();
    for count in counts {
        sum.accepted += count.accepted.read();
        sum.active = sum.active.wrapping_add(count.active.read());
        sum.requests += count.requests.read();
        sum.failed += count.failed.read();
        sum.retried += count.retried.read();
        sum.held += count.held.read();
        sum.refused += count.refused.read();
        sum.cut += count.cut.read();
    }
    sum
}

fn backend_stats(peer: &Peer, now_ms: u64) -> BackendStats {
    let mut sum = BackendStats {
        up: !peer.health.down.load(Relaxed),
        ejected: peer.health.is_ejected(now_ms),
        ..BackendStats::default()
    };
    for count in &peer.counts {
        sum.active = sum.active.wrapping_add(count.active.read());
        sum.requests += count.requests.read();
        sum.errors += count.errors.read();
        sum.connects += count.connects.read();
    }
    sum
}

fn write_line(stream: &UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    (&*stream).write_all(&line)?;
    stream.set_nonblocking(true)
}
