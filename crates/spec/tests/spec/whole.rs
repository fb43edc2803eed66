//! Whole files: what is accepted, what it means, and what follows from it.

use std::net::IpAddr;
use std::time::Duration;

use backstay_model::{DomainLevel, NodeName, ServiceId};
use backstay_spec::{
    Change, CheckKind, FILE_BYTES_MAX, Failback, MaxLoss, Mode, NodeByAddrError, Proto, Redundancy, Severity,
    SpareKind, Spec, Target, Workload, diff, fmt, hash, not_in_this_build, parse, reference_markdown, render, schema,
};

pub const SHOP: &str = include_str!("../../../../examples/shop.toml");
pub const DEMO: &str = include_str!("../../../../examples/demo.toml");

fn good(text: &str) -> Spec {
    let parsed = parse("test.toml", text);
    parsed.spec.unwrap_or_else(|| panic!("{}", render("test.toml", text, &parsed.diagnostics)))
}

/// A file with one line for each node, as `name keys`.
fn with_nodes(nodes: &[&str]) -> Spec {
    let lines = nodes.iter().enumerate().map(|(at, node)| {
        let (name, keys) = node.split_once(' ').unwrap_or((node, ""));
        let comma = if keys.is_empty() { "" } else { ", " };
        format!("{name} = {{ addr = \"10.0.0.{}\"{comma}{keys} }}\n", at + 1)
    });
    good(&format!("cluster = \"c\"\n[nodes]\n{}", lines.collect::<String>()))
}

