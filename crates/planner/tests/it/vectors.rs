//! Vectors that were computed elsewhere, in exact arithmetic or by other people: every one of them, to its own tolerance.
//!
//! Each has a check here that is found by its id. A vector without one fails, a check without a vector fails, and so does
//! an expected value that no check has looked at.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use backstay_planner::predict::fault_tree::{FaultTree, FaultTreeReport, Importance};
use backstay_planner::predict::{
    ActiveActive, ActivePassive, CommonCause, Domain, HOURS_PER_YEAR, KOfN, Maintained, RecoveryTime, State, Tree,
    copyset_loss, coverage_lower_bound, estimate_rate, failed_of, latent_probability, latent_probability_random,
    lost_requests, minutes_per_year, mttf_without_repair_h, parallel, probability_of_outages, series,
    unavailability_of, units_to_survive,
};
use serde_json::Value;

type Check = fn(&Vector);

#[rustfmt::skip]
const CHECKS: &[(&str, Check)] = &[
    ("pub-ft-two-train", two_train),
    ("pub-ft-2oo3", two_of_three_tree),
    ("pub-2oo3-mttf-heterogeneous", mttf_of_unlike_units),
    ("pub-aws-series", series_and_parallel),
    ("pub-nines-and-tiers", nines_table),
    ("pub-copysets", copysets),
    ("pub-bridge", bridge),
    ("c-kofn-3-2-r3-d1-T1000", k_of_n),
    ("c-kofn-3-2-r1-d1-T1000", k_of_n),
    ("c-kofn-5-3-r5-d1-T2000", k_of_n),
    ("c-kofn-3-2-r1-d0-T1000", k_of_n),
    ("c-ap-1p1", active_passive),
    ("c-ap-4p1", active_passive),
    ("c-ap-4p2", active_passive),
    ("c-ap-mc", active_passive),
    ("c-geo-ap", active_passive),
    ("c-aa-4p1", active_active),
    ("c-ccf-2oo3-beta0", common_cause),
    ("c-ccf-2oo3-beta0.02", common_cause),
    ("c-tree-3sites-2hosts", domain_tree),
    ("c-tree-2sites-2x(N+1)", domain_tree),
    ("c-gth-stress", all_of_six),
    ("c-maint-gated", maintenance),
    ("c-request-weighted", request_weighted),
    ("c-depgraph-shared", shared_parts),
    ("c-rate-ci", measured_rate),
    ("c-coverage-bound", proven_coverage),
    ("c-rto", recovery_time),
    ("c-annual-outages", annual_outages),
    ("c-min-units-survive-one-domain", sizes),
    ("c-2n-paired-vs-pooled", four_meanings_of_2n),
    ("c-latent-standby-drill", latent_spare),
];

/// Kinds that are checked where placement and what may fail now are.
const OTHERS_KINDS: [&str; 4] = ["placement_single", "placement_multi", "what_may_fail_now", "standby_reserve"];

struct Vector {
    id: String,
    inputs: Value,
    expected: Value,
    rtol: f64,
    /// Expected values that were looked at.
    seen: RefCell<BTreeSet<String>>,
}

impl Vector {
    fn input(&self, name: &str) -> f64 {
        number(&self.inputs[name], &format!("{}: {name}", self.id))
    }

    fn count(&self, name: &str) -> u32 {
        self.input(name) as u32
    }

    fn expected(&self, name: &str) -> &Value {
        self.seen.borrow_mut().insert(name.to_owned());
        &self.expected[name]
    }

    /// Compares to the vector's tolerance.
    fn check(&self, name: &str, found: f64) {
        self.near(name, found, number(self.expected(name), &format!("{}: {name}", self.id)));
    }

    fn near(&self, name: &str, found: f64, wanted: f64) {
        let error = (found - wanted).abs() / wanted.abs().max(f64::MIN_POSITIVE);
        assert!(error <= self.rtol, "{}: {name} is {found:e}, not {wanted:e}: off by {error:e}", self.id);
    }
}

