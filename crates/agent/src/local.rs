//! What is particular to this machine: which node of the file it is, and the directory in which its agent keeps its state.
//!
//! A state directory belongs to one node of one cluster for good, and to one agent at a time: the worker holds a lock on it
//! as long as it lives. The lock is what keeps a worker whose parent was killed from acting beside its successor.

use std::fmt::Write as _;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use backstay_model::NodeName;
use backstay_spec::Spec;
use rustix::fs::{FlockOperation, flock};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use serde::{Deserialize, Serialize};

use crate::clock;

/// Where the state of agents that run as root lives.
const ROOT_STATE: &str = "/var/lib/backstay";
/// How long a new agent waits for one that is just ending.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// How often it looks meanwhile.
const LOCK_POLL: Duration = Duration::from_millis(50);
/// How long the kernel may take to list the addresses, and in how many messages.
const NETLINK_TIMEOUT: Duration = Duration::from_secs(2);
const NETLINK_MAX_MESSAGES: usize = 4096;
const NETLINK_BUFFER_BYTES: usize = 64 * 1024;
/// `owner.json` and the lock are never larger.
const MAX_FILE_BYTES: u64 = 4096;

const OWNER_JSON: &str = "owner.json";
const LOCK_FILE: &str = "agent.lock";

/// Why this machine cannot be a node. Nothing here gets better by trying again unchanged, but for [`LocalError::Locked`].
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// `--node` names no node of the file.
    #[error("`{node}` is no node of the file: it has {}", join(nodes))]
    UnknownNode {
        /// What was asked for.
        node: String,
        /// What there is.
        nodes: Vec<NodeName>,
    },
    /// No node has an address of this machine.
    #[error(
        "no node of the file has an address of this machine ({}): correct `addr` in [nodes], or say which node this is \
         with `--node NAME` ({})",
        join(local),
        join(nodes)
    )]
    NoNodeHere {
        /// The addresses of this machine.
        local: Vec<IpAddr>,
        /// The nodes of the file.
        nodes: Vec<NodeName>,
    },
    /// Several nodes have addresses of this machine.
    #[error(
        "{} all have an address of this machine ({}): say which of them this agent is with `--node NAME`",
        join(nodes),
        join(local)
    )]
    SeveralNodesHere {
        /// The nodes.
        nodes: Vec<NodeName>,
        /// The addresses of this machine.
        local: Vec<IpAddr>,
    },
    /// The kernel did not list the addresses.
    #[error("cannot list the addresses of this machine: {0}; say which node this is with `--node NAME`")]
    Addresses(io::Error),
    /// There is no place for state.
    #[error("neither XDG_STATE_HOME nor HOME is an absolute path: say where to keep state with `--state DIR`")]
    NoHome,
    /// No agent has run here.
    #[error("no agent has kept state under {root}: start one with `backstay agent -c FILE`, or name its `--state DIR`", root = root.display())]
    NoState {
        /// Where was looked.
        root: PathBuf,
    },
    /// Several agents have run here.
    #[error("several agents keep state on this machine: name one with `--state DIR`: {}", join_paths(found))]
    SeveralStates {
        /// Their directories.
        found: Vec<PathBuf>,
    },
    /// The directory belongs to another node.
    #[error(
        "{path} is the state directory of another cluster or node: of node `{found_node}` of cluster `{found_cluster}`, not \
         of node `{node}` of cluster `{cluster}`; choose another with `--state DIR`",
        path = path.display()
    )]
    NotOurs {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        found_cluster: String,
        /// Whose it is.
        found_node: NodeName,
        /// Who we are.
        cluster: String,
        /// Who we are.
        node: NodeName,
    },
    /// The directory belongs to another user.
    #[error("{path} belongs to uid {uid}, but this agent runs as uid {own}: choose another with `--state DIR`", path = path.display())]
    Owner {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
        /// Who we are.
        own: u32,
    },
    /// Another agent uses it now.
    #[error("another agent is running with the state directory {path} ({}): stop it first", holder(*pid), path = path.display())]
    Locked {
        /// Which.
        path: PathBuf,
        /// Its process id, when it has said.
        pid: Option<u32>,
    },
    /// `owner.json` cannot be read as what it should be.
    #[error("{path} is damaged: {why}; look at what else is in this directory before you remove it", path = path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A file or directory could not be used.
    #[error("cannot {act} {path}: {source}", path = path.display())]
    File {
        /// `create`, `read`, …
        act: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// An address of an interface of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The address.
    pub addr: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
}

