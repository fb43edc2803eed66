//! Databases of the scenarios' world: copies that follow at once, and stay as they are when their node is down.

use std::collections::BTreeMap;

use backstay_model::{
    Health, InstanceObservation, InstanceState, Lsn, NodeName, Promise, ReplicaObservation, Role, RoleKey, ServiceId,
    Step, Token,
};

use super::world::{World, instance};

/// Copies on disk, by service and node.
pub type Disks = BTreeMap<(ServiceId, NodeName), ReplicaObservation>;

impl World {
    /// The primary writes so many bytes, and every copy that streams from it has them at once.
    pub fn write(&mut self, service: &str, bytes: &str) {
        let bytes: u64 = bytes.parse().unwrap();
        let (id, token) = self.primary_of(service);
        for report in self.reports.values_mut() {
            let Some(seen) = report.instances.get_mut(&id) else { continue };
            let Some(copy) = &mut seen.replica else { continue };
            if seen.token == Some(token) || copy.streams == Some(token) {
                copy.position.lsn.0 += bytes;
            }
        }
    }

    fn primary_of(&self, service: &str) -> (ServiceId, Token) {
        let id: ServiceId = service.parse().unwrap();
        let grant = self.grants.get(&RoleKey::Service(id.clone())).expect("it has a primary");
        (id, grant.token)
    }

    /// A copy stops following: its receiver hangs.
    pub fn lags(&mut self, node: &str, service: &str) {
        let id: ServiceId = service.parse().unwrap();
        let copy = self.reports.get_mut(&NodeName::from(node)).and_then(|report| report.instances.get_mut(&id));
        copy.and_then(|seen| seen.replica.as_mut()).expect("it has a copy").streams = None;
    }

    /// What a node has on disk is there again when it comes up.
    pub fn find_copies(&mut self, node: &NodeName) {
        let Some(report) = self.reports.get_mut(node) else { return };
        for ((id, _), copy) in self.disks.iter().filter(|((_, at), _)| at == node) {
            let copy = ReplicaObservation { streams: None, rule: None, open: false, ..copy.clone() };
            let seen = instance(InstanceState::Prepared, Health::Unknown, None);
            report.instances.insert(id.clone(), InstanceObservation { replica: Some(copy), ..seen });
        }
    }

    /// What is on a node's disk stays there when it goes down.
    pub fn leave_copies(&mut self, node: &NodeName) {
        let Some(report) = self.reports.get(node) else { return };
        let copies = report.instances.iter().filter_map(|(id, seen)| Some((id.clone(), seen.replica.clone()?)));
        self.disks.extend(copies.map(|(id, copy)| ((id, node.clone()), copy)));
    }

    /// One step of a database; false if it changes nothing.
    pub fn take_of_database(&mut self, node: &NodeName, step: &Step) -> bool {
        let (Step::Start { service: id, .. }
        | Step::Follow { service: id, .. }
        | Step::Promise { service: id, .. }
        | Step::Sync { service: id, .. }) = step
        else {
            return false;
        };
        let source = self.source_of(id, step);
        let timeline = self.goal.services[id].replicas.as_ref().map(|replicas| replicas.timeline).unwrap_or_default();
        let covers = self.followers_of(id);
        let report = self.reports.get_mut(node).expect("the node is up");
        let before = report.instances.get(id).cloned();
        let mut seen = before.clone().unwrap_or_else(|| instance(InstanceState::Prepared, Health::Unknown, None));
        let copy = seen.replica.get_or_insert_default();
        match step {
            Step::Start { role, token, .. } => {
                (seen.state, seen.health, seen.token) = (InstanceState::Running, Health::Passing, *token);
                if *role == Role::Primary && copy.position.timeline != timeline {
                    (copy.has_data, copy.whole, copy.streams) = (true, true, None);
                    copy.position.timeline = timeline;
                    copy.position.lsn = Lsn(copy.position.lsn.0 + 1);
                }
                copy.open = *role == Role::Primary;
                copy.rule = copy.rule.take().filter(|_| *role == Role::Primary);
            }
            Step::Follow { token, generation, .. } if *generation >= copy.promised => {
                if let Some(source) = source.filter(|_| copy.streams != Some(*token)) {
                    (copy.has_data, copy.whole, copy.streams, copy.position) = (true, true, Some(*token), source);
                }
            }
            Step::Promise { generation, .. } => {
                (copy.streams, copy.promised) = (None, *generation);
                let promise = Promise { generation: *generation, position: copy.position };
                self.promises.insert((id.clone(), node.clone()), promise);
            }
            Step::Sync { rule, .. } => {
                copy.rule = Some(rule.clone());
                copy.rule_covers =
                    rule.members.iter().filter(|member| covers.contains(member)).count() >= rule.k as usize;
            }
            _ => {}
        }
        let changed = before.as_ref() != Some(&seen);
        report.instances.insert(id.clone(), seen);
        changed
    }

    fn source_of(&self, id: &ServiceId, step: &Step) -> Option<backstay_model::Position> {
        let Step::Follow { upstream, .. } = step else { return None };
        let seen = self.reports.get(upstream)?.instances.get(id)?;
        seen.replica.as_ref().filter(|copy| copy.open).map(|copy| copy.position)
    }

    fn followers_of(&self, id: &ServiceId) -> Vec<NodeName> {
        let token = self.grants.get(&RoleKey::Service(id.clone())).map(|grant| grant.token);
        let streams = |report: &backstay_model::Observation| {
            let copy = report.instances.get(id).and_then(|seen| seen.replica.as_ref());
            copy.is_some_and(|copy| copy.streams.is_some() && copy.streams == token)
        };
        self.reports.iter().filter(|(_, report)| streams(report)).map(|(node, _)| node.clone()).collect()
    }
}
