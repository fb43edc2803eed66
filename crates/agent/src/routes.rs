//! Routing tables: what this node's balancer should do, derived from the goal, the grants and the picture. Chooses nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use backstay_balancer::table::{
    Backend, BackendState, Check, CheckKind as ProbeKind, Listener, Proto, Table, Upstream,
};
use backstay_model::{Goal, Grant, Instant, ListenerName, NodeName, Observation, Role, RoleKey, ServiceId, Token};
use backstay_spec::{CheckKind, ServiceSpec, Spec, Workload};

/// How long a connection or request waits for a service that is changing hands. Longer than a lost holder takes to be
/// replaced (lease 3 s, its margin, the start), shorter than clients' patience.
const HOLD: Duration = Duration::from_secs(10);

/// What a table is made of.
pub struct Routing<'a> {
    /// This node.
    pub node: &'a NodeName,
    /// The adopted file.
    pub spec: &'a Spec,
    /// The goal in force.
    pub goal: &'a Goal,
    /// Grants in force.
    pub grants: &'a BTreeMap<RoleKey, Grant>,
    /// The newest report known of each node, this one's own included.
    pub reports: BTreeMap<&'a NodeName, &'a Observation>,
    /// Addresses that this node holds, with their tokens and deadlines.
    pub addresses: &'a BTreeMap<ListenerName, (Token, Instant)>,
    /// Until when routes to exclusive roles are good without a word from the store.
    pub routes_until: Instant,
}

impl Routing<'_> {
    /// The table; its serial is given by whoever sends it.
    pub fn table(&self) -> Table {
        let mut listeners = Vec::new();
        let mut upstreams = BTreeMap::new();
        for (name, listener) in &self.spec.listeners {
            let (address, valid_until) = match (&listener.vip, self.addresses.get(name)) {
                (Some(vip), Some((_, until))) => (vip.addr, Some(until.0)),
                (Some(_), None) => continue,
                (None, _) => match self.spec.nodes.get(self.node) {
                    Some(node) => (node.addr, None),
                    None => continue,
                },
            };
            for (entry_name, entry) in &listener.entries {
                let service = entry.to.service();
                let Some(declared) = self.spec.services.get(service) else { continue };
                let proto = match entry.proto {
                    backstay_spec::Proto::Tcp => Proto::Tcp,
                    backstay_spec::Proto::Http => Proto::Http,
                };
                upstreams.entry(service.clone()).or_insert_with(|| self.upstream(declared));
                listeners.push(Listener {
                    name: format!("{name}.{entry_name}"),
                    bind: SocketAddr::new(address, entry.port),
                    proto,
                    upstream: service.to_string(),
                    valid_until,
                });
            }
        }
        let upstreams = upstreams.into_values().collect();
        Table { generation: self.goal.generation.0, serial: 0, listeners, upstreams }
    }

    fn upstream(&self, service: &ServiceSpec) -> Upstream {
        let role = RoleKey::Service(service.id.clone());
        let grant = self.grants.get(&role).filter(|_| service.exclusive);
        let backends = match (service.exclusive, grant) {
            (true, Some(grant)) => self.backend(&grant.holder, &service.id, BackendState::Active).into_iter().collect(),
            (true, None) => Vec::new(),
            (false, _) => self.balanced(&service.id),
        };
        Upstream {
            name: service.id.to_string(),
            backends,
            hold_ms: HOLD.as_millis() as u64,
            valid_until: service.exclusive.then_some(self.routes_until.0),
            token: grant.map_or(0, |grant| grant.token.0),
            check: probe(service),
            exclusive: service.exclusive,
        }
    }

    /// Active instances that are not known to be unwell get traffic: unknown stops nothing, and the balancer probes by itself.
    /// Spares finish what they had. If every active one is known to be unwell, well spares help out: a late goal should not
    /// stop traffic that could flow.
    fn balanced(&self, service: &ServiceId) -> Vec<Backend> {
        let Some(goal) = self.goal.services.get(service) else { return Vec::new() };
        let seen = |node: &NodeName| self.reports.get(node).and_then(|report| report.instances.get(service));
        let serves = |node: &NodeName, role: Role| role == Role::Active && seen(node).is_none_or(|i| i.is_well());
        let helps = |node: &NodeName| seen(node).is_some_and(|i| i.is_well());
        let any = goal.instances.iter().any(|(node, i)| serves(node, i.role));
        let backends = goal.instances.iter().filter_map(|(node, instance)| {
            let used = if any { serves(node, instance.role) } else { helps(node) };
            self.backend(node, service, if used { BackendState::Active } else { BackendState::Draining })
        });
        backends.collect()
    }

    fn backend(&self, node: &NodeName, service: &ServiceId, state: BackendState) -> Option<Backend> {
        let seen = self.reports.get(node).and_then(|report| report.instances.get(service));
        let addr = seen.and_then(|seen| seen.endpoint).or_else(|| self.declared_endpoint(node, service))?;
        Some(Backend { id: node.to_string(), addr, state })
    }

    /// Where an instance must be when the file fixes its port, even if its node has never been heard.
    fn declared_endpoint(&self, node: &NodeName, service: &ServiceId) -> Option<SocketAddr> {
        let Workload::App(app) = &self.spec.services.get(service)?.workload else { return None };
        let address: IpAddr = self.spec.nodes.get(node)?.addr;
        app.port.map(|port| SocketAddr::new(address, port))
    }
}

/// The balancer probes as the agents do, so that it finds out by itself when they are dead. Exclusive services are not
/// probed: their route follows the grant, and while nobody answers, requests are held.
fn probe(service: &ServiceSpec) -> Option<Check> {
    let Workload::App(app) = &service.workload else { return None };
    let check = app.check.as_ref().filter(|_| !service.exclusive)?;
    let kind = match &check.kind {
        CheckKind::Http(path) => ProbeKind::Http(path.clone()),
        CheckKind::Tcp | CheckKind::Run(_) => ProbeKind::Tcp,
    };
    let ms = |duration: Duration| duration.as_millis() as u64;
    let (every_ms, timeout_ms) = (ms(check.every), ms(check.timeout));
    Some(Check { kind, every_ms, timeout_ms, rise: check.rise, fall: check.fall })
}
