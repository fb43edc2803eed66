//! Reads /proc: who a process is, what descends from it, what carries a guard's mark. All answers are snapshots; whoever
//! kills by them asks again until nothing is left.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::wire::{GUARD_ID_ENV, ProcessId};

/// What `/proc/PID/stat` says of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub id: ProcessId,
    pub parent: u32,
    /// Ended and waiting to be reaped: it runs nothing any more.
    pub zombie: bool,
}

/// The process of that number now, if there is one.
pub(crate) fn process(pid: u32) -> Option<Process> {
    parse_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name stands in parentheses and may hold anything, so fields are counted from the last closing one.
fn parse_stat(pid: u32, stat: &str) -> Option<Process> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let start_ticks = fields.nth(17)?.parse().ok()?;
    Some(Process { id: ProcessId { pid, start_ticks }, parent, zombie: matches!(state, "Z" | "X") })
}

/// The identity of this very process.
pub(crate) fn own_id() -> Option<ProcessId> {
    process(std::process::id()).map(|p| p.id)
}

/// Whether exactly this process is still running; a zombie is not, nor is a later process of the same number.
pub(crate) fn runs(id: ProcessId) -> bool {
    process(id.pid).is_some_and(|p| p.id == id && !p.zombie)
}

/// A text that is new each time the machine starts.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default()
}

fn all_pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// Every process that descends from `root`, zombies included, without `root` itself and without what is below `except`.
/// Zombies count because a process may fork and end while /proc is being read: as long as only `root` reaps, and not
/// during a round, such a one is still seen and asks for another round.
pub(crate) fn descendants(root: u32, except: Option<u32>) -> Vec<Process> {
    let mut children: HashMap<u32, Vec<Process>> = HashMap::new();
    for p in all_pids().into_iter().filter_map(process) {
        children.entry(p.parent).or_default().push(p);
    }
    let mut found = Vec::new();
    let mut seen = HashSet::from([root]);
    let mut queue = vec![root];
    while let Some(parent) = queue.pop() {
        for child in children.get(&parent).into_iter().flatten() {
            if Some(child.id.pid) == except || !seen.insert(child.id.pid) {
                continue;
            }
            queue.push(child.id.pid);
            found.push(*child);
        }
    }
    found
}

/// Running processes that carry the guard's mark in their environment. A program that overwrites its environment hides
/// from this, which is one reason why containment without a namespace is called weak.
pub(crate) fn marked(guard_id: &str) -> Vec<Process> {
    let mark = format!("{GUARD_ID_ENV}={guard_id}");
    let carries = |pid: &u32| {
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|env| env.split(|b| *b == 0).any(|entry| entry == mark.as_bytes()))
    };
    all_pids().into_iter().filter(carries).filter_map(process).filter(|p| !p.zombie).collect()
}

/// The child of `parent` that is `inner` in its own PID namespace, as this process numbers it.
pub(crate) fn outer_pid(parent: u32, inner: u32) -> Option<u32> {
    let is_inner = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
        line.split_ascii_whitespace().last()?.parse().ok().filter(|last: &u32| *last == inner)
    };
    all_pids()
        .into_iter()
        .filter_map(process)
        .find(|p| p.parent == parent && is_inner(p.id.pid).is_some())
        .map(|p| p.id.pid)
}

/// Kills exactly this process, never a later one of the same number: the handle is taken first, then checked.
pub(crate) fn kill_exactly(id: ProcessId) {
    let Some(pid) = i32::try_from(id.pid).ok().and_then(Pid::from_raw) else { return };
    if let Ok(handle) = pidfd_open(pid, PidfdFlags::empty())
        && process(id.pid).is_some_and(|p| p.id == id)
    {
        // It may have ended meanwhile, which is what was wanted.
        let _ = pidfd_send_signal(handle, Signal::KILL);
    }
}

/// Pids listed in a cgroup's `cgroup.procs` and below.
pub(crate) fn cgroup_pids(cgroup: &Path) -> Vec<u32> {
    let mut found: Vec<u32> = fs::read_to_string(cgroup.join("cgroup.procs"))
        .map(|text| text.lines().filter_map(|l| l.parse().ok()).collect())
        .unwrap_or_default();
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(cgroup_pids(&entry.path()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_any_name() {
        let stat = "42 (a) b (c)) S 7 42 42 0 -1 0 0 0 0 0 1 2 3 4 20 0 1 0 98765 1 2";
        let p = parse_stat(42, stat).expect("valid");
        assert_eq!(p, Process { id: ProcessId { pid: 42, start_ticks: 98765 }, parent: 7, zombie: false });
        assert!(parse_stat(42, "42 (x) Z 7 42 42 0 -1 0 0 0 0 0 1 2 3 4 20 0 1 0 5 1").expect("valid").zombie);
        assert_eq!(parse_stat(42, "42 (cut"), None);
    }

    #[test]
    fn a_recycled_number_is_another_process() {
        let me = own_id().expect("own stat");
        assert!(runs(me));
        assert!(!runs(ProcessId { start_ticks: me.start_ticks + 1, ..me }));
        assert!(!boot_id().is_empty());
    }
}
