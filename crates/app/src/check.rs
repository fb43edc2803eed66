//! Watches whether a program serves: an HTTP request, a TCP connection, or a command of the operator's.
//!
//! One task per check, one check in flight at most. A result must repeat before the health changes (`rise`, `fall`), except
//! that the first pass after a start counts at once and is looked for often, so that a start is seen fast.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::clock;
use crate::guard::base_environment;
use crate::sys;

/// Period while it has never passed since the start, unless the check's own is shorter.
const PERIOD_BEFORE_FIRST_PASS: Duration = Duration::from_millis(100);
/// Shortest period, so that a zero in a file cannot spin.
const PERIOD_MIN: Duration = Duration::from_millis(10);
/// Most of an HTTP answer's head that is read.
const HTTP_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most header fields of an HTTP answer.
const HTTP_FIELDS_MAX: usize = 128;
/// Most of a command's output that is kept to find its last line.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Longest error text that is kept.
const ERROR_CHARS_MAX: usize = 300;

/// What to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// `GET path`; any answer of 2xx or 3xx passes. No redirect is followed.
    Http {
        /// Path with its query, beginning with `/`.
        path: String,
        /// Value of the Host field; the address if `None`.
        host: Option<String>,
        /// Another port than that of the checked address.
        port: Option<u16>,
    },
    /// A connection that is accepted passes.
    Tcp,
    /// A program and its arguments, never a shell line; exit code 0 passes. The last line of its output says why not.
    Run(Vec<String>),
}

/// A check and its pace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What to ask.
    pub kind: CheckKind,
    /// From the begin of one to the begin of the next, if it is done by then.
    pub every: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// Passes in a row that make a failing program pass again.
    pub rise: u32,
    /// Failures in a row that make a passing program fail.
    pub fall: u32,
}

/// Whether it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthState {
    /// No result yet.
    Unknown,
    /// It serves.
    Passing,
    /// It does not.
    Failing,
}

/// The health of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether it serves.
    pub state: HealthState,
    /// When that state began, CLOCK_BOOTTIME in ns.
    pub since_boottime_ns: u64,
    /// When the newest check that passed was *begun*, CLOCK_BOOTTIME in ns: a proof of life is as old as its question.
    pub last_ok_boottime_ns: Option<u64>,
    /// Why the newest check failed; `None` if it passed.
    pub last_error: Option<String>,
}

/// A running check; dropping it ends it, and a command in flight is killed.
#[derive(Debug)]
pub struct Checker {
    health: watch::Receiver<Health>,
    task: JoinHandle<()>,
}

impl Checker {
    /// Begins to check `addr`; needs a tokio runtime with I/O and time.
    #[must_use]
    pub fn spawn(check: Check, addr: SocketAddr) -> Self {
        let first = Health {
            state: HealthState::Unknown,
            since_boottime_ns: clock::boottime_ns(),
            last_ok_boottime_ns: None,
            last_error: None,
        };
        let (tell, health) = watch::channel(first);
        Self { health, task: tokio::spawn(run(check, addr, tell)) }
    }

    /// The health as it changes; told after every check, as `last_ok_boottime_ns` moves with each.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(check: Check, addr: SocketAddr, tell: watch::Sender<Health>) {
    let every = check.every.max(PERIOD_MIN);
    let mut streak = Streak { passes: 0, failures: 0 };
    let mut pace = pace(every.min(PERIOD_BEFORE_FIRST_PASS));
    let mut passed_once = false;
    loop {
        pace.tick().await;
        let begun = clock::boottime_ns();
        let result = match timeout(check.timeout, once(&check.kind, addr)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} ms", check.timeout.as_millis())),
        };
        if result.is_ok() && !passed_once {
            passed_once = true;
            pace = self::pace(every);
            pace.reset();
        }
        tell.send_modify(|health| streak.count(&check, health, begun, result));
    }
}

