//! Running other programs: output passed on as it comes, results counted, and nothing left behind.
//!
//! Every child leads a process group of its own. Whatever is left of the group when the child has ended is killed, and an
//! interrupt ends the group that runs now, so that neither a test nor an impatient person leaves a daemon behind.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// How long a child's output may stay open after its end: long enough to drain a pipe, too short for a leaked daemon.
const OUTPUT_GRACE: Duration = Duration::from_secs(2);
/// How long an interrupted child has before it is killed.
const INTERRUPT_GRACE: Duration = Duration::from_secs(5);
/// Lines kept of a child's output, the last ones; results stand at the end.
const LINES_MAX: usize = 2_000;

/// Counted results.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Held.
    pub passed: u64,
    /// Did not hold.
    pub failed: u64,
    /// Could not be tried; said why.
    pub skipped: u64,
}

impl Tally {
    /// One check.
    pub fn check(passed: bool) -> Tally {
        Tally { passed: u64::from(passed), failed: u64::from(!passed), skipped: 0 }
    }

    /// One thing that could not be tried.
    pub const SKIPPED: Tally = Tally { passed: 0, failed: 0, skipped: 1 };

    /// Both together.
    pub fn plus(self, other: Tally) -> Tally {
        Tally {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
}

/// How a child ended, and the last lines it wrote, without colours.
pub struct Ended {
    /// It exited with 0.
    pub success: bool,
    /// The last [`LINES_MAX`] lines of its output and errors, as they came.
    pub lines: Vec<String>,
}

/// Starts children and ends them.
#[derive(Clone, Default)]
pub struct Runner {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Groups whose leader has not been reaped.
    groups: Vec<Pid>,
    /// This process was told to end: no child starts any more.
    interrupted: bool,
}

impl Runner {
    /// A runner whose children end when this process is told to end.
    pub fn new() -> Result<Runner, String> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let runner = Runner::default();
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
            .map_err(|error| format!("cannot listen to signals: {error}"))?;
        let watched = runner.clone();
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                watched.locked().interrupted = true;
                watched.end_all(Signal::TERM);
                // A second signal, or patience at an end, kills.
                let (hurry, hurried) = mpsc::channel();
                thread::spawn(move || signals.forever().next().map(|_| hurry.send(())));
                watched.wait_for_none(&hurried);
                watched.end_all(Signal::KILL);
                std::process::exit(128 + signal);
            }
        });
        Ok(runner)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_all(&self, signal: Signal) {
        for group in &self.locked().groups {
            // A group that is gone already is what is wanted.
            let _ = rustix::process::kill_process_group(*group, signal);
        }
    }

    /// Until all groups are closed, or a hurried person asks again, or [`INTERRUPT_GRACE`] is over.
    fn wait_for_none(&self, hurried: &mpsc::Receiver<()>) {
        let step = Duration::from_millis(20);
        for _ in 0..INTERRUPT_GRACE.as_millis() / step.as_millis() {
            if self.locked().groups.is_empty() || hurried.recv_timeout(step).is_ok() {
                break;
            }
        }
    }

    /// Starts a child that runs beside us, its output thrown away and its errors shown; it ends with the returned value.
    pub fn background(&self, command: &mut Command) -> Result<Background, String> {
        let (child, group) = self.start(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
        Ok(Background { child, group, runner: self.clone() })
    }

    /// Starts a child beside us whose first line of output is wanted, such as the address it bound.
    pub fn background_with_line(&self, command: &mut Command) -> Result<(Background, String), String> {
        let (mut child, group) = self.start(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let mut line = String::new();
        let stdout = child.stdout.take();
        let background = Background { child, group, runner: self.clone() };
        if let Some(stdout) = stdout {
            BufReader::new(stdout)
                .read_line(&mut line)
                .map_err(|error| format!("cannot read its first line: {error}"))?;
        }
        Ok((background, line.trim().to_owned()))
    }

    fn start(&self, command: &mut Command) -> Result<(std::process::Child, Pid), String> {
        use std::os::unix::process::CommandExt;
        let name = command.get_program().to_string_lossy().into_owned();
        // Held over the start, so that an interrupt finds either no child or one that it knows.
        let mut state = self.locked();
        if state.interrupted {
            drop(state);
            await_exit();
        }
        let child = command.process_group(0).spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
        let group = Pid::from_child(&child);
        state.groups.push(group);
        Ok((child, group))
    }

    /// Kills what is left of a group whose leader has not been reaped, and forgets it.
    fn close(&self, group: Pid) {
        // Until the leader is reaped its number is taken, so no stranger's group can be meant.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        self.locked().groups.retain(|other| *other != group);
    }

    /// Runs a child to its end, passing its output on as it comes.
    pub fn run(&self, command: &mut Command) -> Result<Ended, String> {
        let (mut child, group) =
            self.start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        let (send, lines) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            pass_on(stdout, std::io::stdout(), send.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            pass_on(stderr, std::io::stderr(), send);
        }
        wait_without_reaping(group)?;
        let kept = collect(&lines);
        self.close(group);
        let status = child.wait().map_err(|error| format!("cannot wait for a child: {error}"))?;
        if self.locked().interrupted {
            await_exit();
        }
        Ok(Ended { success: status.success(), lines: kept })
    }
}

/// What an interrupted child came to is no result: nothing is done with it until the process exits.
fn await_exit() -> ! {
    loop {
        thread::park();
    }
}

/// A child that runs beside us; dropping it kills it and all it started.
pub struct Background {
    child: std::process::Child,
    group: Pid,
    runner: Runner,
}

impl Background {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.runner.close(self.group);
        // Killed: the wait is short, and its answer says nothing new.
        let _ = self.child.wait();
    }
}

