//! What `status` and `explain` say: made of the last reading, the last picture and this node's own sight, with their ages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backstay_coord::Leadership;
use backstay_model::picture::Picture;
use backstay_model::{
    Generation, InstanceObservation, InstanceState, ListenerName, NodeName, Observation, Reason, Role, RoleKey,
    ServiceId, Subject,
};
use backstay_planner::{Seat, Standing, contingency};
use backstay_spec::{ServiceSpec, Spec};
use serde::Serialize;

use crate::clock;
use crate::cluster::Reading;
use crate::forward::Forwarding;
use crate::report::Seen;

/// A picture older than this no longer says how things are.
const PICTURE_FRESH: Duration = Duration::from_secs(5);
/// A reading older than this means that the store does not answer.
const READING_FRESH: Duration = Duration::from_secs(4);

/// Everything a status is made of.
pub struct Sight {
    /// This node.
    pub node: NodeName,
    /// What the store last said.
    pub reading: Arc<Reading>,
    /// The last picture.
    pub picture: Seen,
    /// What this node sees of itself.
    pub own: Observation,
    /// What its balancer does.
    pub forwarding: Forwarding,
    /// What its voter knows of the others.
    pub leadership: Option<Leadership>,
}

/// How the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Everything is as the file asks.
    Healthy,
    /// It works, but less may fail than the file asks.
    Degraded,
    /// Something does not serve.
    Outage,
}

/// The answer to `status`.
#[derive(Debug, Serialize)]
pub struct Status {
    schema: &'static str,
    cluster: String,
    health: Health,
    quorum: bool,
    coordinator: Option<NodeName>,
    generation: Generation,
    age_ms: u64,
    node: NodeName,
    nodes: Vec<NodeStatus>,
    services: Vec<ServiceStatus>,
    listeners: Vec<ListenerStatus>,
    /// What must not fail now: nodes, racks and sites of the file; none while no file is known.
    must_not_fail: Option<Vec<String>>,
    trouble: Vec<String>,
    notes: Vec<String>,
    next: String,
}

#[derive(Debug, Serialize)]
struct NodeStatus {
    name: NodeName,
    addr: String,
    seen_ms: Option<u64>,
    present: bool,
    voter: bool,
    draining: bool,
    roles: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ServiceStatus {
    name: ServiceId,
    kind: backstay_model::ServiceKind,
    need: u32,
    exclusive: bool,
    well: u32,
    instances: Vec<InstanceStatus>,
}

#[derive(Debug, Serialize)]
struct InstanceStatus {
    node: NodeName,
    role: Role,
    state: String,
    generation: Generation,
    token: Option<Generation>,
    pid: Option<u32>,
    endpoint: Option<std::net::SocketAddr>,
    containment: Option<String>,
    trouble: Option<String>,
}

#[derive(Debug, Serialize)]
struct ListenerStatus {
    name: ListenerName,
    vip: Option<String>,
    vip_holder: Option<NodeName>,
    backends_up: u32,
    entries: Vec<EntryStatus>,
}

#[derive(Debug, Serialize)]
struct EntryStatus {
    name: String,
    port: u16,
    to: ServiceId,
    backends_up: u32,
    requests: u64,
    retried: u64,
    failed: u64,
}

impl Sight {
    fn picture(&self) -> Option<&Picture> {
        self.picture.as_ref().map(|(picture, _)| picture.as_ref())
    }

    /// How old the picture is here; the ages of sightings within it come on top.
    fn picture_age(&self) -> Duration {
        self.picture.as_ref().map_or(Duration::MAX, |(_, at)| clock::now().since(*at))
    }

    /// How old the oldest part of this is.
    pub fn age_ms(&self) -> u64 {
        millis(self.reading.age().unwrap_or(Duration::MAX).max(self.picture_age()))
    }

    /// What a node last said, and how long ago.
    fn report(&self, node: &NodeName) -> Option<(&Observation, Duration)> {
        if *node == self.node {
            return Some((&self.own, Duration::ZERO));
        }
        let sighting = self.picture()?.nodes.get(node)?;
        let age = sighting.age.saturating_add(self.picture_age());
        sighting.observation.as_ref().map(|observation| (observation, age))
    }