fn number(value: &Value, what: &str) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{what} is {value}"))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|value| number(value, "a list")).collect()
}

fn file() -> Value {
    serde_json::from_str(include_str!("../vectors.json")).expect("JSON")
}

fn vectors() -> Vec<Vector> {
    let file = file();
    let list = file["vectors"].as_array().expect("a list");
    list.iter()
        .map(|vector| Vector {
            id: vector["id"].as_str().expect("an id").to_owned(),
            inputs: vector["inputs"].clone(),
            expected: vector["expected"].clone(),
            rtol: number(&vector["rtol"], "rtol"),
            seen: RefCell::default(),
        })
        .collect()
}

#[test]
fn every_vector_holds() {
    for vector in vectors() {
        let check = CHECKS.iter().find(|(id, _)| *id == vector.id);
        let (_, check) = check.unwrap_or_else(|| panic!("no check for {}", vector.id));
        check(&vector);
        let fields = vector.expected.as_object().expect("an object").keys();
        let unseen: Vec<_> = fields.filter(|field| !vector.seen.borrow().contains(*field)).collect();
        assert!(unseen.is_empty(), "{}: nobody looked at {unseen:?}", vector.id);
    }
}

#[test]
fn every_check_has_its_vector() {
    let ids: BTreeSet<_> = vectors().into_iter().map(|vector| vector.id).collect();
    assert_eq!(ids.len(), CHECKS.len());
    for (id, _) in CHECKS {
        assert!(ids.contains(*id), "{id}");
    }
    let file = file();
    let elsewhere = file["placement_vectors"].as_array().expect("a list").iter().map(|vector| &vector["kind"]);
    for kind in elsewhere {
        assert!(OTHERS_KINDS.contains(&kind.as_str().expect("a kind")), "{kind}");
    }
}

fn k_of_n(v: &Vector) {
    let units = KOfN {
        n: v.count("n"),
        k: v.count("k"),
        mttf_h: v.input("mttf_h"),
        mttr_h: v.input("mttr_h"),
        crews: v.count("crews"),
        dormancy: v.input("dormancy"),
    };
    let downtime = units.downtime().unwrap();
    v.check("U", downtime.unavailability);
    v.check("failure_freq_per_h", downtime.outages_per_h);
    v.check("outages_per_year", downtime.outages_per_year());
    v.check("mean_outage_h", downtime.mean_outage_h().unwrap());
    v.check("downtime_min_per_8760h", downtime.minutes_per_year());
    v.check("MTTF_from_all_up_h", units.mttf_from_all_up_h().unwrap());
}

fn all_of_six(v: &Vector) {
    let units = KOfN {
        n: v.count("n"),
        k: v.count("k"),
        mttf_h: v.input("lam").recip(),
        mttr_h: v.input("mu").recip(),
        crews: v.count("crews"),
        dormancy: 1.0,
    };
    v.check("U", units.downtime().unwrap().unavailability);
}

fn four_meanings_of_2n(v: &Vector) {
    let (need, u) = (v.count("N") as usize, v.input("u"));
    let pooled = |units: usize| -> f64 { failed_of(&vec![u; units]).unwrap()[units - need + 1..].iter().sum() };
    let pair = parallel(&[u, u]).unwrap();
    let block = series(&vec![u; need]).unwrap();
    v.check("U_paired_1to1_per_unit", series(&vec![pair; need]).unwrap());
    v.check("U_two_series_blocks_AB", parallel(&[block, block]).unwrap());
    v.check("U_pooled_8_need_4", pooled(2 * need));
    v.check("U_N_plus_1", pooled(need + 1));
    v.check("U_N_plus_2", pooled(need + 2));
    v.check("U_three_make_two_6_need_4", pooled(3 * need / 2));
}

fn mttf_of_unlike_units(v: &Vector) {
    let mttf = mttf_without_repair_h(&numbers(&v.inputs["rates"]), v.count("fails_when")).unwrap();
    v.check("MTTF", mttf);
}

