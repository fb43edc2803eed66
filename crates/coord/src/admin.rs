//! Changes of the set of voters, one at a time, by the leader.
//!
//! A change is refused when a majority of the voters it would leave is not in reach: it would take effect and then
//! stop everything. A lost voter comes back in steps: an id minted by the store, added as a learner, promoted once it
//! has caught up, and the old id removed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use backstay_model::memory::{Answer, Command, Compare, Op, Txn};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{BasicNode, ChangeMembers, Instant as _, ServerState};
use tokio::time::timeout;

use crate::clock::timer_now;
use crate::config::FIRST_MINTED_ID;
use crate::embedded::{Core, Embedded, Member};
use crate::serve::write_error;
use crate::store::StoreError;
use crate::wire::{AdminReply, AdminRequest};

/// The counter of minted ids. The store's own keys begin with `~`.
const MINTED_KEY: &str = "~store/minted";
/// Most tries to take the next id when others take one at the same time.
const MINT_TRIES: usize = 8;
/// Most entries that a learner may lack to be promoted.
const PROMOTE_LAG: u64 = 100;
/// Longest wait for a change of members.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for a leader to hand over; after it the old one simply goes on.
const TRANSFER_LIMIT: Duration = Duration::from_secs(3);
/// How often it is looked whether the new leader is there.
const TRANSFER_POLL: Duration = Duration::from_millis(20);

impl Embedded {
    pub(crate) async fn admin(&self, request: AdminRequest) -> Result<AdminReply, StoreError> {
        let core = self.inner.core()?;
        // Nothing below may rest on what an old leader believes.
        self.inner.read_barrier(&core).await?;
        match request {
            AdminRequest::Members => return Ok(AdminReply::Members(self.leadership().borrow().members.clone())),
            AdminRequest::MintId => return self.mint(&core).await.map(|raft_id| AdminReply::Minted { raft_id }),
            AdminRequest::AddLearner { raft_id, node } => add_learner(&core, raft_id, node).await?,
            AdminRequest::Promote { raft_id } => self.promote(&core, raft_id).await?,
            AdminRequest::Remove { raft_id } => self.remove(&core, raft_id).await?,
            AdminRequest::Transfer { to } => self.transfer(&core, to).await?,
        }
        Ok(AdminReply::Done)
    }

    /// Gives up leadership to another voter within 3 s; nothing when this voter does not lead.
    ///
    /// # Errors
    /// When no other voter took it in time; this voter then goes on.
    pub async fn step_down(&self) -> Result<(), StoreError> {
        let core = self.inner.core()?;
        let leading = core.raft.metrics().borrow_watched().state == ServerState::Leader;
        if leading { self.transfer(&core, None).await } else { Ok(()) }
    }

    async fn mint(&self, core: &Core) -> Result<u64, StoreError> {
        for _ in 0..MINT_TRIES {
            let memory = core.replica.memory();
            let entry = memory.entry(MINTED_KEY);
            let last = entry.and_then(|entry| <[u8; 8]>::try_from(entry.value.as_slice()).ok());
            let next = last.map_or(FIRST_MINTED_ID, |bytes| u64::from_le_bytes(bytes) + 1);
            let key = MINTED_KEY.to_owned();
            let revision = entry.map_or(0, |entry| entry.modified);
            let put = Op::Put { key: key.clone(), value: next.to_le_bytes().to_vec(), session: None };
            let txn = Txn { compares: vec![Compare::Revision { key, revision }], then: vec![put], otherwise: vec![] };
            if let Answer::Txn { succeeded: true } = self.inner.propose(Command::Txn(txn)).await?.answer {
                return Ok(next);
            }
        }
        Err(StoreError::NoQuorum { detail: "others took ids at the same time".into() })
    }

