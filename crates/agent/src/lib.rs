//! The daemon: observe → decide → act.
//!
//! `parent` is what an operator starts; it keeps one `worker` alive. The worker's tasks each own one thing and publish
//! it: `cluster` follows the store, `session` keeps this node's lease, `report` and `coordinator` exchange sightings for
//! the picture, `cycle` makes the goal real here through its hands: `instance` (guards) and `forward` (the balancer).
//! `requests` answers the command line. Nothing flows back except as a new observation.

pub mod api;
pub mod clock;
mod cluster;
mod coordinator;
mod cycle;
mod forward;
mod grants;
pub mod identity;
mod instance;
pub mod local;
pub mod log;
mod outages;
pub mod parent;
pub mod peer;
mod program;
mod report;
mod requests;
mod routes;
mod session;
mod status;
mod voter;
pub mod worker;
