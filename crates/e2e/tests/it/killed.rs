//! SIGKILL to one kind of process after the other, under load.

use std::time::Duration;

use backstay_e2e::boottime_ns;
use rustix::process::Signal;

use crate::rig::cluster::{NODES, holder_in, instance_in, vip_holder_in};
use crate::rig::load::assert_none_failed;
use crate::rig::processes::{self, Kind};
use crate::rig::{Cluster, GENEROUS, Load, figure, load, ms_between, standard, wait};

/// Load before and after a strike, so that there is something to compare with.
const BEFORE: Duration = Duration::from_millis(700);
const AFTER: Duration = Duration::from_secs(3);

fn pid(cluster: &Cluster, asked: &str, service: &str, node: &str) -> Option<u64> {
    instance_in(&cluster.status(asked), service, node)?["pid"].as_u64()
}

#[test]
fn app_killed() {
    let cluster = Cluster::start(2, standard);
    let load = Load::start(&cluster.place.web_targets(&[1, 2, 3]));
    std::thread::sleep(BEFORE);
    let victim = pid(&cluster, "n1", "app.web", "n2").expect("the active instance has a pid");
    let struck = boottime_ns();
    assert!(processes::signal(u32::try_from(victim).unwrap(), &cluster.place.dir, Signal::KILL), "{victim} is ours");
    let again = wait("the program runs again", GENEROUS, || {
        let seen = cluster.status("n2");
        let instance = instance_in(&seen, "app.web", "n2")?;
        let pid = instance["pid"].as_u64().filter(|pid| *pid != victim)?;
        (instance["state"] == "running").then_some(pid)
    });
    figure("app_killed.runs_again_ms", ms_between(struck, boottime_ns()));
    std::thread::sleep(AFTER);
    let seen = load.finish();
    assert_none_failed(&seen, struck);
    let gap = seen.iter().map(|client| client.longest_gap_ms()).max().unwrap_or(0);
    figure("app_killed.longest_gap_ms", gap);
    assert_ne!(again, victim);
    cluster.wait_healthy(&NODES);
}

#[test]
fn agent_killed() {
    let mut cluster = Cluster::start(3, standard);
    let place = cluster.place.clone();
    let programs = |cluster: &Cluster| -> Vec<_> {
        NODES
            .map(|node| pid(cluster, "n2", "app.web", node))
            .into_iter()
            .chain([pid(cluster, "n2", "app.till", "n1")])
            .collect()
    };
    let before = programs(&cluster);
    assert!(before.iter().all(Option::is_some), "{before:?}");
    let tenure = place.journal().newest().expect("the exclusive program writes");
    let load = Load::start(&[place.web_targets(&[1, 2, 3]), place.till_targets(&[1, 2, 3])].concat());
    std::thread::sleep(BEFORE);

    // The worker alone: its parent starts the next one.
    let struck = boottime_ns();
    let old = cluster.process("n1", Kind::Worker).pid;
    assert_eq!(cluster.strike("n1", &[Kind::Worker], Signal::KILL), 1);
    wait("another worker", GENEROUS, || {
        processes::of_kind(&place.dir, "n1", Kind::Worker).into_iter().find(|process| process.pid != old)
    });
    cluster.wait_healthy(&["n1"]);
    figure("worker_killed.well_again_ms", ms_between(struck, boottime_ns()));
    std::thread::sleep(AFTER);

    // Parent and worker: somebody starts the agent again.
    assert_eq!(cluster.strike("n1", &[Kind::Parent, Kind::Worker], Signal::KILL), 2);
    cluster.start_agent("n1", &[]);
    cluster.wait_healthy(&NODES);
    std::thread::sleep(AFTER);

    let seen = load.finish();
    assert_none_failed(&seen, struck);
    assert_eq!(programs(&cluster), before, "the programs went on as they were");
    let now = place.journal().newest().expect("it writes");
    assert_eq!((&now.node, now.token), (&tenure.node, tenure.token), "the exclusive program kept its grant");
    place.journal().assert_one_at_a_time();
}

/// The pause of a guard and its agent's restart must not be long enough for anything left to write.
#[test]
fn guard_and_agent_killed() {
    let mut cluster = Cluster::start(5, |place| {
        [place.head(), place.web_app(), place.till_app(", \"--grandchild\""), place.listeners()].concat()
    });
    let place = cluster.place.clone();
    let journal = place.journal();
    wait("the grandchild writes", GENEROUS, || journal.newest().filter(|line| line.node == "n1"));

    let struck = boottime_ns();
    // All at once, as the kernel's killer of the memory-hungry might.
    let count = cluster.strike("n1", &[Kind::Parent, Kind::Worker, Kind::Guard], Signal::KILL);
    assert!(count >= 4, "an agent of two processes and two guards, but {count} were there");
    let next = wait("another holder writes", GENEROUS, || journal.newest().filter(|line| line.node != "n1"));
    figure("guard_and_agent_killed.gap_ms", journal.longest_gap_ms(struck));
    std::thread::sleep(BEFORE);
    journal.assert_one_at_a_time();
    assert_eq!(journal.newest().map(|line| line.token), Some(next.token));

    cluster.start_agent("n1", &[]);
    cluster.wait_healthy(&NODES);
    cluster
        .wait_status("n2", "the role is back on n1", |status| holder_in(status, "app.till").as_deref() == Some("n1"));
    journal.assert_one_at_a_time();
}

