//! Message heads: one strict reader for requests and responses, and the heads that are passed on.
//!
//! Whatever two parties could read differently is refused rather than repaired (RFC 9112 §2.2, §5, §6.3, §11.2): bare CR or LF,
//! folds, control characters, two lengths, a length beside a transfer coding, codings other than `chunked`, a missing or second Host.

use std::io::Write;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};

use crate::body::{Body, Chunks};

/// Longest head, in bytes.
pub(crate) const HEAD_MAX: usize = 64 << 10;
/// Most header fields.
const HEADERS_MAX: usize = 100;
/// Most `Connection` fields.
const CONNECTIONS_MAX: usize = 4;

/// Why a request is not passed on: the status that is answered, and a word for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reject {
    pub(crate) status: u16,
    pub(crate) why: &'static str,
}

/// What matters of a request head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RequestHead {
    pub(crate) idempotent: bool,
    pub(crate) is_head: bool,
    pub(crate) is_http10: bool,
    pub(crate) keep: bool,
    pub(crate) upgrade: bool,
    pub(crate) body: Body,
}

/// What matters of a response head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    pub(crate) body: Body,
    /// The backend keeps the connection.
    pub(crate) reusable: bool,
    /// It can be passed on byte by byte.
    pub(crate) plain: bool,
}

/// How a passed-on response head speaks of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persist {
    /// It stays, and HTTP/1.1 implies it.
    Implied,
    /// It stays, and an HTTP/1.0 client must be told.
    KeepAlive,
    Close,
}

const fn bad(why: &'static str) -> Reject {
    Reject { status: 400, why }
}

const TOO_LARGE: Reject = Reject { status: 431, why: "request head too large" };

/// Looks for the end of a head, from `searched` on, and checks every byte on the way. Gives the length of the head with its empty
/// line, or `None` while it is incomplete.
pub(crate) fn find_end(input: &[u8], searched: &mut usize) -> Result<Option<usize>, Reject> {
    let mut at = *searched;
    while at < input.len() {
        match input[at] {
            b'\r' => {
                match input.get(at + 1) {
                    None => break,
                    Some(b'\n') => {}
                    Some(_) => return Err(bad("bare CR")),
                }
                if at >= 2 && input[at - 1] == b'\n' {
                    return if at + 2 > HEAD_MAX { Err(TOO_LARGE) } else { Ok(Some(at + 2)) };
                }
                at += 2;
            }
            b'\n' => return Err(bad("bare LF")),
            b' ' | b'\t' if at > 0 && input[at - 1] == b'\n' => return Err(bad("folded header")),
            b'\t' | b' '..=b'~' | 0x80.. => at += 1,
            _ => return Err(bad("control character")),
        }
    }
    *searched = at;
    if at >= HEAD_MAX { Err(TOO_LARGE) } else { Ok(None) }
}

/// Fields that decide how a message is framed or kept; gathered in one pass.
#[derive(Default)]
struct Fields<'h> {
    host: Option<&'h [u8]>,
    length: Option<u64>,
    chunked: bool,
    connections: [&'h [u8]; CONNECTIONS_MAX],
    connection_count: usize,
    upgrade: Option<&'h [u8]>,
    expect: Option<&'h [u8]>,
    forwarded: bool,
    /// Some field speaks of this connection only.
    hop_by_hop: bool,
}

impl<'h> Fields<'h> {
    fn gather(headers: &[httparse::Header<'h>]) -> Result<Self, Reject> {
        let mut fields = Self::default();
        for header in headers {
            fields.add(header)?;
        }
        if fields.chunked && fields.length.is_some() {
            return Err(bad("both Content-Length and Transfer-Encoding"));
        }
        Ok(fields)
    }

    fn add(&mut self, header: &httparse::Header<'h>) -> Result<(), Reject> {
        let (name, value) = (header.name.as_bytes(), header.value);
        match Name::of(name) {
            Name::Host => {
                if self.host.replace(value).is_some() {
                    return Err(bad("two Host fields"));
                }
            }
            Name::ContentLength => {
                if self.length.replace(length(value)?).is_some() {
                    return Err(bad("two Content-Length fields"));
                }
            }
            Name::TransferEncoding => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(bad("Transfer-Encoding other than chunked"));
                }
                self.chunked = true;
            }
            Name::Connection => {
                let slot = self.connections.get_mut(self.connection_count).ok_or(bad("too many Connection fields"))?;
                *slot = value;
                self.connection_count += 1;
                self.hop_by_hop = true;
            }
            Name::Upgrade => {
                if self.upgrade.replace(value).is_some() {
                    return Err(bad("two Upgrade fields"));
                }
                self.hop_by_hop = true;
            }
            Name::Expect => self.expect = Some(value),
            Name::ForwardedFor => self.forwarded = true,
            Name::HopByHop => self.hop_by_hop = true,
            Name::ForwardedProto | Name::Other => {}
        }
        Ok(())
    }

    /// Whether `Connection` names this token.
    fn connection_names(&self, token: &[u8]) -> bool {
        self.connections[..self.connection_count]
            .iter()
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|named| named.trim_ascii().eq_ignore_ascii_case(token))
    }

    fn keeps(&self, is_http10: bool) -> bool {
        !self.connection_names(b"close") && (!is_http10 || self.connection_names(b"keep-alive"))
    }
}

