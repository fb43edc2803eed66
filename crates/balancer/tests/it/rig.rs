//! A balancer in this process, backends on threads, and a plain HTTP client.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use backstay_balancer::client::Control;
use backstay_balancer::table::*;
use backstay_balancer::wire::{Answer, BackendStats, ListenerStats};
use backstay_balancer::{Error, Options, run};

/// Far longer than anything here takes, for machines that are busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `probe` gives something.
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = in_ms(PATIENCE.as_millis() as u64);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(backstay_balancer::boottime_ns() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Now plus so many milliseconds, on the clock of `valid_until`.
pub fn in_ms(ms: u64) -> u64 {
    backstay_balancer::boottime_ns() + ms * 1_000_000
}

pub struct Balancer {
    pub dir: PathBuf,
    pub control: Control,
    pub table: Table,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Balancer {
    pub fn start() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("bal-{}-{}", std::process::id(), COUNT.fetch_add(1, SeqCst));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let socket = dir.join("c.sock");
        let options = Options { socket: socket.clone(), workers: 2, log: false };
        let thread = std::thread::spawn(move || run(options));
        let control = until("the balancer answers", || Control::connect(&socket).ok());
        Self { dir, control, table: Table::default(), thread: Some(thread) }
    }

    /// One listener before one upstream.
    pub fn route(proto: Proto, backends: &[Backend]) -> Self {
        let mut balancer = Self::start();
        balancer.table.listeners.push(listener("front", proto, "app"));
        balancer.table.upstreams.push(upstream("app", backends));
        balancer.push();
        balancer
    }

    /// Sends the table under the next serial.
    pub fn push(&mut self) -> Answer {
        self.table.serial += 1;
        self.control.set_table(&self.table).unwrap()
    }

    /// Replaces the backends of the first upstream.
    pub fn set_backends(&mut self, backends: &[Backend]) {
        self.table.upstreams[0].backends = backends.to_vec();
        self.push();
    }

    pub fn addr(&mut self) -> SocketAddr {
        let answer = self.control.stats().unwrap();
        answer.bound.first().expect("the listener is bound").addr
    }

    pub fn connect(&mut self) -> TcpStream {
        client(self.addr())
    }

    pub fn listener_stats(&mut self) -> ListenerStats {
        let stats = self.control.stats().unwrap().stats.unwrap();
        stats.listeners["front"].clone()
    }

    pub fn backend_stats(&mut self, id: &str) -> BackendStats {
        let stats = self.control.stats().unwrap().stats.unwrap();
        stats.upstreams["app"][id].clone()
    }

    /// Asks for the end and waits for it.
    pub fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.control.shutdown();
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.control.shutdown();
            let _ = thread.join();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub fn client(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub fn listener(name: &str, proto: Proto, upstream: &str) -> Listener {
    Listener {
        name: name.into(),
        bind: "127.0.0.1:0".parse().unwrap(),
        proto,
        upstream: upstream.into(),
        valid_until: None,
    }
}

pub fn upstream(name: &str, backends: &[Backend]) -> Upstream {
    Upstream {
        name: name.into(),
        backends: backends.to_vec(),
        hold_ms: 0,
        valid_until: None,
        token: 0,
        check: None,
        exclusive: false,
    }
}

/// An address on which nobody listens.
pub fn nobody() -> Backend {
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    backend("nobody", addr)
}

pub fn backend(id: &str, addr: SocketAddr) -> Backend {
    Backend { id: id.into(), addr, state: BackendState::Active }
}

/// A backend on threads; dropped, it resets all its connections and refuses new ones.
pub struct Server {
    pub id: String,
    pub addr: SocketAddr,
    pub seen: Arc<Mutex<Vec<String>>>,
    /// Answers `/gate` only once this is set.
    pub gate: Arc<AtomicBool>,
    /// Answers `/up` with 200 while this is set.
    pub healthy: Arc<AtomicBool>,
    down: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn echo(id: &str) -> Self {
        let any = "127.0.0.1:0".parse().unwrap();
        let server = Self::serve(id, any, |mut stream, server| {
            let _ = stream.write_all(server.id.as_bytes());
            let mut buffer = vec![0; 100_000];
            while let Ok(count) = stream.read(&mut buffer) {
                if count == 0 || stream.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = stream.shutdown(Shutdown::Write);
        });
        server.unwrap()
    }

    pub fn http(id: &str) -> Self {
        Self::http_at(id, "127.0.0.1:0".parse().unwrap()).unwrap()
    }

    /// `None`: the address is in use.
    pub fn http_at(id: &str, addr: SocketAddr) -> Option<Self> {
        Self::serve(id, addr, |stream, server| {
            let mut wire = Wire::new(stream);
            while let Some((head, body)) = wire.request() {
                server.seen.lock().unwrap().push(head.clone());
                if !answer(&mut wire, &server, &head, &body) {
                    break;
                }
            }
            // The list of open connections keeps a handle, so dropping ours would close nothing.
            let _ = wire.stream.shutdown(Shutdown::Both);
        })
    }

    pub fn backend(&self) -> Backend {
        backend(&self.id, self.addr)
    }

    pub fn draining(&self) -> Backend {
        Backend { state: BackendState::Draining, ..self.backend() }
    }

    /// Requests whose first line begins so.
    pub fn count(&self, start: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|head| head.starts_with(start)).count()
    }

    fn serve(id: &str, addr: SocketAddr, body: impl Fn(TcpStream, Shared) + Send + Sync + 'static) -> Option<Self> {
        let socket = TcpListener::bind(addr).ok()?;
        let mut server = Self {
            id: id.into(),
            addr: socket.local_addr().unwrap(),
            seen: Arc::default(),
            gate: Arc::default(),
            healthy: Arc::new(AtomicBool::new(true)),
            down: Arc::default(),
            open: Arc::default(),
            thread: None,
        };
        let shared = Shared {
            id: id.into(),
            seen: server.seen.clone(),
            gate: server.gate.clone(),
            healthy: server.healthy.clone(),
            down: server.down.clone(),
        };
        let (open, down, body) = (server.open.clone(), server.down.clone(), Arc::new(body));
        server.thread = Some(std::thread::spawn(move || {
            for stream in socket.incoming() {
                let mut open = open.lock().unwrap();
                if down.load(SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                open.push(stream.try_clone().unwrap());
                let (body, shared) = (body.clone(), shared.clone());
                std::thread::spawn(move || body(stream, shared));
            }
        }));
        Some(server)
    }

    /// Dies like a killed process: nobody listens, every connection is gone.
    pub fn kill(&mut self) {
        {
            let open = self.open.lock().unwrap();
            self.down.store(true, SeqCst);
            for stream in open.iter() {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        let _ = TcpStream::connect(self.addr);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

#[derive(Clone)]
pub struct Shared {
    pub id: String,
    pub seen: Arc<Mutex<Vec<String>>>,
    gate: Arc<AtomicBool>,
    healthy: Arc<AtomicBool>,
    down: Arc<AtomicBool>,
}

/// A recognisable body.
pub fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn answer(wire: &mut Wire, server: &Shared, head: &str, body: &[u8]) -> bool {
    let target = head.split(' ').nth(1).unwrap_or("").to_owned();
    let method = head.split(' ').next().unwrap_or("").to_owned();
    let plain = |body: &[u8]| {
        let mut out = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        if method != "HEAD" {
            out.extend_from_slice(body);
        }
        out
    };
    match target.as_str() {
        "/echo" => wire.send(&plain(body)),
        "/head" => wire.send(&plain(head.as_bytes())),
        "/big" => wire.send(&plain(&pattern(1 << 20))),
        "/nothing" => wire.send(b"HTTP/1.1 204 No Content\r\n\r\n"),
        "/cached" => wire.send(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n"),
        "/chunked" => {
            let mut sent = wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=9\r\n\r\n");
            for chunk in pattern(300_000).chunks(7_001) {
                sent &=
                    wire.send(format!("{:x}\r\n", chunk.len()).as_bytes()) && wire.send(chunk) && wire.send(b"\r\n");
            }
            sent && wire.send(b"0\r\nDone: yes\r\n\r\n")
        }
        "/endless" => {
            wire.send(b"HTTP/1.1 200 OK\r\n\r\n");
            wire.send(&pattern(200_000));
            let _ = wire.stream.shutdown(Shutdown::Write);
            false
        }
        "/truncated" => {
            wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789");
            let _ = wire.stream.shutdown(Shutdown::Both);
            false
        }
        "/truncated-chunk" => {
            wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
            let _ = wire.stream.shutdown(Shutdown::Both);
            false
        }
        "/dribble" => {
            for byte in plain(b"slowly") {
                if !wire.send(&[byte]) {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            true
        }
        "/die" => {
            let _ = wire.stream.shutdown(Shutdown::Both);
            false
        }
        "/garbage" => wire.send(b"220 mail.example ESMTP\r\n\r\n"),
        "/two-lengths" => wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        "/gate" => {
            while !server.gate.load(SeqCst) && !server.down.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            !server.down.load(SeqCst) && wire.send(&plain(server.id.as_bytes()))
        }
        "/up" if !server.healthy.load(SeqCst) => wire.send(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
        "/upgrade" => {
            wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nwelcome ");
            let mut buffer = [0; 1000];
            while let Ok(count) = wire.read_more(&mut buffer) {
                if count == 0 || !wire.send(&buffer[..count]) {
                    break;
                }
            }
            let _ = wire.stream.shutdown(Shutdown::Write);
            false
        }
        _ => wire.send(&plain(server.id.as_bytes())),
    }
}

/// One side of an HTTP connection.
pub struct Wire {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

/// A response as a client sees it.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Sends a request without a body and reads the reply.
    pub fn ask(&mut self, method: &str, path: &str) -> std::io::Result<Reply> {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
        self.reply(method)
    }

    /// Sends a request with a body and reads the reply.
    pub fn ask_with(&mut self, method: &str, path: &str, body: &[u8]) -> std::io::Result<Reply> {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len());
        self.send(head.as_bytes());
        self.send(body);
        self.reply(method)
    }

    pub fn reply(&mut self, method: &str) -> std::io::Result<Reply> {
        let head = self.head()?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let bodiless = method == "HEAD" || status < 200 || status == 204 || status == 304;
        let body = if bodiless {
            Vec::new()
        } else {
            match self.body(&head)? {
                Some(body) => body,
                None => self.rest()?,
            }
        };
        Ok(Reply { status, head, body })
    }

    /// All until the end of the connection.
    pub fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut rest = std::mem::take(&mut self.buffer);
        self.stream.read_to_end(&mut rest)?;
        Ok(rest)
    }

    fn request(&mut self) -> Option<(String, Vec<u8>)> {
        let head = self.head().ok()?;
        if head.to_ascii_lowercase().contains("expect: 100-continue") {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let body = self.body(&head).ok()?;
        Some((head, body.unwrap_or_default()))
    }

    fn head(&mut self) -> std::io::Result<String> {
        loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..at + 4).collect();
                return Ok(String::from_utf8_lossy(&head).into_owned());
            }
            self.fill()?;
        }
    }

    /// `None`: the message has no length of its own.
    fn body(&mut self, head: &str) -> std::io::Result<Option<Vec<u8>>> {
        let lower = head.to_ascii_lowercase();
        if lower.contains("transfer-encoding: chunked") {
            return self.chunks().map(Some);
        }
        let Some(length) = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()) else {
            return Ok(None);
        };
        self.take(length).map(Some)
    }

    fn chunks(&mut self) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = self.line()?;
            let size = size.split(';').next().unwrap_or("");
            let size = usize::from_str_radix(size, 16).map_err(|_| std::io::Error::from(ErrorKind::InvalidData))?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.take(size)?);
            assert_eq!(self.line()?, "");
        }
    }

    fn line(&mut self) -> std::io::Result<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            self.fill()?;
        }
    }

    fn take(&mut self, count: usize) -> std::io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.fill()?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    fn fill(&mut self) -> std::io::Result<()> {
        let mut buffer = [0; 65_536];
        let count = self.stream.read(&mut buffer)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(&buffer[..count]);
        Ok(())
    }

    /// What was read before, then what comes.
    pub fn read_more(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.buffer.is_empty() {
            return self.stream.read(buffer);
        }
        let count = self.buffer.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.buffer[..count]);
        self.buffer.drain(..count);
        Ok(count)
    }
}