fn active_passive(v: &Vector) {
    let units = ActivePassive {
        need: v.count("N"),
        spares: v.count("s"),
        mttf_h: v.input("mttf_h"),
        spare_mttf_h: v.input("standby_rate_per_h").recip(),
        mttr_h: v.input("mttr_h"),
        crews: v.count("crews"),
        coverage: v.input("coverage"),
        failover_h: v.input("failover_s") / 3600.0,
        uncovered_h: v.input("uncovered_recovery_h"),
    };
    let solved = units.downtime().unwrap();
    v.check("U", solved.unavailability());
    v.check("U_failover", solved.failover);
    v.check("U_uncovered", solved.uncovered);
    v.check("U_exhausted", solved.exhausted);
    v.check("outages_per_year", solved.outages_per_h * HOURS_PER_YEAR);
    v.check("capacity_weighted_U", solved.capacity_weighted);
    v.check("downtime_min_per_8760h", minutes_per_year(solved.unavailability()));
    v.check("MTTF_from_all_up_h", solved.mttf_from_all_up_h);
    let by_elimination = units.chain().unwrap();
    let down: Vec<_> = (0..by_elimination.states.len())
        .filter(|state| !matches!(by_elimination.states[*state], State::Holding(_)))
        .collect();
    let time = by_elimination.chain.stationary().unwrap();
    v.check("U", down.iter().map(|state| time[*state]).sum());
    v.check("MTTF_from_all_up_h", by_elimination.chain.mean_time_to(0, &down).unwrap());
}

fn active_active(v: &Vector) {
    let units = ActiveActive {
        need: v.count("N"),
        spares: v.count("s"),
        mttf_h: v.input("mttf_h"),
        mttr_h: v.input("mttr_h"),
        crews: v.count("crews"),
        coverage: v.input("coverage"),
        detect_h: v.input("detect_s") / 3600.0,
        uncovered_h: v.input("uncovered_recovery_h"),
    };
    let solved = units.downtime().unwrap();
    v.check("U_capacity", solved.unavailability());
    v.check("U_request_weighted", solved.request_weighted);
    v.check("downtime_min_per_8760h", minutes_per_year(solved.unavailability()));
}

fn common_cause(v: &Vector) {
    let (mttf_h, mttr_h, beta) = (v.input("mttf_h"), v.input("mttr_h"), v.input("beta"));
    let units = CommonCause { n: v.count("n"), k: v.count("k"), mttf_h, mttr_h, crews: v.count("crews"), beta };
    let downtime = units.downtime().unwrap();
    v.check("U", downtime.unavailability);
    v.check("outages_per_year", downtime.outages_per_year());
    let first_order = 3.0 * ((1.0 - beta) * mttr_h / mttf_h).powi(2) + beta * mttr_h / mttf_h * (1.0 / 3.0 + 1.0 / 2.0);
    v.check("U_first_order", first_order);
}

fn domain_tree(v: &Vector) {
    let (tree, names) = tree_of(&v.inputs);
    let solved = tree.downtime(v.count("N")).unwrap();
    v.check("U", solved.downtime.unavailability);
    v.check("outages_per_year", solved.downtime.outages_per_year());
    v.check("mean_outage_h", solved.downtime.mean_outage_h().unwrap());
    for (name, criticality) in v.expected("top_criticality").as_object().expect("an object") {
        let domain = names.iter().position(|known| known == name).expect("a known domain");
        v.near(name, solved.effects[domain].criticality, number(criticality, name));
    }
    let top = v.expected["top_criticality"].as_object().expect("an object");
    let least_of_top = top.values().map(|value| number(value, "criticality")).fold(f64::INFINITY, f64::min);
    let above = solved.effects.iter().filter(|effect| effect.criticality > least_of_top * 1.000_001).count();
    assert!(above < top.len(), "{}: the top is on top", v.id);
    let spofs: Vec<_> = names.iter().zip(&solved.effects).filter(|(_, effect)| effect.is_spof).collect();
    assert_eq!(spofs.len(), v.expected("spofs").as_array().expect("a list").len(), "{}", v.id);
    let units = tree.units() as usize;
    let hosts_only = failed_of(&vec![v.input("u_host"); units]).unwrap();
    v.check("U_naive_hosts_only", hosts_only[units - v.count("N") as usize + 1..].iter().sum());
}