fn wait_without_reaping(group: Pid) -> Result<(), String> {
    loop {
        match rustix::process::waitid(WaitId::Pid(group), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("cannot wait for a child: {error}")),
        }
    }
}

/// Copies bytes as they come and hands on whole lines.
fn pass_on(mut from: impl Read + Send + 'static, mut to: impl Write + Send + 'static, lines: mpsc::Sender<String>) {
    thread::spawn(move || {
        let (mut buffer, mut rest) = (vec![0; 16 * 1024], Vec::new());
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            // A reader of ours that went away changes no result.
            let _ = to.write_all(&buffer[..n]).and_then(|()| to.flush());
            rest.extend_from_slice(&buffer[..n]);
            while let Some(end) = rest.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let _ = lines.send(plain(&String::from_utf8_lossy(&line)));
            }
        }
        let _ = lines.send(plain(&String::from_utf8_lossy(&rest)));
    });
}

/// All lines until both outputs close, or the grace is over.
fn collect(lines: &mpsc::Receiver<String>) -> Vec<String> {
    let mut kept = std::collections::VecDeque::new();
    loop {
        match lines.recv_timeout(OUTPUT_GRACE) {
            Ok(line) => {
                kept.push_back(line);
                if kept.len() > LINES_MAX {
                    kept.pop_front();
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                eprintln!("warning: a process of this step outlived it and holds its output; it is killed");
                break;
            }
        }
    }
    kept.into()
}

/// A line without colours and line ends.
fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            chars.by_ref().find(char::is_ascii_alphabetic);
        } else if c != '\r' && c != '\n' {
            text.push(c);
        }
    }
    text
}

/// `cargo`, as the one that runs us, without the variables it set for us alone.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text.starts_with("CARGO_BIN_") {
            command.env_remove(&name);
        }
    }
    if std::io::stdout().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    command
}

/// Whether `program arguments…` runs and exits with 0; its output is thrown away.
pub fn works(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// What a short command prints, or why it could not.
pub fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.stdin(Stdio::null()).output().map_err(|error| format!("cannot start {name}: {error}"))?;
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        Err(format!("{name} failed: {}", String::from_utf8_lossy(&done.stderr).trim()))
    }
}

/// The file that would run as `name`, looked up as a shell does, and where only root looks.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Every package in the graph on Linux, a line each. Cargo's own resolver answers: the lock file alone also names packages
/// of other platforms and of features that are off. Only when something is not downloaded yet the network is asked.
pub fn dependency_tree(root: &Path) -> Result<String, String> {
    let ask = |offline: bool| {
        let mut command = cargo(root);
        command.args([
            "tree",
            "--workspace",
            "--prefix",
            "none",
            "--target",
            "x86_64-unknown-linux-gnu",
            "--color",
            "never",
        ]);
        if offline {
            command.arg("--offline");
        }
        output(&mut command)
    };
    ask(true).or_else(|_| ask(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_stripped() {
        assert_eq!(plain("\u{1b}[32;1m  Summary\u{1b}[0m ok\r\n"), "  Summary ok");
    }

    #[test]
    fn a_child_is_run_to_its_end_and_its_lines_kept() {
        let runner = Runner::default();
        let ended = runner.run(Command::new("sh").args(["-c", "echo a; echo b >&2; exit 3"])).unwrap();
        assert!(!ended.success);
        assert!(ended.lines.iter().any(|l| l == "a") && ended.lines.iter().any(|l| l == "b"));
        assert!(runner.locked().groups.is_empty());
    }

    #[test]
    fn what_a_child_leaves_behind_is_killed() {
        let runner = Runner::default();
        let ended = runner.run(Command::new("sh").args(["-c", "sleep 1000 & echo $!"])).unwrap();
        let left = Path::new("/proc").join(&ended.lines[0]).join("stat");
        // Killed at once, reaped by whoever inherited it: a zombie is as good as gone.
        let gone = || std::fs::read_to_string(&left).map_or(true, |stat| stat.contains(") Z "));
        let polls = (0..500).find(|_| {
            gone() || {
                thread::sleep(Duration::from_millis(20));
                false
            }
        });
        assert!(polls.is_some(), "the sleep outlived its step");
    }

    #[test]
    fn a_background_child_ends_with_its_value() {
        let runner = Runner::default();
        let (child, line) =
            runner.background_with_line(Command::new("sh").args(["-c", "echo ready; sleep 1000"])).unwrap();
        let stat = format!("/proc/{}/stat", child.id());
        assert_eq!(line, "ready");
        drop(child);
        assert!(!Path::new(&stat).exists());
    }
}
