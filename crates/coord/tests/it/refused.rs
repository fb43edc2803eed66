//! What a voter must not do: vote without its store, vote with somebody else's, or trust damaged bytes.

use std::fs;
use std::path::Path;

use backstay_coord::conformance::{always, put, read, write};
use backstay_coord::{Embedded, OpenError};

use crate::hub::Cluster;

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_store_is_refused_under_another_node() {
    let mut cluster = Cluster::started(3).await;
    cluster.stop("n1").await;
    cluster.stop("n2").await;
    let (ours, theirs) = (cluster.config("n1"), cluster.config("n2"));
    fs::remove_dir_all(&theirs.dir).unwrap();
    copy_dir(&ours.dir, &theirs.dir);
    let error = Embedded::open(theirs.clone()).await.err().unwrap();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("`n1`") && error.to_string().contains("`n2`"), "{error}");
    fs::copy(&ours.marker, &theirs.marker).unwrap();
    assert!(matches!(Embedded::open(theirs).await.err().unwrap(), OpenError::Foreign { .. }));
    let mut other = ours;
    other.cluster = "other".into();
    assert!(matches!(Embedded::open(other).await.err().unwrap(), OpenError::Foreign { .. }));
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_open_elsewhere_is_refused() {
    let cluster = Cluster::started(1).await;
    let error = Embedded::open(cluster.config("n1")).await.err().unwrap();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_before_the_marker_is_no_loss() {
    let mut cluster = Cluster::started(1).await;
    let store = cluster.store();
    write(&store, always(vec![put("k", b"v", None)])).await;
    cluster.stop("n1").await;
    let marker = cluster.config("n1").marker;
    fs::remove_file(&marker).unwrap();
    cluster.open("n1").await.unwrap();
    assert_eq!(read(&store, "k").await.unwrap().value, b"v");
    assert!(marker.exists());
    cluster.close().await;
}

/// Flips bytes and cuts the file short all over: either the voter refuses, or it has everything it had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_store_is_refused_or_whole() {
    let mut cluster = Cluster::started(1).await;
    let store = cluster.store();
    for n in 0..20u8 {
        write(&store, always(vec![put(&format!("k{n:02}"), &[n; 300], None)])).await;
    }
    cluster.stop("n1").await;
    let config = cluster.config("n1");
    let file = config.dir.join("raft.redb");
    let whole = fs::read(&file).unwrap();
    let (mut refused, mut kept) = (0, 0);
    // Every few bytes of the header, then spread over the pages.
    let places = (0..512).step_by(61).chain((512..whole.len()).step_by(whole.len() / 24));
    let flips = places.map(|place| {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x40;
        (format!("byte {place} flipped"), bytes)
    });
    let cuts = [whole.len() / 2, whole.len() - 1, 4096, 1]
        .map(|length| (format!("cut to {length}"), whole[..length].to_vec()));
    for (what, bytes) in flips.chain(cuts) {
        fs::write(&file, bytes).unwrap();
        match Embedded::open(config.clone()).await {
            Err(OpenError::Corrupted { .. } | OpenError::LostStore { .. } | OpenError::Foreign { .. }) => refused += 1,
            Err(error) => panic!("{what}: {error}"),
            Ok(voter) => {
                kept += 1;
                cluster.adopt(&voter);
                for n in 0..20u8 {
                    let entry = read(&store, &format!("k{n:02}")).await;
                    let value = entry.map(|entry| entry.value);
                    assert_eq!(value.as_deref(), Some(&[n; 300][..]), "{what}: k{n:02}");
                }
                cluster.stop("n1").await;
            }
        }
        for snapshot in fs::read_dir(&config.dir).unwrap().filter_map(Result::ok) {
            assert_eq!(snapshot.file_name(), "raft.redb", "{what}");
        }
    }
    assert!(refused > 0, "nothing was refused, {kept} were whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_healed_by_the_one_before_it_or_refused() {
    let mut cluster = Cluster::started(1).await;
    let store = cluster.store();
    let config = cluster.config("n1");
    let snapshots = || {
        let names = fs::read_dir(&config.dir).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<_> = names.filter(|path| path.extension().is_some_and(|e| e == "snapshot")).collect();
        names.sort();
        names
    };
    for n in 0..3u8 {
        let revision = write(&store, always(vec![put("k", &[n], None)])).await.revision;
        cluster.voters["n1"].snapshot_now().await.unwrap();
        backstay_coord::conformance::until("the snapshot is there", || {
            let newest = snapshots().pop().map(|path| path.file_stem().unwrap().to_string_lossy().into_owned());
            let there = newest.is_some_and(|name| name.parse::<u64>().unwrap() >= revision);
            async move { there }
        })
        .await;
    }
    cluster.stop("n1").await;
    let names = snapshots();
    assert_eq!(names.len(), 2, "two generations are kept");
    let mut bytes = fs::read(&names[1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&names[1], &bytes).unwrap();
    cluster.open("n1").await.unwrap();
    assert_eq!(read(&store, "k").await.unwrap().value, [2], "the log goes on from the older snapshot");
    let revision = write(&store, always(vec![put("k", &[9], None)])).await.revision;
    cluster.voters["n1"].snapshot_now().await.unwrap();
    backstay_coord::conformance::until("the log is purged", || async {
        cluster.voters["n1"].purge_log(revision).await.is_ok()
            && snapshots().last().is_some_and(|path| path.to_string_lossy().contains(&format!("{revision:020}")))
    })
    .await;
    write(&store, always(vec![put("k", &[10], None)])).await;
    cluster.stop("n1").await;
    for path in snapshots() {
        fs::write(path, b"nonsense").unwrap();
    }
    let error = Embedded::open(config.clone()).await.err().unwrap();
    assert!(matches!(error, OpenError::Corrupted { .. }), "{error}");
}
