//! Tests of the state machine: the rules one by one, then the same rules over random histories.

use proptest::prelude::*;

use super::*;

fn put(key: &str, value: &[u8], session: Option<u64>) -> Op {
    Op::Put { key: key.into(), value: value.to_vec(), session }
}

fn write(ops: Vec<Op>) -> Command {
    Command::Txn(Txn { then: ops, ..Txn::default() })
}

fn open(session: u64, node: &str) -> Command {
    Command::OpenSession { session, node: node.into(), ttl_ms: 3000, boot: "b".into() }
}

fn renewal(session: u64, seq: u64, keys: &[&str]) -> Renewal {
    Renewal { session, seq, ttl_ms: 3000, keys: keys.iter().map(|key| (*key).to_owned()).collect() }
}

/// A memory that counts its own revisions.
#[derive(Default)]
struct Run {
    memory: Memory,
    next: u64,
}

impl Run {
    fn apply(&mut self, command: Command) -> Outcome {
        self.next += 1;
        self.memory.apply(self.next, &command)
    }
}

#[test]
fn compare_and_swap_takes_the_first_and_refuses_the_second() {
    let mut run = Run::default();
    let claim = |value: &[u8]| {
        Command::Txn(Txn {
            compares: vec![Compare::Revision { key: "k".into(), revision: 0 }],
            then: vec![put("k", value, None)],
            otherwise: vec![put("lost", value, None)],
        })
    };
    assert_eq!(run.apply(claim(b"a")).answer, Answer::Txn { succeeded: true });
    assert_eq!(run.apply(claim(b"b")).answer, Answer::Txn { succeeded: false });
    assert_eq!(run.memory.entry("k").unwrap().value, b"a");
    assert_eq!(run.memory.entry("lost").unwrap().value, b"b");
    run.apply(write(vec![put("k", b"c", None)]));
    let entry = run.memory.entry("k").unwrap();
    assert_eq!((entry.created, entry.modified), (1, 3));
}

#[test]
fn a_renewal_extends_only_the_keys_it_lists() {
    let mut run = Run::default();
    run.apply(open(7, "n1"));
    run.apply(write(vec![put("a", b"1", Some(7)), put("b", b"2", Some(7)), put("c", b"3", None)]));
    let outcome = run.apply(Command::Renew(vec![renewal(7, 1, &["a", "c", "gone"])]));
    assert_eq!(outcome.answer, Answer::Renewed(vec![Renewed::Alive { keys: vec!["a".into()] }]));
    let stamped: Vec<_> = outcome.stamps.iter().map(|stamp| stamp.key.as_deref()).collect();
    assert_eq!(stamped, [None, Some("a")]);
    let old = |key: &str| Expiry { session: 7, renew_seq: 2, key: Some(key.into()) };
    let outcome = run.apply(Command::Expire(vec![old("a"), old("b")]));
    assert_eq!(outcome.answer, Answer::Expired { ended: 1 }, "`a` was renewed since, `b` was not");
    assert!(run.memory.entry("a").is_some() && run.memory.entry("b").is_none());
    assert_eq!(outcome.events[0].kind, EventKind::Expired);
    assert!(run.memory.session(7).is_some(), "one key's end is not the session's");
}

#[test]
fn a_stale_renewal_renews_nothing() {
    let mut run = Run::default();
    run.apply(open(7, "n1"));
    run.apply(write(vec![put("a", b"1", Some(7))]));
    run.apply(Command::Renew(vec![renewal(7, 10, &[])]));
    let late = run.apply(Command::Renew(vec![renewal(7, 9, &["a"]), renewal(7, 10, &["a"])]));
    assert_eq!(late.answer, Answer::Renewed(vec![Renewed::Stale, Renewed::Stale]));
    assert!(late.stamps.is_empty());
}

#[test]
fn an_expiry_of_an_older_renewal_is_harmless() {
    let mut run = Run::default();
    run.apply(open(7, "n1"));
    run.apply(write(vec![put("a", b"1", Some(7))]));
    run.apply(Command::Renew(vec![renewal(7, 1, &["a"])]));
    let outcome = run.apply(Command::Expire(vec![
        Expiry { session: 7, renew_seq: 1, key: None },
        Expiry { session: 7, renew_seq: 2, key: Some("a".into()) },
        Expiry { session: 8, renew_seq: 3, key: None },
    ]));
    assert_eq!(outcome.answer, Answer::Expired { ended: 0 });
    assert!(outcome.events.is_empty() && run.memory.session_alive(7));
}

