//! The death of a guard is the death of everything inside, also of what made sessions of its own and never stops
//! writing; on every rung of the ladder.

use std::path::Path;

use backstay_app::{ContainmentKind, ExitReason, GuardEvent, GuardHandle};

use crate::Scenario;
use crate::life::nothing_writes;
use crate::world::{Outcome, block_on, event, kill, size, spec, start_contained, until};

pub const SCENARIOS: &[Scenario] = &[
    ("containment::the_strongest_is_taken", the_strongest_is_taken),
    ("containment::guard_killed_in_a_pid_namespace", |dir| guard_killed(dir, ContainmentKind::PidNamespace)),
    ("containment::guard_killed_in_a_cgroup", |dir| guard_killed(dir, ContainmentKind::Cgroup)),
    ("containment::guard_killed_under_a_subreaper", |dir| guard_killed(dir, ContainmentKind::Subreaper)),
    ("containment::init_killed_in_a_pid_namespace", |dir| init_killed(dir, ContainmentKind::PidNamespace)),
    ("containment::init_killed_in_a_cgroup", |dir| init_killed(dir, ContainmentKind::Cgroup)),
    ("containment::init_killed_under_a_subreaper", |dir| init_killed(dir, ContainmentKind::Subreaper)),
    ("containment::forks_end_in_a_pid_namespace", |dir| forks_end(dir, ContainmentKind::PidNamespace)),
    ("containment::forks_end_in_a_cgroup", |dir| forks_end(dir, ContainmentKind::Cgroup)),
    ("containment::forks_end_under_a_subreaper", |dir| forks_end(dir, ContainmentKind::Subreaper)),
    ("containment::both_killed_in_a_cgroup", |dir| both_killed(dir, ContainmentKind::Cgroup)),
    ("containment::both_killed_under_a_subreaper", |dir| both_killed(dir, ContainmentKind::Subreaper)),
];

/// Two generations down, in a session of its own, deaf to signals, writing without a pause.
const WRITERS: &str = "setsid sh -c 'setsid sh -c \"trap : TERM INT HUP; while :; do echo x >> out; done\" & \
                       while :; do echo y >> out; done' & while :; do sleep 0.05; done";

fn the_strongest_is_taken(dir: &Path) -> Outcome {
    block_on(async {
        let script = "echo $$ > pid; readlink /proc/self > self; sleep 1000";
        let handle = GuardHandle::start(dir, spec(dir, script)).await.expect("start");
        let status = handle.status().await.expect("status");
        assert_eq!(status.containment.weak, status.containment.kind != ContainmentKind::PidNamespace);
        if status.containment.kind == ContainmentKind::PidNamespace && status.private_proc {
            until("pid", || size(&dir.join("self")) > 0).await;
            let inner = crate::world::number_in(&dir.join("pid")).expect("pid");
            assert!(inner < 10, "the program is {inner} in a namespace of its own");
            assert_ne!(inner, status.pid);
        }
        handle.kill().await.expect("kill");
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

fn guard_killed(dir: &Path, kind: ContainmentKind) -> Outcome {
    block_on(async {
        let handle = match start_contained(dir, spec(dir, WRITERS), kind).await {
            Ok(handle) => handle,
            Err(outcome) => return outcome,
        };
        until("writes", || size(&dir.join("out")) > 0).await;
        let status = handle.status().await.expect("status");
        assert_eq!(status.containment.kind, kind);
        kill(status.guard_pid);
        let gone = event(&handle, "gone", |e| matches!(e, GuardEvent::Gone(_))).await;
        let report = gone.report().expect("a report");
        assert!(report.reason == ExitReason::Lost && !report.left_running, "{report:?}");
        nothing_writes(&dir.join("out")).await;
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

fn init_killed(dir: &Path, kind: ContainmentKind) -> Outcome {
    block_on(async {
        let handle = match start_contained(dir, spec(dir, WRITERS), kind).await {
            Ok(handle) => handle,
            Err(outcome) => return outcome,
        };
        until("writes", || size(&dir.join("out")) > 0).await;
        kill(init_pid(dir));
        let empty = event(&handle, "empty", GuardEvent::is_empty).await;
        assert_eq!(empty.report().and_then(|r| r.signal), Some(9));
        nothing_writes(&dir.join("out")).await;
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

/// A program that does nothing but fork: each child a session of its own that hands on to another and ends.
fn forks_end(dir: &Path, kind: ContainmentKind) -> Outcome {
    block_on(async {
        let script = "cat > hop <<'E'\necho x >> out; sleep 0.01; setsid sh hop & exit\nE\n\
                      for i in 1 2 3 4; do setsid sh hop & done; while :; do sleep 0.05; done";
        let handle = match start_contained(dir, spec(dir, script), kind).await {
            Ok(handle) => handle,
            Err(outcome) => return outcome,
        };
        until("hops", || size(&dir.join("out")) > 100).await;
        let report = handle.kill().await.expect("kill");
        assert!(report.reason == ExitReason::Killed && !report.left_running, "{report:?}");
        nothing_writes(&dir.join("out")).await;
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

/// Nobody is left to kill what is inside: this is what makes these kinds weak. The next adoption does it.
fn both_killed(dir: &Path, kind: ContainmentKind) -> Outcome {
    block_on(async {
        let handle = match start_contained(dir, spec(dir, WRITERS), kind).await {
            Ok(handle) => handle,
            Err(outcome) => return outcome,
        };
        until("writes", || size(&dir.join("out")) > 0).await;
        let status = handle.status().await.expect("status");
        drop(handle);
        // Stopped first, so that neither sees the other die.
        let (init, guard) = (init_pid(dir), status.guard_pid);
        crate::world::signal(init, rustix::process::Signal::STOP);
        crate::world::signal(guard, rustix::process::Signal::STOP);
        kill(init);
        kill(guard);
        let handle = GuardHandle::adopt(dir).await.expect("adopt").expect("a report");
        let last = handle.events().borrow().clone();
        assert!(matches!(&last, GuardEvent::Gone(r) if r.reason == ExitReason::Lost && !r.left_running), "{last:?}");
        nothing_writes(&dir.join("out")).await;
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

fn init_pid(dir: &Path) -> u32 {
    let record = std::fs::read(dir.join("guard.json")).expect("record");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("json");
    u32::try_from(record["init"]["pid"].as_u64().expect("init")).expect("a pid")
}
