//! The five models side by side for one service: instances, what they survive, minutes per year, cost.

use std::collections::BTreeSet;

use backstay_model::{DomainLevel, ServiceId};
use backstay_spec::{NodeSpec, PricesSpec, Redundancy, ServiceSpec, Spec};
use serde::Serialize;

use crate::contingency::{Pair, assess, pair_fells};
use crate::forecast::{Forecast, Forecaster};
use crate::predict::{Downtime, HOURS_PER_YEAR, OutOfRange, Prices, yearly_cost};
use crate::standing::Standing;

/// All models, from none to two full sets and one more.
pub const MODELS: [Redundancy; 5] =
    [Redundancy::N, Redundancy::NPlus1, Redundancy::NPlus2, Redundancy::TwoN, Redundancy::TwoNPlus1];

/// One model of one service.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The model: `N+1`.
    pub model: String,
    /// Whether the file declares it now.
    pub is_declared: bool,
    /// Instances that it asks for.
    pub instances: u32,
    /// Domains it survives the loss of, by trying them: `any 2 nodes`.
    pub survives: String,
    /// Whether the cluster of this file can carry it in full.
    pub fits: bool,
    /// What it would take, when it does not fit.
    pub lacks: Option<String>,
    /// Minutes down per year, as predicted; null when it can't be placed.
    pub minutes_per_year: Option<f64>,
    /// The prediction itself.
    pub forecast: Option<Forecast>,
    /// What a year costs with it, when the file has prices.
    pub cost_per_year: Option<f64>,
    /// What each minute less costs, against the row before; null where nothing is won.
    pub cost_per_minute_saved: Option<f64>,
}

/// Compares the models of a service on the file's cluster. Every model is placed, tried and predicted like the declared
/// one; where the cluster has no room for it, with as many nodes more as it takes.
///
/// # Errors
/// When a rate of the file is out of the range that predictions take.
pub fn models(spec: &Spec, service: &ServiceId) -> Result<Vec<Row>, OutOfRange> {
    let mut rows: Vec<Row> = Vec::new();
    let Some(declared) = spec.services.get(service) else { return Ok(rows) };
    for model in MODELS {
        let mut spec = spec.clone();
        let Some(service) = spec.services.get_mut(&declared.id) else { continue };
        service.redundancy = model;
        let service = service.clone();
        let mut row = row(&spec, &service, model == declared.redundancy)?;
        if let (Some(before), Some(cost), Some(minutes)) = (rows.last(), row.cost_per_year, row.minutes_per_year) {
            let saved = before.minutes_per_year.map(|before| before - minutes).filter(|saved| *saved > 1e-9);
            // Only what redundancy itself costs: the price of outages is what it is weighed against.
            row.cost_per_minute_saved = saved.zip(before.cost_per_year).map(|(saved, before)| (cost - before) / saved);
        }
        rows.push(row);
    }
    Ok(rows)
}

fn row(spec: &Spec, service: &ServiceSpec, is_declared: bool) -> Result<Row, OutOfRange> {
    let Roomy { spec, standing, added, is_short } = with_room(spec, service);
    let forecast = Forecaster::new(&spec, &[])?.forecast(service, &standing, true).ok();
    let cost = match (&spec.prices, &forecast) {
        (Some(prices), Some(forecast)) => Some(cost(&spec, service, prices, &standing, forecast)?),
        _ => None,
    };
    let lacks = match added {
        0 => None,
        _ if is_short => Some("room that more nodes alone do not give".to_owned()),
        1 => Some("1 more node".to_owned()),
        count => Some(format!("{count} more nodes")),
    };
    Ok(Row {
        model: service.redundancy.to_string(),
        is_declared,
        instances: service.instances_wanted(),
        survives: survives(&spec, service, &standing),
        fits: added == 0,
        lacks,
        minutes_per_year: forecast.as_ref().map(|forecast| forecast.with_store_min_per_year),
        cost_per_year: cost,
        cost_per_minute_saved: None,
        forecast,
    })
}