fn voters(nodes: &[&str]) -> String {
    let voters = with_nodes(nodes).voters();
    voters.iter().map(NodeName::as_str).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_file_of_the_shop_is_taken_as_it_is() {
    let parsed = parse("shop.toml", SHOP);
    assert_eq!(parsed.diagnostics, []);
    let spec = parsed.spec.unwrap();
    assert_eq!(spec.cluster, "shop");
    assert_eq!(spec.goal.survive, DomainLevel::Node);
    assert_eq!(spec.goal.max_outage, Duration::from_secs(10));
    assert_eq!(spec.goal.max_loss, MaxLoss::Zero);
    let web = &spec.services[&ServiceId::app("web")];
    assert_eq!(
        (web.need, web.redundancy, web.mode, web.spare),
        (2, Redundancy::NPlus1, Mode::ActivePassive, SpareKind::Hot)
    );
    assert_eq!(web.prefer, [NodeName::from("db1"), NodeName::from("db2")]);
    let Workload::App(app) = &web.workload else { panic!("web is a program") };
    assert_eq!(app.port, Some(3000));
    assert_eq!(app.check.as_ref().unwrap().kind, CheckKind::Http("/up".to_owned()));
    let main = &spec.services[&"postgres.main".parse().unwrap()];
    assert!(main.exclusive);
    assert_eq!(main.instances_wanted(), 3);
    let read = &spec.listeners[&"db".into()].entries["read"];
    assert_eq!((read.proto, read.port), (Proto::Tcp, 5001));
    assert_eq!(read.to, Target::Standbys("postgres.main".parse().unwrap()));
    assert_eq!(spec.listeners[&"web".into()].entries["http"].proto, Proto::Http);
    assert_eq!(spec.backups["main"].prove, Some(Duration::from_secs(7 * 86_400)));
}

#[test]
fn the_demo_runs_on_this_build() {
    let parsed = parse("demo.toml", DEMO);
    assert_eq!(parsed.diagnostics, []);
    assert_eq!(not_in_this_build("demo.toml", DEMO, &parsed.spec.unwrap()), []);
}

#[test]
fn what_is_not_said_is_the_documented_default() {
    let spec = good(
        "cluster = \"c\"\n[goal]\nsurvive = \"rack\"\n[nodes]\na = { addr = \"::1\", rack = \"1\" }\nb = { addr = \"::2\", rack = \"2\" }\n\
         [app.web]\nrun = [\"/web\"]\ncheck = \"tcp\"\n[app.cron]\nrun = [\"/cron\"]\nexclusive = true\n\
         [listen.web]\nhttp = { to = \"app.web\" }\nother = { port = 9, to = \"app.cron\" }\n",
    );
    assert_eq!(spec.goal.max_outage, Duration::from_secs(30));
    assert_eq!(spec.ports.peer, 8007);
    let web = &spec.services[&ServiceId::app("web")];
    assert_eq!(
        (web.need, web.redundancy, web.mode, web.spare),
        (1, Redundancy::NPlus1, Mode::ActivePassive, SpareKind::Hot)
    );
    assert_eq!((web.spread, web.exclusive, web.slots, web.failback), (DomainLevel::Rack, false, 1, Failback::Auto));
    assert_eq!(web.steady, Duration::from_secs(30));
    let Workload::App(app) = &web.workload else { panic!("web is a program") };
    assert_eq!((app.stop.as_str(), app.grace), ("SIGTERM", Duration::from_secs(10)));
    let check = app.check.as_ref().unwrap();
    assert_eq!(
        (check.every, check.timeout, check.rise, check.fall),
        (Duration::from_secs(1), Duration::from_secs(1), 2, 3)
    );
    assert_eq!(spec.services[&ServiceId::app("cron")].spare, SpareKind::Cold);
    let entries = &spec.listeners[&"web".into()].entries;
    assert_eq!((entries["http"].port, entries["http"].proto, entries["http"].tls), (80, Proto::Http, false));
    assert_eq!(entries["other"].proto, Proto::Tcp);
}

#[test]
fn voters_are_few_odd_and_apart() {
    assert_eq!(voters(&["a"]), "a");
    assert_eq!(voters(&["a", "b"]), "a");
    assert_eq!(voters(&["a", "b", "c"]), "a b c");
    assert_eq!(voters(&["a", "b", "c", "d"]), "a b c");
    assert_eq!(voters(&["a", "b", "c", "d", "e", "f"]), "a b c d e");
    assert_eq!(voters(&["a rack = \"1\"", "b rack = \"1\"", "c rack = \"2\"", "d rack = \"3\""]), "a c d");
    assert_eq!(voters(&["a site = \"x\"", "b site = \"x\"", "c site = \"x\"", "d site = \"y\""]), "a b d");
    assert_eq!(voters(&["a", "b", "c", "d", "w witness = true"]), "a b c d w");
    assert_eq!(voters(&["a", "b", "c", "w witness = true"]), "a b w");
    assert_eq!(voters(&["a voter = false", "b", "c", "d"]), "b c d");
    assert_eq!(voters(&["a voter = false", "b", "c"]), "b");
    assert_eq!(voters(&["a", "b", "c", "d voter = true"]), "a b d");
}

#[test]
fn domains_follow_racks_and_sites() {
    let spec = with_nodes(&[
        "a rack = \"1\", site = \"x\"",
        "b rack = \"1\", site = \"y\"",
        "c site = \"y\"",
        "d",
        "w witness = true",
    ]);
    let rack = |name: &str| spec.rack_of(&name.into());
    assert_eq!((rack("a"), rack("b")), ("x/1".to_owned(), "y/1".to_owned()));
    assert_eq!((rack("c"), rack("d")), ("c".to_owned(), "d".to_owned()));
    assert_eq!(spec.site_of(&"c".into()), "y");
    assert_eq!(spec.site_of(&"d".into()), spec.site_of(&"w".into()));
    assert_eq!(spec.domains(DomainLevel::Node).len(), 4, "a witness holds nothing");
    assert_eq!(spec.domains(DomainLevel::Site)["y"], [NodeName::from("b"), NodeName::from("c")]);
}

#[test]
fn a_node_knows_itself_by_its_address() {
    let spec = with_nodes(&["a", "b"]);
    let addrs = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
    assert_eq!(spec.node_by_addr(&addrs(&["127.0.0.1", "10.0.0.2"])), Ok(&"b".into()));
    assert_eq!(spec.node_by_addr(&addrs(&["127.0.0.1"])), Err(NodeByAddrError::NoMatch));
    let both = spec.node_by_addr(&addrs(&["10.0.0.1", "10.0.0.2"]));
    assert_eq!(both, Err(NodeByAddrError::Several(vec!["a".into(), "b".into()])));
}

#[test]
fn models_are_counts() {
    for (model, wanted) in [("N", 2), ("N+1", 3), ("N+2", 4), ("2N", 4), ("2N+1", 5)] {
        let text = format!(
            "cluster = \"c\"\n[nodes]\na = {{ addr = \"::1\" }}\nb = {{ addr = \"::2\" }}\n[app.web]\nrun = [\"/web\"]\nneed = 2\nredundancy = \"{model}\"\n"
        );
        let spec = good(&text);
        assert_eq!(spec.services[&ServiceId::app("web")].instances_wanted(), wanted, "{model}");
    }
}

#[test]
fn differences_are_told_by_meaning() {
    let old = good(DEMO);
    assert_eq!(diff(&old, &good(&fmt(&format!("# new\n\n\n{DEMO}")).unwrap())), []);
    let new = DEMO
        .replace("need       = 2", "need = 1")
        .replace("n3 = { addr = \"127.0.1.3\" }", "n4 = { addr = \"127.0.1.4\" }");
    let changes = diff(&old, &good(&new));
    let change = |path: &str, from: Option<&str>, to: Option<&str>| Change {
        path: path.to_owned(),
        from: from.map(str::to_owned),
        to: to.map(str::to_owned),
    };
    assert_eq!(
        changes,
        [
            change("app.web.need", Some("2"), Some("1")),
            change("nodes.n3", Some("{ addr = \"127.0.1.3\" }"), None),
            change("nodes.n4", None, Some("{ addr = \"127.0.1.4\" }")),
        ]
    );
}

#[test]
fn layout_keeps_every_value_and_comment() {
    let messy = "# top\ncluster=\"c\"   # name\n\n\n\n[nodes] # machines\n  a={addr=\"10.0.0.1\"}#first\nlonger   = { addr = \"10.0.0.2\" }\n[app.web]\nrun = [\n  \"/web\", # why\n  \"#=\",\n]\n'need' = 1   \n\n";
    let neat = "# top\ncluster = \"c\"                         # name\n\n[nodes]                               # machines\na      = {addr=\"10.0.0.1\"}            #first\nlonger = { addr = \"10.0.0.2\" }\n\n[app.web]\nrun    = [\n  \"/web\", # why\n  \"#=\",\n]\n'need' = 1\n";
    assert_eq!(fmt(messy).unwrap(), neat);
    for text in [neat, SHOP, DEMO, ""] {
        assert_eq!(fmt(text).unwrap(), text, "what is neat stays");
    }
    let errors = fmt("a = = 1\n").unwrap_err();
    assert_eq!((errors[0].line, errors[0].code.as_str()), (1, "syntax"));
}

#[test]
fn diagnostics_serialise_as_promised() {
    let parsed = parse("f.toml", "cluster = \"c\"\nnods = 1\n");
    // `nods` is taken for `nodes`, so that nothing is said to be missing.
    let expected = serde_json::json!([{
        "file": "f.toml", "line": 2, "column": 1, "code": "unknown-key",
        "message": "unknown key `nods`", "help": "did you mean `nodes`?",
    }]);
    assert_eq!(serde_json::to_value(&parsed.diagnostics).unwrap(), expected);
}

#[test]
fn columns_count_characters_and_control_characters_stay_out() {
    let parsed = parse("f.toml", "cluster = \"c\"\nnodes = { \"é\" = 1, \"\\u001b[31m\" = 2 }\n");
    let diagnostic = parsed.errors().find(|d| d.message.contains("é")).unwrap();
    assert_eq!((diagnostic.line, diagnostic.column, diagnostic.end_column), (2, 17, 18));
    assert!(parsed.diagnostics.iter().all(|d| !d.message.contains('\u{1b}')));
    assert!(!render("f.toml", "", &parsed.diagnostics).is_empty(), "another text than was parsed must not matter");
}

#[test]
fn lines_may_end_as_on_another_system() {
    let crlf = SHOP.replace('\n', "\r\n");
    assert_eq!(parse("f.toml", &crlf).diagnostics, []);
    assert_eq!(fmt(&crlf).unwrap(), SHOP);
    let text = "cluster = \"c\r\nnodes = 1\r\n";
    let parsed = parse("f.toml", text);
    assert!(parsed.errors().any(|d| d.line == 1 && d.code == "syntax"));
    assert!(!render("f.toml", text, &parsed.diagnostics).contains('\r'));
}

#[test]
fn a_flood_is_cut_and_a_huge_file_is_refused() {
    let flood = (0..5_000).map(|at| format!("k{at} = 1\n")).collect::<String>();
    let parsed = parse("f.toml", &flood);
    assert_eq!(parsed.diagnostics.len(), backstay_spec::DIAGNOSTICS_MAX);
    let last = parsed.diagnostics.last().unwrap();
    assert_eq!((last.code.as_str(), last.severity), ("too-many", Severity::Error));
    let nodes = (0..5_000).map(|at| format!("n{at} = {{ addr = \"10.0.0.1\" }}\n")).collect::<String>();
    let parsed = parse("f.toml", &format!("cluster = \"c\"\n[nodes]\n{nodes}"));
    assert!(parsed.errors().any(|d| d.code == "too-many" && d.line == 2));
    let huge = parse("f.toml", &"#".repeat(FILE_BYTES_MAX + 1));
    assert_eq!(huge.diagnostics[0].code, "too-large");
    assert!(huge.spec.is_none());
}

#[test]
fn the_hash_is_fnv_1a() {
    assert_eq!(hash(""), "6c62272e07bb014262b821756295c58d");
    assert_eq!(hash("a"), "d228cb696f1a8caf78912b704e4a8964");
}

#[test]
fn schema_and_reference_name_every_key() {
    let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
    let app = &schema["properties"]["app"]["additionalProperties"];
    assert_eq!(app["properties"]["redundancy"]["default"], "N+1");
    assert_eq!(app["additionalProperties"], false);
    assert_eq!(schema["properties"]["nodes"]["additionalProperties"]["required"], serde_json::json!(["addr"]));
    let page = reference_markdown();
    for name in ["`survive`", "`witness`", "`exclusive`", "`encrypt_to`", "`max_lag`", "`degrade`", "`peer`", "`fall`"]
    {
        assert!(page.contains(name), "{name}");
    }
}

/// The reference is written from the parser's own table of keys: `BACKSTAY_BLESS=1` writes it anew.
#[test]
fn the_reference_is_fresh() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/config.md");
    let text = reference_markdown();
    if std::env::var_os("BACKSTAY_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap();
    assert!(written == text, "docs/reference/config.md is stale: run BACKSTAY_BLESS=1 cargo test -p backstay-spec");
}
