//! `plan` and `models` as people and scripts use them, from a file alone.

use std::process::Output;

use serde_json::Value;

use crate::{TempDir, json, run};

/// The file of the design's own example.
const SHOP: &str = include_str!("../../../../examples/shop.toml");

const TWO: &str = "cluster = \"two\"\n[nodes]\nn1 = { addr = \"10.0.0.1\" }\nn2 = { addr = \"10.0.0.2\" }\n\
                   [app.web]\nrun = [\"/web\"]\n[app.jobs]\nexclusive = true\nrun = [\"/jobs\"]\n";

const ONE_RACK: &str = "cluster = \"racked\"\n[goal]\nsurvive = \"rack\"\n[nodes]\n\
                        n1 = { addr = \"10.0.0.1\", rack = \"a\" }\nn2 = { addr = \"10.0.0.2\", rack = \"a\" }\n\
                        n3 = { addr = \"10.0.0.3\", rack = \"a\" }\n\
                        [app.web]\nspread = \"rack\"\nneed = 2\nrun = [\"/web\"]\n";

fn plan(text: &str, questions: &[&str]) -> (Value, i32) {
    let temp = TempDir::create();
    let file = temp.file("backstay.toml", text);
    let questions = questions.iter().flat_map(|question| ["--what-if", question]);
    json(&["plan", "-c", &file, "--json"].into_iter().chain(questions).collect::<Vec<_>>())
}

fn failure<'a>(answer: &'a Value, domain: &str) -> &'a Value {
    let failures = answer["failures"].as_array().expect("a list");
    failures.iter().find(|failure| failure["domain"] == domain).unwrap_or_else(|| panic!("no {domain} in {answer}"))
}

fn words(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|word| word.as_str().expect("a word")).collect()
}

#[test]
fn three_nodes_meet_the_promise_of_the_example() {
    let (answer, code) = plan(SHOP, &[]);
    assert_eq!((code, &answer["goal_met"], &answer["schema"]), (0, &Value::Bool(true), &"backstay.plan/1".into()));
    assert!(words(&answer["spofs"]).is_empty() && words(&answer["broken"]).is_empty(), "{answer}");
    let node = failure(&answer, "node db1");
    assert_eq!(
        (&node["effect"], &node["proof"], &node["loss_bytes"]),
        (&"holds".into(), &"reasoned".into(), &0.into())
    );
    assert!(node["outage_ms"].as_u64().expect("a time") >= 2500, "a database fails over: {node}");
    let voters = answer["derived"].as_array().expect("a list").iter().find(|one| one["name"] == "voters");
    assert!(voters.is_some_and(|one| one["value"].is_string() && one["because"].is_string()), "{answer}");
}

#[test]
fn two_nodes_lack_a_witness_and_the_fix_is_tried() {
    let (answer, code) = plan(TWO, &[]);
    assert_eq!((code, &answer["goal_met"]), (3, &Value::Bool(false)));
    assert_eq!(words(&answer["spofs"]), ["node n1"], "the only voter");
    assert!(words(&answer["broken"]).iter().any(|why| why.contains("a witness is missing")), "{answer}");
    let fix = &answer["fixes"][0];
    assert_eq!(fix["meets_goal"], true, "{answer}");
    let changes = words(&fix["changes"]);
    assert!(changes[0].starts_with("+ node ") && changes[0].ends_with(" witness"), "{changes:?}");
    let (after, code) = plan(TWO, &changes);
    assert_eq!((code, &after["goal_met"]), (0, &Value::Bool(true)), "what is advised holds: {after}");
}

#[test]
fn one_rack_cannot_survive_a_rack_and_the_plan_says_what_would() {
    let (answer, code) = plan(ONE_RACK, &[]);
    assert_eq!(code, 3);
    assert_eq!(failure(&answer, "rack a")["effect"], "lost");
    assert!(words(&answer["broken"]).iter().any(|why| why.contains("does not have N+1 over racks")), "{answer}");
    let fix = &answer["fixes"][0];
    assert_eq!(fix["meets_goal"], true, "{}", answer["fixes"]);
    let (after, code) = plan(ONE_RACK, &words(&fix["changes"]));
    assert_eq!((code, &after["goal_met"]), (0, &Value::Bool(true)), "what is advised holds: {after}");
}

