//! The life of a guard after the start: one loop that waits for the deadline, the program, signals and agents.
//!
//! Order within a turn matters: the deadline is looked at before anything a client says, and killing before reporting.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::clients::Clients;
use super::contain::Inside;
use super::init::write_all;
use super::log::{CHUNK_BYTES_MAX, Disk, DiskJob};
use crate::clock;
use crate::spec::{Containment, ExitReason, ExitReport, GuardState, GuardStatus, signal_number};
use crate::sys;
use crate::wire::{
    EXIT_FILE, GuardRecord, InitOrder, InitReport, Push, RECORD_FILE, Reply, Request, SOCKET_FILE, SPEC_FILE, line,
};

/// How long a guard keeps its report on the socket for an agent to take. `exit.json` stays.
const REPORT_KEEP: Duration = Duration::from_secs(600);
/// Pause between two rounds of killing, at first and once it takes long (a process in a hung disk call).
const KILL_PAUSE_NS: u64 = 5_000_000;
const KILL_PAUSE_LONG_NS: u64 = 100_000_000;
/// Rounds after which the pause grows.
const KILL_ROUNDS_QUICK: u32 = 200;
/// How long output waits for a slow disk before it is dropped.
const OUTPUT_STALL_MAX: Duration = Duration::from_secs(2);
/// How often a slow disk is asked again.
const OUTPUT_RETRY_NS: u64 = 20_000_000;
/// Chunks of output taken in one turn, so that a chatty program cannot hold the loop.
const CHUNKS_PER_TURN_MAX: usize = 8;
/// How long a leaving guard waits for its disk thread.
const DISK_FINISH_MAX: Duration = Duration::from_secs(2);

/// A guard with a started program.
pub(super) struct Guard {
    dir: PathBuf,
    /// Held as long as this guard lives.
    _lock: OwnedFd,
    record: GuardRecord,
    inside: Inside,
    clients: Clients,
    signals: OwnedFd,
    deadline: Deadline,
    output: Output,
    pid: u32,
    private_proc: bool,
    started_boottime_ns: u64,
    state: GuardState,
    /// The first cause of the end that came from outside the program.
    cause: Option<ExitReason>,
    /// When the grace of a stop is over.
    grace_ends_boottime_ns: Option<u64>,
    kill_rounds: u32,
    killing: bool,
    control_ended: bool,
    exit: Option<ExitReport>,
    /// The report that the disk thread has not taken yet.
    unwritten: Option<DiskJob>,
    keep_until_boottime_ns: u64,
    acknowledged: bool,
}

/// What woke the loop.
#[derive(Default)]
struct Ready {
    clients: bool,
    init: bool,
}

impl Guard {
    #[expect(clippy::too_many_arguments, reason = "made once, of parts that were set up one after the other")]
    pub fn new(
        dir: &Path,
        lock: OwnedFd,
        record: GuardRecord,
        inside: Inside,
        clients: Clients,
        signals: OwnedFd,
        output: OwnedFd,
        disk: Disk,
        pid: u32,
        private_proc: bool,
    ) -> io::Result<Self> {
        let deadline = Deadline::new(record.spec.token, record.spec.deadline_boottime_ns)?;
        Ok(Self {
            dir: dir.to_owned(),
            _lock: lock,
            record,
            inside,
            clients,
            signals,
            deadline,
            output: Output { pipe: Some(output), disk, waiting: None, waiting_since_ns: 0 },
            pid,
            private_proc,
            started_boottime_ns: clock::boottime_ns(),
            state: GuardState::Running,
            cause: None,
            grace_ends_boottime_ns: None,
            kill_rounds: 0,
            killing: false,
            control_ended: false,
            exit: None,
            unwritten: None,
            keep_until_boottime_ns: u64::MAX,
            acknowledged: false,
        })
    }

    /// Until the report was taken, or nobody came for it in time.
    pub fn run(mut self) {
        while !self.acknowledged && clock::boottime_ns() < self.keep_until_boottime_ns {
            let ready = self.wait();
            self.mind_deadline();
            if ready.init {
                self.hear_init();
            }
            self.mind_signals();
            self.mind_grace();
            self.mind_end();
            self.output.turn();
            self.write_report();
            if ready.clients {
                self.serve();
            }
            self.clients.flush();
        }
        self.leave();
    }

