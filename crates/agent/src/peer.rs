//! How agents talk: one HTTP/2 stack over mutual TLS, used by the store, the coordinator and the observers alike.
//!
//! Each pair of nodes has one connection per [`Lane`], so that a snapshot never delays a heartbeat. A connection is opened
//! when it is first needed and given up after any timeout or error: a dead one that goes on being used starves a follower.
//! Calls that are under way on a connection that was given up end by themselves.
//!
//! Who calls is read from the verified certificate only, and membership is asked for every request, so that a node that was
//! removed is refused at once. A member may still misbehave: connections, streams, bodies and waits are all bounded.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backstay_model::{Instant, NodeName};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::clock;
use crate::identity::{ALPN_H2, Identity, dns_name};

/// How long a TCP connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the TLS handshake may take, on either side.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Opening a connection is over by then, whatever happened to the task that does it.
const OPEN_WITHIN: Duration = Duration::from_secs(5);
/// A dead peer costs at most one attempt to connect per this, per lane.
const RETRY_GAP: Duration = Duration::from_millis(100);
/// Bytes that stay unacknowledged this long end a connection.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection is probed this often, also when idle.
const KEEP_ALIVE_EVERY: Duration = Duration::from_millis(500);
/// A probe without an answer for this long ends the connection.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Calls under way from one node to another in one lane; more wait, within their timeout.
const MAX_CALLS_PER_LINE: usize = 64;
/// Requests and answers of [`Lane::Bulk`] are at most this large: a snapshot is one request, of a whole store.
pub const MAX_BULK_BYTES: usize = 80 << 20;
/// Requests and answers of [`Lane::Control`] and [`Lane::Client`] are at most this large: the store appends up to
/// 32 entries at a time, each of at most 1 MiB.
pub const MAX_BODY_BYTES: usize = 40 << 20;
/// Requests and answers of [`Lane::Observe`] are at most this large.
pub const MAX_OBSERVE_BYTES: usize = 1 << 20;

/// A connection over which no answer came for this long is given up when a call over it takes too long.
const SILENT_FOR: Duration = Duration::from_millis(500);
/// Connections that a server keeps open.
const MAX_CONNECTIONS: usize = 256;
/// Connections that a server keeps open to one node: its lanes, and some that it has given up but that are still closing.
const MAX_CONNECTIONS_PER_NODE: usize = 32;
/// TLS handshakes that a server has under way; the others wait in the listener's backlog.
const MAX_HANDSHAKES: usize = 64;
/// Requests that a server has under way on one connection.
const MAX_STREAMS: u32 = 128;
/// Requests that a server has under way.
const MAX_SERVED_CALLS: usize = 512;
/// Bytes of bulk requests that a server holds.
const MAX_SERVED_BULK_BYTES: usize = 2 * MAX_BULK_BYTES;
/// Bytes of all other requests that a server holds.
const MAX_SERVED_BYTES: usize = 3 * MAX_BODY_BYTES;
/// How long a request may wait for its turn, and again for its body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams that a peer reset and that were not looked at yet; more end the connection (the "rapid reset" flood).
const MAX_PENDING_RESETS: usize = 32;
/// Streams that this side reset for a peer's errors; more end the connection.
const MAX_ERROR_RESETS: usize = 128;
/// Headers of one request.
const MAX_HEADER_BYTES: u32 = 8 * 1024;
/// Bytes that may be on their way on one stream and on one connection.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// After an error of the listener (no file descriptors, say) it is left alone for this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Of a refusal's text, this much is kept.
const MAX_MESSAGE_CHARS: usize = 500;

const LANE_HEADER: &str = "backstay-lane";

/// A future on the heap.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a connection is for: traffic of one lane never waits for another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Votes, heartbeats, log entries.
    Control,
    /// Snapshots.
    Bulk,
    /// Requests to the store and the coordinator.
    Client,
    /// Observations.
    Observe,
}

impl Lane {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Bulk => "bulk",
            Self::Client => "client",
            Self::Observe => "observe",
        }
    }

    /// How large a request or answer may be, in bytes.
    pub fn limit_bytes(self) -> usize {
        match self {
            Self::Bulk => MAX_BULK_BYTES,
            Self::Control | Self::Client => MAX_BODY_BYTES,
            Self::Observe => MAX_OBSERVE_BYTES,
        }
    }
}

