//! An exclusive instance runs only until its deadline, which moves only forward and only for its token.

use std::path::Path;
use std::time::Duration;

use backstay_app::clock::{boottime_ns, boottime_ns_after};
use backstay_app::{AppError, ContainmentKind, ExitReason, GuardEvent, GuardHandle, GuardSpec, StartFailureKind};

use crate::Scenario;
use crate::life::nothing_writes;
use crate::world::{Outcome, PATIENCE, block_on, event, exclusive, runs, signal, size, spec, start_contained, until};

pub const SCENARIOS: &[Scenario] = &[
    ("deadline::kills_all_in_a_pid_namespace", |dir| kills_all(dir, ContainmentKind::PidNamespace)),
    ("deadline::kills_all_in_a_cgroup", |dir| kills_all(dir, ContainmentKind::Cgroup)),
    ("deadline::kills_all_under_a_subreaper", |dir| kills_all(dir, ContainmentKind::Subreaper)),
    ("deadline::past_at_the_start", past_at_the_start),
    ("deadline::moves_forward_for_its_token_only", moves_forward_for_its_token_only),
    ("deadline::cuts_a_graceful_stop_short", cuts_a_graceful_stop_short),
    ("deadline::a_standby_is_armed_in_place", a_standby_is_armed_in_place),
    ("deadline::kills_a_stopped_program", kills_a_stopped_program),
    ("deadline::holds_with_the_guard_stopped_in_a_pid_namespace", |dir| {
        guard_stopped(dir, ContainmentKind::PidNamespace)
    }),
    ("deadline::holds_with_the_guard_stopped_in_a_cgroup", |dir| guard_stopped(dir, ContainmentKind::Cgroup)),
    ("deadline::holds_with_the_guard_stopped_under_a_subreaper", |dir| guard_stopped(dir, ContainmentKind::Subreaper)),
    ("deadline::a_hung_disk_holds_no_kill_back", a_hung_disk_holds_no_kill_back),
];

const WRITERS: &str = "trap '' TERM; setsid sh -c 'trap \"\" TERM; while :; do echo x >> out; done' & \
                       while :; do sleep 0.05; done";

