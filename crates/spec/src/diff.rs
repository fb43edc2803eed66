//! What changes from one file to another, by meaning: layout and comments do not count, defaults do.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::types::*;
use crate::units::duration_text;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What it is about: `app.web.need`, or `nodes.db4` for a whole table that comes or goes.
    pub path: String,
    /// What held before; nothing when it is new.
    pub from: Option<String>,
    /// What holds then; nothing when it is gone.
    pub to: Option<String>,
}

/// Values of one table, as the file would write them.
type Flat = BTreeMap<&'static str, String>;

/// Every difference between two files, by path.
pub fn diff(old: &Spec, new: &Spec) -> Vec<Change> {
    let (old, new) = (flatten(old), flatten(new));
    let tables: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut changes = Vec::new();
    for table in tables {
        match (old.get(table), new.get(table)) {
            (Some(from), Some(to)) => changes.extend(diff_table(table, from, to)),
            (from, to) => changes.push(Change { path: table.clone(), from: from.map(inline), to: to.map(inline) }),
        }
    }
    changes
}

fn diff_table(table: &str, old: &Flat, new: &Flat) -> Vec<Change> {
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    keys.into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| Change {
            path: if table.is_empty() { (*key).to_owned() } else { format!("{table}.{key}") },
            from: old.get(key).cloned(),
            to: new.get(key).cloned(),
        })
        .collect()
}

fn inline(flat: &Flat) -> String {
    let parts: Vec<_> = flat.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    format!("{{ {} }}", parts.join(", "))
}

fn flatten(spec: &Spec) -> BTreeMap<String, Flat> {
    let mut tables = BTreeMap::new();
    tables.insert(
        String::new(),
        Flat::from([("cluster", quoted(&spec.cluster)), ("store", quoted(&spec.store.to_string()))]),
    );
    tables.insert("ports".to_owned(), Flat::from([("peer", spec.ports.peer.to_string())]));
    let goal = Flat::from([
        ("survive", quoted(&spec.goal.survive.to_string())),
        ("max_outage", duration(spec.goal.max_outage)),
        ("max_loss", quoted(&spec.goal.max_loss.to_string())),
    ]);
    tables.insert("goal".to_owned(), goal);
    tables.insert("rates".to_owned(), flat_rates(&spec.rates));
    if let Some(prices) = &spec.prices {
        tables.insert("prices".to_owned(), flat_prices(prices));
    }
    for (name, node) in &spec.nodes {
        tables.insert(format!("nodes.{name}"), flat_node(node));
    }
    for (id, service) in &spec.services {
        tables.insert(id.to_string(), flat_service(service));
    }
    for (name, listener) in &spec.listeners {
        let mut flat = Flat::new();
        put(&mut flat, "vip", listener.vip.map(|vip| quoted(&vip.to_string())));
        tables.insert(format!("listen.{name}"), flat);
        for (entry, entry_spec) in &listener.entries {
            tables.insert(format!("listen.{name}.{entry}"), flat_entry(entry_spec));
        }
    }
    for (name, backup) in &spec.backups {
        tables.insert(format!("backup.{name}"), flat_backup(backup));
    }
    tables
}

fn flat_rates(rates: &RatesSpec) -> Flat {
    let mut flat =
        Flat::from([("drills", rates.drills.to_string()), ("drills_failed", rates.drills_failed.to_string())]);
    for (key, rate) in [("instance", rates.instance), ("node", rates.node), ("rack", rates.rack), ("site", rates.site)]
    {
        let stated = [("mttf", rate.mttf), ("mttr", rate.mttr)];
        let stated = stated.into_iter().filter_map(|(part, value)| Some(format!("{part} = {}", duration(value?))));
        let stated: Vec<_> = stated.collect();
        put(&mut flat, key, (!stated.is_empty()).then(|| format!("{{ {} }}", stated.join(", "))));
    }
    flat
}

fn flat_prices(prices: &PricesSpec) -> Flat {
    Flat::from([
        ("currency", quoted(&prices.currency)),
        ("instance", prices.instance.to_string()),
        ("node", prices.node.to_string()),
        ("rack", prices.rack.to_string()),
        ("site", prices.site.to_string()),
        ("outage", prices.outage.to_string()),
        ("outage_hour", prices.outage_hour.to_string()),
    ])
}

fn flat_node(node: &NodeSpec) -> Flat {
    let mut flat = Flat::from([("addr", quoted(&node.addr.to_string()))]);
    put(&mut flat, "rack", node.rack.as_deref().map(quoted));
    put(&mut flat, "site", node.site.as_deref().map(quoted));
    put(&mut flat, "voter", node.voter.map(|voter| voter.to_string()));
    put(&mut flat, "witness", node.witness.then(|| "true".to_owned()));
    put(&mut flat, "slots", node.slots.map(|slots| slots.to_string()));
    put(&mut flat, "no_primary", node.postgres.no_primary.then(|| "true".to_owned()));
    put(&mut flat, "no_reads", node.postgres.no_reads.then(|| "true".to_owned()));
    put(&mut flat, "priority", node.postgres.priority.map(|priority| priority.to_string()));
    put(&mut flat, "delay", node.postgres.delay.map(duration));
    flat
}

