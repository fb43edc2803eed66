//! The file as meaning: what the operator declared, every default filled in. Made only by [`crate::parse`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use backstay_model::{DomainLevel, ListenerName, NodeName, ServiceId};

/// A whole `backstay.toml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// `cluster = "shop"`.
    pub cluster: String,
    /// `[goal]`: the promise.
    pub goal: GoalSpec,
    /// `[nodes]`.
    pub nodes: BTreeMap<NodeName, NodeSpec>,
    /// `[app.NAME]` and `[postgres.NAME]`.
    pub services: BTreeMap<ServiceId, ServiceSpec>,
    /// `[listen.NAME]`.
    pub listeners: BTreeMap<ListenerName, ListenerSpec>,
    /// `[backup.NAME]`.
    pub backups: BTreeMap<String, BackupSpec>,
    /// `[ports]`.
    pub ports: PortsSpec,
    /// `store = …`.
    pub store: StoreSpec,
    /// `[rates]`.
    pub rates: RatesSpec,
    /// `[prices]`, where the file has any.
    pub prices: Option<PricesSpec>,
}

/// `[goal]`.
#[derive(Clone, Debug, PartialEq)]
pub struct GoalSpec {
    /// The largest failure that must be survived.
    pub survive: DomainLevel,
    /// The longest outage promised.
    pub max_outage: Duration,
    /// The largest loss of acknowledged writes promised; zero: a commit waits for a standby.
    pub max_loss: MaxLoss,
}

/// `max_loss`: `"0"`, a time (`"10s"`) or an amount (`"16MB"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxLoss {
    /// Nothing acknowledged is ever lost by an automatic act.
    Zero,
    /// At most what was written within this time.
    Time(Duration),
    /// At most this many bytes of log.
    Bytes(u64),
}

/// One entry of `[nodes]`.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSpec {
    /// Its address, by which it knows itself and peers reach it.
    pub addr: IpAddr,
    /// The rack it stands in; a node without one is a rack of its own.
    pub rack: Option<String>,
    /// The site it stands at; nodes without one share one site.
    pub site: Option<String>,
    /// Overrides whether it votes.
    pub voter: Option<bool>,
    /// It only votes and holds nothing.
    pub witness: bool,
    /// How many slots of instances fit; unlimited when absent.
    pub slots: Option<u32>,
    /// Tags of replicated databases.
    pub postgres: PostgresTags,
}

/// Per-node tags of replicated databases.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PostgresTags {
    /// Never primary here.
    pub no_primary: bool,
    /// No reads here.
    pub no_reads: bool,
    /// Higher is preferred.
    pub priority: Option<i64>,
    /// Stays this far behind on purpose.
    pub delay: Option<Duration>,
}

/// The five redundancy models but for geography, which `sites` adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redundancy {
    /// No spare: a single point of failure, allowed and reported.
    N,
    /// One spare.
    NPlus1,
    /// Two spares.
    NPlus2,
    /// Two full sets in disjoint domains.
    TwoN,
    /// Two full sets and one spare for either.
    TwoNPlus1,
}

/// Who carries traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `need` instances carry traffic, the rest are spares.
    ActivePassive,
    /// All carry traffic.
    ActiveActive,
}

/// How ready a spare is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpareKind {
    /// Runs and is checked.
    Hot,
    /// Prepared, started on takeover.
    Warm,
    /// Not there before takeover.
    Cold,
}

/// Whether a role returns to its preferred node by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failback {
    /// Once that node is whole and steady.
    Auto,
    /// Only by `switchover`.
    Manual,
}

/// What every kind of service has in common.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSpec {
    /// Its name.
    pub id: ServiceId,
    /// N: how many instances carry the full load.
    pub need: u32,
    /// How much more there is.
    pub redundancy: Redundancy,
    /// Who carries traffic.
    pub mode: Mode,
    /// How ready the spares are.
    pub spare: SpareKind,
    /// The level of domains that instances are spread over.
    pub spread: DomainLevel,
    /// At most one instance may act at a time; it needs a grant.
    pub exclusive: bool,
    /// Slots that one instance takes of a node.
    pub slots: u32,
    /// Geographic redundancy: one model inside each of these sites.
    pub sites: Vec<String>,
    /// Preferred nodes, best first; without it nobody is, and nothing moves back.
    pub prefer: Vec<NodeName>,
    /// Whether roles return to the preferred node.
    pub failback: Failback,
    /// How long a node must be whole before a role returns to it.
    pub steady: Duration,
    /// What runs.
    pub workload: Workload,
}

/// What a service runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Workload {
    /// A program.
    App(AppSpec),
    /// A replicated database.
    Postgres(PostgresSpec),
}

/// `[app.NAME]`, what is particular to programs.
#[derive(Clone, Debug, PartialEq)]
pub struct AppSpec {
    /// What to start.
    pub run: RunSpec,
    /// The port it listens on; the agent picks a free one when absent and the program asks for `{port}` or a check needs one.
    pub port: Option<u16>,
    /// How it is known to work; a program without a check works while it runs.
    pub check: Option<CheckSpec>,
    /// Added to its environment.
    pub env: BTreeMap<String, String>,
    /// The user it runs as.
    pub user: Option<String>,
    /// The directory it runs in.
    pub cwd: Option<String>,
    /// The signal that asks it to stop, by name: `SIGTERM`.
    pub stop: String,
    /// How long it may take to stop.
    pub grace: Duration,
}

