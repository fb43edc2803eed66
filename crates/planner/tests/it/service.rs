//! Predictions of whole services, against the chains they approximate and against what must hold of any of them.

use std::collections::BTreeMap;

use backstay_planner::predict::service::{
    DomainId, Drills, LatentSpares, Layout, Measured, Parameter, Prediction, Recovery, Service, Unit, across_sites,
    band, predict, tornado,
};
use backstay_planner::predict::{ActiveActive, ActivePassive, Level, Rates, Times};
use backstay_spec::Mode;
use proptest::prelude::*;

const RECOVERY: Recovery = Recovery { failover_h: 30.0 / 3600.0, coverage: 0.99, uncovered_h: 0.5 };
const UNIT: Times = Times { mttf_h: 2190.0, mttr_h: 4.0 };

/// A layout of one domain that never fails.
fn flat() -> (Layout, DomainId) {
    let mut layout = Layout::default();
    let everywhere = layout.add("here", Level::Site, None, Times::NEVER).unwrap();
    (layout, everywhere)
}

/// `need` active units and some spares, all in one place.
fn units(place: DomainId, need: u32, spares: u32) -> Vec<Unit> {
    (0..need + spares).map(|i| Unit { domain: place, is_active: i < need }).collect()
}

fn service(layout: &Layout, units: Vec<Unit>, need: u32) -> Service<'_> {
    Service {
        layout,
        units,
        unit: UNIT,
        need,
        mode: Mode::ActivePassive,
        recovery: RECOVERY,
        crews: None,
        drills: None,
        latent: None,
        measured: BTreeMap::new(),
    }
}

fn near(a: f64, b: f64, tolerance: f64) -> bool {
    (a / b - 1.0).abs() <= tolerance
}

/// Three sites of two nodes each, with default rates.
fn three_sites() -> (Layout, Vec<DomainId>) {
    let rates = Rates::default();
    let mut layout = Layout::default();
    let mut nodes = Vec::new();
    for site in ["a", "b", "c"] {
        let domain = layout.add(site, Level::Site, None, rates.site.times).unwrap();
        for node in 1..=2 {
            nodes.push(layout.add(format!("{site}{node}"), Level::Node, Some(domain), rates.node.times).unwrap());
        }
    }
    (layout, nodes)
}

#[test]
fn one_spare_on_a_flat_layout_is_the_chain_itself() {
    let (layout, place) = flat();
    for (need, mttf_h, mttr_h, coverage) in [(1, 2190.0, 4.0, 0.99), (4, 500.0, 24.0, 0.9), (9, 8760.0, 1.0, 1.0)] {
        let mut of = service(&layout, units(place, need, 1), need);
        of.unit = Times { mttf_h, mttr_h };
        of.recovery.coverage = coverage;
        let chain = ActivePassive {
            need,
            spares: 1,
            mttf_h,
            spare_mttf_h: mttf_h,
            mttr_h,
            crews: need + 1,
            coverage,
            failover_h: RECOVERY.failover_h,
            uncovered_h: RECOVERY.uncovered_h,
        };
        let (predicted, exact) = (predict(&of).unwrap(), chain.downtime().unwrap());
        assert!(near(predicted.unavailability, exact.unavailability(), 1e-12), "{need}: {predicted:?} {exact:?}");
        assert!(near(predicted.failover.unavailability, exact.failover, 1e-12), "{need}");
        assert!(near(predicted.exhausted.unavailability, exact.exhausted, 1e-12), "{need}");
        assert!(near(predicted.outages_per_year, exact.outages_per_h * 8760.0, 1e-12), "{need}");
        assert!(near(predicted.capacity_weighted, exact.capacity_weighted, 1e-12), "{need}");
    }
}

#[test]
fn more_spares_on_a_flat_layout_are_within_the_unavailability_of_a_unit() {
    let (layout, place) = flat();
    for (need, spares, mttr_h) in [(1, 2, 4.0), (4, 2, 4.0), (4, 5, 4.0), (3, 3, 20.0)] {
        let mut of = service(&layout, units(place, need, spares), need);
        of.unit.mttr_h = mttr_h;
        let chain = ActivePassive {
            need,
            spares,
            mttf_h: 2190.0,
            spare_mttf_h: 2190.0,
            mttr_h,
            crews: need + spares,
            coverage: 0.99,
            failover_h: RECOVERY.failover_h,
            uncovered_h: 0.5,
        };
        let exact = chain.downtime().unwrap().unavailability();
        let predicted = predict(&of).unwrap().unavailability;
        let u = mttr_h / (2190.0 + mttr_h);
        assert!(near(predicted, exact, u) && u < 0.02, "{need}+{spares}: {predicted:e} {exact:e}");
    }
}

