//! Agents that are frozen, and clusters without a quorum: exclusive roles end in time, traffic goes on.

use std::net::SocketAddr;
use std::time::Duration;

use backstay_e2e::boottime_ns;
use rustix::process::Signal;

use crate::rig::cluster::{NODES, holder_in, vip_holder_in};
use crate::rig::processes::Kind;
use crate::rig::{Cluster, GENEROUS, Load, Sampler, figure, load, ms_between, standard, wait};

/// How long the agent is frozen: longer than its lease.
const FROZEN: Duration = Duration::from_secs(10);
/// An exclusive program without a quorum ends within its lease of 3 s; three times that on a busy machine.
const ENDS_WITHIN_MS: u64 = 9_000;

#[test]
fn agent_stopped() {
    let cluster = Cluster::start(4, standard);
    let place = cluster.place.clone();
    let journal = place.journal();
    let moved = cluster.ask("n2", &["switchover", "listen.front", "--to", "n1"]);
    assert_eq!(moved.code, 0, "{moved:?}");
    wait("n1 writes", GENEROUS, || journal.newest().filter(|line| line.node == "n1"));
    let sampler = Sampler::start(cluster.balancers(), SocketAddr::new(place.vip(), place.till));

    let struck = boottime_ns();
    assert_eq!(cluster.strike("n1", &[Kind::Parent, Kind::Worker], Signal::STOP), 2);
    let next = wait("another holder writes", GENEROUS, || journal.newest().filter(|line| line.node != "n1"));
    figure("agent_stopped.exclusive_gap_ms", journal.longest_gap_ms(struck));
    cluster.wait_status("n2", "the address is elsewhere", |status| {
        vip_holder_in(status).is_some_and(|holder| holder != "n1") && status["health"] != "outage"
    });
    wait("the floating address answers", GENEROUS, || load::get(SocketAddr::new(place.vip(), place.till)).ok());
    journal.assert_one_at_a_time();
    let frozen_for = Duration::from_nanos(boottime_ns() - struck);
    std::thread::sleep(FROZEN.saturating_sub(frozen_for));
    assert!(journal.lines().iter().any(|line| line.token == next.token));

    // It believes for a moment that no time has passed.
    assert_eq!(cluster.strike("n1", &[Kind::Parent, Kind::Worker], Signal::CONT), 2);
    cluster.wait_healthy(&NODES);
    cluster
        .wait_status("n2", "the role is back on n1", |status| holder_in(status, "app.till").as_deref() == Some("n1"));
    journal.assert_one_at_a_time();
    let holders = sampler.finish();
    assert!(holders.len() >= 2, "the address moved: {holders:?}");
}

#[test]
fn quorum_lost() {
    let cluster = Cluster::start(13, standard);
    let place = cluster.place.clone();
    let journal = place.journal();
    wait("n1 writes", GENEROUS, || journal.newest().filter(|line| line.node == "n1"));
    let load = Load::start(&place.web_targets(&[1, 2, 3])[1..]);

    let struck = boottime_ns();
    for node in ["n2", "n3"] {
        assert_eq!(cluster.strike(node, &[Kind::Parent, Kind::Worker], Signal::KILL), 2);
    }
    let asked = boottime_ns();
    let ran = cluster.ask("n1", &["status"]);
    figure("quorum_lost.status_ms", ms_between(asked, boottime_ns()));
    assert!(!ran.json.is_null(), "{ran:?}");
    cluster.wait_status("n1", "no quorum, outage", |status| status["quorum"] == false && status["health"] == "outage");
    let asked = boottime_ns();
    let ran = cluster.ask("n1", &["status"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ms_between(asked, boottime_ns()) < 6_000, "status took {} ms", ms_between(asked, boottime_ns()));
    assert!(ran.json["trouble"].to_string().contains("quorum"), "{}", ran.json);

    // The exclusive program ends by itself, and nobody else starts it.
    std::thread::sleep(Duration::from_secs(5));
    let last = journal.newest().expect("lines");
    assert!(ms_between(last.at_ns, boottime_ns()) > 1_000, "it still writes: {last:?}");
    let ended_after = ms_between(struck, last.at_ns);
    figure("quorum_lost.exclusive_ended_ms", ended_after);
    assert!(ended_after < ENDS_WITHIN_MS, "it wrote for {ended_after} ms without a quorum");
    assert_eq!(journal.tenures().len(), 1, "{:?}", journal.tenures());

    // A change is refused or unknown, and says so in bounded time.
    let ran = cluster.ask("n1", &["switchover", "app.till", "--to", "n2"]);
    assert!([4, 5, 6].contains(&ran.code), "{ran:?}");
    let seen = load.finish();
    load::assert_none_failed(&seen, struck);
}