#[test]
fn a_leased_put_keeps_its_session_from_ending_before_it() {
    let mut run = Run::default();
    run.apply(open(7, "n1"));
    run.apply(write(vec![put("a", b"1", Some(7))]));
    let outcome = run.apply(Command::Expire(vec![Expiry { session: 7, renew_seq: 1, key: None }]));
    assert_eq!(outcome.answer, Answer::Expired { ended: 0 });
}

#[test]
fn a_new_session_of_a_node_supersedes_without_dropping_keys() {
    let mut run = Run::default();
    run.apply(open(7, "n1"));
    run.apply(write(vec![put("a", b"1", Some(7))]));
    run.apply(open(8, "n1"));
    assert!(run.memory.entry("a").is_some());
    assert!(!run.memory.session_alive(7) && run.memory.session_alive(8));
    let answer = run.apply(Command::Renew(vec![renewal(7, 1, &["a"])])).answer;
    assert_eq!(answer, Answer::Renewed(vec![Renewed::Gone]));
    assert_eq!(
        run.apply(write(vec![put("a", b"2", Some(7))])).answer,
        Answer::Refused(Refusal::NoSession { session: 7 })
    );
    run.apply(Command::Expire(vec![Expiry { session: 7, renew_seq: 2, key: None }]));
    assert!(run.memory.entry("a").is_none());
}

#[test]
fn opening_again_under_the_same_id_is_harmless() {
    let mut run = Run::default();
    run.apply(open(7, "n1"));
    let again = run.apply(open(7, "n1"));
    assert_eq!(again.answer, Answer::Opened { session: 7 });
    assert_eq!(again.stamps.len(), 1);
    assert_eq!(run.apply(open(7, "n2")).answer, Answer::Refused(Refusal::SessionTaken { session: 7 }));
}

#[test]
fn closing_a_session_deletes_its_keys_at_once() {
    let mut run = Run::default();
    run.apply(open(7, "n1"));
    run.apply(write(vec![put("a", b"1", Some(7)), put("b", b"1", None)]));
    let outcome = run.apply(Command::CloseSession { session: 7 });
    assert_eq!(outcome.answer, Answer::Closed { existed: true });
    assert_eq!(outcome.events.len(), 1);
    assert_eq!(outcome.events[0].kind, EventKind::Closed);
    assert_eq!(run.memory.total_bytes(), weight("b", b"1"));
    assert_eq!(run.apply(Command::CloseSession { session: 7 }).answer, Answer::Closed { existed: false });
}

#[test]
fn limits_are_named_and_a_refused_transaction_changes_nothing() {
    let mut run = Run::default();
    let big = vec![0; MAX_VALUE_BYTES + 1];
    let answer = run.apply(write(vec![put("ok", b"1", None), put("k", &big, None)])).answer;
    assert!(matches!(answer, Answer::Refused(Refusal::ValueTooLarge { .. })), "{answer:?}");
    assert!(run.memory.entry("ok").is_none());
    let answer = run.apply(write(vec![put(&"k".repeat(MAX_KEY_BYTES + 1), b"", None)])).answer;
    assert_eq!(answer, Answer::Refused(Refusal::BadKey { bytes: 257 }));
    let many = (0..=MAX_TXN_OPS).map(|n| put(&format!("k{n}"), b"", None)).collect();
    assert_eq!(run.apply(write(many)).answer, Answer::Refused(Refusal::TooManyOps { ops: MAX_TXN_OPS as u64 + 1 }));
    let full = vec![1; MAX_VALUE_BYTES];
    let mut refused = None;
    for n in 0..70 {
        if let Answer::Refused(refusal) = run.apply(write(vec![put(&format!("f{n}"), &full, None)])).answer {
            refused = Some(refusal);
        }
    }
    assert!(matches!(refused, Some(Refusal::Full { .. })), "{refused:?}");
    assert!(run.memory.total_bytes() <= MAX_TOTAL_BYTES);
    let answer = run.apply(write(vec![Op::DeletePrefix { prefix: "f".into() }, put("f1", &full, None)])).answer;
    assert_eq!(answer, Answer::Txn { succeeded: true }, "what a transaction deletes makes room in it");
}