fn pace(every: Duration) -> tokio::time::Interval {
    let mut pace = interval(every);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

/// Results in a row.
struct Streak {
    passes: u32,
    failures: u32,
}

impl Streak {
    /// Takes one result into the health.
    fn count(&mut self, check: &Check, health: &mut Health, begun_ns: u64, result: Result<(), String>) {
        let ever_passed = health.last_ok_boottime_ns.is_some();
        let state = match result {
            Ok(()) => {
                (self.passes, self.failures) = (self.passes.saturating_add(1), 0);
                health.last_ok_boottime_ns = Some(begun_ns);
                health.last_error = None;
                if !ever_passed || self.passes >= check.rise { HealthState::Passing } else { health.state }
            }
            Err(why) => {
                (self.passes, self.failures) = (0, self.failures.saturating_add(1));
                health.last_error = Some(why);
                if self.failures >= check.fall { HealthState::Failing } else { health.state }
            }
        };
        if state != health.state {
            health.state = state;
            health.since_boottime_ns = clock::boottime_ns();
        }
    }
}

/// One check, without its timeout.
async fn once(kind: &CheckKind, addr: SocketAddr) -> Result<(), String> {
    match kind {
        CheckKind::Http { path, host, port } => {
            let addr = SocketAddr::new(addr.ip(), port.unwrap_or(addr.port()));
            http(addr, path, host.as_deref()).await
        }
        CheckKind::Tcp => connect(addr).await.map(drop),
        CheckKind::Run(argv) => command(argv).await,
    }
}

async fn connect(addr: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(addr).await.map_err(|e| format!("cannot connect to {addr}: {e}"))
}

async fn http(addr: SocketAddr, path: &str, host: Option<&str>) -> Result<(), String> {
    let host = host.map_or_else(|| addr.to_string(), str::to_owned);
    if [path, &host].iter().any(|text| text.chars().any(|c| c.is_ascii_control() || c == ' ')) {
        return Err(format!("{path} is no path for a request"));
    }
    let mut stream = connect(addr).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: backstay-check\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|e| format!("{addr} took no request: {e}"))?;
    let status = read_status(&mut stream, addr).await?;
    if (200..400).contains(&status) { Ok(()) } else { Err(format!("GET {path} answered {status}")) }
}

/// The status of the final answer; interim ones (1xx) are passed over. The body is of no interest.
async fn read_status(stream: &mut TcpStream, addr: SocketAddr) -> Result<u16, String> {
    let mut head = Vec::new();
    let mut chunk = [0_u8; 4096];
    loop {
        let mut fields = [httparse::EMPTY_HEADER; HTTP_FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        match response.parse(&head) {
            Ok(httparse::Status::Complete(length)) => match response.code.unwrap_or(0) {
                100..=199 => drop(head.drain(..length)),
                status => return Ok(status),
            },
            Ok(httparse::Status::Partial) if head.len() >= HTTP_HEAD_BYTES_MAX => {
                return Err(format!("{addr} answered with a head over {HTTP_HEAD_BYTES_MAX} bytes"));
            }
            Ok(httparse::Status::Partial) => match stream.read(&mut chunk).await {
                Ok(0) => return Err(format!("{addr} closed before its answer was whole")),
                Ok(n) => head.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(e) => return Err(format!("{addr} broke off its answer: {e}")),
            },
            Err(e) => return Err(format!("{addr} does not speak HTTP: {e}")),
        }
    }
}

/// Kills the whole process group of a command when the check is over, however it is over. Dropped before its leader is
/// reaped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // Gone already in the usual case.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

async fn command(argv: &[String]) -> Result<(), String> {
    let (program, args) = argv.split_first().ok_or("the check names no program")?;
    let mut command = std::process::Command::new(program);
    command.args(args).stdin(Stdio::null()).process_group(0);
    command.env_clear().envs(base_environment()).current_dir("/");
    let (reader, writer) = std::io::pipe().map_err(|e| format!("{program}: {e}"))?;
    let same = writer.try_clone().map_err(|e| format!("{program}: {e}"))?;
    command.stdout(writer).stderr(same);
    let mut command = Command::from(command);
    let mut child = command.spawn().map_err(|e| format!("{program} cannot run: {e}"))?;
    // The command holds the writing end of the pipe.
    drop(command);
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let group = Group(pid);
    let ended = pid.ok_or_else(|| std::io::ErrorKind::NotFound.into()).and_then(sys::process_end);
    let ended = ended.map_err(|e| format!("{program}: {e}"))?;
    let mut output = pipe::Receiver::from_owned_fd(reader.into()).map_err(|e| format!("{program}: {e}"))?;
    let mut tail = Vec::new();
    let mut chunk = [0_u8; 4096];
    let mut open = true;
    loop {
        tokio::select! {
            read = output.read(&mut chunk), if open => match read {
                Ok(0) | Err(_) => open = false,
                Ok(n) => keep_tail(&mut tail, chunk.get(..n).unwrap_or_default()),
            },
            // Its children may hold the pipe open for ever; its own end is what counts.
            _ = ended.readable() => break,
        }
    }
    // Before it is reaped, so that the group's number cannot be anybody else's.
    drop(group);
    let status = child.wait().await;
    // What it wrote just before its end; bounded, as a child of it may write on.
    for _ in 0..OUTPUT_BYTES_MAX / chunk.len() {
        match output.try_read(&mut chunk) {
            Ok(n @ 1..) => keep_tail(&mut tail, chunk.get(..n).unwrap_or_default()),
            Ok(_) | Err(_) => break,
        }
    }
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(last_line(&tail).unwrap_or_else(|| format!("{program}: {status}"))),
        Err(e) => Err(format!("{program}: {e}")),
    }
}