impl LocalAddress {
    /// Whether `addr` is this machine because of this address: it is the same, or both are on the loopback interface, which
    /// answers for the whole of its network.
    pub fn covers(&self, addr: IpAddr) -> bool {
        match (self.addr, addr) {
            (IpAddr::V4(own), IpAddr::V4(other)) if own.is_loopback() => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0);
                own.to_bits() & mask == other.to_bits() & mask
            }
            (own, other) => own == other,
        }
    }
}

/// The addresses of all interfaces, as the kernel lists them (RTM_GETADDR of rtnetlink(7)).
pub fn local_addresses() -> Result<Vec<LocalAddress>, LocalError> {
    dump_addresses().map_err(LocalError::Addresses)
}

/// Which node of the file this machine is: the one that `--node` names, or else the only one with an address of this
/// machine.
pub fn choose_node(spec: &Spec, named: Option<&str>) -> Result<NodeName, LocalError> {
    match named {
        Some(name) => named_node(spec, name),
        None => node_among(spec, &local_addresses()?),
    }
}

fn named_node(spec: &Spec, name: &str) -> Result<NodeName, LocalError> {
    let node = NodeName::from(name);
    if spec.nodes.contains_key(&node) {
        return Ok(node);
    }
    Err(LocalError::UnknownNode { node: name.to_owned(), nodes: spec.nodes.keys().cloned().collect() })
}

fn node_among(spec: &Spec, addresses: &[LocalAddress]) -> Result<NodeName, LocalError> {
    let here = |addr: IpAddr| addresses.iter().any(|local| local.covers(addr));
    let mut nodes: Vec<_> =
        spec.nodes.iter().filter(|(_, node)| here(node.addr)).map(|(name, _)| name.clone()).collect();
    let local = addresses.iter().map(|local| local.addr).collect();
    match nodes.len() {
        0 => Err(LocalError::NoNodeHere { local, nodes: spec.nodes.keys().cloned().collect() }),
        1 => Ok(nodes.remove(0)),
        _ => Err(LocalError::SeveralNodesHere { nodes, local }),
    }
}

/// Where an agent keeps its state when `--state` does not say: `/var/lib/backstay/CLUSTER/NODE` as root, else
/// `$XDG_STATE_HOME/backstay/CLUSTER/NODE`.
pub fn default_state_dir(cluster: &str, node: &NodeName) -> Result<PathBuf, LocalError> {
    Ok(state_root()?.join(cluster).join(node.as_str()))
}

/// The only state directory on this machine, for commands that were not told which.
pub fn find_state_dir() -> Result<PathBuf, LocalError> {
    only_state_dir(&state_root()?)
}

fn state_root() -> Result<PathBuf, LocalError> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from(ROOT_STATE));
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("backstay"))
        .ok_or(LocalError::NoHome)
}

fn only_state_dir(root: &Path) -> Result<PathBuf, LocalError> {
    let entries = |dir: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let mut found: Vec<_> = entries(root).iter().flat_map(|cluster| entries(cluster)).collect();
    found.retain(|dir| dir.join(OWNER_JSON).exists());
    found.sort();
    match found.len() {
        0 => Err(LocalError::NoState { root: root.to_owned() }),
        1 => Ok(found.remove(0)),
        _ => Err(LocalError::SeveralStates { found }),
    }
}

/// A state directory that this process holds; others are kept out until it is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

/// `owner.json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    cluster: String,
    node: NodeName,
}

impl StateDir {
    /// Takes the directory for this process, made with mode 0700 when it is not there. Waits shortly for an agent that is
    /// just ending; blocks the thread meanwhile.
    pub fn open(path: &Path, cluster: &str, node: &NodeName) -> Result<Self, LocalError> {
        Self::open_within(path, cluster, node, LOCK_WAIT)
    }

