//! Starting, output, stopping, exit reports, adoption.

use std::fs;
use std::path::Path;
use std::time::Duration;

use backstay_app::{AppError, ExitReason, GuardEvent, GuardHandle, GuardSpec, GuardState};

use crate::Scenario;
use crate::world::{Outcome, PATIENCE, block_on, event, kill, number_in, size, spec, until};

pub const SCENARIOS: &[Scenario] = &[
    ("life::exit_status_is_kept", exit_status_is_kept),
    ("life::output_goes_to_a_rotated_log", output_goes_to_a_rotated_log),
    ("life::stop_waits_for_the_program", stop_waits_for_the_program),
    ("life::programs_begin_with_clean_signals", programs_begin_with_clean_signals),
    ("life::stop_escalates_to_everything", stop_escalates_to_everything),
    ("life::sigterm_to_the_guard_is_a_stop", sigterm_to_the_guard_is_a_stop),
    ("life::adoption_after_the_agent_is_gone", adoption_after_the_agent_is_gone),
    ("life::exit_while_nobody_is_connected", exit_while_nobody_is_connected),
    ("life::recycled_pid_is_not_adopted", recycled_pid_is_not_adopted),
    ("life::two_guards_never_share_a_directory", two_guards_never_share_a_directory),
    ("life::a_death_is_pushed", a_death_is_pushed),
    ("life::children_end_with_the_program", children_end_with_the_program),
];