#[test]
fn node_killed() {
    let mut cluster = Cluster::start(6, standard);
    let place = cluster.place.clone();
    // The address goes where the exclusive program is: one strike takes both.
    let moved = cluster.ask("n2", &["switchover", "listen.front", "--to", "n1"]);
    assert_eq!(moved.code, 0, "{moved:?}");
    let journal = place.journal();
    let load = Load::start(&[place.web_targets(&[2, 3]), place.till_targets(&[2, 3])].concat());
    std::thread::sleep(BEFORE);

    let struck = boottime_ns();
    cluster.kill_node("n1");
    wait("another holder writes", GENEROUS, || journal.newest().filter(|line| line.node != "n1"));
    cluster.wait_status("n2", "the address is elsewhere", |status| {
        vip_holder_in(status).is_some_and(|holder| holder != "n1") && status["health"] != "outage"
    });
    figure("node_killed.exclusive_gap_ms", journal.longest_gap_ms(struck));
    for (name, address) in [place.web_targets(&[2, 3]), place.till_targets(&[2, 3])].concat() {
        wait(name, GENEROUS, || load::get(address).ok());
    }
    let served_again = boottime_ns();
    std::thread::sleep(AFTER);
    for client in load.finish() {
        figure(&format!("node_killed.longest_gap_ms [{}]", client.name), client.longest_gap_ms());
        figure(&format!("node_killed.failed [{}]", client.name), client.failed().len());
        // What was under way on the dead node fails; everything after the new holder is there must not.
        let after = client.failed().into_iter().filter(|shot| shot.sent_ns > served_again);
        assert_eq!(after.count(), 0, "{}: {:?}", client.name, client.failed().last());
    }
    journal.assert_one_at_a_time();

    // It comes back, and the preferred node has its roles again without a failed request.
    let begun = boottime_ns();
    let load = Load::start(&[place.web_targets(&[2, 3]), place.till_targets(&[2, 3])].concat());
    cluster.start_agent("n1", &[]);
    cluster.wait_status("n2", "roles are back on n1", |status| {
        let web = instance_in(status, "app.web", "n1").is_some_and(|found| found["role"] == "active");
        web && holder_in(status, "app.till").as_deref() == Some("n1") && status["health"] == "healthy"
    });
    figure("node_killed.failback_ms", ms_between(begun, boottime_ns()));
    std::thread::sleep(AFTER);
    let seen = load.finish();
    assert_none_failed(&seen, begun);
    let gap = seen.iter().map(|client| client.longest_gap_ms()).max().unwrap_or(0);
    figure("node_killed.failback_longest_gap_ms", gap);
    journal.assert_one_at_a_time();
}

/// Everything dies at once and is started again: it finds itself, as it was.
#[test]
fn everything_killed() {
    let mut cluster = Cluster::start(12, standard);
    let journal = cluster.place.journal();
    wait("the exclusive program writes", GENEROUS, || journal.newest());
    for node in NODES {
        cluster.strike(node, &[Kind::Parent, Kind::Worker, Kind::Guard], Signal::STOP);
    }
    processes::kill_all(&cluster.place.dir, None);
    let begun = boottime_ns();
    cluster.start_agents(&NODES);
    cluster.wait_healthy(&NODES);
    figure("everything_killed.healthy_again_ms", ms_between(begun, boottime_ns()));
    cluster.wait_status("n3", "every role where it is preferred", |status| {
        let role = |node| instance_in(status, "app.web", node).map(|found| found["role"].clone());
        let active = ["n1", "n2"].into_iter().all(|node| role(node) == Some("active".into()));
        active && holder_in(status, "app.till").as_deref() == Some("n1")
    });
    for (name, address) in [cluster.place.web_targets(&[1, 2, 3]), cluster.place.till_targets(&[1, 2, 3])].concat() {
        wait(name, GENEROUS, || load::get(address).ok());
    }
    for node in NODES {
        // One start each: an agent of two processes, one balancer, and a guard for what runs there.
        let guards = processes::of_kind(&cluster.place.dir, node, Kind::Guard);
        let mut dirs: Vec<_> = guards.iter().map(|guard| guard.words.clone()).collect();
        dirs.dedup();
        assert_eq!(dirs.len(), guards.len(), "a program was started twice on {node}: {guards:?}");
        assert_eq!(processes::of_kind(&cluster.place.dir, node, Kind::Balancer).len(), 1, "balancers of {node}");
        assert_eq!(processes::of_kind(&cluster.place.dir, node, Kind::Worker).len(), 1, "workers of {node}");
    }
    journal.assert_one_at_a_time();
}
