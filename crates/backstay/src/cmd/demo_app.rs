//! The hidden verb `demo-app`: a tiny web server for the demo to keep up.
//!
//! `GET /up` is its check, `GET /` says who answers. With `--journal FILE` it also appends a line every few milliseconds, so
//! that whether two of them ever acted at once is judged by what they wrote themselves.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::cli::DemoAppArgs;
use crate::clock;
use crate::output::{Answer, Failure};

/// More connections than the demo's balancers keep.
const CONNECTIONS_MAX: usize = 512;
/// Longest request head.
const HEAD_BYTES_MAX: u64 = 16 * 1024;
/// A connection on which nothing comes for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How often the journal gets a line.
const JOURNAL_EVERY: Duration = Duration::from_millis(5);

/// Serves until it is killed.
pub fn run(args: &DemoAppArgs) -> Answer {
    let address = SocketAddr::new(args.addr, args.port);
    let listener = TcpListener::bind(address)
        .map_err(|error| Failure::unexpected("bind", format!("cannot listen on {address}: {error}")))?;
    let who = Arc::new(Who::from_environment());
    if let Some(journal) = args.journal.clone() {
        let who = Arc::clone(&who);
        thread::spawn(move || keep_journal(&journal, &who));
    }
    let open = Arc::new(AtomicUsize::new(0));
    for connection in listener.incoming() {
        // A client that went away before it was accepted is no reason to stop.
        let Ok(connection) = connection else { continue };
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (who, open) = (Arc::clone(&who), Arc::clone(&open));
        thread::spawn(move || {
            // The client hung up or broke the rules; either way this connection is over.
            let _ = serve(&connection, &who);
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Err(Failure::unexpected("listen", "the listening socket ended"))
}

/// As the agent told it.
struct Who {
    service: String,
    node: String,
    role: String,
    /// The token of its grant, or the goal that started it when it has none.
    token: String,
}

impl Who {
    fn from_environment() -> Self {
        let told = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        Self {
            service: or_dash(told("BACKSTAY_SERVICE")),
            node: or_dash(told("BACKSTAY_NODE")),
            role: or_dash(told("BACKSTAY_ROLE")),
            token: or_dash(told("BACKSTAY_TOKEN").or_else(|| told("BACKSTAY_GENERATION"))),
        }
    }
}

fn serve(connection: &TcpStream, who: &Who) -> io::Result<()> {
    connection.set_read_timeout(Some(IDLE_TIMEOUT))?;
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection);
    loop {
        let Some((path, stays_open)) = request(&mut reader)? else { return Ok(()) };
        let (status, body) = match path.as_str() {
            "/up" => ("200 OK", "up\n".to_owned()),
            "/" => ("200 OK", format!("{} on {} is {}, pid {}\n", who.service, who.node, who.role, process::id())),
            _ => ("404 Not Found", "nothing here\n".to_owned()),
        };
        let connection_header = if stays_open { "keep-alive" } else { "close" };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection_header}\r\n\r\n{body}",
            body.len()
        );
        let mut writer = connection;
        writer.write_all(answer.as_bytes())?;
        if !stays_open {
            return Ok(());
        }
    }
}

/// The path of the next request, and whether the connection stays open; nothing at the end.
fn request(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<(String, bool)>> {
    let mut head = reader.take(HEAD_BYTES_MAX);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace();
    let (Some(_method), Some(path), Some(version)) = (words.next(), words.next(), words.next()) else {
        return Ok(None);
    };
    let (path, mut stays_open) = (path.to_owned(), version == "HTTP/1.1");
    loop {
        let mut header = String::new();
        if head.read_line(&mut header)? == 0 {
            return Ok(None);
        }
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            return Ok(Some((path, stays_open)));
        }
        if let Some(value) = header.strip_prefix("connection:") {
            stays_open = !value.contains("close");
        }
    }
}

/// One line per beat: `pid node token boottime_ns`. A program that cannot say that it acts must not act.
fn keep_journal(path: &PathBuf, who: &Who) {
    let write = || {
        let mut journal = OpenOptions::new().append(true).create(true).open(path)?;
        loop {
            let line = format!("{} {} {} {}\n", process::id(), who.node, who.token, clock::boottime_ns());
            journal.write_all(line.as_bytes())?;
            thread::sleep(JOURNAL_EVERY);
        }
    };
    let ended: io::Result<()> = write();
    if let Err(error) = ended {
        let _ = writeln!(io::stderr(), "cannot write the journal {}: {error}", path.display());
        process::exit(1);
    }
}
