//! The guard: the parent of one start of one instance.
//!
//! It owns the program's output and exit status, survives the agent, and kills everything inside when a deadline passes.
//! Its loop is one thread over poll(2) without a runtime; after the start it touches no disk (see [`log`]) and, for an
//! exclusive instance, its memory is locked, so that neither a hung disk nor a full swap can hold a kill back.
//!
//! Starting is here: refuse by name what cannot work, contain, start, tell whoever asked. [`run`] is the life after it.

mod clients;
pub(crate) mod contain;
pub(crate) mod init;
pub(crate) mod log;
mod run;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use rustix::fs::{Access, FlockOperation, Mode, OFlags, access, flock};
use rustix::mm::MlockAllFlags;
use rustix::pipe::{PipeFlags, pipe_with};

use self::clients::Clients;
use self::contain::Inside;
use self::log::{Disk, Log, write_whole};
use self::run::Guard;
use crate::clock;
use crate::error::{StartFailure, StartFailureKind};
use crate::procfs;
use crate::spec::{Containment, GuardSpec};
use crate::sys::{self, User};
use crate::wire::{
    Announcement, GUARD_ID_ENV, GuardRecord, INIT_LINE_BYTES_MAX, InitOrder, InitReport, InitSpec, RECORD_FILE,
    SOCKET_FILE, SPEC_FILE, line,
};

/// Held by a living guard, so that two never share a directory.
const LOCK_FILE: &str = "guard.lock";
/// How much sooner than others the guard should be spared by the OOM killer.
const OOM_SCORE_ADJ: i32 = -900;
/// Inherited by programs; everything else of the environment comes from the spec.
const ENV_KEPT: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];
/// Search path where the guard has none itself.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The body of the hidden verb `guard DIR`: reads `DIR/spec.json`, starts the program, and stays until its exit report
/// was taken. Says on stdout, in one line, whether the program was started.
pub fn guard_main(dir: &Path) -> ExitCode {
    // Not the leader of a group after a fork and exec, so this succeeds; if it does not, only the terminal is shared.
    let _ = rustix::process::setsid();
    let spec = match read_spec(dir) {
        Ok(spec) => spec,
        Err(failure) => return announce_failure(failure),
    };
    match start(dir, spec) {
        Ok(guard) => {
            announce(&Announcement::Started);
            guard.run();
            ExitCode::SUCCESS
        }
        Err(failure) => {
            // Nothing was left running, so nothing is to be adopted.
            for file in [SOCKET_FILE, RECORD_FILE] {
                let _ = fs::remove_file(dir.join(file));
            }
            announce_failure(failure)
        }
    }
}

fn announce_failure(failure: StartFailure) -> ExitCode {
    announce(&Announcement::Failed(failure));
    ExitCode::FAILURE
}

/// One line on stdout, which is then closed: the agent that asked may have died meanwhile, which changes nothing.
fn announce(what: &Announcement) {
    let mut out = io::stdout();
    let _ = out.write_all(&line(what)).and_then(|()| out.flush());
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

fn read_spec(dir: &Path) -> Result<GuardSpec, StartFailure> {
    let path = dir.join(SPEC_FILE);
    let invalid =
        |why: String| StartFailure::new("guard", StartFailureKind::SpecInvalid, format!("{}: {why}", path.display()));
    let bytes = fs::read(&path).map_err(|e| invalid(e.to_string()))?;
    let spec: GuardSpec = serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
    spec.validate()?;
    Ok(spec)
}

/// From a spec to a running, contained program, or a reason by name.
fn start(dir: &Path, spec: GuardSpec) -> Result<Guard, StartFailure> {
    let service = spec.service.clone();
    let system = |what: &str, e: io::Error| {
        StartFailure::new(&service, StartFailureKind::System, format!("{what}: {e}; a retry may help"))
    };
    let lock = take_lock(dir).map_err(|e| system("the guard's directory is in use or not writable", e))?;
    let mut program = resolve(&spec)?;
    let me = procfs::own_id().ok_or_else(|| system("/proc is not readable", io::ErrorKind::NotFound.into()))?;
    let boot_id = procfs::boot_id();
    let guard_id = format!("{}-{}-{}", boot_id.get(..8).unwrap_or("0"), me.pid, me.start_ticks);
    program.env.push((GUARD_ID_ENV.to_owned(), guard_id.clone()));
    program.oom_score_adj = protect_from_oom();

    let clients = bind(dir).and_then(Clients::new).map_err(|e| system("the guard's socket", e))?;
    let signals = sys::signals_as_fd(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT])
        .map_err(|e| system("signals", e))?;
    let (output, output_inside) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| system("a pipe for output", e.into()))?;
    rustix::io::ioctl_fionbio(&output, true).map_err(|e| system("a pipe for output", e.into()))?;
    let dropped = Arc::default();
    let log = Log::new(spec.log.clone(), spec.log_bytes_max, spec.log_files_max, Arc::clone(&dropped));
    let disk = Disk::start(log, dropped).map_err(|e| system("the disk thread", e))?;
    if spec.exclusive {
        lock_memory();
    }

    let mut inside = Inside::start(spec.containment, &guard_id, &output_inside).map_err(|e| {
        StartFailure::new(&service, StartFailureKind::Containment, format!("the program cannot be contained: {e}"))
    })?;
    drop(output_inside);
    let record = GuardRecord {
        guard_id,
        boot_id,
        guard: me,
        init: Some(inside.init),
        containment: Some(Containment::from(inside.kind)),
        cgroup: inside.cgroup.clone(),
        spec,
    };
    // On disk before the program may do anything, so that whatever it leaves can always be found.
    let written = write_whole(&dir.join(RECORD_FILE), &line(&record)).map_err(|e| system("writing guard.json", e));
    let started = written.and_then(|()| release(&record.spec, &mut inside, program));
    let (pid, private_proc) = match started {
        Ok(started) => started,
        Err(failure) => {
            while !inside.settle() {
                inside.kill();
                inside.wait_a_little();
            }
            return Err(failure);
        }
    };
    Guard::new(dir, lock, record, inside, clients, signals, output, disk, pid, private_proc)
        .map_err(|e| system("the deadline's timer", e))
}