#[test]
fn active_active_on_a_flat_layout_is_its_chain() {
    let (layout, place) = flat();
    for (need, spares) in [(4, 1), (1, 1), (3, 3)] {
        let mut of = service(&layout, units(place, need, spares), need);
        of.mode = Mode::ActiveActive;
        let chain = ActiveActive {
            need,
            spares,
            mttf_h: 2190.0,
            mttr_h: 4.0,
            crews: need + spares,
            coverage: 0.99,
            detect_h: RECOVERY.failover_h,
            uncovered_h: 0.5,
        };
        let (predicted, exact) = (predict(&of).unwrap(), chain.downtime().unwrap());
        assert!(near(predicted.unavailability, exact.unavailability(), 1e-11), "{predicted:?} {exact:?}");
        assert!(near(predicted.outages_per_year, exact.outages_per_h * 8760.0, 1e-11), "{predicted:?} {exact:?}");
        assert!(near(predicted.request_weighted, exact.request_weighted, 0.004), "{predicted:?} {exact:?}");
        assert_eq!(predicted.failover.unavailability, 0.0, "an ejected unit is no outage");
        assert!(predicted.request_weighted > predicted.capacity_weighted);
    }
}

/// The table that the product is about (availability.md §0.3): beyond N+2 more units buy nothing, a faster failover does.
#[test]
fn past_two_spares_only_failover_time_and_coverage_count() {
    let (layout, place) = flat();
    let minutes = |spares, recovery: Recovery| {
        let mut of = service(&layout, units(place, 4, spares), 4);
        of.crews = Some(2);
        of.recovery = recovery;
        predict(&of).unwrap().downtime_min_per_year
    };
    for (spares, expected) in [(0, 63.7 * 60.0), (1, 30.0), (2, 12.81), (4, 12.72), (5, 12.72)] {
        assert!(near(minutes(spares, RECOVERY), expected, 0.01), "{spares}: {}", minutes(spares, RECOVERY));
    }
    let fast = Recovery { failover_h: 10.0 / 3600.0, coverage: 0.999, uncovered_h: 0.5 };
    assert!(near(minutes(2, fast), 3.24, 0.01), "{}", minutes(2, fast));
    let slow = Recovery { failover_h: 60.0 / 3600.0, coverage: 0.95, uncovered_h: 1.0 };
    assert!(near(minutes(1, slow), 80.0, 0.01) && near(minutes(2, slow), 63.0, 0.01), "{}", minutes(2, slow));
}

#[test]
fn several_active_units_lost_with_their_domain_are_one_outage() {
    let mut layout = Layout::default();
    let rack = layout.add("rack", Level::Rack, None, Times { mttf_h: 1000.0, mttr_h: 1.0 }).unwrap();
    let other = layout.add("other", Level::Rack, None, Times::NEVER).unwrap();
    let mut of = service(&layout, Vec::new(), 2);
    of.unit = Times::NEVER;
    of.units = [(rack, true), (rack, true), (other, false), (other, false)]
        .map(|(domain, is_active)| Unit { domain, is_active })
        .to_vec();
    let predicted = predict(&of).unwrap();
    assert!(near(predicted.outages_per_year, 8.76, 0.002), "{predicted:?}");
    assert_eq!(predicted.exhausted.unavailability, 0.0);
    of.units[2].domain = rack;
    let fatal = predict(&of).unwrap();
    assert_eq!(fatal.failover.outages_per_year, 0.0, "nobody is left to take over");
    assert!(near(fatal.exhausted.unavailability, 1.0 / 1001.0, 1e-12), "{fatal:?}");
}

#[test]
fn a_domain_that_holds_only_spares_interrupts_nobody() {
    let (layout, nodes) = three_sites();
    let mut of = service(&layout, Vec::new(), 1);
    of.units = vec![Unit { domain: nodes[0], is_active: true }, Unit { domain: nodes[2], is_active: false }];
    let two = predict(&of).unwrap();
    of.units.push(Unit { domain: nodes[4], is_active: false });
    let three = predict(&of).unwrap();
    assert!(near(three.failover.outages_per_year, two.failover.outages_per_year, 0.01), "{two:?} {three:?}");
    assert!(three.exhausted.unavailability < two.exhausted.unavailability / 100.0);
}

