//! The demo keeps its word, and clears up after itself however it ends. How fast it was is for people to read, not for tests,
//! but that each redundancy model survives what it promises to, in the time that it promises.

use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backstay;

const PATIENCE: Duration = Duration::from_secs(60);

/// Processes that name the directory in their environment or command line.
pub fn processes_of(dir: &Path) -> Vec<String> {
    let needle = dir.as_os_str().as_bytes();
    let holds = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
    let of_demo = entries.filter(|path| {
        let read = |name| std::fs::read(path.join(name)).unwrap_or_default();
        holds(&read("environ")) || holds(&read("cmdline"))
    });
    of_demo.map(|path| path.display().to_string()).collect()
}

fn wait_until_gone(dir: &Path) {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let left = processes_of(dir);
        if left.is_empty() && !dir.exists() {
            return;
        }
        assert!(Instant::now() < give_up, "left: {left:?}, directory there: {}", dir.exists());
        thread::sleep(Duration::from_millis(50));
    }
}

/// The directory that a story's first line names.
fn dir_in(line: &str) -> Option<PathBuf> {
    let (_, dir) = line.split_once(" nodes in ").filter(|(start, _)| start.contains("starting "))?;
    Some(PathBuf::from(dir.trim()))
}

/// In the order in which they are caused.
const FAULTS: [&str; 10] = [
    "app_killed",
    "node_killed",
    "node_returned",
    "failback",
    "model_n",
    "model_n1",
    "model_n2",
    "model_2n",
    "model_2n1",
    "model_geo",
];

#[test]
fn the_demo_keeps_its_word_and_leaves_nothing() {
    let output = backstay().args(["demo", "--json"]).output().expect("the program starts");
    let story = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let answer: Value = serde_json::from_str(stdout.lines().last().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{error}: {stdout}\n{story}"));
    let code = output.status.code().expect("it ended by itself");
    assert_eq!(code, if answer["passed"] == json!(true) { 0 } else { 7 }, "{answer}\n{story}");
    assert_eq!(answer["schema"], "backstay.demo/1");

    let faults = answer["faults"].as_array().expect("faults");
    let names: Vec<_> = faults.iter().filter_map(|fault| fault["name"].as_str()).collect();
    assert_eq!(names, FAULTS);
    for fault in faults {
        assert_eq!(fault["role_overlap_ms"], json!(0), "{fault}\n{story}");
        assert!(fault["outage_ms"].is_u64() && fault["promised_ms"].is_u64() && fault["failed"].is_u64(), "{fault}");
        if ["app_killed", "node_returned", "failback"].iter().any(|name| fault["name"] == *name) {
            assert_eq!(fault["failed"], json!(0), "{fault}\n{story}");
        }
    }
    let models: Vec<_> = faults.iter().filter(|fault| fault.get("model").is_some()).collect();
    let named: Vec<_> = models.iter().filter_map(|fault| fault["model"].as_str()).collect();
    assert_eq!(named, ["N", "N+1", "N+2", "2N", "2N+1", "geographic"]);
    for fault in models {
        assert_eq!(fault["broken"], json!([]), "{fault}\n{story}");
        assert!(fault["outage_ms"].as_u64() <= fault["promised_ms"].as_u64(), "{fault}\n{story}");
        assert!(fault["targets"].as_array().is_some_and(|targets| targets.len() == 3), "three clients each: {fault}");
    }
    let is_broken = |fault: &Value| fault["broken"] != json!([]);
    assert_eq!(answer["passed"], json!(!faults.iter().any(is_broken)), "{answer}");
    assert!(answer["requests"]["sent"].as_u64() > Some(100), "{answer}");
    let dirs: Vec<_> = story.lines().filter_map(dir_in).collect();
    assert_eq!(dirs.len(), 2, "two stories: {story}");
    dirs.iter().for_each(|dir| wait_until_gone(dir));
}

#[test]
fn a_demo_that_is_killed_is_cleared_away_all_the_same() {
    let mut demo = backstay().arg("demo").stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("it starts");
    let mut lines = BufReader::new(demo.stdout.take().expect("a pipe")).lines();
    let mut next = || lines.next().expect("the story goes on").expect("UTF-8");
    let dir = dir_in(&next()).expect("the first line names it");
    let up = next();
    assert!(up.contains("are up"), "{up}");
    assert!(processes_of(&dir).len() > 9, "agents, workers, balancers, guards and programs");
    demo.kill().expect("it can be killed");
    demo.wait().expect("it ends");
    wait_until_gone(&dir);
}

#[test]
fn a_command_must_learn_its_port() {
    let output = backstay().args(["demo", "--", "/bin/true"]).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("{port}"));
}

#[test]
fn only_a_demo_can_be_stopped() {
    let temp = crate::TempDir::create();
    let output = backstay().args(["demo", "--stop"]).arg(temp.path()).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(temp.path().exists(), "a directory that is no demo is left alone");
}