impl FromStr for Lane {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Control, Self::Bulk, Self::Client, Self::Observe]
            .into_iter()
            .find(|lane| lane.as_str() == text)
            .ok_or(())
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// There is no connection: the peer certainly got nothing. Worth trying again.
    #[error("node `{node}` cannot be reached: {why}")]
    Unreachable {
        /// Who was called.
        node: NodeName,
        /// What happened.
        why: String,
    },
    /// The connection broke before the whole answer was here: the peer may have done what was asked. To be tried again
    /// only where doing it twice does no harm.
    #[error("node `{node}` was lost before it answered: {why}")]
    Lost {
        /// Who was called.
        node: NodeName,
        /// What happened.
        why: String,
    },
    /// No answer in time: the peer may have done what was asked. To be tried again only where doing it twice does no harm.
    #[error("node `{node}` did not answer within {} ms", waited.as_millis())]
    Timeout {
        /// Who was called.
        node: NodeName,
        /// How long was waited.
        waited: Duration,
    },
    /// The peer answered no.
    #[error("node `{node}` refused ({status}): {message}")]
    Refused {
        /// Who was called.
        node: NodeName,
        /// HTTP status, never 403.
        status: u16,
        /// The peer's reason.
        message: String,
    },
    /// The peer does not count this node as a member. Trying again helps only once it has been added.
    #[error("node `{node}` does not know this node as a member of the cluster: see `backstay status` there")]
    NotMember {
        /// Who was called.
        node: NodeName,
    },
}

/// A handler's no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRefusal {
    /// HTTP status, 400 to 599; 403 is reserved for "not a member".
    pub status: u16,
    /// Why, for people.
    pub message: String,
}

/// Answers calls of peers.
pub trait PeerHandler: Send + Sync + 'static {
    /// Answers one call of a member. Its future is dropped when the caller gives up, so it must bear that at every await.
    fn handle(&self, from: NodeName, path: String, body: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, PeerRefusal>>;

    /// Whether a node may call at all. Asked for every request, so cheap.
    fn is_member(&self, node: &NodeName) -> bool;
}

/// Calls peers. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct PeerNet {
    shared: Arc<NetShared>,
}

struct NetShared {
    identity: Arc<Identity>,
    addresses: watch::Receiver<BTreeMap<NodeName, SocketAddr>>,
    lines: Mutex<BTreeMap<(NodeName, Lane), Arc<Line>>>,
}

/// The way to one node in one lane.
struct Line {
    node: NodeName,
    lane: Lane,
    calls: Semaphore,
    state: watch::Sender<LineState>,
}

enum LineState {
    Closed { tried: Option<Instant>, why: String },
    Opening { since: Instant },
    Open(Link),
}

/// An open connection.
#[derive(Clone)]
struct Link {
    sender: SendRequest<Full<Bytes>>,
    address: SocketAddr,
    tried: Instant,
    /// When the last whole answer came over it, or when it was opened.
    heard: Arc<AtomicU64>,
}

impl PeerNet {
    /// Will call the nodes of `addresses`, as the node of `identity`. Opens nothing yet.
    pub fn new(identity: Arc<Identity>, addresses: watch::Receiver<BTreeMap<NodeName, SocketAddr>>) -> Self {
        Self { shared: Arc::new(NetShared { identity, addresses, lines: Mutex::default() }) }
    }

    /// Sends `body` to `path` (which begins with `/`) of node `to` and waits at most `within` for the answer.
    ///
    /// The call is over when the future is dropped; the connection is given up then too, for its caller may have seen a
    /// timeout of its own.
    pub async fn call(
        &self,
        to: &str,
        lane: Lane,
        path: &str,
        body: Vec<u8>,
        within: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        let node = NodeName::from(to);
        let unreachable = |why: String| PeerError::Unreachable { node: node.clone(), why };
        let Some(address) = self.shared.addresses.borrow().get(&node).copied() else {
            return Err(unreachable("no node of this name is in the file".into()));
        };
        if body.len() > lane.limit_bytes() {
            let message = format!("a {} request of {} bytes is over {}", lane.as_str(), body.len(), lane.limit_bytes());
            return Err(PeerError::Refused { node, status: 413, message });
        }
        let line = self.line(&node, lane);
        let begun = clock::now();
        let ready = async {
            let permit = line.calls.acquire().await.map_err(|_| "this agent is stopping".to_owned())?;
            Ok::<_, String>((permit, line.link(&self.shared.identity, address).await?))
        };
        let (_permit, link) = match timeout(within, ready).await {
            Ok(ready) => ready.map_err(&unreachable)?,
            Err(_) => return Err(unreachable(format!("no connection to {address} within {} ms", within.as_millis()))),
        };
        let left = within.saturating_sub(clock::now().since(begun));
        let answer = timeout(left, line.exchange(link, path, body)).await;
        answer.unwrap_or(Err(PeerError::Timeout { node: node.clone(), waited: within }))
    }

