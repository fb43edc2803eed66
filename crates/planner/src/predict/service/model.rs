//! A service as the equations see it: the few domains that hold its units, and the parameters that may be varied.

use std::collections::{BTreeMap, BTreeSet};

use backstay_spec::Mode;

use super::super::Downtime;
use super::super::k_of_n::KOfN;
use super::super::range::{self, OutOfRange};
use super::super::rates::Level;
use super::super::recovery::latent_probability;
use super::super::tree::{self, TREE_UNITS_MAX, Tree, TreeDowntime};
use super::{Figures, Measured, Service, check_times};

/// Levels have a place in arrays.
pub(super) const LEVELS: usize = Level::ALL.len();

/// What may be varied. Factors are on the declared times of a level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Parameters {
    /// On the failure rates of each level.
    pub failure: [f64; LEVELS],
    /// On the repair times of each level.
    pub repair: [f64; LEVELS],
    pub failover_h: f64,
    /// The probability that a failover does not happen, spares being well.
    pub gap: f64,
    pub uncovered_h: f64,
}

/// How much is known of what is uncertain: events seen, the declared value counted as one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Evidence {
    /// Failures of each level; none where nothing ever fails.
    pub failures: [Option<f64>; LEVELS],
    /// Failovers that did not happen; none where all do.
    pub gap: Option<f64>,
}

pub(super) struct Model {
    /// Each after the one around it.
    elements: Vec<Element>,
    need: u32,
    units: u32,
    active: u32,
    mode: Mode,
    crews: Option<u32>,
    /// The probability that a spare is dead unnoticed.
    pub latent: f64,
    /// The best guess.
    pub parameters: Parameters,
    pub evidence: Evidence,
}

/// A domain or a unit that may fail by itself.
struct Element {
    parent: Option<usize>,
    level: Level,
    failures_per_h: f64,
    mttr_h: f64,
    /// Units that are down exactly when it is.
    units: u32,
    /// Units in it that carry, at any depth.
    active: u32,
}

impl Model {
    pub fn of(service: &Service<'_>) -> Result<Self, OutOfRange> {
        check(service)?;
        let mut model = Self {
            elements: elements(service),
            need: service.need,
            units: service.units.len() as u32,
            active: service.units.iter().filter(|unit| carries(service, unit.is_active)).count() as u32,
            mode: service.mode,
            crews: service.crews,
            latent: 0.0,
            parameters: Parameters {
                failure: [1.0; LEVELS],
                repair: [1.0; LEVELS],
                failover_h: range::delay("failover", service.recovery.failover_h)?,
                gap: 1.0 - range::fraction("coverage", service.recovery.coverage)?,
                uncovered_h: range::delay("uncovered", service.recovery.uncovered_h)?,
            },
            evidence: Evidence { failures: [None; LEVELS], gap: None },
        };
        if let (Some(latent), Mode::ActivePassive) = (service.latent, service.mode) {
            model.latent = latent_probability(latent.mttf_h, latent.drilled_every_h)?;
        }
        model.weigh_drills(service);
        for level in Level::ALL {
            model.weigh_failures(level, service.measured.get(&level))?;
        }
        Ok(model)
    }

    /// The declared gap g counts as one failure in 1/g failovers; drills add to both. A declared gap of nothing has no
    /// such weight: with drills it counts as half a failure (Jeffreys).
    fn weigh_drills(&mut self, service: &Service<'_>) {
        let declared = self.parameters.gap;
        let Some(drills) = service.drills.filter(|drills| drills.passed > 0 || drills.failed > 0) else {
            self.evidence.gap = (declared > 0.0).then_some(1.0);
            return;
        };
        let (passed, failed) = (f64::from(drills.passed), f64::from(drills.failed));
        let (failures, tries) = if declared > 0.0 { (1.0, declared.recip()) } else { (0.5, 1.0) };
        self.parameters.gap = (failures + failed) / (tries + passed + failed);
        self.evidence.gap = Some(failures + failed);
    }

