//! The store as every agent uses it, on a voter or not.
//!
//! A request goes to the voter on this node when it is open, else to the leader last heard of, else round the voters.
//! It follows hints and waits out elections within one deadline per call. What is repeated is only what certainly was
//! not done, or may be done twice: reads, and the opening of a session whose id is already chosen. A transaction
//! whose answer was lost ends as [`StoreError::Unknown`].

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use backstay_model::memory::{Renewal, Txn};
use tokio::time::timeout_at;

use crate::clock::{boot_ns, random_id, timer_now};
use crate::config::Times;
use crate::embedded::{Embedded, Member, lock};
use crate::serve::strange;
use crate::store::{
    BoxFuture, Changes, Got, LocalState, MAX_CHANGES_WAIT, OpenedSession, Ranged, RenewReply, Store, StoreError,
    TxnReply,
};
use crate::transport::{Lane, Transport, TransportError};
use crate::wire::{AdminReply, AdminRequest, ClientReply, ClientRequest, Frame, Request, Response, decode, encode};

/// Pause before the next voter is asked, once each was asked.
const PAUSE: Duration = Duration::from_millis(30);
/// A voter is not asked any more when less than this is left of a call: its answer could not come in time.
const LEAST_HOP: Duration = Duration::from_millis(20);
/// What a change of members may take beyond that.
const ADMIN_LIMIT: Duration = Duration::from_secs(15);

/// A store for an agent. Clones share what they know of the leader.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    cluster: String,
    node: String,
    local: RwLock<Option<Embedded>>,
    transport: Arc<dyn Transport>,
    voters: RwLock<Vec<String>>,
    leader: Mutex<Option<String>>,
    /// The voter that last gave no answer, or none of use; it is asked last.
    suspect: Mutex<Option<String>>,
    times: Times,
}

/// How long a request may take.
#[derive(Clone, Copy)]
struct Limits {
    /// In all, elections included.
    call: Duration,
    /// For one voter's answer, so that a silent one does not use up the whole call.
    hop: Duration,
}

impl Limits {
    fn of(times: Times) -> Self {
        Self { call: times.call() * 2, hop: times.call() / 2 }
    }

    /// A renewal that is stuck with an old leader must fail while there is time for another (S3).
    fn of_renewal(times: Times) -> Self {
        Self { call: times.call(), hop: times.election_max() * 2 }
    }
}

/// Whether a request may be sent again after its answer was lost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Always,
    Never,
}

