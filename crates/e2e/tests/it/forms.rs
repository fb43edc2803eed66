//! Three nodes find each other, place what the file asks for, and say so.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;

use backstay_e2e::boottime_ns;
use serde_json::Value;

use crate::rig::cluster::{NODES, holder_in, instance_in, vip_holder_in};
use crate::rig::processes::{self, Kind};
use crate::rig::{Cluster, GENEROUS, figure, is_root, load, ms_between, standard, wait};

/// Fields of INTERFACE.md.
fn assert_status_fields(status: &Value) {
    let text = |value: &Value, field: &str| assert!(value[field].is_string(), "`{field}` in {value}");
    let number = |value: &Value, field: &str| assert!(value[field].is_u64(), "`{field}` in {value}");
    let list = |value: &Value, field: &str| {
        assert!(value[field].as_array().is_some_and(|list| !list.is_empty()), "`{field}` in {value}");
        value[field].as_array().cloned().unwrap_or_default()
    };
    assert_eq!(status["schema"], "backstay.status/1");
    for field in ["cluster", "health", "coordinator", "next"] {
        text(status, field);
    }
    assert_eq!(status["quorum"], true);
    for field in ["generation", "age_ms"] {
        number(status, field);
    }
    for node in list(status, "nodes") {
        text(&node, "name");
        number(&node, "seen_ms");
        assert_eq!(node["voter"], true, "{node}");
        list(&node, "roles");
    }
    for service in list(status, "services") {
        text(&service, "name");
        text(&service, "kind");
        for instance in list(&service, "instances") {
            for field in ["node", "role", "state"] {
                text(&instance, field);
            }
            number(&instance, "generation");
        }
    }
    for listener in list(status, "listeners") {
        text(&listener, "name");
        number(&listener, "backends_up");
        assert!(listener.get("vip_holder").is_some(), "{listener}");
    }
}

#[test]
fn three_nodes_form_place_and_route() {
    let begun = boottime_ns();
    let cluster = Cluster::start(1, standard);
    figure("formed_ms", ms_between(begun, boottime_ns()));

    for node in NODES {
        let ran = cluster.ask(node, &["status"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_status_fields(&ran.json);
        assert_eq!(holder_in(&ran.json, "app.till").as_deref(), Some("n1"), "it is preferred: {}", ran.json);
        assert!(vip_holder_in(&ran.json).is_some(), "{}", ran.json);
        let role = |node| instance_in(&ran.json, "app.web", node).map(|found| found["role"].clone());
        let roles = NODES.map(|node| role(node).unwrap_or_default());
        assert_eq!(roles, ["active", "active", "spare"], "{}", ran.json);
    }

    // Through the floating address and every node's own listener, to whoever should answer.
    let place = &cluster.place;
    for (name, address) in [place.web_targets(&[1, 2, 3]), place.till_targets(&[1, 2, 3])].concat() {
        let body = wait(name, GENEROUS, || load::get(address).ok());
        let node = body.split(' ').next().unwrap_or_default();
        let expected: &[&str] = if name.starts_with("web") { &["n1", "n2"] } else { &["n1"] };
        assert!(expected.contains(&node), "{name} answered by {body}");
    }
    let bound = cluster.bound_on(SocketAddr::new(place.vip(), place.web));
    assert_eq!(bound.len(), 1, "the floating address is on {bound:?}");

    let events = cluster.ask("n2", &["events"]);
    assert_eq!((events.code, events.json["schema"].as_str()), (0, Some("backstay.events/1")), "{events:?}");
    assert!(events.json["events"].as_array().is_some_and(|list| !list.is_empty()), "{}", events.json);
    for subject in ["n1", "app.till", "app.web", "listen.front"] {
        let explained = cluster.ask("n3", &["explain", subject]);
        assert_eq!(explained.code, 0, "{explained:?}");
        let lines = explained.json["lines"].as_array().cloned().unwrap_or_default();
        assert!(lines.len() > 1, "{subject}: {}", explained.json);
    }
    let unknown = cluster.ask("n3", &["explain", "app.tilt"]);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(format!("{}{}", unknown.stdout, unknown.stderr).contains("app.till"), "it names the near one: {unknown:?}");
    place.journal().assert_one_at_a_time();
}

/// The same without root: contained by what the kernel allows a user.
#[test]
fn three_nodes_form_without_root() {
    const NOBODY: u32 = 65_534;
    let user = is_root().then_some(NOBODY);
    let mut cluster = Cluster::set_as(14, user, standard);
    cluster.start_agents(&NODES);
    cluster.wait_healthy(&NODES);
    let status = cluster.wait_status("n1", "the exclusive program runs", |status| {
        holder_in(status, "app.till").as_deref() == Some("n1")
    });
    assert_status_fields(&status);
    let place = &cluster.place;
    for (name, address) in [place.web_targets(&[1, 2, 3]), place.till_targets(&[1, 2, 3])].concat() {
        wait(name, GENEROUS, || load::get(address).ok());
    }
    for (service, node) in [("app.till", "n1"), ("app.web", "n1")] {
        let instance = instance_in(&status, service, node).expect("an instance");
        let containment = instance["containment"].as_str().unwrap_or_default();
        assert!(["pid-namespace", "cgroup", "subreaper"].contains(&containment), "{instance}");
        figure(&format!("without_root.containment [{service}]"), containment);
    }
    let owner =
        |process: &processes::Process| std::fs::metadata(format!("/proc/{}", process.pid)).map(|facts| facts.uid());
    for process in processes::of(&place.dir, None).iter().filter(|process| process.kind != Kind::Init) {
        if let (Some(user), Ok(owner)) = (user, owner(process)) {
            assert_eq!(owner, user, "{process:?}");
        }
    }
    place.journal().assert_one_at_a_time();
}