    fn instance(&self, node: &NodeName, service: &ServiceId) -> Option<(&InstanceObservation, Duration)> {
        let (report, age) = self.report(node)?;
        report.instances.get(service).map(|seen| (seen, age))
    }

    fn quorum(&self) -> bool {
        self.reading.age().is_some_and(|age| age < READING_FRESH)
    }

    /// The whole status.
    pub fn status(&self, cluster: &str) -> Status {
        let nothing = Vec::new;
        let spec = self.reading.file.as_ref().map(|file| file.spec.clone());
        let mut trouble = self.trouble(spec.as_deref());
        let services: Vec<_> = spec.iter().flat_map(|spec| spec.services.values()).map(|s| self.service(s)).collect();
        let listeners = spec.as_deref().map_or_else(nothing, |spec| self.listeners(spec));
        let health = self.health(&services, &listeners, &trouble);
        if health == Health::Healthy {
            trouble.clear();
        }
        let coordinator = self.reading.grants.get(&RoleKey::Coordinator).map(|(grant, _)| grant.holder.clone());
        Status {
            schema: "backstay.status/1",
            cluster: cluster.to_owned(),
            health,
            quorum: self.quorum(),
            coordinator: coordinator.filter(|_| self.quorum()),
            generation: self.reading.goal.generation,
            age_ms: self.age_ms(),
            node: self.node.clone(),
            nodes: spec.as_deref().map_or_else(Vec::new, |spec| self.nodes(spec)),
            next: self.next(health, spec.as_deref(), &services),
            services,
            listeners,
            must_not_fail: spec.as_deref().map(|spec| self.must_not_fail(spec)),
            trouble,
            notes: self.notes(),
        }
    }

    /// Where everything stands, as `plan --live` takes it. What serves must be seen to be well; a spare or standby that is
    /// not asked to run only must not be known to fail.
    pub fn standing(&self) -> Standing {
        let goal = &self.reading.goal;
        let spec = self.reading.file.as_ref().map(|file| &file.spec);
        // A node that is drained still votes, and carries what it has.
        let is_down = |node: &&NodeName| !self.reading.sessions.contains_key(*node);
        let seats = goal.services.iter().map(|(id, service)| {
            let seats = service.instances.iter().map(|(node, instance)| {
                let serves = matches!(instance.role, Role::Active | Role::Primary);
                let seen = self.instance(node, id).filter(|(_, age)| *age < PICTURE_FRESH).map(|(seen, _)| seen);
                let fails = |seen: &InstanceObservation| {
                    seen.state == InstanceState::Failed || seen.health == backstay_model::Health::Failing
                };
                let well = match instance.runs {
                    true => seen.is_some_and(|seen| seen.is_well()),
                    false => !seen.is_some_and(fails),
                };
                (node.clone(), Seat { serves, well })
            });
            (id.clone(), seats.collect())
        });
        let holder = |role: &RoleKey| self.reading.grants.get(role).map(|(grant, _)| grant.holder.clone());
        let names = goal.addresses.keys();
        Standing {
            seats: seats.collect(),
            down: spec.iter().flat_map(|spec| spec.nodes.keys()).filter(is_down).cloned().collect(),
            holders: names.filter_map(|name| Some((name.clone(), holder(&RoleKey::Address(name.clone()))?))).collect(),
            coordinator: holder(&RoleKey::Coordinator),
        }
    }

    fn must_not_fail(&self, spec: &Spec) -> Vec<String> {
        contingency::must_not_fail(spec, &self.standing()).iter().map(ToString::to_string).collect()
    }

    fn nodes(&self, spec: &Spec) -> Vec<NodeStatus> {
        let voters = spec.voters();
        let node = |(name, node): (&NodeName, &backstay_spec::NodeSpec)| NodeStatus {
            name: name.clone(),
            addr: node.addr.to_string(),
            seen_ms: self.report(name).map(|(_, age)| millis(age)),
            present: self.reading.sessions.contains_key(name),
            voter: match &self.leadership {
                Some(known) => known.members.iter().any(|member| member.voter && member.node == name.as_str()),
                None => voters.contains(name),
            },
            draining: self.reading.drains.contains(name),
            roles: self.roles_of(name),
        };
        spec.nodes.iter().map(node).collect()
    }

