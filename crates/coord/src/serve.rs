//! What a voter answers: linearizable reads, writes as the leader, watches, and the messages of other nodes.
//!
//! A voter that does not lead names the leader and does nothing else: requests are redirected by whoever asks, never
//! forwarded, so that no proposal can arrive later than its proposer knew.

use std::time::Duration;

use backstay_model::memory::{Answer, Command, Renewal, Renewed, Txn};
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use tokio::time::timeout;

use crate::clock::{boot_ns, random_id, timer_now};
use crate::embedded::{Core, Embedded, Inner, Phase, lock};
use crate::raft_types::{Proposal, Reply, Snapshot, Types};
use crate::store::{
    BoxFuture, Changes, Got, LocalState, MAX_CHANGES_WAIT, OpenedSession, Ranged, RenewReply, Store, StoreError,
    TxnReply,
};
use crate::wire::{ClientReply, ClientRequest, Frame, Greeting, Request, Response, decode, encode};

/// Largest command, in bytes: two of the largest values and room for conditions. The entries of one message of the
/// consensus core (`max_payload_entries`) then fit into one body.
pub(crate) const MAX_COMMAND_BYTES: usize = (2 << 20) + (128 << 10);

impl Inner {
    /// Puts a command through the log, as the leader only.
    pub(crate) async fn propose(&self, command: Command) -> Result<Reply, StoreError> {
        let core = self.core()?;
        check_size(&command)?;
        let write = core.raft.client_write(Proposal(command));
        let limit = self.config.times.call();
        match timeout(limit, write).await {
            Ok(Ok(response)) => Ok(response.data),
            Ok(Err(error)) => Err(write_error(error)),
            Err(_) => Err(StoreError::Unknown { detail: format!("not committed within {limit:?}") }),
        }
    }

    /// Confirms with a quorum that this voter leads, and waits until it has applied all that was committed before.
    pub(crate) async fn read_barrier(&self, core: &Core) -> Result<(), StoreError> {
        let limit = self.config.times.call();
        let confirm = async {
            let linearizer = core.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(read_error)?;
            linearizer.await_ready(&core.raft).await.map_err(|error| StoreError::Shut { why: error.to_string() })
        };
        match timeout(limit, confirm).await {
            Ok(confirmed) => confirmed.map(|_| core.replica.heard()),
            Err(_) => Err(StoreError::NoQuorum { detail: format!("leadership was not confirmed within {limit:?}") }),
        }
    }

    async fn read<T>(&self, read: impl FnOnce(&backstay_model::memory::Memory) -> T) -> Result<T, StoreError> {
        let core = self.core()?;
        self.read_barrier(&core).await?;
        Ok(read(&core.replica.memory()))
    }