/// Fields the balancer has to know.
#[derive(PartialEq, Eq)]
enum Name {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Expect,
    ForwardedFor,
    ForwardedProto,
    /// Speaks of this connection only (RFC 9110 §7.6.1).
    HopByHop,
    Other,
}

impl Name {
    fn of(name: &[u8]) -> Self {
        // Most fields are told apart by their length alone.
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match name.len() {
            2 if is(b"te") => Self::HopByHop,
            4 if is(b"host") => Self::Host,
            6 if is(b"expect") => Self::Expect,
            7 if is(b"upgrade") => Self::Upgrade,
            10 if is(b"connection") => Self::Connection,
            10 if is(b"keep-alive") => Self::HopByHop,
            14 if is(b"content-length") => Self::ContentLength,
            15 if is(b"x-forwarded-for") => Self::ForwardedFor,
            16 if is(b"proxy-connection") => Self::HopByHop,
            17 if is(b"transfer-encoding") => Self::TransferEncoding,
            17 if is(b"x-forwarded-proto") => Self::ForwardedProto,
            19 if is(b"proxy-authorization") => Self::HopByHop,
            _ => Self::Other,
        }
    }

    /// Whether a field is passed on as it came. What frames a message is written anew, whatever `Connection` says about it.
    fn is_passed(&self) -> bool {
        matches!(self, Self::Host | Self::ContentLength | Self::Expect | Self::Other)
    }

    fn is_strippable(&self) -> bool {
        !matches!(self, Self::Host | Self::ContentLength)
    }
}

fn length(value: &[u8]) -> Result<u64, Reject> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(bad("malformed Content-Length"));
    }
    Ok(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// Reads a request head and writes the one for the backend into `out`, which is left alone if the head is refused.
pub(crate) fn request(
    head: &[u8],
    peer: IpAddr,
    listener: SocketAddr,
    out: &mut Vec<u8>,
) -> Result<RequestHead, Reject> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, &mut headers) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
        Err(httparse::Error::Version) => return Err(bad("HTTP version other than 1.0 and 1.1")),
        Ok(httparse::Status::Partial) | Err(_) => return Err(bad("malformed head")),
    }
    let (Some(method), Some(path), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(bad("malformed head"));
    };
    let is_http10 = version == 0;
    let fields = Fields::gather(parsed.headers)?;
    let (authority, path) = target(method, path)?;
    let host = host(&fields, authority, is_http10)?;
    if is_http10 && fields.chunked {
        return Err(bad("Transfer-Encoding in HTTP/1.0"));
    }
    if fields.expect.is_some_and(|expect| !expect.eq_ignore_ascii_case(b"100-continue")) {
        return Err(Reject { status: 417, why: "unknown expectation" });
    }
    let body = match (fields.chunked, fields.length) {
        (true, _) => Body::Chunked(Chunks::default()),
        (false, Some(0) | None) => Body::Done,
        (false, Some(length)) => Body::Length(length),
    };
    let upgrade = fields.upgrade.filter(|protocol| {
        let smuggles = protocol.split(|byte| *byte == b',').any(|name| name.trim_ascii().eq_ignore_ascii_case(b"h2c"));
        !is_http10 && body.is_done() && !smuggles && fields.connection_names(b"upgrade")
    });

    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    match host {
        Some(host) => out.extend_from_slice(host),
        None => {
            let _ = write!(out, "{listener}");
        }
    }
    out.extend_from_slice(b"\r\n");
    write_fields(parsed.headers, &fields, true, out);
    if fields.chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if let Some(protocol) = upgrade {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: ");
        out.extend_from_slice(protocol);
        out.extend_from_slice(b"\r\n");
    }
    write_forwarded(parsed.headers, &fields, peer, out);
    out.extend_from_slice(b"\r\n");
    Ok(RequestHead {
        idempotent: matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE"),
        is_head: method == "HEAD",
        is_http10,
        keep: fields.keeps(is_http10),
        upgrade: upgrade.is_some(),
        body,
    })
}

