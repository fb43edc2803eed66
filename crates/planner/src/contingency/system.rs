//! The structure that a failure is judged against: who carries what, and what everything shares.
//!
//! Built once for a standing; nodes and domains are numbers from then on, so that a cluster of a thousand nodes is judged
//! in one pass.

use std::collections::BTreeMap;
use std::time::Duration;

use backstay_model::{DomainLevel, NodeName, ServiceId};
use backstay_spec::{Degrade, MaxLoss, ServiceSpec, SpareKind, Spec, Workload};

use super::{Affected, Effect, How, Thing, times};
use crate::standing::Standing;

/// The number of a node among the file's nodes.
pub(crate) type NodeNo = u32;

/// What is judged.
pub(crate) struct System {
    /// Domains of machines with the nodes in them that are up; a domain that is down already is not among them.
    pub(crate) domains: Vec<(Thing, Vec<NodeNo>)>,
    /// The domains each node is in, by their place in `domains`.
    pub(crate) domains_of: Vec<Vec<u32>>,
    pub(crate) parts: Vec<Part>,
    /// Voters that are up.
    pub(crate) voters_up: Vec<NodeNo>,
    /// How many voters a quorum takes.
    pub(crate) quorum: usize,
    names: Vec<NodeName>,
}

/// One thing that serves: a service or a floating address.
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) service: Option<ServiceId>,
    pub(crate) kind: PartKind,
    /// Instances that are well, on nodes that are up.
    pub(crate) seats: Vec<(NodeNo, bool)>,
}

pub(crate) enum PartKind {
    /// Several may act; so many carry the load.
    Balanced { need: usize, spares_run: bool },
    /// One acts, with a grant.
    Exclusive,
    /// One acts, with a grant, and acknowledges a write only with so many standbys.
    Database { sync: usize, waits: bool },
    /// A floating address. Where the holder is not known, any node may be the one.
    Address { holder: Option<NodeNo> },
    /// Who decides; its seats are the voters.
    Coordinator { holder: Option<NodeNo> },
    /// Copies in a directory of these nodes.
    Repository,
}

impl System {
    pub(crate) fn new(spec: &Spec, standing: &Standing) -> Self {
        let names: Vec<NodeName> = spec.nodes.keys().cloned().collect();
        let numbers: BTreeMap<&NodeName, NodeNo> = spec.nodes.keys().zip(0..).collect();
        let up = |node: &NodeName| !standing.down.contains(node);
        let domains = domains(spec, &up, &numbers);
        let mut domains_of = vec![Vec::new(); names.len()];
        for (at, (_, nodes)) in (0..).zip(&domains) {
            for node in nodes {
                domains_of[*node as usize].push(at);
            }
        }
        let services = spec.services.values().map(|service| {
            let seats = standing.seats.get(&service.id).into_iter().flatten();
            let seats = seats.filter(|(node, seat)| seat.well && up(node));
            let seats = seats.filter_map(|(node, seat)| Some((*numbers.get(node)?, seat.serves)));
            let (name, kind) = (service.id.to_string(), part_kind(spec, service));
            Part { name, service: Some(service.id.clone()), kind, seats: seats.collect() }
        });
        let addresses = spec.listeners.iter().filter(|(_, listener)| listener.vip.is_some()).map(|(name, _)| {
            let carriers = spec.nodes.iter().filter(|(node, declared)| !declared.witness && up(node));
            let holder = standing.holders.get(name).and_then(|node| numbers.get(node)).copied();
            Part {
                name: format!("listen.{name}"),
                service: None,
                kind: PartKind::Address { holder },
                seats: carriers.map(|(node, _)| (numbers[node], true)).collect(),
            }
        });
        let voters = spec.voters();
        let coordinator = Part {
            name: "coordinator".to_owned(),
            service: None,
            kind: PartKind::Coordinator { holder: standing.coordinator.as_ref().and_then(|n| numbers.get(n)).copied() },
            seats: voters.iter().filter(|node| up(node)).map(|node| (numbers[node], false)).collect(),
        };
        let copies = spec.backups.iter().filter(|(_, backup)| backup.to.starts_with("file:") && !backup.on.is_empty());
        let copies = copies.map(|(name, backup)| Part {
            name: format!("backup.{name}"),
            service: None,
            kind: PartKind::Repository,
            seats: backup.on.iter().filter(|node| up(node)).map(|node| (numbers[node], true)).collect(),
        });
        let parts = services.chain(addresses).chain(copies).chain([coordinator]).collect();
        let voters_up = voters.iter().filter(|node| up(node)).filter_map(|node| numbers.get(node)).copied().collect();
        Self { domains, domains_of, parts, voters_up, quorum: voters.len() / 2 + 1, names }
    }

