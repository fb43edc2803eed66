//! `estimate`: each kind as scripts call it, against the planner's vectors, and what it says to people and to mistakes.

use serde_json::{Value, json};

use crate::{TempDir, json, run};

/// Runs a kind and checks numbers of its answer, to ten digits.
fn check(args: &str, expected: &[(&str, f64)]) -> Value {
    let mut words = vec!["estimate"];
    words.extend(args.split(' '));
    words.push("--json");
    let (answer, code) = json(&words);
    assert_eq!((code, &answer["schema"]), (0, &json!("backstay.estimate/1")), "{args}: {answer}");
    assert_eq!(answer["year_h"], json!(8760), "{args}");
    assert!(answer["inputs"].is_object() && answer["kind"] == json!(words[1]), "{args}: {answer}");
    for (field, wanted) in expected {
        let found = answer[field].as_f64().unwrap_or_else(|| panic!("{args}: {field} is {}", answer[field]));
        assert!((found / wanted - 1.0).abs() < 1e-10, "{args}: {field} is {found:e}, not {wanted:e}");
    }
    answer
}

fn vector(id: &str) -> Value {
    let file: Value = serde_json::from_str(include_str!("../../../planner/tests/vectors.json")).expect("JSON");
    let list = file["vectors"].as_array().expect("a list");
    list.iter().find(|vector| vector["id"] == id).unwrap_or_else(|| panic!("{id}")).clone()
}

/// The command must end with 2, and say this in words and in JSON.
fn refused(args: &[&str], said: &[&str]) -> Value {
    let output = run(args);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{args:?}: {output:?}");
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    let with_json: Vec<_> = args.iter().copied().chain(["--json"]).collect();
    let (answer, code) = json(&with_json);
    assert_eq!((code, &answer["schema"]), (2, &json!("backstay.estimate/1")), "{args:?}: {answer}");
    let message = answer["error"]["message"].as_str().expect("a message");
    for said in said {
        assert!(text.contains(said), "{args:?}: {text}");
        assert!(message.contains(said), "{args:?}: {message}");
    }
    answer
}

#[test]
fn units_and_crews() {
    check(
        "k-of-n --n 3 --k 2 --mttf 1000h --mttr 4h",
        &[
            ("U", 4.7491815566577675e-05),
            ("outages_per_year", 0.2077371692892246),
            ("mean_outage_h", 2.002666666666667),
        ],
    );
    check(
        "k-of-n --n 3 --k 2 --mttf 1000h --mttr 240m --crews 1 --dormancy 0",
        &[("U", 6.374196844848747e-05), ("mean_outage_h", 4.016), ("mttf_from_all_up_h", 63500.0)],
    );
    check("k-of-n --n 6 --k 1 --mttf 1e9h --mttr 1h --crews 6", &[("U", 9.99999994e-55)]);
    let never = check("k-of-n --n 3 --k 2 --mttf never --mttr 4h", &[]);
    assert_eq!(
        (&never["U"], &never["outages_per_year"], &never["mean_outage_h"]),
        (&json!(0.0), &json!(0.0), &Value::Null)
    );
    assert_eq!(never["inputs"]["mttf_h"], Value::Null, "never has no number");
}

#[test]
fn failovers() {
    check(
        "active-passive --n 4 --spares 2 --mttf 2190h --mttr 4h --crews 2 --coverage 0.999 --failover 10s --uncovered 30m",
        &[
            ("U", 6.162703812075677e-06),
            ("U_failover", 5.0682110476785945e-06),
            ("U_uncovered", 9.131911797619089e-07),
            ("U_exhausted", 1.81301584635173e-07),
            ("outages_per_year", 15.999901396739007),
            ("downtime_min_per_year", 3.2391171236269756),
            ("capacity_weighted_U", 1.5408002452811276e-06),
        ],
    );
    let cold =
        "active-passive --n 1 --spares 1 --mttf 100h --mttr 5h --crews 1 --coverage 0.9 --failover 60s --uncovered 1h";
    check(&format!("{cold} --standby-mttf 200h"), &[("U", 0.004537457171960367)]);
    check(
        "active-active --n 4 --spares 1 --mttf 2190h --mttr 4h --crews 1 --coverage 0.999 --detect 10s --uncovered 0.5h",
        &[("U_capacity", 6.760690590823734e-05), ("U_request_weighted", 1.909687152356494e-05)],
    );
    check(
        "common-cause --n 3 --k 2 --mttf 10000h --mttr 8h --beta 0.02",
        &[("U", 1.5187856057743026e-05), ("outages_per_year", 0.021575828606320964)],
    );
}

