//! A small web server for the tests. It says who it is, and with `--journal FILE` writes down that it runs; with
//! `--grandchild` that is done by a grandchild in a session of its own, as PostgreSQL's backends are.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Connections served at a time.
const CONNECTIONS_MAX: usize = 512;
/// A connection that is silent for this long is closed.
const SILENT_MAX: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Options {
    address: String,
    port: String,
    journal: Option<PathBuf>,
    grandchild: bool,
}

fn main() -> io::Result<()> {
    let mut options = Options::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_default();
        match word.as_str() {
            "--addr" => options.address = value(),
            "--port" => options.port = value(),
            "--journal" => options.journal = Some(value().into()),
            "--grandchild" => options.grandchild = true,
            "--launch-writer" => return writer("--writer", Path::new(&value())),
            "--writer" => {
                rustix::process::setsid()?;
                return backstay_e2e::keep_journal(Path::new(&value()));
            }
            other => return Err(io::Error::other(format!("`{other}` is no option of this server"))),
        }
    }
    serve(&options)
}

/// Starts this program again as something else and does not wait for it.
fn writer(mode: &str, journal: &Path) -> io::Result<()> {
    Command::new(std::env::current_exe()?).arg(mode).arg(journal).spawn().map(drop)
}

fn serve(options: &Options) -> io::Result<()> {
    let listener = TcpListener::bind(format!("{}:{}", options.address, options.port))?;
    match (&options.journal, options.grandchild) {
        (Some(journal), true) => writer("--launch-writer", journal)?,
        (Some(journal), false) => {
            let journal = journal.clone();
            std::thread::spawn(move || {
                if let Err(error) = backstay_e2e::keep_journal(&journal) {
                    eprintln!("testapp: {}: {error}", journal.display());
                }
            });
        }
        (None, _) => {}
    }
    let open = Arc::new(AtomicUsize::new(0));
    for connection in listener.incoming() {
        let Ok(connection) = connection else { continue };
        if open.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            continue;
        }
        open.fetch_add(1, Ordering::Relaxed);
        let open = open.clone();
        std::thread::spawn(move || {
            // A client that goes away in the middle is no trouble of ours.
            let _ = converse(&connection);
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(())
}

/// Answers requests without a body until the client has had enough.
fn converse(connection: &TcpStream) -> io::Result<()> {
    connection.set_read_timeout(Some(SILENT_MAX))?;
    connection.set_nodelay(true)?;
    let told = |name: &str| std::env::var(name).unwrap_or_else(|_| "-".to_owned());
    let (node, token, id) = (told("BACKSTAY_NODE"), told("BACKSTAY_TOKEN"), std::process::id());
    let body = format!("{node} {token} {id}\n");
    let mut lines = BufReader::new(connection).lines();
    loop {
        let Some(first) = lines.next() else { return Ok(()) };
        first?;
        let mut is_last = false;
        for line in lines.by_ref() {
            let line = line?.to_ascii_lowercase();
            is_last |= line == "connection: close";
            if line.is_empty() {
                break;
            }
        }
        let close = if is_last { "Connection: close\r\n" } else { "" };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{close}\r\n{body}", body.len());
        let mut connection = connection;
        connection.write_all(answer.as_bytes())?;
        if is_last {
            return Ok(());
        }
    }
}