    fn roles_of(&self, node: &NodeName) -> Vec<String> {
        let goal = &self.reading.goal;
        let held = self.reading.grants.iter().filter(|(_, (grant, _))| grant.holder == *node);
        let held = held.map(|(role, _)| match role {
            RoleKey::Service(id) => format!("{id} primary"),
            other => other.to_string(),
        });
        let placed = goal.services.iter().filter_map(|(id, service)| {
            let instance = service.instances.get(node).filter(|instance| instance.role != Role::Primary)?;
            Some(format!("{id} {}", instance.role))
        });
        held.chain(placed).collect()
    }

    fn service(&self, service: &ServiceSpec) -> ServiceStatus {
        let goal = self.reading.goal.services.get(&service.id);
        let placed = goal.iter().flat_map(|goal| &goal.instances);
        let grant = self.reading.grants.get(&RoleKey::Service(service.id.clone())).map(|(grant, _)| grant);
        let mut well = 0;
        let instances = placed.map(|(node, instance)| {
            let seen = self.instance(node, &service.id).filter(|(_, age)| *age < PICTURE_FRESH);
            let holds = !service.exclusive || grant.is_some_and(|grant| grant.holder == *node);
            let serves = matches!(instance.role, Role::Active | Role::Primary) && holds;
            if serves && seen.is_some_and(|(seen, _)| seen.is_well()) {
                well += 1;
            }
            let seen = seen.map(|(seen, _)| seen);
            InstanceStatus {
                node: node.clone(),
                role: instance.role,
                state: seen.map_or_else(|| "unknown".to_owned(), |seen| state_name(seen).to_owned()),
                generation: self.report(node).map_or(Generation::ZERO, |(report, _)| report.generation),
                token: seen.and_then(|seen| seen.token),
                pid: seen.and_then(|seen| seen.pid),
                endpoint: seen.and_then(|seen| seen.endpoint),
                containment: seen.and_then(|seen| seen.containment.clone()),
                trouble: seen.and_then(|seen| seen.trouble.clone()),
            }
        });
        let instances = instances.collect();
        let (name, kind) = (service.id.clone(), service.id.kind);
        ServiceStatus { name, kind, need: service.need, exclusive: service.exclusive, well, instances }
    }

    fn listeners(&self, spec: &Spec) -> Vec<ListenerStatus> {
        let listeners = spec.listeners.iter().map(|(name, listener)| {
            let holder =
                self.reading.grants.get(&RoleKey::Address(name.clone())).map(|(grant, _)| grant.holder.clone());
            let entries: Vec<_> = listener
                .entries
                .iter()
                .map(|(entry_name, entry)| {
                    let service = entry.to.service();
                    let counters = self.forwarding.stats.listeners.get(&format!("{name}.{entry_name}"));
                    EntryStatus {
                        name: entry_name.clone(),
                        port: entry.port,
                        to: service.clone(),
                        backends_up: self.backends_up(service),
                        requests: counters.map_or(0, |c| c.requests),
                        retried: counters.map_or(0, |c| c.retried),
                        failed: counters.map_or(0, |c| c.failed),
                    }
                })
                .collect();
            ListenerStatus {
                name: name.clone(),
                vip: listener.vip.map(|vip| vip.addr.to_string()),
                vip_holder: holder,
                backends_up: entries.iter().map(|entry| entry.backends_up).min().unwrap_or(0),
                entries,
            }
        });
        listeners.collect()
    }

    fn backends_up(&self, service: &ServiceId) -> u32 {
        let Some(goal) = self.reading.goal.services.get(service) else { return 0 };
        let serving = goal.instances.iter().filter(|(_, i)| matches!(i.role, Role::Active | Role::Primary));
        let up = serving.filter(|(node, _)| {
            self.instance(node, service).is_some_and(|(seen, age)| age < PICTURE_FRESH && seen.is_well())
        });
        up.count() as u32
    }

    fn health(&self, services: &[ServiceStatus], listeners: &[ListenerStatus], trouble: &[String]) -> Health {
        let down = services.iter().any(|service| service.well == 0);
        let unheld = listeners.iter().any(|listener| listener.vip.is_some() && listener.vip_holder.is_none());
        match () {
            _ if self.reading.file.is_none() || down || unheld => Health::Outage,
            _ if !trouble.is_empty() => Health::Degraded,
            _ => Health::Healthy,
        }
    }

