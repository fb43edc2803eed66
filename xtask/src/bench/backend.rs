//! The backend of the benches: one fixed answer of 1 KB for each request, over connections that are kept.
//!
//! A thread per connection: the benches hold a few dozen connections, and what is measured is the proxy before it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// The hidden verb that runs it as a process of its own.
pub const VERB: &str = "bench-backend";

const BODY_BYTES: usize = 1024;
/// A head beyond this ends the connection.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Serves on a free port of the loopback, which it prints, until it is killed.
pub fn serve() -> Result<bool, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("cannot bind the loopback: {error}"))?;
    let address = listener.local_addr().map_err(|error| format!("cannot tell the bound address: {error}"))?;
    println!("{address}");
    for stream in listener.incoming().flatten() {
        // One that breaks is the load generator's to count.
        std::thread::spawn(move || answer_all(stream));
    }
    Ok(true)
}

fn answer_all(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let body = "x".repeat(BODY_BYTES);
    let answer = |connection: &str| {
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {BODY_BYTES}\r\n{connection}\r\n");
        [head.as_bytes(), body.as_bytes()].concat()
    };
    let (keep, close) = (answer(""), answer("Connection: close\r\n"));
    let mut pending = Vec::with_capacity(HEAD_BYTES_MAX);
    let mut buffer = vec![0; HEAD_BYTES_MAX];
    // A load generator repeats itself: a head that was understood once is only compared, which costs next to nothing.
    let mut known = Vec::new();
    loop {
        let n = stream.read(&mut buffer)?;
        if pending.is_empty() && n > 0 && buffer[..n] == known[..] {
            stream.write_all(&keep)?;
            continue;
        }
        pending.extend_from_slice(&buffer[..n]);
        while let Some(end) = pending.windows(4).position(|four| four == b"\r\n\r\n") {
            let head: Vec<u8> = pending.drain(..end + 4).collect();
            if head.to_ascii_lowercase().windows(17).any(|w| w == b"connection: close") {
                return stream.write_all(&close);
            }
            stream.write_all(&keep)?;
            known = head;
        }
        if n == 0 || pending.len() > HEAD_BYTES_MAX {
            return Ok(());
        }
    }
}
