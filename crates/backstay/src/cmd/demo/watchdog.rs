//! What cleans up after the demo, also when the demo is killed: a small process that holds the reading end of a pipe.
//!
//! The end of the pipe means that the demo is over, however it ended. Then every process of the demo is killed and its
//! directory removed. Only the word `keep` leaves them.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::processes;
use super::stage::MARK_FILE;
use crate::exit_code::Exit;
use crate::output::{Answer, Failure};

/// The hidden verb.
pub const VERB: &str = "demo-watchdog";
/// What the demo writes into the pipe to leave everything running.
const KEEP: &[u8] = b"keep\n";
/// How long killing may take.
const KILL_WITHIN: Duration = Duration::from_secs(10);
/// A directory in which something is still being written is removed in more than one try.
const REMOVE_TRIES: u32 = 20;

/// The demo's side of it.
pub struct Watchdog {
    child: Child,
}

impl Watchdog {
    /// Starts it for the demo in `dir`.
    pub fn start(exe: &Path, dir: &Path) -> io::Result<Self> {
        let mut command = Command::new(exe);
        command.arg(VERB).arg(dir).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A Ctrl-C for the demo is not for the one that cleans up after it.
        command.process_group(0);
        Ok(Self { child: command.spawn()? })
    }

    /// Ends the demo: answers whether nothing was left.
    pub fn finish(mut self) -> bool {
        drop(self.child.stdin.take());
        self.child.wait().is_ok_and(|status| status.success())
    }

    /// Leaves everything running.
    pub fn keep(mut self) -> io::Result<()> {
        if let Some(mut pipe) = self.child.stdin.take() {
            pipe.write_all(KEEP)?;
        }
        self.child.wait().map(drop)
    }
}

/// The process itself.
pub fn run(dir: &Path) -> Answer {
    // A group of its own is enough; without a session of its own too, only a terminal that hangs up could end it.
    let _ = rustix::process::setsid();
    let mut said = Vec::new();
    // An error is an end like any other.
    let _ = io::stdin().take(KEEP.len() as u64).read_to_end(&mut said);
    if said == KEEP {
        return Ok(Exit::Done);
    }
    clean_up(dir)
}

/// Kills and removes everything of the demo in `dir`.
pub fn clean_up(dir: &Path) -> Answer {
    if !dir.join(MARK_FILE).is_file() {
        return Err(Failure::usage("no-demo", format!("{} is not the directory of a demo", dir.display())));
    }
    let killed = processes::kill_all(dir, None, KILL_WITHIN);
    for _ in 0..REMOVE_TRIES {
        if fs::remove_dir_all(dir).is_ok() || !dir.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    if killed && !dir.exists() {
        return Ok(Exit::Done);
    }
    let message = format!("could not remove everything of the demo in {}", dir.display());
    Err(Failure::unexpected("left-behind", message).with_help(format!("backstay demo --stop {}", dir.display())))
}
