//! The marker outside the store that says: this node had joined (S12).
//!
//! It is written after the store has its identity and before the voter can give a vote. So a marker without a store
//! means that votes and acknowledged entries are gone, and the voter must not come back under the same id.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::disk::{DiskError, sync_dir};

/// Most stores set aside in one place; more are a reason to look.
const MAX_SET_ASIDE: u32 = 1000;

/// What `joined.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Id of the cluster that was joined.
    pub cluster: String,
    /// Under which voter id.
    pub raft_id: u64,
    /// As which node.
    pub node: String,
}

/// Why a voter does not open. None of these goes away by itself.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// This node had joined, and its store is gone.
    #[error(
        "node `{node}` had joined cluster `{cluster}` as voter {raft_id:x}, but its store in {dir} is gone: {why}. \
         It must not vote under that id again; replace it with a new one: `backstay agent -c FILE --rejoin` on `{node}`"
    )]
    LostStore {
        /// The node.
        node: String,
        /// The cluster.
        cluster: String,
        /// The lost voter.
        raft_id: u64,
        /// Where the store should be.
        dir: String,
        /// How that is known.
        why: String,
    },
    /// The store or the marker belongs to somebody else.
    #[error("{what} belongs to {owner}, not to {this}; give this node its own directory, or put the right one back")]
    Foreign {
        /// The file or directory.
        what: String,
        /// Whose it is.
        owner: String,
        /// Who asked.
        this: String,
    },
    /// The store is damaged. It is left as it is.
    #[error(
        "the store in {dir} is damaged: {why}. It was left untouched; move it aside and bring the node back under a \
         new id: `backstay agent -c FILE --rejoin` on `{node}`"
    )]
    Corrupted {
        /// Where.
        dir: String,
        /// The node.
        node: String,
        /// What was found.
        why: String,
    },
    /// Another process has it open.
    #[error("the store in {dir} is open in another process; stop that one first")]
    InUse {
        /// Where.
        dir: String,
    },
    /// The configuration cannot work.
    #[error("the voter's configuration cannot work: {0}")]
    BadConfig(String),
    /// The file system failed.
    #[error("{what}: {error}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        error: io::Error,
    },
    /// The consensus core did not start.
    #[error("the consensus core did not start: {0}")]
    Core(String),
}

impl OpenError {
    pub(crate) fn lost(config: &Config, raft_id: u64, why: &str) -> Self {
        Self::LostStore {
            node: config.node.clone(),
            cluster: config.cluster.clone(),
            raft_id,
            dir: config.dir.display().to_string(),
            why: why.to_owned(),
        }
    }

    pub(crate) fn disk(config: &Config, error: DiskError) -> Self {
        let dir = config.dir.display().to_string();
        match error {
            DiskError::Corrupted(why) => Self::Corrupted { dir, node: config.node.clone(), why },
            DiskError::InUse => Self::InUse { dir },
            DiskError::Foreign(found) => Self::Foreign {
                what: format!("the store in {dir}"),
                owner: owner(&found.cluster, &found.node, found.raft_id),
                this: owner(&config.cluster, &config.node, config.raft_id),
            },
            DiskError::Io(error) => Self::Io { what: format!("opening the store in {dir}"), error },
        }
    }
}

fn owner(cluster: &str, node: &str, raft_id: u64) -> String {
    format!("node `{node}` (voter {raft_id:x}) of cluster `{cluster}`")
}

/// Reads the marker and checks that it is this node's. With `renewed`, the id may be an older one.
pub(crate) fn read(config: &Config, renewed: bool) -> Result<Option<Joined>, OpenError> {
    let path = config.marker.display().to_string();
    let bytes = match fs::read(&config.marker) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::Io { what: format!("reading {path}"), error }),
    };
    let joined: Joined = serde_json::from_slice(&bytes).map_err(|error| OpenError::Io {
        what: format!("reading {path}"),
        error: io::Error::new(io::ErrorKind::InvalidData, error),
    })?;
    let same = joined.cluster == config.cluster && joined.node == config.node;
    if !same || (!renewed && joined.raft_id != config.raft_id) {
        return Err(OpenError::Foreign {
            what: path,
            owner: owner(&joined.cluster, &joined.node, joined.raft_id),
            this: owner(&config.cluster, &config.node, config.raft_id),
        });
    }
    Ok(Some(joined))
}

/// What the marker at `path` says, for an agent that must know its voter id before it opens.
///
/// # Errors
/// When it exists and cannot be read.
pub fn joined(path: &Path) -> io::Result<Option<Joined>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the marker durable.
pub(crate) fn write(config: &Config) -> Result<(), OpenError> {
    let joined = Joined { cluster: config.cluster.clone(), raft_id: config.raft_id, node: config.node.clone() };
    let store = || -> io::Result<()> {
        let aside = config.marker.with_extension("json.tmp");
        let dir = config.marker.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir)?;
        let mut file = File::create(&aside)?;
        file.write_all(&serde_json::to_vec_pretty(&joined).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&aside, &config.marker)?;
        sync_dir(dir)
    };
    store().map_err(|error| OpenError::Io { what: format!("writing {}", config.marker.display()), error })
}

/// Moves a store out of the way, so that the node can come back under a new id. Nothing is deleted.
///
/// # Errors
/// When it cannot be moved, or a thousand were set aside before.
pub fn set_aside(dir: &Path) -> io::Result<Option<PathBuf>> {
    if !dir.try_exists()? {
        return Ok(None);
    }
    for number in 0..MAX_SET_ASIDE {
        let mut name = dir.as_os_str().to_owned();
        name.push(format!(".aside-{number}"));
        let target = PathBuf::from(name);
        if !target.try_exists()? {
            fs::rename(dir, &target)?;
            dir.parent().map(sync_dir).transpose()?;
            return Ok(Some(target));
        }
    }
    Err(io::Error::other(format!("{} stores were set aside beside {}", MAX_SET_ASIDE, dir.display())))
}
