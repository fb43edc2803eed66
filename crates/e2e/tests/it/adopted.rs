//! S14: the file bootstraps, the adopted one rules.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::rig::cluster::{NODES, service_in};
use crate::rig::{Cluster, GENEROUS, load, standard, wait};

fn notes(status: &Value) -> String {
    status["notes"].to_string()
}

#[test]
fn config_apply() {
    let mut cluster = Cluster::start(8, standard);
    let place = cluster.place.clone();
    let path = |name: &str| place.dir.join(name).display().to_string();
    let first = standard(&place);
    let adopted = |cluster: &Cluster| {
        cluster.ask("n2", &["config", "diff", "-c", &path("backstay.toml")]).json["adopted_hash"].clone()
    };
    let hash = adopted(&cluster);
    assert!(hash.is_string());

    // Broken: every place by line and column, and nothing changes.
    std::fs::write(path("broken.toml"), format!("{first}\n[app.web2]\nneeed = 2\n")).unwrap();
    let broken = cluster.ask("n1", &["config", "apply", "--yes", "-c", &path("broken.toml")]);
    assert_eq!(broken.code, 2, "{broken:?}");
    assert!(broken.stderr.contains("broken.toml:"), "{broken:?}");
    assert_eq!(adopted(&cluster), hash);

    // Over another file than the adopted one.
    let body = json!({ "text": format!("# another\n{first}"), "expected_hash": "0000" });
    let (status, answer) = cluster.request("n1", "POST", "/config/apply", &body).expect("an answer");
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("hash-moved")), "{answer}");
    assert_eq!(adopted(&cluster), hash);

    // One more program and a listener for it.
    let run = place.program("");
    let more = format!(
        "{first}[app.extra]\ncheck = \"GET /\"\n{run}[listen.more]\nextra = {{ port = {}, to = \"app.extra\", proto = \"http\" }}\n",
        place.extra
    );
    std::fs::write(path("more.toml"), &more).unwrap();
    let applied = cluster.ask("n3", &["config", "apply", "--yes", "-c", &path("more.toml")]);
    assert_eq!(applied.code, 0, "{applied:?}");
    assert_eq!(applied.json["adopted"], true, "{applied:?}");
    assert_ne!(adopted(&cluster), hash);
    for (number, node) in (1..).zip(NODES) {
        let address = SocketAddr::new(place.addr(number), place.extra);
        wait("the new listener answers", GENEROUS, || load::get(address).ok());
        cluster.wait_status(node, "it serves, and its file is not the adopted one", |status| {
            status["health"] == "healthy" && notes(status).contains(&format!("the file on {node}"))
        });
    }

    // Told again with the very same, nothing is to be done.
    let again = cluster.ask("n1", &["config", "apply", "--yes", "-c", &path("more.toml")]);
    assert_eq!(again.code, 0, "{again:?}");

    // A node that is started with another file says so and changes nothing.
    std::fs::write(place.file(), format!("{first}[app.odd]\n{run}")).unwrap();
    cluster.kill_agent("n3");
    cluster.start_agent("n3", &[]);
    cluster.wait_healthy(&NODES);
    let status =
        cluster.wait_status("n1", "n3 says that its file differs", |status| notes(status).contains("the file on n3"));
    assert!(service_in(&status, "app.odd").is_none(), "{status:#}");
    assert!(service_in(&status, "app.extra").is_some(), "{status:#}");

    // What is taken out of the file ends everywhere.
    std::fs::write(path("less.toml"), &first).unwrap();
    let applied = cluster.ask("n2", &["config", "apply", "--yes", "-c", &path("less.toml")]);
    assert_eq!(applied.code, 0, "{applied:?}");
    assert_eq!(adopted(&cluster), hash, "the same bytes have the same hash");
    for (number, node) in (1..).zip(NODES) {
        let address = SocketAddr::new(place.addr(number), place.extra);
        wait("the listener is gone", GENEROUS, || load::get(address).is_err().then_some(()));
        let guard = place.state(node).join("guards/app.extra/guard.json");
        wait("the program is gone", GENEROUS, || (!guard.exists()).then_some(()));
    }
    cluster.wait_healthy(&NODES);
}
