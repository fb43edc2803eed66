//! Seeds that must pass, mutants that must not.

use super::*;

/// Every mutant must be caught within so many seeds.
const MUTANT_SEEDS_MAX: u64 = 600;

#[test]
fn three_hundred_seeds_break_no_rule() {
    let summary = run_many(1..=300, &Options::default());
    assert_eq!(summary.failed, []);
    assert_eq!(summary.passed, 300);
    assert!(summary.ops_ok > 300 * OPS_LEAST);
}

#[test]
fn one_seed_is_one_run() {
    let options = Options { trace_lines: 300, ..Options::default() };
    for seed in [1, 17, 123] {
        let first = run(seed, &options);
        assert_eq!(first, run(seed, &options), "the same seed, the same run");
        assert_eq!(first.hash, run(seed, &Options::default()).hash, "looking on changes nothing");
        assert_ne!(first.hash, run(seed + 1, &options).hash);
    }
}

#[test]
fn every_mutant_is_caught() {
    let missed: Vec<_> = mutants(MUTANT_SEEDS_MAX).into_iter().filter(|(_, seed)| seed.is_none()).collect();
    assert!(missed.is_empty(), "the checkers are blind to {missed:?}");
}

#[test]
fn faults_strike_and_goals_follow() {
    let reports: Vec<_> = (1..=20).map(|seed| run(seed, &Options::default())).collect();
    assert!(reports.iter().map(|report| report.faults).sum::<u64>() > 100);
    assert!(reports.iter().all(|report| report.goals > 0));
}

#[test]
fn mutants_have_names_of_their_own() {
    let names: BTreeSet<_> = Mutant::all().iter().map(|mutant| mutant.name()).collect();
    assert_eq!(names.len(), Mutant::all().len());
}

/// Callers split a range over threads.
#[test]
fn reports_may_cross_threads() {
    fn crosses<T: Send>() {}
    crosses::<RunReport>();
    crosses::<Summary>();
    crosses::<Options>();
}
