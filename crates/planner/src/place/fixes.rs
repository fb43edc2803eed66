//! What would give a service its model: every change that is offered was tried, by placing everything again.

use backstay_model::{DomainLevel, NodeName, ServiceId};
use backstay_spec::{Redundancy, ServiceSpec};

use super::shortage::NAMED_MAX;
use super::{Cause, Demand, Fix, Gap, Location, Placement, Shortage, place};
use crate::topology::{Carrier, Topology};

/// From the largest promise to the smallest.
const MODELS: [Redundancy; 5] =
    [Redundancy::TwoNPlus1, Redundancy::TwoN, Redundancy::NPlus2, Redundancy::NPlus1, Redundancy::N];

/// Changes each of which gives a service its model in full where it lacks something now: in all its sites, or for
/// further slots and nodes, in the site that they are in. No other service has less by them. First those that keep the
/// promise.
///
/// Places everything some dozens of times: for a plan, not for a decision.
pub fn fixes(topology: &Topology, demands: &[Demand<'_>], service: &ServiceId) -> Vec<Fix> {
    let now = place(topology, demands);
    let Some(demand) = demands.iter().find(|demand| demand.service.id == *service) else { return Vec::new() };
    let Some(short) = now.short.get(service) else { return Vec::new() };
    let bench = Bench { topology, demands, now: &now, service: demand.service };
    let mut fixes = Vec::new();
    for gap in &short.gaps {
        fixes.extend(bench.raised_slots(gap));
        fixes.extend(bench.added_nodes(gap));
    }
    fixes.extend(bench.lower_spread());
    fixes.extend(bench.lower_model());
    fixes.extend(bench.lower_need());
    fixes
}

/// Where changes are tried.
struct Bench<'a> {
    topology: &'a Topology,
    demands: &'a [Demand<'a>],
    now: &'a Placement,
    service: &'a ServiceSpec,
}