    fn line(&self, node: &NodeName, lane: Lane) -> Arc<Line> {
        let mut lines = self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(&(node.clone(), lane)) {
            return line.clone();
        }
        // Nodes that left are forgotten when one comes: there are never more lines than nodes times lanes.
        let addresses = self.shared.addresses.borrow();
        lines.retain(|(node, _), _| addresses.contains_key(node));
        let closed = LineState::Closed { tried: None, why: String::new() };
        let line = Line {
            node: node.clone(),
            lane,
            calls: Semaphore::new(MAX_CALLS_PER_LINE),
            state: watch::Sender::new(closed),
        };
        lines.entry((node.clone(), lane)).or_insert(Arc::new(line)).clone()
    }
}

/// What the state of a line means for a call.
enum Way {
    Use(Link),
    Fail(String),
    Wait,
    Open,
}

impl Line {
    /// The open connection to `address`, opened when there is none. Opening goes on when the caller gives up, so that a
    /// short timeout over a slow network still gets a connection in the end.
    async fn link(self: &Arc<Self>, identity: &Arc<Identity>, address: SocketAddr) -> Result<Link, String> {
        let mut changes = self.state.subscribe();
        let mut waited = false;
        loop {
            match self.way(address, waited) {
                Way::Use(link) => return Ok(link),
                Way::Fail(why) => return Err(why),
                Way::Wait => {}
                Way::Open => {
                    let (line, identity) = (self.clone(), identity.clone());
                    tokio::spawn(async move {
                        let tried = clock::now();
                        let state = match open(&identity, &line.node, address).await {
                            Ok(sender) => {
                                let heard = Arc::new(AtomicU64::new(clock::now().0));
                                LineState::Open(Link { sender, address, tried, heard })
                            }
                            Err(why) => LineState::Closed { tried: Some(tried), why },
                        };
                        line.state.send_replace(state);
                    });
                }
            }
            waited = true;
            if changes.changed().await.is_err() {
                return Err("this agent is stopping".into());
            }
        }
    }

    /// Judges the state and, when the answer is [`Way::Open`], has marked the line as opening.
    fn way(&self, address: SocketAddr, waited: bool) -> Way {
        let now = clock::now();
        let mut way = Way::Wait;
        self.state.send_if_modified(|state| {
            way = match state {
                LineState::Open(link) if !link.sender.is_closed() && link.address == address => Way::Use(link.clone()),
                LineState::Open(link) if now.since(link.tried) < RETRY_GAP => {
                    Way::Fail("the connection was lost".into())
                }
                LineState::Closed { why, .. } if waited => Way::Fail(why.clone()),
                LineState::Closed { tried: Some(tried), why } if now.since(*tried) < RETRY_GAP => {
                    Way::Fail(why.clone())
                }
                LineState::Opening { since } if now.since(*since) < OPEN_WITHIN => Way::Wait,
                LineState::Opening { .. } | LineState::Open(_) | LineState::Closed { .. } => Way::Open,
            };
            let opening = matches!(way, Way::Open);
            if opening {
                *state = LineState::Opening { since: now };
            }
            opening
        });
        way
    }

    async fn exchange(&self, mut link: Link, path: &str, body: Vec<u8>) -> Result<Vec<u8>, PeerError> {
        let unreachable = |why: String| PeerError::Unreachable { node: self.node.clone(), why };
        let lost = |why: String| PeerError::Lost { node: self.node.clone(), why };
        let request = Request::post(format!("https://{}{path}", link.address))
            .header(LANE_HEADER, self.lane.as_str())
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| unreachable(format!("cannot ask for {path}: {error}")))?;

