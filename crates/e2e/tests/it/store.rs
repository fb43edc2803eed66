//! The embedded store as part of the product: full disks, lost and damaged stores, and kills in the middle of writes.

use std::path::Path;

use backstay_e2e::boottime_ns;
use serde_json::Value;

use crate::rig::cluster::NODES;
use crate::rig::{Cluster, figure, is_root, ms_between, skip, standard, wait_for};

/// Rounds of killing an agent in the middle of writes.
const ROUNDS: u32 = 20;
/// Longest that all rounds may take together.
const ROUNDS_WITHIN_MS: u64 = 150_000;

fn votes(status: &Value, node: &str) -> bool {
    let nodes = status["nodes"].as_array().into_iter().flatten();
    nodes.filter(|found| found["name"] == node).any(|found| found["voter"] == true)
}

fn notes(status: &Value) -> String {
    status["notes"].to_string()
}

#[test]
fn volume_full() {
    if !is_root() {
        return skip("volume_full", "mounting a small volume needs root");
    }
    let mut cluster = Cluster::set(11, standard);
    let store = cluster.place.state("n3").join("store");
    cluster.mount_small(&store, 160);
    cluster.start_agents(&NODES);
    cluster.wait_healthy(&NODES);

    let filler = store.join("filler");
    let filled = std::process::Command::new("dd")
        .args(["if=/dev/zero", &format!("of={}", filler.display()), "bs=1M"])
        .stderr(std::process::Stdio::null())
        .status();
    assert!(!filled.expect("dd runs").success(), "the volume is full");
    let status = cluster.wait_status("n3", "its voter is shut", |status| notes(status).contains("voter is shut"));
    assert_eq!(status["quorum"], true, "{status:#}");
    // The agent goes on with the other voters: it reads, it changes, it serves.
    let moved = cluster.ask("n3", &["switchover", "listen.front", "--to", "n3"]);
    assert_eq!(moved.code, 0, "{moved:?}");
    assert_ne!(cluster.status("n1")["health"], "outage");

    std::fs::remove_file(&filler).expect("the filler goes");
    cluster.wait_status("n3", "its voter is open again", |status| {
        !notes(status).contains("voter") && status["health"] == "healthy"
    });
    cluster.wait_healthy(&NODES);
}

#[test]
fn store_lost_and_damaged() {
    let mut cluster = Cluster::start(17, standard);
    let state = cluster.place.state("n3");
    let store = state.join("store");

    // Gone, and the marker beside it says that this node had voted.
    cluster.kill_agent("n3");
    std::fs::remove_dir_all(&store).expect("the store goes");
    assert!(state.join("joined.json").exists());
    cluster.start_agent("n3", &[]);
    let status = cluster.wait_status("n3", "it does not vote", |status| notes(status).contains("does not vote"));
    assert!(notes(&status).contains("--rejoin"), "the way back is named: {status:#}");
    cluster.wait_status("n3", "the agent works without a voter", |status| {
        status["quorum"] == true && status["health"] != "outage"
    });
    rejoin(&mut cluster, "n3");

    // Damaged in the middle.
    cluster.kill_agent("n3");
    damage(&store.join("raft.redb"));
    cluster.start_agent("n3", &[]);
    let status = cluster.wait_status("n3", "it does not vote", |status| notes(status).contains("does not vote"));
    assert!(notes(&status).contains("damaged") && notes(&status).contains("--rejoin"), "{status:#}");
    rejoin(&mut cluster, "n3");
}

/// Brings the node's voter back under a new id, and shows that it stays.
fn rejoin(cluster: &mut Cluster, node: &str) {
    let begun = boottime_ns();
    cluster.kill_agent(node);
    cluster.start_agent(node, &["--rejoin"]);
    let well = |status: &Value| votes(status, node) && !notes(status).contains("vote") && status["health"] == "healthy";
    cluster.wait_status(node, "it votes again", well);
    figure("rejoin_ms", ms_between(begun, boottime_ns()));
    cluster.wait_status("n1", "the others see it vote", well);
    cluster.kill_agent(node);
    cluster.start_agent(node, &[]);
    cluster.wait_status(node, "it votes after a restart", well);
    cluster.wait_healthy(&NODES);
}

