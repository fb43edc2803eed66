//! The first process inside a containment: it starts the program, reaps orphans and reports the exit.
//!
//! In a PID namespace it is pid 1 there: when it dies, the kernel kills everything else in the namespace, sessions of
//! their own included, and nobody outside sees it dead before all of it is. It dies with its guard (parent death signal,
//! and the end of the control socket as a second way). Without a namespace it outlives the guard just long enough to
//! kill what the program left, as the nearest subreaper.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

use super::contain;
use crate::clock;
use crate::procfs;
use crate::sys;
use crate::wire::{INIT_LINE_BYTES_MAX, InitOrder, InitReport, InitSpec, Lines, line};

/// How long an init without a guard goes on killing before it gives up and leaves the rest to the next adoption.
const CLEANUP_MAX: Duration = Duration::from_secs(60);
/// How long after a deadline init acts by itself. The guard acts at the deadline; this is the second watch, for a guard
/// that is stopped or starved, and lies within the margin that every lease keeps (100 ms or more).
const SECOND_WATCH_DELAY_NS: u64 = 50_000_000;
/// Pause between two rounds of killing.
const CLEANUP_PAUSE_NS: u64 = 5_000_000;

/// The body of the hidden verb `guard-init`: started by a guard only, with the control socket as stdin.
pub fn guard_init_main() -> ExitCode {
    let Some(mut init) = Init::prepare() else {
        // The guard is gone or spoke nonsense before anything was started: there is nothing to clean up.
        return ExitCode::FAILURE;
    };
    let ended = init.start() && init.serve();
    if !init.spec.namespace {
        init.kill_rest();
    }
    // In a namespace this exit is what kills the rest.
    if ended { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Init {
    control: OwnedFd,
    lines: Lines,
    signals: OwnedFd,
    spec: InitSpec,
    program: Option<Pid>,
    /// Until the guard has found the program's outer pid, the program must stay findable, if only as a zombie.
    may_reap: bool,
    deadline_boottime_ns: Option<u64>,
    timer: OwnedFd,
}

impl Init {
    fn prepare() -> Option<Self> {
        let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).ok()?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).ok()?;
        rustix::stdio::dup2_stdin(&null).ok()?;
        let signals =
            sys::signals_as_fd(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT]).ok()?;
        write_all(&control, &line(&InitReport::Ready)).ok()?;
        let mut lines = Lines::new(INIT_LINE_BYTES_MAX);
        let spec: InitSpec = serde_json::from_slice(&read_line(&control, &mut lines)?).ok()?;
        if spec.namespace {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).ok()?;
        } else {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid())).ok()?;
        }
        if let Some(adj) = spec.oom_score_adj {
            // The guard is protected from the OOM killer; the program must not inherit that. Best effort.
            let _ = fs::write("/proc/self/oom_score_adj", adj.to_string());
        }
        let deadline_boottime_ns = spec.deadline_boottime_ns;
        let timer = clock::timer().ok()?;
        let init = Self { control, lines, signals, spec, program: None, may_reap: false, deadline_boottime_ns, timer };
        init.set_timer().ok()?;
        Some(init)
    }

    fn set_timer(&self) -> io::Result<()> {
        clock::set_timer(&self.timer, self.deadline_boottime_ns.map(|at| at.saturating_add(SECOND_WATCH_DELAY_NS)))
    }

    fn deadline_passed(&self) -> bool {
        let acts = self.deadline_boottime_ns.map(|at| at.saturating_add(SECOND_WATCH_DELAY_NS));
        acts.is_some_and(|at| clock::boottime_ns() >= at)
    }

    /// Starts the program and says so.
    fn start(&mut self) -> bool {
        let report = match spawn(&self.spec) {
            Ok(pid) => {
                self.program = i32::try_from(pid).ok().and_then(Pid::from_raw);
                InitReport::Spawned { pid, private_proc: has_private_proc(&self.spec) }
            }
            Err(e) => InitReport::Refused { errno: e.raw_os_error(), message: e.to_string() },
        };
        self.tell(&report) && self.program.is_some()
    }

    /// Until the program ends (true), or the guard does or its time is up (false).
    fn serve(&mut self) -> bool {
        loop {
            let control_ready = {
                let fds = [&self.control, &self.signals, &self.timer];
                let mut fds = fds.map(|fd| PollFd::new(fd, PollFlags::IN));
                match poll(&mut fds, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(_) => return false,
                }
                !fds[0].revents().is_empty()
            };
            // What the guard has extended counts before the time is looked at.
            if (control_ready && !self.obey()) || self.deadline_passed() {
                return false;
            }
            sys::take_signals(&self.signals);
            if self.may_reap
                && let Some(report) = self.reap()
            {
                return self.tell(&report);
            }
        }
    }

    /// Reads and does the guard's orders; false once the guard is gone.
    fn obey(&mut self) -> bool {
        let mut buffer = [0_u8; 4096];
        match rustix::io::read(&self.control, &mut buffer) {
            Ok(0) => return false,
            Ok(n) if self.lines.push(&buffer[..n]) => {}
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return true,
            Ok(_) | Err(_) => return false,
        }
        while let Some(line) = self.lines.next_line() {
            match serde_json::from_slice(&line) {
                Ok(InitOrder::Reap) => self.may_reap = true,
                Ok(InitOrder::Signal(number)) => {
                    if let (Some(pid), Some(signal)) = (self.program, sys::signal(number)) {
                        // The program is not reaped yet, so the pid is its own; it may have ended, which is fine.
                        let _ = kill_process(pid, signal);
                    }
                }
                Ok(InitOrder::Deadline(at)) => {
                    self.deadline_boottime_ns = Some(at);
                    if self.set_timer().is_err() {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// Reaps everything that ended; the program's end if it is among it.
    fn reap(&self) -> Option<InitReport> {
        let mut ended = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if Some(pid) == self.program {
                ended = Some(InitReport::Exited { code: status.exit_status(), signal: status.terminating_signal() });
            }
        }
        ended
    }

    /// Without a namespace: kills what the program left, until none is left.
    fn kill_rest(&self) {
        let until = clock::boottime_ns_after(CLEANUP_MAX);
        loop {
            let left = contain::kill_round(self.spec.cgroup.as_deref(), std::process::id(), None);
            while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
            if left == 0 {
                // Here as well as in the guard, which may be dead.
                if let Some(cgroup) = &self.spec.cgroup {
                    contain::remove_cgroup(cgroup);
                }
                return;
            }
            if clock::boottime_ns() >= until {
                return;
            }
            let mut fds = [PollFd::new(&self.signals, PollFlags::IN)];
            let _ = poll(&mut fds, Some(&clock::timespec(CLEANUP_PAUSE_NS)));
            sys::take_signals(&self.signals);
        }
    }

    fn tell(&self, report: &InitReport) -> bool {
        write_all(&self.control, &line(report)).is_ok()
    }
}

fn spawn(spec: &InitSpec) -> io::Result<u32> {
    let cgroup_procs = spec.cgroup.as_deref().map(open_procs).transpose()?;
    let mut command = Command::new(&spec.program);
    command.arg0(spec.argv.first().map_or("", String::as_str)).args(spec.argv.iter().skip(1));
    command.env_clear().envs(spec.env.iter().map(|(k, v)| (k, v))).current_dir(&spec.cwd).stdin(Stdio::null());
    sys::before_exec(&mut command, spec.user.clone(), cgroup_procs, spec.no_new_privs);
    // Dropping the Child neither kills nor reaps it: `reap` does.
    command.spawn().map(|child| child.id())
}

fn open_procs(cgroup: &Path) -> io::Result<OwnedFd> {
    let path: PathBuf = cgroup.join("cgroup.procs");
    Ok(rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// In a private /proc, pid 1 is this very process.
fn has_private_proc(spec: &InitSpec) -> bool {
    spec.namespace && fs::read_link("/proc/self").is_ok_and(|to| to == Path::new("1")) && procfs::own_id().is_some()
}

/// Blocking read of the first line; `None` at the end or past the bound.
pub(super) fn read_line(from: &OwnedFd, lines: &mut Lines) -> Option<Vec<u8>> {
    let mut buffer = vec![0_u8; 16 * 1024];
    loop {
        if let Some(line) = lines.next_line() {
            return Some(line);
        }
        match rustix::io::read(from, &mut buffer) {
            Ok(0) => return None,
            Ok(n) if lines.push(&buffer[..n]) => {}
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => return None,
        }
    }
}

/// Writes all of it to a blocking descriptor.
pub(super) fn write_all(to: impl AsFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&to, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
