//! Exit codes: part of the interface, so that scripts and monitors need not read text.

use std::process;

/// How a command ended. The numbers never change; new ones may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or healthy.
    Done = 0,
    /// Unexpected failure: a disk, a network, a bug.
    Unexpected = 1,
    /// Wrong usage or config; nothing was changed.
    Usage = 2,
    /// It works, but the goal is not met; or the answer is inconclusive.
    GoalNotMet = 3,
    /// Something that should serve does not.
    Outage = 4,
    /// Refused for safety.
    Refused = 5,
    /// The result is not known: it may or may not have happened.
    ResultUnknown = 6,
    /// A promise that was put to the test did not hold.
    ProofFailed = 7,
}

impl From<Exit> for process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