impl Bench<'_> {
    /// Whether others have as much as before.
    fn spares_others(&self, after: &Placement) -> bool {
        after.short.iter().filter(|(id, _)| **id != self.service.id).all(|(id, short)| {
            let before = self.now.short.get(id);
            before.is_some_and(|before| before.placed <= short.placed)
        })
    }

    fn short_after<'p>(&self, after: &'p Placement) -> Option<&'p Shortage> {
        after.short.get(&self.service.id)
    }

    /// Whether the model holds everywhere with the service changed.
    fn changed(&self, service: &ServiceSpec) -> bool {
        let change = |demand: &Demand<'_>| demand.service.id == service.id;
        let demands = self
            .demands
            .iter()
            .map(|demand| Demand { service: if change(demand) { service } else { demand.service }, ..demand.clone() });
        let after = place(self.topology, &demands.collect::<Vec<_>>());
        self.short_after(&after).is_none() && self.spares_others(&after)
    }

    /// Whether a gap is closed with other nodes, and none has opened.
    fn closes(&self, gap: &Gap, carriers: Vec<Carrier>) -> bool {
        let after = place(&Topology::new(carriers), self.demands);
        let before = self.now.short.get(&self.service.id).map_or(0, |short| short.gaps.len());
        let gaps = self.short_after(&after).map_or(&[][..], |short| &short.gaps);
        gaps.len() < before && gaps.iter().all(|other| other.site != gap.site) && self.spares_others(&after)
    }

    fn lower_spread(&self) -> Option<Fix> {
        let levels = [DomainLevel::Rack, DomainLevel::Node].into_iter().filter(|level| *level < self.service.spread);
        let mut tried = levels.filter(|level| self.changed(&ServiceSpec { spread: *level, ..self.service.clone() }));
        tried.next().map(Fix::LowerSpread)
    }

    fn lower_model(&self) -> Option<Fix> {
        let models = MODELS.into_iter().skip_while(|model| *model != self.service.redundancy).skip(1);
        let mut tried =
            models.filter(|model| self.changed(&ServiceSpec { redundancy: *model, ..self.service.clone() }));
        tried.next().map(Fix::LowerModel)
    }

    /// The largest load that can be carried, by halving.
    fn lower_need(&self) -> Option<Fix> {
        let (mut possible, mut too_much) = (0, self.service.need);
        while possible + 1 < too_much {
            let need = possible + (too_much - possible) / 2;
            match self.changed(&ServiceSpec { need, ..self.service.clone() }) {
                true => possible = need,
                false => too_much = need,
            }
        }
        (possible > 0).then_some(Fix::LowerNeed(possible))
    }

    /// One node that takes one more instance: a full one, or one that is too small.
    fn raised_slots(&self, gap: &Gap) -> Option<Fix> {
        let full: &[NodeName] = match &gap.cause {
            Cause::TooFewSlots { full } => full,
            Cause::TooFewNodes { .. } | Cause::TooFewDomains { .. } => &[],
        };
        let wants_more = |carrier: &&Carrier| {
            let is_small = carrier.slots.is_some_and(|slots| slots < self.service.slots);
            let is_here = gap.site.as_ref().is_none_or(|site| carrier.site == *site);
            full.contains(&carrier.name) || (is_small && is_here)
        };
        let nodes = self.topology.carriers().iter().filter(wants_more).take(NAMED_MAX);
        let mut ways = nodes.flat_map(|carrier| self.enough_slots().map(move |more| (carrier, more)));
        ways.find_map(|(carrier, more)| {
            let slots = carrier.slots?.saturating_add(more);
            let mut carriers = self.topology.carriers().to_vec();
            carriers.iter_mut().filter(|other| other.name == carrier.name).for_each(|other| other.slots = Some(slots));
            self.closes(gap, carriers).then(|| Fix::RaiseSlots { node: carrier.name.clone(), slots })
        })
    }

    /// As many nodes as instances are missing: none does the work of two. One more where others are as needy.
    fn added_nodes(&self, gap: &Gap) -> Vec<Fix> {
        let is_limited = self.topology.carriers().iter().any(|carrier| carrier.slots.is_some());
        let counts = [gap.missing, gap.missing.saturating_add(1)];
        let ways = counts.into_iter().flat_map(|count| self.enough_slots().map(move |slots| (count, slots)));
        let ways: Vec<_> = ways.map(|(count, slots)| (count, is_limited.then_some(slots))).collect();
        let new_domain = Location::NewDomain { level: self.service.spread, site: gap.site.clone() };
        let locations = self.roomy_domains(gap).into_iter().chain([new_domain]);
        let tried = locations.filter_map(|location| {
            let is_enough = |(count, slots): &&(u32, Option<u32>)| {
                let mut carriers = self.topology.carriers().to_vec();
                carriers.extend((0..*count).map(|at| self.new_node(&location, at, *slots)));
                self.closes(gap, carriers)
            };
            let (count, slots) = *ways.iter().find(is_enough)?;
            Some(Fix::AddNodes { count, slots, location })
        });
        tried.collect()
    }

    /// The slots of one instance; if others lack slots too, room for one of each of them.
    fn enough_slots(&self) -> impl Iterator<Item = u32> {
        let is_short = |demand: &&Demand<'_>| self.now.short.contains_key(&demand.service.id);
        let of_all = self.demands.iter().filter(is_short).map(|demand| demand.service.slots).sum();
        [self.service.slots, of_all].into_iter()
    }

    /// Domains in which further instances could count: those of models with more than one instance to a domain.
    fn roomy_domains(&self, gap: &Gap) -> Vec<Location> {
        let is_alone = matches!(self.service.redundancy, Redundancy::NPlus1 | Redundancy::NPlus2);
        let level = self.service.spread;
        if is_alone || level == DomainLevel::Node {
            return Vec::new();
        }
        let here = |carrier: &&Carrier| {
            gap.site.as_ref().is_none_or(|site| level != DomainLevel::Site && carrier.site == *site)
        };
        let carriers = self.topology.carriers().iter().filter(here);
        let mut domains: Vec<&str> =
            carriers.filter_map(|carrier| self.topology.domain_of(&carrier.name, level)).collect();
        domains.sort_unstable();
        domains.dedup();
        domains.truncate(NAMED_MAX);
        domains.into_iter().map(|domain| Location::Inside { level, domain: domain.to_owned() }).collect()
    }

    fn new_node(&self, location: &Location, at: u32, slots: Option<u32>) -> Carrier {
        // No name in a file has a space.
        let name = NodeName(format!("new node {at}"));
        let somewhere = self.topology.carriers().first().map(|carrier| carrier.site.clone()).unwrap_or_default();
        match location {
            Location::NewDomain { level: DomainLevel::Site, .. } => {
                Carrier { name, rack: None, site: format!("new site {at}"), slots }
            }
            Location::NewDomain { site, .. } => {
                Carrier { name, rack: None, site: site.clone().unwrap_or(somewhere), slots }
            }
            Location::Inside { level, domain } => {
                let mut carriers = self.topology.carriers().iter();
                let model = carriers.find(|one| self.topology.domain_of(&one.name, *level) == Some(domain.as_str()));
                let rack = model.filter(|_| *level == DomainLevel::Rack).and_then(|one| one.rack.clone());
                Carrier { name, rack, site: model.map_or(somewhere, |one| one.site.clone()), slots }
            }
        }
    }
}
