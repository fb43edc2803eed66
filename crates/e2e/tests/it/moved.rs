//! Planned moves through the command line: switchover, drain and its undoing.

use backstay_e2e::boottime_ns;
use serde_json::Value;

use crate::rig::cluster::{NODES, holder_in, service_in, vip_holder_in};
use crate::rig::load::assert_none_failed;
use crate::rig::processes::{self, Kind};
use crate::rig::{Cluster, GENEROUS, Load, figure, ms_between, standard, wait};

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
    let load = Load::start(&[place.web_targets(&[1, 2, 3]), place.till_targets(&[1, 2, 3])].concat());

    let begun = boottime_ns();
    let standby = cluster.status("n1");
    let standby = service_in(&standby, "app.till").and_then(|service| {
        let mut instances = service["instances"].as_array()?.iter();
        instances.find(|instance| instance["role"] == "standby")?["node"].as_str().map(str::to_owned)
    });
    let standby = standby.expect("a standby");
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

    // The address, too, to each node once.
    for node in NODES {
        let moved = cluster.ask("n1", &["switchover", "listen.front", "--to", node]);
        assert_eq!(moved.code, 0, "{moved:?}");
        cluster.wait_status("n2", "the address moved", |status| vip_holder_in(status).as_deref() == Some(node));
    }

    // What cannot be is refused by name, and nothing moves.
    let unknown = cluster.ask("n1", &["switchover", "app.till", "--to", "n9"]);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(unknown.json["error"].to_string().contains("n9"), "{unknown:?}");
    let nothing = cluster.ask("n1", &["switchover", "app.nothing", "--to", "n1"]);
    assert_eq!(nothing.code, 2, "{nothing:?}");
    assert!(nothing.json["error"].to_string().contains("app.nothing"), "{nothing:?}");

    let drained = cluster.ask("n2", &["drain", "n1"]);
    assert_eq!(drained.code, 0, "{drained:?}");
    assert_eq!(drained.json["remaining"], Value::Array(Vec::new()), "{drained:?}");
    let status = cluster.status("n2");
    let left = roles_of(&status, "n1");
    assert!(left.iter().all(|role| *role == "coordinator"), "{left:?}");
    wait("no program is left on n1", GENEROUS, || {
        processes::of_kind(&place.dir, "n1", Kind::Program).is_empty().then_some(())
    });
    let refused = cluster.ask("n2", &["switchover", "app.till", "--to", "n1"]);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(refused.json["error"].to_string().contains("drain"), "it says why: {refused:?}");
    assert_eq!(holder_in(&cluster.status("n2"), "app.till").as_deref(), Some(standby.as_str()));

    let undone = cluster.ask("n3", &["drain", "n1", "--undo"]);
    assert_eq!(undone.code, 0, "{undone:?}");
    cluster.wait_healthy(&NODES);
    let seen = load.finish();
    journal.assert_one_at_a_time();
    let gap = seen.iter().map(|client| client.longest_gap_ms()).max().unwrap_or(0);
    figure("moved.longest_gap_ms", gap);
    assert_none_failed(&seen, begun);
}
