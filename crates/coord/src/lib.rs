//! The cluster's memory: get, transactions, sessions with leases, watch. It does not know what it stores.
//!
//! [`Store`] is the contract; [`Embedded`] is one voter of the store that is built in (Raft, log and vote in redb);
//! [`Client`] is the store as an agent uses it, on a voter or not. The network is given from outside ([`Transport`]).
//!
//! What makes leases safe is spread over three places on purpose: the state machine (`backstay_model::memory`) ends a
//! lease only when its newest renewal is named, each voter's replica keeps deadlines on its own boot clock, and
//! only an established leader proposes ends ([`Leadership::am_leader_established`]).

mod admin;
mod checksum;
mod client;
pub mod clock;
mod config;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod disk;
mod embedded;
mod formation;
mod joined;
mod leases;
mod machine;
mod network;
mod raft_types;
mod serve;
mod snapshots;
mod store;
mod transport;
mod wire;

pub use client::Client;
pub use config::{CLOSE_BELOW_BYTES, Config, FIRST_MINTED_ID, Founder, REOPEN_ABOVE_BYTES, Room, Times, disk_room};
pub use embedded::{Embedded, Fatal, Health, Leadership, Member};
pub use joined::{Joined, OpenError, joined, set_aside};
pub use store::{
    BoxFuture, Changes, Got, LocalState, MAX_CHANGES_WAIT, OpenedSession, Ranged, RenewReply, Store, StoreError,
    TxnReply,
};
pub use transport::{Lane, MAX_BODY_BYTES, Transport, TransportError};
