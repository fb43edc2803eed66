//! What a guard is told, and what it tells back: plain words, kept on disk and sent over its socket.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{StartFailure, StartFailureKind};

/// One start of one instance: everything the guard needs, so that it never asks anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardSpec {
    /// Name of the service, for messages.
    pub service: String,
    /// This node's name.
    pub node: String,
    /// The goal's generation that asked for this start.
    pub generation: u64,
    /// Token of the role's grant; `None` until the instance holds an exclusive role.
    pub token: Option<u64>,
    /// Program and arguments; never a shell line. A bare name is looked for on the PATH.
    pub argv: Vec<String>,
    /// Added to the clean base environment (PATH, HOME, LANG, TZ).
    pub env: BTreeMap<String, String>,
    /// Run as this user; needs root unless it is the agent's own.
    pub user: Option<String>,
    /// Working directory; `/` if `None`.
    pub cwd: Option<PathBuf>,
    /// Name of the signal that asks the program to stop, such as `SIGTERM`.
    pub stop_signal: String,
    /// How long a stop may take before everything is killed, unless the stop says otherwise.
    #[serde(rename = "grace_ms", with = "millis")]
    pub grace: Duration,
    /// Runs only with a grant: needs `token` and a deadline.
    pub exclusive: bool,
    /// Past this instant on CLOCK_BOOTTIME (ns) everything inside is killed. Only ever moved forward.
    pub deadline_boottime_ns: Option<u64>,
    /// Where the program's output goes.
    pub log: PathBuf,
    /// Size at which the log is rotated, in bytes.
    pub log_bytes_max: u64,
    /// How many log files there are at most, the one being written included.
    pub log_files_max: u32,
    /// The binary that plays the guard (verb `guard DIR`). The guard runs its init from its own image, so a later upgrade
    /// of this file never mixes versions.
    pub exe: PathBuf,
    /// Take this kind of containment, or fail; `None` takes the strongest the kernel allows.
    #[serde(default)]
    pub containment: Option<ContainmentKind>,
}

impl GuardSpec {
    /// Refuses a spec that contradicts itself, by name.
    ///
    /// # Errors
    /// [`StartFailureKind::SpecInvalid`] with the field and the reason.
    pub fn validate(&self) -> Result<(), StartFailure> {
        let invalid = |message: String| Err(StartFailure::new(&self.service, StartFailureKind::SpecInvalid, message));
        if self.argv.first().is_none_or(String::is_empty) {
            return invalid("`argv` names no program".into());
        }
        let nul = |text: &String| text.contains('\0');
        if self.argv.iter().any(nul)
            || self.env.iter().any(|(k, v)| nul(k) || nul(v) || k.is_empty() || k.contains('='))
        {
            return invalid("arguments and environment must not hold NUL, and names neither `=` nor nothing".into());
        }
        if signal_number(&self.stop_signal).is_none() {
            return invalid(format!("`{}` is no signal that can stop a program", self.stop_signal));
        }
        if self.exclusive && (self.token.is_none() || self.deadline_boottime_ns.is_none()) {
            return invalid("an exclusive instance needs a token and a deadline".into());
        }
        if self.log_bytes_max == 0 || self.log_files_max == 0 {
            return invalid("the log needs room: `log_bytes_max` and `log_files_max` must be above zero".into());
        }
        Ok(())
    }
}

/// How the program is kept together, so that it can be killed as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainmentKind {
    /// A PID namespace: when its first process dies, the kernel kills everything inside.
    PidNamespace,
    /// A cgroup that the kernel empties at one write to `cgroup.kill`.
    Cgroup,
    /// All descendants are found and killed until none is left.
    Subreaper,
}

/// The containment an instance got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Containment {
    /// Which rung of the ladder.
    pub kind: ContainmentKind,
    /// True if something could be left running should the guard *and* its init be killed in the same instant.
    pub weak: bool,
}

impl From<ContainmentKind> for Containment {
    fn from(kind: ContainmentKind) -> Self {
        Self { kind, weak: kind != ContainmentKind::PidNamespace }
    }
}

/// Why a program is no longer running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitReason {
    /// It ended by itself.
    Exited,
    /// It was asked to stop.
    Stopped,
    /// It was killed at once on request.
    Killed,
    /// Its deadline passed.
    Deadline,
    /// Its guard died, so how it ended is not known; nothing is left running unless said.
    Lost,
}

/// How it ended. Kept in `exit.json` until an agent acknowledges it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// Which start this was, as in `BACKSTAY_GUARD_ID`.
    pub guard_id: String,
    /// The service.
    pub service: String,
    /// Generation of the start.
    pub generation: u64,
    /// Last token held.
    pub token: Option<u64>,
    /// Why it ended.
    pub reason: ExitReason,
    /// Exit code, if it exited.
    pub code: Option<i32>,
    /// Signal, if one ended it.
    pub signal: Option<i32>,
    /// When the program was seen to have ended, CLOCK_BOOTTIME in ns.
    pub at_boottime_ns: u64,
    /// Whether anything it started may still be running.
    pub left_running: bool,
}

/// Where a guard is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuardState {
    /// The program runs.
    Running,
    /// It was asked to stop and has its grace.
    Stopping,
    /// It ended or is being killed; what it started is not yet confirmed dead.
    Emptying,
    /// Nothing is left running; the report waits to be acknowledged.
    Empty,
}

/// A guard's answer to `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardStatus {
    /// Which start this is, as in `BACKSTAY_GUARD_ID`.
    pub guard_id: String,
    /// The guard's own process.
    pub guard_pid: u32,
    /// The service.
    pub service: String,
    /// The node.
    pub node: String,
    /// Generation of the start.
    pub generation: u64,
    /// Token held at present.
    pub token: Option<u64>,
    /// State of the program.
    pub state: GuardState,
    /// The program's process, as this machine numbers it.
    pub pid: u32,
    /// How it is contained.
    pub containment: Containment,
    /// Whether the program sees a /proc of its own.
    pub private_proc: bool,
    /// Present deadline, CLOCK_BOOTTIME in ns.
    pub deadline_boottime_ns: Option<u64>,
    /// When the program was started, CLOCK_BOOTTIME in ns.
    pub started_boottime_ns: u64,
    /// Lines of output that were dropped because the disk was full or hung.
    pub log_lines_dropped: u64,
    /// How it ended, once it has.
    pub exit: Option<ExitReport>,
}

/// The number of a signal by its name, with or without `SIG`; only those that end a program in good order.
pub(crate) fn signal_number(name: &str) -> Option<i32> {
    let short = name.strip_prefix("SIG").unwrap_or(name);
    Some(match short {
        "TERM" => libc::SIGTERM,
        "INT" => libc::SIGINT,
        "QUIT" => libc::SIGQUIT,
        "HUP" => libc::SIGHUP,
        "USR1" => libc::SIGUSR1,
        "USR2" => libc::SIGUSR2,
        "WINCH" => libc::SIGWINCH,
        "ABRT" => libc::SIGABRT,
        "KILL" => libc::SIGKILL,
        _ => return None,
    })
}

/// Durations as whole milliseconds in JSON.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Ok(Duration::from_millis(u64::deserialize(from)?))
    }
}