        // Until the whole answer is here, every way out of this function gives a silent connection up.
        let mut giving_up = GiveUp { line: self, tried: link.tried, heard: Some(link.heard.clone()), armed: true };
        let response = link.sender.try_send_request(request).await.map_err(|error| match error.message() {
            Some(_) => unreachable(chain_text(error.error())),
            None => lost(chain_text(error.error())),
        });
        let response = giving_up.certain_if_failed(response)?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), self.lane.limit_bytes())
            .collect()
            .await
            .map_err(|error| lost(format!("its answer broke off: {}", chain_text(&*error))));
        let answer = giving_up.certain_if_failed(answer)?.to_bytes();
        link.heard.store(clock::now().0, Ordering::Relaxed);
        giving_up.disarm();

        match status {
            StatusCode::OK => Ok(answer.into()),
            StatusCode::FORBIDDEN => Err(PeerError::NotMember { node: self.node.clone() }),
            status => {
                let message = String::from_utf8_lossy(&answer).chars().take(MAX_MESSAGE_CHARS).collect();
                Err(PeerError::Refused { node: self.node.clone(), status: status.as_u16(), message })
            }
        }
    }
}

/// Closes the line to new calls when dropped armed, unless another connection has taken its place meanwhile.
///
/// A call that only took too long does not condemn a connection over which answers came a moment ago: the peer is slow,
/// and a new handshake would make it slower still. One that is silent for [`SILENT_FOR`] is given up: a dead connection that
/// is kept would starve a follower.
struct GiveUp<'a> {
    line: &'a Line,
    tried: Instant,
    heard: Option<Arc<AtomicU64>>,
    armed: bool,
}

impl GiveUp<'_> {
    /// An error of the connection itself needs no further proof.
    fn certain_if_failed<T>(&mut self, result: Result<T, PeerError>) -> Result<T, PeerError> {
        if result.is_err() {
            self.heard = None;
        }
        result
    }

    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        let heard = self.heard.as_ref().map(|heard| Instant(heard.load(Ordering::Relaxed)));
        let speaks = heard.is_some_and(|heard| clock::now().since(heard) < SILENT_FOR);
        if !self.armed || speaks {
            return;
        }
        self.line.state.send_if_modified(|state| {
            let ours = matches!(state, LineState::Open(link) if link.tried == self.tried);
            if ours {
                *state = LineState::Closed { tried: Some(self.tried), why: "its last call had no answer".into() };
            }
            ours
        });
    }
}

/// Opens a connection and makes sure that it leads to the very node that was meant.
async fn open(identity: &Identity, node: &NodeName, address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, String> {
    let name = ServerName::try_from(dns_name(identity.cluster(), node.as_str()))
        .map_err(|_| "its name cannot stand in a certificate".to_owned())?;
    let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Err(_) => return Err(format!("{address} did not accept within {} ms", CONNECT_TIMEOUT.as_millis())),
        Ok(Err(error)) => return Err(format!("{address}: {error}")),
        Ok(Ok(stream)) => stream,
    };
    tune(&stream).map_err(|error| format!("{address}: {error}"))?;
    let stream =
        match timeout(HANDSHAKE_TIMEOUT, TlsConnector::from(identity.client_config()).connect(name, stream)).await {
            Err(_) => return Err(format!("{address}: no TLS handshake within {} ms", HANDSHAKE_TIMEOUT.as_millis())),
            Ok(Err(error)) => return Err(format!("{address}: TLS: {error}")),
            Ok(Ok(stream)) => stream,
        };
    let session = stream.get_ref().1;
    // Names in certificates ignore case, names of nodes do not.
    if session.peer_certificates().and_then(|chain| identity.peer_node(chain)).as_ref() != Some(node) {
        return Err(format!("{address} is another node"));
    }
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("{address}: {}", chain_text(&error)))?;
    let node = node.clone();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%node, %address, error = chain_text(&error), "a connection to a peer ended");
        }
    });
    Ok(sender)
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let millis = u32::try_from(TCP_USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream, millis)?;
    Ok(())
}

