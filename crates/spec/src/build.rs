//! From typed tables to the [`Spec`], every default filled in. Never fails: whatever was refused has been reported, and the
//! result is then thrown away.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use backstay_model::{DomainLevel, ListenerName, NodeName, ServiceId, ServiceKind};

use crate::table::{Named, Table, Typed};
use crate::types::*;

/// The ports that entries called `http` and `https` have without saying so.
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// The whole file as meaning.
pub(crate) fn spec(root: &Table) -> Spec {
    let goal = goal(root.table("goal"));
    let mut services = BTreeMap::new();
    for (kind, key) in [(ServiceKind::App, "app"), (ServiceKind::Postgres, "postgres")] {
        for named in root.named(key) {
            let service = service(kind, named, &goal);
            services.insert(service.id.clone(), service);
        }
    }
    Spec {
        cluster: root.text("cluster").unwrap_or_default(),
        nodes: root
            .named("nodes")
            .iter()
            .map(|named| (NodeName(named.name.text.clone()), node(&named.table)))
            .collect(),
        services,
        listeners: root
            .named("listen")
            .iter()
            .map(|named| (ListenerName(named.name.text.clone()), listener(&named.table)))
            .collect(),
        backups: root.named("backup").iter().map(|named| (named.name.text.clone(), backup(&named.table))).collect(),
        ports: PortsSpec { peer: ports_peer(root) },
        store: match root.text("store") {
            Some(text) => {
                text.strip_prefix("etcd:").map_or(StoreSpec::Embedded, |urls| StoreSpec::Etcd(urls.to_owned()))
            }
            None => StoreSpec::Embedded,
        },
        rates: rates(root),
        prices: root.table("prices").map(prices),
        goal,
    }
}

fn goal(table: Option<&Table>) -> GoalSpec {
    let empty = Table::empty(&crate::keys::GOAL);
    let table = table.unwrap_or(&empty);
    GoalSpec {
        survive: level(table.text("survive").as_deref()).unwrap_or_default(),
        max_outage: table.duration("max_outage").unwrap_or_default(),
        max_loss: match table.entry("max_loss").map(|entry| &entry.value) {
            Some(Typed::Loss(loss)) => *loss,
            _ => MaxLoss::Zero,
        },
    }
}

fn ports_peer(root: &Table) -> u16 {
    let empty = Table::empty(&crate::keys::PORTS);
    root.table("ports").unwrap_or(&empty).port("peer").unwrap_or_default()
}

fn rates(root: &Table) -> RatesSpec {
    let Some(table) = root.table("rates") else { return RatesSpec::default() };
    let rate = |key: &str| {
        let stated = |part: &str| table.table(key).and_then(|rate| rate.duration(part));
        RateSpec { mttf: stated("mttf"), mttr: stated("mttr") }
    };
    RatesSpec {
        instance: rate("instance"),
        node: rate("node"),
        rack: rate("rack"),
        site: rate("site"),
        drills: table.count("drills").unwrap_or_default(),
        drills_failed: table.count("drills_failed").unwrap_or_default(),
    }
}

fn prices(table: &Table) -> PricesSpec {
    let amount = |key: &str| table.count(key).unwrap_or_default();
    PricesSpec {
        currency: table.text("currency").unwrap_or_default(),
        instance: amount("instance"),
        node: amount("node"),
        rack: amount("rack"),
        site: amount("site"),
        outage: amount("outage"),
        outage_hour: amount("outage_hour"),
    }
}

fn level(word: Option<&str>) -> Option<DomainLevel> {
    match word? {
        "node" => Some(DomainLevel::Node),
        "rack" => Some(DomainLevel::Rack),
        "site" => Some(DomainLevel::Site),
        _ => None,
    }
}

fn node(table: &Table) -> NodeSpec {
    NodeSpec {
        addr: match table.entry("addr").map(|entry| &entry.value) {
            Some(Typed::Address(addr)) => *addr,
            _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        },
        rack: table.text("rack"),
        site: table.text("site"),
        voter: table.flag("voter"),
        witness: table.flag("witness").unwrap_or(false),
        slots: table.count("slots"),
        postgres: PostgresTags {
            no_primary: table.flag("no_primary").unwrap_or(false),
            no_reads: table.flag("no_reads").unwrap_or(false),
            priority: table.number("priority"),
            delay: table.duration("delay"),
        },
    }
}

