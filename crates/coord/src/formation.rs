//! The first formation of a cluster, and how a lost store is told from a new one.
//!
//! A founder with neither store nor marker asks all the others. It goes on only when every founder has said that it
//! is fresh too; then all of them initialize with the same membership, which is safe in any order. A founder that
//! asks late may find the others formed already. It was part of that only if it is the very run that answered
//! "fresh" then: each run has a nonce, and the formed ones kept the nonces they saw. Any other empty founder has
//! lost its store, and must come back under a new id (S12).

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::BasicNode;
use openraft::errors::{InitializeError, RaftError};

use crate::config::{Config, Founder};
use crate::embedded::{Inner, Phase};
use crate::joined::OpenError;
use crate::raft_types::Raft;
use crate::transport::Lane;
use crate::wire::{Frame, Greeting, Request, Response, decode, encode};

/// Pause between rounds of asking.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Longest wait for one founder's answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// What a round of asking came to.
enum Round {
    /// All were fresh, as listed (raft id, nonce).
    Formed(Vec<(u64, u64)>),
    /// These have not answered.
    Waiting(Vec<String>),
    /// The cluster exists without this run.
    Lost(String),
}

/// Asks until the cluster can be formed, then starts the voter. There is no bound: a founder that is still being
/// installed may be hours away, and `Health::Forming` names it.
pub(crate) async fn form(inner: Weak<Inner>, nonce: u64) {
    loop {
        let Some(inner) = inner.upgrade() else { return };
        match ask_all(&inner, nonce).await {
            Round::Formed(founders) => {
                if let Err(error) = inner.start(founders).await {
                    inner.fail(error.to_string());
                }
                return;
            }
            Round::Waiting(waiting_for) => inner.enter(Phase::Forming { nonce, waiting_for }),
            Round::Lost(why) => {
                let error = OpenError::lost(&inner.config, inner.config.raft_id, &why).to_string();
                inner.enter(Phase::Shut { why: error.clone(), room: false });
                inner.fail(error);
                return;
            }
        }
        drop(inner);
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn ask_all(inner: &Arc<Inner>, nonce: u64) -> Round {
    let own = inner.config.raft_id;
    let mut founders = BTreeMap::from([(own, nonce)]);
    let mut waiting_for = Vec::new();
    for founder in inner.config.founders.iter().filter(|founder| founder.raft_id != own) {
        match ask(&inner.config, founder).await {
            Some(Greeting::Fresh { nonce }) => {
                founders.insert(founder.raft_id, nonce);
            }
            Some(Greeting::Formed { founders }) if founders.contains(&(own, nonce)) => {
                return Round::Formed(founders);
            }
            Some(Greeting::Formed { .. }) => {
                return Round::Lost(format!("`{}` says that the cluster was formed before", founder.node));
            }
            None => waiting_for.push(founder.node.clone()),
        }
    }
    if waiting_for.is_empty() { Round::Formed(founders.into_iter().collect()) } else { Round::Waiting(waiting_for) }
}

async fn ask(config: &Config, founder: &Founder) -> Option<Greeting> {
    let request = Request::Hello { raft_id: config.raft_id };
    let frame = Frame { cluster: config.cluster.clone(), sender: config.raft_id, request };
    let body = encode(&frame).ok()?;
    let call = config.transport.call(&founder.node, Lane::Control, body, ASK_TIMEOUT);
    let answer = tokio::time::timeout(ASK_TIMEOUT, call).await.ok()?.ok()?;
    match decode(&answer) {
        Ok(Response::Hello(greeting)) => Some(greeting),
        _ => None,
    }
}

/// Gives an empty voter the founders' membership; nothing when it has entries or a vote already.
pub(crate) async fn initialize(config: &Config, raft: &Raft) -> Result<(), OpenError> {
    let members: BTreeMap<u64, BasicNode> =
        config.founders.iter().map(|founder| (founder.raft_id, BasicNode::new(&founder.node))).collect();
    match raft.initialize(members).await {
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(OpenError::Core(error.to_string())),
    }
}
