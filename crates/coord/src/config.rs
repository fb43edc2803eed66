//! What a voter needs to know to open, and the consensus settings that follow from it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::SnapshotPolicy;

use crate::transport::Transport;

/// A voter closes its store when less than this is free on its disk, in bytes (S12).
pub const CLOSE_BELOW_BYTES: u64 = 16 << 20;
/// A voter that closed for want of room opens again when more than this is free, in bytes (S12).
pub const REOPEN_ABOVE_BYTES: u64 = 32 << 20;
/// Raft ids from here on are minted by the store; founders choose below it, so the two never meet.
pub const FIRST_MINTED_ID: u64 = 1 << 63;

/// A voter of the first formation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founder {
    /// Random, from the file that bootstraps the cluster; never made from a name or a position.
    pub raft_id: u64,
    /// Its node.
    pub node: String,
}

/// How far apart the voters are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// One network: round trips up to 10 ms.
    Lan,
    /// Between sites: round trips up to 80 ms with jitter.
    Wan,
}

impl Times {
    /// How often the leader tells that it is there.
    #[must_use]
    pub fn heartbeat(self) -> Duration {
        match self {
            Self::Lan => Duration::from_millis(60),
            Self::Wan => Duration::from_millis(300),
        }
    }

    /// The shortest silence before an election.
    #[must_use]
    pub fn election_min(self) -> Duration {
        match self {
            Self::Lan => Duration::from_millis(200),
            Self::Wan => Duration::from_millis(1000),
        }
    }

    /// The longest silence before an election, and the leader's own lease.
    #[must_use]
    pub fn election_max(self) -> Duration {
        match self {
            Self::Lan => Duration::from_millis(300),
            Self::Wan => Duration::from_millis(1500),
        }
    }

    /// After how long without word from a leader a replica no longer answers watchers.
    #[must_use]
    pub fn silence(self) -> Duration {
        self.election_max() * 4
    }

    /// Longest wait for one write or linearizable read.
    #[must_use]
    pub fn call(self) -> Duration {
        match self {
            Self::Lan => Duration::from_secs(3),
            Self::Wan => Duration::from_secs(9),
        }
    }
}

/// Tells how many bytes are free for the store's directory.
pub type Room = Arc<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// Everything a voter needs.
#[derive(Clone)]
pub struct Config {
    /// Id of the cluster; stores and messages of another are refused.
    pub cluster: String,
    /// This node's name.
    pub node: String,
    /// This voter's id: a founder's, or one minted by the store.
    pub raft_id: u64,
    /// The voter's own directory.
    pub dir: PathBuf,
    /// The marker file `joined.json`; it must not lie within `dir` (S12).
    pub marker: PathBuf,
    /// The voters of the first formation; the same list everywhere.
    pub founders: Vec<Founder>,
    /// Nodes that may become voters, by the adopted file; their votes and entries are accepted although the
    /// membership known here does not hold them yet.
    pub peers: Vec<String>,
    /// How far apart the voters are.
    pub times: Times,
    /// The way to the other voters.
    pub transport: Arc<dyn Transport>,
    /// How room on disk is measured; [`disk_room`] unless a test says otherwise.
    pub room: Room,
}

/// Bytes that this process may still write to the file system of `path`.
///
/// # Errors
/// When the file system cannot be asked.
pub fn disk_room(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The consensus settings. Each differs from the library's default for a reason.
pub(crate) fn raft_config(config: &Config) -> Result<openraft::Config, openraft::ConfigError> {
    let times = config.times;
    openraft::Config {
        cluster_name: config.cluster.clone(),
        heartbeat_interval: millis(times.heartbeat()),
        election_timeout_min: millis(times.election_min()),
        election_timeout_max: millis(times.election_max()),
        // A returning or lagging voter must not raise terms over a healthy leader.
        enable_pre_vote: Some(true),
        // A leader that lost its quorum but still reaches one voter would block elections for ever.
        quorum_loss_probe_interval: Some(2 * millis(times.election_max())),
        // A restarted leader has an empty state machine and fresh deadlines: it must win an election first.
        enable_leader_restore: Some(false),
        // The default is shorter than sending and installing a full store takes.
        install_snapshot_timeout: 30_000,
        // A returning voter gets its first entries at once, not after a second.
        backoff: "20ms 40ms ..200ms".into(),
        // Snapshots are rare and the purge stays far behind what is applied.
        snapshot_policy: SnapshotPolicy::LogsSinceLast(10_000),
        max_in_snapshot_log_to_keep: 20_000,
        replication_lag_threshold: 25_000,
        // Fail fast instead of queueing minutes of commands.
        api_channel_size: Some(1024),
        notification_channel_size: Some(1024),
        // An append of many large values must stay within the size of one body.
        max_payload_entries: 32,
        ..openraft::Config::default()
    }
    .validate()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::BoxFuture;
    use crate::transport::{Lane, MAX_BODY_BYTES, TransportError};

    struct Nowhere;

    impl Transport for Nowhere {
        fn call<'a>(
            &'a self,
            to: &'a str,
            _: Lane,
            _: Vec<u8>,
            _: Duration,
        ) -> BoxFuture<'a, Result<Vec<u8>, TransportError>> {
            Box::pin(async move { Err(TransportError::NotSent { to: to.into(), detail: "nowhere".into() }) })
        }
    }

    #[test]
    fn both_profiles_are_valid_and_no_message_outgrows_a_body() {
        for times in [Times::Lan, Times::Wan] {
            let config = Config {
                cluster: "c".into(),
                node: "n".into(),
                raft_id: 1,
                dir: "d".into(),
                marker: "m".into(),
                founders: Vec::new(),
                peers: Vec::new(),
                times,
                transport: Arc::new(Nowhere),
                room: Arc::new(disk_room),
            };
            let settings = raft_config(&config).unwrap();
            let largest = settings.max_payload_entries as usize * crate::serve::MAX_COMMAND_BYTES;
            assert!(largest < MAX_BODY_BYTES, "{largest}");
        }
    }
}
