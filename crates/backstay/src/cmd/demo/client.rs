//! One client of the demo: one attempt per request, no second try, so that what it counts is what users would see.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer may take: longer than any promised outage, so that a request that is held is not called failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// Requests on one connection before a new one is opened: both ways are put to the test.
const REQUESTS_PER_CONNECTION: u32 = 8;
/// More than any answer of a program in a demo.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// From here on an answer means that nobody served: the balancer's own refusals, or a broken program.
const FIRST_FAILURE_STATUS: u16 = 500;

/// A client of one address.
pub struct Client {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
    used: u32,
}

impl Client {
    /// For an address; nothing is opened yet.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, connection: None, used: 0 }
    }

    /// One GET of `/`.
    pub fn ask(&mut self) -> io::Result<()> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        self.used += 1;
        let is_last = self.used >= REQUESTS_PER_CONNECTION;
        let header = if is_last { "close" } else { "keep-alive" };
        let request = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: {header}\r\n\r\n", self.address);
        connection.get_mut().write_all(request.as_bytes())?;
        let answer = read_answer(&mut connection)?;
        if answer.stays_open && !is_last {
            self.connection = Some(connection);
        }
        match answer.status {
            ..FIRST_FAILURE_STATUS => Ok(()),
            status => Err(io::Error::other(format!("status {status}"))),
        }
    }

    fn connect(&mut self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        self.used = 0;
        Ok(BufReader::new(stream))
    }
}

struct Answer {
    status: u16,
    stays_open: bool,
}

/// Reads one whole answer, whatever program gave it.
fn read_answer(reader: &mut impl BufRead) -> io::Result<Answer> {
    let cut_off = || io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut off");
    let mut reader = reader.take(ANSWER_BYTES_MAX);
    let status_line = line(&mut reader)?.ok_or_else(cut_off)?;
    let status = status_line.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("not an answer: {status_line}")))?;
    let (mut length, mut is_chunked, mut stays_open) = (None, false, status_line.starts_with("HTTP/1.1"));
    loop {
        let header = line(&mut reader)?.ok_or_else(cut_off)?.to_ascii_lowercase();
        let Some((name, value)) = header.split_once(':') else { break };
        match name {
            "content-length" => length = value.trim().parse::<u64>().ok(),
            "transfer-encoding" => is_chunked = value.contains("chunked"),
            "connection" => stays_open = !value.contains("close"),
            _ => {}
        }
    }
    match (is_chunked, length) {
        (true, _) => skip_chunks(&mut reader, cut_off)?,
        (false, Some(length)) => skip(&mut reader, length, cut_off)?,
        (false, None) => {
            io::copy(&mut reader, &mut io::sink())?;
            stays_open = false;
        }
    }
    Ok(Answer { status, stays_open })
}

fn line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut text = String::new();
    let read = reader.read_line(&mut text)?;
    Ok((read > 0 && text.ends_with('\n')).then(|| text.trim_end().to_owned()))
}

fn skip(reader: &mut impl Read, length: u64, cut_off: impl Fn() -> io::Error) -> io::Result<()> {
    match io::copy(&mut reader.take(length), &mut io::sink())? {
        read if read == length => Ok(()),
        _ => Err(cut_off()),
    }
}

fn skip_chunks(reader: &mut impl BufRead, cut_off: impl Fn() -> io::Error + Copy) -> io::Result<()> {
    loop {
        let size = line(reader)?.ok_or_else(cut_off)?;
        let size = size.split(';').next().and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
        match size.ok_or_else(|| io::Error::other("not the size of a chunk"))? {
            0 => {
                // Trailers, up to an empty line.
                while !line(reader)?.ok_or_else(cut_off)?.is_empty() {}
                return Ok(());
            }
            size => {
                skip(reader, size, cut_off)?;
                line(reader)?.ok_or_else(cut_off)?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<(u16, bool)> {
        read_answer(&mut text.as_bytes()).map(|answer| (answer.status, answer.stays_open))
    }

    #[test]
    fn every_framing_is_read_to_its_end() {
        assert_eq!(read("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap(), (200, true));
        assert_eq!(
            read("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").unwrap(),
            (200, true)
        );
        assert_eq!(read("HTTP/1.0 404 No\r\n\r\nuntil the end").unwrap(), (404, false));
        assert_eq!(read("HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap(), (503, false));
    }

    #[test]
    fn a_cut_off_answer_is_never_taken_for_a_whole_one() {
        for text in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "nonsense\r\n\r\n"] {
            assert!(read(text).is_err(), "{text:?}");
        }
        assert!(read("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n").is_err());
    }
}
