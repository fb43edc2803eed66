//! Planned moves through the command line: switchover, drain and its undoing.

use std::net::SocketAddr;

use backstay_e2e::boottime_ns;
use serde_json::Value;

use crate::rig::cluster::{NODES, holder_in, service_in, vip_holder_in};
use crate::rig::load::assert_none_failed;
use crate::rig::processes::{self, Kind};
use crate::rig::{Cluster, GENEROUS, Load, Sampler, figure, load, ms_between, standard, wait};

fn roles_of<'a>(status: &'a Value, node: &str) -> Vec<&'a str> {
    let nodes = status["nodes"].as_array().into_iter().flatten();
    let node = nodes.filter(|found| found["name"] == node);
    node.flat_map(|found| found["roles"].as_array().into_iter().flatten()).filter_map(Value::as_str).collect()
}

#[test]
fn switchover_and_drain() {
    let cluster = Cluster::start(7, standard);
    let place = cluster.place.clone();
    let journal = place.journal();
    wait("n1 writes", GENEROUS, || journal.newest().filter(|line| line.node == "n1"));
    let status = cluster.status("n1");
    let standby = service_in(&status, "app.till").and_then(|service| {
        let mut instances = service["instances"].as_array()?.iter();
        instances.find(|instance| instance["role"] == "standby")?["node"].as_str().map(str::to_owned)
    });
    let standby = standby.expect("a standby");

    // The address, to each node once. Between two holders nobody has it: that is the price of never two.
    let load = Load::start(
        &[place.web_targets(&[1, 2, 3])[1..].to_vec(), place.till_targets(&[1, 2, 3])[1..].to_vec()].concat(),
    );
    let sampler = Sampler::start(cluster.balancers(), SocketAddr::new(place.vip(), place.web));
    let begun = boottime_ns();
    for node in ["n2", "n1", "n3"] {
        let from = boottime_ns();
        let moved = cluster.ask("n1", &["switchover", "listen.front", "--to", node]);
        assert_eq!(moved.code, 0, "{moved:?}");
        wait("the address answers", GENEROUS, || load::get(SocketAddr::new(place.vip(), place.web)).ok());
        figure(&format!("switchover.address_ms [{node}]"), ms_between(from, boottime_ns()));
        cluster.wait_status("n2", "the address moved", |status| vip_holder_in(status).as_deref() == Some(node));
    }
    sampler.finish();
    assert_none_failed(&load.finish(), begun);

    // The exclusive program: requests wait and none fails.
    let load = Load::start(&[place.web_targets(&[1, 2, 3]), place.till_targets(&[1, 2, 3])].concat());
    let begun = boottime_ns();
    let moved = cluster.ask("n3", &["switchover", "app.till", "--to", &standby]);
    figure("switchover.answered_ms", ms_between(begun, boottime_ns()));
    assert_eq!(moved.code, 0, "{moved:?}");
    assert_eq!(
        (moved.json["schema"].as_str(), &moved.json["met"]),
        (Some("backstay.switchover/1"), &Value::Bool(true))
    );
    wait("it writes there", GENEROUS, || journal.newest().filter(|line| line.node == standby));
    figure("switchover.exclusive_gap_ms", journal.longest_gap_ms(begun));
    journal.assert_one_at_a_time();

    // What cannot be is refused by name, and nothing moves.
    let unknown = cluster.ask("n1", &["switchover", "app.till", "--to", "n9"]);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(unknown.json["error"].to_string().contains("n9"), "{unknown:?}");
    let nothing = cluster.ask("n1", &["switchover", "app.nothing", "--to", "n1"]);
    assert_eq!(nothing.code, 2, "{nothing:?}");
    assert!(nothing.json["error"].to_string().contains("app.nothing"), "{nothing:?}");

    // The node that has most of it is emptied.
    let begun_to_drain = boottime_ns();
    let drained = cluster.ask("n1", &["drain", &standby]);
    figure("drain.answered_ms", ms_between(begun_to_drain, boottime_ns()));
    assert_eq!(drained.code, 0, "{drained:?}");
    assert_eq!(drained.json["remaining"], Value::Array(Vec::new()), "{drained:?}");
    let status = cluster.status("n1");
    let left = roles_of(&status, &standby);
    assert!(left.iter().all(|role| *role == "coordinator"), "{left:?}");
    wait("no program is left there", GENEROUS, || {
        processes::of_kind(&place.dir, &standby, Kind::Program).is_empty().then_some(())
    });
    let elsewhere = cluster.wait_status("n1", "it runs elsewhere", |status| {
        holder_in(status, "app.till").is_some_and(|holder| holder != standby)
    });
    let refused = cluster.ask("n1", &["switchover", "app.till", "--to", &standby]);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(refused.json["error"].to_string().contains("drain"), "it says why: {refused:?}");
    let stays = holder_in(&elsewhere, "app.till");
    cluster.wait_status("n1", "it stays where it was", |status| holder_in(status, "app.till") == stays);

    let undone = cluster.ask("n3", &["drain", &standby, "--undo"]);
    assert_eq!(undone.code, 0, "{undone:?}");
    cluster.wait_healthy(&NODES);
    let seen = load.finish();
    journal.assert_one_at_a_time();
    for client in &seen {
        figure(&format!("moved.longest_gap_ms [{}]", client.name), client.longest_gap_ms());
    }
    assert_none_failed(&seen, begun);
}
