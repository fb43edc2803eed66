//! What can go wrong, in words an operator can act on.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a program could not be started. The guard decides it and the agent passes it on unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{service} cannot start: {message}")]
pub struct StartFailure {
    /// The service whose program it is.
    pub service: String,
    /// What kind of fault; decides whether a retry can help.
    pub kind: StartFailureKind,
    /// The reason, naming the program, user or directory.
    pub message: String,
}

impl StartFailure {
    pub(crate) fn new(service: &str, kind: StartFailureKind, message: impl Into<String>) -> Self {
        Self { service: service.to_owned(), kind, message: message.into() }
    }
}

/// The kinds of [`StartFailure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartFailureKind {
    /// The program file does not exist, or its name is not on the PATH.
    ProgramMissing,
    /// The program file exists and may not be executed, or is no program.
    NotExecutable,
    /// The user is not known on this machine.
    UserUnknown,
    /// Another user was asked for, and the agent is not root.
    UserRefused,
    /// The working directory is missing or no directory.
    CwdMissing,
    /// The spec contradicts itself.
    SpecInvalid,
    /// The deadline had passed before the program was started: it was never started.
    DeadlinePassed,
    /// The kernel refused what containing the program needs.
    Containment,
    /// Anything else, such as no memory or no processes left; a retry may help.
    System,
}

impl StartFailureKind {
    /// Whether trying the same start again may succeed without a person changing something.
    #[must_use]
    pub fn may_retry(self) -> bool {
        matches!(self, Self::System | Self::DeadlinePassed)
    }
}

/// A call to a guard failed.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The guard is up to tell why the program could not be started.
    #[error(transparent)]
    Start(#[from] StartFailure),
    /// A guard of the directory lives, or died and was not settled yet: adopt it first.
    #[error("{} still belongs to a guard (pid {pid}) that was not acknowledged; adopt it, then stop or acknowledge it", dir.display())]
    AlreadyGuarded {
        /// Directory of the guard.
        dir: PathBuf,
        /// Its process.
        pid: u32,
    },
    /// A file of the guard could not be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// The act: "read", "write", …
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The guard's program (`exe` of the spec) could not be run.
    #[error("cannot run the guard {}: {source}", exe.display())]
    GuardExe {
        /// The binary that was tried.
        exe: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The guard ended before it said whether the program runs. Its own words, if any, are in `guard.err`.
    #[error("the guard in {} ended before the program was started; see guard.err there; a retry may help", dir.display())]
    GuardDied {
        /// Directory of the guard.
        dir: PathBuf,
    },
    /// No answer in time. For a change, the result is unknown: ask for the status.
    #[error("the guard in {} gave no answer to `{call}` within {} ms; ask for its status before a retry", dir.display(), waited.as_millis())]
    NoAnswer {
        /// Directory of the guard.
        dir: PathBuf,
        /// The call.
        call: &'static str,
        /// How long was waited.
        waited: Duration,
    },
    /// The guard refused, with its reason: an older token, a deadline that passed, nothing to acknowledge.
    #[error("the guard of {service} refused `{call}`: {why}")]
    Refused {
        /// The service.
        service: String,
        /// The call.
        call: &'static str,
        /// The guard's reason.
        why: String,
    },
    /// The guard is no more; the last event of the handle has the exit report.
    #[error("the guard of {service} is gone; nothing to retry, see its exit report")]
    Gone {
        /// The service.
        service: String,
    },
    /// The guard is dead and some of its processes would not die within the bound (usually a hung disk).
    #[error(
        "the guard of {service} is dead and processes it started are still running: {pids:?}; retry, or restart the machine"
    )]
    LeftRunning {
        /// The service.
        service: String,
        /// What is left, as pids of this machine.
        pids: Vec<u32>,
    },
    /// A file of the guard does not make sense.
    #[error("{} is not readable as a guard's file: {why}; a retry does not help", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl AppError {
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::File { what, path: path.into(), source }
    }
}
