//! Taking and giving back grants: one transaction per role at a time, and nobody waits for it. A store that is slow to
//! answer must not hold up the deadlines and the steps of other roles.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backstay_coord::{Store, StoreError, TxnReply};
use backstay_model::memory::{Compare, Op, Txn};
use backstay_model::{Grant, Instant, NodeName, RoleKey, Token};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::clock;
use crate::cluster::{GOAL_KEY, Reading, encode};
use crate::session::Taken;

/// A transaction that did not do what it should is tried again after this long.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// This node's errands to the store about grants.
pub struct Grants {
    node: NodeName,
    store: Arc<dyn Store>,
    taken: mpsc::Sender<Taken>,
    errands: BTreeMap<RoleKey, (JoinHandle<()>, Instant)>,
}

impl Grants {
    /// None under way; the session hears of each grant that is taken over `taken`.
    pub fn new(node: NodeName, store: Arc<dyn Store>, taken: mpsc::Sender<Taken>) -> Self {
        Self { node, store, taken, errands: BTreeMap::new() }
    }

    /// Takes a grant if the role is free, our session alive and the goal still the one that names us.
    pub fn take(&mut self, reading: &Reading, session: u64, role: RoleKey, token: Token, instead_of: Option<Token>) {
        let key = role.store_key();
        let grant = Grant { holder: self.node.clone(), session, token };
        let covered = reading.grants.get(&role).filter(|(grant, _)| Some(grant.token) == instead_of);
        let replaced = covered.map_or(0, |(_, revision)| *revision);
        let compares = vec![
            Compare::Revision { key: key.clone(), revision: replaced },
            Compare::Revision { key: GOAL_KEY.to_owned(), revision: reading.goal_revision },
            Compare::SessionAlive { session },
        ];
        let put = Op::Put { key, value: encode(&grant), session: Some(session) };
        let (taken, asked_for) = (self.taken.clone(), role.clone());
        self.send(role, compares, put, move |sent, answer| async move {
            let role = asked_for;
            if succeeded("take", &role, answer) {
                tracing::info!(%role, %token, "grant taken");
                taken.send(Taken { role, token, sent }).await.ok();
            }
        });
    }

    /// Gives a grant back; nothing of it is left running here.
    pub fn release(&mut self, reading: &Reading, role: RoleKey, token: Token) {
        let Some((_, revision)) = reading.grants.get(&role) else { return };
        let key = role.store_key();
        let compares = vec![Compare::Revision { key: key.clone(), revision: *revision }];
        let asked_for = role.clone();
        self.send(role, compares, Op::Delete { key }, move |_, answer| async move {
            if succeeded("release", &asked_for, answer) {
                tracing::info!(role = %asked_for, %token, "grant released");
            }
        });
    }

    fn send<F>(
        &mut self,
        role: RoleKey,
        compares: Vec<Compare>,
        op: Op,
        then: impl FnOnce(Instant, Result<TxnReply, StoreError>) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send,
    {
        let sent = clock::now();
        let waits = |(errand, at): &(JoinHandle<()>, Instant)| !errand.is_finished() || sent.since(*at) < AGAIN_AFTER;
        if self.errands.get(&role).is_some_and(waits) {
            return;
        }
        let store = self.store.clone();
        let errand = tokio::spawn(async move {
            let answer = store.txn(Txn { compares, then: vec![op], otherwise: Vec::new() }).await;
            then(sent, answer).await;
        });
        self.errands.insert(role, (errand, sent));
    }
}

fn succeeded(what: &str, role: &RoleKey, answer: Result<TxnReply, StoreError>) -> bool {
    match answer {
        Ok(reply) => reply.succeeded,
        Err(error) => {
            // Also an unknown outcome is no reason to act: the watch will show what became of it.
            tracing::debug!(what, %role, %error, "the store did not do it");
            false
        }
    }
}
