//! How long clients notice each kind of recovery, as the product promises it on a LAN. Instances are taken to start at once.

use std::time::Duration;

use backstay_model::lease;

/// A dead process is seen (pidfd), and requests go elsewhere.
pub(crate) const PROCESS_DEAD: Duration = Duration::from_millis(50);
/// A dead program is started again where it was, or a spare gets its traffic.
pub(crate) const RESTART: Duration = Duration::from_millis(500);
const EJECTION: Duration = Duration::from_secs(1);
/// A dead postmaster: contained, then restarted in place or failed over.
pub(crate) const DATABASE_RESTART: Duration = Duration::from_millis(1500);
const DATABASE_FAILOVER: Duration = Duration::from_millis(2500);
/// From the end of a lease to a new holder that serves.
const TAKE: Duration = Duration::from_millis(500);

/// A lost node's exclusive role or address: its lease must end in the store before another may take it (S3).
pub fn takeover() -> Duration {
    Duration::from_nanos(lease::store_deadline_ns(0, lease::LAN)) + TAKE
}

/// A lost node's instances get no more requests.
pub fn ejection() -> Duration {
    EJECTION
}

/// A database on a lost node: a synchronous one through the promises of its standbys (S4), another after its lease.
pub fn takeover_of_database(synchronous: bool) -> Duration {
    if synchronous { DATABASE_FAILOVER } else { takeover() }
}
