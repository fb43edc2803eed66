//! From a file and how things stand to predictions: rates, layouts and recoveries as the product has them.

use std::collections::BTreeMap;
use std::time::Duration;

use backstay_model::{DomainLevel, NodeName};
use backstay_spec::{MaxLoss, Mode, RateSpec, ServiceSpec, Spec, Workload};
use serde::Serialize;

use crate::contingency::{ejection, sync_standbys, takeover, takeover_of_database};
use crate::predict::service::{
    Band, DomainId, Drills, Elasticity, Layout, Prediction, Recovery, Service, Unit, band, predict, tornado,
};
use crate::predict::{Level, OutOfRange, Rates, Times};
use crate::standing::Standing;

/// The part of failovers that are expected to happen by themselves before anybody has drilled any.
pub const COVERAGE: f64 = 0.99;
/// How long people take when a failover did not happen by itself.
pub const UNCOVERED: Duration = Duration::from_secs(30 * 60);

/// What is to be expected of one service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Of its instances.
    #[serde(flatten)]
    pub prediction: Prediction,
    /// Minutes down per year with the store's quorum, which exclusive services need; at most, since what both share is
    /// counted twice.
    pub with_store_min_per_year: f64,
    /// Seconds of acknowledged writes lost per year, at most; of a database alone, and only where a bound in time or no loss
    /// at all is promised.
    pub lost_writes_s_per_year: Option<f64>,
    /// How sure that is; left out where there are very many services.
    pub band: Option<Band>,
    /// What would help most.
    pub improves: Vec<Elasticity>,
}

impl Forecast {
    /// The band around [`Self::with_store_min_per_year`]: that of the instances, with the store's minutes as they are
    /// expected.
    pub fn band_with_store(&self) -> Option<Band> {
        let store = self.with_store_min_per_year - self.prediction.downtime_min_per_year;
        self.band.map(|band| Band {
            low_min_per_year: band.low_min_per_year + store,
            median_min_per_year: band.median_min_per_year + store,
            high_min_per_year: band.high_min_per_year + store,
        })
    }
}

/// The domains of a file, for predictions.
pub struct Forecaster<'a> {
    spec: &'a Spec,
    rates: Rates,
    layout: Layout,
    nodes: BTreeMap<NodeName, DomainId>,
    failovers: Vec<Duration>,
    store_min_per_year: f64,
}

impl<'a> Forecaster<'a> {
    /// Builds the domains once, for all services. Failovers of lost nodes that the cluster measured itself take the place of
    /// the promised time, and count as drills that worked.
    ///
    /// # Errors
    /// When a rate of the file is out of the range that predictions take.
    pub fn new(spec: &'a Spec, failovers: &[Duration]) -> Result<Self, OutOfRange> {
        let rates = rates(spec);
        let (layout, nodes) = layout(spec, &rates)?;
        let failovers = failovers.to_vec();
        let mut forecaster = Self { spec, rates, layout, nodes, failovers, store_min_per_year: 0.0 };
        let voters = spec.voters();
        let units = voters.iter().map(|node| (node, true));
        let mut store = forecaster.service(units, Mode::ActiveActive, voters.len() as u32 / 2 + 1, ejection());
        // An election is no outage of what runs; only the quorum itself counts.
        store.recovery = Recovery { failover_h: 0.0, coverage: 1.0, uncovered_h: 0.0 };
        store.unit = Times::NEVER;
        store.drills = None;
        let store = predict(&store)?;
        forecaster.store_min_per_year = store.downtime_min_per_year;
        Ok(forecaster)
    }

    /// Minutes per year without a quorum of the store.
    pub fn store_min_per_year(&self) -> f64 {
        self.store_min_per_year
    }

    /// What is to be expected of a service that stands so; `thorough` also says how sure it is and what would help.
    ///
    /// Sites are domains like others: an instance in one stands in for one in another, and the traffic moves as a role does.
    ///
    /// # Errors
    /// When it has fewer instances than it needs, so that it is never up.
    pub fn forecast(&self, service: &ServiceSpec, standing: &Standing, thorough: bool) -> Result<Forecast, OutOfRange> {
        let seats: Vec<(&NodeName, bool)> = standing
            .seats
            .get(&service.id)
            .into_iter()
            .flatten()
            .filter(|(node, seat)| seat.well && !standing.down.contains(*node))
            .map(|(node, seat)| (node, seat.serves))
            .collect();
        let shown = self.of(service, seats);
        let mut prediction = predict(&shown)?;
        prediction.assumptions.push(match self.failovers.len() {
            0 => format!("a lost node's role is away for {} s, as promised", self.takeover().as_secs_f64()),
            count => format!(
                "a lost node's role is away for {:.1} s, measured in {count} failovers",
                self.takeover().as_secs_f64()
            ),
        });
        let store = if service.exclusive { self.store_min_per_year } else { 0.0 };
        Ok(Forecast {
            lost_writes_s_per_year: self.lost_writes(service, &prediction),
            with_store_min_per_year: prediction.downtime_min_per_year + store,
            band: if thorough { Some(band(&shown)?) } else { None },
            improves: if thorough { tornado(&shown)? } else { Vec::new() },
            prediction,
        })
    }