#[test]
fn elasticities_of_all_times_add_up_to_nothing() {
    let (layout, nodes) = three_sites();
    for mode in [Mode::ActivePassive, Mode::ActiveActive] {
        let mut of = service(&layout, Vec::new(), 2);
        of.units = nodes[..5].iter().enumerate().map(|(i, node)| Unit { domain: *node, is_active: i < 2 }).collect();
        of.mode = mode;
        let all = tornado(&of).unwrap();
        let times = all.iter().filter(|of| of.parameter != Parameter::CoverageGap);
        assert!(times.map(|of| of.elasticity).sum::<f64>().abs() < 1e-6, "{all:?}");
        assert!(all.windows(2).all(|pair| pair[0].elasticity.abs() >= pair[1].elasticity.abs()), "{all:?}");
    }
}

#[test]
fn the_tornado_names_what_to_improve() {
    let (layout, place) = flat();
    let of = service(&layout, units(place, 4, 2), 4);
    let all = tornado(&of).unwrap();
    let share = |parameter| all.iter().find(|of| of.parameter == parameter).map(|of| of.elasticity);
    let predicted = predict(&of).unwrap();
    // U is a sum, and the failover's part is proportional to its time.
    let part = predicted.failover.unavailability / predicted.unavailability;
    assert!((share(Parameter::FailoverTime).unwrap() - part).abs() < 1e-3, "{all:?}");
    assert_eq!(all[0].parameter, Parameter::TimeToFailure(Level::Instance));
    assert_eq!(all[1].parameter, Parameter::FailoverTime, "before any repair time: {all:?}");
}

#[test]
fn drills_replace_what_was_declared() {
    let (layout, place) = flat();
    let mut of = service(&layout, units(place, 1, 1), 1);
    let declared = predict(&of).unwrap();
    assert!(near(declared.coverage, 0.99, 1e-12));
    of.drills = Some(Drills { passed: 900, failed: 0 });
    let proven = predict(&of).unwrap();
    assert!(near(1.0 - proven.coverage, 0.001, 1e-9), "one in a hundred, and none in nine hundred: {proven:?}");
    assert!(proven.unavailability < declared.unavailability);
    of.drills = Some(Drills { passed: 80, failed: 20 });
    assert!(near(predict(&of).unwrap().coverage, 1.0 - 21.0 / 200.0, 1e-12));
    of.recovery.coverage = 1.0;
    of.drills = Some(Drills { passed: 0, failed: 0 });
    assert_eq!(predict(&of).unwrap().coverage, 1.0, "no drill says nothing");
    of.drills = Some(Drills { passed: 59, failed: 0 });
    assert!(near(1.0 - predict(&of).unwrap().coverage, 0.5 / 60.0, 1e-12), "perfection is not believed once tried");
}

#[test]
fn a_spare_that_nobody_tries_decays() {
    let (layout, place) = flat();
    let mut of = service(&layout, units(place, 1, 1), 1);
    let well = predict(&of).unwrap();
    of.latent = Some(LatentSpares { mttf_h: 8760.0, drilled_every_h: 720.0 });
    let decayed = predict(&of).unwrap();
    let longer = decayed.uncovered.unavailability / well.uncovered.unavailability;
    assert!(near(longer, (1.0 - 0.9504071916720646) / 0.01, 1e-4), "people have to come so much more often: {longer}");
    assert!(near(decayed.coverage, 0.9504071916720646, 1e-8), "{decayed:?}");
    assert!(decayed.assumptions.iter().any(|said| said.contains("dies unnoticed")), "{:?}", decayed.assumptions);
    of.mode = Mode::ActiveActive;
    assert!(near(predict(&of).unwrap().coverage, 0.99, 1e-12), "a unit that carries is tried all the time");
}

#[test]
fn measurements_move_the_prediction_and_narrow_its_band() {
    let (layout, place) = flat();
    let mut of = service(&layout, units(place, 1, 1), 1);
    let wide = band(&of).unwrap();
    let guess = predict(&of).unwrap().downtime_min_per_year;
    assert!(wide.low_min_per_year < wide.median_min_per_year && wide.median_min_per_year < wide.high_min_per_year);
    assert!(wide.low_min_per_year < guess && guess < wide.high_min_per_year, "{wide:?} {guess}");
    assert_eq!(band(&of), Ok(wide), "the same question has the same answer");
    of.measured.insert(Level::Instance, Measured { failures: 99, unit_hours: 99.0 * 2190.0 });
    let narrow = band(&of).unwrap();
    assert!(near(predict(&of).unwrap().downtime_min_per_year, guess, 1e-9), "as declared, only surer");
    let ratio = |band: backstay_planner::predict::service::Band| band.high_min_per_year / band.low_min_per_year;
    assert!(ratio(narrow) < ratio(wide) / 2.0, "{narrow:?} {wide:?}");
    of.measured.insert(Level::Instance, Measured { failures: 0, unit_hours: 3.0 * 2190.0 });
    assert!(predict(&of).unwrap().failover.unavailability < 0.3 * guess / 525_600.0, "four times as good as declared");
}

