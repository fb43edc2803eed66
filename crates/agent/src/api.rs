//! The agent's own door for this machine: HTTP/1.1 and JSON over `STATE/api.sock`, and the client that the commands use.
//!
//! Who may ask is decided by the kernel: the socket is 0600 in a 0700 directory, and the peer's uid (SO_PEERCRED) must be root
//! or the agent's own. So there is no token, and `curl --unix-socket STATE/api.sock http://agent/status` works.
//!
//! Answers that are not a success carry `{"error": TEXT}` and, where one helps, `"next": COMMAND`.

use std::convert::Infallible;
use std::fs::Permissions;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::peer::BoxFuture;

/// The socket's name within a state directory.
pub const SOCKET_NAME: &str = "api.sock";
/// The path of a socket is at most this long: the kernel takes 107 bytes, and the socket is made beside its place.
pub const MAX_SOCKET_PATH_BYTES: usize = 100;
/// Bodies of requests are at most this large.
const MAX_REQUEST_BYTES: usize = 1 << 20;
/// Bodies of answers are at most this large.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Connections served at once; further ones wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 32;
/// Headers of one request: how many, how large, how long they may take.
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 16 * 1024;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the body of a request may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a live agent may take to accept when a second one looks for it.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// After an error of the listener it is left alone for this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Suffix of the socket while it is made; no longer than what [`MAX_SOCKET_PATH_BYTES`] leaves.
const NEW_SUFFIX: &str = ".new";

/// Why there is no answer, or no good one.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The path of the socket is too long for the kernel.
    #[error(
        "{path} is {bytes} bytes long, and a socket's path may have {MAX_SOCKET_PATH_BYTES}: choose a shorter `--state DIR`",
        path = path.display()
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// Another agent answers on the socket.
    #[error("another agent is running with this state directory ({}): stop it first; its socket is {path}", pid_text(*pid), path = path.display())]
    AnotherAgent {
        /// The socket.
        path: PathBuf,
        /// Its process, when the kernel tells.
        pid: Option<i32>,
    },
    /// Something that is not a socket is in its place.
    #[error("{path} is not a socket: move it away", path = path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The socket could not be made.
    #[error("cannot listen on {path}: {source}", path = path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody listens.
    #[error("no agent answers at {path}: start it with `backstay agent -c FILE`, or name its `--state DIR`", path = path.display())]
    NoAgent {
        /// The socket.
        path: PathBuf,
    },
    /// The socket belongs to another user.
    #[error("may not ask the agent at {path}: run this as root or as the agent's own user", path = path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// The agent did not answer in time; what was asked for may still happen.
    #[error("the agent at {path} did not answer within {} ms: see STATE/log/agent.log", waited.as_millis(), path = path.display())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// The connection broke; what was asked for may still happen.
    #[error("the agent at {path} hung up: {why}; see STATE/log/agent.log", path = path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        why: String,
    },
    /// The agent answered no.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// `error` of the answer.
        message: String,
        /// The whole answer.
        answer: Value,
    },
}

/// Answers requests that came over the socket.
pub trait ApiHandler: Send + Sync + 'static {
    /// Answers `method` on `path` (with its query, when it has one); `body` is null when there was none. The result is an
    /// HTTP status and the answer.
    fn handle(&self, method: String, path: String, body: Value) -> BoxFuture<'static, (u16, Value)>;
}

/// Answers on the socket until it is dropped, which removes the socket.
pub struct ApiServer {
    path: PathBuf,
    inode: u64,
    task: JoinHandle<()>,
}

impl ApiServer {
    /// Answers at `path`. The socket of a dead agent is replaced; that of a live one is left alone and named.
    ///
    /// Its directory must be private ([`crate::local::StateDir`]).
    pub async fn serve(path: &Path, handler: Arc<dyn ApiHandler>) -> Result<Self, ApiError> {
        check_length(path)?;
        refuse_live_socket(path).await?;
        let listener = listen(path).map_err(|source| ApiError::Listen { path: path.to_owned(), source })?;
        let inode = std::fs::symlink_metadata(path).map(|facts| facts.ino()).unwrap_or_default();
        Ok(Self { path: path.to_owned(), inode, task: tokio::spawn(accept(listener, handler)) })
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
        // Not when a successor has already put its own there.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|facts| facts.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn check_length(path: &Path) -> Result<(), ApiError> {
    let bytes = path.as_os_str().as_bytes().len();
    if bytes <= MAX_SOCKET_PATH_BYTES { Ok(()) } else { Err(ApiError::PathTooLong { path: path.to_owned(), bytes }) }
}

async fn refuse_live_socket(path: &Path) -> Result<(), ApiError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ApiError::Listen { path: path.to_owned(), source }),
        Ok(facts) if !facts.file_type().is_socket() => return Err(ApiError::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    match timeout(PROBE_TIMEOUT, UnixStream::connect(path)).await {
        Ok(Err(error)) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        // A full backlog, say: somebody listens, though we cannot ask who.
        Ok(Err(_)) | Err(_) => Err(ApiError::AnotherAgent { path: path.to_owned(), pid: None }),
        Ok(Ok(stream)) => {
            let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
            Err(ApiError::AnotherAgent { path: path.to_owned(), pid })
        }
    }
}

