//! What may fail now, asked of a real cluster: before a node is lost, while it is, and what the cluster measured meanwhile.

use serde_json::{Value, json};

use crate::rig::cluster::NODES;
use crate::rig::{Cluster, GENEROUS, figure, standard, wait};

fn live(cluster: &Cluster, node: &str) -> (Value, i32) {
    let ran = cluster.ask(node, &["plan", "--live"]);
    (ran.json, ran.code)
}

fn words(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn the_live_plan_follows_what_is_lost_and_shows_what_was_measured() {
    let mut cluster = Cluster::start(18, standard);
    let (whole, code) = live(&cluster, "n2");
    assert_eq!((code, &whole["goal_met"]), (0, &json!(true)), "{whole}");
    assert_eq!(words(&whole["spofs"]), [""; 0], "{whole}");
    assert_eq!(cluster.status("n2")["must_not_fail"], json!([]), "status says the same");

    // A coordinator that survives has heard the lost node, and so can measure; the first one is on any node.
    let coordinator = cluster.status("n2")["coordinator"].as_str().map(str::to_owned).expect("somebody decides");
    let lost = if coordinator == "n1" { "n2" } else { "n1" };
    let asked = NODES.into_iter().find(|node| *node != lost).expect("a survivor");
    let moved = cluster.ask(asked, &["switchover", "app.till", "--to", lost]);
    assert!([0, 5].contains(&moved.code), "it may be there already: {}", moved.stdout);
    cluster.wait_healthy(&NODES);
    cluster.kill_node(lost);
    let (short, code) = wait("nothing else may fail", GENEROUS, || {
        let (plan, code) = live(&cluster, asked);
        let others: Vec<_> =
            NODES.into_iter().filter(|node| *node != lost).map(|node| format!("node {node}")).collect();
        (words(&plan["spofs"]).iter().filter(|thing| thing.starts_with("node ")).eq(others.iter()))
            .then_some((plan, code))
    });
    assert_eq!(code, 3, "{short}");

    let proof = wait("the failover is on record", GENEROUS, || {
        let events = cluster.ask(asked, &["events"]).json;
        let events = events["events"].as_array()?.clone();
        let reason = events.into_iter().map(|event| event["reason"].clone()).find(|r| r["kind"] == "serves_again")?;
        reason["outage_ms"].as_u64().filter(|_| reason["from"] == lost)
    });
    figure("plan.measured_failover_ms", proof);
    cluster.start_agent(lost, &[]);
    cluster.wait_healthy(&NODES);
    let again = wait("the promise holds again", GENEROUS, || {
        let (plan, code) = live(&cluster, asked);
        (code == 0 && plan["goal_met"] == true).then_some(plan)
    });
    let row = again["failures"].as_array().into_iter().flatten().find(|row| row["domain"] == format!("node {lost}"));
    assert!(
        row.is_some_and(|row| row["proof"].as_str().is_some_and(|proof| proof.starts_with("measured "))),
        "{again}"
    );
}