    pub(crate) fn name(&self, node: NodeNo) -> NodeName {
        self.names[node as usize].clone()
    }

    pub(crate) fn has_quorum_without(&self, gone: &dyn Fn(NodeNo) -> bool) -> bool {
        self.voters_up.iter().filter(|node| !gone(**node)).count() >= self.quorum
    }
}

/// Every domain that the file names, with the nodes in it that are up.
fn domains(
    spec: &Spec,
    up: &dyn Fn(&NodeName) -> bool,
    numbers: &BTreeMap<&NodeName, NodeNo>,
) -> Vec<(Thing, Vec<NodeNo>)> {
    let mut domains: BTreeMap<Thing, Vec<NodeNo>> = BTreeMap::new();
    for (name, node) in spec.nodes.iter().filter(|(name, _)| up(name)) {
        let rack = node.rack.is_some().then(|| Thing::Rack(spec.domain_of(name, DomainLevel::Rack)));
        let site = node.site.is_some().then(|| Thing::Site(spec.site_of(name)));
        for thing in [Some(Thing::Node(name.clone())), rack, site].into_iter().flatten() {
            domains.entry(thing).or_default().push(numbers[name]);
        }
    }
    domains.into_iter().collect()
}

fn part_kind(spec: &Spec, service: &ServiceSpec) -> PartKind {
    match &service.workload {
        Workload::Postgres(postgres) => {
            PartKind::Database { sync: sync_standbys(spec, service) as usize, waits: postgres.degrade == Degrade::Wait }
        }
        Workload::App(_) if service.exclusive => PartKind::Exclusive,
        Workload::App(_) => {
            PartKind::Balanced { need: service.need as usize, spares_run: service.spare == SpareKind::Hot }
        }
    }
}

/// How many standbys a commit waits for: as stated, else one where nothing may be lost.
pub fn sync_standbys(spec: &Spec, service: &ServiceSpec) -> u32 {
    match &service.workload {
        Workload::Postgres(postgres) => postgres.sync.unwrap_or(u32::from(spec.goal.max_loss == MaxLoss::Zero)),
        Workload::App(_) => 0,
    }
}

