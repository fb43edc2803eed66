//! Finds a free port, and says who holds one that is not, so that a message can name the culprit.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use crate::sys;

/// State of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";
/// Tries to find a port that is free for the whole address, before giving up.
const TRIES: u32 = 16;

/// A port on `addr` that nobody listens on now: the remembered one if it still is free, so that an instance keeps its port
/// over restarts, else one that the kernel picks. Nothing reserves it: the program may still lose it to somebody quicker,
/// and is then started with another.
///
/// # Errors
/// The system's, when no port can be bound on `addr` at all: an address this machine does not have, or no ports left.
pub fn free_port(addr: IpAddr, remembered: Option<u16>) -> io::Result<u16> {
    if let Some(port) = remembered.filter(|port| *port != 0)
        && who_listens(SocketAddr::new(addr, port)).is_none()
        && TcpListener::bind((addr, port)).is_ok()
    {
        return Ok(port);
    }
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        match TcpListener::bind((addr, 0)).and_then(|l| l.local_addr()) {
            Ok(found) if who_listens(found).is_none_or(|holder| holder.pid == Some(std::process::id())) => {
                return Ok(found.port());
            }
            Ok(_) => {}
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Who listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process; `None` if this process may not look into it, or it lives in another PID namespace.
    pub pid: Option<u32>,
    /// Name of its program, if the process is known.
    pub name: Option<String>,
    /// User id of the socket's owner.
    pub uid: u32,
    /// That user's name, if it has one here.
    pub user: Option<String>,
}

impl std::fmt::Display for Holder {
    /// As in "port 3000 is held by nginx (pid 123, user www-data)".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let user = self.user.clone().unwrap_or_else(|| format!("with id {}", self.uid));
        match (&self.name, self.pid) {
            (Some(name), Some(pid)) => write!(f, "{name} (pid {pid}, user {user})"),
            _ => write!(f, "a process of user {user}"),
        }
    }
}

/// Who would refuse a listener on `addr` its place: somebody on exactly it, or on the wildcard of its port. `None` if nobody
/// does, or if /proc is not readable. Looks through all processes, so it is for messages, not for loops.
#[must_use]
pub fn who_listens(addr: SocketAddr) -> Option<Holder> {
    let (inode, uid) =
        ["/proc/net/tcp", "/proc/net/tcp6"].iter().filter_map(|table| fs::read_to_string(table).ok()).find_map(
            |table| table.lines().filter_map(parse_listener).find(|l| l.covers(addr)).map(|l| (l.inode, l.uid)),
        )?;
    let pid = process_with_socket(inode);
    let name = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
    Some(Holder { pid, name: name.map(|n| n.trim().to_owned()), uid, user: sys::user_name(uid) })
}

/// A listening socket of this network namespace.
#[derive(Debug, PartialEq, Eq)]
struct Listener {
    addr: SocketAddr,
    uid: u32,
    inode: u64,
}

impl Listener {
    /// A listener on `::` usually takes IPv4 as well, so a wildcard of either family covers both.
    fn covers(&self, wanted: SocketAddr) -> bool {
        let wildcard = self.addr.ip().is_unspecified() || wanted.ip().is_unspecified();
        self.addr.port() == wanted.port() && (wildcard || self.addr.ip() == wanted.ip().to_canonical())
    }
}

/// One line of `/proc/net/tcp` or `tcp6`; `None` for the heading and for sockets that do not listen.
fn parse_listener(line: &str) -> Option<Listener> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    if *fields.get(3)? != LISTEN {
        return None;
    }
    let (ip, port) = fields.get(1)?.split_once(':')?;
    let addr = SocketAddr::new(parse_ip(ip)?.to_canonical(), u16::from_str_radix(port, 16).ok()?);
    Some(Listener { addr, uid: fields.get(7)?.parse().ok()?, inode: fields.get(9)?.parse().ok()? })
}

/// The kernel prints each 32-bit word of an address in the machine's own byte order.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let words: Vec<[u8; 4]> = (0..hex.len() / 8)
        .map(|n| u32::from_str_radix(hex.get(n * 8..n * 8 + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect::<Option<_>>()?;
    match words.as_slice() {
        [v4] => Some(Ipv4Addr::from(*v4).into()),
        [_, _, _, _] => Some(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?).into()),
        _ => None,
    }
}

/// The process that has this socket open; the one with the lowest number if several share it, usually the parent.
fn process_with_socket(inode: u64) -> Option<u32> {
    let link = format!("socket:[{inode}]");
    let mut pids: Vec<u32> =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids.into_iter().find(|pid| {
        // Without rights for this process it is passed over, and the holder stays unknown.
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        entries.into_iter().any(|e| fs::read_link(e.path()).is_ok_and(|to| to.as_os_str() == link.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_named() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let addr = listener.local_addr().expect("address");
        let holder = who_listens(addr).expect("this test listens");
        assert_eq!(holder.pid, Some(std::process::id()));
        assert_eq!(holder.uid, rustix::process::getuid().as_raw());
        assert!(holder.to_string().contains(&format!("pid {}", std::process::id())), "{holder}");
        let wildcard = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), addr.port());
        assert!(who_listens(wildcard).is_some(), "a wildcard listener would collide");
    }

    #[test]
    fn a_remembered_port_is_kept_while_it_is_free() {
        let addr = IpAddr::from(Ipv4Addr::LOCALHOST);
        let listener = TcpListener::bind((addr, 0)).expect("listen");
        let taken = listener.local_addr().expect("address").port();
        let other = free_port(addr, Some(taken)).expect("another");
        assert_ne!(other, taken);
        drop(listener);
        // Another test may have got it from the kernel meanwhile, but then somebody listens there.
        let again = free_port(addr, Some(taken)).expect("the same");
        assert!(again == taken || who_listens(SocketAddr::new(addr, taken)).is_some());
    }

    #[test]
    fn the_kernel_s_table_is_read() {
        let v4 = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 77 1 x";
        let listener = parse_listener(v4).expect("listens");
        assert_eq!(listener, Listener { addr: "127.0.0.1:8080".parse().expect("addr"), uid: 1000, inode: 77 });
        assert!(listener.covers("127.0.0.1:8080".parse().expect("addr")));
        assert!(!listener.covers("127.0.0.2:8080".parse().expect("addr")));
        assert!(listener.covers("0.0.0.0:8080".parse().expect("addr")));
        let v6 =
            "   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 78 1";
        assert!(parse_listener(v6).expect("listens").covers("10.0.0.1:80".parse().expect("addr")));
        assert_eq!(parse_listener(&v4.replace(" 0A ", " 01 ")), None);
        assert_eq!(parse_listener("  sl  local_address rem_address   st"), None);
    }
}