    /// The declared mean time to failure counts as one failure in that time; what was measured adds to both.
    fn weigh_failures(&mut self, level: Level, measured: Option<&Measured>) -> Result<(), OutOfRange> {
        let (mut rates, mut count) = (0.0, 0.0);
        for element in self.elements.iter().filter(|element| element.level == level) {
            rates += element.failures_per_h;
            count += 1.0;
        }
        let (mut failures, mut exposure) = (1.0, 1.0);
        if let Some(measured) = measured {
            let hours = range::amount(&format!("measured hours of {level}"), measured.unit_hours)?;
            failures += f64::from(measured.failures);
            exposure += if count > 0.0 { hours * rates / count } else { 0.0 };
        }
        if count > 0.0 {
            self.parameters.failure[level as usize] = failures / exposure;
            self.evidence.failures[level as usize] = Some(failures);
        }
        Ok(())
    }

    /// The probability that a failover works.
    pub fn coverage(&self, parameters: &Parameters) -> f64 {
        (1.0 - parameters.gap) * (1.0 - self.latent)
    }

    /// Levels of which something in it may fail.
    pub fn levels(&self) -> BTreeSet<Level> {
        self.elements.iter().map(|element| element.level).collect()
    }

    pub fn solve(&self, parameters: &Parameters) -> Result<Figures, OutOfRange> {
        let (tree, solved) = self.tree(parameters)?;
        let crews = self.crews_factor(parameters)?;
        let (mut events_per_h, mut active_lost_per_h) = (0.0, 0.0);
        for ((element, domain), effect) in self.elements.iter().zip(&tree).zip(&solved.effects) {
            if element.active > 0 {
                let survived = effect.holds_without * domain.unavailability / domain.mttr_h;
                events_per_h += survived;
                active_lost_per_h += survived * f64::from(element.active);
            }
        }
        // Working from the gap keeps the digits of a coverage near one.
        let gap = parameters.gap + (1.0 - parameters.gap) * self.latent;
        let (delayed, stuck) = (self.coverage(parameters) * parameters.failover_h, gap * parameters.uncovered_h);
        // During a failover nothing else happens: its time is added to the rest, as in the chain.
        let total = 1.0 + events_per_h * (delayed + stuck);
        let missing = missing_units(&solved, self.units, self.need) / f64::from(self.need);
        // Fewer crews leave more missing, but never more than all.
        let missing = (crews.unavailability * missing).min(1.0);
        let down = |part_h: f64, of_events: f64| Downtime {
            unavailability: events_per_h * part_h / total,
            outages_per_h: events_per_h * of_events / total,
        };
        let exhausted = Downtime {
            unavailability: (solved.downtime.unavailability * crews.unavailability).min(1.0) / total,
            outages_per_h: solved.downtime.outages_per_h * crews.outages_per_h / total,
        };
        let uncovered = down(stuck, gap);
        let (failover, lost_h, of) = match self.mode {
            Mode::ActivePassive => (down(delayed, self.coverage(parameters)), delayed + stuck, self.active),
            Mode::ActiveActive => (Downtime::default(), delayed, self.units),
        };
        let lost = active_lost_per_h * lost_h / f64::from(of);
        let (capacity, requests) = match self.mode {
            Mode::ActivePassive => ((lost + missing) / total, (lost + missing) / total),
            Mode::ActiveActive => {
                let capacity = uncovered.unavailability + missing / total;
                (capacity, capacity + lost / total)
            }
        };
        Ok(Figures { failover, uncovered, exhausted, capacity_weighted: capacity, request_weighted: requests })
    }

    fn tree(&self, parameters: &Parameters) -> Result<(Vec<tree::Domain>, TreeDowntime), OutOfRange> {
        let mut tree = Tree::default();
        let mut domains = Vec::with_capacity(self.elements.len());
        for element in &self.elements {
            let level = element.level as usize;
            let mttr_h = (element.mttr_h * parameters.repair[level]).clamp(range::TIME_MIN_H, range::DELAY_MAX_H);
            let repairs = element.failures_per_h * parameters.failure[level] * mttr_h;
            let unavailability = if repairs.is_finite() { repairs / (1.0 + repairs) } else { 1.0 };
            let domain = tree::Domain { parent: element.parent, unavailability, mttr_h, units: element.units };
            tree.add(domain)?;
            domains.push(domain);
        }
        let solved = tree.downtime(self.need)?;
        Ok((domains, solved))
    }