fn tree_of(inputs: &Value) -> (Tree, Vec<String>) {
    let (mut tree, mut names) = (Tree::default(), Vec::new());
    let mut add = |name: String, level: &str, parent, units| {
        names.push(name);
        let unavailability = number(&inputs[format!("u_{level}")], level);
        let mttr_h = number(&inputs["mttr_h"][level], level);
        Some(tree.add(Domain { parent, unavailability, mttr_h, units }).unwrap())
    };
    for (s, racks) in inputs["layout_hosts_per_rack_per_site"].as_array().expect("sites").iter().enumerate() {
        let site = add(format!("S{s}"), "site", None, 0);
        for (r, hosts) in racks.as_array().expect("racks").iter().enumerate() {
            let rack = add(format!("R{s}.{r}"), "rack", site, 0);
            for h in 0..hosts.as_u64().expect("a number") {
                add(format!("H{s}.{r}.{h}"), "host", rack, 1);
            }
        }
    }
    (tree, names)
}

fn solve(top: &str, p: &BTreeMap<String, f64>) -> FaultTreeReport {
    FaultTree::parse(top, &BTreeMap::new(), p).unwrap().solve(usize::MAX).unwrap()
}

fn probabilities(v: &Vector) -> BTreeMap<String, f64> {
    let p = v.inputs["p"].as_object().expect("an object");
    p.iter().map(|(event, p)| (event.clone(), number(p, event))).collect()
}

/// The probability of each minimal cut set, the bounds that people print instead of Q being made of them.
fn cut_set_probabilities(solved: &FaultTreeReport, p: &dyn Fn(&str) -> f64) -> Vec<f64> {
    solved.cut_sets.listed.iter().map(|set| set.iter().map(|event| p(event)).product()).collect()
}

fn importance_of(solved: &FaultTreeReport, event: &str) -> Importance {
    solved.importance.iter().find(|(name, _)| name == event).unwrap_or_else(|| panic!("{event}")).1
}

fn two_train(v: &Vector) {
    let p = probabilities(v);
    let solved = solve(v.inputs["top"].as_str().expect("a text"), &p);
    v.check("Q", solved.probability);
    let sets = cut_set_probabilities(&solved, &|event| p[event]);
    v.check("Q_mcub", series(&sets).unwrap());
    for (event, wanted) in v.expected("importance").as_object().expect("an object") {
        let found = importance_of(&solved, event);
        for (name, found) in
            [("MIF", found.mif), ("CIF", found.cif), ("DIF", found.dif), ("RAW", found.raw), ("RRW", found.rrw)]
        {
            v.near(&format!("{name} of {event}"), found, number(&wanted[name], name));
        }
    }
}

fn two_of_three_tree(v: &Vector) {
    let solved = solve(v.inputs["top"].as_str().expect("a text"), &BTreeMap::new());
    v.check("Q", solved.probability);
    let p = |event: &str| event.split('@').next().and_then(|p| p.parse().ok()).expect("a number");
    v.check("Q_rare_event", cut_set_probabilities(&solved, &p).iter().sum());
}

fn bridge(v: &Vector) {
    let cuts = v.inputs["min_cuts"].as_array().expect("a list").iter().map(|cut| {
        let events: Vec<_> = cut.as_array().expect("a list").iter().map(|event| format!("e{event}")).collect();
        format!("({})", events.join(" and "))
    });
    let p = (1..=5).map(|event| (format!("e{event}"), v.input("q"))).collect();
    let solved = solve(&cuts.collect::<Vec<_>>().join(" or "), &p);
    v.check("Q", solved.probability);
    v.check("R", 1.0 - solved.probability);
    assert_eq!(solved.cut_sets.by_order, [0, 0, 2, 2], "{}: as many as went in", v.id);
    for (event, wanted) in v.expected("birnbaum").as_object().expect("an object") {
        v.near(event, importance_of(&solved, event).mif, number(wanted, event));
    }
}

