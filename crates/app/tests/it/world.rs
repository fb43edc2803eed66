//! What the scenarios share: a scratch directory, a spec, waiting with a generous deadline, and another user.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs, io};

use backstay_app::{ContainmentKind, GuardEvent, GuardHandle, GuardSpec, StartFailureKind};

/// Far beyond anything that should happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The user and group `nobody` has everywhere.
const NOBODY: u32 = 65_534;

/// How a scenario ended.
pub enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

/// Runs a scenario in a directory of its own, removed afterwards.
pub fn in_scratch(name: &str, scenario: fn(&Path) -> Outcome) -> Outcome {
    let dir = scratch(name);
    let outcome = std::panic::catch_unwind(|| scenario(&dir));
    clean(&dir);
    outcome.unwrap_or_else(|_| Outcome::Failed("it panicked, see above".into()))
}

/// The same as user `nobody`, with a copy of this binary that this user can reach.
pub fn in_scratch_as_nobody(name: &str, skipped: u8) -> Outcome {
    let dir = scratch(&format!("nobody-{name}"));
    let exe = dir.join("it");
    // By another process: a descriptor open for writing here could be inherited by a concurrent fork, and the kernel
    // runs no file that anybody has open for writing.
    let copied = Command::new("cp").arg(env::current_exe().expect("own path")).arg(&exe).status();
    assert!(copied.expect("cp").success());
    fs::set_permissions(&exe, fs::Permissions::from_mode(0o755)).expect("mode");
    let work = dir.join("work");
    fs::create_dir(&work).expect("dir");
    std::os::unix::fs::chown(&work, Some(NOBODY), Some(NOBODY)).expect("chown");
    let output = Command::new(&exe)
        .args(["play", name])
        .arg(&work)
        .env("TMPDIR", &work)
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output();
    clean(&dir);
    let output = match output {
        Ok(output) => output,
        Err(e) => return Outcome::Failed(format!("cannot run as nobody: {e}")),
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(0) => Outcome::Passed,
        Some(code) if code == i32::from(skipped) => Outcome::Skipped(said.trim().to_owned()),
        _ => Outcome::Failed(format!("{}\n{said}{}", output.status, String::from_utf8_lossy(&output.stderr))),
    }
}

fn scratch(name: &str) -> PathBuf {
    let name = name.replace("::", "-");
    let dir = env::temp_dir().join(format!("backstay-app-{}-{name}", std::process::id()));
    fs::create_dir_all(&dir).expect("scratch");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("mode");
    dir
}

/// Kills guards a failed scenario left (each takes its program along), then removes the directory.
fn clean(dir: &Path) {
    for file in walk(dir).into_iter().filter(|f| f.ends_with("guard.json")) {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let Ok(record) = serde_json::from_str::<serde_json::Value>(&text) else { continue };
        let guard = &record["guard"];
        if let (Some(pid), Some(ticks)) = (guard["pid"].as_u64(), guard["start_ticks"].as_u64())
            && start_ticks(pid as u32) == Some(ticks)
        {
            kill(pid as u32);
        }
    }
    let _ = fs::remove_dir_all(dir);
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}

/// Field 22 of `/proc/PID/stat`.
pub fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 1..].split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Whether a process is there and no zombie.
pub fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// SIGKILL to one process.
pub fn kill(pid: u32) {
    signal(pid, rustix::process::Signal::KILL);
}

/// A signal to one process.
pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("signal");
}

/// A shell script under a guard, with everything else as simple as can be.
pub fn spec(dir: &Path, script: &str) -> GuardSpec {
    GuardSpec {
        service: "web".into(),
        node: "n1".into(),
        generation: 7,
        token: None,
        argv: vec!["sh".into(), "-c".into(), script.into()],
        env: [("DIR".to_owned(), dir.display().to_string())].into(),
        user: None,
        cwd: Some(dir.to_owned()),
        stop_signal: "SIGTERM".into(),
        grace: Duration::from_secs(10),
        exclusive: false,
        deadline_boottime_ns: None,
        log: dir.join("web.log"),
        log_bytes_max: 1024 * 1024,
        log_files_max: 3,
        exe: env::current_exe().expect("own path"),
        containment: None,
    }
}

/// The same as an exclusive instance with a token and a deadline.
pub fn exclusive(dir: &Path, script: &str, token: u64, deadline: Duration) -> GuardSpec {
    GuardSpec {
        exclusive: true,
        token: Some(token),
        deadline_boottime_ns: Some(backstay_app::clock::boottime_ns_after(deadline)),
        ..spec(dir, script)
    }
}

/// Runs a scenario's future to its end.
pub fn block_on<F: Future<Output = Outcome>>(scenario: F) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        match tokio::time::timeout(PATIENCE * 2, scenario).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Failed("not done within a minute".into()),
        }
    })
}

/// Starts it, or tells that this kernel forbids this kind of containment.
pub async fn start_contained(dir: &Path, spec: GuardSpec, kind: ContainmentKind) -> Result<GuardHandle, Outcome> {
    let spec = GuardSpec { containment: Some(kind), ..spec };
    match GuardHandle::start(dir, spec).await {
        Ok(handle) => Ok(handle),
        Err(backstay_app::AppError::Start(failure)) if failure.kind == StartFailureKind::Containment => {
            Err(Outcome::Skipped(failure.message))
        }
        Err(e) => Err(Outcome::Failed(e.to_string())),
    }
}

/// Waits for an event that fits.
pub async fn event(handle: &GuardHandle, what: &str, fits: impl Fn(&GuardEvent) -> bool) -> GuardEvent {
    let mut events = handle.events();
    let waited = tokio::time::timeout(PATIENCE, events.wait_for(|e| fits(e))).await;
    match waited {
        Ok(Ok(event)) => event.clone(),
        Ok(Err(_)) => panic!("{what}: events ended at {:?}", handle.events().borrow()),
        Err(_) => panic!("{what}: still {:?}", handle.events().borrow()),
    }
}

/// Polls until it holds.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let give_up = backstay_app::clock::boottime_ns_after(PATIENCE);
    while !holds() {
        assert!(backstay_app::clock::boottime_ns() < give_up, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Size of a file; 0 if there is none.
pub fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

/// A whole number kept in a file, once it is there.
pub fn number_in(path: &Path) -> io::Result<u32> {
    fs::read_to_string(path)?.trim().parse().map_err(io::Error::other)
}
