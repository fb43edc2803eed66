//! Every verb that needs no running agent, and what every verb says when there is none.

use serde_json::json;

use crate::{TempDir, json, run};

const GOOD: &str = r#"cluster = "shop"
[nodes]
n1 = { addr = "127.0.1.1" }
n2 = { addr = "127.0.1.2" }
[app.web]
run = ["/srv/web", "{port}"]
port = 3000
"#;

#[test]
fn config_check_says_everything_wrong_at_its_place() {
    let temp = TempDir::create();
    let good = temp.file("good.toml", GOOD);
    for args in [["config", "check", &good, "--json"].as_slice(), &["config", "check", "-c", &good, "--json"]] {
        let (answer, code) = json(args);
        assert_eq!((code, &answer["ok"], &answer["errors"]), (0, &json!(true), &json!([])), "{answer}");
        assert_eq!(answer["schema"], "backstay.config/1");
    }

    let bad = temp.file("bad.toml", &GOOD.replace("port = 3000", "prt = 3000\nneed = 0"));
    let (answer, code) = json(&["config", "check", &bad, "--json"]);
    assert_eq!((code, &answer["ok"]), (2, &json!(false)));
    let errors = answer["errors"].as_array().expect("a list");
    assert_eq!(errors.len(), 2, "{answer}");
    assert_eq!((&errors[0]["line"], &errors[0]["column"]), (&json!(7), &json!(1)));
    assert_eq!(errors[0]["code"], "unknown-key");
    assert!(errors[0]["help"].as_str().expect("help").contains("port"), "{answer}");
    let text = String::from_utf8(run(&["config", "check", &bad]).stdout).expect("UTF-8");
    assert!(text.contains("2 errors; nothing was changed") && text.contains("bad.toml:7:1"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colour where there is no terminal");
}

#[test]
fn what_a_build_cannot_run_warns_when_checked_and_is_refused_when_run() {
    let temp = TempDir::create();
    let file = temp.file("later.toml", &format!("{GOOD}\n[postgres.main]\n"));
    let (answer, code) = json(&["config", "check", &file, "--json"]);
    assert_eq!((code, &answer["ok"]), (0, &json!(true)), "{answer}");
    assert_eq!(answer["warnings"][0]["code"], "not-in-this-build", "{answer}");

    let state = temp.path().join("state").display().to_string();
    let (answer, code) = json(&["agent", "-c", &file, "--node", "n1", "--state", &state, "--json"]);
    assert_eq!((code, &answer["error"]["code"]), (2, &json!("not-in-this-build")), "{answer}");
    assert!(!temp.path().join("state").exists(), "nothing is touched");
}

#[test]
fn a_missing_file_is_named() {
    for args in [["config", "check", "/no/such.toml", "--json"].as_slice(), &["agent", "-c", "/no/such.toml", "--json"]]
    {
        let (answer, code) = json(args);
        assert_eq!(code, 2, "{answer}");
        assert!(answer["error"]["message"].as_str().expect("a message").contains("/no/such.toml"), "{answer}");
    }
}

#[test]
fn fmt_lays_out_once_and_then_leaves_alone() {
    let temp = TempDir::create();
    let file = temp.file("f.toml", &GOOD.replace("port = 3000", "port    =   3000 # kept"));
    assert_eq!(json(&["config", "fmt", &file, "--check", "--json"]).1, 3);
    assert_eq!(json(&["config", "fmt", &file, "--json"]).0["changed"], json!(true));
    let text = std::fs::read_to_string(&file).expect("the file");
    assert!(text.contains("# kept"), "{text}");
    assert_eq!(json(&["config", "fmt", &file, "--check", "--json"]).1, 0);
    assert_eq!(json(&["config", "fmt", &file, "--json"]).0["changed"], json!(false));
    assert_eq!(std::fs::read_dir(temp.path()).expect("the directory").count(), 1, "nothing is left beside it");
}

#[test]
fn schema_is_a_json_schema() {
    let output = run(&["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(schema["properties"]["nodes"].is_object(), "{schema}");
}

#[test]
fn init_prints_a_file_that_init_takes() {
    let temp = TempDir::create();
    let printed = run(&["init", "10.0.0.1", "10.0.0.2", "10.0.0.3", "--cluster", "mill"]);
    assert!(printed.status.success());
    let file = temp.file("c.toml", &String::from_utf8(printed.stdout).expect("UTF-8"));
    assert_eq!(json(&["config", "check", &file, "--json"]).0["warnings"], json!([]));

    let out = temp.path().join("ids");
    let out_text = out.display().to_string();
    let (answer, code) = json(&["init", "-c", &file, "--out", &out_text, "--json"]);
    assert_eq!((code, &answer["cluster"]), (0, &json!("mill")), "{answer}");
    assert_eq!(answer["founders"], json!(["n1", "n2", "n3"]));
    for name in ["ca/ca.key", "n1/key.pem", "n2/cert.pem", "n3/cluster.json"] {
        assert!(out.join(name).is_file(), "{name}");
    }
    let (answer, code) = json(&["init", "-c", &file, "--out", &out_text, "--json"]);
    assert_eq!(code, 5, "identities are never overwritten: {answer}");
}

#[test]
fn init_refuses_what_no_file_can_say() {
    for args in [
        ["init", "10.0.0.1", "10.0.0.1"].as_slice(),
        &["init", "10.0.0.1", "--cluster", "Not A Name"],
        &["init", "ten.example"],
        &["init"],
        &["init", "-c", "x.toml"],
    ] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn verbs_of_the_design_are_known_by_name() {
    let verbs = [
        "failover", "pause", "resume", "drill", "backup", "restore", "prove", "top", "join", "token", "node", "store",
        "psql",
    ];
    for verb in verbs {
        for rest in [[].as_slice(), &["--help"], &["now", "--anything", "x"]] {
            let mut args = vec![verb];
            args.extend(rest);
            let output = run(&args);
            let text = String::from_utf8(output.stderr).expect("UTF-8");
            assert_eq!(output.status.code(), Some(2), "{args:?}");
            assert!(text.contains(&format!("`backstay {verb}` is not in this build")), "{args:?}: {text}");
        }
        let (answer, code) = json(&[verb, "--json"]);
        assert_eq!((code, &answer["schema"]), (2, &json!(format!("backstay.{verb}/1"))), "{answer}");
    }
}

#[test]
fn bad_usage_ends_with_2_and_a_suggestion() {
    let output = run(&["confg", "check"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("'config'"), "{output:?}");
    let (answer, code) = json(&["switchover", "app.web", "--json"]);
    assert_eq!((code, &answer["schema"]), (2, &json!("backstay.switchover/1")));
    assert!(answer["error"]["message"].as_str().expect("a message").contains("--to"), "{answer}");
    assert_eq!(run(&["--version"]).status.code(), Some(0));
    assert_eq!(run(&["help"]).status.code(), Some(0));
}

#[test]
fn without_an_agent_every_question_says_where_it_looked() {
    let temp = TempDir::create();
    let state = temp.path().display().to_string();
    let good = temp.file("good.toml", GOOD);
    let questions: [&[&str]; 7] = [
        &["status"],
        &["events"],
        &["explain", "n1"],
        &["switchover", "app.web", "--to", "n2"],
        &["drain", "n1"],
        &["config", "diff", &good],
        &["config", "apply", &good, "--yes"],
    ];
    for question in questions {
        let mut args = question.to_vec();
        args.extend(["--state", &state, "--json"]);
        let (answer, code) = json(&args);
        assert_eq!((code, &answer["error"]["code"]), (1, &json!("no-agent")), "{args:?}: {answer}");
        let message = answer["error"]["message"].as_str().expect("a message");
        assert!(message.contains(&format!("{state}/api.sock")) && message.contains("backstay agent -c"), "{message}");
        assert_eq!(answer["schema"], json!(format!("backstay.{}/1", question[0])));
    }
}

#[test]
fn a_state_directory_whose_socket_could_not_be_bound_is_refused_by_name() {
    let long = format!("/tmp/{}", "x".repeat(100));
    let (answer, code) = json(&["status", "--state", &long, "--json"]);
    assert_eq!((code, &answer["error"]["code"]), (2, &json!("path-too-long")), "{answer}");
}

#[test]
fn an_agent_without_an_identity_is_not_started_again_and_again() {
    let temp = TempDir::create();
    let file = temp.file("good.toml", GOOD);
    let state = temp.path().join("state").display().to_string();
    let output = run(&["agent", "-c", &file, "--node", "n1", "--state", &state]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(text.contains("backstay init -c FILE --out DIR"), "{text}");
    assert_eq!(run(&["agent", "-c", &file, "--node", "n9", "--state", &state]).status.code(), Some(2));
}

#[test]
fn completions_know_the_verbs_for_people_only() {
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(run(&["completions", shell]).stdout).expect("UTF-8");
        assert!(script.contains("switchover"), "{shell}");
    }
    assert_eq!(run(&["completions", "tcl"]).status.code(), Some(2));
}

#[test]
fn one_seed_is_one_world() {
    let (first, code) = json(&["sim", "--seed", "7", "--json"]);
    let (second, _) = json(&["sim", "--seed", "7", "--json"]);
    assert_eq!(first, second);
    assert_eq!((code, &first["passed"], &first["violation"]), (0, &json!(true), &json!(null)), "{first}");
    assert_eq!((&first["seed"], &first["repeat"]), (&json!(7), &json!("backstay sim --seed 7")));
    let (many, code) = json(&["sim", "--seeds", "5..9", "--json"]);
    assert_eq!(
        (code, &many["runs"], &many["failed_seeds"]),
        (0, &json!(5), &json!([])),
        "both ends are included: {many}"
    );
}

#[test]
fn a_wrong_product_fails_with_7_and_can_be_repeated() {
    let mutant = ["sim", "--seeds", "1..30", "--mutant", "guard-ignores-deadline", "--json"];
    let (answer, code) = json(&mutant);
    assert_eq!(code, 7, "{answer}");
    let repeat = answer["violations"][0]["repeat"].as_str().expect("how to repeat it");
    let words: Vec<_> = repeat.split(' ').skip(1).chain(["--json"]).collect();
    let (again, code) = json(&words);
    assert_eq!((code, &again["violation"]), (7, &answer["violations"][0]["violation"]), "{again}");
    assert_eq!(run(&["sim", "--seeds", "1..2", "--mutant", "no-such"]).status.code(), Some(2));
    assert_eq!(run(&["sim"]).status.code(), Some(2));
}

#[test]
fn a_failed_world_is_shrunk_to_the_faults_that_matter() {
    let (many, _) = json(&["sim", "--seeds", "1..30", "--mutant", "guard-ignores-deadline", "--json"]);
    let seed = many["failed_seeds"][0].to_string();
    let (answer, code) = json(&["sim", "--seed", &seed, "--mutant", "guard-ignores-deadline", "--json"]);
    assert_eq!(code, 7, "{answer}");
    let faults = answer["faults"].as_array().expect("the faults that remain");
    assert_eq!(json!(faults.len()), answer["shrunk"]["to"]);
    assert!(faults.iter().all(|fault| fault["index"].is_u64() && fault["at_ms"].is_u64() && fault["kind"].is_string()));
    let repeat = answer["repeat"].as_str().expect("how to repeat it").to_owned();
    let words: Vec<_> = repeat.split(' ').skip(1).chain(["--json"]).collect();
    let (again, code) = json(&words);
    assert_eq!(
        (code, &again["violation"], &again["hash"]),
        (7, &answer["shrunk"]["violation"], &answer["shrunk"]["hash"]),
        "{again}"
    );
    assert_eq!(again["repeat"], repeat, "what is shrunk cannot be shrunk further");
    for bad in ["9..3", "x", "99999", ""] {
        assert_eq!(run(&["sim", "--seed", "2", "--without", bad]).status.code(), Some(2), "{bad}");
    }
    assert_eq!(run(&["sim", "--seeds", "1..2", "--without", "1"]).status.code(), Some(2));
    assert_eq!(run(&["sim", "--mutants", "--trace", "x"]).status.code(), Some(2));
}

#[test]
fn a_trace_is_replayed_and_the_first_difference_named() {
    let dir = std::env::temp_dir().join(format!("backstay-trace-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let file = dir.join("trace").display().to_string();
    let (_, code) = json(&["sim", "--seed", "7", "--trace", &file, "--json"]);
    assert_eq!(code, 0);
    let (same, code) = json(&["sim", "replay", &file, "--json"]);
    assert_eq!((code, &same["same"], &same["differs_at"]), (0, &json!(true), &json!(null)), "{same}");
    let text = std::fs::read_to_string(&file).expect("the trace");
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines[50] = "something else".to_owned();
    std::fs::write(&file, lines.join("\n")).expect("written");
    let (other, code) = json(&["sim", "replay", &file, "--json"]);
    assert_eq!((code, &other["differs_at"]), (3, &json!(50)), "{other}");
    assert_eq!(run(&["sim", "replay", &file, "--step"]).status.code(), Some(2), "stepping needs a terminal");
    std::fs::write(&file, "no trace").expect("written");
    assert_eq!(run(&["sim", "replay", &file]).status.code(), Some(2));
    assert_eq!(run(&["sim", "replay", "/no/such/file"]).status.code(), Some(2));
    let _ = std::fs::remove_dir_all(&dir);
}