    async fn open_session(&self, session: u64, node: &str, ttl: Duration, boot: &str) -> Result<(), StoreError> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let command = Command::OpenSession { session, node: node.to_owned(), ttl_ms, boot: boot.to_owned() };
        match self.propose(command).await?.answer {
            Answer::Opened { .. } => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    async fn renew(&self, renewal: Renewal, sent_ns: u64) -> Result<RenewReply, StoreError> {
        match self.renewals.renew(renewal).await? {
            Renewed::Alive { keys } => Ok(RenewReply { session_alive: true, alive_keys: keys, sent_ns }),
            Renewed::Gone => Ok(RenewReply { session_alive: false, alive_keys: Vec::new(), sent_ns }),
            Renewed::Stale => Err(StoreError::Refused {
                why: "a newer renewal of this session was applied before; send one with a higher seq".into(),
            }),
        }
    }

    async fn changes(&self, prefix: &str, after_revision: u64, wait: Duration) -> Result<Changes, StoreError> {
        let core = self.core()?;
        let until = timer_now() + wait.min(MAX_CHANGES_WAIT);
        let mut revision = core.replica.watch_revision();
        loop {
            revision.mark_unchanged();
            let changes = core.replica.changes(prefix, after_revision);
            if !changes.events.is_empty() || changes.resync.is_some() {
                return Ok(changes);
            }
            // Silence is an answer only from a replica that would have heard.
            let over = !matches!(tokio::time::timeout_at(until, revision.changed()).await, Ok(Ok(())));
            if over {
                let age = core.replica.age();
                self.core()?;
                if age > self.config.times.silence() {
                    let detail = format!("this replica has not heard from a leader for {age:?}");
                    return Err(StoreError::NoQuorum { detail });
                }
                return Ok(core.replica.changes(prefix, after_revision));
            }
        }
    }

    /// Answers a request of an agent.
    async fn client(&self, request: ClientRequest) -> Result<ClientReply, StoreError> {
        Ok(match request {
            ClientRequest::Get { key } => {
                let read = |memory: &backstay_model::memory::Memory| Got {
                    revision: memory.revision(),
                    entry: memory.entry(&key).cloned(),
                };
                ClientReply::Got(self.read(read).await?)
            }
            ClientRequest::Range { prefix } => {
                let read = |memory: &backstay_model::memory::Memory| Ranged {
                    revision: memory.revision(),
                    entries: memory.range(&prefix).map(|(key, entry)| (key.to_owned(), entry.clone())).collect(),
                };
                ClientReply::Ranged(self.read(read).await?)
            }
            ClientRequest::Txn(txn) => {
                let reply = self.propose(Command::Txn(txn)).await?;
                match reply.answer {
                    Answer::Txn { succeeded } => ClientReply::Txn(TxnReply { succeeded, revision: reply.revision }),
                    other => return Err(unexpected(other)),
                }
            }
            ClientRequest::OpenSession { session, node, ttl, boot } => {
                self.open_session(session, &node, ttl, &boot).await?;
                ClientReply::Opened(OpenedSession { session, sent_ns: 0 })
            }
            ClientRequest::Renew(renewal) => ClientReply::Renewed(self.renew(renewal, 0).await?),
            ClientRequest::CloseSession { session } => {
                match self.propose(Command::CloseSession { session }).await?.answer {
                    Answer::Closed { .. } => ClientReply::Closed,
                    other => return Err(unexpected(other)),
                }
            }
            ClientRequest::Changes { prefix, after_revision, wait } => {
                ClientReply::Changes(self.changes(&prefix, after_revision, wait).await?)
            }
        })
    }
}

impl Embedded {
    /// Answers a message of another node. `from` is the node name that the transport has authenticated.
    ///
    /// Messages of the consensus core are heard from nodes that may vote: members, founders, and those of
    /// [`Embedded::admit`]. Requests of agents are heard from every node, so the transport must let in only nodes of
    /// this cluster.
    pub async fn handle(&self, from: &str, body: &[u8]) -> Vec<u8> {
        let response = match decode::<Frame>(body) {
            Ok(frame) if frame.cluster != self.inner.config.cluster => {
                Response::Rejected(format!("this is cluster `{}`, not `{}`", self.inner.config.cluster, frame.cluster))
            }
            Ok(frame) => self.answer(from, frame).await,
            Err(error) => Response::Rejected(error.to_string()),
        };
        encode(&response).or_else(|error| encode(&Response::Rejected(error.to_string()))).unwrap_or_default()
    }

    pub(crate) async fn client(&self, request: ClientRequest) -> Result<ClientReply, StoreError> {
        self.inner.client(request).await
    }

    async fn answer(&self, from: &str, frame: Frame) -> Response {
        match frame.request {
            Request::Client(request) => Response::Client(self.inner.client(request).await),
            Request::Admin(request) => Response::Admin(self.admin(request).await),
            Request::Hello { .. } => Response::Hello(self.greet()),
            request => match self.inner.authorise(from, frame.sender) {
                Ok(core) => consensus(&core, request).await,
                Err(why) => Response::Rejected(why),
            },
        }
    }

    fn greet(&self) -> Greeting {
        match self.inner.phase() {
            Phase::Forming { nonce, .. } => Greeting::Fresh { nonce },
            Phase::Open(_) | Phase::Shut { .. } => Greeting::Formed { founders: lock(&self.inner.formation).clone() },
        }
    }
}

impl Inner {
    /// Lets a message of the consensus core through, when its sender may vote. A name is enough: a voter that was
    /// away does not know the ids that were minted since, and must not lock out the leader that would tell it.
    fn authorise(&self, from: &str, sender: u64) -> Result<std::sync::Arc<Core>, String> {
        let core = self.core().map_err(|error| error.to_string())?;
        if !self.admits(from) {
            return Err(format!("`{from}` is no voter of this cluster"));
        }
        let (_, membership) = core.replica.position();
        match membership.get_node(&sender) {
            Some(node) if node.addr != from => Err(format!("voter {sender:x} is `{}`, not `{from}`", node.addr)),
            _ => Ok(core),
        }
    }
}

/// What is too large must be refused before it is in the log: an entry that no message can carry stops replication.
fn check_size(command: &Command) -> Result<(), StoreError> {
    if let Command::Txn(txn) = command {
        txn.check_limits()?;
    }
    let size = postcard::serialize_with_flavor(command, postcard::ser_flavors::Size::default());
    match size {
        Ok(bytes) if bytes <= MAX_COMMAND_BYTES => Ok(()),
        Ok(bytes) => Err(StoreError::TooLarge {
            why: format!("a command of {bytes} bytes; at most {MAX_COMMAND_BYTES} are allowed"),
        }),
        Err(error) => Err(StoreError::Refused { why: error.to_string() }),
    }
}

async fn consensus(core: &Core, request: Request) -> Response {
    let failed = |error: String| Response::Rejected(error);
    match request {
        Request::Append(request) => match core.raft.append_entries(request).await {
            Ok(response) => {
                if response.is_success() || response.is_conflict() {
                    core.replica.heard();
                }
                Response::Append(response)
            }
            Err(error) => failed(error.to_string()),
        },
        Request::Vote(request) => match core.raft.vote(request).await {
            Ok(response) => Response::Vote(response),
            Err(error) => failed(error.to_string()),
        },
        Request::PreVote(request) => match core.raft.pre_vote(request).await {
            Ok(response) => Response::Vote(response),
            Err(error) => failed(error.to_string()),
        },
        Request::Snapshot { vote, meta, bytes } => {
            // Damage on the way must not reach the state machine, where it would end the voter.
            if let Err(error) = crate::snapshots::decode(&bytes) {
                return failed(format!("the snapshot cannot be used: {error}"));
            }
            match core.raft.install_full_snapshot(vote, Snapshot { meta, snapshot: bytes }).await {
                Ok(response) => Response::Snapshot(response),
                Err(error) => failed(error.to_string()),
            }
        }
        Request::Transfer(request) => match core.raft.handle_transfer_leader(request).await {
            Ok(response) => Response::Transfer(response),
            Err(error) => failed(error.to_string()),
        },
        Request::Hello { .. } | Request::Client(_) | Request::Admin(_) => failed("not a message of the core".into()),
    }
}

pub(crate) fn write_error(error: RaftError<Types, ClientWriteError<Types>>) -> StoreError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => not_here(&forward),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            StoreError::Refused { why: error.to_string() }
        }
        RaftError::APIError(error) => StoreError::Unknown { detail: error.to_string() },
        RaftError::Fatal(error) => StoreError::Unknown { detail: error.to_string() },
    }
}