fn damage(file: &Path) {
    let mut bytes = std::fs::read(file).expect("the store's file");
    for byte in &mut bytes {
        *byte ^= 0x5a;
    }
    std::fs::write(file, bytes).expect("the store's file");
}

/// Writers swap the adopted file on the hash of the one before while agents are killed at random. What was acknowledged is
/// never lost: the chain of adopted files only grows.
#[test]
fn nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(10, standard);
    let first = standard(&cluster.place);
    let path = cluster.place.dir.join("next.toml").display().to_string();
    // The first line of the adopted text, by a node's agent.
    let label = |cluster: &Cluster, node: &str| {
        let text = cluster.request(node, "GET", "/config", &Value::Null)?.1["text"].as_str()?.to_owned();
        text.lines().next().map(str::to_owned)
    };
    let begun = boottime_ns();
    let mut seed = begun | 1;
    let mut pick = move |of: u64| {
        // xorshift64: which node and when need not be good randomness.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % of) as usize
    };
    let (mut acknowledged, mut unknown, mut refused) = (0_u32, 0_u32, 0_u32);
    // What may be adopted: the last that was acknowledged, and what was unknown after it.
    let mut newest = vec![first.lines().next().unwrap_or_default().to_owned()];
    for round in 0..ROUNDS {
        let victim = NODES[pick(3)];
        let asked = NODES[(NODES.iter().position(|node| *node == victim).unwrap_or(0) + 1 + pick(2)) % 3];
        // A few swaps; the kill falls between or into them.
        let kill_at = pick(3);
        for write in 0..3 {
            let name = format!("# {round}.{write}");
            std::fs::write(&path, format!("{name}\n{first}")).unwrap();
            if write == kill_at {
                cluster.strike(
                    victim,
                    &[crate::rig::processes::Kind::Parent, crate::rig::processes::Kind::Worker],
                    rustix::process::Signal::KILL,
                );
            }
            let applied = cluster.ask(asked, &["config", "apply", "--yes", "-c", &path]);
            match applied.code {
                0 => {
                    acknowledged += 1;
                    newest = vec![name];
                }
                // It may have happened, now or a little later: either may be found from here on.
                6 => {
                    unknown += 1;
                    newest.push(name);
                }
                1 | 4 | 5 => refused += 1,
                other => panic!("exit {other}: {applied:?}"),
            }
        }
        cluster.kill_agent(victim);
        cluster.start_agent(victim, &[]);
        // Every node comes to read what was acknowledged last, or what was unknown after it.
        let known = wait_for(crate::rig::GENEROUS, || {
            let seen = NODES.map(|node| label(&cluster, node));
            let agree = seen[0].is_some() && seen.iter().all(|label| *label == seen[0]);
            seen[0].clone().filter(|_| agree)
        });
        let known = known.expect("all nodes read the same file");
        assert!(newest.contains(&known), "round {round}: `{known}` is adopted, but only {newest:?} may be");
        newest = vec![known];
        assert!(ms_between(begun, boottime_ns()) < ROUNDS_WITHIN_MS, "{round} rounds took too long");
    }
    figure("store_rounds.acknowledged", acknowledged);
    figure("store_rounds.unknown", unknown);
    figure("store_rounds.refused", refused);
    figure("store_rounds_ms", ms_between(begun, boottime_ns()));
    assert!(acknowledged > ROUNDS, "only {acknowledged} swaps were acknowledged");
    cluster.wait_healthy(&NODES);
    cluster.place.journal().assert_one_at_a_time();
    assert_eq!(cluster.place.journal().tenures().len(), 1, "killed agents end no program");
}
