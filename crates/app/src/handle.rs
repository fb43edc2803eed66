//! The agent's side of a guard: start it, find it again after a restart of the agent, talk to it, hear of its end.
//!
//! A handle owns a task that holds the connection. Dropping the handle ends the task and nothing else: the guard and its
//! program run on, and the next agent adopts them.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::error::AppError;
use crate::guard::log::write_whole;
use crate::guard::short_path;
use crate::leftover;
use crate::procfs;
use crate::spec::{ExitReport, GuardSpec, GuardState, GuardStatus};
use crate::wire::{
    Announcement, EXIT_FILE, GuardRecord, Lines, Push, RECORD_FILE, REPLY_BYTES_MAX, Reply, Request, SOCKET_FILE,
    SPEC_FILE, STDERR_FILE, line,
};

/// How long a guard may take to say whether the program was started.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a guard may take to answer a request: it never waits itself, so this allows for a starved machine.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// On top of the grace of a stop: killing, confirming, reporting.
const STOP_CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an acknowledged guard may take to leave.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts to connect again to a guard that lives.
const CONNECT_TRIES: u32 = 20;
/// Pause between them.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);
/// Calls of one handle that may wait for the connection.
const CALLS_MAX: usize = 32;

/// What happened to a program. Each value implies those before it, so a watcher that was late has missed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardEvent {
    /// The program runs.
    Running {
        /// As this machine numbers it.
        pid: u32,
    },
    /// The program has ended; what it started may still be dying.
    Exited(ExitReport),
    /// Nothing is left running: an exclusive role may be released.
    Empty(ExitReport),
    /// The guard itself is gone; nothing is left running unless the report says so.
    Gone(ExitReport),
}

impl GuardEvent {
    /// The exit report, once there is one.
    #[must_use]
    pub fn report(&self) -> Option<&ExitReport> {
        match self {
            Self::Running { .. } => None,
            Self::Exited(report) | Self::Empty(report) | Self::Gone(report) => Some(report),
        }
    }

    /// Whether nothing is left running for certain.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Running { .. } | Self::Exited(_) => false,
            Self::Empty(report) | Self::Gone(report) => !report.left_running,
        }
    }
}

/// One guard, as the agent sees it.
#[derive(Debug)]
pub struct GuardHandle {
    dir: PathBuf,
    service: String,
    calls: mpsc::Sender<Call>,
    events: watch::Receiver<GuardEvent>,
}

/// A request on its way, and where its answer goes.
struct Call {
    request: Request,
    answer: oneshot::Sender<Reply>,
}

impl GuardHandle {
    /// Starts a guard in `dir` (made 0700 if missing) and waits until it says that the program runs.
    ///
    /// # Errors
    /// [`AppError::Start`] names why the program could not be started; [`AppError::AlreadyGuarded`] if a guard lives in
    /// `dir`. After [`AppError::NoAnswer`] the guard may still come up: adopt it.
    pub async fn start(dir: &Path, spec: GuardSpec) -> Result<Self, AppError> {
        spec.validate()?;
        announced(dir, &spec).await?;
        let record = read_record(dir)?.ok_or_else(|| AppError::GuardDied { dir: dir.to_owned() })?;
        Self::connect(dir, record).await
    }

    /// Finds the guard of `dir` again: `None` if nothing is there to adopt. A guard that died is settled first: what it
    /// left is killed, and the handle reports the exit as lost unless `exit.json` knows better.
    ///
    /// # Errors
    /// [`AppError::LeftRunning`] if the guard is dead and something it started would not die; call again.
    pub async fn adopt(dir: &Path) -> Result<Option<Self>, AppError> {
        match read_record(dir)? {
            Some(record) => Self::connect(dir, record).await.map(Some),
            None => Ok(None),
        }
    }

    async fn connect(dir: &Path, record: GuardRecord) -> Result<Self, AppError> {
        let (calls, todo) = mpsc::channel(CALLS_MAX);
        let service = record.spec.service.clone();
        let (link, first) = match Link::open(dir, &record).await? {
            Some((link, status)) => (Some(link), event_of(&status)),
            None => (None, GuardEvent::Gone(settle(dir, &record).await?)),
        };
        let (tell, events) = watch::channel(first);
        if let Some(link) = link {
            tokio::spawn(serve(dir.to_owned(), record, link, todo, tell));
        }
        Ok(Self { dir: dir.to_owned(), service, calls, events })
    }

    /// What happened last. The receiver stays valid after the handle is gone, but hears nothing new then.
    #[must_use]
    pub fn events(&self) -> watch::Receiver<GuardEvent> {
        self.events.clone()
    }

