//! agent

pub mod clock;
pub mod identity;
pub mod peer;
pub mod api;
pub mod local;
pub mod log;
pub mod parent;
