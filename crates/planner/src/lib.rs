//! Advice on redundancy: where instances go so that the declared model really holds.
//!
//! Pure. [`place`] is the only placement code; `failover` calls it to decide.

pub mod contingency;
pub mod forecast;
mod place;
pub mod predict;
mod standing;

pub use place::{Demand, Placement, Shortage, Site, Topology, place, wanted, wanted_active};
pub use standing::{Seat, Standing};
