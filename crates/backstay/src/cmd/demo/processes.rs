//! The demo's processes, found by a mark in their environment that no other process has: the demo's own directory.
//!
//! A process id alone proves nothing, since it may be another process by now. So a process is held by a descriptor first,
//! then its mark is read again, and only then it is killed through the descriptor.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::clock;

/// The variable that marks the processes of a demo; its value is `DIR/NODE`.
pub const MARK: &str = "DEMO_OF_BACKSTAY";
/// Longest environment that is read of a process.
const ENVIRONMENT_BYTES_MAX: usize = 1 << 20;
/// Between two looks at what is still there.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Looks in a row that must find nothing: a process that was just being started has no environment to read for an instant.
const EMPTY_LOOKS: u32 = 3;

/// One process of the demo.
#[derive(Debug)]
pub struct Found {
    /// Its id.
    pub pid: u32,
    /// It is an agent or its worker: killed first, so that a dying node does not act on the way.
    is_agent: bool,
}

/// All processes of the demo in `dir`, or those of some nodes.
pub fn of_demo(dir: &Path, nodes: Option<&[&str]>) -> Vec<Found> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found: Vec<_> =
        pids.filter(|pid| is_marked(*pid, dir, nodes)).map(|pid| Found { pid, is_agent: is_agent(pid) }).collect();
    found.sort_by_key(|process| !process.is_agent);
    found
}

/// Whether a process belongs to the demo in `dir`, and to one of these nodes of it.
pub fn is_marked(pid: u32, dir: &Path, nodes: Option<&[&str]>) -> bool {
    // Gone, or somebody else's: not ours.
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let value = environment
        .get(..environment.len().min(ENVIRONMENT_BYTES_MAX))
        .unwrap_or_default()
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(MARK.as_bytes())?.strip_prefix(b"="));
    let Some(value) = value.map(|value| Path::new(OsStr::from_bytes(value))) else { return false };
    match nodes {
        Some(nodes) => nodes.iter().any(|node| value == dir.join(node)),
        None => value.starts_with(dir),
    }
}

fn is_agent(pid: u32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1).is_some_and(|verb| verb.starts_with(b"agent"))
}

/// SIGKILL, if it is still the process that was meant.
pub fn kill(pid: u32, dir: &Path) -> bool {
    let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    let Ok(held) = pidfd_open(id, PidfdFlags::empty()) else { return false };
    is_marked(pid, dir, None) && pidfd_send_signal(&held, Signal::KILL).is_ok()
}

/// SIGKILL to every process of the demo, or of some nodes, until none is left; false when some are left at the end of `within`.
pub fn kill_all(dir: &Path, nodes: Option<&[&str]>, within: Duration) -> bool {
    let give_up = clock::boottime() + within;
    let mut empty_looks = 0;
    while empty_looks < EMPTY_LOOKS {
        let found = of_demo(dir, nodes);
        empty_looks = if found.is_empty() { empty_looks + 1 } else { 0 };
        for process in found {
            kill(process.pid, dir);
        }
        if clock::boottime() > give_up {
            return false;
        }
        thread::sleep(LOOK_EVERY);
    }
    true
}