    fn wait(&self) -> Ready {
        let (init_alive, control_open) = (self.inside.init_ended.is_none(), !self.control_ended);
        let timeout = self.timeout_ns().map(clock::timespec);
        let mut fds = vec![PollFd::new(&self.deadline.timer, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        if init_alive {
            fds.push(PollFd::new(&self.inside.init_handle, PollFlags::IN));
        }
        if control_open {
            fds.push(PollFd::new(&self.inside.control, PollFlags::IN));
        }
        let clients_at = fds.len();
        fds.extend(self.clients.poll_fds());
        if let Some(pipe) = self.output.wants() {
            fds.push(PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN));
        }
        if poll(&mut fds, timeout.as_ref()).is_err() {
            // Interrupted: look at everything, nothing blocks.
            return Ready { clients: true, init: true };
        }
        let woke = |fd: &PollFd<'_>| !fd.revents().is_empty();
        Ready { init: fds.iter().take(clients_at).skip(2).any(woke), clients: fds.iter().skip(clients_at).any(woke) }
    }

    /// The nearest thing that happens by itself; the deadline has its own timer.
    fn timeout_ns(&self) -> Option<u64> {
        let now = clock::boottime_ns();
        let pause = if self.kill_rounds < KILL_ROUNDS_QUICK { KILL_PAUSE_NS } else { KILL_PAUSE_LONG_NS };
        let rounds = (self.state == GuardState::Emptying).then_some(pause);
        let disk = (self.output.waiting.is_some() || self.unwritten.is_some()).then_some(OUTPUT_RETRY_NS);
        let grace = self.grace_ends_boottime_ns.map(|at| at.saturating_sub(now));
        let keep = (self.state == GuardState::Empty).then(|| self.keep_until_boottime_ns.saturating_sub(now));
        [rounds, disk, grace, keep].into_iter().flatten().min()
    }

    /// Past the deadline everything inside is killed, at once, whatever else is going on.
    fn mind_deadline(&mut self) {
        if self.deadline.passed() && !matches!(self.state, GuardState::Empty) && !self.killing {
            if self.exit.is_none() {
                self.cause = Some(ExitReason::Deadline);
            }
            self.kill();
        }
        if self.killing {
            // A timer that has fired stays readable and would keep the loop awake.
            self.deadline.disarm();
        }
    }

    fn kill(&mut self) {
        self.killing = true;
        self.emptying();
        self.inside.kill();
    }

    fn mind_signals(&mut self) {
        // The others are blocked only so that they do not end the guard.
        if sys::take_signals(&self.signals).contains(&libc::SIGTERM) {
            self.stop(self.record.spec.grace);
        }
    }

    /// Asks the program to stop; a second, shorter grace replaces the first.
    fn stop(&mut self, grace: Duration) {
        if !matches!(self.state, GuardState::Running | GuardState::Stopping) {
            return;
        }
        let ends = clock::boottime_ns_after(grace);
        self.grace_ends_boottime_ns = Some(self.grace_ends_boottime_ns.map_or(ends, |before| before.min(ends)));
        if self.state == GuardState::Running {
            self.state = GuardState::Stopping;
            self.cause.get_or_insert(ExitReason::Stopped);
            let number = signal_number(&self.record.spec.stop_signal).unwrap_or(libc::SIGTERM);
            // An init that does not listen is killed at the end of the grace.
            let _ = write_all(&self.inside.control, &line(&InitOrder::Signal(number)));
        }
    }

    fn mind_grace(&mut self) {
        if self.grace_ends_boottime_ns.is_some_and(|ends| clock::boottime_ns() >= ends) {
            self.kill();
        }
    }

    fn hear_init(&mut self) {
        let mut buffer = [0_u8; 4096];
        match rustix::io::read(&self.inside.control, &mut buffer) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Ok(n @ 1..) if self.inside.lines.push(&buffer[..n]) => {}
            // Init is on its way out, which in a namespace may take as long as its slowest process.
            Ok(_) | Err(_) => {
                self.control_ended = true;
                self.emptying();
            }
        }
        while let Some(said) = self.inside.lines.next_line() {
            if let Ok(InitReport::Exited { code, signal }) = serde_json::from_slice(&said) {
                self.program_ended(code, signal);
            }
        }
        self.inside.reap();
        if self.inside.init_ended.is_some() && self.exit.is_none() {
            // Killed with all the rest, by this guard or by the system.
            self.program_ended(None, Some(libc::SIGKILL));
        }
    }

    /// From now on only what the program left behind matters.
    fn program_ended(&mut self, code: Option<i32>, signal: Option<i32>) {
        if self.exit.is_some() {
            return;
        }
        let report = ExitReport {
            guard_id: self.record.guard_id.clone(),
            service: self.record.spec.service.clone(),
            generation: self.record.spec.generation,
            token: self.deadline.token,
            reason: self.cause.unwrap_or(ExitReason::Exited),
            code,
            signal,
            at_boottime_ns: clock::boottime_ns(),
            left_running: true,
        };
        self.clients.send_all(&line(&Push::Exited(report.clone())));
        self.exit = Some(report);
        self.emptying();
    }

