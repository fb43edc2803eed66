//! What travels between nodes: one version byte, then a postcard envelope with the cluster and the sender's id.
//!
//! Enums only ever grow at their end: postcard writes positions, and nodes of two versions talk during an upgrade.

use std::time::Duration;

use backstay_model::memory::{Renewal, Txn};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::raft_types::{SnapshotMeta, Types, Vote};
use crate::store::{Changes, Got, OpenedSession, Ranged, RenewReply, StoreError, TxnReply};
use crate::transport::MAX_BODY_BYTES;

/// Version of the envelope; another version is refused by name.
const VERSION: u8 = 1;

/// Why a body could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Empty, or more than [`MAX_BODY_BYTES`].
    #[error("a body of {0} bytes")]
    Size(usize),
    /// Another version of the envelope.
    #[error("version {0} of the store's protocol; this node speaks {VERSION}")]
    Version(u8),
    /// The bytes are no message.
    #[error("a body that cannot be read: {0}")]
    Malformed(String),
}

/// A request with its envelope.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Frame {
    /// Id of the cluster the sender belongs to.
    pub cluster: String,
    /// Raft id of the sender; 0 when it is no voter.
    pub sender: u64,
    /// What it asks.
    pub request: Request,
}

/// Every request. Append only.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Snapshot { vote: Vote, meta: SnapshotMeta, bytes: Vec<u8> },
    Transfer(TransferLeaderRequest<Types>),
    Hello { raft_id: u64 },
    Client(ClientRequest),
    Admin(AdminRequest),
}

/// What an agent asks of the store. Append only.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ClientRequest {
    Get { key: String },
    Range { prefix: String },
    Txn(Txn),
    OpenSession { session: u64, node: String, ttl: Duration, boot: String },
    Renew(Renewal),
    CloseSession { session: u64 },
    Changes { prefix: String, after_revision: u64, wait: Duration },
}

/// What changes the set of voters. Append only.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum AdminRequest {
    MintId,
    AddLearner { raft_id: u64, node: String },
    Promote { raft_id: u64 },
    Remove { raft_id: u64 },
    Transfer { to: Option<u64> },
    Members,
}

/// Every answer. Append only.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Response {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    Snapshot(SnapshotResponse<Types>),
    Transfer(TransferLeaderResponse<Types>),
    Hello(Greeting),
    Client(Result<ClientReply, StoreError>),
    Admin(Result<AdminReply, StoreError>),
    /// Not handled: wrong cluster, not a member, not ready. Says why.
    Rejected(String),
}

/// How far a founder is, as it tells the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Greeting {
    /// It has no store. The nonce names this run of it, so that it can later be known as one that was there.
    Fresh { nonce: u64 },
    /// It has a store that was formed when these founders were fresh (raft id, nonce).
    Formed { founders: Vec<(u64, u64)> },
}

/// Answers to [`ClientRequest`]. Append only.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ClientReply {
    Got(Got),
    Ranged(Ranged),
    Txn(TxnReply),
    Opened(OpenedSession),
    Renewed(RenewReply),
    Closed,
    Changes(Changes),
}

/// Answers to [`AdminRequest`]. Append only.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum AdminReply {
    Minted { raft_id: u64 },
    Done,
    Members(Vec<crate::Member>),
}

/// Writes a message with its version byte.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let body = postcard::to_extend(message, vec![VERSION]).map_err(|e| WireError::Malformed(e.to_string()))?;
    if body.len() > MAX_BODY_BYTES {
        return Err(WireError::Size(body.len()));
    }
    Ok(body)
}

/// Reads a message; nothing may be left over.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    if body.is_empty() || body.len() > MAX_BODY_BYTES {
        return Err(WireError::Size(body.len()));
    }
    if body[0] != VERSION {
        return Err(WireError::Version(body[0]));
    }
    let (message, rest) = postcard::take_from_bytes(&body[1..]).map_err(|e| WireError::Malformed(e.to_string()))?;
    if !rest.is_empty() {
        return Err(WireError::Malformed(format!("{} bytes left over", rest.len())));
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderId;

    use super::*;

    #[test]
    fn raft_messages_survive_the_wire() {
        let vote = Vote { leader_id: RaftLeaderId::new(3, 9), committed: true };
        let request = VoteRequest { vote, last_log_id: None, leadership_transfer: true };
        let frame = Frame { cluster: "c".into(), sender: 9, request: Request::PreVote(request.clone()) };
        let read: Frame = decode(&encode(&frame).unwrap()).unwrap();
        assert!(matches!(read.request, Request::PreVote(ref found) if *found == request));
        let meta = SnapshotMeta::default();
        let frame = Frame { cluster: "c".into(), sender: 9, request: Request::Snapshot { vote, meta, bytes: vec![1] } };
        let read: Frame = decode(&encode(&frame).unwrap()).unwrap();
        assert!(matches!(read.request, Request::Snapshot { bytes, .. } if bytes == [1]));
    }

    #[test]
    fn foreign_bytes_are_named() {
        assert_eq!(decode::<Frame>(&[]).unwrap_err(), WireError::Size(0));
        assert_eq!(decode::<Frame>(&[9, 0]).unwrap_err(), WireError::Version(9));
        assert!(matches!(decode::<Frame>(&[1, 200]).unwrap_err(), WireError::Malformed(_)));
    }
}
