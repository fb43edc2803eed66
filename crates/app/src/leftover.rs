//! What a dead guard left behind: make sure that nothing of it runs, then say how it ended.
//!
//! In a PID namespace the kernel has done it and only has to be waited for. On the weaker rungs init does it, and what
//! outlived even that is found by its cgroup or by the guard's mark in its environment.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::clock;
use crate::error::AppError;
use crate::guard::contain::remove_cgroup;
use crate::guard::log::write_whole;
use crate::procfs;
use crate::spec::{ContainmentKind, ExitReason, ExitReport};
use crate::wire::{EXIT_FILE, GuardRecord, line};

/// How long init may clean up by itself before it is killed.
const INIT_ALONE_MAX: Duration = Duration::from_secs(5);
/// How long all of it may take.
const SETTLE_MAX: Duration = Duration::from_secs(15);
/// Pause between two looks.
const SETTLE_PAUSE: Duration = Duration::from_millis(5);
/// Looks in a row that must find nothing: /proc is no snapshot, and a process may fork and end while it is read.
const EMPTY_LOOKS: u32 = 3;

/// Blocking. The report of a guard that is dead; kills what it left, and keeps the report in `exit.json`.
pub(crate) fn settle(dir: &Path, record: &GuardRecord) -> Result<ExitReport, AppError> {
    let path = dir.join(EXIT_FILE);
    let kept = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<ExitReport>(&bytes).ok());
    if let Some(report) = kept.filter(|report| report.guard_id == record.guard_id && !report.left_running) {
        return Ok(report);
    }
    let left = if record.boot_id == procfs::boot_id() { kill_leftovers(record) } else { Vec::new() };
    if !left.is_empty() {
        return Err(AppError::LeftRunning { service: record.spec.service.clone(), pids: left });
    }
    let report = ExitReport {
        guard_id: record.guard_id.clone(),
        service: record.spec.service.clone(),
        generation: record.spec.generation,
        token: record.spec.token,
        reason: ExitReason::Lost,
        code: None,
        signal: None,
        at_boottime_ns: clock::boottime_ns(),
        left_running: false,
    };
    // The report counts even where it cannot be kept: the next adoption settles again, with the same end.
    if let Err(e) = write_whole(&path, &line(&report)) {
        tracing::warn!(path = %path.display(), error = %e, "cannot keep an exit report");
    }
    Ok(report)
}

/// Until nothing is found several times in a row, or time is up: what is left then, as pids.
fn kill_leftovers(record: &GuardRecord) -> Vec<u32> {
    let alone_until = clock::boottime_ns_after(INIT_ALONE_MAX);
    let until = clock::boottime_ns_after(SETTLE_MAX);
    let mut empty_looks = 0;
    loop {
        let left = look_and_kill(record, clock::boottime_ns() >= alone_until);
        empty_looks = if left.is_empty() { empty_looks + 1 } else { 0 };
        if empty_looks >= EMPTY_LOOKS {
            if let Some(cgroup) = &record.cgroup {
                remove_cgroup(cgroup);
            }
            return Vec::new();
        }
        if clock::boottime_ns() >= until {
            return left;
        }
        std::thread::sleep(SETTLE_PAUSE);
    }
}

fn look_and_kill(record: &GuardRecord, init_too: bool) -> Vec<u32> {
    let namespace = record.containment.is_some_and(|c| c.kind == ContainmentKind::PidNamespace);
    if let Some(init) = record.init.filter(|init| procfs::runs(*init)) {
        // In a namespace its death is what kills; elsewhere it is at work killing, and its orphans would be harder to find.
        if namespace || init_too {
            procfs::kill_exactly(init);
        }
        return vec![init.pid];
    }
    if namespace {
        // Its init is dead, and the kernel lets it be so only after everything inside.
        return Vec::new();
    }
    let mut left = Vec::new();
    if let Some(cgroup) = &record.cgroup {
        let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        left.extend(procfs::cgroup_pids(cgroup));
        left.retain(|pid| procfs::process(*pid).is_some_and(|p| !p.zombie));
    }
    for process in procfs::marked(&record.guard_id) {
        procfs::kill_exactly(process.id);
        left.push(process.id.pid);
    }
    left
}