/// Adds output and forgets the oldest, so that the last line is always there.
fn keep_tail(tail: &mut Vec<u8>, more: &[u8]) {
    tail.extend_from_slice(more);
    let over = tail.len().saturating_sub(OUTPUT_BYTES_MAX);
    tail.drain(..over);
}

/// The last line with something in it, of bounded length.
fn last_line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().take(ERROR_CHARS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rise: u32, fall: u32) -> Check {
        let (every, timeout) = (Duration::from_secs(1), Duration::from_secs(1));
        Check { kind: CheckKind::Tcp, every, timeout, rise, fall }
    }

    #[test]
    fn health_follows_rise_and_fall() {
        let check = check(2, 3);
        let mut health =
            Health { state: HealthState::Unknown, since_boottime_ns: 0, last_ok_boottime_ns: None, last_error: None };
        let mut streak = Streak { passes: 0, failures: 0 };
        let steps = [
            (false, HealthState::Unknown),
            (false, HealthState::Unknown),
            (false, HealthState::Failing),
            (true, HealthState::Passing), // the first pass after a start counts at once
            (false, HealthState::Passing),
            (false, HealthState::Passing),
            (true, HealthState::Passing), // breaks the row
            (false, HealthState::Passing),
            (false, HealthState::Passing),
            (false, HealthState::Failing),
            (true, HealthState::Failing),
            (false, HealthState::Failing),
            (true, HealthState::Failing),
            (true, HealthState::Passing),
        ];
        for (n, (pass, state)) in (1_u64..).zip(steps) {
            let result = if pass { Ok(()) } else { Err("down".to_owned()) };
            streak.count(&check, &mut health, n, result);
            assert_eq!(health.state, state, "step {n}");
            assert_eq!(health.last_error.is_none(), pass, "step {n}");
        }
        assert_eq!(health.last_ok_boottime_ns, Some(14));
    }

    #[test]
    fn the_last_line_is_kept_and_bounded() {
        let mut tail = Vec::new();
        for n in 0..20_000 {
            keep_tail(&mut tail, format!("line {n}\n").as_bytes());
        }
        assert!(tail.len() <= OUTPUT_BYTES_MAX);
        assert_eq!(last_line(&tail).as_deref(), Some("line 19999"));
        assert_eq!(last_line(b" \n\n"), None);
        assert_eq!(last_line(&[b'x'; 5000]).map(|l| l.len()), Some(ERROR_CHARS_MAX));
    }
}
