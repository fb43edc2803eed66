//! The clusters that runs are about: drawn from a few shapes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use backstay_model::{DomainLevel, ListenerName, NodeName, ServiceId, ServiceKind};
use backstay_spec::{
    AppSpec, Degrade, EntrySpec, Failback, GoalSpec, ListenerSpec, MaxLoss, Mode, NodeSpec, PortsSpec, PostgresSpec,
    PostgresTags, Proto, RatesSpec, Redundancy, RunSpec, ServiceSpec, SpareKind, Spec, StoreSpec, Target, Vip,
    Workload,
};

use crate::rng::Rng;

/// How long the session of a node lasts without a renewal (DESIGN §6, `lan`).
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// So many clusters in a thousand have a database.
const DATABASE_PERMILLE: u64 = 600;

/// One cluster: three to five nodes, one or two exclusive services, one balanced, two addresses, and mostly a database.
pub(crate) fn draw(rng: &mut Rng) -> Spec {
    let count = 3 + rng.below(3) as usize;
    let mut nodes: BTreeMap<NodeName, NodeSpec> = (1..=count).map(|n| (NodeName(format!("n{n}")), node(n))).collect();
    let has_witness = count > 3 && rng.chance(200);
    let racks = !has_witness && count > 3 && rng.chance(250);
    for (number, node) in nodes.values_mut().enumerate() {
        node.witness = has_witness && number + 1 == count;
        node.rack = racks.then(|| format!("r{}", number % 3));
    }
    let spread = if racks { DomainLevel::Rack } else { DomainLevel::Node };
    let carriers = count - usize::from(has_witness);
    let mut services = vec![exclusive(rng, "cron", carriers), balanced(rng, carriers)];
    if rng.chance(300) {
        services.push(exclusive(rng, "queue", carriers));
    }
    let mut max_loss = MaxLoss::Zero;
    if rng.chance(DATABASE_PERMILLE) {
        let (service, bound) = database(rng, carriers);
        services.push(service);
        max_loss = bound;
    }
    services.iter_mut().for_each(|service| service.spread = spread);
    let listeners = [("db", "app.cron"), ("web", "app.web")];
    let listeners = listeners.iter().enumerate().map(|(n, (name, to))| listener(n, name, to));
    Spec {
        cluster: "sim".to_owned(),
        goal: GoalSpec { survive: DomainLevel::Node, max_outage: Duration::from_secs(30), max_loss },
        nodes,
        services: services.into_iter().map(|service| (service.id.clone(), service)).collect(),
        listeners: listeners.collect(),
        backups: BTreeMap::new(),
        ports: PortsSpec { peer: 8007 },
        store: StoreSpec::Embedded,
        rates: RatesSpec::default(),
        prices: None,
    }
}

fn node(number: usize) -> NodeSpec {
    NodeSpec {
        addr: IpAddr::V4(Ipv4Addr::new(10, 0, 0, number as u8)),
        rack: None,
        site: None,
        voter: None,
        witness: false,
        slots: None,
        postgres: PostgresTags::default(),
    }
}

fn exclusive(rng: &mut Rng, name: &str, nodes: usize) -> ServiceSpec {
    let redundancy = if rng.chance(500) { Redundancy::NPlus1 } else { Redundancy::NPlus2 };
    ServiceSpec { exclusive: true, spare: SpareKind::Cold, redundancy, ..service(rng, name, nodes) }
}

fn balanced(rng: &mut Rng, nodes: usize) -> ServiceSpec {
    let need = if nodes > 3 && rng.chance(500) { 2 } else { 1 };
    let redundancy = [Redundancy::NPlus1, Redundancy::NPlus2, Redundancy::TwoN, Redundancy::TwoNPlus1][rng.index(4)];
    let mode = if rng.chance(300) { Mode::ActiveActive } else { Mode::ActivePassive };
    let spare = [SpareKind::Hot, SpareKind::Warm, SpareKind::Cold][rng.index(3)];
    ServiceSpec { need, redundancy, mode, spare, ..service(rng, "web", nodes) }
}

/// A database with one or two standbys: mostly nothing acknowledged may be lost, else so many entries.
fn database(rng: &mut Rng, carriers: usize) -> (ServiceSpec, MaxLoss) {
    let redundancy = if rng.chance(300) { Redundancy::NPlus1 } else { Redundancy::NPlus2 };
    let asynchronous = rng.chance(150);
    let max_loss = if asynchronous { MaxLoss::Bytes(rng.between(0, 40)) } else { MaxLoss::Zero };
    let both = redundancy == Redundancy::NPlus2 && carriers > 2 && rng.chance(150);
    let degrade = if !asynchronous && rng.chance(150) { Degrade::Async } else { Degrade::Wait };
    let postgres = PostgresSpec { sync: both.then_some(2), degrade, ..PostgresSpec::default() };
    let app = service(rng, "main", carriers);
    let id = ServiceId { kind: ServiceKind::Postgres, name: "main".to_owned() };
    let workload = Workload::Postgres(postgres);
    (ServiceSpec { id, exclusive: true, spare: SpareKind::Hot, redundancy, workload, ..app }, max_loss)
}

fn service(rng: &mut Rng, name: &str, nodes: usize) -> ServiceSpec {
    let prefers = rng.chance(500);
    let preferred = NodeName(format!("n{}", rng.between(1, nodes as u64)));
    ServiceSpec {
        id: ServiceId::app(name),
        need: 1,
        redundancy: Redundancy::NPlus1,
        mode: Mode::ActivePassive,
        spare: SpareKind::Hot,
        spread: DomainLevel::Node,
        exclusive: false,
        slots: 1,
        sites: Vec::new(),
        prefer: if prefers { vec![preferred] } else { Vec::new() },
        failback: if rng.chance(700) { Failback::Auto } else { Failback::Manual },
        steady: Duration::from_secs(rng.between(1, 6)),
        workload: Workload::App(AppSpec {
            run: RunSpec::Argv(vec![format!("/srv/{name}")]),
            port: None,
            check: None,
            env: BTreeMap::new(),
            user: None,
            cwd: None,
            stop: "SIGTERM".to_owned(),
            grace: Duration::from_secs(2),
        }),
    }
}

fn listener(number: usize, name: &str, to: &str) -> (ListenerName, ListenerSpec) {
    let addr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, number as u8));
    let to = ServiceId::app(to.trim_start_matches("app."));
    let entry = EntrySpec { port: 80, proto: Proto::Tcp, to: Target::Service(to), max_lag: None, tls: false };
    let entries = [("main".to_owned(), entry)].into();
    (ListenerName::from(name), ListenerSpec { vip: Some(Vip { addr, prefix: 24 }), entries })
}
