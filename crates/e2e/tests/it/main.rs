//! The whole product as it is deployed: agents, balancers, guards and programs as real processes on loopback addresses,
//! driven through the command line and struck as machines and kernels strike.

// A test may read a clock to bound a wait.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod adopted;
mod forms;
mod killed;
mod moved;
mod planned;
mod refused;
mod rig;
mod stopped;
mod store;
