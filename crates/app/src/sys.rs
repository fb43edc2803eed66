//! The system calls that have no safe form: making the first process of a namespace, signals as a descriptor, users of
//! this machine, and what a child does between fork and exec. Nothing here decides anything.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::wire::UserIds;

/// Exit code of an init that could not be set up; the ladder of containment goes on to the next rung.
pub(crate) const SETUP_FAILED: i32 = 125;

/// Longest answer of the user database that is waited for, in bytes.
const PASSWD_BYTES_MAX: usize = 1024 * 1024;
/// Most groups one user may be in.
const GROUPS_MAX: usize = 65_536;

/// Which namespaces the first process gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Namespace {
    /// None: the weaker kinds of containment.
    None,
    /// PID and mounts; needs root.
    Pid,
    /// The same inside a user namespace that knows only this user and group.
    UserAndPid { uid: u32, gid: u32 },
}

/// Starts this very binary again as `guard-init`, with `control` as its stdin and `output` as its stdout and stderr.
/// In a namespace it is the first process there and sees its own /proc where the kernel allows.
///
/// A plain clone instead of `unshare` keeps the guard itself outside, so it may have threads and children of its own.
pub(crate) fn spawn_init(namespace: Namespace, control: BorrowedFd<'_>, output: BorrowedFd<'_>) -> io::Result<u32> {
    let flags = match namespace {
        Namespace::None => 0,
        Namespace::Pid => libc::CLONE_NEWPID | libc::CLONE_NEWNS,
        Namespace::UserAndPid { .. } => libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS,
    };
    // Everything that allocates is done before the clone.
    let maps = match namespace {
        Namespace::UserAndPid { uid, gid } => Some((format!("{uid} {uid} 1"), format!("{gid} {gid} 1"))),
        _ => None,
    };
    let args: [&CStr; 2] = [c"backstay-guard", c"guard-init"];
    let argv = [args[0].as_ptr(), args[1].as_ptr(), std::ptr::null()];
    let env: Vec<CString> = std::env::vars_os()
        .filter_map(|(k, v)| {
            use std::os::unix::ffi::OsStrExt;
            CString::new([k.as_bytes(), b"=", v.as_bytes()].concat()).ok()
        })
        .collect();
    let mut envp: Vec<*const libc::c_char> = env.iter().map(|e| e.as_ptr()).collect();
    envp.push(std::ptr::null());

    // SAFETY: without CLONE_VM this is a fork: the child has its own copy of memory. Until exec it makes only system calls
    // on data prepared above, allocates nothing and takes no lock, so other threads of the parent cannot matter.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let maps = maps.as_ref().map(|(uid, gid)| (uid.as_bytes(), gid.as_bytes()));
            become_init(namespace, maps, control.as_raw_fd(), output.as_raw_fd(), &argv, &envp)
        }
        pid => u32::try_from(pid).map_err(|_| io::Error::other("the kernel gave no pid")),
    }
}

/// The child's way from clone to exec. Never returns, never allocates.
fn become_init(
    namespace: Namespace,
    maps: Option<(&[u8], &[u8])>,
    control: RawFd,
    output: RawFd,
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
) -> ! {
    let mapped = maps.is_none_or(|(uid, gid)| {
        write_file(c"/proc/self/setgroups", b"deny")
            && write_file(c"/proc/self/uid_map", uid)
            && write_file(c"/proc/self/gid_map", gid)
    });
    if mapped {
        if namespace != Namespace::None {
            mount_private_proc();
        }
        // SAFETY: both descriptors are open in the parent's copy; argv and envp are NUL-terminated arrays of C strings
        // that live on in this copy of memory.
        unsafe {
            if libc::dup2(control, 0) == 0 && libc::dup2(output, 1) == 1 && libc::dup2(output, 2) == 2 {
                libc::execve(c"/proc/self/exe".as_ptr(), argv.as_ptr(), envp.as_ptr());
            }
        }
    }
    // SAFETY: ends this child only, without running handlers that belong to the parent.
    unsafe { libc::_exit(SETUP_FAILED) }
}

/// Without a private /proc the program still runs and is still contained, so a refusal (a container that hides parts of
/// /proc) is no failure. It is mounted only once nothing can travel back to the machine's own mounts.
fn mount_private_proc() {
    let cut = rustix::mount::mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC);
    if cut.is_ok() {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let _ = rustix::mount::mount(c"proc", c"/proc", c"proc", flags, None::<&CStr>);
    }
}

/// Writes a small kernel file; between clone and exec, so without allocation.
fn write_file(path: &CStr, bytes: &[u8]) -> bool {
    rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .is_ok_and(|file| rustix::io::write(&file, bytes).is_ok())
}

/// Blocks these signals and gives them as a descriptor instead. [`before_exec`] undoes that for the program.
pub(crate) fn signals_as_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before it is used; the descriptor is new and owned by nobody else.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        if libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Takes all signals that are waiting and returns their numbers.
pub(crate) fn take_signals(fd: &OwnedFd) -> Vec<i32> {
    const ENTRY_BYTES: usize = size_of::<libc::signalfd_siginfo>();
    let mut taken = Vec::new();
    let mut buffer = [0_u8; ENTRY_BYTES * 8];
    while let Ok(n) = rustix::io::read(fd, &mut buffer) {
        if n == 0 {
            break;
        }
        // The first field of each entry is the signal's number.
        let entries = buffer[..n].chunks_exact(ENTRY_BYTES);
        taken.extend(entries.filter_map(|e| Some(i32::from_ne_bytes(e.get(..4)?.try_into().ok()?))));
    }
    taken
}