    /// Directory of the guard.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The guard's own view.
    ///
    /// # Errors
    /// [`AppError::Gone`], [`AppError::NoAnswer`].
    pub async fn status(&self) -> Result<GuardStatus, AppError> {
        match self.call("status", Request::Status).await? {
            Reply::Status { status } => Ok(*status),
            Reply::Done => Err(self.refused("status", "an answer of another kind".into())),
            Reply::Refused { why } => Err(self.refused("status", why)),
        }
    }

    /// Moves the deadline forward to an instant on CLOCK_BOOTTIME in ns; only for the token that holds it.
    ///
    /// # Errors
    /// [`AppError::Refused`] for another token, an earlier deadline, or once the deadline has passed.
    pub async fn extend(&self, token: u64, deadline_boottime_ns: u64) -> Result<(), AppError> {
        self.order("extend", Request::Extend { token, deadline_boottime_ns }).await
    }

    /// Gives a running instance its first or a newer token, with a deadline: a standby that becomes primary in place.
    ///
    /// # Errors
    /// [`AppError::Refused`] for an older token or a deadline that would move back or has passed.
    pub async fn arm(&self, token: u64, deadline_boottime_ns: u64) -> Result<(), AppError> {
        self.order("arm", Request::Arm { token, deadline_boottime_ns }).await
    }

    /// Asks the program to stop, kills everything after `grace`, and waits until nothing is left.
    ///
    /// # Errors
    /// [`AppError::NoAnswer`] if that is not confirmed in time (a process in a hung disk call).
    pub async fn stop(&self, grace: Duration) -> Result<ExitReport, AppError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.end("stop", Request::Stop { grace_ms }, grace.saturating_add(STOP_CONFIRM_TIMEOUT)).await
    }

    /// Kills everything inside at once and waits until nothing is left.
    ///
    /// # Errors
    /// As [`GuardHandle::stop`].
    pub async fn kill(&self) -> Result<ExitReport, AppError> {
        self.end("kill", Request::Kill, STOP_CONFIRM_TIMEOUT).await
    }

    /// Takes the exit report: the guard leaves, and nothing is left to adopt.
    ///
    /// # Errors
    /// [`AppError::Refused`] while something still runs.
    pub async fn ack(&self) -> Result<(), AppError> {
        match self.order("ack", Request::Ack).await {
            Ok(()) => {
                // The connection ends when the guard does; waiting for that keeps a new start from meeting the old one.
                let mut events = self.events.clone();
                let gone = events.wait_for(|event| matches!(event, GuardEvent::Gone(_)));
                timeout(LEAVE_TIMEOUT, gone).await.map_err(|_| self.no_answer("ack", LEAVE_TIMEOUT))?.ok();
            }
            Err(AppError::Gone { .. }) => {}
            Err(e) => return Err(e),
        }
        forget(&self.dir)
    }

    async fn end(&self, call: &'static str, request: Request, wait: Duration) -> Result<ExitReport, AppError> {
        match self.order(call, request).await {
            Ok(()) | Err(AppError::Gone { .. }) => {}
            Err(e) => return Err(e),
        }
        let mut events = self.events.clone();
        let ended = events.wait_for(GuardEvent::is_empty);
        match timeout(wait, ended).await {
            Ok(Ok(event)) => event.report().cloned().ok_or_else(|| self.gone()),
            Ok(Err(_)) => Err(self.gone()),
            Err(_) => Err(self.no_answer(call, wait)),
        }
    }

    async fn order(&self, call: &'static str, request: Request) -> Result<(), AppError> {
        match self.call(call, request).await? {
            Reply::Refused { why } => Err(self.refused(call, why)),
            Reply::Done | Reply::Status { .. } => Ok(()),
        }
    }

    async fn call(&self, call: &'static str, request: Request) -> Result<Reply, AppError> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.calls.send(Call { request, answer }).await.map_err(|_| self.gone())?;
            answered.await.map_err(|_| self.gone())
        };
        timeout(CALL_TIMEOUT, asked).await.map_err(|_| self.no_answer(call, CALL_TIMEOUT))?
    }

    fn gone(&self) -> AppError {
        AppError::Gone { service: self.service.clone() }
    }

    fn refused(&self, call: &'static str, why: String) -> AppError {
        AppError::Refused { service: self.service.clone(), call, why }
    }

    fn no_answer(&self, call: &'static str, waited: Duration) -> AppError {
        AppError::NoAnswer { dir: self.dir.clone(), call, waited }
    }
}

