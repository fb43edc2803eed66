//! Keeping a program together and killing it as a whole.
//!
//! The ladder: a PID namespace, else a cgroup with `cgroup.kill`, else every descendant found in /proc. Killing a process
//! group is on no rung: the children of a postmaster are sessions of their own and would go on committing.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, wait, waitpid};

use super::init::read_line;
use crate::clock;
use crate::procfs;
use crate::spec::ContainmentKind;
use crate::sys::{self, Namespace};
use crate::wire::{INIT_LINE_BYTES_MAX, InitReport, Lines, ProcessId};

/// After this many rounds of killing, init itself is killed too: it may be stopped or stuck.
const ROUNDS_BEFORE_INIT: u32 = 100;
/// Pause between two rounds while a start is taken back.
const ROUND_PAUSE_NS: u64 = 5_000_000;

/// One round: kills all that is seen below `root` and in the cgroup, and returns how many were seen. A round that sees
/// none means that none is left, because an orphan always comes back to `root`, a subreaper.
pub(super) fn kill_round(cgroup: Option<&Path>, root: u32, except: Option<u32>) -> usize {
    if let Some(cgroup) = cgroup {
        // Refused only where the file is missing; the walk below then does the work.
        let _ = fs::write(cgroup.join("cgroup.kill"), "1");
    }
    let below = procfs::descendants(root, except);
    for process in &below {
        procfs::kill_exactly(process.id);
    }
    let grouped = cgroup.map_or_else(Vec::new, procfs::cgroup_pids);
    let grouped = grouped.into_iter().filter(|pid| procfs::process(*pid).is_some_and(|p| !p.zombie)).count();
    below.len().max(grouped)
}

/// The guard's grip on what it started.
pub(super) struct Inside {
    pub kind: ContainmentKind,
    pub init: ProcessId,
    /// Readable once init has ended.
    pub init_handle: OwnedFd,
    /// Orders to init and its reports; its end tells init that the guard is gone.
    pub control: OwnedFd,
    /// What init said and was not taken yet.
    pub lines: Lines,
    pub cgroup: Option<PathBuf>,
    /// How init ended, once it was reaped.
    pub init_ended: Option<rustix::process::WaitStatus>,
    rounds: u32,
}

impl Inside {
    /// Starts init on the strongest rung allowed.
    pub fn start(wanted: Option<ContainmentKind>, guard_id: &str, output: &OwnedFd) -> io::Result<Self> {
        let mut refused = Vec::new();
        for kind in [ContainmentKind::PidNamespace, ContainmentKind::Cgroup, ContainmentKind::Subreaper] {
            if wanted.is_some_and(|w| w != kind) {
                continue;
            }
            match Self::start_as(kind, guard_id, output) {
                Ok(inside) => return Ok(inside),
                Err(e) => refused.push(format!("{kind:?}: {e}")),
            }
        }
        Err(io::Error::other(refused.join("; ")))
    }