#[test]
fn a_prefix_is_not_a_pattern() {
    let mut run = Run::default();
    run.apply(write(vec![put("a/1", b"", None), put("a/2", b"", None), put("a0", b"", None)]));
    assert_eq!(run.memory.range("a/").count(), 2);
    run.apply(write(vec![Op::DeletePrefix { prefix: "a/".into() }]));
    assert_eq!(run.memory.range("a").map(|(key, _)| key).collect::<Vec<_>>(), ["a0"]);
}

fn any_key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "a/b", "a/c", "b"]).prop_map(str::to_owned)
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (any_key(), prop::collection::vec(any::<u8>(), 0..4), prop::option::of(1u64..4))
            .prop_map(|(key, value, session)| Op::Put { key, value, session }),
        1 => any_key().prop_map(|key| Op::Delete { key }),
        1 => any_key().prop_map(|prefix| Op::DeletePrefix { prefix }),
    ]
}

fn any_command() -> impl Strategy<Value = Command> {
    let compare = prop_oneof![
        (any_key(), 0u64..20).prop_map(|(key, revision)| Compare::Revision { key, revision }),
        (1u64..4).prop_map(|session| Compare::SessionAlive { session }),
    ];
    let ops = || prop::collection::vec(any_op(), 0..4);
    let expiry = (1u64..4, 0u64..40, prop::option::of(any_key())).prop_map(|(session, renew_seq, key)| Expiry {
        session,
        renew_seq,
        key,
    });
    prop_oneof![
        4 => (prop::collection::vec(compare, 0..2), ops(), ops())
            .prop_map(|(compares, then, otherwise)| Command::Txn(Txn { compares, then, otherwise })),
        2 => (1u64..4, prop::sample::select(vec!["n1", "n2"])).prop_map(|(id, node)| open(id, node)),
        2 => (1u64..4, 0u64..20, prop::collection::vec(any_key(), 0..3)).prop_map(
            |(session, seq, keys)| Command::Renew(vec![Renewal { session, seq, ttl_ms: 3000, keys }])
        ),
        1 => (1u64..4).prop_map(|session| Command::CloseSession { session }),
        2 => prop::collection::vec(expiry, 1..3).prop_map(Command::Expire),
        1 => (0u32..5).prop_map(|to| Command::RaiseIncarnation { to }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_commands_give_the_same_state(commands in prop::collection::vec(any_command(), 1..60)) {
        let (mut one, mut two) = (Run::default(), Run::default());
        for command in commands {
            let before = one.memory.clone();
            let outcome = one.apply(command.clone());
            prop_assert_eq!(&outcome, &two.apply(command.clone()));
            prop_assert_eq!(one.memory.hash(), two.memory.hash());
            check_books(&one.memory)?;
            check_step(&before, &one.memory, &command, &outcome)?;
        }
    }
}

/// What is counted twice must agree: bytes, and keys of sessions.
fn check_books(memory: &Memory) -> Result<(), TestCaseError> {
    let bytes: u64 = memory.range("").map(|(key, entry)| weight(key, &entry.value)).sum();
    prop_assert_eq!(bytes, memory.total_bytes());
    let mut leased = 0;
    for (key, entry) in memory.range("") {
        prop_assert!(entry.created <= entry.modified && entry.modified <= memory.revision());
        if let Some(lease) = &entry.lease {
            leased += 1;
            prop_assert!(memory.session(lease.session).is_some_and(|session| session.keys.contains(key)));
        }
    }
    prop_assert_eq!(leased, memory.sessions().map(|(_, session)| session.keys.len()).sum::<usize>());
    for node in ["n1", "n2"] {
        let alive = memory.sessions().filter(|(_, session)| session.node == node && !session.superseded);
        prop_assert!(alive.count() <= 1);
    }
    Ok(())
}

/// Revisions only grow, and a key ends by expiry only when its newest renewal was named.
fn check_step(before: &Memory, after: &Memory, command: &Command, outcome: &Outcome) -> Result<(), TestCaseError> {
    prop_assert!(after.revision() > before.revision() && after.incarnation() >= before.incarnation());
    for (key, entry) in after.range("") {
        if let Some(old) = before.entry(key) {
            prop_assert!(entry.modified >= old.modified);
        }
    }
    if let (Command::Expire(expiries), false) = (command, outcome.events.is_empty()) {
        prop_assert!(expiries.iter().any(|expiry| before.is_current(expiry)));
    }
    if matches!(outcome.answer, Answer::Refused(_)) {
        prop_assert!(outcome.events.is_empty() && outcome.stamps.is_empty());
    }
    Ok(())
}