fn kills_all(dir: &Path, kind: ContainmentKind) -> Outcome {
    block_on(async {
        let wanted = exclusive(dir, WRITERS, 4, Duration::from_secs(2));
        let deadline = wanted.deadline_boottime_ns.expect("set");
        let handle = match start_contained(dir, wanted, kind).await {
            Ok(handle) => handle,
            Err(outcome) => return outcome,
        };
        until("writes", || size(&dir.join("out")) > 0).await;
        let empty = event(&handle, "empty", GuardEvent::is_empty).await;
        let report = empty.report().expect("a report").clone();
        assert!(report.reason == ExitReason::Deadline && !report.left_running && report.token == Some(4), "{report:?}");
        assert!(report.at_boottime_ns >= deadline, "killed before its time");
        nothing_writes(&dir.join("out")).await;
        until("exit.json", || dir.join("exit.json").exists()).await;
        assert!(handle.status().await.is_ok(), "the guard waits for its report to be taken");
        let late = handle.extend(4, boottime_ns_after(PATIENCE)).await;
        assert!(matches!(late, Err(AppError::Refused { .. })), "{late:?}");
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

fn past_at_the_start(dir: &Path) -> Outcome {
    block_on(async {
        let late = GuardSpec {
            deadline_boottime_ns: Some(boottime_ns() - 1),
            ..exclusive(dir, "echo ran > ran", 4, PATIENCE)
        };
        let refused = GuardHandle::start(dir, late).await;
        let Err(AppError::Start(failure)) = refused else { return Outcome::Failed(format!("{refused:?}")) };
        assert_eq!(failure.kind, StartFailureKind::DeadlinePassed);
        assert!(!dir.join("ran").exists(), "it must never run");
        assert!(GuardHandle::adopt(dir).await.expect("adopt").is_none());
        Outcome::Passed
    })
}

fn moves_forward_for_its_token_only(dir: &Path) -> Outcome {
    block_on(async {
        let first = Duration::from_secs(3);
        let wanted = exclusive(dir, "while :; do sleep 0.05; done", 4, first);
        let before = wanted.deadline_boottime_ns.expect("set");
        let handle = GuardHandle::start(dir, wanted).await.expect("start");
        let far = boottime_ns_after(Duration::from_secs(8));
        for (token, deadline, why) in [(3, far, "older token"), (5, far, "newer token"), (4, before - 1, "backward")] {
            let refused = handle.extend(token, deadline).await;
            assert!(matches!(refused, Err(AppError::Refused { .. })), "{why}: {refused:?}");
        }
        assert_eq!(handle.status().await.expect("status").deadline_boottime_ns, Some(before));
        handle.extend(4, far).await.expect("extend");
        assert_eq!(handle.status().await.expect("status").deadline_boottime_ns, Some(far));
        let empty = event(&handle, "empty", GuardEvent::is_empty).await;
        let report = empty.report().expect("a report");
        assert_eq!(report.reason, ExitReason::Deadline);
        assert!(report.at_boottime_ns >= far, "it ran until the later deadline");
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

fn cuts_a_graceful_stop_short(dir: &Path) -> Outcome {
    block_on(async {
        let wanted = exclusive(dir, WRITERS, 4, Duration::from_secs(2));
        let handle = GuardHandle::start(dir, wanted).await.expect("start");
        until("writes", || size(&dir.join("out")) > 0).await;
        let report = handle.stop(PATIENCE * 10).await.expect("ends at the deadline, long before the grace");
        assert_eq!(report.reason, ExitReason::Deadline);
        nothing_writes(&dir.join("out")).await;
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

fn a_standby_is_armed_in_place(dir: &Path) -> Outcome {
    block_on(async {
        let handle = GuardHandle::start(dir, spec(dir, "while :; do sleep 0.05; done")).await.expect("start");
        let refused = handle.extend(1, boottime_ns_after(PATIENCE)).await;
        assert!(matches!(refused, Err(AppError::Refused { .. })), "no token, nothing to extend: {refused:?}");
        handle.arm(6, boottime_ns_after(Duration::from_secs(5))).await.expect("arm");
        let older = handle.arm(5, boottime_ns_after(PATIENCE)).await;
        assert!(matches!(older, Err(AppError::Refused { .. })), "{older:?}");
        assert_eq!(handle.status().await.expect("status").token, Some(6));
        let empty = event(&handle, "empty", GuardEvent::is_empty).await;
        assert_eq!(empty.report().map(|r| (r.reason, r.token)), Some((ExitReason::Deadline, Some(6))));
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

/// A stopped program (SIGSTOP) cannot act on any signal but the last.
fn kills_a_stopped_program(dir: &Path) -> Outcome {
    block_on(async {
        let wanted = exclusive(dir, "kill -STOP $$", 4, Duration::from_secs(1));
        let handle = GuardHandle::start(dir, wanted).await.expect("start");
        let empty = event(&handle, "empty", GuardEvent::is_empty).await;
        assert_eq!(empty.report().map(|r| r.reason), Some(ExitReason::Deadline));
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

/// A pipe that nobody reads stands for the disk: opening it for writing never returns.
fn a_hung_disk_holds_no_kill_back(dir: &Path) -> Outcome {
    block_on(async {
        let log = dir.join("hung.log");
        rustix::fs::mknodat(rustix::fs::CWD, &log, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .expect("fifo");
        let script = "while :; do echo a rather chatty program; echo x >> out; done";
        let wanted = GuardSpec { log, ..exclusive(dir, script, 4, Duration::from_secs(5)) };
        let handle = GuardHandle::start(dir, wanted).await.expect("start");
        let empty = event(&handle, "empty", GuardEvent::is_empty).await;
        assert_eq!(empty.report().map(|r| r.reason), Some(ExitReason::Deadline));
        nothing_writes(&dir.join("out")).await;
        let status = handle.status().await.expect("status");
        assert!(status.log_lines_dropped > 0, "output is dropped and counted, the program is not held for ever");
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

/// A stopped guard cannot act; its init does.
fn guard_stopped(dir: &Path, kind: ContainmentKind) -> Outcome {
    block_on(async {
        let wanted = exclusive(dir, WRITERS, 4, Duration::from_secs(2));
        let handle = match start_contained(dir, wanted, kind).await {
            Ok(handle) => handle,
            Err(outcome) => return outcome,
        };
        until("writes", || size(&dir.join("out")) > 0).await;
        let extended = boottime_ns_after(Duration::from_secs(3));
        handle.extend(4, extended).await.expect("extend");
        let status = handle.status().await.expect("status");
        signal(status.guard_pid, rustix::process::Signal::STOP);
        until("the program is dead", || !runs(status.pid)).await;
        assert!(boottime_ns() >= extended, "init has heard of the extension");
        until("nothing grows", || {
            let before = size(&dir.join("out"));
            std::thread::sleep(Duration::from_millis(50));
            size(&dir.join("out")) == before
        })
        .await;
        nothing_writes(&dir.join("out")).await;
        signal(status.guard_pid, rustix::process::Signal::CONT);
        let empty = event(&handle, "empty", GuardEvent::is_empty).await;
        assert_eq!(empty.report().map(|r| r.reason), Some(ExitReason::Deadline));
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}