/// Makes the socket beside its place, closes it to others, and only then moves it there: whatever the umask, nobody else can
/// connect at any instant, and a stale socket is replaced in one step.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let mut new = path.as_os_str().to_owned();
    new.push(NEW_SUFFIX);
    let new = PathBuf::from(new);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, Permissions::from_mode(0o600))?;
    std::fs::rename(&new, path)?;
    Ok(listener)
}

async fn accept(listener: UnixListener, handler: Arc<dyn ApiHandler>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let own = rustix::process::geteuid().as_raw();
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections on the socket for the moment");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !stream.peer_cred().is_ok_and(|peer| may_ask(peer.uid(), own)) {
            tracing::warn!("refused a connection on the socket: it is neither root nor this agent's user");
            continue;
        }
        let handler = handler.clone();
        connections.spawn(async move {
            let _place = place;
            serve_connection(stream, handler).await;
        });
    }
}

fn may_ask(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}

async fn serve_connection(stream: UnixStream, handler: Arc<dyn ApiHandler>) {
    let service = hyper::service::service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(respond(request, &*handler).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection on the socket ended");
    }
}

async fn respond(request: Request<Incoming>, handler: &dyn ApiHandler) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = match timeout(BODY_TIMEOUT, Limited::new(body, MAX_REQUEST_BYTES).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return answer(413, &json!({ "error": format!("the request is over {MAX_REQUEST_BYTES} bytes") }));
        }
        Ok(Err(error)) => return answer(400, &json!({ "error": error.to_string() })),
        Err(_) => return answer(408, &json!({ "error": "the request did not arrive in time" })),
    };
    let body = match body.is_empty() {
        true => Value::Null,
        false => match serde_json::from_slice(&body) {
            Ok(body) => body,
            Err(error) => return answer(400, &json!({ "error": format!("the request is not JSON: {error}") })),
        },
    };
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let (status, value) = handler.handle(head.method.as_str().to_owned(), path, body).await;
    answer(status, &value)
}

fn answer(status: u16, value: &Value) -> Response<Full<Bytes>> {
    let mut text = value.to_string();
    text.push('\n');
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}

fn pid_text(pid: Option<i32>) -> String {
    pid.map_or_else(|| "it did not tell its pid".to_owned(), |pid| format!("pid {pid}"))
}

/// Asks the agent of this machine; what the commands use.
pub struct ApiClient;

impl ApiClient {
    /// Asks the agent whose state is in `state_dir`, and waits at most `within` for the answer. Needs a tokio runtime.
    ///
    /// An answer that is not a success is [`ApiError::Refused`].
    pub async fn call(
        state_dir: &Path,
        method: &str,
        path: &str,
        body: Option<Value>,
        within: Duration,
    ) -> Result<Value, ApiError> {
        let socket = state_dir.join(SOCKET_NAME);
        check_length(&socket)?;
        let outcome = timeout(within, ask(&socket, method, path, body)).await;
        outcome.unwrap_or(Err(ApiError::Timeout { path: socket, waited: within }))
    }
}