fn take_lock(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = rustix::fs::open(dir.join(LOCK_FILE), flags, Mode::RUSR | Mode::WUSR)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok(lock)
}

/// Binds `guard.sock` through the directory's descriptor, because a socket's own path must be shorter than 108 bytes.
fn bind(dir: &Path) -> io::Result<UnixListener> {
    let (_held, path) = short_path(dir, SOCKET_FILE)?;
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // The directory is 0700, so nobody else comes in between bind and chmod.
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// A short path to a file in a directory, valid as long as the descriptor is held.
pub(crate) fn short_path(dir: &Path, file: &str) -> io::Result<(OwnedFd, PathBuf)> {
    use std::os::fd::AsRawFd;
    let held = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{file}", held.as_raw_fd()));
    Ok((held, path))
}

/// Best effort; gives back what the program should have instead.
fn protect_from_oom() -> Option<i32> {
    let own: i32 = fs::read_to_string("/proc/self/oom_score_adj").ok()?.trim().parse().ok()?;
    fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ.to_string()).ok()?;
    Some(own)
}

/// Best effort: without the right to lock memory a guard under swap pressure may be late. Future memory is locked only
/// where no limit applies: with one, an allocation past it would fail and take the guard down.
fn lock_memory() {
    let future = if rustix::process::geteuid().is_root() { MlockAllFlags::FUTURE } else { MlockAllFlags::empty() };
    let _ = rustix::mm::mlockall(MlockAllFlags::CURRENT | future);
}

/// Lets init start the program; answers its pid as this machine numbers it, and whether it has a /proc of its own.
fn release(spec: &GuardSpec, inside: &mut Inside, mut program: InitSpec) -> Result<(u32, bool), StartFailure> {
    let fail = |kind, message: String| Err(StartFailure::new(&spec.service, kind, message));
    program.namespace = inside.kind == crate::spec::ContainmentKind::PidNamespace;
    program.cgroup = inside.cgroup.clone();
    let name = program.program.display().to_string();
    let order = line(&program);
    if order.len() > INIT_LINE_BYTES_MAX {
        return fail(StartFailureKind::SpecInvalid, "arguments and environment are too large".into());
    }
    // The last look before the program can act.
    if spec.deadline_boottime_ns.is_some_and(|deadline| clock::boottime_ns() >= deadline) {
        return fail(StartFailureKind::DeadlinePassed, "its deadline had passed, so it was never started".into());
    }
    let said = init::write_all(&inside.control, &order).ok().and_then(|()| {
        let line = init::read_line(&inside.control, &mut inside.lines)?;
        serde_json::from_slice(&line).ok()
    });
    match said {
        Some(InitReport::Spawned { pid, private_proc }) => {
            let pid = if program.namespace { procfs::outer_pid(inside.init.pid, pid).unwrap_or(0) } else { pid };
            let told = init::write_all(&inside.control, &line(&InitOrder::Reap)).is_ok();
            let quiet = rustix::io::ioctl_fionbio(&inside.control, true).is_ok();
            if told && quiet {
                return Ok((pid, private_proc));
            }
            fail(StartFailureKind::System, "its init ended at once; a retry may help".into())
        }
        Some(InitReport::Refused { errno, message }) => match errno {
            Some(libc::EACCES | libc::EPERM) => {
                let whom = spec.user.as_ref().map_or(String::new(), |user| format!(" by user {user}"));
                fail(StartFailureKind::NotExecutable, format!("{name} may not be executed{whom}: {message}"))
            }
            Some(libc::ENOENT) => {
                fail(StartFailureKind::ProgramMissing, format!("{name} or its interpreter is missing: {message}"))
            }
            Some(libc::ENOEXEC) => fail(StartFailureKind::NotExecutable, format!("{name} is no program: {message}")),
            _ => fail(StartFailureKind::System, format!("{name}: {message}; a retry may help")),
        },
        Some(InitReport::Ready | InitReport::Exited { .. }) | None => {
            fail(StartFailureKind::System, "its init ended before the program was started; a retry may help".into())
        }
    }
}

