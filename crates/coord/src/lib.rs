//! The cluster's memory.
mod checksum;
pub mod clock;
mod disk;
mod machine;
mod network;
mod raft_types;
mod snapshots;
pub mod store;
pub mod transport;
mod wire;
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Member { pub raft_id: u64, pub node: String, pub voter: bool }
