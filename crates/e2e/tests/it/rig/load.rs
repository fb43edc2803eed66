//! Clients that send one request after the other, each once, and remember what became of it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use backstay_e2e::boottime_ns;

/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(5);
/// Longer than the balancer holds a request.
const PATIENCE: Duration = Duration::from_secs(20);
/// Failures that are shown of one client.
const SHOWN_MAX: usize = 8;
/// An answer is never larger.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// One request.
#[derive(Clone, Debug)]
pub struct Shot {
    /// When it was sent.
    pub sent_ns: u64,
    /// When its answer, or its failure, was there.
    pub done_ns: u64,
    /// The answer's body, or why there was none.
    pub result: Result<String, String>,
}

/// What one client saw.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What the client's target is called.
    pub name: String,
    /// Every request in order.
    pub shots: Vec<Shot>,
}

impl Seen {
    /// Those without a good answer.
    pub fn failed(&self) -> Vec<&Shot> {
        self.shots.iter().filter(|shot| shot.result.is_err()).collect()
    }

    /// The longest time without a good answer.
    pub fn longest_gap_ms(&self) -> u64 {
        let good: Vec<_> = self.shots.iter().filter(|shot| shot.result.is_ok()).map(|shot| shot.done_ns).collect();
        good.windows(2).map(|pair| (pair[1] - pair[0]) / 1_000_000).max().unwrap_or(u64::MAX)
    }
}

/// Requests under way.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Load {
    /// Two clients per target: one with a new connection for each request, one that keeps its connection.
    pub fn start(targets: &[(&str, SocketAddr)]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let both = targets.iter().flat_map(|(name, address)| [(*name, *address, false), (*name, *address, true)]);
        let clients = both.map(|(name, address, keeps)| {
            let name = format!("{name}{}", if keeps { ", kept connection" } else { "" });
            let stop = stop.clone();
            std::thread::spawn(move || shoot(name, address, keeps, &stop))
        });
        let clients = clients.collect();
        Self { stop, clients }
    }

    /// Ends it; answers what each client saw.
    pub fn finish(mut self) -> Vec<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.drain(..).map(|client| client.join().expect("a client")).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn shoot(name: String, address: SocketAddr, keeps: bool, stop: &AtomicBool) -> Seen {
    let mut shots = Vec::new();
    let mut kept = None;
    while !stop.load(Ordering::Relaxed) {
        let sent_ns = boottime_ns();
        let result = once(address, keeps, &mut kept);
        shots.push(Shot { sent_ns, done_ns: boottime_ns(), result: result.map_err(|error| error.to_string()) });
        std::thread::sleep(PAUSE);
    }
    Seen { name, shots }
}

/// One request. A kept connection that the other side had closed while it was idle is replaced, as every client does
/// (RFC 9112 §9.3.1); one that fails once the request was taken is a failure.
fn once(address: SocketAddr, keeps: bool, kept: &mut Option<TcpStream>) -> io::Result<String> {
    let mut connection = match kept.take().filter(is_open) {
        Some(connection) => connection,
        None => connect(address)?,
    };
    let (body, goes_on) = ask(&mut connection, keeps)?;
    if keeps && goes_on {
        *kept = Some(connection);
    }
    Ok(body)
}

fn is_open(connection: &TcpStream) -> bool {
    let mut byte = [0];
    let looked = connection.set_nonblocking(true).and_then(|()| connection.peek(&mut byte));
    let is_open = matches!(looked, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    is_open && connection.set_nonblocking(false).is_ok()
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    connection.set_nodelay(true)?;
    Ok(connection)
}

/// Asks once over a new connection.
pub fn get(address: SocketAddr) -> io::Result<String> {
    ask(&mut connect(address)?, false).map(|(body, _)| body)
}

fn ask(connection: &mut TcpStream, keeps: bool) -> io::Result<(String, bool)> {
    let close = if keeps { "" } else { "Connection: close\r\n" };
    connection.write_all(format!("GET / HTTP/1.1\r\nHost: e2e\r\n{close}\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut lines = head.lines();
            let status = lines.next().unwrap_or_default();
            let fields: Vec<_> = lines.filter_map(|line| line.split_once(':')).collect();
            let field = |name: &str| {
                fields.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
            };
            let length: usize = field("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                if !status.contains(" 200 ") {
                    return Err(io::Error::other(format!("{status}: {}", body.trim())));
                }
                let goes_on = !field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
                return Ok((body.to_owned(), goes_on));
            }
        }
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(io::Error::other("the answer has no end"));
        }
        match connection.read(&mut chunk)? {
            0 => {
                let what = if answer.is_empty() { "closed without an answer" } else { "closed within the answer" };
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
            read => answer.extend_from_slice(&chunk[..read]),
        }
    }
}

/// No client saw a failure.
pub fn assert_none_failed(seen: &[Seen], since_ns: u64) {
    for client in seen {
        assert!(client.shots.len() > 10, "{} sent only {} requests", client.name, client.shots.len());
        let failed: Vec<_> = client
            .failed()
            .into_iter()
            .take(SHOWN_MAX)
            .map(|shot| {
                let at = shot.sent_ns as i64 / 1_000_000 - since_ns as i64 / 1_000_000;
                let took = (shot.done_ns - shot.sent_ns) / 1_000_000;
                format!("sent at {at} ms, failed after {took} ms: {}", shot.result.as_ref().unwrap_err())
            })
            .collect();
        let (count, sent) = (client.failed().len(), client.shots.len());
        assert!(failed.is_empty(), "{}: {count} of {sent} failed: {failed:#?}", client.name);
    }
}
