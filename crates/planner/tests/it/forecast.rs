//! Predictions of a file's services: rates, layouts and recoveries as the product has them.

use std::collections::BTreeSet;
use std::time::Duration;

use backstay_model::ServiceId;
use backstay_planner::Standing;
use backstay_planner::forecast::{Forecast, Forecaster, rates};
use backstay_spec::Spec;

fn spec(more: &str) -> Spec {
    let text = format!(
        "cluster = \"t\"\n[nodes]\nn1 = {{ addr = \"10.0.0.1\" }}\nn2 = {{ addr = \"10.0.0.2\" }}\nn3 = {{ addr = \"10.0.0.3\" }}\n{more}"
    );
    let parsed = backstay_spec::parse("t", &text);
    parsed.spec.unwrap_or_else(|| panic!("{text}\n{:?}", parsed.diagnostics))
}

fn of(spec: &Spec, service: &str, failovers: &[Duration]) -> Forecast {
    let (standing, _) = Standing::planned(spec, &BTreeSet::new());
    let id: ServiceId = service.parse().unwrap();
    Forecaster::new(spec, failovers).unwrap().forecast(&spec.services[&id], &standing, true).unwrap()
}

const JOBS: &str = "[app.jobs]\nexclusive = true\nrun = [\"/jobs\"]\n[app.web]\nrun = [\"/web\"]\n";

#[test]
fn an_exclusive_service_also_needs_the_store() {
    let three = spec(JOBS);
    let (jobs, web) = (of(&three, "app.jobs", &[]), of(&three, "app.web", &[]));
    let store = Forecaster::new(&three, &[]).unwrap().store_min_per_year();
    assert!(store > 0.0 && (jobs.with_store_min_per_year - jobs.prediction.downtime_min_per_year - store).abs() < 1e-9);
    assert_eq!(web.with_store_min_per_year, web.prediction.downtime_min_per_year);
    let (alone, whole) = (jobs.band.unwrap(), jobs.band_with_store().unwrap());
    assert!((whole.low_min_per_year - alone.low_min_per_year - store).abs() < 1e-9);
    assert!((whole.high_min_per_year - alone.high_min_per_year - store).abs() < 1e-9);
    let mut two = three.clone();
    two.nodes.remove(&"n3".into());
    let alone = Forecaster::new(&two, &[]).unwrap().store_min_per_year();
    let one_node = rates(&two).node.times;
    let wanted = one_node.mttr_h / (one_node.mttf_h + one_node.mttr_h) * 8760.0 * 60.0;
    assert!((alone / wanted - 1.0).abs() < 1e-9, "two nodes: the store is down as often as the one that votes");
}

#[test]
fn measured_failovers_take_the_place_of_promises_and_count_as_drills() {
    let spec = spec(JOBS);
    let promised = of(&spec, "app.jobs", &[]);
    let quick = of(&spec, "app.jobs", &[Duration::from_secs(1); 40]);
    assert!(quick.prediction.failover.unavailability < promised.prediction.failover.unavailability / 3.0);
    assert!(quick.prediction.coverage > promised.prediction.coverage, "forty failovers worked");
    let said = |forecast: &Forecast| forecast.prediction.assumptions.join("\n");
    assert!(said(&quick).contains("1.0 s, measured in 40 failovers") && said(&promised).contains("as promised"));
    let band = promised.band.unwrap();
    let year = promised.prediction.downtime_min_per_year;
    assert!(band.low_min_per_year < year && year < band.high_min_per_year);
}

#[test]
fn rates_of_the_file_stand_before_the_defaults() {
    let stated = format!("{JOBS}[rates]\nnode = {{ mttf = \"1000h\" }}\ndrills = 10\ndrills_failed = 5\n");
    let stated = spec(&stated);
    let taken = rates(&stated);
    assert_eq!((taken.node.times.mttf_h, taken.node.mttf_source), (1000.0, "the file"));
    assert!(taken.node.mttr_source.starts_with("assumed"), "what is not stated has its default");
    assert!(of(&stated, "app.web", &[]).prediction.coverage < 0.97, "half of the drills failed");
}

#[test]
fn only_an_asynchronous_database_loses_writes() {
    let database = "[postgres.main]\n";
    assert_eq!(of(&spec(database), "postgres.main", &[]).lost_writes_s_per_year, Some(0.0));
    let bounded = spec(&format!("[goal]\nmax_loss = \"10s\"\n{database}"));
    let forecast = of(&bounded, "postgres.main", &[]);
    let takeovers = forecast.prediction.failover.outages_per_year + forecast.prediction.uncovered.outages_per_year;
    assert_eq!(forecast.lost_writes_s_per_year, Some(takeovers * 10.0));
    assert_eq!(of(&spec(JOBS), "app.web", &[]).lost_writes_s_per_year, None);
}
