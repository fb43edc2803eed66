//! The embedded store as a whole: the conformance suite on one and three voters, and what must survive faults.

#![allow(clippy::unwrap_used)]

mod faults;
mod hub;
mod refused;
mod single;
mod three;
