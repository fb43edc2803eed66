//! Snapshots of the state machine as files: written aside, made durable, then renamed, and only then relied upon.
//!
//! A file is: magic, length and bytes of the position it stands for, bytes of the state, CRC-32C over all before it.
//! The log behind a snapshot is purged after it is durable, so a damaged snapshot may be all there is of some
//! entries; the one before it is kept for that, and used when the log still reaches back to it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use backstay_model::memory::Memory;

use crate::checksum::crc32c;
use crate::disk::sync_dir;
use crate::raft_types::SnapshotMeta;

const MAGIC: &[u8; 8] = b"BKSNAP01";
const SUFFIX: &str = ".snapshot";
/// Generations kept.
const KEEP: usize = 2;

/// A snapshot that was read and checked.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub meta: SnapshotMeta,
    pub memory: Memory,
    pub bytes: Vec<u8>,
}

/// The directory that holds the snapshots of one voter.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotDir(PathBuf);

impl SnapshotDir {
    pub(crate) fn new(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// Makes a snapshot durable, then forgets all but the newest two.
    pub(crate) fn save(&self, meta: &SnapshotMeta, bytes: &[u8]) -> io::Result<()> {
        let index = meta.last_log_id.map_or(0, |id| id.index);
        let name = format!("{index:020}{SUFFIX}");
        let aside = self.0.join(format!("{name}.tmp"));
        let mut file = File::create(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, self.0.join(&name))?;
        sync_dir(&self.0)?;
        let mut names = self.names()?;
        names.truncate(names.len().saturating_sub(KEEP));
        for old in names {
            fs::remove_file(self.0.join(old))?;
        }
        Ok(())
    }

    /// The newest snapshot from which the log, purged up to `purged`, goes on without a gap.
    ///
    /// `Ok(None)`: there is none and none is needed. An error names what is damaged.
    pub(crate) fn load(&self, purged: Option<u64>) -> io::Result<Option<Loaded>> {
        let mut damage = None;
        for name in self.names()?.iter().rev() {
            let bytes = fs::read(self.0.join(name))?;
            match decode(&bytes) {
                Ok((meta, memory)) if reaches(&meta, purged) => return Ok(Some(Loaded { meta, memory, bytes })),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(snapshot = name, %error, "a damaged snapshot; trying the one before it");
                    damage.get_or_insert(format!("snapshot {name} is damaged: {error}"));
                }
            }
        }
        match (purged, damage) {
            (None, _) => Ok(None),
            (Some(index), damage) => {
                let damage = damage.unwrap_or_else(|| "there is no snapshot".into());
                Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{damage}, and the log before entry {index} is gone"),
                ))
            }
        }
    }

    /// File names, oldest first.
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            if let Some(name) = entry?.file_name().to_str().filter(|name| name.ends_with(SUFFIX)) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }
}

fn reaches(meta: &SnapshotMeta, purged: Option<u64>) -> bool {
    purged.is_none_or(|purged| meta.last_log_id.is_some_and(|last| last.index >= purged))
}

/// The bytes of a snapshot, as stored and as sent.
pub(crate) fn encode(meta: &SnapshotMeta, memory: &Memory) -> io::Result<Vec<u8>> {
    let meta = postcard::to_stdvec(meta).map_err(io::Error::other)?;
    let length = u32::try_from(meta.len()).map_err(io::Error::other)?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&meta);
    let mut bytes = postcard::to_extend(memory, bytes).map_err(io::Error::other)?;
    let crc = crc32c(&[&bytes]);
    bytes.extend_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// Reads and checks the bytes of a snapshot.
pub(crate) fn decode(bytes: &[u8]) -> io::Result<(SnapshotMeta, Memory)> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let end = bytes.len().checked_sub(4).ok_or_else(|| bad("it is too short"))?;
    let (body, crc) = bytes.split_at(end);
    if crc32c(&[body]).to_le_bytes() != crc {
        return Err(bad("its checksum does not match"));
    }
    let rest = body.strip_prefix(MAGIC).ok_or_else(|| bad("it is no snapshot of this format"))?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(|| bad("it is too short"))?;
    let length = u32::from_le_bytes(*length) as usize;
    if rest.len() < length {
        return Err(bad("it is too short"));
    }
    let (meta, memory) = rest.split_at(length);
    let meta = postcard::from_bytes(meta).map_err(|_| bad("its position cannot be read"))?;
    let memory = postcard::from_bytes(memory).map_err(|_| bad("its state cannot be read"))?;
    Ok((meta, memory))
}
