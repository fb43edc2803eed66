//! Touches programs: starts them under a guard, checks whether they serve, and looks at the ports they need.
//!
//! The *guard* is a small process of its own, the parent of one start of one instance. It holds the program's output
//! and exit status while agents come and go, and it *contains* the program, so that a program that lost its right to run
//! is stopped as a whole, with everything it ever forked. [`GuardHandle`] is the agent's side of it, [`guard_main`] and
//! [`guard_init_main`] are the two processes. [`check`] watches health, [`ports`] finds and explains ports.

pub mod check;
pub mod clock;
mod error;
mod guard;
mod handle;
mod leftover;
pub mod ports;
mod procfs;
mod spec;
mod sys;
mod wire;

pub use error::{AppError, StartFailure, StartFailureKind};
pub use guard::guard_main;
pub use guard::init::guard_init_main;
pub use handle::{GuardEvent, GuardHandle};
pub use spec::{Containment, ContainmentKind, ExitReason, ExitReport, GuardSpec, GuardState, GuardStatus};
