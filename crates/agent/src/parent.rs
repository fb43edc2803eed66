//! The parent of the worker: small enough to be right, so that an error in the worker costs a restart and not the node.
//!
//! `backstay agent` is this parent. It starts `agent-worker` from the same binary, starts it again when it dies, passes a wish
//! to stop on, and ends with the worker's exit status when that means "stopped" or "refused": trying again would not help.
//! It has one thread and holds no state.
//!
//! The worker's standard input is a pipe that the parent never writes to: its [`Lifeline`]. When the parent dies, however it
//! dies, the pipe ends and the worker stops by itself. Guards and the balancer are nobody's children by then and live on.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::clock;

/// Before the first restart.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause before a restart.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A worker that lived this long was well: the pause starts again from the first.
const WELL_AFTER: Duration = Duration::from_secs(60);
/// How long a worker may take to stop before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// Exit statuses of the worker that end the parent too; see INTERFACE: stopped, wrong usage or config, refused for safety.
const FINAL: [u8; 3] = [0, 2, 5];
/// The verb that runs the worker.
pub const WORKER_VERB: &str = "agent-worker";
/// This binary, also after it was replaced on disk: a restart never mixes versions.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Runs the worker with `args` after its verb until it is stopped or refuses; answers the status to exit with.
///
/// Call it before any thread is started. It takes SIGTERM and SIGINT over for the whole process.
pub fn run(args: impl IntoIterator<Item = OsString>) -> io::Result<u8> {
    let args = std::iter::once(WORKER_VERB.into()).chain(args).collect();
    let worker = Worker { program: OWN_PROGRAM.into(), args, stop_within: STOP_WITHIN };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(worker.tend())
}

/// What is started, and started again.
struct Worker {
    program: PathBuf,
    args: Vec<OsString>,
    stop_within: Duration,
}

/// What ended a wait.
enum Event {
    Died(io::Result<ExitStatus>),
    Asked(Signal),
}

impl Worker {
    async fn tend(&self) -> io::Result<u8> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut asked = async || {
            tokio::select! {
                _ = terminate.recv() => Signal::TERM,
                _ = interrupt.recv() => Signal::INT,
            }
        };
        let mut pauses = Pauses::default();
        loop {
            let born = clock::now();
            let what = match self.start() {
                Err(error) => format!("cannot start {}: {error}", self.program.display()),
                Ok((mut child, _lifeline)) => {
                    let event = tokio::select! {
                        status = child.wait() => Event::Died(status),
                        signal = asked() => Event::Asked(signal),
                    };
                    match event {
                        Event::Asked(signal) => return self.stop(child, signal).await,
                        Event::Died(status) => match status? {
                            status if final_status(status).is_some() => return Ok(final_status(status).unwrap_or(1)),
                            status => format!("the agent's worker ended ({status})"),
                        },
                    }
                }
            };
            let pause = pauses.after(clock::now().since(born));
            say(&format!("{what}; starting it again in {} ms", pause.as_millis()));
            tokio::select! {
                () = sleep(pause) => {}
                _ = asked() => return Ok(0),
            }
        }
    }

    fn start(&self) -> io::Result<(Child, Option<ChildStdin>)> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::piped());
        if self.program == Path::new(OWN_PROGRAM) {
            command.arg0("backstay");
        }
        let mut child = command.spawn()?;
        // Taken out, because waiting for a child closes the pipe that is still in it.
        let lifeline = child.stdin.take();
        Ok((child, lifeline))
    }

    /// Passes the signal on and waits; a worker that does not end in time is killed.
    async fn stop(&self, mut child: Child, signal: Signal) -> io::Result<u8> {
        // The child was not waited for yet, so the id is still its own.
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
            // It may have ended this instant; then the wait below tells.
            let _ = kill_process(pid, signal);
        }
        let status = match timeout(self.stop_within, child.wait()).await {
            Ok(status) => status?,
            Err(_) => {
                say(&format!("the agent's worker did not stop within {} s: killed", self.stop_within.as_secs()));
                child.kill().await?;
                return Ok(1);
            }
        };
        // Ended by the very signal, before it could prepare for it, is stopped too.
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&status) == Some(signal.as_raw());
        Ok(if by_signal { 0 } else { code(status) })
    }
}

/// A closed standard error must not end the parent, as `eprintln` would.
fn say(what: &str) {
    let _ = writeln!(io::stderr(), "backstay: {what}");
}

fn code(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn final_status(status: ExitStatus) -> Option<u8> {
    status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| FINAL.contains(code))
}

/// How long to wait before each restart.
#[derive(Default)]
struct Pauses {
    last: Option<Duration>,
}