    async fn promote(&self, core: &Core, raft_id: u64) -> Result<(), StoreError> {
        let metrics = core.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership().clone();
        let mut voters: BTreeSet<u64> = membership.voter_ids().collect();
        if voters.contains(&raft_id) {
            return Ok(());
        }
        if membership.get_node(&raft_id).is_none() {
            return refuse(format!("there is no learner {raft_id:x}; add it first"));
        }
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&raft_id)).copied().flatten();
        let lag = metrics.last_log_index.unwrap_or(0).saturating_sub(matched.map_or(0, |id| id.index));
        if matched.is_none() || lag > PROMOTE_LAG {
            return refuse(format!("learner {raft_id:x} lacks {lag} entries; at most {PROMOTE_LAG} are allowed"));
        }
        voters.insert(raft_id);
        self.reachable(core, &voters)?;
        change(core, ChangeMembers::AddVoterIds(BTreeSet::from([raft_id])), true).await
    }

    async fn remove(&self, core: &Core, raft_id: u64) -> Result<(), StoreError> {
        let membership = core.raft.metrics().borrow_watched().membership_config.membership().clone();
        let mut voters: BTreeSet<u64> = membership.voter_ids().collect();
        if voters.remove(&raft_id) {
            if voters.is_empty() {
                return refuse(format!("voter {raft_id:x} is the only one"));
            }
            self.reachable(core, &voters)?;
            return change(core, ChangeMembers::RemoveVoters(BTreeSet::from([raft_id])), false).await;
        }
        if membership.get_node(&raft_id).is_none() {
            return Ok(());
        }
        change(core, ChangeMembers::RemoveNodes(BTreeSet::from([raft_id])), false).await
    }

    async fn transfer(&self, core: &Core, to: Option<u64>) -> Result<(), StoreError> {
        let metrics = core.raft.metrics();
        let now = metrics.borrow_watched().clone();
        let voters: BTreeSet<u64> = now.membership_config.voter_ids().collect();
        let to = match to {
            Some(to) => to,
            None => self.best_successor(core, &voters)?,
        };
        if to == now.id {
            return Ok(());
        }
        if !voters.contains(&to) {
            return refuse(format!("{to:x} is no voter"));
        }
        let trigger = core.raft.trigger();
        trigger.transfer_leader(to).await.map_err(|error| StoreError::Shut { why: error.to_string() })?;
        let until = timer_now() + TRANSFER_LIMIT;
        while timer_now() < until {
            if metrics.borrow_watched().current_leader == Some(to) {
                return Ok(());
            }
            tokio::time::sleep(TRANSFER_POLL).await;
        }
        Err(StoreError::NoQuorum { detail: format!("voter {to:x} did not take over within {TRANSFER_LIMIT:?}") })
    }

    /// The voter in reach that has most of the log.
    fn best_successor(&self, core: &Core, voters: &BTreeSet<u64>) -> Result<u64, StoreError> {
        let answered = self.answered(core);
        let metrics = core.raft.metrics().borrow_watched().clone();
        let matched = metrics.replication.unwrap_or_default();
        let others = voters.iter().filter(|id| **id != metrics.id && answered.contains(id));
        let best = others.max_by_key(|id| matched.get(id).copied().flatten());
        best.copied().ok_or_else(|| StoreError::NoQuorum { detail: "no other voter answers".into() })
    }

    /// Members that answered lately, this one included.
    fn answered(&self, core: &Core) -> BTreeSet<u64> {
        let limit = self.inner.config.times.election_max() * 2;
        let metrics = core.raft.metrics().borrow_watched().clone();
        let heartbeats = metrics.heartbeat.unwrap_or_default();
        let lately = heartbeats.into_iter().filter(|(_, at)| at.as_ref().is_some_and(|at| at.elapsed() < limit));
        lately.map(|(id, _)| id).chain([metrics.id]).collect()
    }

    fn reachable(&self, core: &Core, voters: &BTreeSet<u64>) -> Result<(), StoreError> {
        let answered = self.answered(core);
        let there = voters.iter().filter(|id| answered.contains(id)).count();
        if there * 2 > voters.len() {
            return Ok(());
        }
        refuse(format!("only {there} of the {} voters that this leaves answer; that is no majority", voters.len()))
    }
}

async fn add_learner(core: &Core, raft_id: u64, node: String) -> Result<(), StoreError> {
    let membership = core.raft.metrics().borrow_watched().membership_config.membership().clone();
    match membership.get_node(&raft_id) {
        Some(found) if found.addr == node => return Ok(()),
        Some(found) => return refuse(format!("{raft_id:x} is `{}` already", found.addr)),
        None => {}
    }
    if raft_id < FIRST_MINTED_ID {
        return refuse(format!("{raft_id:x} was not minted by the store; ids of founders are never used again"));
    }
    change(core, ChangeMembers::AddNodes(BTreeMap::from([(raft_id, BasicNode::new(node))])), true).await
}

async fn change(core: &Core, change: ChangeMembers<u64, BasicNode>, retain: bool) -> Result<(), StoreError> {
    match timeout(CHANGE_LIMIT, core.raft.change_membership(change, retain)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(write_error(error)),
        Err(_) => Err(StoreError::Unknown { detail: format!("the change was not done within {CHANGE_LIMIT:?}") }),
    }
}

fn refuse<T>(why: String) -> Result<T, StoreError> {
    Err(StoreError::Refused { why })
}

/// Members as a caller outside sees them.
pub(crate) fn members(reply: AdminReply) -> Result<Vec<Member>, StoreError> {
    match reply {
        AdminReply::Members(members) => Ok(members),
        _ => Err(crate::serve::strange()),
    }
}