fn service(kind: ServiceKind, named: &Named, goal: &GoalSpec) -> ServiceSpec {
    let table = &named.table;
    // A database has one primary at a time; only programs say so themselves.
    let exclusive = kind == ServiceKind::Postgres || table.flag("exclusive").unwrap_or(false);
    let spare = match table.text("spare").as_deref() {
        Some("warm") => SpareKind::Warm,
        Some("cold") => SpareKind::Cold,
        _ if exclusive && kind == ServiceKind::App && !table.has("spare") => SpareKind::Cold,
        _ => SpareKind::Hot,
    };
    ServiceSpec {
        id: ServiceId { kind, name: named.name.text.clone() },
        need: table.count("need").unwrap_or(1),
        redundancy: match table.text("redundancy").as_deref() {
            Some("N") => Redundancy::N,
            Some("N+2") => Redundancy::NPlus2,
            Some("2N") => Redundancy::TwoN,
            Some("2N+1") => Redundancy::TwoNPlus1,
            _ => Redundancy::NPlus1,
        },
        mode: match table.text("mode").as_deref() {
            Some("active/active") => Mode::ActiveActive,
            _ => Mode::ActivePassive,
        },
        spare,
        spread: level(table.text("spread").as_deref()).unwrap_or(match goal.survive {
            // Inside one site, sites are all the same: there the next lower level that every file has counts.
            DomainLevel::Site if !table.words("sites").is_empty() => DomainLevel::Node,
            survive => survive,
        }),
        exclusive,
        slots: table.count("slots").unwrap_or(1),
        sites: table.texts("sites"),
        prefer: names(table, "prefer"),
        failback: match table.text("failback").as_deref() {
            Some("manual") => Failback::Manual,
            _ => Failback::Auto,
        },
        steady: table.duration("steady").unwrap_or_default(),
        workload: match kind {
            ServiceKind::App => Workload::App(app(table)),
            ServiceKind::Postgres => Workload::Postgres(postgres(table)),
        },
    }
}

fn names(table: &Table, key: &str) -> Vec<NodeName> {
    table.words(key).iter().map(|word| NodeName(word.text.clone())).collect()
}

fn app(table: &Table) -> AppSpec {
    AppSpec {
        run: match table.text("unit") {
            Some(unit) => RunSpec::Unit(unit),
            None => RunSpec::Argv(table.texts("run")),
        },
        port: table.port("port"),
        check: match table.entry("check").map(|entry| &entry.value) {
            Some(Typed::Check(check)) => Some(check.clone()),
            _ => None,
        },
        env: text_map(table, "env"),
        user: table.text("user"),
        cwd: table.text("cwd"),
        stop: table.text("stop").unwrap_or_default(),
        grace: table.duration("grace").unwrap_or_default(),
    }
}

fn text_map(table: &Table, key: &str) -> BTreeMap<String, String> {
    table
        .map(key)
        .iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| (name.text.clone(), value.text.clone())))
        .collect()
}

fn postgres(table: &Table) -> PostgresSpec {
    PostgresSpec {
        version: table.count("version"),
        port: table.port("port").unwrap_or_default(),
        data: table.text("data"),
        bin: table.text("bin"),
        sync: table.count("sync"),
        degrade: match table.text("degrade").as_deref() {
            Some("async") => Degrade::Async,
            _ => Degrade::Wait,
        },
        parameters: text_map(table, "parameters"),
        clients: table.texts("clients"),
        databases: table.texts("databases"),
        users: table
            .map("users")
            .iter()
            .map(|(name, secret)| (name.text.clone(), secret.as_ref().map(|word| word.text.clone())))
            .collect(),
    }
}

fn listener(table: &Table) -> ListenerSpec {
    ListenerSpec {
        vip: match table.entry("vip").map(|entry| &entry.value) {
            Some(Typed::Vip(vip)) => Some(*vip),
            _ => None,
        },
        entries: table.free.iter().map(|named| (named.name.text.clone(), entry(named))).collect(),
    }
}

/// One entry; its name gives the defaults of the two well-known ones.
fn entry(named: &Named) -> EntrySpec {
    let (table, name) = (&named.table, named.name.text.as_str());
    let well_known = match name {
        "http" => Some(HTTP_PORT),
        "https" => Some(HTTPS_PORT),
        _ => None,
    };
    let proto = match table.entry("proto").map(|entry| &entry.value) {
        Some(Typed::Text(word)) if word == "http" => Proto::Http,
        Some(Typed::Text(_)) => Proto::Tcp,
        _ if well_known.is_some() => Proto::Http,
        _ => Proto::Tcp,
    };
    EntrySpec {
        port: table.port("port").or(well_known).unwrap_or_default(),
        proto,
        to: target(&table.text("to").unwrap_or_default()).unwrap_or(Target::Service(ServiceId::app(""))),
        max_lag: table.duration("max_lag"),
        tls: table.flag("tls").unwrap_or(name == "https"),
    }
}

/// Reads a target; nothing when it is not written like one.
pub(crate) fn target(text: &str) -> Option<Target> {
    let parts: Vec<_> = text.split('.').collect();
    match parts[..] {
        ["app", name] if !name.is_empty() => Some(Target::Service(ServiceId::app(name))),
        ["postgres", name, role] if !name.is_empty() => {
            let id = ServiceId { kind: ServiceKind::Postgres, name: name.to_owned() };
            match role {
                "primary" => Some(Target::Primary(id)),
                "standbys" => Some(Target::Standbys(id)),
                _ => None,
            }
        }
        _ => None,
    }
}

fn backup(table: &Table) -> BackupSpec {
    BackupSpec {
        of: table.text("of").unwrap_or_default(),
        to: table.text("to").unwrap_or_default(),
        on: names(table, "on"),
        credentials: table.text("credentials"),
        encrypt_to: table.texts("encrypt_to"),
        key: table.text("key"),
        every: table.duration("every").unwrap_or_default(),
        keep: table.duration("keep").unwrap_or_default(),
        prove: table.duration("prove"),
    }
}