    fn emptying(&mut self) {
        if self.state != GuardState::Empty {
            self.grace_ends_boottime_ns = None;
            self.state = GuardState::Emptying;
        }
    }

    /// Kills on until nothing is left, then says so.
    fn mind_end(&mut self) {
        if self.state != GuardState::Emptying {
            return;
        }
        self.kill_rounds = self.kill_rounds.saturating_add(1);
        if !self.inside.settle() {
            self.inside.kill();
            return;
        }
        if self.exit.is_none() {
            // Init may have reported the program's own end just before it was reaped.
            self.hear_init();
        }
        if let Some(report) = &mut self.exit {
            report.left_running = false;
            let report = report.clone();
            self.clients.send_all(&line(&Push::Empty(report.clone())));
            self.unwritten = Some(DiskJob::Report(self.dir.join(EXIT_FILE), line(&report)));
        }
        self.state = GuardState::Empty;
        self.deadline.disarm();
        self.keep_until_boottime_ns = clock::boottime_ns_after(REPORT_KEEP);
    }

    fn write_report(&mut self) {
        if let Some(job) = self.unwritten.take() {
            self.unwritten = self.output.disk.offer(job).err();
        }
    }

    fn serve(&mut self) {
        self.clients.accept();
        for (client, request) in self.clients.requests() {
            let reply = request.and_then(|request| self.answer(request)).unwrap_or_else(|why| Reply::Refused { why });
            self.clients.send(client, &line(&reply));
        }
    }

    fn answer(&mut self, request: Request) -> Result<Reply, String> {
        match request {
            Request::Status => return Ok(Reply::Status { status: Box::new(self.status()) }),
            Request::Extend { token, deadline_boottime_ns } => {
                self.may_run_on()?.extend(token, deadline_boottime_ns)?;
                self.tell_init_deadline();
            }
            Request::Arm { token, deadline_boottime_ns } => self.arm(token, deadline_boottime_ns)?,
            Request::Stop { grace_ms } => self.stop(Duration::from_millis(grace_ms)),
            Request::Kill => {
                if self.exit.is_none() && !self.killing {
                    self.cause = Some(ExitReason::Killed);
                    self.kill();
                }
            }
            Request::Ack if self.state == GuardState::Empty => self.acknowledged = true,
            Request::Ack => return Err("it is still running, there is no report to take".into()),
        }
        Ok(Reply::Done)
    }

    /// The deadline, if it may still be moved.
    fn may_run_on(&mut self) -> Result<&mut Deadline, String> {
        match self.state {
            GuardState::Running | GuardState::Stopping => Ok(&mut self.deadline),
            GuardState::Emptying | GuardState::Empty => Err("the program has ended or is being killed".into()),
        }
    }

    fn arm(&mut self, token: u64, deadline_boottime_ns: u64) -> Result<(), String> {
        self.may_run_on()?.arm(token, deadline_boottime_ns)?;
        self.tell_init_deadline();
        super::lock_memory();
        self.record.spec.exclusive = true;
        self.record.spec.token = Some(token);
        // Only for reports after a death of this guard, so a disk that is behind may refuse it.
        let _ = self.output.disk.offer(DiskJob::Report(self.dir.join(RECORD_FILE), line(&self.record)));
        Ok(())
    }

    /// Init watches the deadline too, in case this guard is stopped. Should it not hear of an extension, it ends too early,
    /// never too late.
    fn tell_init_deadline(&self) {
        if let Some(at) = self.deadline.at_boottime_ns {
            let _ = write_all(&self.inside.control, &line(&InitOrder::Deadline(at)));
        }
    }

    fn status(&self) -> GuardStatus {
        let spec = &self.record.spec;
        GuardStatus {
            guard_id: self.record.guard_id.clone(),
            guard_pid: self.record.guard.pid,
            service: spec.service.clone(),
            node: spec.node.clone(),
            generation: spec.generation,
            token: self.deadline.token,
            state: self.state,
            pid: self.pid,
            containment: Containment::from(self.inside.kind),
            private_proc: self.private_proc,
            deadline_boottime_ns: self.deadline.at_boottime_ns,
            started_boottime_ns: self.started_boottime_ns,
            log_lines_dropped: self.output.disk.lines_dropped(),
            exit: self.exit.clone(),
        }
    }