    /// By how much fewer crews than units make the exhausted part longer and more frequent, were all units alike and in
    /// no common domain.
    fn crews_factor(&self, parameters: &Parameters) -> Result<Downtime, OutOfRange> {
        let same = Downtime { unavailability: 1.0, outages_per_h: 1.0 };
        let Some(crews) = self.crews.filter(|crews| *crews < self.units) else { return Ok(same) };
        let (mut failures, mut repairs) = (0.0, 0.0);
        for element in &self.elements {
            let level = element.level as usize;
            let rate = element.failures_per_h * parameters.failure[level];
            failures += rate;
            repairs += rate * element.mttr_h * parameters.repair[level];
        }
        if failures <= 0.0 {
            return Ok(same);
        }
        let mttf_h = (f64::from(self.units) / failures).clamp(range::TIME_MIN_H, range::MTTF_MAX_H);
        let mttr_h = (repairs / failures).clamp(range::TIME_MIN_H, range::DELAY_MAX_H);
        let with = |crews| KOfN { n: self.units, k: self.need, mttf_h, mttr_h, crews, dormancy: 1.0 }.downtime();
        let (few, all) = (with(crews)?, with(self.units)?);
        let ratio = |few: f64, all: f64| if all > 0.0 { few / all } else { 1.0 };
        Ok(Downtime {
            unavailability: ratio(few.unavailability, all.unavailability),
            outages_per_h: ratio(few.outages_per_h, all.outages_per_h),
        })
    }
}

/// Units missing on average.
fn missing_units(solved: &TreeDowntime, units: u32, need: u32) -> f64 {
    let exhausted = &solved.failed_units[(units - need) as usize + 1..];
    (1..).zip(exhausted).map(|(missing, chance)| f64::from(missing) * chance).sum()
}

fn carries(service: &Service<'_>, is_active: bool) -> bool {
    is_active || service.mode == Mode::ActiveActive
}

fn check(service: &Service<'_>) -> Result<(), OutOfRange> {
    let units = service.units.len();
    if units == 0 || units > TREE_UNITS_MAX as usize {
        return Err(OutOfRange::new("number of units", units, format!("from 1 to {TREE_UNITS_MAX}")));
    }
    range::count("need", service.need, 1, units as u32)?;
    if !service.units.iter().any(|unit| carries(service, unit.is_active)) {
        return Err(OutOfRange::new("number of active units", 0, format!("from 1 to {units}")));
    }
    let domains = service.layout.domains.len();
    if let Some(unit) = service.units.iter().find(|unit| unit.domain.0 >= domains) {
        return Err(OutOfRange::new("domain of a unit", unit.domain.0, format!("below {domains}")));
    }
    if let Some(crews) = service.crews {
        range::count("crews", crews, 1, u32::MAX)?;
    }
    check_times("an instance", service.unit)
}

/// The domains that hold units, those around them, and the units; without what never fails.
fn elements(service: &Service<'_>) -> Vec<Element> {
    let domains = &service.layout.domains;
    let mut active = BTreeMap::<usize, u32>::new();
    for unit in &service.units {
        let mut around = Some(unit.domain.0);
        while let Some(domain) = around {
            *active.entry(domain).or_default() += u32::from(carries(service, unit.is_active));
            around = domains[domain].parent;
        }
    }
    let mut elements: Vec<Element> = Vec::with_capacity(active.len() + service.units.len());
    let mut numbers = BTreeMap::new();
    // In the order of their numbers, so that what is around comes first.
    for (&number, &active) in &active {
        let domain = &domains[number];
        let parent = domain.parent.and_then(|parent| numbers.get(&parent).copied().flatten());
        let fails = domain.times.mttf_h.is_finite();
        numbers.insert(number, if fails { Some(elements.len()) } else { parent });
        if fails {
            elements.push(Element::new(parent, domain.level, domain.times.mttf_h, domain.times.mttr_h, 0, active));
        }
    }
    for unit in &service.units {
        let parent = numbers.get(&unit.domain.0).copied().flatten();
        let active = u32::from(carries(service, unit.is_active));
        let times = service.unit;
        match parent {
            // It falls with what it is in.
            Some(parent) if times.mttf_h.is_infinite() => elements[parent].units += 1,
            // A tree needs it even when nothing ever takes it away.
            _ => elements.push(Element::new(parent, Level::Instance, times.mttf_h, times.mttr_h, 1, active)),
        }
    }
    elements
}

impl Element {
    fn new(parent: Option<usize>, level: Level, mttf_h: f64, mttr_h: f64, units: u32, active: u32) -> Self {
        let (failures_per_h, mttr_h) = if mttf_h.is_finite() { (mttf_h.recip(), mttr_h) } else { (0.0, 1.0) };
        Self { parent, level, failures_per_h, mttr_h, units, active }
    }
}
