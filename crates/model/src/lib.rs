//! The nouns of Backstay: what every other crate speaks about.
//!
//! Pure: no clock, disk, network, thread or randomness. A type that needs more behaviour than parse, format, compare and
//! small arithmetic belongs elsewhere; [`memory`] is the one exception, because the embedded store and the simulator must
//! run the very same state machine and neither may import the other.

pub mod goal;
pub mod grant;
pub mod ids;
pub mod lease;
pub mod memory;
pub mod observation;
pub mod picture;
pub mod reason;
pub mod replica;
pub mod role;
pub mod step;
pub mod time;

pub use goal::{AddressGoal, Goal, InstanceGoal, NodeMemory, RoleGoal, ServiceGoal};
pub use grant::Grant;
pub use ids::{Generation, ListenerName, NodeName, RoleKey, ServiceId, ServiceKind, Token};
pub use observation::{AddressState, Fact, Health, InstanceObservation, InstanceState, Observation};
pub use reason::{Reason, Subject};
pub use replica::{Lsn, Position, Promise, Reign, ReplicaGoal, ReplicaObservation, SyncRule, Timeline};
pub use role::{DomainLevel, Role};
pub use step::Step;
pub use time::Instant;
