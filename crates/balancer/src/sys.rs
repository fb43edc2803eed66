//! Sockets and signals. The only module that may use `unsafe`: for the signal calls and the one socket option that rustix does not offer.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, sockopt};

/// Connections the kernel may queue before they are accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// What edge-triggered events have said about a socket and no call has refuted since.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ready {
    /// A read may give something.
    pub(crate) read: bool,
    /// A write may take something.
    pub(crate) write: bool,
    /// The other side has sent its end: reading goes on until it is met.
    pub(crate) ended: bool,
    /// The connection has failed: it was reset, refused or timed out.
    pub(crate) dead: bool,
}

/// What a read gave.
pub(crate) enum Got {
    Data(usize),
    End,
    Wait,
    Gone,
}

/// What a write took.
pub(crate) enum Put {
    Sent(usize),
    Wait,
    Gone,
}

/// Reads once. A short read means that the socket is drained, which saves the call that would say so.
pub(crate) fn recv(fd: &OwnedFd, ready: &mut Ready, buf: &mut [u8]) -> Got {
    let room = buf.len();
    loop {
        return match net::recv(fd, &mut *buf, RecvFlags::empty()) {
            Ok((0, _)) => Got::End,
            Ok((count, _)) => {
                if count < room && !ready.ended {
                    ready.read = false;
                }
                Got::Data(count)
            }
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => {
                ready.read = false;
                Got::Wait
            }
            Err(_) => Got::Gone,
        };
    }
}

/// Writes once.
pub(crate) fn send(fd: &OwnedFd, ready: &mut Ready, bytes: &[u8]) -> Put {
    loop {
        return match net::send(fd, bytes, SendFlags::NOSIGNAL) {
            Ok(count) => {
                if count < bytes.len() {
                    ready.write = false;
                }
                Put::Sent(count)
            }
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => {
                ready.write = false;
                Put::Wait
            }
            Err(_) => Put::Gone,
        };
    }
}

/// Says whether an idle connection is still open and silent.
pub(crate) fn is_quiet(fd: &OwnedFd) -> bool {
    let mut byte = [0u8; 1];
    matches!(net::recv(fd, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT), Err(Errno::AGAIN))
}

/// Tells the other side that nothing more will be written.
pub(crate) fn end_writing(fd: &OwnedFd) {
    let _ = net::shutdown(fd, Shutdown::Write);
}

/// Makes the coming close a reset, so that the other side cannot take what it got for the whole.
pub(crate) fn reset_on_close(fd: &OwnedFd) {
    let _ = sockopt::set_socket_linger(fd, Some(Duration::ZERO));
}

/// Binds and listens. SO_REUSEADDR only lets old sessions of the address die in peace; SO_REUSEPORT is never set, so a second
/// listener on the address fails.
pub(crate) fn listen(bind: SocketAddr) -> io::Result<OwnedFd> {
    let fd = stream_socket(bind)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if bind.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    // Accepted sockets inherit it.
    sockopt::set_tcp_nodelay(&fd, true)?;
    net::bind(&fd, &bind)?;
    net::listen(&fd, BACKLOG)?;
    Ok(fd)
}

/// For how long the kernel keeps a silent client to itself, in seconds.
const DEFER_ACCEPT_S: libc::c_int = 1;

/// Lets the kernel show a connection only once it has sent something. Good where clients speak first, wrong where servers do.
pub(crate) fn defer_accept(fd: &OwnedFd, defer: bool) {
    let seconds: libc::c_int = if defer { DEFER_ACCEPT_S } else { 0 };
    // SAFETY: the descriptor is open for the whole call, and the pointer and length are those of a live local integer, which the
    // kernel only reads.
    let _ = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    // Without it everything works, only with a wake-up more.
}

/// Lets the process open as many files as the system allows it: every session takes two.
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

/// The address a socket is bound to.
pub(crate) fn local_addr(fd: &OwnedFd) -> io::Result<SocketAddr> {
    let addr = net::getsockname(fd)?;
    SocketAddr::try_from(addr).map_err(io::Error::from)
}

/// Accepts one connection.
pub(crate) fn accept(fd: &OwnedFd) -> Result<(OwnedFd, IpAddr), Errno> {
    let (fd, addr) = net::acceptfrom_with(fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let peer =
        addr.and_then(|addr| SocketAddr::try_from(addr).ok()).map_or(IpAddr::from([0, 0, 0, 0]), |addr| addr.ip());
    Ok((fd, peer))
}

/// Starts a connection; writing becomes possible, or an error is met, when it is decided.
pub(crate) fn connect(addr: SocketAddr) -> Result<OwnedFd, Errno> {
    let fd = stream_socket(addr)?;
    let _ = sockopt::set_tcp_nodelay(&fd, true);
    match net::connect(&fd, &addr) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(fd),
        Err(errno) => Err(errno),
    }
}

/// Whether a started connection has failed.
pub(crate) fn connect_error(fd: &OwnedFd) -> Option<Errno> {
    match sockopt::socket_error(fd) {
        Ok(Ok(())) => None,
        Ok(Err(errno)) | Err(errno) => Some(errno),
    }
}

/// Whether an error says that this process or machine ran out of something, rather than that the other side failed.
pub(crate) fn is_exhausted(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL)
}

fn stream_socket(addr: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    net::socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
}

/// Set once the process was told to end; it stays set.
static END: AtomicBool = AtomicBool::new(false);
/// Readable once the process was told to end.
static END_EVENT: OnceLock<OwnedFd> = OnceLock::new();

/// SIGTERM and SIGINT as a readable descriptor. Works whichever thread the kernel gives the signal to.
pub(crate) struct Signals {
    fd: &'static OwnedFd,
}

impl Signals {
    /// Takes SIGTERM and SIGINT, and ignores SIGHUP, for the whole process.
    pub(crate) fn open() -> io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let fd = END_EVENT.get_or_init(|| event);
        for signal in [libc::SIGTERM, libc::SIGINT] {
            handle(signal, on_end as *const () as libc::sighandler_t)?;
        }
        handle(libc::SIGHUP, libc::SIG_IGN)?;
        Ok(Self { fd })
    }

    /// Whether a signal that asks for the end has come.
    pub(crate) fn end_requested(&self) -> bool {
        END.load(Relaxed)
    }
}

fn handle(signal: libc::c_int, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: a zeroed sigaction is a valid one (no flags, an empty mask); the handler is SIG_IGN or `on_end`, which has the right
    // signature and does only what a signal handler may.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(signal, &action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs inside a signal: an atomic store, an initialised cell and write(2) are all it may touch.
extern "C" fn on_end(_signal: libc::c_int) {
    END.store(true, Relaxed);
    if let Some(event) = END_EVENT.get() {
        let one = 1u64;
        // SAFETY: the descriptor lives as long as the process, the eight bytes are a live local, and errno is put back for the
        // code that was interrupted.
        unsafe {
            let errno = *libc::__errno_location();
            libc::write(event.as_raw_fd(), (&raw const one).cast(), size_of::<u64>());
            *libc::__errno_location() = errno;
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