    /// Sentences about what is not as the file asks, worst first.
    fn trouble(&self, spec: Option<&Spec>) -> Vec<String> {
        let mut trouble = Vec::new();
        let Some(spec) = spec else {
            trouble
                .push("no file is adopted yet: the store has no quorum, or no coordinator has taken over".to_owned());
            return trouble;
        };
        if !self.quorum() {
            let age = self.reading.age().map_or_else(|| "ever".to_owned(), backstay_model::time::human);
            trouble.push(format!(
                "the store has had no quorum for {age}: exclusive roles end at their deadlines, traffic goes on"
            ));
        }
        for service in spec.services.values() {
            let status = self.service(service);
            if status.well < service.need {
                trouble.push(format!("{}: {} of {} well instances", service.id, status.well, service.need));
            }
            let wanted = service.instances_wanted();
            if (status.instances.len() as u32) < wanted {
                let placed = status.instances.len();
                trouble.push(format!("{}: {placed} of {wanted} instances are placed", service.id));
            }
            let sick = status.instances.iter().filter_map(|i| Some((&i.node, i.trouble.as_ref()?)));
            trouble.extend(sick.map(|(node, what)| format!("{} on {node}: {what}", service.id)));
        }
        for (name, listener) in &spec.listeners {
            if listener.vip.is_some() && !self.reading.grants.contains_key(&RoleKey::Address(name.clone())) {
                trouble.push(format!("listen.{name}: nobody holds its address"));
            }
        }
        for name in spec.nodes.keys().filter(|name| !self.reading.sessions.contains_key(*name)) {
            let seen = self.report(name).map(|(_, age)| backstay_model::time::human(age));
            trouble.push(match seen {
                Some(ago) => format!("{name} is lost: not seen for {ago}"),
                None => format!("{name} is lost"),
            });
        }
        trouble.extend(self.reading.drains.iter().map(|name| format!("{name} is being drained")));
        trouble
    }

    /// The command that helps now.
    fn next(&self, health: Health, spec: Option<&Spec>, services: &[ServiceStatus]) -> String {
        if health == Health::Healthy {
            return "backstay events".to_owned();
        }
        let lost = spec.and_then(|spec| spec.nodes.keys().find(|name| !self.reading.sessions.contains_key(*name)));
        let short = services.iter().find(|service| service.well < service.need);
        match (lost, short, self.reading.drains.first()) {
            _ if !self.quorum() => "start the agents of the other voters: backstay agent -c FILE".to_owned(),
            (_, Some(service), _) => format!("backstay explain {}", service.name),
            (Some(node), None, _) => format!("backstay explain {node}"),
            (None, None, Some(drained)) => format!("backstay drain {drained} --undo"),
            (None, None, None) => "backstay events".to_owned(),
        }
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.own.notes.clone();
        let others = self.picture().into_iter().flat_map(|picture| &picture.nodes);
        let others = others.filter(|(name, _)| **name != self.node).filter_map(|(_, s)| s.observation.as_ref());
        notes.extend(others.flat_map(|report| report.notes.clone()));
        notes
    }

    /// What can be said of one thing: its facts, then the newest decision's reasons about it.
    pub fn explain(&self, subject: &Subject) -> Vec<String> {
        let mut lines = match subject {
            Subject::Node(node) => self.explain_node(node),
            Subject::Service(service) => self.explain_service(service),
            Subject::Address(listener) => self.explain_address(listener),
        };
        let reasons = self.picture().map_or(&[][..], |picture| &picture.reasons);
        let about: Vec<&Reason> = reasons.iter().filter(|reason| reason.subjects().contains(subject)).collect();
        match about.as_slice() {
            [] => lines.push("the newest decision says nothing about it: nothing is to be changed".to_owned()),
            about => lines.extend(about.iter().map(|reason| format!("now: {reason}"))),
        }
        let past = self.reading.events.values().rev();
        let past = past.flat_map(|event| event.reasons.iter().map(move |reason| (event, reason)));
        let past = past.filter(|(_, reason)| reason.subjects().contains(subject)).take(5);
        lines.extend(past.map(|(event, reason)| {
            let ago = Duration::from_millis(millis(clock::wall()).saturating_sub(event.unix_ms));
            format!("{} ago (goal {}): {reason}", backstay_model::time::human(ago), event.generation)
        }));
        lines
    }