fn read_error(error: RaftError<Types, LinearizableReadError<Types>>) -> StoreError {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => not_here(&forward),
        RaftError::APIError(error) => StoreError::NoQuorum { detail: error.to_string() },
        RaftError::Fatal(error) => StoreError::Shut { why: error.to_string() },
    }
}

fn not_here(forward: &ForwardToLeader<Types>) -> StoreError {
    match forward.reason {
        ForwardReason::LeaseExpired => {
            StoreError::NoQuorum { detail: "the leader has not heard from a majority lately".into() }
        }
        _ => StoreError::NotLeader { hint: forward.leader_node.as_ref().map(|node| node.addr.clone()) },
    }
}

fn unexpected(answer: Answer) -> StoreError {
    match answer {
        Answer::Refused(refusal) => refusal.into(),
        other => StoreError::Unknown { detail: format!("a strange answer: {other:?}") },
    }
}

impl Store for Embedded {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Got, StoreError>> {
        Box::pin(async move {
            let read = |memory: &backstay_model::memory::Memory| Got {
                revision: memory.revision(),
                entry: memory.entry(key).cloned(),
            };
            self.inner.read(read).await
        })
    }

    fn range<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Ranged, StoreError>> {
        Box::pin(async move {
            match self.client(ClientRequest::Range { prefix: prefix.to_owned() }).await? {
                ClientReply::Ranged(ranged) => Ok(ranged),
                _ => Err(strange()),
            }
        })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, StoreError>> {
        Box::pin(async move {
            match self.client(ClientRequest::Txn(txn)).await? {
                ClientReply::Txn(reply) => Ok(reply),
                _ => Err(strange()),
            }
        })
    }

    fn open_session<'a>(
        &'a self,
        node: &'a str,
        ttl: Duration,
        boot: &'a str,
    ) -> BoxFuture<'a, Result<OpenedSession, StoreError>> {
        Box::pin(async move {
            let session = random_id().map_err(|error| StoreError::Shut { why: error.to_string() })?;
            let sent_ns = boot_ns();
            self.inner.open_session(session, node, ttl, boot).await?;
            Ok(OpenedSession { session, sent_ns })
        })
    }

    fn renew(&self, renewal: Renewal) -> BoxFuture<'_, Result<RenewReply, StoreError>> {
        Box::pin(async move {
            let sent_ns = boot_ns();
            self.inner.renew(renewal, sent_ns).await
        })
    }

    fn close_session(&self, session: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.client(ClientRequest::CloseSession { session }).await.map(|_| ()) })
    }

    fn changes<'a>(
        &'a self,
        prefix: &'a str,
        after_revision: u64,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Changes, StoreError>> {
        Box::pin(self.inner.changes(prefix, after_revision, wait))
    }

    fn local_state(&self) -> Option<LocalState> {
        let core = self.inner.core().ok()?;
        Some(LocalState { memory: core.replica.memory(), age: core.replica.age() })
    }
}

pub(crate) fn strange() -> StoreError {
    StoreError::Unknown { detail: "an answer to another question".into() }
}
