//! One service on one layout: how long and how often it will be down, and why.
//!
//! Three kinds of downtime, added up. *Exhausted*: fewer units left than needed, exact from the tree of failure domains.
//! *Failover*: a domain or a unit that carries fails, spares are left and take over; the rate of such events that the
//! service survives, from the same tree, times the failover's length. *Uncovered*: those of them that do not happen by
//! themselves. On a layout without domains this is the chain of [`ActivePassive`](super::ActivePassive): equal for one
//! spare, and within a fraction u (the unavailability of one unit) for more.

mod band;
mod model;
mod outage_length;
mod sites;
mod tornado;

pub use band::{Band, DRAWS, band};
pub use sites::across_sites;
pub use tornado::{Elasticity, Parameter, tornado};

use std::collections::BTreeMap;

use backstay_spec::Mode;
use serde::Serialize;

use model::Model;
use outage_length::OutageLengths;

use super::downtime::{Downtime, HOURS_PER_YEAR, minutes_per_year};
use super::range::{self, OutOfRange};
use super::rates::{Level, Times};

/// The failure domains of a cluster: sites, racks in them, nodes in these. Shared by all predictions of its services.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    domains: Vec<Domain>,
}

/// A domain of a [`Layout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DomainId(usize);

#[derive(Clone, Debug)]
struct Domain {
    name: String,
    level: Level,
    parent: Option<usize>,
    times: Times,
}

impl Layout {
    /// Adds a domain inside another one, or at the top. The times are its own: those of what its nodes share.
    ///
    /// # Errors
    /// When the times are out of their range, or `within` is of another layout.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        level: Level,
        within: Option<DomainId>,
        times: Times,
    ) -> Result<DomainId, OutOfRange> {
        let (name, number) = (name.into(), self.domains.len());
        if let Some(parent) = within.filter(|parent| parent.0 >= number) {
            return Err(OutOfRange::new(format!("domain around {name}"), parent.0, format!("below {number}")));
        }
        check_times(&format!("{level} {name}"), times)?;
        self.domains.push(Domain { name, level, parent: within.map(|parent| parent.0), times });
        Ok(DomainId(number))
    }

    /// What a domain is called.
    pub fn name(&self, domain: DomainId) -> &str {
        self.domains.get(domain.0).map_or("", |domain| domain.name.as_str())
    }
}

/// One instance: where it is, and whether it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The domain that it is in, most often a node.
    pub domain: DomainId,
    /// It carries traffic or holds the role; false: it is a spare. In active/active mode all carry.
    pub is_active: bool,
}

/// What happens when something that carries fails.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recovery {
    /// How long a failover takes, in hours; in active/active mode, until a failed unit is ejected.
    pub failover_h: f64,
    /// The probability that it happens by itself.
    pub coverage: f64,
    /// How long people take when it does not, in hours.
    pub uncovered_h: f64,
}

/// Failovers that were tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Drills {
    /// Those that worked.
    pub passed: u32,
    /// Those that did not.
    pub failed: u32,
}

/// Spares whose death is seen only when they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LatentSpares {
    /// Mean time until a spare dies unnoticed, in hours.
    pub mttf_h: f64,
    /// Hours between two drills.
    pub drilled_every_h: f64,
}

/// Failures that were seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// How many.
    pub failures: u32,
    /// Within so many hours, those of all units of the level added up.
    pub unit_hours: f64,
}

/// A service to be predicted.
#[derive(Clone, Debug)]
pub struct Service<'a> {
    /// The domains of its cluster.
    pub layout: &'a Layout,
    /// Its instances.
    pub units: Vec<Unit>,
    /// How often an instance fails by itself, its node being well.
    pub unit: Times,
    /// Instances that carry the full load.
    pub need: u32,
    /// Whether those beyond that carry too.
    pub mode: Mode,
    /// What happens when something that carries fails.
    pub recovery: Recovery,
    /// Units that can be under repair at once; none: all of them.
    pub crews: Option<u32>,
    /// Failovers that were tried; they outweigh the declared coverage soon.
    pub drills: Option<Drills>,
    /// Spares that may be dead unnoticed; of no meaning in active/active mode.
    pub latent: Option<LatentSpares>,
    /// Failures that were seen, by level; they outweigh the declared times soon.
    pub measured: BTreeMap<Level, Measured>,
}

/// One kind of downtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Part {
    /// Part of the time.
    pub unavailability: f64,
    /// How often, per year of 8760 h.
    pub outages_per_year: f64,
}