impl Pauses {
    /// The pause after a worker that lived this long.
    fn after(&mut self, lived: Duration) -> Duration {
        let pause = match self.last {
            Some(last) if lived < WELL_AFTER => (last * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        self.last = Some(pause);
        pause
    }
}

/// The worker's hold on the life of its parent.
#[derive(Debug)]
pub struct Lifeline {
    pipe: pipe::Receiver,
}

/// The worker was not started by its parent.
#[derive(Debug, thiserror::Error)]
#[error("`{WORKER_VERB}` is started by `backstay agent -c FILE` only: its standard input is no pipe of a parent ({0})")]
pub struct NoParent(io::Error);

impl Lifeline {
    /// Takes hold; called once by the worker, within its runtime and before it acts. From then on the end of the parent also
    /// sends SIGTERM.
    pub fn hold() -> Result<Self, NoParent> {
        set_parent_process_death_signal(Some(Signal::TERM)).map_err(|error| NoParent(error.into()))?;
        let input = io::stdin().as_fd().try_clone_to_owned().map_err(NoParent)?;
        Ok(Self { pipe: pipe::Receiver::from_owned_fd(input).map_err(NoParent)? })
    }

    /// Ends when the parent has; at once when it had before.
    pub async fn ended(&mut self) {
        let mut byte = [0; 1];
        loop {
            if self.pipe.readable().await.is_err() {
                return;
            }
            match self.pipe.try_read(&mut byte) {
                // Nobody writes; should anybody, it means nothing.
                Ok(1) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::TempDir;

    const GENEROUS: Duration = Duration::from_secs(20);

    fn shell(script: &str, dir: &Path) -> Worker {
        let args = ["-c", script, "worker"].into_iter().map(OsString::from).chain([dir.into()]).collect();
        Worker { program: "/bin/sh".into(), args, stop_within: Duration::from_secs(10) }
    }

    async fn wait_for(path: &Path) {
        let deadline = clock::now() + GENEROUS;
        while !path.exists() {
            assert!(clock::now() < deadline, "{} is not there", path.display());
            sleep(Duration::from_millis(10)).await;
        }
    }

    #[test]
    fn pauses_double_to_a_bound_and_start_again_after_a_good_life() {
        let mut pauses = Pauses::default();
        let short = Duration::from_millis(3);
        let millis: Vec<_> = (0..8).map(|_| pauses.after(short).as_millis()).collect();
        assert_eq!(millis, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pauses.after(WELL_AFTER), FIRST_PAUSE);
    }

    #[tokio::test]
    async fn refusals_and_a_clean_stop_are_final() {
        let temp = TempDir::new();
        for status in FINAL {
            let worker = shell(&format!("echo x >> $1/lives; exit {status}"), &temp.0);
            assert_eq!(timeout(GENEROUS, worker.tend()).await.unwrap().unwrap(), status);
        }
        assert_eq!(std::fs::read_to_string(temp.0.join("lives")).unwrap(), "x\nx\nx\n");
    }

    #[tokio::test]
    async fn a_worker_that_dies_is_started_again() {
        let temp = TempDir::new();
        // Fails, is killed, then refuses.
        let script = "n=$(cat $1/lives 2>/dev/null); echo x$n > $1/lives; case $n in '') exit 1;; x) kill -9 $$;; *) exit 5;; esac";
        let worker = shell(script, &temp.0);
        assert_eq!(timeout(GENEROUS, worker.tend()).await.unwrap().unwrap(), 5);
        assert_eq!(std::fs::read_to_string(temp.0.join("lives")).unwrap(), "xxx\n");
    }

    #[tokio::test]
    async fn a_stop_is_passed_on_and_its_status_is_ours() {
        let temp = TempDir::new();
        let script = "trap 'exit 3' TERM; : > $1/up; while :; do sleep 0.05; done";
        let worker = shell(script, &temp.0);
        let (child, lifeline) = worker.start().unwrap();
        wait_for(&temp.0.join("up")).await;
        assert_eq!(worker.stop(child, Signal::TERM).await.unwrap(), 3);
        drop(lifeline);
        // One that does not handle the signal has stopped as well.
        let worker = Worker { program: "/bin/sleep".into(), args: vec!["600".into()], stop_within: GENEROUS };
        let (child, _lifeline) = worker.start().unwrap();
        assert_eq!(worker.stop(child, Signal::TERM).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_worker_that_does_not_stop_is_killed() {
        let temp = TempDir::new();
        let mut worker = shell("trap '' TERM; : > $1/up; while :; do sleep 0.05; done", &temp.0);
        worker.stop_within = Duration::from_millis(100);
        let (child, _lifeline) = worker.start().unwrap();
        wait_for(&temp.0.join("up")).await;
        assert_eq!(worker.stop(child, Signal::TERM).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn the_end_of_the_parent_is_seen_through_the_lifeline() {
        let temp = TempDir::new();
        let worker = shell("read -r _; : > $1/parent-is-gone", &temp.0);
        let (mut child, lifeline) = worker.start().unwrap();
        assert!(child.try_wait().unwrap().is_none());
        drop(lifeline);
        timeout(GENEROUS, child.wait()).await.unwrap().unwrap();
        assert!(temp.0.join("parent-is-gone").exists());

        let (sender, receiver) = pipe::pipe().unwrap();
        let mut line = Lifeline { pipe: receiver };
        assert!(timeout(Duration::from_millis(20), line.ended()).await.is_err());
        drop(sender);
        timeout(GENEROUS, line.ended()).await.unwrap();
    }
}
