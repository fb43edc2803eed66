//! The planner as other crates use it, against vectors that were computed elsewhere and against its own slow twins.

#![allow(clippy::unwrap_used)]

mod chains;
mod contingency;
mod forecast;
mod placement;
mod service;
mod trees;
mod vectors;