fn flat_service(service: &ServiceSpec) -> Flat {
    let mut flat = Flat::from([
        ("need", service.need.to_string()),
        ("redundancy", quoted(&service.redundancy.to_string())),
        ("mode", quoted(&service.mode.to_string())),
        ("spare", quoted(&service.spare.to_string())),
        ("spread", quoted(&service.spread.to_string())),
        ("exclusive", service.exclusive.to_string()),
        ("slots", service.slots.to_string()),
        ("failback", quoted(&service.failback.to_string())),
        ("steady", duration(service.steady)),
    ]);
    let prefer: Vec<_> = service.prefer.iter().map(ToString::to_string).collect();
    put(&mut flat, "prefer", some_list(&prefer));
    put(&mut flat, "sites", some_list(&service.sites));
    match &service.workload {
        Workload::App(app) => flat_app(&mut flat, app),
        Workload::Postgres(postgres) => flat_postgres(&mut flat, postgres),
    }
    flat
}

fn flat_app(flat: &mut Flat, app: &AppSpec) {
    match &app.run {
        RunSpec::Argv(argv) => flat.insert("run", list(argv)),
        RunSpec::Unit(unit) => flat.insert("unit", quoted(unit)),
    };
    put(flat, "port", app.port.map(|port| port.to_string()));
    put(flat, "check", app.check.as_ref().map(check_text));
    put(flat, "env", some_map(&app.env));
    put(flat, "user", app.user.as_deref().map(quoted));
    put(flat, "cwd", app.cwd.as_deref().map(quoted));
    flat.insert("stop", quoted(&app.stop));
    flat.insert("grace", duration(app.grace));
}

fn check_text(check: &CheckSpec) -> String {
    match &check.kind {
        CheckKind::Http(path) => quoted(&format!("GET {path}")),
        CheckKind::Tcp => quoted("tcp"),
        CheckKind::Run(argv) => format!(
            "{{ run = {}, every = {}, timeout = {}, rise = {}, fall = {} }}",
            list(argv),
            duration(check.every),
            duration(check.timeout),
            check.rise,
            check.fall
        ),
    }
}

fn flat_postgres(flat: &mut Flat, postgres: &PostgresSpec) {
    put(flat, "version", postgres.version.map(|version| version.to_string()));
    flat.insert("port", postgres.port.to_string());
    put(flat, "data", postgres.data.as_deref().map(quoted));
    put(flat, "bin", postgres.bin.as_deref().map(quoted));
    put(flat, "sync", postgres.sync.map(|sync| sync.to_string()));
    flat.insert("degrade", quoted(&postgres.degrade.to_string()));
    put(flat, "parameters", some_map(&postgres.parameters));
    put(flat, "clients", some_list(&postgres.clients));
    put(flat, "databases", some_list(&postgres.databases));
    let users =
        postgres.users.iter().map(|(name, secret)| (name.clone(), secret.clone().unwrap_or_default())).collect();
    put(flat, "users", some_map(&users));
}

fn flat_entry(entry: &EntrySpec) -> Flat {
    let mut flat = Flat::from([
        ("port", entry.port.to_string()),
        ("proto", quoted(&entry.proto.to_string())),
        ("to", quoted(&entry.to.to_string())),
        ("tls", entry.tls.to_string()),
    ]);
    put(&mut flat, "max_lag", entry.max_lag.map(duration));
    flat
}

fn flat_backup(backup: &BackupSpec) -> Flat {
    let mut flat = Flat::from([
        ("of", quoted(&backup.of)),
        ("to", quoted(&backup.to)),
        ("every", duration(backup.every)),
        ("keep", duration(backup.keep)),
    ]);
    let on: Vec<_> = backup.on.iter().map(ToString::to_string).collect();
    put(&mut flat, "on", some_list(&on));
    put(&mut flat, "credentials", backup.credentials.as_deref().map(quoted));
    put(&mut flat, "prove", backup.prove.map(duration));
    put(&mut flat, "encrypt_to", some_list(&backup.encrypt_to));
    put(&mut flat, "key", backup.key.as_deref().map(quoted));
    flat
}

fn put(flat: &mut Flat, key: &'static str, value: Option<String>) {
    if let Some(value) = value {
        flat.insert(key, value);
    }
}

/// TOML's basic strings escape what Rust's debug form escapes, in the same way for all that a config file holds.
fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn duration(duration: std::time::Duration) -> String {
    quoted(&duration_text(duration))
}

fn list(items: &[String]) -> String {
    let items: Vec<_> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}

fn some_list(items: &[String]) -> Option<String> {
    (!items.is_empty()).then(|| list(items))
}

fn some_map(map: &BTreeMap<String, String>) -> Option<String> {
    let parts: Vec<_> = map.iter().map(|(key, value)| format!("{key} = {}", quoted(value))).collect();
    (!parts.is_empty()).then(|| format!("{{ {} }}", parts.join(", ")))
}