#[test]
fn what_was_seen() {
    check("rate --failures 3 --hours 10000", &[("mle_per_h", 0.0003), ("level", 0.95)]);
    let rate = check("rate --failures 3 --hours 10000h --level 0.95", &[]);
    for (field, wanted) in [("lower", 6.186721228956014e-05), ("upper", 0.0008767273069742324)] {
        assert!((rate[field].as_f64().expect("a number") / wanted - 1.0).abs() < 1e-8, "{rate}");
    }
    check("coverage --drills 300 --failed 0", &[("lower", 0.9900639180555423), ("confidence", 0.95)]);
    check("coverage --drills 100 --failed 3", &[("lower", 0.92428920625017)]);
    check("coverage --drills 59", &[("lower", 0.950492390111773)]);
}

#[test]
fn a_tree_of_domains() {
    let temp = TempDir::create();
    for id in ["c-tree-3sites-2hosts", "c-tree-2sites-2x(N+1)"] {
        let vector = vector(id);
        let file = temp.file("tree.json", &vector["inputs"].to_string());
        let expected = ["U", "outages_per_year", "mean_outage_h"]
            .map(|field| (field, vector["expected"][field].as_f64().expect("a number")));
        let answer = check(&format!("tree {file}"), &expected);
        assert_eq!(answer["spofs"], json!([]), "{answer}");
        let site = vector["expected"]["top_criticality"]["S0"].as_f64().expect("a number");
        assert!((answer["criticality"]["S0"].as_f64().expect("a number") / site - 1.0).abs() < 1e-10, "{answer}");
    }
    let file = temp.file(
        "one.json",
        r#"{"layout_hosts_per_rack_per_site": [[2, 1]], "N": 2, "u_host": 0.001, "u_rack": 0.0001, "u_site": 0,
            "mttr_h": {"host": 4, "rack": 2, "site": 2}}"#,
    );
    assert_eq!(check(&format!("tree {file}"), &[])["spofs"], json!(["S0", "R0.0"]));
}

#[test]
fn a_fault_tree() {
    let temp = TempDir::create();
    let shared = vector("c-depgraph-shared");
    let file = temp.file("shared.json", &shared["inputs"].to_string());
    let answer = check(&format!("fault-tree {file}"), &[("Q", 0.00017897847621122314)]);
    let mut sets: Vec<Vec<String>> = serde_json::from_value(answer["mcs"].clone()).expect("sets of events");
    sets.iter_mut().for_each(|set| set.sort());
    sets.sort();
    assert_eq!(json!(sets), shared["expected"]["mcs"]);
    let mut spofs: Vec<String> = serde_json::from_value(answer["spofs"].clone()).expect("events");
    spofs.sort();
    assert_eq!(json!(spofs), shared["expected"]["spofs"]);
    assert_eq!((&answer["mcs_total"], &answer["mcs_by_order"]), (&json!(7), &json!([0, 3, 4])));

    let trains = vector("pub-ft-two-train");
    let file = temp.file("trains.json", &trains["inputs"].to_string());
    let answer = check(&format!("fault-tree {file} --list 1"), &[("Q", 0.646)]);
    assert_eq!(answer["mcs"].as_array().map(Vec::len), Some(1));
    for (event, wanted) in trains["expected"]["importance"].as_object().expect("an object") {
        for measure in ["MIF", "CIF", "RAW", "RRW"] {
            let [found, wanted] = [&answer["importance"][event][measure], &wanted[measure]].map(Value::as_f64);
            assert!(
                (found.expect(measure) / wanted.expect(measure) - 1.0).abs() < 1e-10,
                "{event} {measure}: {answer}"
            );
        }
    }

    let votes = temp.file("votes.json", &vector("pub-ft-2oo3")["inputs"].to_string());
    check(&format!("fault-tree {votes}"), &[("Q", 0.098)]);
    let gates = temp.file(
        "g.json",
        r#"{"top": "a or a and b", "gates": {"a": "2 of (x, y, b)"}, "p": {"x": 0.1, "y": 0.1, "b": 0.1}}"#,
    );
    check(&format!("fault-tree {gates}"), &[("Q", 0.028)]);
}