/// `run` or `unit`.
#[derive(Clone, Debug, PartialEq)]
pub enum RunSpec {
    /// A program and its arguments; no shell.
    Argv(Vec<String>),
    /// A systemd unit.
    Unit(String),
}

/// `check`.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckSpec {
    /// How to ask.
    pub kind: CheckKind,
    /// How often.
    pub every: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Good answers in a row before it counts as well.
    pub rise: u32,
    /// Bad answers in a row before it counts as failing.
    pub fall: u32,
}

/// How a check asks.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckKind {
    /// `"GET /path"`: any 2xx or 3xx.
    Http(String),
    /// `"tcp"`: a connection opens.
    Tcp,
    /// `{ run = [...] }`: exit status 0.
    Run(Vec<String>),
}

/// `[postgres.NAME]`, what is particular to databases. Understood and checked; this build does not run it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PostgresSpec {
    /// Major version; the newest found when absent.
    pub version: Option<u32>,
    /// Its port.
    pub port: u16,
    /// Data directory.
    pub data: Option<String>,
    /// Directory of its programs.
    pub bin: Option<String>,
    /// How many standbys a commit waits for; follows from `goal.max_loss` when absent.
    pub sync: Option<u32>,
    /// What happens to writes when there are too few standbys.
    pub degrade: Degrade,
    /// Settings of the server.
    pub parameters: BTreeMap<String, String>,
    /// Networks that may connect.
    pub clients: Vec<String>,
    /// Databases that should exist.
    pub databases: Vec<String>,
    /// Users that should exist, each with where its password is (`file:…`, `env:…`); one is made when absent.
    pub users: BTreeMap<String, Option<String>>,
}

/// `degrade`: what happens to writes when too few standbys are left to acknowledge them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Degrade {
    /// They wait; nothing acknowledged is lost.
    #[default]
    Wait,
    /// They go on, and what was not yet copied may be lost.
    Async,
}

/// `[listen.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerSpec {
    /// The floating address; without one every node listens on its own.
    pub vip: Option<Vip>,
    /// Its named entries.
    pub entries: BTreeMap<String, EntrySpec>,
}

/// A floating address: `10.0.0.100/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The address.
    pub addr: IpAddr,
    /// Bits of its network; the whole address when not given.
    pub prefix: u8,
}

/// One port of a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct EntrySpec {
    /// Where it listens.
    pub port: u16,
    /// What it understands.
    pub proto: Proto,
    /// Where it sends.
    pub to: Target,
    /// Standbys further behind get no reads.
    pub max_lag: Option<Duration>,
    /// `https`: it ends TLS itself.
    pub tls: bool,
}

/// Layer 4 or 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    /// Bytes.
    Tcp,
    /// Requests.
    Http,
}

/// Where an entry sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `app.NAME`: its active instances, or its primary when it is exclusive.
    Service(ServiceId),
    /// `postgres.NAME.primary`.
    Primary(ServiceId),
    /// `postgres.NAME.standbys`.
    Standbys(ServiceId),
}

impl Target {
    /// The service it names.
    pub fn service(&self) -> &ServiceId {
        match self {
            Self::Service(id) | Self::Primary(id) | Self::Standbys(id) => id,
        }
    }
}

/// `[backup.NAME]`. Understood and checked; this build does not run it.
#[derive(Clone, Debug, PartialEq)]
pub struct BackupSpec {
    /// `postgres.NAME` or `files:/path`.
    pub of: String,
    /// `file:/path` or `s3://bucket/prefix`.
    pub to: String,
    /// Nodes that may take it; any when empty.
    pub on: Vec<NodeName>,
    /// Where the repository's credentials are: `file:…` or `env:…`.
    pub credentials: Option<String>,
    /// Public keys that copies are encrypted to.
    pub encrypt_to: Vec<String>,
    /// Where the private key for proofs is: `file:…` or `env:…`.
    pub key: Option<String>,
    /// How often.
    pub every: Duration,
    /// How long backups are kept.
    pub keep: Duration,
    /// How often a restore is proven.
    pub prove: Option<Duration>,
}

/// `[ports]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortsSpec {
    /// Where agents talk to each other.
    pub peer: u16,
}

/// `[rates]`: how often things fail here. Read by predictions alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RatesSpec {
    /// One program or database.
    pub instance: RateSpec,
    /// One machine.
    pub node: RateSpec,
    /// One rack.
    pub rack: RateSpec,
    /// One site.
    pub site: RateSpec,
    /// Failovers that were tried or happened.
    pub drills: u32,
    /// How many of them somebody had to help.
    pub drills_failed: u32,
}

/// How often one thing fails and how long it stays so; the planner has defaults for what is not stated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateSpec {
    /// Mean time from being whole to the next failure.
    pub mttf: Option<Duration>,
    /// Mean time until it is mended.
    pub mttr: Option<Duration>,
}

/// `[prices]`: per year, but for outages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PricesSpec {
    /// What the amounts are in.
    pub currency: String,
    /// One more instance.
    pub instance: u32,
    /// One more machine.
    pub node: u32,
    /// One more rack.
    pub rack: u32,
    /// One more site.
    pub site: u32,
    /// Each outage, however short.
    pub outage: u32,
    /// Each hour without the service.
    pub outage_hour: u32,
}

/// Where the cluster's memory lives.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreSpec {
    /// In the agents themselves.
    Embedded,
    /// In etcd.
    Etcd(String),
}