    /// An acknowledged guard leaves nothing to adopt; one that nobody asked leaves its report.
    fn leave(mut self) {
        let until = clock::boottime_ns_after(DISK_FINISH_MAX);
        while (!self.output.drained() || self.unwritten.is_some()) && clock::boottime_ns() < until {
            self.output.turn();
            self.write_report();
            if self.output.waiting.is_some() {
                std::thread::sleep(Duration::from_nanos(OUTPUT_RETRY_NS));
            }
        }
        self.output.disk.finish(DISK_FINISH_MAX);
        let _ = fs::remove_file(self.dir.join(SOCKET_FILE));
        if self.acknowledged {
            for file in [RECORD_FILE, SPEC_FILE] {
                let _ = fs::remove_file(self.dir.join(file));
            }
        }
    }
}

/// Until when the program may run, and by which token.
struct Deadline {
    token: Option<u64>,
    at_boottime_ns: Option<u64>,
    timer: OwnedFd,
}

impl Deadline {
    fn new(token: Option<u64>, at_boottime_ns: Option<u64>) -> io::Result<Self> {
        let timer = clock::timer()?;
        let deadline = Self { token, at_boottime_ns, timer };
        deadline.set_timer()?;
        Ok(deadline)
    }

    /// By the clock, not by the timer: a loop that was held up must not take a request for an extension first.
    fn passed(&self) -> bool {
        self.at_boottime_ns.is_some_and(|at| clock::boottime_ns() >= at)
    }

    /// Moves forward, for the token that holds it.
    fn extend(&mut self, token: u64, at_boottime_ns: u64) -> Result<(), String> {
        if self.token != Some(token) {
            let held = self.token.map_or("none".into(), |t| t.to_string());
            return Err(format!("token {token} does not hold this deadline (held: {held})"));
        }
        self.move_to(at_boottime_ns)
    }

    /// Takes a first or newer token.
    fn arm(&mut self, token: u64, at_boottime_ns: u64) -> Result<(), String> {
        if let Some(held) = self.token.filter(|held| *held > token) {
            return Err(format!("token {token} is older than {held}"));
        }
        self.move_to(at_boottime_ns)?;
        self.token = Some(token);
        Ok(())
    }

    fn move_to(&mut self, at_boottime_ns: u64) -> Result<(), String> {
        if self.passed() {
            return Err("the deadline has passed".into());
        }
        if at_boottime_ns <= clock::boottime_ns() {
            return Err("the new deadline has passed already".into());
        }
        if let Some(before) = self.at_boottime_ns.filter(|before| *before > at_boottime_ns) {
            return Err(format!("a deadline moves only forward, from {before}"));
        }
        let before = self.at_boottime_ns.replace(at_boottime_ns);
        self.set_timer().map_err(|e| {
            self.at_boottime_ns = before;
            format!("the timer refused: {e}")
        })
    }

    /// Nothing is left to kill, or all of it is being killed.
    fn disarm(&mut self) {
        // A timer that is never set again does no harm.
        let _ = clock::set_timer(&self.timer, None);
    }

    fn set_timer(&self) -> io::Result<()> {
        clock::set_timer(&self.timer, self.at_boottime_ns)
    }
}

/// The program's output on its way to the disk thread.
struct Output {
    /// `None` once every writer is gone.
    pipe: Option<OwnedFd>,
    disk: Disk,
    /// A chunk the disk did not take yet; while it waits, the program waits too, but not for ever.
    waiting: Option<Vec<u8>>,
    waiting_since_ns: u64,
}

impl Output {
    /// The pipe, while there is room for what it holds.
    fn wants(&self) -> Option<&OwnedFd> {
        self.pipe.as_ref().filter(|_| self.waiting.is_none())
    }

    /// Everything the program wrote has been handed to the disk thread.
    fn drained(&self) -> bool {
        self.pipe.is_none() && self.waiting.is_none()
    }

    fn turn(&mut self) {
        if let Some(chunk) = self.waiting.take() {
            self.pass_on(chunk);
        }
        for _ in 0..CHUNKS_PER_TURN_MAX {
            let mut chunk = vec![0; CHUNK_BYTES_MAX];
            let Some(pipe) = self.wants() else { return };
            match rustix::io::read(pipe, &mut chunk) {
                Ok(0) => self.pipe = None,
                Ok(n) => {
                    chunk.truncate(n);
                    self.waiting_since_ns = clock::boottime_ns();
                    self.pass_on(chunk);
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    fn pass_on(&mut self, chunk: Vec<u8>) {
        let Err(DiskJob::Output(chunk)) = self.disk.offer(DiskJob::Output(chunk)) else { return };
        let stalled_ns = clock::boottime_ns().saturating_sub(self.waiting_since_ns);
        if u128::from(stalled_ns) > OUTPUT_STALL_MAX.as_nanos() {
            self.disk.drop_output(&chunk);
        } else {
            self.waiting = Some(chunk);
        }
    }
}
