//! This node's session: one message renews it and lists the exclusive roles that this node still vouches for.
//!
//! Deadlines follow S3: they count from the instant the acknowledged renewal was *sent*, on CLOCK_BOOTTIME, less a margin.
//! A role that is not listed runs out in the store and here alike. The session outlives its agent: an agent that starts
//! again resumes it by its id, so that what its guards run goes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backstay_coord::Store;
use backstay_model::memory::{Compare, Op, Renewal, Txn};
use backstay_model::{Grant, Instant, NodeName, RoleKey, Token, lease};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::clock;
use crate::cluster::{Reading, SessionValue, encode, session_key};

/// How long a session lasts without a renewal (DESIGN §6, `lan`).
pub const LEASE: Duration = lease::LAN;
/// How often it is renewed.
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// A role whose newest proof of life is older than this is no longer vouched for (S5).
pub const PROOF_WITHIN: Duration = Duration::from_secs(10);

/// What this node holds, by its own clock.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Holding {
    /// The session; none before the store first answered.
    pub session: Option<u64>,
    /// It runs until here.
    pub session_until: Instant,
    /// The roles' tokens and deadlines.
    pub roles: BTreeMap<RoleKey, (Token, Instant)>,
}

/// A grant that was just taken, told to the session so that its deadline runs at once.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Which role.
    pub role: RoleKey,
    /// Under which token.
    pub token: Token,
    /// When the transaction that took it was sent.
    pub sent: Instant,
}

/// Everything the session task needs.
pub struct Keeper {
    /// This node.
    pub node: NodeName,
    /// This run of the agent.
    pub boot: String,
    /// Where the session's id is kept across restarts of the agent.
    pub state_dir: PathBuf,
    /// The store.
    pub store: Arc<dyn Store>,
    /// What the store last said.
    pub reading: watch::Receiver<Arc<Reading>>,
    /// When each role was last proven alive here.
    pub proofs: watch::Receiver<BTreeMap<RoleKey, Instant>>,
    /// Grants taken.
    pub taken: mpsc::Receiver<Taken>,
    /// What is held.
    pub holding: watch::Sender<Holding>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    session: u64,
    machine_boot: String,
}

impl Keeper {
    /// Keeps the session for as long as the agent lives.
    pub async fn keep(mut self) {
        let mut holding = Holding { session: self.remembered(), ..Holding::default() };
        let mut tick = tokio::time::interval(RENEW_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => self.turn(&mut holding).await,
                Some(taken) = self.taken.recv() => {
                    let until = deadline(taken.sent);
                    holding.roles.insert(taken.role, (taken.token, until));
                }
            }
            self.holding.send_if_modified(|known| {
                let changed = *known != holding;
                known.clone_from(&holding);
                changed
            });
        }
    }

    /// One renewal, or the opening of a session.
    async fn turn(&mut self, holding: &mut Holding) {
        let Some(session) = holding.session else { return self.open(holding).await };
        let roles = self.vouched(session, holding);
        let keys = roles.keys().map(RoleKey::store_key).chain([session_key(&self.node)]).collect();
        let sent = clock::now();
        let renewal = Renewal { session, seq: sent.0, ttl_ms: LEASE.as_millis() as u64, keys };
        match tokio::time::timeout(LEASE, self.store.renew(renewal)).await {
            Ok(Ok(reply)) if reply.session_alive => {
                let until = deadline(sent);
                if !reply.alive_keys.contains(&session_key(&self.node)) {
                    // The session lives but its key ran out; a new one would be another session to everybody.
                    return self.lose(holding, "its key ran out");
                }
                holding.session_until = until;
                for (role, token) in roles {
                    if reply.alive_keys.contains(&role.store_key()) {
                        holding.roles.insert(role, (token, until));
                    }
                }
                let now = clock::now();
                holding.roles.retain(|_, (_, until)| *until > now);
            }
            Ok(Ok(_)) => self.lose(holding, "it ended in the store"),
            Ok(Err(error)) => tracing::debug!(%error, "the session was not renewed"),
            Err(_) => tracing::debug!("the store did not answer the renewal in time"),
        }
    }

    /// The roles whose grants are ours by the last reading and which are proven alive, with their tokens.
    fn vouched(&self, session: u64, holding: &Holding) -> BTreeMap<RoleKey, Token> {
        let now = clock::now();
        let reading = self.reading.borrow();
        let proofs = self.proofs.borrow();
        let ours = |grant: &Grant| grant.holder == self.node && grant.session == session;
        let read = reading.grants.iter().filter(|(_, (grant, _))| ours(grant));
        let read = read.map(|(role, (grant, _))| (role.clone(), grant.token));
        // A grant just taken may not have been read yet.
        let taken = holding.roles.iter().map(|(role, (token, _))| (role.clone(), *token));
        let mut roles: BTreeMap<_, _> = taken.chain(read).collect();
        roles.retain(|role, _| {
            let proven = proofs.get(role).is_some_and(|at| now.since(*at) < PROOF_WITHIN);
            *role == RoleKey::Coordinator || proven
        });
        roles
    }

    async fn open(&mut self, holding: &mut Holding) {
        let opened =
            match tokio::time::timeout(LEASE, self.store.open_session(self.node.as_str(), LEASE, &self.boot)).await {
                Ok(Ok(opened)) => opened,
                Ok(Err(error)) => return tracing::debug!(%error, "no session yet"),
                Err(_) => return tracing::debug!("no session yet: the store did not answer in time"),
            };
        let key = session_key(&self.node);
        let value = encode(&SessionValue { id: opened.session, boot: self.boot.clone() });
        let put = Op::Put { key, value, session: Some(opened.session) };
        let compares = vec![Compare::SessionAlive { session: opened.session }];
        let sent = clock::now();
        match self.store.txn(Txn { compares, then: vec![put], otherwise: Vec::new() }).await {
            Ok(reply) if reply.succeeded => {
                *holding =
                    Holding { session: Some(opened.session), session_until: deadline(sent), ..Holding::default() };
                self.remember(opened.session);
                tracing::info!(session = opened.session, "session opened");
            }
            Ok(_) => tracing::debug!("the new session ended before its key was put"),
            Err(error) => tracing::debug!(%error, "the session's key was not put"),
        }
    }

    fn lose(&self, holding: &mut Holding, why: &str) {
        tracing::warn!(why, "the session is over; a new one is opened");
        // Deadlines already given stay as they are: guards end what they hold by themselves.
        holding.session = None;
        drop(std::fs::remove_file(self.path()));
    }

    fn path(&self) -> PathBuf {
        self.state_dir.join("session.json")
    }

    /// The session of the agent before this one, unless the machine has started since: then what it ran is gone.
    fn remembered(&self) -> Option<u64> {
        let kept: Kept = serde_json::from_slice(&std::fs::read(self.path()).ok()?).ok()?;
        (kept.machine_boot == machine_boot()).then_some(kept.session)
    }

    fn remember(&self, session: u64) {
        let kept = Kept { session, machine_boot: machine_boot() };
        if let Err(error) = write_whole(&self.path(), &serde_json::to_vec(&kept).unwrap_or_default()) {
            tracing::warn!(%error, "the session's id was not kept: a restarted agent will open a new one");
        }
    }
}

/// Until when a holder may act on what was acknowledged after it was sent.
pub fn deadline(sent: Instant) -> Instant {
    Instant(lease::holder_deadline_ns(sent.0, LEASE))
}

/// The kernel's id of this start of the machine.
fn machine_boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Replaces a small file as a whole.
pub fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes)?;
    std::fs::rename(new, path)
}