/// Splits a request target into its authority, if it has one, and the part for the backend (RFC 9112 §3.2).
fn target<'t>(method: &str, target: &'t str) -> Result<(Option<&'t [u8]>, &'t str), Reject> {
    if method == "CONNECT" {
        return Err(Reject { status: 501, why: "CONNECT is not served" });
    }
    if target.bytes().any(|byte| byte >= 0x7f || byte == b'#') {
        return Err(bad("malformed target"));
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok((None, target));
    }
    let scheme = target.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://"));
    let rest = &target[scheme.ok_or(bad("malformed target"))?.len()..];
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if path.starts_with('?') {
        return Err(bad("malformed target"));
    }
    let path = if path.is_empty() { "/" } else { path };
    Ok((Some(authority.as_bytes()), path))
}

/// The Host for the backend: the authority of the target goes before the field.
fn host<'h>(fields: &Fields<'h>, authority: Option<&'h [u8]>, is_http10: bool) -> Result<Option<&'h [u8]>, Reject> {
    if fields.host.is_none() && !is_http10 {
        return Err(bad("no Host"));
    }
    for host in [fields.host, authority].into_iter().flatten() {
        let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(byte);
        if host.is_empty() || !host.iter().all(valid) {
            return Err(bad("malformed Host"));
        }
    }
    Ok(authority.or(fields.host))
}

fn write_fields(headers: &[httparse::Header<'_>], fields: &Fields<'_>, host_written: bool, out: &mut Vec<u8>) {
    for header in headers {
        let name = Name::of(header.name.as_bytes());
        if !name.is_passed() || (host_written && name == Name::Host) {
            continue;
        }
        if fields.connection_count > 0 && name.is_strippable() && fields.connection_names(header.name.as_bytes()) {
            continue;
        }
        write_field(header, out);
    }
}

fn write_field(header: &httparse::Header<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(header.name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(header.value);
    out.extend_from_slice(b"\r\n");
}

/// Says for whom the request is passed on: the client's address goes behind those that were there.
fn write_forwarded(headers: &[httparse::Header<'_>], fields: &Fields<'_>, peer: IpAddr, out: &mut Vec<u8>) {
    out.extend_from_slice(b"X-Forwarded-For: ");
    if fields.forwarded {
        for header in headers {
            if Name::of(header.name.as_bytes()) == Name::ForwardedFor && !header.value.is_empty() {
                out.extend_from_slice(header.value);
                out.extend_from_slice(b", ");
            }
        }
    }
    let _ = write!(out, "{peer}");
    out.extend_from_slice(b"\r\nX-Forwarded-Proto: http\r\n");
}

/// Reads a response head. `None`: it is not one that can be trusted.
pub(crate) fn response(head: &[u8], to_head: bool) -> Option<ResponseHead> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, head, &mut headers) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return None,
    }
    let (status, is_http10) = (parsed.code?, parsed.version? == 0);
    let fields = Fields::gather(parsed.headers).ok()?;
    if status < 100 || (is_http10 && fields.chunked) {
        return None;
    }
    let bodiless = to_head || status < 200 || status == 204 || status == 304;
    let body = match (bodiless, fields.chunked, fields.length) {
        (true, ..) | (false, false, Some(0)) => Body::Done,
        (false, true, _) => Body::Chunked(Chunks::default()),
        (false, false, Some(length)) => Body::Length(length),
        (false, false, None) => Body::UntilClose,
    };
    Some(ResponseHead {
        status,
        body,
        reusable: fields.keeps(is_http10) && body != Body::UntilClose,
        plain: !is_http10 && !fields.hop_by_hop,
    })
}

/// Writes the response head for the client. `unchunk`: the client gets the body without its chunks.
pub(crate) fn render_response(head: &[u8], persist: Persist, unchunk: bool, out: &mut Vec<u8>) {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let read = config.parse_response_with_uninit_headers(&mut parsed, head, &mut headers);
    let (Ok(_), Some(status)) = (read, parsed.code) else {
        return;
    };
    // Gathered once already when the head was read.
    let fields = Fields::gather(parsed.headers).unwrap_or_default();
    let _ = write!(out, "HTTP/1.1 {status} {}\r\n", parsed.reason.unwrap_or(""));
    write_fields(parsed.headers, &fields, false, out);
    for header in parsed.headers.iter() {
        let forwarded = matches!(Name::of(header.name.as_bytes()), Name::ForwardedFor | Name::ForwardedProto);
        if forwarded {
            write_field(header, out);
        }
    }
    if fields.chunked && !unchunk {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    match persist {
        Persist::Implied => {}
        Persist::KeepAlive => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        Persist::Close => out.extend_from_slice(b"Connection: close\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
