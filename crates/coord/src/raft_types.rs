//! The types that the consensus library is parameterised with, and their short names.

use std::fmt;

use backstay_model::memory::{Answer, Command};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// A command on its way through the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal(pub Command);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Command::Txn(_) => "txn",
            Command::OpenSession { .. } => "open-session",
            Command::Renew(_) => "renew",
            Command::CloseSession { .. } => "close-session",
            Command::Expire(_) => "expire",
            Command::RaiseIncarnation { .. } => "raise-incarnation",
        })
    }
}

/// What applying an entry answers: the revision it was applied at, and the answer of the state machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Log index of the entry.
    pub revision: u64,
    /// What the command did.
    pub answer: Answer,
}

openraft::declare_raft_types!(
    /// Raft over [`Proposal`]s; a member's address is its node name, which the transport resolves.
    pub Types:
        D = Proposal,
        R = Reply,
        NodeId = u64,
        Node = openraft::BasicNode,
);

pub(crate) type Raft = openraft::Raft<Types, Machine>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<Types>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<Types>;
pub(crate) type Membership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
pub(crate) type Snapshot = openraft::type_config::alias::SnapshotOf<Types, Vec<u8>>;
