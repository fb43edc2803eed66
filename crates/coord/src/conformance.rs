//! What every store must do, as functions over any [`Store`]: run against the embedded store on one and three voters,
//! and against every other back end there will be.
//!
//! Each function works under its own `scope`, a prefix of keys, so that they can share a store. They panic with what
//! was expected, as tests do. They never assert speed: a lease must not end too early, and must end at all.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use backstay_model::lease::holder_deadline_ns;
use backstay_model::memory::{Compare, Entry, EventKind, MAX_TXN_OPS, MAX_VALUE_BYTES, Op, Renewal, Txn};

use crate::clock::{boot_ns, timer_now};
use crate::store::{Changes, Store, StoreError, TxnReply};

/// How long anything may take before it counts as never.
pub const PATIENCE: Duration = Duration::from_secs(60);

type Shared = Arc<dyn Store>;

/// A put.
#[must_use]
pub fn put(key: &str, value: &[u8], session: Option<u64>) -> Op {
    Op::Put { key: key.to_owned(), value: value.to_vec(), session }
}

/// A transaction without a condition.
#[must_use]
pub fn always(then: Vec<Op>) -> Txn {
    Txn { then, ..Txn::default() }
}

/// A transaction on the revision of one key.
#[must_use]
pub fn swap(key: &str, revision: u64, value: &[u8]) -> Txn {
    let compares = vec![Compare::Revision { key: key.to_owned(), revision }];
    Txn { compares, then: vec![put(key, value, None)], otherwise: Vec::new() }
}

/// Everything that needs no fault and no special state.
pub async fn all(store: Shared, scope: &str) {
    compare_and_swap(&store, &format!("{scope}cas/")).await;
    racing_swaps(&store, &format!("{scope}race/")).await;
    limits(&store, &format!("{scope}limits/")).await;
    sessions(&store, &format!("{scope}sessions/")).await;
    watch(&store, &format!("{scope}watch/")).await;
    leases(&store, &format!("{scope}leases/")).await;
}

/// A compare sees what was written before it, and both branches are all or nothing.
pub async fn compare_and_swap(store: &Shared, scope: &str) {
    let (key, other) = (format!("{scope}k"), format!("{scope}other"));
    let first = write(store, swap(&key, 0, b"1")).await;
    assert!(first.succeeded, "an absent key has revision 0");
    let second = write(store, swap(&key, 0, b"2")).await;
    assert!(!second.succeeded && second.revision > first.revision);
    let entry = read(store, &key).await.expect("the first write is there");
    assert_eq!((entry.value.as_slice(), entry.modified), (&b"1"[..], first.revision));
    let txn = Txn {
        compares: vec![Compare::Value { key: key.clone(), value: b"no".to_vec() }],
        then: vec![Op::DeletePrefix { prefix: scope.to_owned() }],
        otherwise: vec![put(&key, b"3", None), put(&other, b"4", None)],
    };
    assert!(!write(store, txn).await.succeeded);
    let found = store.range(scope).await.expect("a range can be read").entries;
    let values: Vec<_> = found.iter().map(|(key, entry)| (key.as_str(), entry.value.as_slice())).collect();
    assert_eq!(values, [(key.as_str(), &b"3"[..]), (other.as_str(), &b"4"[..])]);
    assert_eq!(found[0].1.created, first.revision);
}