    fn open_within(path: &Path, cluster: &str, node: &NodeName, wait: Duration) -> Result<Self, LocalError> {
        make_private(path)?;
        let lock = take_lock(path, wait)?;
        claim(path, &Owner { cluster: cluster.to_owned(), node: node.clone() })?;
        let state = Self { path: path.to_owned(), _lock: lock };
        make_private(&state.log())?;
        Ok(state)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the embedded store lives.
    pub fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Where [`crate::identity::Identity::load`] finds this node's identity.
    pub fn identity(&self) -> PathBuf {
        self.path.join("identity")
    }

    /// Where logs live.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }
}

fn make_private(path: &Path) -> Result<(), LocalError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(file("create", path))?;
    let facts = std::fs::metadata(path).map_err(file("read", path))?;
    let own = rustix::process::geteuid().as_raw();
    if facts.uid() != own {
        return Err(LocalError::Owner { path: path.to_owned(), uid: facts.uid(), own });
    }
    if facts.mode() & 0o077 != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(file("close to others", path))?;
    }
    Ok(())
}

fn take_lock(dir: &Path, wait: Duration) -> Result<File, LocalError> {
    let path = dir.join(LOCK_FILE);
    let mut options = OpenOptions::new();
    let mut lock = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(file("open", &path))?;
    let give_up = clock::now() + wait;
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(error) if error != rustix::io::Errno::WOULDBLOCK => return Err(file("lock", &path)(error.into())),
            Err(_) if clock::now() >= give_up => {
                return Err(LocalError::Locked { path: dir.to_owned(), pid: read_pid(&mut lock) });
            }
            Err(_) => std::thread::sleep(LOCK_POLL),
        }
    }
    let mut write = || {
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "{}", std::process::id())
    };
    write().map_err(file("write", &path))?;
    Ok(lock)
}