/// What is to be expected.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Part of the time with fewer than `need` units carrying, for any reason.
    pub unavailability: f64,
    /// The part of it in failovers that work. In active/active mode there is none: they cost requests, not capacity.
    pub failover: Part,
    /// The part of it in which people recover from failovers that did not happen.
    pub uncovered: Part,
    /// The part of it with fewer units left than needed.
    pub exhausted: Part,
    /// Outages of all three kinds, per year of 8760 h.
    pub outages_per_year: f64,
    /// Minutes down per year of 8760 h.
    pub downtime_min_per_year: f64,
    /// Half of all outages are over within so many seconds; none when there are no outages.
    pub outage_p50_s: Option<f64>,
    /// 99 of 100 outages are over within so many seconds.
    pub outage_p99_s: Option<f64>,
    /// Capacity missing, as a part of that of `need` units.
    pub capacity_weighted: f64,
    /// Requests lost, as a part of all, at a steady load that `need` units just carry.
    pub request_weighted: f64,
    /// The probability that a failover works, after drills and latent spares.
    pub coverage: f64,
    /// What this rests on, for people.
    pub assumptions: Vec<String>,
}

/// Predicts one service. Only the domains that hold its units are looked at: tens of microseconds.
///
/// # Errors
/// Names what is out of its range: times, coverage, or a `need` that the units cannot fill.
pub fn predict(service: &Service<'_>) -> Result<Prediction, OutOfRange> {
    let model = Model::of(service)?;
    let figures = model.solve(&model.parameters)?;
    let lengths =
        OutageLengths::default().alike(figures.failover).exponential(figures.uncovered).exponential(figures.exhausted);
    Ok(Prediction::new(figures, &lengths, model.coverage(&model.parameters), assumptions(service, &model)))
}

/// The numbers of a [`Prediction`]: parts of the time, and events per hour.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Figures {
    failover: Downtime,
    uncovered: Downtime,
    exhausted: Downtime,
    capacity_weighted: f64,
    request_weighted: f64,
}

impl Figures {
    fn unavailability(&self) -> f64 {
        self.failover.unavailability + self.uncovered.unavailability + self.exhausted.unavailability
    }
}

impl Prediction {
    fn new(figures: Figures, lengths: &OutageLengths, coverage: f64, assumptions: Vec<String>) -> Self {
        let part = |of: Downtime| Part { unavailability: of.unavailability, outages_per_year: of.outages_per_year() };
        let parts = [part(figures.failover), part(figures.uncovered), part(figures.exhausted)];
        Self {
            unavailability: figures.unavailability(),
            failover: parts[0],
            uncovered: parts[1],
            exhausted: parts[2],
            outages_per_year: parts.iter().map(|part| part.outages_per_year).sum(),
            downtime_min_per_year: minutes_per_year(figures.unavailability()),
            outage_p50_s: lengths.exceeded_by_s(0.5),
            outage_p99_s: lengths.exceeded_by_s(0.01),
            capacity_weighted: figures.capacity_weighted,
            request_weighted: figures.request_weighted,
            coverage,
            assumptions,
        }
    }
}

fn assumptions(service: &Service<'_>, model: &Model) -> Vec<String> {
    let mut said = vec![
        "domains and instances fail independently; a domain takes with it all that is in it".to_owned(),
        "what instances share beyond the layout (DNS, power, a faulty release) never fails; no planned work".to_owned(),
        format!("a year has {HOURS_PER_YEAR} h; nothing fails during a failover"),
    ];
    let declared = service.recovery.coverage * 100.0;
    said.push(match service.drills {
        None => format!("{declared} % of failovers work by themselves: declared, not drilled"),
        Some(Drills { passed, failed }) => format!(
            "{:.4} % of failovers work by themselves: {passed} of {} drills passed, and the declared {declared} % counts as \
             one failure",
            (1.0 - model.parameters.gap) * 100.0,
            u64::from(passed) + u64::from(failed),
        ),
    });
    if let (Some(latent), Mode::ActivePassive) = (service.latent, service.mode) {
        said.push(format!(
            "a spare dies unnoticed every {} h and is tried every {} h: dead {:.2} % of the time",
            latent.mttf_h,
            latent.drilled_every_h,
            model.latent * 100.0
        ));
    }
    said.push(match service.crews {
        None => "everything that failed is repaired at once".to_owned(),
        Some(crews) => format!(
            "{crews} at a time are repaired: what is exhausted is scaled as if all units were alike and shared no domain"
        ),
    });
    said.extend(service.measured.iter().map(|(level, seen)| {
        format!(
            "{level}: {} failures in {} h were seen, and the declared time counts as one",
            seen.failures, seen.unit_hours
        )
    }));
    said
}

fn check_times(what: &str, times: Times) -> Result<(), OutOfRange> {
    let rate = range::failure_rate(&format!("MTTF of {what}"), times.mttf_h)?;
    if rate > 0.0 {
        range::repair_rate(&format!("MTTR of {what}"), times.mttr_h)?;
    }
    Ok(())
}
