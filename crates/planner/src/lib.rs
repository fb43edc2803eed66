//! Redundancy that is proven, not declared: where instances go, what may fail, and what to expect.
//!
//! ```text
//! Spec ──► place ──► Standing ──► contingency: what each failure does      ──┐
//!                        │                                                   ├──► plan: does the promise hold, what to change
//!                        └──────► forecast (over predict): how often, how long ┘
//! ```
//!
//! Pure. [`place()`] is the only placement code; `failover` calls it to decide.

pub mod contingency;
pub mod forecast;
pub mod models;
mod place;
pub mod plan;
pub mod predict;
mod standing;
mod topology;
pub mod what_if;

pub use place::{
    Carrier, Cause, Deadlock, Demand, Fix, Gap, Lacking, Location, Losses, Move, Placement, Places, Shortage, Slot,
    Standby, Topology, fixes, moves, place, sets, standby_reserve, survive_losses, wanted_active,
};
pub use standing::{Seat, Standing};
