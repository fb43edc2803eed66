//! The consensus core's calls to other voters, over the transport given from outside.
//!
//! Every call carries the deadline the core asks for. A voter that cannot be reached never counts as one that agrees:
//! each failure is an error, in pre-votes above all, where the library's default would be a grant.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::BasicNode;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};

use crate::raft_types::{Snapshot, Types, Vote};
use crate::transport::{Lane, Transport};
use crate::wire::{Frame, Request, Response, decode, encode};

/// What a call may take longer for each MiB of its body: the slowest link and disk that still keep up.
const TIME_PER_MIB: Duration = Duration::from_secs(2);
/// Larger bodies take the lane of snapshots.
const LARGE_BYTES: usize = 64 << 10;

/// Makes a [`Peer`] per voter and purpose.
#[derive(Clone)]
pub(crate) struct Network {
    pub cluster: String,
    pub sender: u64,
    pub transport: Arc<dyn Transport>,
}

/// Calls to one other voter.
pub(crate) struct Peer {
    network: Network,
    node: String,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, _target: u64, node: &BasicNode) -> Peer {
        Peer { network: self.clone(), node: node.addr.clone() }
    }
}

impl Peer {
    async fn call(&self, request: Request, lane: Lane, timeout: Duration) -> Result<Response, Unreachable<Types>> {
        let network = &self.network;
        let frame = Frame { cluster: network.cluster.clone(), sender: network.sender, request };
        let body = encode(&frame).map_err(|error| Unreachable::new(&error))?;
        // The core gives every call the time of a heartbeat. Large entries need more, and must not hold up heartbeats.
        let timeout = timeout + TIME_PER_MIB.mul_f64(body.len() as f64 / f64::from(1 << 20));
        let lane = if body.len() > LARGE_BYTES { Lane::Bulk } else { lane };
        let call = network.transport.call(&self.node, lane, body, timeout);
        let answer = match tokio::time::timeout(timeout, call).await {
            Ok(answer) => answer.map_err(|error| Unreachable::new(&error))?,
            Err(_) => return Err(Unreachable::from_string(format!("`{}` did not answer in time", self.node))),
        };
        match decode(&answer).map_err(|error| Unreachable::new(&error))? {
            Response::Rejected(why) => Err(Unreachable::from_string(format!("`{}` rejected it: {why}", self.node))),
            response => Ok(response),
        }
    }

    fn strange(&self) -> Unreachable<Types> {
        Unreachable::from_string(format!("`{}` gave an answer to another question", self.node))
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        match self.call(Request::Append(rpc), Lane::Control, option.soft_ttl()).await? {
            Response::Append(response) => Ok(response),
            _ => Err(self.strange().into()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(Request::Vote(rpc), Lane::Control, option.soft_ttl()).await? {
            Response::Vote(response) => Ok(response),
            _ => Err(self.strange().into()),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(Request::PreVote(rpc), Lane::Control, option.soft_ttl()).await? {
            Response::Vote(response) => Ok(response),
            _ => Err(self.strange().into()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let request = Request::Snapshot { vote, meta: snapshot.meta, bytes: snapshot.snapshot };
        let answer = tokio::select! {
            biased;
            closed = cancel => return Err(closed.into()),
            answer = self.call(request, Lane::Bulk, option.soft_ttl()) => answer,
        };
        match answer? {
            Response::Snapshot(response) => Ok(response),
            _ => Err(self.strange().into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        match self.call(Request::Transfer(request), Lane::Control, option.soft_ttl()).await? {
            Response::Transfer(response) => Ok(response),
            _ => Err(self.strange().into()),
        }
    }
}