fn shared_parts(v: &Vector) {
    let p = probabilities(v);
    let solved = solve(v.inputs["top"].as_str().expect("a text"), &p);
    v.check("Q", solved.probability);
    let sets = |value: &Value| -> BTreeSet<BTreeSet<String>> {
        let text = |event: &Value| event.as_str().expect("a text").to_owned();
        let list = |set: &Value| set.as_array().expect("a list").iter().map(text).collect();
        value.as_array().expect("a list").iter().map(list).collect()
    };
    let found = solved.cut_sets.listed.iter().map(|set| set.iter().cloned().collect()).collect::<BTreeSet<_>>();
    assert_eq!(found, sets(v.expected("mcs")), "{}", v.id);
    assert_eq!(solved.cut_sets.total(), 7, "{}", v.id);
    let spofs: BTreeSet<_> = solved.spofs.iter().map(|event| BTreeSet::from([event.clone()])).collect();
    let wanted = v.expected("spofs").as_array().expect("a list").iter().map(|spof| Value::Array(vec![spof.clone()]));
    assert_eq!(spofs, sets(&Value::Array(wanted.collect())), "{}", v.id);
    for (event, wanted) in v.expected("birnbaum").as_object().expect("an object") {
        v.near(event, importance_of(&solved, event).mif, number(wanted, event));
    }
    for (event, wanted) in v.expected("fussell_vesely_crit").as_object().expect("an object") {
        v.near(event, importance_of(&solved, event).cif, number(wanted, event));
    }
    let chain = |events: [&str; 3]| series(&events.map(|event| p[event])).unwrap();
    let both = parallel(&[chain(["w1", "db1", "san"]), chain(["w2", "db2", "san"])]).unwrap();
    v.check("naive_independent_chains", series(&[p["dns"], p["lb"], both]).unwrap());
}

fn series_and_parallel(v: &Vector) {
    let u_series = series(&numbers(&v.inputs["series_u"])).unwrap();
    let u_parallel = parallel(&numbers(&v.inputs["parallel_u"])).unwrap();
    v.check("U_series", u_series);
    v.check("A_series", 1.0 - u_series);
    v.check("downtime_series_min_per_365d_year", minutes_per_year(u_series));
    v.check("U_parallel", u_parallel);
    v.check("A_parallel", 1.0 - u_parallel);
}

fn nines_table(v: &Vector) {
    for row in v.expected("rows").as_array().expect("rows") {
        let u = unavailability_of(&row["A"].to_string()).unwrap();
        for (column, found) in [
            ("h_per_8760", u * HOURS_PER_YEAR),
            ("min_per_8760h", minutes_per_year(u)),
            ("h_per_8766", u * 8766.0),
            ("min_per_month_730_5h", u * 730.5 * 60.0),
            ("s_per_day", u * 86_400.0),
        ] {
            v.near(&format!("{column} of {}", row["A"]), found, number(&row[column], column));
        }
    }
}

fn copysets(v: &Vector) {
    let (nodes, copies) = (v.count("N"), v.count("R"));
    let failed = (f64::from(nodes) * v.input("failed_fraction")).round() as u32;
    let loss = |sets: f64| copyset_loss(nodes, copies, failed, sets).unwrap();
    // Each node scatters over S others: S/(R − 1) permutations, cut into N/R sets each.
    let permuted = |scatter: f64| scatter / f64::from(copies - 1) * f64::from(nodes) / f64::from(copies);
    v.check("P_ramcloud_copyset_S2", loss(permuted(2.0)));
    v.check("P_facebook_copyset_S10", loss(permuted(10.0)));
    v.check("P_facebook_random_275000", loss(275_000.0));
    let chunks = v.input("ramcloud_chunks_per_node") * f64::from(nodes) / f64::from(copies);
    v.check("P_ramcloud_random", loss(chunks));
}

