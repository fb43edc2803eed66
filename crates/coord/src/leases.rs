//! Renewals on their way in, and leases on their way out.
//!
//! Renewals of many agents are gathered for a moment and logged as one entry. Ends of leases are proposed only by an
//! established leader that has just confirmed its quorum, name the renewal they saw, and are never forwarded: what an
//! old leader still proposes does nothing when it is applied.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use backstay_model::memory::{Answer, Command, MAX_KEY_BYTES, Renewal, Renewed};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::embedded::{Inner, lock};
use crate::store::StoreError;

/// How long the first renewal waits for others.
const GATHER: Duration = Duration::from_millis(20);
/// Most renewals in one entry; with [`MAX_RENEWED_KEYS`] this keeps it within one command.
const MAX_GATHERED: usize = 32;
/// Most keys that one renewal lists.
const MAX_RENEWED_KEYS: usize = 128;
/// Most renewals waiting to be gathered.
const QUEUE: usize = 1024;
/// Most entries of renewals on their way at once.
const MAX_IN_FLIGHT: usize = 32;
/// How often deadlines are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(25);

type Waiting = (Renewal, oneshot::Sender<Result<Renewed, StoreError>>);

/// Where renewals wait.
pub(crate) struct RenewQueue {
    sender: mpsc::Sender<Waiting>,
    receiver: Mutex<Option<mpsc::Receiver<Waiting>>>,
}

impl RenewQueue {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        Self { sender, receiver: Mutex::new(Some(receiver)) }
    }

    pub(crate) fn take_receiver(&self) -> mpsc::Receiver<Waiting> {
        // The one task that gathers takes it; another would find a closed queue.
        lock(&self.receiver).take().unwrap_or_else(|| mpsc::channel(1).1)
    }

    /// Waits for the end of one renewal.
    pub(crate) async fn renew(&self, renewal: Renewal) -> Result<Renewed, StoreError> {
        let long = renewal.keys.iter().any(|key| key.len() > MAX_KEY_BYTES);
        if long || renewal.keys.len() > MAX_RENEWED_KEYS {
            let why = format!("a renewal lists at most {MAX_RENEWED_KEYS} keys of {MAX_KEY_BYTES} bytes");
            return Err(StoreError::TooLarge { why });
        }
        let (done, end) = oneshot::channel();
        let shut = || StoreError::Shut { why: "the voter is closing".into() };
        self.sender.send((renewal, done)).await.map_err(|_| shut())?;
        let unknown = |_| StoreError::Unknown { detail: "the voter closed while the renewal was under way".into() };
        end.await.map_err(unknown)?
    }
}

/// Gathers renewals and proposes them together.
pub(crate) async fn gather(inner: Weak<Inner>, mut queue: mpsc::Receiver<Waiting>) {
    let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    while let Some(first) = queue.recv().await {
        tokio::time::sleep(GATHER).await;
        let mut gathered = vec![first];
        while gathered.len() < MAX_GATHERED {
            let Ok(next) = queue.try_recv() else { break };
            gathered.push(next);
        }
        let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else { return };
        let Some(inner) = inner.upgrade() else { return };
        tokio::spawn(async move {
            propose(&inner, gathered).await;
            drop(permit);
        });
    }
}

async fn propose(inner: &Inner, gathered: Vec<Waiting>) {
    let (renewals, waiting): (Vec<_>, Vec<_>) = gathered.into_iter().unzip();
    let result = inner.propose(Command::Renew(renewals)).await;
    let mut answers = match result {
        Ok(reply) => match reply.answer {
            Answer::Renewed(answers) => answers.into_iter(),
            other => return fail(waiting, &StoreError::Unknown { detail: format!("a strange answer: {other:?}") }),
        },
        Err(error) => return fail(waiting, &error),
    };
    for done in waiting {
        let unknown = || StoreError::Unknown { detail: "the answer named fewer renewals than were sent".into() };
        let _ = done.send(answers.next().ok_or_else(unknown));
    }
}

fn fail(waiting: Vec<oneshot::Sender<Result<Renewed, StoreError>>>, error: &StoreError) {
    for done in waiting {
        // Whoever asked may have stopped waiting.
        let _ = done.send(Err(error.clone()));
    }
}

/// Ends leases that have run out, while this voter leads.
pub(crate) async fn end_due(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        if !inner.leads() {
            continue;
        }
        let Ok(core) = inner.core() else { continue };
        if core.replica.due().is_empty() || inner.read_barrier(&core).await.is_err() {
            continue;
        }
        // What was renewed while the quorum was asked is not due any more.
        let due = core.replica.due();
        if due.is_empty() {
            continue;
        }
        tracing::info!(leases = due.len(), "ending leases that ran out");
        if let Err(error) = inner.propose(Command::Expire(due)).await {
            tracing::debug!(%error, "ending leases failed; a leader will try again");
        }
    }
}
