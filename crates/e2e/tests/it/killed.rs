//! SIGKILL to one kind of process after the other, under load.

use std::time::Duration;

use backstay_e2e::boottime_ns;
use rustix::process::Signal;

use crate::rig::cluster::{NODES, instance_in};
use crate::rig::load::assert_none_failed;
use crate::rig::processes::{self, Kind};
use crate::rig::{Cluster, GENEROUS, Load, figure, ms_between, standard, wait};

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
