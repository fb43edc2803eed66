//! The consensus library's own suite for log stores and state machines, and the sealing of records.

use std::sync::atomic::{AtomicU32, Ordering};

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::*;
use crate::machine::Machine;
use crate::snapshots::SnapshotDir;

struct TempDir(PathBuf, LogStore);

impl Drop for TempDir {
    fn drop(&mut self) {
        self.1.close();
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Builder;

fn temp_path() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("backstay-coord-disk-{}-{number}", std::process::id()))
}

impl StoreBuilder<Types, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<Types>> {
        let path = temp_path();
        let log = LogStore::open(&path, &Identity::new("c", "n", 1), &[]).unwrap();
        let machine = Machine::new(SnapshotDir::new(&path), None);
        Ok((TempDir(path, log.clone()), log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_of_the_consensus_library() {
    Suite::test_all(Builder).await.unwrap();
}

#[test]
fn a_record_in_another_place_is_a_damaged_one() {
    let sealed = seal(&1u64.to_le_bytes(), b"body".to_vec());
    assert_eq!(unseal(&1u64.to_le_bytes(), &sealed), Some(&b"body"[..]));
    assert_eq!(unseal(&2u64.to_le_bytes(), &sealed), None);
    assert_eq!(unseal(&1u64.to_le_bytes(), &sealed[..3]), None);
}

#[test]
fn formation_is_kept_and_another_owner_is_named() {
    let path = temp_path();
    let ours = Identity::new("c", "n", 1);
    assert!(!LogStore::exists(&path).unwrap());
    let log = LogStore::open(&path, &ours, &[(1, 7), (2, 8)]).unwrap();
    log.close();
    assert!(LogStore::exists(&path).unwrap());
    let again = LogStore::open(&path, &ours, &[]).unwrap();
    assert_eq!(again.formation().unwrap(), [(1, 7), (2, 8)]);
    let held = LogStore::open(&path, &ours, &[]).err().unwrap();
    assert!(matches!(held, DiskError::InUse), "{held}");
    again.close();
    let error = LogStore::open(&path, &Identity::new("c", "m", 1), &[]).err().unwrap();
    assert!(matches!(&error, DiskError::Foreign(owner) if *owner == ours), "{error}");
    std::fs::remove_dir_all(path).unwrap();
}