/// A cluster with room for a model.
struct Roomy {
    spec: Spec,
    standing: Standing,
    /// So many nodes were added.
    added: u32,
    /// There is still not enough: not nodes are what is missing.
    is_short: bool,
}

/// The cluster with as many nodes more as the model needs, each in a rack of its own where there are racks, and in a site of
/// its own where the model is spread over sites.
fn with_room(spec: &Spec, service: &ServiceSpec) -> Roomy {
    let mut spec = spec.clone();
    let has_racks = spec.nodes.values().any(|node| node.rack.is_some());
    let mut added = 0;
    loop {
        let (standing, placement) = Standing::planned(&spec, &BTreeSet::new());
        let like = spec.nodes.values().find(|node| !node.witness).cloned();
        let (Some(short), Some(like), true) =
            (placement.short.get(&service.id), like, added <= service.instances_wanted())
        else {
            let is_short = placement.short.contains_key(&service.id);
            return Roomy { spec, standing, added, is_short };
        };
        let name = format!("more{added}");
        let gap = short.gaps.first().and_then(|gap| gap.site.clone());
        let site = match service.spread {
            DomainLevel::Site => Some(name.clone()),
            _ => gap.or_else(|| like.site.clone()),
        };
        let rack = has_racks.then(|| name.clone());
        spec.nodes.insert(name.as_str().into(), NodeSpec { rack, site, voter: Some(false), slots: None, ..like });
        added += 1;
    }
}

/// What a service survives by itself, by trying: every domain of its level alone, then every pair.
fn survives(spec: &Spec, service: &ServiceSpec, standing: &Standing) -> String {
    let mut alone = spec.clone();
    alone.services.retain(|id, _| *id == service.id);
    alone.listeners.clear();
    alone.backups.clear();
    let level = if service.sites.is_empty() { service.spread } else { DomainLevel::Site };
    let name = service.id.to_string();
    let all = assess(&alone, standing);
    let domains: Vec<_> = all.singles.iter().filter(|single| single.thing.level() == Some(level)).collect();
    let fatal = domains.iter().filter(|single| single.fells(&name)).count();
    if fatal > 0 {
        return match fatal == domains.len() {
            true => format!("no {level}"),
            false => format!("any {level} but {fatal}"),
        };
    }
    let fells = |pair: &&Pair| {
        pair.0.level() == Some(level) && pair.1.level() == Some(level) && pair_fells(&alone, standing, pair, &name)
    };
    match all.fatal_pairs.iter().filter(fells).count() {
        0 if domains.len() > 2 => format!("any 2 {level}s"),
        _ => format!("any 1 {level}"),
    }
}

fn cost(
    spec: &Spec,
    service: &ServiceSpec,
    prices: &PricesSpec,
    standing: &Standing,
    forecast: &Forecast,
) -> Result<f64, OutOfRange> {
    let seats: Vec<_> = standing.seats.get(&service.id).into_iter().flatten().map(|(node, _)| node).collect();
    let used = |level: DomainLevel| seats.iter().map(|node| spec.domain_of(node, level)).collect::<BTreeSet<_>>().len();
    let places = [
        (DomainLevel::Node, prices.node, true),
        (DomainLevel::Rack, prices.rack, spec.nodes.values().any(|node| node.rack.is_some())),
        (DomainLevel::Site, prices.site, spec.nodes.values().any(|node| node.site.is_some())),
    ];
    let places = places.into_iter().filter(|(.., named)| *named);
    let domain = places.map(|(level, price, _)| f64::from(price) * used(level) as f64).sum();
    let prices = Prices {
        unit: f64::from(prices.instance),
        domain,
        downtime_h: f64::from(prices.outage_hour),
        outage: f64::from(prices.outage),
    };
    let downtime = Downtime {
        unavailability: forecast.with_store_min_per_year / 60.0 / HOURS_PER_YEAR,
        outages_per_h: forecast.prediction.outages_per_year / HOURS_PER_YEAR,
    };
    Ok(yearly_cost(&prices, seats.len() as u32, 1, downtime)?.total())
}