fn read_pid(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.take(MAX_FILE_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Writes whose directory this is when nobody has, and refuses it when it is another's.
fn claim(dir: &Path, owner: &Owner) -> Result<(), LocalError> {
    let path = dir.join(OWNER_JSON);
    let damaged = |error: serde_json::Error| LocalError::Damaged { path: path.clone(), why: error.to_string() };
    match File::open(&path) {
        Ok(reader) => {
            let found: Owner = serde_json::from_reader(reader.take(MAX_FILE_BYTES)).map_err(damaged)?;
            if found == *owner {
                return Ok(());
            }
            Err(LocalError::NotOurs {
                path: dir.to_owned(),
                found_cluster: found.cluster,
                found_node: found.node,
                cluster: owner.cluster.clone(),
                node: owner.node.clone(),
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = serde_json::to_vec_pretty(owner).map_err(damaged)?;
            write_durably(dir, &path, &text).map_err(file("write", &path))
        }
        Err(error) => Err(file("read", &path)(error)),
    }
}

/// Writes a file so that after a crash it is there whole or not at all. Only the holder of the lock comes here.
fn write_durably(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut writer = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    writer.write_all(bytes)?;
    writer.sync_all()?;
    std::fs::rename(&partial, path)?;
    File::open(dir)?.sync_all()
}

fn file(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalError {
    let path = path.to_owned();
    move |source| LocalError::File { act, path, source }
}

fn join<T: std::fmt::Display>(items: &[T]) -> String {
    let mut text = String::new();
    for item in items {
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{item}");
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

fn join_paths(paths: &[PathBuf]) -> String {
    join(&paths.iter().map(|path| path.display()).collect::<Vec<_>>())
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "it has not said its pid".to_owned(), |pid| format!("pid {pid}"))
}

// Numbers and layouts of linux/netlink.h and linux/if_addr.h.
const NLM_HEADER_BYTES: usize = 16;
const IFADDR_BYTES: usize = 8;
const ATTRIBUTE_BYTES: usize = 4;
const NLM_F_REQUEST_DUMP: u16 = 0x1 | 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

fn dump_addresses() -> io::Result<Vec<LocalAddress>> {
    // Protocol 0 of netlink is NETLINK_ROUTE.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(NETLINK_TIMEOUT))?;
    let mut request = Vec::with_capacity(NLM_HEADER_BYTES + IFADDR_BYTES);
    request.extend_from_slice(&((NLM_HEADER_BYTES + IFADDR_BYTES) as u32).to_ne_bytes());
    request.extend_from_slice(&RTM_GETADDR.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    // Sequence number, port id, and an `ifaddrmsg` that asks for every family: all zero.
    request.resize(NLM_HEADER_BYTES + IFADDR_BYTES, 0);
    rustix::net::sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;

    let mut found = Vec::new();
    let mut buffer = vec![0; NETLINK_BUFFER_BYTES];
    for _ in 0..NETLINK_MAX_MESSAGES {
        let (length, _) = rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        if read_messages(&buffer[..length.min(NETLINK_BUFFER_BYTES)], &mut found)? {
            return Ok(found);
        }
    }
    Err(io::Error::other("the kernel did not end its list"))
}

/// Adds the addresses of one datagram; true when it was the last.
fn read_messages(mut datagram: &[u8], found: &mut Vec<LocalAddress>) -> io::Result<bool> {
    while datagram.len() >= NLM_HEADER_BYTES {
        let length = u32::from_ne_bytes([datagram[0], datagram[1], datagram[2], datagram[3]]) as usize;
        let kind = u16::from_ne_bytes([datagram[4], datagram[5]]);
        if length < NLM_HEADER_BYTES || length > datagram.len() {
            return Err(io::Error::other("a message of the kernel is cut off"));
        }
        let message = &datagram[NLM_HEADER_BYTES..length];
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => return Err(io::Error::other("the kernel refused to list them")),
            RTM_NEWADDR => found.extend(read_address(message)),
            _ => {}
        }
        datagram = &datagram[length.next_multiple_of(4).min(datagram.len())..];
    }
    Ok(false)
}

/// The address of one RTM_NEWADDR. On point-to-point links IFA_ADDRESS is the far end and IFA_LOCAL ours, so the latter wins.
fn read_address(message: &[u8]) -> Option<LocalAddress> {
    let prefix = *message.get(1)?;
    let mut attributes = message.get(IFADDR_BYTES..)?;
    let (mut local, mut address) = (None, None);
    while attributes.len() >= ATTRIBUTE_BYTES {
        let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        let kind = u16::from_ne_bytes([attributes[2], attributes[3]]);
        let value = attributes.get(ATTRIBUTE_BYTES..length)?;
        match kind {
            IFA_LOCAL => local = ip(value),
            IFA_ADDRESS => address = ip(value),
            _ => {}
        }
        attributes = &attributes[length.next_multiple_of(4).min(attributes.len())..];
    }
    local.or(address).map(|addr| LocalAddress { addr, prefix })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes))).ok();
    v4.or_else(|| <[u8; 16]>::try_from(bytes).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes))).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::{TempDir, spec};

    fn local(text: &str) -> LocalAddress {
        let (addr, prefix) = text.split_once('/').unwrap();
        LocalAddress { addr: addr.parse().unwrap(), prefix: prefix.parse().unwrap() }
    }

    #[test]
    fn the_kernel_lists_the_loopback_address() {
        let addresses = local_addresses().unwrap();
        assert!(addresses.iter().any(|local| local.covers("127.0.0.1".parse().unwrap())), "{addresses:?}");
    }

    #[test]
    fn the_loopback_network_is_local_and_other_networks_are_not() {
        let covers = |own: &str, other: &str| local(own).covers(other.parse().unwrap());
        assert!(covers("127.0.0.1/8", "127.0.1.3"));
        assert!(!covers("127.0.0.1/32", "127.0.1.3"));
        assert!(covers("10.0.0.1/24", "10.0.0.1"));
        assert!(!covers("10.0.0.1/24", "10.0.0.2"));
        assert!(covers("::1/128", "::1"));
        assert!(!covers("127.0.0.1/0", "::1"));
    }

    #[test]
    fn a_node_knows_itself_by_its_address() {
        let spec = spec("shop", &[("db1", "10.0.0.1"), ("db2", "10.0.0.2")]);
        let addresses = [local("127.0.0.1/8"), local("10.0.0.2/24")];
        assert_eq!(node_among(&spec, &addresses).unwrap().as_str(), "db2");
        let text = node_among(&spec, &addresses[..1]).unwrap_err().to_string();
        for part in ["127.0.0.1", "db1, db2", "--node NAME"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn several_nodes_on_one_machine_must_be_told_apart() {
        let spec = spec("demo", &[("db1", "127.0.1.1"), ("db2", "127.0.1.2"), ("db3", "10.9.9.9")]);
        let text = node_among(&spec, &[local("127.0.0.1/8")]).unwrap_err().to_string();
        assert!(text.starts_with("db1, db2 all have") && text.contains("--node NAME"), "{text}");
        assert_eq!(choose_node(&spec, Some("db2")).unwrap().as_str(), "db2");
        let text = choose_node(&spec, Some("db7")).unwrap_err().to_string();
        assert!(text.contains("`db7`") && text.contains("db1, db2, db3"), "{text}");
    }

    #[test]
    fn messages_that_are_cut_off_are_errors_not_panics() {
        let mut message = vec![0; 16];
        message[..4].copy_from_slice(&40_u32.to_ne_bytes());
        assert!(read_messages(&message, &mut Vec::new()).is_err());
        message[..4].copy_from_slice(&3_u32.to_ne_bytes());
        assert!(read_messages(&message, &mut Vec::new()).is_err());
        assert_eq!(read_address(&[2, 8, 0, 0, 0, 0, 0, 0, 200, 0, 2, 0, 127, 0, 0, 1]), None);
        assert_eq!(read_address(&[2, 8, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]), None);
        assert_eq!(read_address(&[2]), None);
        let whole =
            [&[2, 8, 0, 0, 0, 0, 0, 0][..], &8_u16.to_ne_bytes(), &2_u16.to_ne_bytes(), &[127, 0, 0, 1]].concat();
        assert_eq!(read_address(&whole), Some(local("127.0.0.1/8")));
    }

    #[test]
    fn a_state_directory_is_private_and_belongs_to_one_node_for_good() {
        let temp = TempDir::new();
        let path = temp.0.join("shop/db1");
        let state = StateDir::open(&path, "shop", &"db1".into()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(state.log()).unwrap().mode() & 0o777, 0o700);
        drop(state);
        drop(StateDir::open(&path, "shop", &"db1".into()).unwrap());
        for (cluster, node) in [("shop", "db2"), ("mill", "db1")] {
            let text = StateDir::open(&path, cluster, &node.into()).unwrap_err().to_string();
            assert!(text.contains("another cluster or node") && text.contains("`db1` of cluster `shop`"), "{text}");
        }
        assert_eq!(only_state_dir(&temp.0).unwrap(), path);
    }

    #[test]
    fn a_directory_open_to_others_is_closed() {
        let temp = TempDir::new();
        std::fs::set_permissions(&temp.0, Permissions::from_mode(0o755)).unwrap();
        let _state = StateDir::open(&temp.0, "shop", &"db1".into()).unwrap();
        assert_eq!(std::fs::metadata(&temp.0).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_second_agent_learns_who_holds_the_directory() {
        let temp = TempDir::new();
        let first = StateDir::open(&temp.0, "shop", &"db1".into()).unwrap();
        let error = StateDir::open_within(&temp.0, "shop", &"db1".into(), Duration::ZERO).unwrap_err();
        assert!(matches!(error, LocalError::Locked { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
        drop(first);
        StateDir::open(&temp.0, "shop", &"db1".into()).unwrap();
    }

    #[test]
    fn commands_find_the_only_state_directory() {
        let temp = TempDir::new();
        assert!(matches!(only_state_dir(&temp.0), Err(LocalError::NoState { .. })));
        for node in ["db1", "db2"] {
            StateDir::open(&temp.0.join("shop").join(node), "shop", &node.into()).unwrap();
        }
        let text = only_state_dir(&temp.0).unwrap_err().to_string();
        assert!(text.contains("shop/db1") && text.contains("--state DIR"), "{text}");
    }
}