/// Everything about the program that can be looked up beforehand, so that what is missing is named.
fn resolve(spec: &GuardSpec) -> Result<InitSpec, StartFailure> {
    let fail = |kind, message: String| Err(StartFailure::new(&spec.service, kind, message));
    let cwd = spec.cwd.clone().unwrap_or_else(|| PathBuf::from("/"));
    if !cwd.is_dir() {
        return fail(
            StartFailureKind::CwdMissing,
            format!("its directory {} is missing or no directory", cwd.display()),
        );
    }
    let user = match &spec.user {
        Some(name) => Some(look_up(spec, name)?),
        None => None,
    };
    let env = environment(spec, user.as_ref());
    let path = env.iter().find(|(k, _)| k == "PATH").map_or(PATH_DEFAULT, |(_, v)| v.as_str());
    let name = spec.argv.first().map_or("", String::as_str);
    let Some(program) = find_program(name, path, &cwd) else {
        return fail(
            StartFailureKind::ProgramMissing,
            format!("program `{name}` is missing ({})", where_sought(name, path, &cwd)),
        );
    };
    if !program.is_file() || access(&program, Access::EXEC_OK).is_err() {
        return fail(StartFailureKind::NotExecutable, format!("{} is not executable", program.display()));
    }
    let other_user = user.filter(|_| rustix::process::geteuid().is_root());
    Ok(InitSpec {
        program,
        argv: spec.argv.clone(),
        env,
        cwd,
        user: other_user.map(|user| user.ids),
        no_new_privs: spec.user.is_some(),
        namespace: false,
        cgroup: None,
        oom_score_adj: None,
        deadline_boottime_ns: spec.deadline_boottime_ns,
    })
}

fn look_up(spec: &GuardSpec, name: &str) -> Result<User, StartFailure> {
    let fail = |kind, message: String| Err(StartFailure::new(&spec.service, kind, message));
    let user = match sys::user(name) {
        Ok(Some(user)) => user,
        Ok(None) => return fail(StartFailureKind::UserUnknown, format!("user `{name}` is not known on this machine")),
        Err(e) => return fail(StartFailureKind::System, format!("looking up user `{name}`: {e}; a retry may help")),
    };
    let own = rustix::process::geteuid();
    if !own.is_root() && own.as_raw() != user.ids.uid {
        return fail(
            StartFailureKind::UserRefused,
            format!("only root may run it as user `{name}`; run the agent as root or leave `user` out"),
        );
    }
    Ok(user)
}

/// What every program starts from, whatever is in this process's own environment.
pub(crate) fn base_environment() -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([("PATH".to_owned(), PATH_DEFAULT.to_owned())]);
    env.extend(ENV_KEPT.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))));
    env
}

/// The clean base, then who it is, then what the spec says, each over the one before.
fn environment(spec: &GuardSpec, user: Option<&User>) -> Vec<(String, String)> {
    let mut env = base_environment();
    if let Some(user) = user {
        env.insert("HOME".into(), user.home.clone());
        env.insert("USER".into(), user.name.clone());
        env.insert("LOGNAME".into(), user.name.clone());
    }
    env.insert("BACKSTAY_SERVICE".into(), spec.service.clone());
    env.insert("BACKSTAY_NODE".into(), spec.node.clone());
    env.insert("BACKSTAY_GENERATION".into(), spec.generation.to_string());
    env.extend(spec.env.clone());
    env.remove(GUARD_ID_ENV);
    env.into_iter().collect()
}

/// As exec would find it: a name with a slash from the working directory, any other on the PATH.
fn find_program(name: &str, path: &str, cwd: &Path) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(cwd.join(name)).filter(|p| p.exists());
    }
    let places: Vec<PathBuf> = std::env::split_paths(OsStr::new(path)).map(|dir| cwd.join(dir).join(name)).collect();
    let runnable = |p: &&PathBuf| p.is_file() && access(p.as_path(), Access::EXEC_OK).is_ok();
    places.iter().find(runnable).or_else(|| places.iter().find(|p| p.is_file())).cloned()
}

fn where_sought(name: &str, path: &str, cwd: &Path) -> String {
    if name.contains('/') { cwd.join(name).display().to_string() } else { format!("PATH is {path}") }
}
