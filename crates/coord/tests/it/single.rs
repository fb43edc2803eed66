//! One voter: the conformance suite, restarts, and what is refused at opening.

use std::sync::Arc;

use backstay_coord::conformance;
use backstay_coord::{Embedded, Store};

use crate::hub::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_on_one_voter() {
    let cluster = Cluster::started(1).await;
    conformance::all(cluster.store(), "a/").await;
    let local: Arc<dyn Store> = Arc::new(cluster.voters["n1"].clone());
    conformance::compare_and_swap(&local, "local/").await;
    conformance::watch_resyncs(&local, "ring/", 10_000).await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_everything() {
    let mut cluster = Cluster::started(1).await;
    let store = cluster.store();
    let session = store.open_session("agent", std::time::Duration::from_secs(60), "b").await.unwrap().session;
    for round in 0..3u8 {
        let key = format!("k{round}");
        conformance::write(&store, conformance::always(vec![conformance::put(&key, &[round], Some(session))])).await;
        if round == 1 {
            cluster.voters["n1"].snapshot_now().await.unwrap();
        }
        cluster.stop("n1").await;
        cluster.open("n1").await.unwrap();
        for earlier in 0..=round {
            let entry = conformance::read(&store, &format!("k{earlier}")).await.unwrap();
            assert_eq!(entry.value, [earlier]);
            assert_eq!(entry.lease.unwrap().session, session);
        }
    }
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_store_is_refused_with_the_way_back() {
    let mut cluster = Cluster::started(1).await;
    cluster.stop("n1").await;
    std::fs::remove_dir_all(cluster.config("n1").dir).unwrap();
    let error = Embedded::open(cluster.config("n1")).await.err().unwrap();
    assert!(matches!(error, backstay_coord::OpenError::LostStore { .. }), "{error}");
    assert!(error.to_string().contains("--rejoin"), "{error}");
}