#[test]
fn people_get_units_and_assumptions() {
    let args = "estimate active-passive --n 4 --spares 1 --mttf 2190h --mttr 4h --crews 2 --coverage 0.99 --failover 30s \
                --uncovered 30m";
    let output = run(&args.split_whitespace().collect::<Vec<_>>());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for said in
        ["30.03 min/yr", "99.9943 %", "nines", "1 outage every 22", "assumes:", "8760 h", "2 repaired at a time"]
    {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(!text.contains('{') && text.lines().count() < 14, "{text}");
}

#[test]
fn a_bad_flag_is_named_with_its_range() {
    let good = "estimate k-of-n --n 3 --k 2 --mttf 1000h --mttr 4h --crews 3 --dormancy 1";
    for (flag, value, said) in [
        ("--n", "0", "from 1 to 1000000"),
        ("--n", "-3", "-3"),
        ("--n", "99999999999", "99999999999"),
        ("--k", "4", "from 1 to 3"),
        ("--k", "0", "from 1 to 3"),
        ("--mttf", "0h", "more than 0 h"),
        ("--mttf", "-1h", "never"),
        ("--mttf", "1000", "number with a unit"),
        ("--mttf", "nan", "number with a unit"),
        ("--mttr", "never", "number with a unit"),
        ("--mttr", "0s", "more than 0 h"),
        ("--crews", "0", "from 1 to"),
        ("--dormancy", "1.5", "from 0 to 1"),
        ("--dormancy", "NaN", "from 0 to 1"),
        ("--dormancy", "-1", "from 0 to 1"),
    ] {
        let mut args: Vec<_> = good.split(' ').collect();
        let at = args.iter().position(|arg| *arg == flag).expect("a flag");
        args[at + 1] = value;
        refused(&args, &[flag, said]);
    }
    let active = "--spares 1 --mttf 2190h --mttr 4h --coverage 0.9 --uncovered 30m";
    for (args, said) in [
        (format!("active-passive --n 0 {active} --failover 1s"), "--n is 0"),
        (format!("active-passive --n 1 {active} --failover 1s --standby-mttf 0h"), "--standby-mttf is 0 h"),
        (format!("active-active --n 4294967295 {active} --detect 1s"), "--n is 4294967295"),
        (format!("active-active --n 1 {active} --detect -1s"), "--detect"),
        ("common-cause --n 3 --k 2 --mttf 1h --mttr 1h --beta 2".to_owned(), "--beta is 2, but must be from 0 to 1"),
        ("coverage --drills 0".to_owned(), "--drills is 0, but must be 1 or more"),
        ("coverage --drills 3 --failed 4".to_owned(), "--failed is 4, but must be at most the 3 drills"),
        ("coverage --drills 3 --confidence 1".to_owned(), "--confidence is 1, but must be between 0 and 1"),
        ("rate --failures 1 --hours 0".to_owned(), "--hours is 0, but must be more than 0"),
        ("rate --failures 1 --hours 1 --level 0".to_owned(), "--level is 0, but must be between 0 and 1"),
    ] {
        let args: Vec<_> = ["estimate"].into_iter().chain(args.split(' ')).collect();
        refused(&args, &[said]);
    }
    refused(&["estimate"], &[]);
    refused(&["estimate", "k-of-n"], &["--n"]);
}

#[test]
fn a_bad_file_is_wrong_at_a_place() {
    let temp = TempDir::create();
    let tree = r#"{"layout_hosts_per_rack_per_site": [[1,1]], "N": 1, "u_host": 0.1, "u_rack": 0.1,
        "u_site": 0.1, "mttr_h": {"host": 1, "rack": 1, "site": 1}}"#;
    for (from, to, said) in [
        ("\"u_site\": 0.1", "\"u_site\": 1.1", ":2:21: 1.1 must be from 0 to 1"),
        ("\"rack\": 1", "\"rack\": 0", "0 h must be more than 0 h"),
        ("\"N\": 1", "\"N\": -1", ":1:"),
        ("\"N\": 1,", "", "missing field `N`"),
        ("\"N\": 1", "\"N\": 3", "N is 3, but must be from 1 to 2"),
        ("[[1,1]]", "[[10000,1]]", "the number of hosts is 1"),
        ("[[1,1]]", "[]", "N is 1"),
        ("}}", "}", "EOF while parsing"),
    ] {
        let file = temp.file("tree.json", &tree.replace(from, to));
        refused(&["estimate", "tree", &file], &[&file, said]);
    }
    let answer = refused(&["estimate", "tree", &temp.file("x.json", "{]")], &["x.json:1:2: "]);
    assert_eq!((&answer["errors"][0]["line"], &answer["errors"][0]["column"]), (&json!(1), &json!(2)), "{answer}");
    for (text, said) in [
        (r#"{"top": "a or (b", "p": {"a": 0.1, "b": 0.1}}"#, "top, column 8: expected `)`, found the end"),
        (r#"{"top": "a or c", "p": {"a": 0.1}}"#, "top, column 6: `c` has no probability in `p`"),
        (r#"{"top": "g", "gates": {"g": "g"}}"#, "g, column 1: gate `g` is part of itself"),
        (r#"{"top": "a", "p": {"a": -0.1}}"#, ":1:29: -0.1 must be from 0 to 1"),
        (r#"{"p": {}}"#, "missing field `top`"),
        (r#"{"top": "a", "p": {"a": 1e999}}"#, "number out of range"),
    ] {
        let file = temp.file("ft.json", text);
        refused(&["estimate", "fault-tree", &file], &[&file, said]);
    }
    refused(&["estimate", "fault-tree", "/no/such.json"], &["cannot read /no/such.json"]);
    refused(&["estimate", "tree", &temp.path().display().to_string()], &["cannot read"]);
    let large = temp.file("large.json", &" ".repeat((1 << 20) + 1));
    refused(&["estimate", "tree", &large], &["larger than 1 MiB"]);
}