fn exit_status_is_kept(dir: &Path) -> Outcome {
    block_on(async {
        let handle = GuardHandle::start(dir, spec(dir, "exit 42")).await.expect("start");
        let ended = event(&handle, "empty", GuardEvent::is_empty).await;
        let report = ended.report().expect("a report");
        assert_eq!((report.reason, report.code, report.signal), (ExitReason::Exited, Some(42), None));
        assert!(!report.left_running && report.at_boottime_ns > 0 && report.generation == 7);
        handle.ack().await.expect("ack");
        assert!(GuardHandle::adopt(dir).await.expect("adopt").is_none(), "nothing is left to adopt");
        assert!(dir.join("exit.json").exists(), "the report stays on disk");

        let handle = GuardHandle::start(dir, spec(dir, "kill -SEGV $$")).await.expect("start again");
        let ended = event(&handle, "empty", GuardEvent::is_empty).await;
        assert_eq!(ended.report().and_then(|r| r.signal), Some(11));
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

fn output_goes_to_a_rotated_log(dir: &Path) -> Outcome {
    block_on(async {
        let script = "echo to stderr >&2; i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done";
        let rotated = GuardSpec { log_bytes_max: 2000, log_files_max: 3, ..spec(dir, script) };
        let handle = GuardHandle::start(dir, rotated).await.expect("start");
        event(&handle, "empty", GuardEvent::is_empty).await;
        handle.ack().await.expect("ack");
        let text = fs::read_to_string(dir.join("web.log")).expect("log");
        assert!(text.ends_with("line 499\n"), "{text:?}");
        for name in ["web.log", "web.log.1", "web.log.2"] {
            assert!((1..=2000).contains(&size(&dir.join(name))), "{name} has {} bytes", size(&dir.join(name)));
        }
        assert!(!dir.join("web.log.3").exists());
        Outcome::Passed
    })
}

fn stop_waits_for_the_program(dir: &Path) -> Outcome {
    block_on(async {
        let script = "trap 'echo asked > asked; exit 3' INT; echo up > up; while :; do sleep 0.05; done";
        let asked = GuardSpec { stop_signal: "SIGINT".into(), ..spec(dir, script) };
        let handle = GuardHandle::start(dir, asked).await.expect("start");
        until("up", || dir.join("up").exists()).await;
        let report = handle.stop(PATIENCE).await.expect("stop");
        assert_eq!((report.reason, report.code), (ExitReason::Stopped, Some(3)));
        assert!(dir.join("asked").exists());
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

/// Most programs never touch their signal mask: one that inherited a blocked SIGTERM would only ever be killed.
fn programs_begin_with_clean_signals(dir: &Path) -> Outcome {
    block_on(async {
        let handle =
            GuardHandle::start(dir, spec(dir, "exec grep -E 'Sig(Blk|Ign)' /proc/self/status")).await.expect("start");
        event(&handle, "empty", GuardEvent::is_empty).await;
        handle.ack().await.expect("ack");
        let text = fs::read_to_string(dir.join("web.log")).expect("log");
        let sets = text.lines().filter_map(|line| u64::from_str_radix(line.split_whitespace().last()?, 16).ok());
        // Signals 32 and 33 are libc's own; it lets nobody set them.
        let sets: Vec<_> = sets.map(|set| set & !(0b11 << 31)).collect();
        assert_eq!(sets, [0, 0], "{text:?}");

        let handle = GuardHandle::start(dir, spec(dir, "exec sleep 600")).await.expect("start");
        let report = handle.stop(PATIENCE).await.expect("stop");
        assert_eq!((report.reason, report.signal), (ExitReason::Stopped, Some(15)));
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

fn stop_escalates_to_everything(dir: &Path) -> Outcome {
    block_on(async {
        let script = "trap '' TERM; setsid sh -c 'trap \"\" TERM; while :; do echo x >> out; done' & \
                      while :; do sleep 0.05; done";
        let handle = GuardHandle::start(dir, spec(dir, script)).await.expect("start");
        until("writes", || size(&dir.join("out")) > 0).await;
        let report = handle.stop(Duration::from_millis(200)).await.expect("stop");
        assert_eq!((report.reason, report.code, report.signal), (ExitReason::Stopped, None, Some(9)));
        nothing_writes(&dir.join("out")).await;
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

/// A negative needs a while: whatever still ran would have written thousands of times.
pub async fn nothing_writes(file: &Path) {
    let before = size(file);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(size(file), before, "something still writes to {}", file.display());
}

fn sigterm_to_the_guard_is_a_stop(dir: &Path) -> Outcome {
    block_on(async {
        let script = "trap 'exit 5' TERM; echo up > up; while :; do sleep 0.05; done";
        let handle = GuardHandle::start(dir, spec(dir, script)).await.expect("start");
        until("up", || dir.join("up").exists()).await;
        let status = handle.status().await.expect("status");
        for ignored in [rustix::process::Signal::HUP, rustix::process::Signal::INT] {
            crate::world::signal(status.guard_pid, ignored);
        }
        assert_eq!(handle.status().await.expect("still there").state, GuardState::Running);
        crate::world::signal(status.guard_pid, rustix::process::Signal::TERM);
        let ended = event(&handle, "empty", GuardEvent::is_empty).await;
        assert_eq!(ended.report().map(|r| (r.reason, r.code)), Some((ExitReason::Stopped, Some(5))));
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

fn adoption_after_the_agent_is_gone(dir: &Path) -> Outcome {
    // Two runtimes stand for two lives of an agent.
    let first = block_on(async {
        let handle = GuardHandle::start(dir, spec(dir, "echo $$ > pid; while :; do sleep 0.05; done")).await;
        let handle = handle.expect("start");
        let GuardEvent::Running { pid } = *handle.events().borrow() else { panic!("not running") };
        assert!(crate::world::start_ticks(pid).is_some(), "pid {pid} is one of this machine");
        Outcome::Passed
    });
    assert!(matches!(first, Outcome::Passed));
    block_on(async {
        let handle = GuardHandle::adopt(dir).await.expect("adopt").expect("a guard");
        let status = handle.status().await.expect("status");
        assert_eq!((status.state, status.service.as_str(), status.generation), (GuardState::Running, "web", 7));
        let GuardEvent::Running { pid } = *handle.events().borrow() else { panic!("not running") };
        assert_eq!(pid, status.pid);
        let again = GuardHandle::start(dir, spec(dir, "true")).await;
        assert!(matches!(again, Err(AppError::AlreadyGuarded { .. })), "{again:?}");
        let report = handle.kill().await.expect("kill");
        assert_eq!((report.reason, report.signal), (ExitReason::Killed, Some(9)));
        handle.ack().await.expect("ack");
        assert!(GuardHandle::adopt(dir).await.expect("adopt").is_none());
        Outcome::Passed
    })
}

fn exit_while_nobody_is_connected(dir: &Path) -> Outcome {
    block_on(async {
        let handle = GuardHandle::start(dir, spec(dir, "while [ ! -e go ]; do sleep 0.05; done; exit 9")).await;
        drop(handle.expect("start"));
        fs::write(dir.join("go"), "").expect("go");
        until("exit.json", || dir.join("exit.json").exists()).await;
        let handle = GuardHandle::adopt(dir).await.expect("adopt").expect("a guard with a report");
        let last = handle.events().borrow().clone();
        assert_eq!(last.report().and_then(|r| r.code), Some(9));
        assert!(last.is_empty());

        // The same from the disk, should the guard itself be gone.
        kill(handle.status().await.expect("status").guard_pid);
        event(&handle, "gone", |e| matches!(e, GuardEvent::Gone(_))).await;
        let handle = GuardHandle::adopt(dir).await.expect("adopt").expect("a report");
        let last = handle.events().borrow().clone();
        assert!(
            matches!(&last, GuardEvent::Gone(r) if r.code == Some(9) && r.reason == ExitReason::Exited),
            "{last:?}"
        );
        handle.ack().await.expect("ack");
        assert!(GuardHandle::adopt(dir).await.expect("adopt").is_none());
        Outcome::Passed
    })
}

fn recycled_pid_is_not_adopted(dir: &Path) -> Outcome {
    block_on(async {
        let handle = GuardHandle::start(dir, spec(dir, "while :; do sleep 0.05; done")).await.expect("start");
        kill(handle.status().await.expect("status").guard_pid);
        event(&handle, "gone", |e| matches!(e, GuardEvent::Gone(_))).await;
        drop(handle);
        fs::remove_file(dir.join("exit.json")).expect("forget the report");
        // The record now names an earlier process of a number that a stranger (this test) has now.
        let ticks = crate::world::start_ticks(std::process::id()).expect("own start") - 1;
        let path = dir.join("guard.json");
        let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("record")).expect("json");
        for stranger in ["guard", "init"] {
            record[stranger]["pid"] = std::process::id().into();
            record[stranger]["start_ticks"] = ticks.into();
        }
        fs::write(&path, record.to_string()).expect("write");
        let handle = GuardHandle::adopt(dir).await.expect("adopt").expect("a report");
        let last = handle.events().borrow().clone();
        assert!(matches!(&last, GuardEvent::Gone(r) if r.reason == ExitReason::Lost && !r.left_running), "{last:?}");
        assert!(matches!(handle.status().await, Err(AppError::Gone { .. })));
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

fn two_guards_never_share_a_directory(dir: &Path) -> Outcome {
    block_on(async {
        let handle = GuardHandle::start(dir, spec(dir, "while :; do sleep 0.05; done")).await.expect("start");
        // Even past the check of the agent's side.
        fs::rename(dir.join("guard.json"), dir.join("aside.json")).expect("rename");
        let second = GuardHandle::start(dir, spec(dir, "echo second > second")).await;
        assert!(matches!(second, Err(AppError::Start(_))), "{second:?}");
        assert!(!dir.join("second").exists());
        fs::rename(dir.join("aside.json"), dir.join("guard.json")).expect("rename back");
        handle.kill().await.expect("kill");
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

fn children_end_with_the_program(dir: &Path) -> Outcome {
    block_on(async {
        let script = "setsid sh -c 'echo $$ > child; while :; do echo x >> out; done' & \
                      while [ ! -s out ]; do sleep 0.02; done; exit 0";
        let handle = GuardHandle::start(dir, spec(dir, script)).await.expect("start");
        let ended = event(&handle, "empty", GuardEvent::is_empty).await;
        assert_eq!(ended.report().and_then(|r| r.code), Some(0));
        assert!(number_in(&dir.join("child")).is_ok());
        nothing_writes(&dir.join("out")).await;
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

fn a_death_is_pushed(dir: &Path) -> Outcome {
    block_on(async {
        let handle = GuardHandle::start(dir, spec(dir, "while :; do sleep 0.05; done")).await.expect("start");
        let pid = handle.status().await.expect("status").pid;
        let killed = backstay_app::clock::boottime_ns();
        kill(pid);
        let ended = event(&handle, "empty", GuardEvent::is_empty).await;
        let heard = backstay_app::clock::boottime_ns();
        let report = ended.report().expect("a report");
        assert_eq!((report.reason, report.signal), (ExitReason::Exited, Some(9)));
        assert!((killed..=heard).contains(&report.at_boottime_ns));
        println!("death to `empty`: {} us", (heard - killed) / 1000);
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}