/// With one failure counted and all else exact, U is proportional to an exponential variable: its quantiles are known.
#[test]
fn the_band_of_one_uncertain_rate_is_the_one_of_an_exponential() {
    let (layout, place) = flat();
    let mut of = service(&layout, units(place, 1, 1), 1);
    of.recovery = Recovery { failover_h: 0.01, coverage: 1.0, uncovered_h: 0.0 };
    of.unit = Times { mttf_h: 1e7, mttr_h: 1e-3 };
    let (guess, band) = (predict(&of).unwrap().downtime_min_per_year, band(&of).unwrap());
    for (at, p) in [(band.low_min_per_year, 0.05), (band.median_min_per_year, 0.5), (band.high_min_per_year, 0.95)] {
        assert!(near(at / guess, -f64::ln_1p(-p), 0.05), "{p}: {at} {guess}");
    }
}

#[test]
fn what_never_fails_is_never_down() {
    let (layout, place) = flat();
    let mut of = service(&layout, units(place, 2, 1), 2);
    of.unit = Times::NEVER;
    let solid = predict(&of).unwrap();
    assert_eq!((solid.unavailability, solid.outages_per_year, solid.outage_p99_s), (0.0, 0.0, None));
    assert_eq!(tornado(&of), Ok(Vec::new()));
    assert_eq!(band(&of).unwrap().high_min_per_year, 0.0);
}

#[test]
fn crews_are_waited_for() {
    let (layout, nodes) = three_sites();
    let mut of = service(&layout, Vec::new(), 2);
    of.units = nodes.iter().enumerate().map(|(i, node)| Unit { domain: *node, is_active: i < 2 }).collect();
    let free = predict(&of).unwrap();
    of.crews = Some(1);
    let busy = predict(&of).unwrap();
    assert!(busy.exhausted.unavailability > 2.0 * free.exhausted.unavailability, "{busy:?} {free:?}");
    of.crews = Some(100);
    assert_eq!(predict(&of).unwrap().unavailability, free.unavailability);
}

#[test]
fn two_sites_are_the_chain_whose_unit_is_a_site() {
    let (layout, place) = flat();
    let mut of = service(&layout, units(place, 1, 0), 1);
    of.unit = Times { mttf_h: 4000.0, mttr_h: 2.0 };
    let site = predict(&of).unwrap();
    let move_away = Recovery { failover_h: 300.0 / 3600.0, coverage: 0.98, uncovered_h: 1.0 };
    let both = across_sites(&[site.clone(), site.clone()], move_away).unwrap();
    assert!(near(both.unavailability, 2.564036819568729e-05, 1e-12), "c-geo-ap: {both:?}");
    assert!(near(both.exhausted.unavailability, 2.497438460618892e-07, 1e-12), "{both:?}");
    assert!(near(both.outages_per_year, 2.1899438475936512, 1e-12), "{both:?}");
    let alone = across_sites(std::slice::from_ref(&site), move_away).unwrap();
    assert!(near(alone.unavailability, site.unavailability, 1e-12), "with nowhere to go: {alone:?}");
    assert!(across_sites(&[], move_away).is_err());
}

#[test]
fn short_outages_are_waited_out_instead_of_moving_site() {
    let (layout, place) = flat();
    let site: Prediction = predict(&service(&layout, units(place, 1, 2), 1)).unwrap();
    let move_away = Recovery { failover_h: 0.1, coverage: 1.0, uncovered_h: 0.0 };
    let both = across_sites(&[site.clone(), site.clone()], move_away).unwrap();
    assert!(both.failover.unavailability >= site.failover.unavailability, "{both:?}");
    assert!(both.outages_per_year < 1.01 * site.outages_per_year, "local failovers cause no moves: {both:?}");
    assert!(both.uncovered.unavailability < 1e-9 && both.exhausted.unavailability < 1e-9, "these do: {both:?}");
    assert!(near(both.outage_p50_s.unwrap(), 30.0, 1e-9), "{both:?}");
    assert!(near(both.outage_p99_s.unwrap(), 360.0, 1e-9), "one in a hundred is a move: {both:?}");
}