/// An error with everything that caused it, in one line.
fn chain_text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Answers peers until it is dropped.
pub struct PeerServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl PeerServer {
    /// Answers on `listener` as the node of `identity`. Must be called within a tokio runtime.
    pub fn serve(
        listener: std::net::TcpListener,
        identity: Arc<Identity>,
        handler: Arc<dyn PeerHandler>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(ServerShared {
            identity,
            handler,
            connections: Mutex::default(),
            calls: Semaphore::new(MAX_SERVED_CALLS),
            bulk_bytes: Semaphore::new(MAX_SERVED_BULK_BYTES),
            bytes: Semaphore::new(MAX_SERVED_BYTES),
        });
        Ok(Self { address, task: tokio::spawn(accept(listener, shared)) })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for PeerServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct ServerShared {
    identity: Arc<Identity>,
    handler: Arc<dyn PeerHandler>,
    connections: Mutex<BTreeMap<NodeName, usize>>,
    calls: Semaphore,
    bulk_bytes: Semaphore,
    bytes: Semaphore,
}

async fn accept(listener: TcpListener, shared: Arc<ServerShared>) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    // Dropped, and every connection with it, when the server is.
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, address)) => {
                connections.spawn(serve_connection(stream, address, permit, shared.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections of peers for the moment");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    address: SocketAddr,
    permit: OwnedSemaphorePermit,
    shared: Arc<ServerShared>,
) {
    let (stream, from) = match timeout(HANDSHAKE_TIMEOUT, authenticate(stream, &shared.identity)).await {
        Ok(Ok(authenticated)) => authenticated,
        Ok(Err(why)) => return tracing::debug!(%address, why, "refused a connection"),
        Err(_) => return tracing::debug!(%address, "a TLS handshake took too long"),
    };
    drop(permit);
    let Some(_place) = Place::take(&shared, &from) else {
        return tracing::warn!(%from, %address, "refused a connection: there are too many");
    };
    let service = {
        let (shared, from) = (shared.clone(), from.clone());
        hyper::service::service_fn(move |request| {
            let (shared, from) = (shared.clone(), from.clone());
            async move { Ok::<_, Infallible>(respond(request, from, &shared).await) }
        })
    };
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%from, %address, error = chain_text(&error), "a connection of a peer ended");
    }
}

async fn authenticate(stream: TcpStream, identity: &Identity) -> Result<(TlsStream<TcpStream>, NodeName), String> {
    tune(&stream).map_err(|error| error.to_string())?;
    let stream = TlsAcceptor::from(identity.server_config()).accept(stream).await.map_err(|error| error.to_string())?;
    let session = stream.get_ref().1;
    if session.alpn_protocol() != Some(ALPN_H2) {
        return Err("it does not speak HTTP/2".into());
    }
    let from = session
        .peer_certificates()
        .and_then(|chain| identity.peer_node(chain))
        .ok_or("its certificate names no node of this cluster")?;
    Ok((stream, from))
}

/// The place of one connection among those that a server keeps.
struct Place {
    shared: Arc<ServerShared>,
    node: NodeName,
}

impl Place {
    fn take(shared: &Arc<ServerShared>, node: &NodeName) -> Option<Self> {
        let mut connections = shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = connections.values().sum();
        let own = connections.get(node).copied().unwrap_or(0);
        if all >= MAX_CONNECTIONS || own >= MAX_CONNECTIONS_PER_NODE {
            return None;
        }
        connections.insert(node.clone(), own + 1);
        Some(Self { shared: shared.clone(), node: node.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connections = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        match connections.get_mut(&self.node) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                connections.remove(&self.node);
            }
        }
    }
}

