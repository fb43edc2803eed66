//! agent

pub mod clock;
pub mod identity;
pub mod peer;
