//! What is wrong is named before anything is touched: file, line and column, who holds a port, what to do.

use std::net::{SocketAddr, TcpListener};

use crate::rig::cluster::{NODES, Ran};
use crate::rig::processes::Kind;
use crate::rig::{Cluster, standard};

fn assert_says(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, code, "{ran:?}");
    for word in words {
        assert!(ran.stderr.contains(word), "`{word}` is missing: {}", ran.stderr);
    }
}

#[test]
fn a_file_that_is_wrong() {
    let cluster = Cluster::set(9, standard);
    let write = |name: &str, text: &str| {
        let path = cluster.place.dir.join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let state = cluster.place.state("n1").display().to_string();
    let file = standard(&cluster.place);

    let broken = write("broken.toml", &file.replace("need = 2", "neeed = 2"));
    let checked = cluster.run(&["config", "check", &broken, "--json"]);
    assert_eq!((checked.code, &checked.json["ok"]), (2, &false.into()), "{checked:?}");
    let error = &checked.json["errors"][0];
    assert!(error["line"].as_u64().is_some_and(|line| line > 1) && error["column"] == 1, "{error}");
    let line = format!("broken.toml:{}:1", error["line"]);
    assert_says(&cluster.refused_agent(&["-c", &broken, "--node", "n1", "--state", &state]), 2, &[&line, "neeed"]);

    let beyond = write("beyond.toml", &format!("{file}[postgres.main]\nredundancy = \"N+1\"\n"));
    let refused = cluster.refused_agent(&["-c", &beyond, "--node", "n1", "--state", &state]);
    assert_says(&refused, 2, &["postgres.main", "not in this build"]);

    // Whose addresses are these?
    let elsewhere = (1..=3).fold(file.clone(), |text, number| {
        text.replace(&format!("\"{}\"", cluster.place.addr(number)), &format!("\"198.51.100.{number}\""))
    });
    let elsewhere = write("elsewhere.toml", &elsewhere);
    let refused = cluster.refused_agent(&["-c", &elsewhere, "--state", &state]);
    assert_says(&refused, 2, &["127.0.0.1", "--node"]);
    let refused = cluster.refused_agent(&["-c", &elsewhere, "--node", "n9", "--state", &state]);
    assert_says(&refused, 2, &["n9", "n1, n2, n3"]);
    assert!(!cluster.place.state("n1").join("store").exists(), "nothing was touched");
}

#[test]
fn a_machine_that_is_wrong() {
    let mut cluster = Cluster::set(15, standard);
    let place = cluster.place.clone();
    let file = place.file().display().to_string();
    let state = |node: &str| place.state(node).display().to_string();
    let us = format!("pid {}", std::process::id());

    // Somebody else has the agents' port: this very test.
    let busy = TcpListener::bind((place.addr(1), place.peer)).expect("a free port");
    let refused = cluster.refused_agent(&["-c", &file, "--node", "n1", "--state", &state("n1")]);
    assert_says(&refused, 2, &[&us, &place.peer.to_string(), "peer"]);
    drop(busy);

    // No identity, or another's.
    let (own, aside) = (place.state("n2").join("identity"), place.dir.join("aside"));
    std::fs::rename(&own, &aside).expect("a rename");
    let refused = cluster.refused_agent(&["-c", &file, "--node", "n2", "--state", &state("n2")]);
    assert_says(&refused, 2, &["n2/identity", "backstay init"]);
    std::fs::rename(&aside, &own).expect("a rename");

    // A state directory belongs to one node for good.
    cluster.start_agents(&NODES);
    cluster.wait_healthy(&NODES);
    let refused = cluster.refused_agent(&["-c", &file, "--node", "n1", "--state", &state("n1")]);
    let worker = cluster.process("n1", Kind::Worker).pid;
    assert_says(&refused, 2, &[&format!("pid {worker}"), "another agent"]);
    cluster.kill_agent("n1");
    let refused = cluster.refused_agent(&["-c", &file, "--node", "n2", "--state", &state("n1")]);
    assert_says(&refused, 2, &["n1", "n2", "another cluster or node"]);
    let other = place.dir.join("other.toml");
    let text = standard(&place).replace("cluster = \"lab\"", "cluster = \"shop\"");
    std::fs::write(&other, text).expect("a file");
    let other = other.display().to_string();
    let refused = cluster.refused_agent(&["-c", &other, "--node", "n1", "--state", &state("n1")]);
    assert_says(&refused, 2, &["shop", "lab"]);
    let swapped = place.state("n3").join("identity").display().to_string();
    let fresh = place.dir.join("fresh");
    std::fs::create_dir(&fresh).expect("a directory");
    assert!(
        std::process::Command::new("cp")
            .args(["-rp", &swapped])
            .arg(fresh.join("identity"))
            .status()
            .expect("cp")
            .success()
    );
    let refused = cluster.refused_agent(&["-c", &file, "--node", "n1", "--state", &fresh.display().to_string()]);
    assert_says(&refused, 5, &["n3", "n1"]);
    cluster.start_agent("n1", &[]);
    cluster.wait_healthy(&NODES);
}

/// A program's declared port is taken on one node: the others serve, and `status` says who has it.
#[test]
fn a_port_that_is_taken() {
    let mut busy = None;
    let cluster = {
        let mut cluster = Cluster::set(16, |place| {
            busy = Some(TcpListener::bind(SocketAddr::new(place.addr(1), place.extra)).expect("a free port"));
            let web = place.web_app();
            let web = web.replace("need = 2", &format!("need = 2\nport = {}", place.extra));
            [place.head(), web, place.till_app(""), place.listeners()].concat()
        });
        cluster.start_agents(&NODES);
        cluster
    };
    let us = format!("pid {}", std::process::id());
    let status = cluster.wait_status("n2", "who has the port", |status| status["trouble"].to_string().contains(&us));
    assert!(status["trouble"].to_string().contains(&cluster.place.extra.to_string()), "{status:#}");
    drop(busy);
    cluster.wait_healthy(&NODES);
}
