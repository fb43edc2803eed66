//! Three voters: the conformance suite, changes of leader, snapshots, replacing a voter.

use std::sync::Arc;
use std::time::Duration;

use backstay_coord::clock::boot_ns;
use backstay_coord::conformance::{self, always, put, read, renewal, until, write};
use backstay_coord::{Embedded, FIRST_MINTED_ID, Health, Store, StoreError};
use backstay_model::lease::{holder_deadline_ns, store_deadline_ns};

use crate::hub::{Cluster, NODES};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_on_three_voters() {
    let cluster = Cluster::started(3).await;
    conformance::all(cluster.store(), "a/").await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_on_a_slow_network() {
    let cluster = Cluster::started(3).await;
    cluster.hub.slow(Duration::from_millis(5));
    conformance::all(cluster.store(), "slow/").await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_linearizable_across_changes_of_leader() {
    let cluster = Cluster::started(3).await;
    let client = cluster.client();
    let store: Arc<dyn Store> = Arc::new(client.clone());
    conformance::reads_what_was_acknowledged(&store, "lin/", 4, || async {
        // A hand-over may be refused under load; what matters is what is read after it.
        let _ = client.transfer_leadership(None).await;
    })
    .await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_agree_on_every_bit() {
    let cluster = Cluster::started(3).await;
    let store = cluster.store();
    let session = store.open_session("agent", Duration::from_secs(60), "b").await.unwrap().session;
    for n in 0..50u8 {
        write(&store, always(vec![put(&format!("k{}", n % 7), &[n], (n % 2 == 0).then_some(session))])).await;
    }
    let revision = store.get("k0").await.unwrap().revision;
    until("all voters have the same state", || {
        let states = cluster.voters.values().map(|voter| voter.local_state().unwrap().memory);
        let hashes: Vec<_> = states.map(|memory| (memory.revision(), memory.hash())).collect();
        let same = hashes.iter().all(|one| *one == hashes[0] && one.0 >= revision);
        async move { same }
    })
    .await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_leader_keeps_the_time_that_is_left() {
    let cluster = Cluster::started(3).await;
    let client = cluster.client();
    let store: Arc<dyn Store> = Arc::new(client.clone());
    let ttl = Duration::from_secs(6);
    let session = store.open_session("agent", ttl, "b").await.unwrap();
    write(&store, always(vec![put("leased", b"", Some(session.session))])).await;
    let granted_ns = boot_ns();
    tokio::time::sleep(ttl / 2).await;
    client.transfer_leadership(None).await.unwrap();
    let handed_over_ns = boot_ns();
    until("the lease ends", || async { read(&store, "leased").await.is_none() }).await;
    let ended_ns = boot_ns();
    assert!(ended_ns >= holder_deadline_ns(session.sent_ns, ttl), "too early");
    // A leader that started leases anew could not have ended this one yet.
    let anew_ns = holder_deadline_ns(handed_over_ns, ttl);
    assert!(ended_ns < anew_ns, "ended {} ms late", (ended_ns - store_deadline_ns(granted_ns, ttl)) / 1_000_000);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_leader_ends_no_lease() {
    let cluster = Cluster::started(3).await;
    let store = cluster.store();
    let ttl = Duration::from_secs(4);
    let session = store.open_session("agent", ttl, "b").await.unwrap();
    write(&store, always(vec![put("leased", b"", Some(session.session))])).await;
    let old = cluster.leader().await;
    let others: Vec<&str> = NODES.into_iter().filter(|node| *node != old).collect();
    // The agent still reaches everybody; the old leader reaches no voter.
    cluster.hub.cut(&old, &others);
    let healed_ns = boot_ns() + 2 * u64::try_from(ttl.as_nanos()).unwrap();
    let over_ns = healed_ns + u64::try_from(ttl.as_nanos()).unwrap();
    let mut deadline_ns = holder_deadline_ns(session.sent_ns, ttl);
    let (mut seq, mut renewed, mut lapsed) = (0, 0, false);
    while boot_ns() < over_ns {
        if boot_ns() > healed_ns {
            cluster.hub.heal();
        }
        seq += 1;
        if let Ok(reply) = store.renew(renewal(session.session, seq, ttl, &["leased"])).await {
            lapsed |= boot_ns() > deadline_ns;
            assert!(lapsed || reply.session_alive, "a lease ended before its holder's deadline");
            assert!(lapsed || reply.alive_keys == ["leased"], "a key ended before its holder's deadline");
            deadline_ns = holder_deadline_ns(reply.sent_ns, ttl);
            renewed += 1;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(renewed > 0, "no renewal came through although the agent reached a majority");
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_far_behind_gets_a_snapshot() {
    let mut cluster = Cluster::started(3).await;
    let store = cluster.store();
    let away = *NODES.iter().find(|node| **node != "n1").unwrap();
    cluster.stop(away).await;
    for n in 0..30u8 {
        write(&store, always(vec![put(&format!("k{n}"), &[n; 100], None)])).await;
    }
    let revision = store.get("k0").await.unwrap().revision;
    for voter in cluster.voters.values() {
        until("the voter has applied all", || async { voter.local_state().unwrap().memory.revision() >= revision })
            .await;
        voter.snapshot_now().await.unwrap();
    }
    // The snapshot is built in the background, and only what it holds can be purged.
    for voter in cluster.voters.values() {
        until("the log before the snapshot is gone", || async { voter.purge_log(revision - 1).await.is_ok() }).await;
    }
    let back = cluster.open(away).await.unwrap();
    write(&store, always(vec![put("after", b"", None)])).await;
    until("the voter has caught up", || async {
        back.local_state().is_some_and(|state| state.memory.entry("after").is_some())
    })
    .await;
    assert_eq!(back.local_state().unwrap().memory.entry("k29").unwrap().value, [29; 100]);
    let changes = back.changes("k", 0, Duration::from_millis(10)).await.unwrap();
    assert_eq!(changes.resync.map(|all| all.len()), Some(30), "watches on it start over");
    cluster.stop(away).await;
    let again = cluster.open(away).await.unwrap();
    until("it has the same after a restart", || async {
        again.local_state().is_some_and(|state| state.memory.entry("after").is_some())
    })
    .await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_voter_comes_back_under_a_new_id() {
    let mut cluster = Cluster::started(3).await;
    let client = cluster.client();
    let store: Arc<dyn Store> = Arc::new(client.clone());
    write(&store, always(vec![put("k", b"v", None)])).await;
    let lost = "n3";
    let old_id = cluster.config(lost).raft_id;
    cluster.stop(lost).await;
    std::fs::remove_dir_all(cluster.temp.path().join(lost)).unwrap();

    // Nothing on disk says that this node was there; the others do.
    let empty = cluster.open(lost).await.unwrap();
    let fatal = empty.fatal().await;
    assert!(fatal.why.contains("formed before") && fatal.why.contains("--rejoin"), "{fatal}");
    assert!(matches!(empty.leadership().borrow().health, Health::Shut { .. }));
    cluster.stop(lost).await;

    let new_id = client.mint_id().await.unwrap();
    assert!(new_id >= FIRST_MINTED_ID);
    let mut config = cluster.config(lost);
    config.raft_id = new_id;
    let learner = Embedded::open_as_learner(config.clone()).await.unwrap();
    cluster.adopt(&learner);
    client.add_learner(new_id, lost).await.unwrap();
    until("the learner is promoted", || async {
        match client.promote(new_id).await {
            Ok(()) => true,
            Err(StoreError::Refused { why }) => {
                assert!(why.contains("lacks"), "{why}");
                false
            }
            Err(error) => panic!("{error}"),
        }
    })
    .await;
    client.remove(old_id).await.unwrap();
    let members = client.members().await.unwrap();
    assert_eq!(members.iter().filter(|member| member.voter).count(), 3);
    assert!(members.iter().any(|member| member.raft_id == new_id && member.node == lost));
    assert!(!members.iter().any(|member| member.raft_id == old_id));

    // The new voter counts: with another one gone, there is still a quorum.
    cluster.stop("n2").await;
    write(&store, always(vec![put("k", b"w", None)])).await;
    until("the new voter has it", || async {
        learner.local_state().unwrap().memory.entry("k").is_some_and(|entry| entry.value == b"w")
    })
    .await;
    cluster.stop(lost).await;
    let reopened = Embedded::open(config).await.unwrap();
    cluster.adopt(&reopened);
    assert_eq!(read(&store, "k").await.unwrap().value, b"w");
    assert_ne!(client.mint_id().await.unwrap(), new_id);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_wait_for_all_and_one_may_be_late() {
    let mut cluster = Cluster::new(3);
    let first = cluster.open("n1").await.unwrap();
    cluster.open("n2").await.unwrap();
    until("the first names who is missing", || {
        let health = first.leadership().borrow().health.clone();
        async move { health == Health::Forming { waiting_for: vec!["n3".into()] } }
    })
    .await;
    let error = first.get("k").await.unwrap_err();
    assert!(matches!(error, StoreError::Shut { .. }), "{error}");
    cluster.open("n3").await.unwrap();
    cluster.leader().await;
    cluster.all_take_part().await;
    cluster.close().await;
}
