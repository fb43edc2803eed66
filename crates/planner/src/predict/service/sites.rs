//! One site carries, others stand by: predictions of sites put together (availability.md §2.5, after SHARPE).

use std::collections::BTreeMap;

use backstay_spec::Mode;

use super::super::downtime::{Downtime, HOURS_PER_YEAR};
use super::super::range::{self, OutOfRange};
use super::super::rates::{Level, Times};
use super::outage_length::OutageLengths;
use super::{Figures, Layout, Part, Prediction, Recovery, Service, Unit, predict};

/// Predicts a service that runs on the first of several sites and moves to the others, from its prediction on each.
///
/// The unit of the outer level is a site: it fails as often as the service on it has outages that outlast the move, and
/// its repair takes as long as they do. Shorter ones are waited out. When all sites carry there is nothing to move: put
/// all units into one layout instead.
///
/// # Errors
/// When there are no sites, one of them is never up, or the recovery is out of its range.
pub fn across_sites(sites: &[Prediction], recovery: Recovery) -> Result<Prediction, OutOfRange> {
    let Some(carrying) = sites.first() else {
        return Err(OutOfRange::new("number of sites", 0, "1 or more"));
    };
    range::delay("failover", recovery.failover_h)?;
    let mut layout = Layout::default();
    let mut units = Vec::new();
    for (number, site) in sites.iter().enumerate() {
        let name = format!("site {}", number + 1);
        let domain = layout.add(name, Level::Site, None, outer_times(site, recovery)?)?;
        units.push(Unit { domain, is_active: number == 0 });
    }
    let moved = Service {
        layout: &layout,
        units,
        unit: Times::NEVER,
        need: 1,
        mode: Mode::ActivePassive,
        recovery,
        crews: None,
        drills: None,
        latent: None,
        measured: BTreeMap::new(),
    };
    let moved = predict(&moved)?;
    let waited_out = |part: Part| if outlasts(part, recovery) { Part::default() } else { part };
    let waited = carrying.parts().map(|part| downtime(waited_out(part)));
    let waited_share = share(waited.iter().map(|part| part.unavailability).sum(), carrying.unavailability);
    let moving = moved.parts().map(downtime);
    let lengths = OutageLengths::default().alike(waited[0]).exponential(waited[1]).exponential(waited[2]);
    let lengths = lengths.alike(moving[0]).exponential(moving[1]).exponential(moving[2]);
    let [failover, uncovered, exhausted] = std::array::from_fn(|kind| sum(waited[kind], moving[kind]));
    let figures = Figures {
        failover,
        uncovered,
        exhausted,
        capacity_weighted: moved.capacity_weighted + carrying.capacity_weighted * waited_share,
        request_weighted: moved.request_weighted + carrying.request_weighted * waited_share,
    };
    let mut assumptions = carrying.assumptions.clone();
    assumptions.push(format!(
        "{} sites fail independently; one carries, and moves when an outage there outlasts the move of {} s",
        sites.len(),
        recovery.failover_h * 3600.0
    ));
    Ok(Prediction::new(figures, &lengths, moved.coverage, assumptions))
}

impl Prediction {
    fn parts(&self) -> [Part; 3] {
        [self.failover, self.uncovered, self.exhausted]
    }
}

/// Whether outages of this kind last longer than moving to another site.
fn outlasts(part: Part, recovery: Recovery) -> bool {
    part.unavailability * HOURS_PER_YEAR > part.outages_per_year * recovery.failover_h
}

fn outer_times(site: &Prediction, recovery: Recovery) -> Result<Times, OutOfRange> {
    let (mut down, mut per_year) = (0.0, 0.0);
    for part in site.parts().into_iter().filter(|part| outlasts(*part, recovery)) {
        down += part.unavailability;
        per_year += part.outages_per_year;
    }
    if !(0.0..1.0).contains(&down) {
        return Err(OutOfRange::new("unavailability of a site", down, "from 0 to less than 1"));
    }
    if per_year <= 0.0 {
        return Ok(Times::NEVER);
    }
    Ok(Times { mttf_h: (1.0 - down) * HOURS_PER_YEAR / per_year, mttr_h: down * HOURS_PER_YEAR / per_year })
}

fn downtime(part: Part) -> Downtime {
    Downtime { unavailability: part.unavailability, outages_per_h: part.outages_per_year / HOURS_PER_YEAR }
}

fn sum(a: Downtime, b: Downtime) -> Downtime {
    Downtime { unavailability: a.unavailability + b.unavailability, outages_per_h: a.outages_per_h + b.outages_per_h }
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
