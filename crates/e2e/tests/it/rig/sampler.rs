//! Watches who listens on a floating address, by the kernel's own tables.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks.
const SAMPLE_EVERY: Duration = Duration::from_millis(15);

/// Looks again and again until it is asked what it saw.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Vec<String>>>>,
}

impl Sampler {
    /// Begins to watch an address.
    pub fn start(balancers: Vec<(String, u32)>, address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut seen: Vec<Vec<String>> = Vec::new();
            while !asked.load(Ordering::Relaxed) {
                let now = bound(&balancers, address);
                if seen.last() != Some(&now) {
                    seen.push(now);
                }
                std::thread::sleep(SAMPLE_EVERY);
            }
            seen
        });
        Self { stop, thread: Some(thread) }
    }

    /// Who had it, one entry per change: never two at a time.
    pub fn finish(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.take().map(|thread| thread.join().expect("the sampler")).unwrap_or_default();
        for at_once in &seen {
            assert!(at_once.len() <= 1, "the address was bound by {at_once:?} at once; in order: {seen:?}");
        }
        seen.into_iter().flatten().collect()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The nodes whose balancer listens on an address. The kernel's table is read first and in one go, so that a socket that
/// is closed and another that is opened meanwhile are not taken for two.
pub fn bound(balancers: &[(String, u32)], address: SocketAddr) -> Vec<String> {
    let sockets = listening(address);
    let holds = |pid: u32| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut open = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        open.any(|link| sockets.iter().any(|socket| link == Path::new(socket)))
    };
    balancers.iter().filter(|(_, pid)| holds(*pid)).map(|(node, _)| node.clone()).collect()
}

/// The links under /proc/PID/fd of sockets that listen on an IPv4 address, by /proc/net/tcp.
fn listening(address: SocketAddr) -> Vec<String> {
    const LISTEN: &str = "0A";
    let IpAddr::V4(ip) = address.ip() else { return Vec::new() };
    let wanted = format!("{:08X}:{:04X}", u32::from_le_bytes(ip.octets()), address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = rows.filter(|row| row.len() > 9 && row[1] == wanted && row[3] == LISTEN);
    found.map(|row| format!("socket:[{}]", row[9])).collect()
}