#[test]
fn wrong_services_are_named() {
    let (layout, place) = flat();
    let good = service(&layout, units(place, 2, 1), 2);
    type Spoil = fn(&mut Service<'_>);
    let cases: [(&str, Spoil); 13] = [
        ("number of units", |of| of.units.clear()),
        ("need", |of| of.need = 0),
        ("need", |of| of.need = 4),
        ("number of active units", |of| of.units.iter_mut().for_each(|unit| unit.is_active = false)),
        ("MTTF of an instance", |of| of.unit.mttf_h = 0.0),
        ("MTTR of an instance", |of| of.unit.mttr_h = f64::NAN),
        ("coverage", |of| of.recovery.coverage = 1.5),
        ("failover", |of| of.recovery.failover_h = -1.0),
        ("uncovered", |of| of.recovery.uncovered_h = f64::INFINITY),
        ("crews", |of| of.crews = Some(0)),
        ("latent_mttf", |of| of.latent = Some(LatentSpares { mttf_h: 0.0, drilled_every_h: 1.0 })),
        ("measured hours of instance", |of| {
            of.measured.insert(Level::Instance, Measured { failures: 1, unit_hours: f64::NAN });
        }),
        ("domain of a unit", |of| {
            let mut other = Layout::default();
            other.add("x", Level::Node, None, Times::NEVER).unwrap();
            of.units[0].domain = other.add("y", Level::Node, None, Times::NEVER).unwrap();
        }),
    ];
    for (what, spoil) in cases {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert_eq!(predict(&bad).unwrap_err().what, what);
        assert!(band(&bad).is_err() && tornado(&bad).is_err(), "{what}");
    }
    let mut layout = Layout::default();
    let error = layout.add("r1", Level::Rack, None, Times { mttf_h: 1.0, mttr_h: 0.0 }).unwrap_err();
    assert_eq!(error.to_string(), "MTTR of rack r1 is 0 h, but must be more than 0 h, at most 10⁹ h");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is accepted has an answer that can be one; nothing ends in a panic.
    #[test]
    fn nothing_that_is_accepted_gives_nonsense(
        (need, units, crews) in (0..7_u32, 0..7_usize, 0..4_u32),
        wild in prop::array::uniform6(any::<f64>()),
        tame in prop::array::uniform6(-9.0..9.0_f64),
        is_tame in prop::array::uniform6(prop::bool::weighted(0.97)),
        (passed, failed) in (any::<u32>(), any::<u32>()),
        all_carry in any::<bool>(),
    ) {
        let value = |i: usize| if is_tame[i] { 10_f64.powf(tame[i]) } else { wild[i] };
        let mut layout = Layout::default();
        let rack = layout.add("rack", Level::Rack, None, Times { mttf_h: value(0), mttr_h: value(1) });
        let rack = rack.or_else(|_| layout.add("rack", Level::Rack, None, Times { mttf_h: 1e3, mttr_h: 1.0 })).unwrap();
        let free = layout.add("free", Level::Node, None, Times { mttf_h: 1e-9, mttr_h: 1e9 }).unwrap();
        let mut of = service(&layout, Vec::new(), need);
        of.units = (0..units)
            .map(|i| Unit { domain: if i % 2 == 0 { rack } else { free }, is_active: i < need as usize })
            .collect();
        of.unit = Times { mttf_h: value(2), mttr_h: value(3) };
        of.mode = if all_carry { Mode::ActiveActive } else { Mode::ActivePassive };
        of.recovery = Recovery { failover_h: value(4), coverage: wild[5].fract().abs(), uncovered_h: value(5) };
        of.crews = (crews > 0).then_some(crews);
        of.drills = Some(Drills { passed, failed });
        of.latent = Some(LatentSpares { mttf_h: value(5), drilled_every_h: value(0) });
        of.measured.insert(Level::Rack, Measured { failures: passed, unit_hours: value(4) });
        if let Ok(found) = predict(&of) {
            let parts = [found.failover, found.uncovered, found.exhausted].map(|part| part.unavailability);
            let all = [found.unavailability, found.coverage, found.capacity_weighted, found.request_weighted];
            for part in parts.into_iter().chain(all) {
                prop_assert!((0.0..=1.0 + 1e-9).contains(&part), "{found:?}");
            }
            prop_assert!(found.outages_per_year >= 0.0, "{found:?}");
            let all = tornado(&of).unwrap();
            prop_assert!(all.iter().all(|of| of.elasticity.is_finite()), "{all:?}");
        }
    }
}
