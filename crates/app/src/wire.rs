//! What travels between agent, guard and init: JSON, one object a line. Also the names of a guard's files.
//!
//! A line has a bound on every side, so a stray writer can cost a connection but never memory.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::StartFailure;
use crate::spec::{Containment, ExitReport, GuardSpec, GuardStatus};

/// The guard's socket, 0600.
pub(crate) const SOCKET_FILE: &str = "guard.sock";
/// The guard's identity for adoption, see [`GuardRecord`].
pub(crate) const RECORD_FILE: &str = "guard.json";
/// The [`GuardSpec`] the guard was started with.
pub(crate) const SPEC_FILE: &str = "spec.json";
/// The [`ExitReport`], once there is one.
pub(crate) const EXIT_FILE: &str = "exit.json";
/// The guard's own stderr: empty unless the guard itself fails.
pub(crate) const STDERR_FILE: &str = "guard.err";
/// In the program's environment, so that leftovers of a dead guard can be found.
pub(crate) const GUARD_ID_ENV: &str = "BACKSTAY_GUARD_ID";

/// Longest request line a guard accepts from a client.
pub(crate) const REQUEST_BYTES_MAX: usize = 4 * 1024;
/// Longest line a guard sends to a client.
pub(crate) const REPLY_BYTES_MAX: usize = 64 * 1024;
/// Longest line between guard and init: it holds arguments and environment, which the kernel bounds at a few MiB.
pub(crate) const INIT_LINE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// `guard.json`: enough to know a guard again without ever taking a recycled pid for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct GuardRecord {
    pub guard_id: String,
    pub boot_id: String,
    pub guard: ProcessId,
    /// The first process inside (or beside, for the weaker kinds); `None` until it is started.
    pub init: Option<ProcessId>,
    pub containment: Option<Containment>,
    pub cgroup: Option<PathBuf>,
    pub spec: GuardSpec,
}

/// A process that cannot be confused with a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`, in clock ticks since the machine started.
    pub start_ticks: u64,
}

/// Agent → guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub(crate) enum Request {
    Status,
    /// Moves the deadline forward; only the token that holds it may.
    Extend {
        token: u64,
        deadline_boottime_ns: u64,
    },
    /// Gives a running instance a first or newer token, with its deadline.
    Arm {
        token: u64,
        deadline_boottime_ns: u64,
    },
    Stop {
        grace_ms: u64,
    },
    Kill,
    /// The exit report was taken; the guard may go.
    Ack,
}

/// Guard → agent, one per request, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub(crate) enum Reply {
    Status { status: Box<GuardStatus> },
    Done,
    Refused { why: String },
}

/// Guard → agent, unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Push {
    /// The program has ended; what it started may still be dying.
    Exited(ExitReport),
    /// Nothing is left running.
    Empty(ExitReport),
}

/// Guard → whoever started it, one line on its stdout.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Announcement {
    Started,
    Failed(StartFailure),
}

/// Guard → init, first line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InitSpec {
    /// Resolved path of the program.
    pub program: PathBuf,
    pub argv: Vec<String>,
    /// The whole environment of the program.
    pub env: Vec<(String, String)>,
    pub cwd: PathBuf,
    pub user: Option<UserIds>,
    /// Programs that were given a user may not gain rights back through setuid files.
    pub no_new_privs: bool,
    /// Init is the first process of a PID namespace.
    pub namespace: bool,
    pub cgroup: Option<PathBuf>,
    pub oom_score_adj: Option<i32>,
    /// First deadline, CLOCK_BOOTTIME in ns.
    pub deadline_boottime_ns: Option<u64>,
}

/// Who the program runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UserIds {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// Guard → init, later lines.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum InitOrder {
    /// The guard knows the program's pid: init may reap it from now on.
    Reap,
    /// Send this signal to the program.
    Signal(i32),
    /// The deadline has moved, CLOCK_BOOTTIME in ns.
    Deadline(u64),
}

/// Init → guard.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum InitReport {
    /// Containment is set up; the first word.
    Ready,
    /// Started; the pid is as init sees it.
    Spawned { pid: u32, private_proc: bool },
    /// The system refused; errno if there is one.
    Refused { errno: Option<i32>, message: String },
    /// The program has ended.
    Exited { code: Option<i32>, signal: Option<i32> },
}

/// One object as a line.
pub(crate) fn line<T: Serialize>(value: &T) -> Vec<u8> {
    // Our own types have string keys only and no failing Serialize, so this cannot fail; an empty line is ignored.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Collects bytes and hands out whole lines; refuses to grow past its bound.
#[derive(Debug)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl Lines {
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), bytes_max }
    }

    /// Takes bytes in; false if a line would be longer than the bound.
    #[must_use]
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        self.bytes.extend_from_slice(bytes);
        let tail = self.bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        self.bytes.len() - tail <= self.bytes_max
    }

    /// The next whole line, without its end.
    pub fn next_line(&mut self) -> Option<Vec<u8>> {
        let at = self.bytes.iter().position(|b| *b == b'\n')?;
        let rest = self.bytes.split_off(at + 1);
        let mut line = std::mem::replace(&mut self.bytes, rest);
        line.pop();
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_and_bounded() {
        let mut lines = Lines::new(8);
        assert!(lines.push(b"ab\ncd"));
        assert_eq!(lines.next_line(), Some(b"ab".to_vec()));
        assert_eq!(lines.next_line(), None);
        assert!(lines.push(b"ef\n"));
        assert_eq!(lines.next_line(), Some(b"cdef".to_vec()));
        assert!(!lines.push(b"123456789"));
    }

    #[test]
    fn requests_read_as_documented() {
        let text = br#"{"request":"extend","token":7,"deadline_boottime_ns":18446744073709551615}"#;
        let request: Request = serde_json::from_slice(text).expect("documented form");
        assert_eq!(request, Request::Extend { token: 7, deadline_boottime_ns: u64::MAX });
        assert!(serde_json::from_slice::<Request>(br#"{"request":"reboot"}"#).is_err());
    }
}