    /// A synchronous database loses nothing that it acknowledged; another one at most the bound, each time its primary goes.
    fn lost_writes(&self, service: &ServiceSpec, prediction: &Prediction) -> Option<f64> {
        let takeovers = prediction.failover.outages_per_year + prediction.uncovered.outages_per_year;
        match (&service.workload, self.spec.goal.max_loss) {
            (Workload::App(_), _) => None,
            (Workload::Postgres(_), _) if sync_standbys(self.spec, service) > 0 => Some(0.0),
            (Workload::Postgres(_), MaxLoss::Time(bound)) => Some(takeovers * bound.as_secs_f64()),
            (Workload::Postgres(_), MaxLoss::Zero | MaxLoss::Bytes(_)) => None,
        }
    }

    /// How long a lost node's role is away: as measured, else as promised.
    fn takeover(&self) -> Duration {
        match u32::try_from(self.failovers.len()) {
            Ok(count) if count > 0 => self.failovers.iter().sum::<Duration>() / count,
            _ => takeover(),
        }
    }

    fn of(&self, service: &ServiceSpec, seats: Vec<(&NodeName, bool)>) -> Service<'_> {
        let failover = match (&service.workload, service.mode) {
            (Workload::Postgres(_), _) => takeover_of_database(sync_standbys(self.spec, service) > 0),
            (Workload::App(_), Mode::ActivePassive) => self.takeover(),
            (Workload::App(_), Mode::ActiveActive) => ejection(),
        };
        self.service(seats.into_iter(), service.mode, service.need, failover)
    }

    fn service<'n>(
        &self,
        seats: impl Iterator<Item = (&'n NodeName, bool)>,
        mode: Mode,
        need: u32,
        failover: Duration,
    ) -> Service<'_> {
        let units = seats.filter_map(|(node, is_active)| Some(Unit { domain: *self.nodes.get(node)?, is_active }));
        let declared = self.spec.rates;
        let drills = declared.drills.saturating_add(self.failovers.len() as u32);
        Service {
            layout: &self.layout,
            units: units.collect(),
            unit: self.rates.instance.times,
            need,
            mode,
            recovery: self.recovery(failover),
            crews: None,
            drills: (drills > 0).then(|| Drills {
                passed: drills.saturating_sub(declared.drills_failed),
                failed: declared.drills_failed,
            }),
            latent: None,
            measured: BTreeMap::new(),
        }
    }

    fn recovery(&self, failover: Duration) -> Recovery {
        Recovery { failover_h: hours(failover), coverage: COVERAGE, uncovered_h: hours(UNCOVERED) }
    }
}

/// The file's rates over the defaults.
pub fn rates(spec: &Spec) -> Rates {
    let mut rates = Rates::default();
    let declared = spec.rates;
    let pairs = [
        (&mut rates.instance, declared.instance),
        (&mut rates.node, declared.node),
        (&mut rates.rack, declared.rack),
        (&mut rates.site, declared.site),
    ];
    for (rate, RateSpec { mttf, mttr }) in pairs {
        if let Some(mttf) = mttf {
            (rate.times.mttf_h, rate.mttf_source) = (hours(mttf), "the file");
        }
        if let Some(mttr) = mttr {
            (rate.times.mttr_h, rate.mttr_source) = (hours(mttr), "the file");
        }
    }
    rates
}

/// Sites and racks that the file names, and its nodes in them. What nobody named shares nothing.
fn layout(spec: &Spec, rates: &Rates) -> Result<(Layout, BTreeMap<NodeName, DomainId>), OutOfRange> {
    let mut layout = Layout::default();
    let mut sites: BTreeMap<String, DomainId> = BTreeMap::new();
    let mut racks: BTreeMap<String, DomainId> = BTreeMap::new();
    let mut nodes = BTreeMap::new();
    for (name, node) in &spec.nodes {
        let site = match &node.site {
            None => None,
            Some(site) => Some(match sites.get(site) {
                Some(known) => *known,
                None => {
                    let added = layout.add(site.clone(), Level::Site, None, rates.site.times)?;
                    *sites.entry(site.clone()).or_insert(added)
                }
            }),
        };
        let rack = match &node.rack {
            None => site,
            Some(_) => {
                let rack = spec.domain_of(name, DomainLevel::Rack);
                Some(match racks.get(&rack) {
                    Some(known) => *known,
                    None => {
                        let added = layout.add(rack.clone(), Level::Rack, site, rates.rack.times)?;
                        *racks.entry(rack).or_insert(added)
                    }
                })
            }
        };
        nodes.insert(name.clone(), layout.add(name.to_string(), Level::Node, rack, rates.node.times)?);
    }
    Ok((layout, nodes))
}

fn hours(duration: Duration) -> f64 {
    duration.as_secs_f64() / 3600.0
}