    fn explain_node(&self, node: &NodeName) -> Vec<String> {
        let mut lines = Vec::new();
        let memory = self.reading.goal.nodes.get(node);
        lines.push(match self.reading.sessions.get(node) {
            Some(_) => format!("{node} has a live session"),
            None => format!("{node} has no session: it is lost, or was never there"),
        });
        match self.report(node) {
            Some((_, age)) => lines.push(format!("it was heard {} ago", backstay_model::time::human(age))),
            None => lines.push("it has not been heard by this coordinator".to_owned()),
        }
        if let Some(memory) = memory.filter(|memory| !memory.losses_ms.is_empty()) {
            lines.push(format!("it was lost {} times within the last ten minutes", memory.losses_ms.len()));
        }
        let roles = self.roles_of(node);
        lines.push(if roles.is_empty() {
            "it has no role".to_owned()
        } else {
            format!("its roles: {}", roles.join(", "))
        });
        if let Some((report, _)) = self.report(node) {
            lines.extend(report.notes.clone());
            let sick = report.instances.iter().filter_map(|(id, seen)| Some((id, seen.trouble.as_ref()?)));
            lines.extend(sick.map(|(id, what)| format!("{id}: {what}")));
        }
        lines
    }

    fn explain_service(&self, service: &ServiceId) -> Vec<String> {
        let Some(spec) = self.reading.file.as_ref().and_then(|file| file.spec.services.get(service)) else {
            return vec![format!("{service} is not in the adopted file")];
        };
        let status = self.service(spec);
        let (well, need) = (status.well, spec.need);
        let mut lines = vec![format!("{service} has {well} well instances that serve; {need} carry the full load")];
        if spec.exclusive {
            let grant = self.reading.grants.get(&RoleKey::Service(service.clone()));
            lines.push(match grant {
                Some((grant, _)) => format!("{} holds its grant, token {}", grant.holder, grant.token),
                None => "nobody holds its grant".to_owned(),
            });
        }
        lines.extend(status.instances.iter().map(|instance| {
            let trouble = instance.trouble.as_ref().map(|what| format!(" ({what})")).unwrap_or_default();
            format!("{}: {}, {}{trouble}", instance.node, instance.role, instance.state)
        }));
        lines
    }

    fn explain_address(&self, listener: &ListenerName) -> Vec<String> {
        let grant = self.reading.grants.get(&RoleKey::Address(listener.clone()));
        let line = match grant {
            Some((grant, _)) => format!("{} holds its address, token {}", grant.holder, grant.token),
            None => "it has no floating address, or nobody holds it".to_owned(),
        };
        vec![line]
    }

    /// What a word of the command line may mean here.
    pub fn subject(&self, word: &str) -> Result<Subject, Vec<String>> {
        let spec = self.reading.file.as_ref().map(|file| file.spec.clone());
        let mut known: BTreeMap<String, Subject> = BTreeMap::new();
        for spec in spec.iter() {
            known.extend(spec.nodes.keys().map(|node| (node.to_string(), Subject::Node(node.clone()))));
            known.extend(spec.services.keys().map(|id| (id.to_string(), Subject::Service(id.clone()))));
            known.extend(spec.listeners.keys().map(|l| (format!("listen.{l}"), Subject::Address(l.clone()))));
        }
        known.get(word).cloned().ok_or_else(|| known.into_keys().collect())
    }
}

fn state_name(seen: &InstanceObservation) -> &'static str {
    match (seen.state, seen.health) {
        (InstanceState::Running, backstay_model::Health::Failing) => "failing",
        (InstanceState::Running, _) => "running",
        (InstanceState::Prepared, _) => "prepared",
        (InstanceState::Starting, _) => "starting",
        (InstanceState::Stopping, _) => "stopping",
        (InstanceState::Failed, _) => "failed",
    }
}

fn millis(duration: Duration) -> u64 {
    // JSON readers take integers up to 2^53; an age beyond it means "never".
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(1 << 53)
}