/// The directory as a new guard expects it: private, with the spec, and without the traces of an earlier one.
fn prepare_dir(dir: &Path, spec: &GuardSpec) -> Result<(), AppError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| AppError::file("make", dir, e))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(dir, mode).map_err(|e| AppError::file("make private", dir, e))?;
    if let Some(record) = read_record(dir)? {
        // Even a dead one must be adopted first: it may have left something running.
        return Err(AppError::AlreadyGuarded { dir: dir.to_owned(), pid: record.guard.pid });
    }
    for file in [EXIT_FILE, SOCKET_FILE] {
        ignore_missing(fs::remove_file(dir.join(file))).map_err(|e| AppError::file("remove", dir.join(file), e))?;
    }
    let path = dir.join(SPEC_FILE);
    write_whole(&path, &line(spec)).map_err(|e| AppError::file("write", path, e))
}

/// Runs the guard's process and waits for its word.
async fn announced(dir: &Path, spec: &GuardSpec) -> Result<(), AppError> {
    let (place, told) = (dir.to_owned(), spec.clone());
    // Loading the program may wait for a slow disk, and the thread that starts it waits along: not one of those on which
    // leases are renewed.
    let spawned = tokio::task::spawn_blocking(move || spawn(&place, &told)).await;
    let mut guard = spawned.unwrap_or_else(|_| Err(AppError::GuardDied { dir: dir.to_owned() }))?;
    let stdout = guard.stdout.take();
    // Reaps the guard whenever it ends, so that it never lingers as a zombie of a living agent.
    tokio::spawn(async move { guard.wait().await });
    let Some(stdout) = stdout else { return Err(AppError::GuardDied { dir: dir.to_owned() }) };
    let mut said = Vec::new();
    let mut reader = BufReader::new(stdout.take(REPLY_BYTES_MAX as u64));
    let read = timeout(START_TIMEOUT, reader.read_until(b'\n', &mut said)).await;
    if read.is_err() {
        return Err(AppError::NoAnswer { dir: dir.to_owned(), call: "start", waited: START_TIMEOUT });
    }
    match serde_json::from_slice(&said) {
        Ok(Announcement::Started) => Ok(()),
        Ok(Announcement::Failed(failure)) => Err(failure.into()),
        Err(_) => Err(AppError::GuardDied { dir: dir.to_owned() }),
    }
}

fn spawn(dir: &Path, spec: &GuardSpec) -> Result<tokio::process::Child, AppError> {
    prepare_dir(dir, spec)?;
    let stderr = dir.join(STDERR_FILE);
    let stderr = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&stderr)
        .map_err(|e| AppError::file("open", stderr, e))?;
    Command::new(&spec.exe)
        .arg("guard")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .kill_on_drop(false)
        .spawn()
        .map_err(|source| AppError::GuardExe { exe: spec.exe.clone(), source })
}