/// A user as the machine's databases know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub name: String,
    pub home: String,
    pub ids: UserIds,
}

/// Looks a user up, with all groups; `None` if there is no such user.
pub(crate) fn user(name: &str) -> io::Result<Option<User>> {
    let c_name = CString::new(name)?;
    passwd_entry(|entry, buffer, found| {
        // SAFETY: all pointers are valid for the call and the buffer's length is the one given.
        unsafe { libc::getpwnam_r(c_name.as_ptr(), entry, buffer.as_mut_ptr(), buffer.len(), found) }
    })
}

/// The name of a user id, if it has one.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    passwd_entry(|entry, buffer, found| {
        // SAFETY: as in `user`.
        unsafe { libc::getpwuid_r(uid, entry, buffer.as_mut_ptr(), buffer.len(), found) }
    })
    .ok()
    .flatten()
    .map(|user| user.name)
}

type PasswdCall<'a> = dyn Fn(*mut libc::passwd, &mut [libc::c_char], *mut *mut libc::passwd) -> i32 + 'a;

fn passwd_entry<F>(call: F) -> io::Result<Option<User>>
where
    F: Fn(*mut libc::passwd, &mut [libc::c_char], *mut *mut libc::passwd) -> i32,
{
    let call: &PasswdCall<'_> = &call;
    let mut buffer = vec![0; 4096];
    loop {
        let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        match call(entry.as_mut_ptr(), &mut buffer, &raw mut found) {
            0 if found.is_null() => return Ok(None),
            0 => {
                // SAFETY: the call succeeded and `found` points to `entry`, whose strings lie in `buffer`.
                let (name, home, uid, gid) = unsafe {
                    let entry = &*found;
                    (CStr::from_ptr(entry.pw_name), CStr::from_ptr(entry.pw_dir), entry.pw_uid, entry.pw_gid)
                };
                let groups = groups_of(name, gid)?;
                return Ok(Some(User {
                    name: name.to_string_lossy().into_owned(),
                    home: home.to_string_lossy().into_owned(),
                    ids: UserIds { uid, gid, groups },
                }));
            }
            libc::ERANGE if buffer.len() < PASSWD_BYTES_MAX => buffer.resize(buffer.len() * 4, 0),
            libc::ENOENT | libc::ESRCH => return Ok(None),
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

fn groups_of(name: &CStr, gid: u32) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut count = i32::try_from(groups.len()).unwrap_or(i32::MAX);
        // SAFETY: the name is a C string, `groups` has room for `count` entries.
        let fitted = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        if fitted >= 0 {
            groups.truncate(usize::try_from(count).unwrap_or(0));
            return Ok(groups);
        }
        if groups.len() >= GROUPS_MAX {
            return Err(io::Error::other("a user in too many groups"));
        }
        groups.resize(groups.len() * 4, 0);
    }
}

/// No signal blocked, none ignored: what a program may expect. `Command` resets only SIGPIPE, so without this a program
/// would inherit the guard's blocked SIGTERM and never hear that it should stop.
fn clean_signals() -> io::Result<()> {
    // SAFETY: system calls on a set that sigemptyset initialises; between fork and exec, in a single-threaded child.
    unsafe {
        for number in 1..=libc::SIGRTMAX() {
            // KILL, STOP and the two that libc keeps for itself refuse; they are never blocked or ignored.
            libc::signal(number, libc::SIG_DFL);
        }
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        if libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// What the program's process does just before it becomes the program: a session of its own, its cgroup, its user.
pub(crate) fn before_exec(
    command: &mut Command,
    user: Option<UserIds>,
    cgroup_procs: Option<OwnedFd>,
    no_new_privs: bool,
) {
    let prepare = move || -> io::Result<()> {
        clean_signals()?;
        rustix::process::setsid()?;
        if let Some(procs) = &cgroup_procs {
            rustix::io::write(procs, b"0")?;
        }
        if let Some(user) = &user {
            // SAFETY: system calls on prepared data only, in a single-threaded child.
            let set = unsafe {
                libc::setgroups(user.groups.len(), user.groups.as_ptr()) == 0
                    && libc::setgid(user.gid) == 0
                    && libc::setuid(user.uid) == 0
            };
            if !set {
                return Err(io::Error::last_os_error());
            }
        }
        if no_new_privs {
            rustix::thread::set_no_new_privs(true)?;
        }
        Ok(())
    };
    // SAFETY: the closure makes only system calls on data it owns; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(prepare) };
}

/// Something to await: readable once the process has ended, which a child has before it is reaped. Needs a tokio runtime.
pub(crate) fn process_end(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    let handle = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    // SAFETY: an OwnedFd is open and the same descriptor for as long as it lives, and it is given away here.
    unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) }.map_err(Into::into)
}

/// The signal of that number; callers pass numbers that the kernel or `signal_number` gave.
pub(crate) fn signal(number: i32) -> Option<rustix::process::Signal> {
    rustix::process::Signal::from_named_raw(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_by_id() {
        let root = user("root").expect("lookup").expect("root exists");
        assert_eq!((root.ids.uid, root.name.as_str()), (0, "root"));
        assert!(root.ids.groups.contains(&root.ids.gid));
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(user("no-such-user-here").expect("lookup"), None);
    }
}
