//! What this process claims for itself alone: its control socket; and who stands in the way of a claim that fails.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::Error;
use crate::control::system;

/// Longest control socket path, in bytes.
const PATH_MAX_BYTES: usize = 100;

/// The claimed control socket; the lock lives as long as the process.
pub(crate) struct ControlSocket<'a> {
    path: &'a Path,
    pub(crate) listener: UnixListener,
    _lock: File,
}

impl<'a> ControlSocket<'a> {
    /// Claims the socket, or says who has it.
    pub(crate) fn claim(path: &'a Path) -> Result<Self, Error> {
        let bytes = path.as_os_str().as_bytes().len();
        if bytes > PATH_MAX_BYTES {
            return Err(Error::PathTooLong { path: path.to_owned(), bytes });
        }
        let context = |what: &str, source: io::Error| system(&format!("{what} {}", path.display()), source);
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|source| context("open the lock file beside", source))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::AlreadyServed(path.to_owned())),
            Err(errno) => return Err(context("lock the file beside", errno.into())),
        }
        // The lock is ours, so a socket file that is left is that of a process that has gone.
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(context("remove the stale socket", source)),
        }
        let listener = bind_private(path).map_err(|source| context("listen on", source))?;
        Ok(Self { path, listener, _lock: lock })
    }
}

impl Drop for ControlSocket<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path);
    }
}

/// Binds with mode 0600 from the first instant: the file takes the mode of the unbound socket.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    use rustix::net;
    let fd = net::socket_with(
        net::AddressFamily::UNIX,
        net::SocketType::STREAM,
        net::SocketFlags::CLOEXEC | net::SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::fs::fchmod(&fd, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    net::bind(&fd, &net::SocketAddrUnix::new(path)?)?;
    net::listen(&fd, 16)?;
    Ok(UnixListener::from(fd))
}

/// Who listens on a port, as far as /proc lets this process see.
pub(crate) fn holder_of(addr: SocketAddr) -> Option<String> {
    let table = if addr.is_ipv4() { "/proc/self/net/tcp" } else { "/proc/self/net/tcp6" };
    let text = std::fs::read_to_string(table).ok()?;
    let port = format!(":{:04X}", addr.port());
    let inode = text.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // 0A is TCP_LISTEN.
        let listens = fields.get(1)?.ends_with(&port) && *fields.get(3)? == "0A";
        listens.then(|| fields.get(9).copied()).flatten()
    })?;
    let socket = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(fds) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let holds = fds
            .flatten()
            .filter_map(|fd| std::fs::read_link(fd.path()).ok())
            .any(|target| target.as_os_str() == socket.as_str());
        if holds {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("pid {pid} ({})", name.trim()));
        }
    }
    None
}