async fn respond(request: Request<Incoming>, from: NodeName, shared: &ServerShared) -> Response<Full<Bytes>> {
    if !shared.handler.is_member(&from) {
        return refusal(StatusCode::FORBIDDEN, format!("node `{from}` is not a member of this cluster"));
    }
    let lane = request
        .headers()
        .get(LANE_HEADER)
        .and_then(|lane| lane.to_str().ok())
        .and_then(|lane| lane.parse::<Lane>().ok());
    let (&Method::POST, Some(lane)) = (request.method(), lane) else {
        return refusal(StatusCode::BAD_REQUEST, format!("expected POST and `{LANE_HEADER}: LANE`"));
    };
    let size = match request.body().size_hint().exact().map(usize::try_from) {
        Some(Ok(size)) if size <= lane.limit_bytes() => u32::try_from(size).unwrap_or(u32::MAX),
        Some(_) => return refusal(StatusCode::PAYLOAD_TOO_LARGE, format!("over {} bytes", lane.limit_bytes())),
        None => return refusal(StatusCode::LENGTH_REQUIRED, "the request does not say how long it is".into()),
    };
    let bytes = if lane == Lane::Bulk { &shared.bulk_bytes } else { &shared.bytes };
    let turn = async { (shared.calls.acquire().await, bytes.acquire_many(size).await) };
    let Ok((Ok(_call), Ok(_bytes))) = timeout(BODY_TIMEOUT, turn).await else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "too many requests are under way: try again".into());
    };
    let path = request.uri().path().to_owned();
    let body = match timeout(BODY_TIMEOUT, Limited::new(request.into_body(), lane.limit_bytes()).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return refusal(StatusCode::BAD_REQUEST, error.to_string()),
        Err(_) => return refusal(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time".into()),
    };
    match shared.handler.handle(from, path, body.into()).await {
        Ok(answer) if answer.len() > lane.limit_bytes() => {
            let message = format!("the answer of {} bytes is over {}", answer.len(), lane.limit_bytes());
            refusal(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
        Ok(answer) => Response::new(Full::new(Bytes::from(answer))),
        Err(no) => {
            let status = StatusCode::from_u16(no.status).ok().filter(|status| status.as_u16() >= 400);
            refusal(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), no.message)
        }
    }
}

fn refusal(status: StatusCode, message: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(message)));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::identity::tests::{TempDir, spec, two_nodes};
    use crate::identity::{init, install};

    const GENEROUS: Duration = Duration::from_secs(20);

    /// `/echo` answers with the caller's name and the body, `/never` does not answer, `/no` refuses.
    #[derive(Default)]
    struct Echo {
        stranger: Mutex<Option<NodeName>>,
        handled: AtomicUsize,
    }

    impl PeerHandler for Echo {
        fn handle(
            &self,
            from: NodeName,
            path: String,
            body: Vec<u8>,
        ) -> BoxFuture<'static, Result<Vec<u8>, PeerRefusal>> {
            self.handled.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                match path.as_str() {
                    "/echo" => Ok([from.as_str().as_bytes(), b":", &body].concat()),
                    "/never" => std::future::pending().await,
                    _ => Err(PeerRefusal { status: 409, message: format!("{path} is not for {from}") }),
                }
            })
        }

        fn is_member(&self, node: &NodeName) -> bool {
            self.stranger.lock().unwrap().as_ref() != Some(node)
        }
    }

    struct Pair {
        net: PeerNet,
        addresses: watch::Sender<BTreeMap<NodeName, SocketAddr>>,
        server: Option<PeerServer>,
        handler: Arc<Echo>,
        identities: (Arc<Identity>, Arc<Identity>),
        _temp: TempDir,
    }

    impl Pair {
        /// `db1` calls, `db2` answers.
        fn new() -> Self {
            let temp = TempDir::new();
            let identities = two_nodes(&temp.0);
            let handler = Arc::new(Echo::default());
            let server = serve(identities.1.clone(), handler.clone());
            let (addresses, receiver) = watch::channel(BTreeMap::from([("db2".into(), server.local_addr())]));
            let net = PeerNet::new(identities.0.clone(), receiver);
            Self { net, addresses, server: Some(server), handler, identities, _temp: temp }
        }

        async fn echo(&self, body: &[u8]) -> Result<Vec<u8>, PeerError> {
            self.net.call("db2", Lane::Control, "/echo", body.to_vec(), GENEROUS).await
        }

        /// Calls until it works: a connection that was given up comes back only after a gap.
        async fn echo_again(&self) {
            let deadline = clock::now() + GENEROUS;
            while let Err(error) = self.echo(b"again").await {
                assert!(clock::now() < deadline, "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    fn serve(identity: Arc<Identity>, handler: Arc<Echo>) -> PeerServer {
        PeerServer::serve(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), identity, handler).unwrap()
    }

    #[tokio::test]
    async fn a_call_carries_the_certified_name_of_its_caller() {
        let pair = Pair::new();
        assert_eq!(pair.echo(b"hello").await.unwrap(), b"db1:hello");
        let big = vec![7; MAX_BODY_BYTES + 1];
        let answer = pair.net.call("db2", Lane::Bulk, "/echo", big.clone(), GENEROUS).await.unwrap();
        assert_eq!(answer.len(), big.len() + 4);
    }

    #[tokio::test]
    async fn refusals_and_limits_are_answers_and_keep_the_connection() {
        let pair = Pair::new();
        let error = pair.net.call("db2", Lane::Control, "/other", Vec::new(), GENEROUS).await.unwrap_err();
        assert_eq!(
            error,
            PeerError::Refused { node: "db2".into(), status: 409, message: "/other is not for db1".into() }
        );
        let error =
            pair.net.call("db2", Lane::Observe, "/echo", vec![0; MAX_OBSERVE_BYTES + 1], GENEROUS).await.unwrap_err();
        assert!(matches!(error, PeerError::Refused { status: 413, .. }), "{error}");
        // The answer is longer than the request by the name of the caller.
        let error =
            pair.net.call("db2", Lane::Observe, "/echo", vec![0; MAX_OBSERVE_BYTES], GENEROUS).await.unwrap_err();
        assert!(matches!(error, PeerError::Refused { status: 500, .. }), "{error}");
        let error = pair.net.call("db9", Lane::Client, "/echo", Vec::new(), GENEROUS).await.unwrap_err();
        assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");
        assert_eq!(pair.echo(b"").await.unwrap(), b"db1:");
    }

    #[tokio::test]
    async fn a_removed_node_is_refused_on_an_open_connection() {
        let pair = Pair::new();
        pair.echo(b"").await.unwrap();
        let before = pair.handler.handled.load(Ordering::SeqCst);
        *pair.handler.stranger.lock().unwrap() = Some("db1".into());
        assert_eq!(pair.echo(b"").await.unwrap_err(), PeerError::NotMember { node: "db2".into() });
        assert_eq!(pair.handler.handled.load(Ordering::SeqCst), before);
        *pair.handler.stranger.lock().unwrap() = None;
        pair.echo(b"").await.unwrap();
    }

    #[tokio::test]
    async fn a_silent_connection_is_given_up_and_a_slow_one_is_kept() {
        let pair = Pair::new();
        pair.echo(b"").await.unwrap();
        let line = pair.net.line(&"db2".into(), Lane::Control);
        let tried = |line: &Line| match &*line.state.borrow() {
            LineState::Open(link) => Some(link.tried),
            _ => None,
        };
        let first = tried(&line).unwrap();
        let never = async |within| pair.net.call("db2", Lane::Control, "/never", Vec::new(), within).await.unwrap_err();
        let error = never(Duration::from_millis(20)).await;
        assert!(matches!(error, PeerError::Timeout { .. }), "{error}");
        assert_eq!(tried(&line), Some(first), "answers came over it a moment ago");
        let error = never(SILENT_FOR * 2).await;
        assert!(matches!(error, PeerError::Timeout { .. }), "{error}");
        assert_eq!(tried(&line), None, "no answer came over it for long");
        pair.echo_again().await;
        assert!(tried(&line).unwrap() > first);
    }

    #[tokio::test]
    async fn many_calls_at_once_share_one_connection() {
        let pair = Pair::new();
        let mut calls = JoinSet::new();
        for number in 0..3 * MAX_CALLS_PER_LINE {
            let net = pair.net.clone();
            calls.spawn(async move {
                let body = number.to_string().into_bytes();
                let answer = net.call("db2", Lane::Client, "/echo", body.clone(), GENEROUS).await.unwrap();
                assert_eq!(answer, [b"db1:", &body[..]].concat());
            });
        }
        while let Some(call) = calls.join_next().await {
            call.unwrap();
        }
        let (address, node) = (pair.addresses.borrow()[&"db2".into()], NodeName::from("db2"));
        assert!(matches!(pair.net.line(&node, Lane::Client).way(address, false), Way::Use(_)));
        assert_eq!(pair.net.shared.lines.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn lanes_do_not_share_a_connection() {
        let pair = Pair::new();
        pair.net.call("db2", Lane::Observe, "/echo", Vec::new(), GENEROUS).await.unwrap();
        let stuck = pair.net.call("db2", Lane::Control, "/never", Vec::new(), Duration::from_millis(50)).await;
        assert!(matches!(stuck, Err(PeerError::Timeout { .. })));
        let line = pair.net.line(&"db2".into(), Lane::Observe);
        assert!(matches!(&*line.state.borrow(), LineState::Open(_)));
    }

    #[tokio::test]
    async fn a_restarted_peer_is_found_again_also_at_another_address() {
        let mut pair = Pair::new();
        pair.echo(b"").await.unwrap();
        drop(pair.server.take());
        let deadline = clock::now() + GENEROUS;
        while pair.echo(b"").await.is_ok() {
            assert!(clock::now() < deadline);
        }
        let server = serve(pair.identities.1.clone(), pair.handler.clone());
        pair.addresses.send_replace(BTreeMap::from([("db2".into(), server.local_addr())]));
        pair.echo_again().await;
    }

    #[tokio::test]
    async fn a_dead_peer_costs_one_attempt_per_gap() {
        let pair = Pair::new();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        pair.addresses.send_replace(BTreeMap::from([("db2".into(), listener.local_addr().unwrap())]));
        listener.set_nonblocking(true).unwrap();
        let begun = clock::now();
        let mut attempts = 0;
        for _ in 0..2000 {
            let _ = pair.net.call("db2", Lane::Control, "/echo", Vec::new(), Duration::from_millis(1)).await;
            while let Ok((stream, _)) = listener.accept() {
                attempts += 1;
                drop(stream);
            }
            if attempts >= 3 {
                break;
            }
        }
        let gaps = clock::now().since(begun).as_millis() / RETRY_GAP.as_millis();
        assert!(attempts >= 1 && attempts <= gaps + 1, "{attempts} attempts in {gaps} gaps");
    }

    #[tokio::test]
    async fn only_the_very_node_that_was_dialled_is_spoken_to() {
        let pair = Pair::new();
        // `db1` itself listens where `db2` should be.
        let server = serve(pair.identities.0.clone(), pair.handler.clone());
        pair.addresses.send_replace(BTreeMap::from([("db2".into(), server.local_addr())]));
        let error = pair.echo(b"").await.unwrap_err();
        assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");
        assert_eq!(pair.handler.handled.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn another_authority_and_no_certificate_are_refused() {
        let pair = Pair::new();
        let temp = TempDir::new();
        let out = temp.0.join("impostor");
        init(&spec("shop", &[("db1", "127.0.1.1"), ("db2", "127.0.1.2")]), &out).unwrap();
        install(&out.join("db1"), &temp.0.join("identity")).unwrap();
        let impostor = Arc::new(Identity::load(&temp.0.join("identity")).unwrap());
        let net = PeerNet::new(impostor, pair.addresses.subscribe());
        let error = net.call("db2", Lane::Control, "/echo", Vec::new(), GENEROUS).await.unwrap_err();
        assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");

        // TLS lets a client without a certificate finish its side of the handshake; the server must then hang up.
        let mut roots = rustls::RootCertStore::empty();
        let ca = pair._temp.0.join("identities/db1/ca.pem");
        roots.add(rustls::pki_types::pem::PemObject::from_pem_file(ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let address = pair.server.as_ref().unwrap().local_addr();
        let name = ServerName::try_from(dns_name("shop", "db2")).unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let outcome = async {
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
            tokio::io::AsyncReadExt::read_u8(&mut stream).await
        };
        assert!(timeout(GENEROUS, outcome).await.unwrap().is_err());
        assert_eq!(pair.handler.handled.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn one_node_cannot_take_every_connection() {
        let pair = Pair::new();
        let shared = Arc::new(ServerShared {
            identity: pair.identities.1.clone(),
            handler: pair.handler.clone(),
            connections: Mutex::default(),
            calls: Semaphore::new(1),
            bulk_bytes: Semaphore::new(1),
            bytes: Semaphore::new(1),
        });
        let greedy: Vec<_> =
            (0..MAX_CONNECTIONS_PER_NODE).map(|_| Place::take(&shared, &"db1".into()).unwrap()).collect();
        assert!(Place::take(&shared, &"db1".into()).is_none());
        assert!(Place::take(&shared, &"db3".into()).is_some());
        drop(greedy);
        assert!(Place::take(&shared, &"db1".into()).is_some());
    }
}
