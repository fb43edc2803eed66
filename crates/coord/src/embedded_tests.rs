//! What ends a voter: an error of its storage, once, for good.

use std::path::PathBuf;

use backstay_model::memory::{Op, Txn};

use super::*;
use crate::config::{Founder, Times, disk_room};
use crate::conformance::until;
use crate::store::{BoxFuture, Store};
use crate::transport::{Lane, Transport, TransportError};

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

fn config(home: &std::path::Path) -> Config {
    Config {
        cluster: "c".into(),
        node: "n".into(),
        raft_id: 7,
        dir: home.join("store"),
        marker: home.join("joined.json"),
        founders: vec![Founder { raft_id: 7, node: "n".into() }],
        peers: Vec::new(),
        times: Times::Lan,
        transport: Arc::new(Nowhere),
        room: Arc::new(disk_room),
    }
}

fn home(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("backstay-coord-{name}-{}", std::process::id()))
}

fn put(key: &str, value: Vec<u8>) -> Txn {
    let then = vec![Op::Put { key: key.into(), value, session: None }];
    Txn { then, ..Txn::default() }
}

async fn led(home: &std::path::Path) -> Embedded {
    let voter = Embedded::open(config(home)).await.unwrap();
    until("it leads", || async { voter.leadership().borrow().am_leader_established }).await;
    voter
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_storage_is_fatal() {
    let home = home("fatal");
    let voter = led(&home).await;
    let core = voter.inner.core().unwrap();
    let log = core.log.clone();
    tokio::task::spawn_blocking(move || log.close()).await.unwrap();
    let error = voter.txn(put("k", Vec::new())).await.unwrap_err();
    assert!(matches!(error, StoreError::Unknown { .. }), "{error}");
    let fatal = voter.fatal().await;
    assert!(fatal.why.contains("closed"), "{fatal}");
    voter.close().await;
    std::fs::remove_dir_all(home).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_few_large_entries_is_cut_back() {
    let home = home("large");
    let voter = led(&home).await;
    for n in 0..80u32 {
        voter.txn(put("k", vec![0; 1 << 20])).await.unwrap_or_else(|error| panic!("write {n}: {error}"));
    }
    until("the log is small again", || async {
        voter.inner.core().is_ok_and(|core| core.log.log_bytes() < MAX_LOG_BYTES)
    })
    .await;
    let error = voter.txn(Txn { otherwise: put("k", vec![0; 3 << 20]).then, ..put("k", Vec::new()) }).await;
    assert!(matches!(error, Err(StoreError::TooLarge { .. })), "{error:?}");
    voter.close().await;
    std::fs::remove_dir_all(home).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_cannot_work_is_refused() {
    let home = home("config");
    let refuse = |change: fn(&mut Config)| {
        let mut config = config(&home);
        change(&mut config);
        async move { Embedded::open(config).await.err().unwrap().to_string() }
    };
    let inside = refuse(|config| config.marker = config.dir.join("joined.json")).await;
    assert!(inside.contains("lies within"), "{inside}");
    assert!(refuse(|config| config.raft_id = 8).await.contains("is no founder"));
    assert!(refuse(|config| config.founders.push(config.founders[0].clone())).await.contains("share an id"));
    let minted = refuse(|config| config.raft_id = FIRST_MINTED_ID + 1).await;
    assert!(minted.contains("--rejoin"), "{minted}");
    assert!(!home.exists(), "a refusal leaves nothing behind");
}