pub(crate) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read_record(dir: &Path) -> Result<Option<GuardRecord>, AppError> {
    let path = dir.join(RECORD_FILE);
    match fs::read(&path) {
        Ok(bytes) => {
            let record = serde_json::from_slice(&bytes);
            record.map(Some).map_err(|e| AppError::Corrupt { path, why: e.to_string() })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(AppError::file("read", path, e)),
    }
}

/// Nothing is left to adopt.
fn forget(dir: &Path) -> Result<(), AppError> {
    for file in [RECORD_FILE, SPEC_FILE, SOCKET_FILE] {
        ignore_missing(fs::remove_file(dir.join(file))).map_err(|e| AppError::file("remove", dir.join(file), e))?;
    }
    Ok(())
}

fn event_of(status: &GuardStatus) -> GuardEvent {
    match (&status.exit, status.state) {
        (None, _) => GuardEvent::Running { pid: status.pid },
        (Some(report), GuardState::Empty) => GuardEvent::Empty(report.clone()),
        (Some(report), _) => GuardEvent::Exited(report.clone()),
    }
}

/// The end of a guard that is dead; reads and kills, so not on the runtime's own threads.
async fn settle(dir: &Path, record: &GuardRecord) -> Result<ExitReport, AppError> {
    let (dir, record) = (dir.to_owned(), record.clone());
    let service = record.spec.service.clone();
    let settled = tokio::task::spawn_blocking(move || leftover::settle(&dir, &record)).await;
    settled.unwrap_or(Err(AppError::Gone { service }))
}

/// A connection to a living guard.
struct Link {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    lines: Lines,
    /// Who waits for an answer, oldest first: the guard answers in order.
    waiting: VecDeque<oneshot::Sender<Reply>>,
}

impl Link {
    /// Connects and asks for the status; `None` if the guard of this record is dead.
    async fn open(dir: &Path, record: &GuardRecord) -> Result<Option<(Self, GuardStatus)>, AppError> {
        for _ in 0..CONNECT_TRIES {
            if record.boot_id != procfs::boot_id() || !procfs::runs(record.guard) {
                return Ok(None);
            }
            if let Ok(Ok(connected)) = timeout(CALL_TIMEOUT, Self::try_open(dir)).await
                && connected.1.guard_id == record.guard_id
            {
                return Ok(Some(connected));
            }
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
        Err(AppError::NoAnswer { dir: dir.to_owned(), call: "connect", waited: CONNECT_PAUSE * CONNECT_TRIES })
    }

    async fn try_open(dir: &Path) -> io::Result<(Self, GuardStatus)> {
        let (_held, path) = short_path(dir, SOCKET_FILE)?;
        let (reader, writer) = UnixStream::connect(path).await?.into_split();
        let mut link = Self { reader, writer, lines: Lines::new(REPLY_BYTES_MAX), waiting: VecDeque::new() };
        link.writer.write_all(&line(&Request::Status)).await?;
        loop {
            let said = link.next_line().await?;
            if let Ok(Reply::Status { status }) = serde_json::from_slice(&said) {
                return Ok((link, *status));
            }
        }
    }

    /// The next line; loses nothing when it is cancelled.
    async fn next_line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(line) = self.lines.next_line() {
                return Ok(line);
            }
            let mut buffer = [0_u8; 4096];
            match self.reader.read(&mut buffer).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n if self.lines.push(buffer.get(..n).unwrap_or_default()) => {}
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    async fn ask(&mut self, call: Call) -> io::Result<()> {
        self.waiting.push_back(call.answer);
        self.writer.write_all(&line(&call.request)).await
    }

    /// Sorts what the guard said into answers and events.
    fn hear(&mut self, said: &[u8], tell: &watch::Sender<GuardEvent>) {
        match serde_json::from_slice(said) {
            Ok(Push::Exited(report)) => tell_forward(tell, GuardEvent::Exited(report)),
            Ok(Push::Empty(report)) => tell_forward(tell, GuardEvent::Empty(report)),
            Err(_) => {
                if let (Some(answer), Ok(reply)) = (self.waiting.pop_front(), serde_json::from_slice(said)) {
                    // Whoever asked may have given up.
                    let _ = answer.send(reply);
                }
            }
        }
    }
}

/// Tells an event unless a later one was told already.
fn tell_forward(tell: &watch::Sender<GuardEvent>, event: GuardEvent) {
    let rank = |event: &GuardEvent| match event {
        GuardEvent::Running { .. } => 0,
        GuardEvent::Exited(_) => 1,
        GuardEvent::Empty(_) => 2,
        GuardEvent::Gone(_) => 3,
    };
    tell.send_if_modified(|told| {
        let forward = rank(&event) > rank(told);
        if forward {
            *told = event;
        }
        forward
    });
}

/// The task of a handle: passes calls on and events back, until the handle or the guard is gone.
async fn serve(
    dir: PathBuf,
    record: GuardRecord,
    mut link: Link,
    mut todo: mpsc::Receiver<Call>,
    tell: watch::Sender<GuardEvent>,
) {
    loop {
        let heard = tokio::select! {
            said = link.next_line() => said.map(|said| link.hear(&said, &tell)),
            call = todo.recv() => match call {
                Some(call) => link.ask(call).await,
                None => return,
            },
        };
        if heard.is_ok() {
            continue;
        }
        match Link::open(&dir, &record).await {
            Ok(Some((again, status))) => {
                tell_forward(&tell, event_of(&status));
                link = again;
            }
            Ok(None) => break,
            // It lives and does not answer: keep trying, its own deadline acts without us.
            Err(e) => tracing::warn!(service = record.spec.service, error = %e, "guard does not answer"),
        }
    }
    // Calls fail from here on, and at once.
    todo.close();
    drop(link);
    report_end(&dir, &record, &tell).await;
}

/// The guard is dead. What it reported before stands; else nothing may be left running before anything is told.
async fn report_end(dir: &Path, record: &GuardRecord, tell: &watch::Sender<GuardEvent>) {
    let told = tell.borrow().clone();
    if let GuardEvent::Empty(report) = told {
        tell_forward(tell, GuardEvent::Gone(report));
        return;
    }
    while !tell.is_closed() {
        match settle(dir, record).await {
            Ok(report) => {
                tell_forward(tell, GuardEvent::Gone(report));
                return;
            }
            Err(e) => tracing::error!(service = record.spec.service, error = %e, "cannot settle a dead guard"),
        }
        tokio::time::sleep(CONNECT_PAUSE * CONNECT_TRIES).await;
    }
}