impl Client {
    /// A client on `node`. `voters` are the nodes to ask; `local` is this node's own voter, if it has one.
    #[must_use]
    pub fn new(
        cluster: &str,
        node: &str,
        voters: Vec<String>,
        transport: Arc<dyn Transport>,
        local: Option<Embedded>,
        times: Times,
    ) -> Self {
        let shared = Shared {
            cluster: cluster.to_owned(),
            node: node.to_owned(),
            local: RwLock::new(local),
            transport,
            voters: RwLock::new(voters),
            leader: Mutex::default(),
            suspect: Mutex::default(),
            times,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Replaces the nodes to ask (the membership changed).
    pub fn set_voters(&self, voters: Vec<String>) {
        *self.shared.voters.write().unwrap_or_else(PoisonError::into_inner) = voters;
    }

    /// Replaces this node's own voter (opened, closed, replaced).
    pub fn set_local(&self, local: Option<Embedded>) {
        *self.shared.local.write().unwrap_or_else(PoisonError::into_inner) = local;
    }

    /// Takes a voter id that was never used.
    ///
    /// # Errors
    /// As for every write; an id whose answer was lost is simply never used.
    pub async fn mint_id(&self) -> Result<u64, StoreError> {
        match self.admin(AdminRequest::MintId, Repeat::Always).await? {
            AdminReply::Minted { raft_id } => Ok(raft_id),
            _ => Err(strange()),
        }
    }

    /// Adds a learner under a minted id; the leader begins to fill it.
    ///
    /// # Errors
    /// As for every write. Adding the same one again is harmless.
    pub async fn add_learner(&self, raft_id: u64, node: &str) -> Result<(), StoreError> {
        let request = AdminRequest::AddLearner { raft_id, node: node.to_owned() };
        self.admin(request, Repeat::Always).await.map(|_| ())
    }

    /// Makes a learner a voter; refused while it lacks entries.
    ///
    /// # Errors
    /// As for every write. Promoting a voter is harmless.
    pub async fn promote(&self, raft_id: u64) -> Result<(), StoreError> {
        self.admin(AdminRequest::Promote { raft_id }, Repeat::Always).await.map(|_| ())
    }

    /// Removes a voter or learner for good; its id is never used again.
    ///
    /// # Errors
    /// As for every write. Removing one that is gone is harmless.
    pub async fn remove(&self, raft_id: u64) -> Result<(), StoreError> {
        self.admin(AdminRequest::Remove { raft_id }, Repeat::Always).await.map(|_| ())
    }

    /// Hands leadership to a voter, or to the best one.
    ///
    /// # Errors
    /// When it did not take over within 3 s; the old leader then goes on.
    pub async fn transfer_leadership(&self, to: Option<u64>) -> Result<(), StoreError> {
        self.admin(AdminRequest::Transfer { to }, Repeat::Never).await.map(|_| ())
    }

    /// The members, from the leader.
    ///
    /// # Errors
    /// As for every read.
    pub async fn members(&self) -> Result<Vec<Member>, StoreError> {
        crate::admin::members(self.admin(AdminRequest::Members, Repeat::Always).await?)
    }

    async fn admin(&self, request: AdminRequest, repeat: Repeat) -> Result<AdminReply, StoreError> {
        match self
            .request(Request::Admin(request), repeat, Limits { call: ADMIN_LIMIT, hop: ADMIN_LIMIT }, true)
            .await?
        {
            Response::Admin(Ok(reply)) => Ok(reply),
            Response::Admin(Err(error)) => Err(error),
            _ => Err(strange()),
        }
    }

    async fn client(&self, request: ClientRequest, repeat: Repeat) -> Result<ClientReply, StoreError> {
        let limits = match request {
            ClientRequest::Renew(_) => Limits::of_renewal(self.shared.times),
            _ => Limits::of(self.shared.times),
        };
        match self.request(Request::Client(request), repeat, limits, true).await? {
            Response::Client(Ok(reply)) => Ok(reply),
            Response::Client(Err(error)) => Err(error),
            _ => Err(strange()),
        }
    }

    fn local(&self) -> Option<Embedded> {
        self.shared.local.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where to ask, in order: who was last known to lead, this node's voter, the others.
    fn targets(&self, for_leader: bool) -> Vec<String> {
        let mut targets = Vec::new();
        let local = self.local();
        let led_by = local.as_ref().and_then(|local| local.inner.leader());
        if for_leader {
            targets.extend(led_by.or_else(|| lock(&self.shared.leader).clone()));
        }
        targets.extend(local.map(|_| self.shared.node.clone()));
        targets.extend(self.shared.voters.read().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        let mut seen = std::collections::BTreeSet::new();
        targets.retain(|target| seen.insert(target.clone()));
        let suspect = lock(&self.shared.suspect).clone();
        targets.sort_by_key(|target| Some(target) == suspect.as_ref());
        targets
    }

    fn answered(&self, target: String, for_leader: bool) {
        lock(&self.shared.suspect).take_if(|suspect| *suspect == target);
        if for_leader {
            *lock(&self.shared.leader) = Some(target);
        }
    }

    fn suspect(&self, target: &str) {
        lock(&self.shared.leader).take_if(|leader| leader == target);
        *lock(&self.shared.suspect) = Some(target.to_owned());
    }

    /// Asks until somebody answers for good or the limit is over.
    async fn request(
        &self,
        request: Request,
        repeat: Repeat,
        limits: Limits,
        for_leader: bool,
    ) -> Result<Response, StoreError> {
        let until = timer_now() + limits.call;
        let frame = Frame { cluster: self.shared.cluster.clone(), sender: 0, request };
        let body = encode(&frame).map_err(|error| StoreError::TooLarge { why: error.to_string() })?;
        let mut last = StoreError::NoQuorum { detail: "no voter is known".into() };
        loop {
            let mut queue: std::collections::VecDeque<String> = self.targets(for_leader).into();
            let mut asked = 0;
            while let Some(target) = queue.pop_front() {
                let left = until.saturating_duration_since(timer_now());
                if left < LEAST_HOP {
                    return Err(last);
                }
                asked += 1;
                let error = match self.ask(&target, &body, left.min(limits.hop)).await {
                    Ok(response) => match verdict(&response) {
                        None => {
                            self.answered(target, for_leader);
                            return Ok(response);
                        }
                        Some(error) => error,
                    },
                    Err(error) => error,
                };
                if let StoreError::NotLeader { hint: Some(hint) } = &error
                    && asked <= self.targets(for_leader).len()
                    && queue.front() != Some(hint)
                    && *hint != target
                {
                    queue.push_front(hint.clone());
                }
                if !matches!(error, StoreError::NotLeader { .. }) {
                    self.suspect(&target);
                }
                let may_repeat = error.is_retryable() || repeat == Repeat::Always && is_unknown(&error);
                if !may_repeat {
                    return Err(error);
                }
                last = error;
            }
            if timeout_at(until, tokio::time::sleep(PAUSE)).await.is_err() {
                return Err(last);
            }
        }
    }

    async fn ask(&self, target: &str, body: &[u8], limit: Duration) -> Result<Response, StoreError> {
        let answer = if let Some(local) = self.local().filter(|_| *target == self.shared.node) {
            let handled = tokio::time::timeout(limit, local.handle(&self.shared.node, body)).await;
            handled.map_err(|_| unknown(target, "no answer in time"))?
        } else {
            let call = self.shared.transport.call(target, Lane::Client, body.to_vec(), limit);
            match tokio::time::timeout(limit, call).await {
                Err(_) => return Err(unknown(target, "no answer in time")),
                Ok(Err(TransportError::NotSent { detail, .. })) => {
                    return Err(StoreError::NoQuorum { detail: format!("`{target}` was not reached: {detail}") });
                }
                Ok(Err(error)) => return Err(unknown(target, &error.to_string())),
                Ok(Ok(answer)) => answer,
            }
        };
        match decode(&answer) {
            Ok(Response::Rejected(why)) => Err(StoreError::Shut { why: format!("`{target}` rejected it: {why}") }),
            Ok(response) => Ok(response),
            Err(error) => Err(unknown(target, &error.to_string())),
        }
    }
}

/// The error an answer carries, when it is one that asking elsewhere may cure; an unknown outcome is one too, for
/// those requests that may be repeated.
fn verdict(response: &Response) -> Option<StoreError> {
    let error = match response {
        Response::Client(Err(error)) | Response::Admin(Err(error)) => error,
        _ => return None,
    };
    (error.is_retryable() || is_unknown(error)).then(|| error.clone())
}

fn is_unknown(error: &StoreError) -> bool {
    matches!(error, StoreError::Unknown { .. })
}

fn unknown(target: &str, detail: &str) -> StoreError {
    StoreError::Unknown { detail: format!("`{target}`: {detail}") }
}

impl Store for Client {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Got, StoreError>> {
        Box::pin(async move {
            match self.client(ClientRequest::Get { key: key.to_owned() }, Repeat::Always).await? {
                ClientReply::Got(got) => Ok(got),
                _ => Err(strange()),
            }
        })
    }

    fn range<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Ranged, StoreError>> {
        Box::pin(async move {
            match self.client(ClientRequest::Range { prefix: prefix.to_owned() }, Repeat::Always).await? {
                ClientReply::Ranged(ranged) => Ok(ranged),
                _ => Err(strange()),
            }
        })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, StoreError>> {
        Box::pin(async move {
            match self.client(ClientRequest::Txn(txn), Repeat::Never).await? {
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
            let request = ClientRequest::OpenSession { session, node: node.to_owned(), ttl, boot: boot.to_owned() };
            self.client(request, Repeat::Always).await?;
            Ok(OpenedSession { session, sent_ns })
        })
    }

    fn renew(&self, renewal: Renewal) -> BoxFuture<'_, Result<RenewReply, StoreError>> {
        Box::pin(async move {
            let sent_ns = boot_ns();
            match self.client(ClientRequest::Renew(renewal), Repeat::Never).await? {
                ClientReply::Renewed(reply) => Ok(RenewReply { sent_ns, ..reply }),
                _ => Err(strange()),
            }
        })
    }

    fn close_session(&self, session: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.client(ClientRequest::CloseSession { session }, Repeat::Always).await.map(|_| ()) })
    }

    fn changes<'a>(
        &'a self,
        prefix: &'a str,
        after_revision: u64,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Changes, StoreError>> {
        Box::pin(async move {
            let wait = wait.min(MAX_CHANGES_WAIT);
            let request = ClientRequest::Changes { prefix: prefix.to_owned(), after_revision, wait };
            let usual = Limits::of(self.shared.times);
            let limits = Limits { call: wait + usual.call, hop: wait + usual.hop };
            match self.request(Request::Client(request), Repeat::Always, limits, false).await? {
                Response::Client(Ok(ClientReply::Changes(changes))) => Ok(changes),
                Response::Client(Err(error)) => Err(error),
                _ => Err(strange()),
            }
        })
    }

    fn local_state(&self) -> Option<LocalState> {
        self.local()?.local_state()
    }
}