fn maintenance(v: &Vector) {
    let units = KOfN {
        n: v.count("n"),
        k: v.count("N"),
        mttf_h: v.input("mttf_h"),
        mttr_h: v.input("mttr_h"),
        crews: v.count("crews"),
        dormancy: 1.0,
    };
    let gated = Maintained { units, per_year: v.input("maint_per_year"), hours: v.input("maint_h"), is_gated: true };
    v.check("U", gated.downtime().unwrap().unavailability);
    v.check("U_without_maintenance", units.downtime().unwrap().unavailability);
}

fn request_weighted(v: &Vector) {
    let units = KOfN {
        n: v.count("n"),
        k: v.count("n"),
        mttf_h: v.input("mttf_h"),
        mttr_h: v.input("mttr_h"),
        crews: v.count("crews"),
        dormancy: 1.0,
    };
    let load = v.inputs["load_profile"].as_array().expect("a list").iter().map(numbers);
    let load: Vec<_> = load.map(|pair| (pair[0], pair[1])).collect();
    v.check("lost_request_fraction", lost_requests(&units, v.input("unit_capacity"), &load).unwrap());
    // At the peak all units are needed.
    v.check("P_any_shed_at_peak", units.downtime().unwrap().unavailability);
}

fn measured_rate(v: &Vector) {
    let found = estimate_rate(v.count("failures"), v.input("unit_hours"), v.input("level")).unwrap();
    v.check("mle_rate", found.mle_per_h);
    let ends = numbers(v.expected("ci95"));
    v.near("lower", found.lower, ends[0]);
    v.near("upper", found.upper, ends[1]);
    v.check("jeffreys_mean", found.jeffreys_mean);
    let ends = numbers(v.expected("jeffreys_ci95"));
    v.near("Jeffreys lower", found.jeffreys.0, ends[0]);
    v.near("Jeffreys upper", found.jeffreys.1, ends[1]);
    v.check("mtbf_lower95_two_sided", found.upper.recip());
    v.check("mtbf_upper95_two_sided", found.lower.recip());
}

fn proven_coverage(v: &Vector) {
    let bound = |passed, failed| coverage_lower_bound(passed, failed, v.input("confidence")).unwrap();
    v.check("lower_300_0", bound(v.count("successes"), v.count("failures")));
    for also in v.inputs["also"].as_array().expect("a list") {
        let [passed, failed] = ["successes", "failures"].map(|name| number(&also[name], name) as u32);
        v.check(&format!("lower_{passed}_{failed}"), bound(passed, failed));
    }
}

fn recovery_time(v: &Vector) {
    let time = RecoveryTime {
        heartbeat_s: v.input("heartbeat_s"),
        misses: v.count("misses"),
        elect_s: v.input("elect_s"),
        fence_s: v.input("fence_s"),
        promote_mean_s: v.input("promote_replay_mean_s"),
    };
    v.check("mean_rto_s", time.mean_s().unwrap());
    v.check("P_rto_le_15s", time.within(15.0).unwrap());
    v.check("p99_rto_s", time.quantile_s(0.99).unwrap());
}

fn annual_outages(v: &Vector) {
    let at_least = |outages| probability_of_outages(v.input("outages_per_year"), outages).unwrap();
    v.check("P_zero_outage_year", 1.0 - at_least(1));
    v.check("P_at_least_3", at_least(3));
}

fn sizes(v: &Vector) {
    for row in v.expected("rows").as_array().expect("rows") {
        let row = numbers(row);
        let units = units_to_survive(row[0] as u32, row[1] as u32, 1).unwrap();
        v.near(&format!("{row:?}"), units as f64, row[2]);
    }
}

fn latent_spare(v: &Vector) {
    let (mttf_h, every_h) = (v.input("latent_failure_mttf_h"), v.input("drill_interval_h"));
    let dead = latent_probability(mttf_h, every_h).unwrap();
    v.check("P_standby_secretly_dead_periodic", dead);
    v.check("first_order_lambda_T_over_2", every_h / mttf_h / 2.0);
    v.check("P_if_drills_are_poisson", latent_probability_random(mttf_h, every_h).unwrap());
    v.check("effective_coverage", v.input("coverage") * (1.0 - dead));
}
