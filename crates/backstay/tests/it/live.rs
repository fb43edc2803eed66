//! The verbs against a real agent: one node, one program.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::demo::processes_of;
use crate::{TempDir, backstay, json, run};

const PATIENCE: Duration = Duration::from_secs(60);

/// One agent, and everything it started, until the end of a test.
struct Cluster {
    temp: TempDir,
    agent: Child,
    state: String,
    file: String,
}

impl Cluster {
    fn start() -> Self {
        let temp = TempDir::create();
        let peer = TcpListener::bind("127.0.1.9:0").and_then(|held| held.local_addr()).expect("a free port").port();
        let exe = env!("CARGO_BIN_EXE_backstay");
        let file = temp.file(
            "backstay.toml",
            &format!(
                "cluster = \"one\"\n[ports]\npeer = {peer}\n[nodes]\nsolo = {{ addr = \"127.0.1.9\" }}\n\
                 [app.web]\nredundancy = \"N\"\nrun = [{exe:?}, \"demo-app\", \"--addr\", \"{{addr}}\", \"--port\", \"{{port}}\"]\n\
                 check = \"GET /up\"\n"
            ),
        );
        let ids = temp.path().join("ids");
        let made = backstay().args(["init", "-c", &file, "--out"]).arg(&ids).stdout(Stdio::null()).status();
        assert!(made.expect("init runs").success());
        let state = temp.path().join("s");
        std::fs::create_dir(&state).expect("a state directory");
        std::fs::rename(ids.join("solo"), state.join("identity")).expect("its identity");
        let state = state.display().to_string();
        let agent = backstay()
            .args(["agent", "-c", &file, "--state", &state, "--node", "solo"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the agent starts");
        Self { temp, agent, state, file }
    }

    fn ask(&self, args: &[&str]) -> (Value, i32) {
        json(&[args, &["--state", &self.state, "--json"]].concat())
    }

    /// Until a status satisfies; answers it with its exit code.
    fn wait(&self, what: &str, satisfies: impl Fn(&Value) -> bool) -> (Value, i32) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let (status, code) = self.ask(&["status"]);
            if satisfies(&status) {
                return (status, code);
            }
            assert!(Instant::now() < give_up, "{what}: {status}");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        end_all(self.temp.path());
    }
}

/// Guards and the balancer outlive an agent on purpose. Programs inherit no name of the directory, but end with their guard.
fn end_all(dir: &Path) {
    let give_up = Instant::now() + PATIENCE;
    while Instant::now() < give_up {
        let left = processes_of(dir);
        if left.is_empty() {
            return;
        }
        for process in left {
            let pid = process.trim_start_matches("/proc/");
            let _ = Command::new("kill").args(["-9", pid]).stderr(Stdio::null()).status();
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn every_verb_asks_a_running_agent() {
    let cluster = Cluster::start();
    let (status, code) = cluster.wait("healthy", |status| status["health"] == "healthy");
    assert_eq!(code, 0, "{status}");
    assert_eq!((&status["cluster"], &status["schema"]), (&json!("one"), &json!("backstay.status/1")));
    for field in ["quorum", "coordinator", "generation", "age_ms", "nodes", "services", "listeners", "next"] {
        assert!(status.get(field).is_some(), "{field}: {status}");
    }
    let text = String::from_utf8(run(&["status", "--state", &cluster.state]).stdout).expect("UTF-8");
    assert!(text.starts_with("one  HEALTHY") && text.contains("solo active"), "{text}");

    // One node and no spare: it must not fail, and both verbs say so.
    assert_eq!(status["must_not_fail"], json!(["node solo"]), "{status}");
    let (plan, code) = cluster.ask(&["plan", "--live"]);
    assert_eq!((code, &plan["live"], &plan["goal_met"]), (3, &json!(true), &json!(false)), "{plan}");
    assert!(plan["spofs"].as_array().is_some_and(|spofs| spofs.contains(&json!("node solo"))), "{plan}");

    let (events, code) = cluster.ask(&["events", "-n", "1"]);
    assert_eq!((code, events["events"].as_array().map(Vec::len)), (0, Some(1)), "{events}");
    let (explained, code) = cluster.ask(&["explain", "app.web"]);
    assert_eq!((code, &explained["known"]), (0, &json!(true)), "{explained}");
    let (unknown, code) = cluster.ask(&["explain", "app.wbe"]);
    assert_eq!((code, &unknown["error"]["code"]), (2, &json!("unknown-name")), "{unknown}");
    let (refused, code) = cluster.ask(&["switchover", "app.wbe", "--to", "solo"]);
    assert_eq!(code, 2, "{refused}");

    // The file: the same, then another that is adopted, then one that cannot be.
    assert_eq!(cluster.ask(&["config", "diff", &cluster.file]).1, 0);
    let text = std::fs::read_to_string(&cluster.file).expect("the file");
    let longer = cluster.temp.file("longer.toml", &text.replace("redundancy", "grace = \"20s\"\nredundancy"));
    let (diff, code) = cluster.ask(&["config", "diff", &longer]);
    assert_eq!((code, &diff["changes"][0]["path"]), (3, &json!("app.web.grace")), "{diff}");
    let (applied, code) = cluster.ask(&["config", "apply", &longer, "--yes"]);
    assert_eq!((code, &applied["adopted"]), (0, &json!(true)), "{applied}");
    cluster.wait("the note that the file differs", |status| {
        status["notes"].as_array().is_some_and(|notes| !notes.is_empty())
    });
    let wrong = cluster.temp.file("wrong.toml", &text.replace("check =", "chek ="));
    assert_eq!(cluster.ask(&["config", "apply", &wrong, "--yes"]).1, 2);

    // The only node: whatever drain does with it, undo makes it whole again.
    let (drained, code) = cluster.ask(&["drain", "solo"]);
    assert!([0, 3].contains(&code), "{drained}");
    assert_eq!(cluster.ask(&["drain", "solo", "--undo"]).1, 0);
    cluster.wait("healthy again", |status| status["health"] == "healthy");
}