    fn start_as(kind: ContainmentKind, guard_id: &str, output: &OwnedFd) -> io::Result<Self> {
        let cgroup = if kind == ContainmentKind::Cgroup { Some(make_cgroup(guard_id)?) } else { None };
        let namespace = match kind {
            ContainmentKind::PidNamespace => own_namespace(),
            ContainmentKind::Cgroup | ContainmentKind::Subreaper => {
                // Should init be killed, its orphans come to the guard.
                rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
                Namespace::None
            }
        };
        let (control, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let pid = sys::spawn_init(namespace, theirs.as_fd(), output.as_fd())?;
        drop(theirs);
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        let mut lines = Lines::new(INIT_LINE_BYTES_MAX);
        let ready = read_line(&control, &mut lines).and_then(|line| serde_json::from_slice(&line).ok());
        if !matches!(ready, Some(InitReport::Ready)) {
            // It ended during its setup, or is about to at the end of its control socket.
            drop(control);
            waitpid(Some(raw), WaitOptions::empty())?;
            return Err(io::Error::other("the kernel refused to set it up"));
        }
        let init_handle = pidfd_open(raw, PidfdFlags::empty())?;
        let init = procfs::process(pid).ok_or(io::ErrorKind::NotFound)?.id;
        Ok(Self { kind, init, init_handle, control, lines, cgroup, init_ended: None, rounds: 0 })
    }

    /// Kills everything inside, at once. Call again until [`Self::settle`] says that nothing is left.
    pub fn kill(&mut self) {
        if self.kind == ContainmentKind::PidNamespace {
            // Init may have ended already, which kills as well.
            let _ = pidfd_send_signal(&self.init_handle, Signal::KILL);
            return;
        }
        self.rounds = self.rounds.saturating_add(1);
        kill_round(self.cgroup.as_deref(), std::process::id(), Some(self.init.pid));
        for process in procfs::descendants(self.init.pid, None) {
            procfs::kill_exactly(process.id);
        }
        if self.rounds > ROUNDS_BEFORE_INIT {
            let _ = pidfd_send_signal(&self.init_handle, Signal::KILL);
        }
    }

    /// Reaps what ended and tells whether nothing is left; on the weaker rungs, kills what outlived init. In a namespace
    /// the kernel lets init be reaped only after the last process inside is gone, so that is the proof.
    pub fn settle(&mut self) -> bool {
        self.reap();
        if self.init_ended.is_none() {
            return false;
        }
        if self.kind == ContainmentKind::PidNamespace {
            return true;
        }
        let left = kill_round(self.cgroup.as_deref(), std::process::id(), None);
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        if left == 0
            && let Some(cgroup) = &self.cgroup
        {
            remove_cgroup(cgroup);
        }
        left == 0
    }

    /// Sleeps until init ends or it is time for another round.
    pub fn wait_a_little(&self) {
        let mut fds = [PollFd::new(&self.init_handle, PollFlags::IN)];
        let _ = poll(&mut fds, Some(&clock::timespec(ROUND_PAUSE_NS)));
    }

    /// Takes init's exit status, if it has ended.
    pub fn reap(&mut self) {
        let pid = i32::try_from(self.init.pid).ok().and_then(Pid::from_raw);
        if self.init_ended.is_none()
            && let Ok(Some((_, status))) = waitpid(pid, WaitOptions::NOHANG)
        {
            self.init_ended = Some(status);
        }
    }
}

/// Root makes the namespaces directly; anybody else needs a user namespace around them.
fn own_namespace() -> Namespace {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() { Namespace::Pid } else { Namespace::UserAndPid { uid: uid.as_raw(), gid: gid.as_raw() } }
}

/// A cgroup of one's own below the present one, if the kernel and the delegation allow.
fn make_cgroup(guard_id: &str) -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let mount = cgroup2_mount(&mounts).ok_or_else(|| io::Error::other("no cgroup2 mount"))?;
    let own = own.lines().find_map(|l| l.strip_prefix("0::/")).unwrap_or("");
    let path = mount.join(own).join(format!("backstay-{guard_id}"));
    fs::create_dir(&path)?;
    if path.join("cgroup.kill").exists() {
        return Ok(path);
    }
    remove_cgroup(&path);
    Err(io::Error::other("this kernel has no cgroup.kill"))
}

/// Where cgroup2 is mounted; on a hybrid machine that is beside the older hierarchies.
fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        if kind.split(' ').next() != Some("cgroup2") {
            return None;
        }
        mount.split(' ').nth(4).map(PathBuf::from)
    })
}

/// Removes an empty cgroup and empty ones that the program made in it; what is not empty stays.
pub(crate) fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_beside_older_ones() {
        let text = "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                    31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                    40 30 0:35 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup rw\n";
        assert_eq!(cgroup2_mount(text), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(cgroup2_mount("31 30 0:27 / /x rw - cgroup cgroup rw"), None);
    }
}