impl Part {
    /// What becomes of it when some nodes, or one of its own instances, are gone.
    ///
    /// `lost` tells which seats are lost, `machines` whether with their machines.
    pub(crate) fn verdict(&self, lost: &dyn Fn(NodeNo) -> bool, machines: bool, quorum: bool) -> Verdict {
        let left = self.seats.iter().filter(|(node, _)| !lost(*node));
        let up = left.clone().count();
        let serving = left.filter(|(_, serves)| *serves).count();
        let hurt = self.seats.iter().any(|(node, serves)| *serves && lost(*node));
        let carries = matches!(self.kind, PartKind::Balanced { .. } | PartKind::Exclusive | PartKind::Database { .. });
        if carries && quorum && up > 0 && !self.seats.iter().any(|(_, serves)| *serves) {
            // Somebody is about to take over, or cannot: nothing is served either way.
            return Verdict::degraded(Duration::ZERO, How::NobodyServes);
        }
        match &self.kind {
            PartKind::Balanced { need, spares_run } => {
                // Without a quorum nobody decides, so no spare is given traffic.
                let carry = if quorum { up } else { serving };
                let (outage, how) = match () {
                    _ if !hurt => (Duration::ZERO, How::Untouched),
                    _ if serving > 0 && machines => (times::ejection(), How::OthersCarryOn),
                    _ if serving > 0 => (times::PROCESS_DEAD, How::OthersCarryOn),
                    _ if machines => (times::takeover(), How::SpareTakesOver { started: !spares_run }),
                    _ => (times::RESTART, How::SpareTakesOver { started: !spares_run }),
                };
                match carry {
                    0 => Verdict::lost(if quorum || up == 0 { How::NothingLeft } else { How::NoQuorum }),
                    carry if carry < *need => Verdict::degraded(outage, How::Short { up: carry, need: *need }),
                    _ => Verdict::holds(outage, how),
                }
            }
            PartKind::Coordinator { .. } if !quorum => Verdict::degraded(Duration::ZERO, How::NobodyDecides),
            PartKind::Coordinator { holder } => match holder.is_some_and(lost) {
                true => Verdict::holds(Duration::ZERO, How::DecidesElsewhere),
                false => Verdict::holds(Duration::ZERO, How::Untouched),
            },
            PartKind::Repository => match up {
                0 => Verdict::degraded(Duration::ZERO, How::CopiesGone),
                _ => Verdict::holds(Duration::ZERO, How::Untouched),
            },
            PartKind::Exclusive | PartKind::Database { .. } | PartKind::Address { .. } if !quorum => {
                Verdict::lost(How::NoQuorum)
            }
            _ if up == 0 => Verdict::lost(How::NothingLeft),
            PartKind::Exclusive => match (hurt, machines) {
                (false, _) => Verdict::holds(Duration::ZERO, How::Untouched),
                (true, true) => Verdict::holds(times::takeover(), How::RoleMoves),
                (true, false) => Verdict::holds(times::RESTART, How::RestartedOrMoved),
            },
            PartKind::Database { sync, waits } => {
                let (outage, how) = match (hurt, machines) {
                    (false, _) => (Duration::ZERO, How::Untouched),
                    (true, true) => (times::takeover_of_database(*sync > 0), How::RoleMoves),
                    (true, false) => (times::DATABASE_RESTART, How::RestartedOrMoved),
                };
                match up - 1 < *sync && *waits {
                    true => Verdict::degraded(outage, How::WritesWait { standbys: up - 1, sync: *sync }),
                    false => Verdict::holds(outage, how),
                }
            }
            PartKind::Address { holder } => {
                let moves = machines && holder.is_none_or(lost) && self.seats.iter().any(|(node, _)| lost(*node));
                match moves {
                    true => Verdict::holds(times::takeover(), How::AddressMoves),
                    false => Verdict::holds(Duration::ZERO, How::Untouched),
                }
            }
        }
    }

    /// Whether a failure may lose acknowledged writes of it: an asynchronous database whose primary is lost.
    pub(crate) fn may_lose_writes(&self, lost: &dyn Fn(NodeNo) -> bool) -> bool {
        let primary_lost = self.seats.iter().any(|(node, serves)| *serves && lost(*node));
        match self.kind {
            PartKind::Database { sync, waits } => {
                let left = self.seats.iter().filter(|(node, _)| !lost(*node)).count();
                let went_on_without = !waits && self.seats.len().saturating_sub(1) < sync;
                // Every copy gone is lost too, however many were waited for.
                (primary_lost && (sync == 0 || went_on_without)) || left == 0
            }
            _ => false,
        }
    }
}

/// What becomes of one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) effect: Effect,
    /// How long it is away; none when only a repair brings it back.
    pub(crate) outage: Option<Duration>,
    pub(crate) how: How,
}

impl Verdict {
    fn holds(outage: Duration, how: How) -> Self {
        Self { effect: Effect::Holds, outage: Some(outage), how }
    }

    fn degraded(outage: Duration, how: How) -> Self {
        Self { effect: Effect::Degraded, outage: Some(outage), how }
    }

    fn lost(how: How) -> Self {
        Self { effect: Effect::Lost, outage: None, how }
    }

    pub(crate) fn is_untouched(&self) -> bool {
        self.effect == Effect::Holds && self.how == How::Untouched
    }

    pub(crate) fn of(self, part: &Part) -> Affected {
        Affected { what: part.name.clone(), effect: self.effect, outage: self.outage, how: self.how }
    }
}