/// Of many that swap the same key, each success builds on the one before.
pub async fn racing_swaps(store: &Shared, scope: &str) {
    const RACERS: u8 = 4;
    const SWAPS: u64 = 5;
    let key = format!("{scope}counter");
    let racers = (0..RACERS).map(|racer| {
        let (store, key) = (Arc::clone(store), key.clone());
        tokio::spawn(async move {
            let (mut done, mut unknown) = (0, 0);
            while done < SWAPS {
                let entry = read(&store, &key).await;
                let revision = entry.as_ref().map_or(0, |entry| entry.modified);
                let count = entry.map_or(0, |entry| u64::from(entry.value[0]));
                let next = u8::try_from(count + 1).expect("a small count");
                match store.txn(swap(&key, revision, &[next, racer])).await {
                    Ok(reply) => done += u64::from(reply.succeeded),
                    Err(StoreError::Unknown { .. }) => unknown += 1,
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
            }
            (done, unknown)
        })
    });
    let (mut done, mut unknown) = (0, 0);
    for racer in racers.collect::<Vec<_>>() {
        let counted = racer.await.expect("a racer ends");
        done += counted.0;
        unknown += counted.1;
    }
    let entry = read(store, &key).await.expect("the counter is there");
    let count = u64::from(entry.value[0]);
    assert!((done..=done + unknown).contains(&count), "{count} swaps, {done} succeeded, {unknown} unknown");
}

/// What is too large is refused by name and changes nothing.
pub async fn limits(store: &Shared, scope: &str) {
    let key = format!("{scope}big");
    let largest = vec![7; MAX_VALUE_BYTES];
    assert!(write(store, always(vec![put(&key, &largest, None)])).await.succeeded, "the largest value fits");
    let error = store.txn(always(vec![put(&key, &[largest, vec![7]].concat(), None)])).await.expect_err("too large");
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    let many = (0..=MAX_TXN_OPS).map(|n| put(&format!("{scope}{n}"), b"", None)).collect();
    let error = store.txn(always(many)).await.expect_err("too many");
    assert!(matches!(error, StoreError::TooLarge { .. }) && !error.is_retryable(), "{error}");
    assert_eq!(read(store, &key).await.map(|entry| entry.value.len()), Some(MAX_VALUE_BYTES));
    write(store, always(vec![Op::Delete { key }])).await;
}

/// Sessions: compares, superseding, closing.
pub async fn sessions(store: &Shared, scope: &str) {
    let (key, node) = (format!("{scope}k"), format!("{scope}node"));
    let ttl = Duration::from_secs(60);
    let first = store.open_session(&node, ttl, "boot").await.expect("a session opens").session;
    let leased = || always(vec![put(&key, b"1", Some(first))]);
    write(store, leased()).await;
    let second = store.open_session(&node, ttl, "boot").await.expect("another opens").session;
    assert!(read(store, &key).await.is_some(), "a newer session of the node leaves the keys of the older one");
    let alive = |session| Txn { compares: vec![Compare::SessionAlive { session }], ..Txn::default() };
    assert!(!write(store, alive(first)).await.succeeded && write(store, alive(second)).await.succeeded);
    let renewed = store.renew(renewal(first, 1, ttl, &[&key])).await.expect("a renewal is answered");
    assert!(!renewed.session_alive && renewed.alive_keys.is_empty());
    let error = store.txn(leased()).await.expect_err("the session was superseded");
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    store.close_session(first).await.expect("a session closes");
    assert!(read(store, &key).await.is_none(), "closing deletes its keys");
    store.close_session(second).await.expect("a session closes");
}

/// A watch sees each change once, in order, only under its prefix, and can go on from where it was.
pub async fn watch(store: &Shared, scope: &str) {
    let (key, outside) = (format!("{scope}in/k"), format!("{scope}out"));
    let inside = format!("{scope}in/");
    let start = store.get(&key).await.expect("a read").revision;
    let mut written = Vec::new();
    for n in 0..5u8 {
        written.push(write(store, always(vec![put(&key, &[n], None), put(&outside, &[n], None)])).await.revision);
    }
    let one_by_one = follow(store, &inside, start, 3).await;
    let rest = follow(store, &inside, one_by_one.revision.min(written[2]), 2).await;
    let seen: Vec<u64> = one_by_one.events.iter().take(3).chain(&rest.events).map(|event| event.revision).collect();
    let mut deduplicated = seen.clone();
    deduplicated.dedup();
    assert_eq!(deduplicated[..3], written[..3]);
    assert!(one_by_one.events.iter().chain(&rest.events).all(|event| event.key == key));
    let idle = store.changes(&inside, rest.revision, Duration::from_millis(50)).await.expect("silence is an answer");
    assert!(idle.events.is_empty() && idle.resync.is_none() && idle.revision >= rest.revision);
    let (waiting, from) = (Arc::clone(store), idle.revision);
    let prefix = inside.clone();
    let waiter = tokio::spawn(async move { follow(&waiting, &prefix, from, 1).await });
    write(store, always(vec![Op::Delete { key }])).await;
    let events = waiter.await.expect("the watch answers").events;
    assert_eq!((events[0].kind, events[0].value.is_none()), (EventKind::Deleted, true));
}

/// Leases end, per key and per session, and never before their holder's own deadline.
pub async fn leases(store: &Shared, scope: &str) {
    let ttl = Duration::from_secs(2);
    let (kept, dropped) = (format!("{scope}kept"), format!("{scope}dropped"));
    let node = format!("{scope}node");
    let session = store.open_session(&node, ttl, "boot").await.expect("a session opens").session;
    let granted_ns = boot_ns();
    write(store, always(vec![put(&kept, b"", Some(session)), put(&dropped, b"", Some(session))])).await;
    let mut seq = 0;
    let mut kept_until_ns = holder_deadline_ns(granted_ns, ttl);
    // Once a renewal came late, as on a machine that is busy, the key may be gone for good.
    let mut lapsed = false;
    let patience = timer_now() + PATIENCE;
    while read(store, &dropped).await.is_some() {
        assert!(timer_now() < patience, "never: a key that nobody vouches for ends");
        seq += 1;
        if let Ok(reply) = store.renew(renewal(session, seq, ttl, &[&kept])).await {
            lapsed |= boot_ns() > kept_until_ns;
            let alive = reply.session_alive && reply.alive_keys == [kept.clone()];
            assert!(lapsed || alive, "a key ended before its holder's deadline: {reply:?}");
            kept_until_ns = holder_deadline_ns(reply.sent_ns, ttl);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(boot_ns() >= holder_deadline_ns(granted_ns, ttl), "the key ended before its holder's deadline");
    let there = read(store, &kept).await.is_some();
    assert!(there || lapsed || boot_ns() > kept_until_ns, "the key that was renewed is gone");
    until("a silent session ends", || async { read(store, &kept).await.is_none() }).await;
    assert!(lapsed || boot_ns() >= kept_until_ns, "the key ended before its holder's deadline");
    until("the session has ended", || async {
        let txn = Txn { compares: vec![Compare::SessionAlive { session }], ..Txn::default() };
        matches!(store.txn(txn).await, Ok(reply) if !reply.succeeded)
    })
    .await;
    let reply = store.renew(renewal(session, seq + 1, ttl, &[&kept])).await.expect("a renewal is answered");
    assert!(!reply.session_alive && reply.alive_keys.is_empty());
}

/// A watch that fell too far behind gets everything anew.
pub async fn watch_resyncs(store: &Shared, scope: &str, keep: usize) {
    let start = store.get(scope).await.expect("a read").revision;
    let mut written = 0;
    while written <= keep {
        let ops: Vec<Op> = (0..MAX_TXN_OPS).map(|n| put(&format!("{scope}{n:03}"), b"x", None)).collect();
        written += ops.len();
        write(store, always(ops)).await;
    }
    let changes = store.changes(scope, start, Duration::from_secs(1)).await.expect("an answer");
    let everything = changes.resync.expect("the changes are no longer known");
    assert_eq!(everything.len(), MAX_TXN_OPS);
    let next = store.changes(scope, changes.revision, Duration::from_millis(20)).await.expect("an answer");
    assert!(next.resync.is_none() && next.events.is_empty());
}

/// What was acknowledged is read, whatever `disturb` does in between (a change of leader, a restart).
pub async fn reads_what_was_acknowledged<F: Future<Output = ()>>(
    store: &Shared,
    scope: &str,
    rounds: u8,
    mut disturb: impl FnMut() -> F,
) {
    let key = format!("{scope}k");
    for n in 0..rounds {
        let revision = write(store, always(vec![put(&key, &[n], None)])).await.revision;
        disturb().await;
        let entry = read(store, &key).await.expect("an acknowledged write is there");
        assert_eq!((entry.value.as_slice(), entry.modified), (&[n][..], revision), "a stale read");
    }
}

/// The renewal of some keys.
#[must_use]
pub fn renewal(session: u64, seq: u64, ttl: Duration, keys: &[&str]) -> Renewal {
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    Renewal { session, seq, ttl_ms, keys: keys.iter().map(|key| (*key).to_owned()).collect() }
}

/// Applies a transaction. What certainly was not done is sent again until patience ends, and so is one without a
/// condition whose end is unknown: doing it twice gives the same.
pub async fn write(store: &Shared, txn: Txn) -> TxnReply {
    let patience = timer_now() + PATIENCE;
    loop {
        match store.txn(txn.clone()).await {
            Ok(reply) => return reply,
            Err(error) if (error.is_retryable() || harmless(&txn, &error)) && timer_now() < patience => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("a transaction failed: {error}"),
        }
    }
}

fn harmless(txn: &Txn, error: &StoreError) -> bool {
    txn.compares.is_empty() && matches!(error, StoreError::Unknown { .. })
}

/// Reads a key, again while there is no leader.
pub async fn read(store: &Shared, key: &str) -> Option<Entry> {
    let patience = timer_now() + PATIENCE;
    loop {
        match store.get(key).await {
            Ok(got) => return got.entry,
            Err(error) => {
                assert!(timer_now() < patience, "a read failed: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Collects at least `count` changes after a revision.
pub async fn follow(store: &Shared, prefix: &str, after: u64, count: usize) -> Changes {
    let mut all = Changes { revision: after, events: Vec::new(), resync: None };
    let patience = timer_now() + PATIENCE;
    while all.events.len() < count {
        assert!(timer_now() < patience, "only {} of {count} changes came", all.events.len());
        let Ok(next) = store.changes(prefix, all.revision, Duration::from_secs(1)).await else { continue };
        assert!(next.resync.is_none(), "the changes should still be known");
        all.revision = next.revision;
        all.events.extend(next.events);
    }
    all
}

/// Waits until something holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let patience = timer_now() + PATIENCE;
    while !holds().await {
        assert!(timer_now() < patience, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
