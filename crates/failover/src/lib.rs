//! Who serves, who stands by, who must stop.
//!
//! ```text
//! View ──► decide ──► Goal + reasons        on the coordinator
//! Goal + grants + own observation ──► next_step ──► steps       on every node
//! ```
//!
//! Pure: same arguments, same answer. [`decide`] is the only place that chooses; [`next_step`] only derives what one node
//! still owes to a goal. Neither can fail, neither waits, and every answer carries typed reasons.

mod balanced;
pub mod check;
mod decide;
pub mod detector;
mod exclusive;
mod members;
mod next_step;
mod replica_steps;
mod replicated;
mod room;
mod view;

pub use decide::{Decision, decide};
pub use next_step::{Hold, Local, next_steps};
pub use view::{Session, View};

#[cfg(test)]
mod tests;