#[test]
fn questions_are_answered_and_wrong_ones_explained() {
    let (lost, code) = plan(SHOP, &["node db1 lost"]);
    assert_eq!(code, 3, "another node must not fail now");
    assert!(words(&lost["spofs"]).contains(&"node db2"), "{lost}");
    let (both, code) = plan(SHOP, &["node db1 lost", "+ node db4 rack=d", "+ node db5 rack=e"]);
    assert_eq!(code, 0, "with two more, one may be lost and another fail: {}", both["broken"]);
    for (question, said) in [
        ("node db9 lost", "there is no node db9; there are db1, db2, db3"),
        ("app.web.redundancy=3N", "\"3N\" is not a value of `redundancy`"),
        ("app.wbe.need=2", "[app.wbe]"),
        ("rubbish", "`rubbish` is no question"),
        ("+ node db1", "there is a node db1 already"),
    ] {
        let (answer, code) = plan(SHOP, &[question]);
        let message = answer["error"]["message"].as_str().expect("a message");
        assert!(code == 2 && message.contains(said), "{question}: {code} {message}");
    }
}

#[test]
fn a_node_may_be_taken_away_as_the_documents_write_it() {
    let temp = TempDir::create();
    let file = temp.file("backstay.toml", SHOP);
    let (answer, code) = json(&["plan", "-c", &file, "--what-if", "- node db3", "--json"]);
    assert_eq!((code, &answer["goal_met"]), (3, &Value::Bool(false)), "{answer}");
    assert!(words(&answer["broken"]).iter().any(|why| why.contains("app.web does not have N+1")), "{answer}");
}

#[test]
fn while_something_is_lost_no_change_of_the_file_is_advised() {
    let (answer, code) = plan(SHOP, &["app.web@db1 lost"]);
    assert_eq!((code, answer["fixes"].as_array().map(Vec::len)), (3, Some(0)), "{answer}");
}

#[test]
fn a_model_without_a_spare_is_a_single_point_of_failure() {
    let (answer, code) = plan(SHOP, &["app.web.redundancy=N"]);
    assert_eq!(code, 3);
    assert!(words(&answer["spofs"]).contains(&"node db1"), "{answer}");
    let fix = &answer["fixes"][0];
    assert_eq!(words(&fix["changes"]), ["app.web.redundancy=N+1"], "the cheapest is a word in the file");
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

#[test]
fn people_read_the_verdict_first() {
    let temp = TempDir::create();
    let file = temp.file("two.toml", TWO);
    let output = run(&["plan", "-c", &file]);
    let text = said(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("two · goal: survive any 1 node") && lines[1].starts_with("GOAL NOT MET"), "{text}");
    assert!(text.contains("FAIL node n1") && text.contains("fix      + node new1 witness"), "{text}");
    let all = said(&run(&["plan", "-c", &file, "--all"]));
    assert!(all.contains("derived  voters") && all.contains("assumed  "), "{all}");
}

#[test]
fn models_are_compared_and_drawn() {
    let temp = TempDir::create();
    let priced = format!("{SHOP}\n[prices]\ninstance = 120\noutage_hour = 2000\n");
    let file = temp.file("shop.toml", &priced);
    let svg = temp.path().join("models.svg").display().to_string();
    let (answer, code) = json(&["models", "app.web", "-c", &file, "--svg", &svg, "--json"]);
    assert_eq!(code, 0);
    let rows = answer["models"].as_array().expect("a list");
    let models: Vec<_> = rows.iter().map(|row| row["model"].as_str().expect("a name")).collect();
    assert_eq!(models, ["N", "N+1", "N+2", "2N", "2N+1"]);
    let number =
        |row: usize, field: &str| rows[row][field].as_f64().unwrap_or_else(|| panic!("{field} of {}", rows[row]));
    assert_eq!([0, 1, 2, 3, 4].map(|row| number(row, "instances")), [2.0, 3.0, 4.0, 4.0, 5.0]);
    assert!(number(0, "minutes_per_year") > 100.0 * number(1, "minutes_per_year"), "the first spare is worth most");
    assert!(number(1, "minutes_per_year") >= number(2, "minutes_per_year"));
    assert!(
        rows[1]["is_declared"] == true && rows[1]["fits"] == true && rows[2]["fits"] == false,
        "three nodes: {rows:?}"
    );
    assert_eq!((&answer["best"], &answer["currency"]), (&"N+1".into(), &"EUR".into()));
    let drawn = std::fs::read_to_string(&svg).expect("the picture");
    assert!(
        drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n") && drawn.matches("<rect ").count() == 6,
        "{drawn}"
    );
    let (unknown, code) = json(&["models", "app.wbe", "-c", &file, "--json"]);
    assert!(code == 2 && unknown["error"]["help"].as_str().is_some_and(|help| help.contains("app.web")), "{unknown}");
}
