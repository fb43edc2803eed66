//! Cuts, full disks, and writes whose end nobody knows.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backstay_coord::conformance::{always, put, read, until, write};
use backstay_coord::{CLOSE_BELOW_BYTES, Embedded, Health, REOPEN_ABOVE_BYTES, Store, StoreError, Times};

use crate::hub::{Cluster, NODES};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_during_a_cut_is_unknown_or_not_done_and_never_changes_its_mind() {
    let cluster = Cluster::started(3).await;
    let store = cluster.store();
    for round in 0..3u8 {
        let old = cluster.leader().await;
        let others: Vec<&str> = NODES.into_iter().filter(|node| *node != old).collect();
        cluster.hub.cut(&old, &others);
        let key = format!("k{round}");
        let error = cluster.voters[&old].txn(always(vec![put(&key, b"", None)])).await.unwrap_err();
        let certain = matches!(error, StoreError::NoQuorum { .. } | StoreError::NotLeader { .. });
        assert!(certain || matches!(error, StoreError::Unknown { .. }), "{error}");
        let stale = cluster.voters[&old].get(&key).await.unwrap_err();
        assert!(matches!(stale, StoreError::NoQuorum { .. } | StoreError::NotLeader { .. }), "{stale}");
        // The others go on without it.
        write(&store, always(vec![put("others", &[round], None)])).await;
        cluster.hub.heal();
        cluster.leader().await;
        write(&store, always(vec![put("after", &[round], None)])).await;
        let first = read(&store, &key).await.is_some();
        assert!(!(certain && first), "a write that was not done is there");
        for _ in 0..5 {
            assert_eq!(read(&store, &key).await.is_some(), first);
        }
    }
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_without_a_leader_does_not_feed_silence_to_watchers() {
    let cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let node = NODES.into_iter().find(|node| *node != leader).unwrap();
    let others: Vec<&str> = NODES.into_iter().filter(|other| *other != node).collect();
    cluster.hub.cut(node, &others);
    let voter = &cluster.voters[node];
    until("the watch is refused", || async {
        matches!(voter.changes("", u64::MAX, Duration::from_millis(20)).await, Err(StoreError::NoQuorum { .. }))
    })
    .await;
    assert!(voter.local_state().unwrap().age > Duration::from_millis(300));
    let health = || voter.leadership().borrow().health.clone();
    until("the voter says so", || async { health() == Health::NoQuorum }).await;
    cluster.hub.heal();
    until("it answers again", || async { voter.changes("", u64::MAX, Duration::from_millis(20)).await.is_ok() }).await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_closes_before_its_disk_is_full_and_opens_again() {
    let mut cluster = Cluster::new(3);
    let room = Arc::new(AtomicU64::new(1 << 40));
    let mut config = cluster.config("n1");
    let measured = Arc::clone(&room);
    config.room = Arc::new(move |_: &Path| -> io::Result<u64> { Ok(measured.load(Ordering::Relaxed)) });
    let tight = Embedded::open(config).await.unwrap();
    cluster.adopt(&tight);
    cluster.open("n2").await.unwrap();
    cluster.open("n3").await.unwrap();
    cluster.leader().await;
    let store = cluster.store();
    write(&store, always(vec![put("before", b"", None)])).await;
    room.store(CLOSE_BELOW_BYTES - 1, Ordering::Relaxed);
    let health = || tight.leadership().borrow().health.clone();
    until("the voter is shut", || async { matches!(health(), Health::Shut { .. }) }).await;
    assert!(matches!(tight.get("before").await.unwrap_err(), StoreError::Shut { .. }));
    write(&store, always(vec![put("meanwhile", b"", None)])).await;
    // Between the two limits nothing happens: it must not flap.
    room.store(REOPEN_ABOVE_BYTES - 1, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(matches!(health(), Health::Shut { .. }));
    room.store(REOPEN_ABOVE_BYTES + 1, Ordering::Relaxed);
    until("it has caught up", || async {
        tight.local_state().is_some_and(|state| state.memory.entry("meanwhile").is_some())
    })
    .await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_goes_on_through_the_loss_of_the_leader() {
    let mut cluster = Cluster::started(3).await;
    let store = cluster.store();
    for n in 0..3u8 {
        let leader = cluster.leader().await;
        cluster.stop(&leader).await;
        write(&store, always(vec![put("k", &[n], None)])).await;
        assert_eq!(read(&store, "k").await.unwrap().value, [n]);
        cluster.open(&leader).await.unwrap();
    }
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_not_heard() {
    let cluster = Cluster::started(1).await;
    let voter = &cluster.voters["n1"];
    for body in [&b""[..], b"\x01", b"\x07zzz", &[0xff; 64]] {
        let answer = voter.handle("stranger", body).await;
        assert!(!answer.is_empty(), "garbage is answered, not dropped");
    }
    let other =
        backstay_coord::Client::new("other", "agent", vec!["n1".into()], cluster.port("agent"), None, Times::Lan);
    let error = tokio::time::timeout(Duration::from_secs(60), other.get("k")).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("not `other`"), "{error}");
    cluster.close().await;
}
