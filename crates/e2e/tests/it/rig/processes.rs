//! A cluster's processes, found by its own directory in their environment or command line, which no other process has.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The variable that marks every process of a cluster; its value is `DIR/NODE`.
pub const MARK: &str = "E2E_OF_CLUSTER";
/// Looks in a row that must find nothing: a process that is just being started has nothing to read for an instant.
const EMPTY_LOOKS: u32 = 3;
const KILL_ROUNDS_MAX: u32 = 500;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The agent's parent.
    Parent,
    /// The agent's worker.
    Worker,
    /// A guard.
    Guard,
    /// The first process inside a guard.
    Init,
    /// The balancer.
    Balancer,
    /// A program.
    Program,
}

/// One process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// What it is.
    pub kind: Kind,
    /// Its command line.
    pub words: Vec<String>,
}

/// All processes of the cluster in `dir`, or those of one node.
pub fn of(dir: &Path, node: Option<&str>) -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let own = std::process::id();
    let mut found: Vec<_> = pids.filter(|pid| *pid != own && is_of(*pid, dir, node)).filter_map(read).collect();
    found.sort_by_key(|process| process.kind);
    found
}

/// Those of one kind on one node.
pub fn of_kind(dir: &Path, node: &str, kind: Kind) -> Vec<Process> {
    of(dir, Some(node)).into_iter().filter(|process| process.kind == kind).collect()
}

fn is_of(pid: u32, dir: &Path, node: Option<&str>) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let wanted = node.map_or_else(|| dir.to_owned(), |node| dir.join(node));
    let names = |word: &[u8]| Path::new(std::ffi::OsStr::from_bytes(word)).starts_with(&wanted);
    let marked = environment
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(MARK.as_bytes())?.strip_prefix(b"="))
        .is_some_and(names);
    marked || line.split(|byte| *byte == 0).any(names)
}

fn read(pid: u32) -> Option<Process> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Killed and not yet waited for: it runs no more.
    if state.rsplit(')').next()?.trim_start().starts_with('Z') {
        return None;
    }
    let kind = match words.get(1).map(String::as_str) {
        Some("agent") => Kind::Parent,
        Some("agent-worker") => Kind::Worker,
        Some("guard") => Kind::Guard,
        Some("guard-init") => Kind::Init,
        Some("balancer") => Kind::Balancer,
        _ => Kind::Program,
    };
    Some(Process { pid, kind, words })
}

/// Sends a signal, if it is still a process of this cluster.
pub fn signal(pid: u32, dir: &Path, signal: Signal) -> bool {
    let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    let Ok(held) = pidfd_open(id, PidfdFlags::empty()) else { return false };
    is_of(pid, dir, None) && pidfd_send_signal(&held, signal).is_ok()
}

/// SIGKILL to everything of the cluster, or of one node, until nothing is left.
pub fn kill_all(dir: &Path, node: Option<&str>) {
    let mut empty = 0;
    for _ in 0..KILL_ROUNDS_MAX {
        let found = of(dir, node);
        empty = if found.is_empty() { empty + 1 } else { 0 };
        if empty >= EMPTY_LOOKS {
            return;
        }
        for process in &found {
            signal(process.pid, dir, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let left = of(dir, node);
    assert!(std::thread::panicking(), "these processes do not go away: {left:?}");
    eprintln!("these processes do not go away: {left:?}");
}