async fn ask(socket: &Path, method: &str, path: &str, body: Option<Value>) -> Result<Value, ApiError> {
    let broken = |why: String| ApiError::Broken { path: socket.to_owned(), why };
    let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => {
            ApiError::NoAgent { path: socket.to_owned() }
        }
        io::ErrorKind::PermissionDenied => ApiError::Denied { path: socket.to_owned() },
        _ => broken(error.to_string()),
    })?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "agent")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.map(|body| body.to_string()).unwrap_or_default())))
        .map_err(|error| broken(format!("cannot ask for {path}: {error}")))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(|error| broken(error.to_string()))?;
    // Dropped, and the connection with it, when the caller stops waiting.
    let mut driver = JoinSet::new();
    driver.spawn(connection);

    let response = sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
    let status = response.status();
    let bytes = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
        .collect()
        .await
        .map_err(|error| broken(error.to_string()))?
        .to_bytes();
    let answer: Value =
        serde_json::from_slice(&bytes).map_err(|error| broken(format!("its answer is not JSON: {error}")))?;
    if status.is_success() {
        return Ok(answer);
    }
    let message = match answer.get("error").and_then(Value::as_str) {
        Some(message) => message.to_owned(),
        None => format!("the agent refused {method} {path} ({})", status.as_u16()),
    };
    Err(ApiError::Refused { status: status.as_u16(), message, answer })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::identity::tests::TempDir;

    const GENEROUS: Duration = Duration::from_secs(20);

    /// Answers what it was asked.
    struct Mirror;

    impl ApiHandler for Mirror {
        fn handle(&self, method: String, path: String, body: Value) -> BoxFuture<'static, (u16, Value)> {
            Box::pin(async move {
                match path.as_str() {
                    "/never" => std::future::pending().await,
                    "/no" => (409, json!({ "error": "not now", "next": "backstay status" })),
                    _ => (200, json!({ "method": method, "path": path, "body": body })),
                }
            })
        }
    }

    async fn mirror(temp: &TempDir) -> ApiServer {
        ApiServer::serve(&temp.0.join(SOCKET_NAME), Arc::new(Mirror)).await.unwrap()
    }

    #[tokio::test]
    async fn a_request_and_its_answer_are_json_over_a_private_socket() {
        let temp = TempDir::new();
        let _server = mirror(&temp).await;
        let facts = std::fs::metadata(temp.0.join(SOCKET_NAME)).unwrap();
        assert_eq!(facts.mode() & 0o777, 0o600);
        let answer = ApiClient::call(&temp.0, "POST", "/a?b=c", Some(json!({ "to": "db2" })), GENEROUS).await.unwrap();
        assert_eq!(answer, json!({ "method": "POST", "path": "/a?b=c", "body": { "to": "db2" } }));
        let answer = ApiClient::call(&temp.0, "GET", "/a", None, GENEROUS).await.unwrap();
        assert_eq!(answer["body"], Value::Null);
    }

    #[tokio::test]
    async fn a_refusal_keeps_its_reason_and_next_command() {
        let temp = TempDir::new();
        let _server = mirror(&temp).await;
        match ApiClient::call(&temp.0, "POST", "/no", None, GENEROUS).await.unwrap_err() {
            ApiError::Refused { status: 409, message, answer } => {
                assert_eq!((message.as_str(), answer["next"].as_str()), ("not now", Some("backstay status")));
            }
            error => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn bodies_that_are_too_large_or_not_json_are_refused() {
        let temp = TempDir::new();
        let _server = mirror(&temp).await;
        let big = Value::String("x".repeat(MAX_REQUEST_BYTES));
        let error = ApiClient::call(&temp.0, "POST", "/a", Some(big), GENEROUS).await.unwrap_err();
        assert!(matches!(error, ApiError::Refused { status: 413, .. } | ApiError::Broken { .. }), "{error}");

        let mut stream = UnixStream::connect(temp.0.join(SOCKET_NAME)).await.unwrap();
        let request = b"POST /a HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Length: 3\r\n\r\n{x}";
        stream.write_all(request).await.unwrap();
        let mut text = String::new();
        timeout(GENEROUS, stream.read_to_string(&mut text)).await.unwrap().unwrap();
        assert!(text.starts_with("HTTP/1.1 400") && text.contains("not JSON"), "{text}");
    }

    #[tokio::test]
    async fn without_an_agent_the_error_says_how_to_start_one() {
        let temp = TempDir::new();
        let error = ApiClient::call(&temp.0, "GET", "/status", None, GENEROUS).await.unwrap_err();
        assert!(matches!(error, ApiError::NoAgent { .. }));
        assert!(error.to_string().contains("backstay agent -c FILE"), "{error}");
        let server = mirror(&temp).await;
        drop(server);
        assert!(!temp.0.join(SOCKET_NAME).exists(), "removed at the end");
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_a_timeout() {
        let temp = TempDir::new();
        let _server = mirror(&temp).await;
        let error = ApiClient::call(&temp.0, "GET", "/never", None, Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, ApiError::Timeout { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_live_socket_is_left_alone_and_a_stale_one_replaced() {
        let temp = TempDir::new();
        let path = temp.0.join(SOCKET_NAME);
        let server = mirror(&temp).await;
        match ApiServer::serve(&path, Arc::new(Mirror)).await.err() {
            Some(ApiError::AnotherAgent { pid: Some(pid), .. }) => assert_eq!(pid as u32, std::process::id()),
            other => panic!("{other:?}"),
        }
        ApiClient::call(&temp.0, "GET", "/a", None, GENEROUS).await.unwrap();
        drop(server);
        // A socket whose listener is gone, as a killed agent leaves it.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _server = mirror(&temp).await;
        ApiClient::call(&temp.0, "GET", "/a", None, GENEROUS).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_not_a_socket_or_too_long_is_named() {
        let temp = TempDir::new();
        let path = temp.0.join(SOCKET_NAME);
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(ApiServer::serve(&path, Arc::new(Mirror)).await.err(), Some(ApiError::NotASocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        let long = temp.0.join("x".repeat(MAX_SOCKET_PATH_BYTES));
        let error = ApiClient::call(&long, "GET", "/a", None, GENEROUS).await.unwrap_err();
        assert!(matches!(error, ApiError::PathTooLong { .. }), "{error}");
    }

    #[test]
    fn only_root_and_the_agents_own_user_may_ask() {
        assert!(may_ask(0, 1000) && may_ask(1000, 1000));
        assert!(!may_ask(1001, 1000) && !may_ask(1000, 0));
    }
}
