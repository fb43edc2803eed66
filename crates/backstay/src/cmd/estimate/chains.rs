//! Kinds whose answer is a formula of a few flags.

use backstay_planner::predict::{ActiveActive, ActivePassive, CommonCause, Downtime, HOURS_PER_YEAR, KOfN, OutOfRange};
use serde_json::json;

use super::Estimate;
use super::text::{Table, brief, minutes, time};
use crate::cli::estimate::{ActiveActiveArgs, ActivePassiveArgs, CommonCauseArgs, KOfNArgs};

/// Like units of which some must work.
pub fn k_of_n(args: &KOfNArgs) -> Result<Estimate, OutOfRange> {
    let crews = args.crews.unwrap_or(args.n.max(1));
    let &KOfNArgs { n, k, dormancy, .. } = args;
    let units = KOfN { n, k, mttf_h: args.mttf, mttr_h: args.mttr, crews, dormancy };
    let downtime = units.downtime()?;
    let mttf_h = units.mttf_from_all_up_h()?;
    let table = Table::default()
        .unavailability("downtime", downtime.unavailability)
        .outages(&downtime)
        .line("first outage", time(mttf_h), "after all units were up")
        .assuming(year())
        .assuming(format!("{k} of {n} must work; {}", crews_text(crews, n)));
    Ok(Estimate {
        answer: json!({
            "U": downtime.unavailability,
            "outages_per_year": downtime.outages_per_year(),
            "mean_outage_h": downtime.mean_outage_h(),
            "downtime_min_per_year": downtime.minutes_per_year(),
            "mttf_from_all_up_h": mttf_h,
        }),
        inputs: json!({
            "n": n, "k": k, "mttf_h": args.mttf, "mttr_h": args.mttr, "crews": crews, "dormancy": dormancy,
        }),
        table,
    })
}

/// Units that carry, and others that stand by.
pub fn active_passive(args: &ActivePassiveArgs) -> Result<Estimate, OutOfRange> {
    let &ActivePassiveArgs { n, spares, coverage, .. } = args;
    let units = n.saturating_add(spares);
    let crews = args.crews.unwrap_or(units.max(1));
    let spare_mttf_h = args.standby_mttf.unwrap_or(args.mttf);
    let chain = ActivePassive {
        need: n,
        spares,
        mttf_h: args.mttf,
        spare_mttf_h,
        mttr_h: args.mttr,
        crews,
        coverage,
        failover_h: args.failover,
        uncovered_h: args.uncovered,
    };
    let solved = chain.downtime()?;
    let downtime = Downtime { unavailability: solved.unavailability(), outages_per_h: solved.outages_per_h };
    let table = Table::default()
        .unavailability("downtime", downtime.unavailability)
        .line("  failovers", minutes(solved.failover), format!("{} each", time(args.failover)))
        .line("  uncovered", minutes(solved.uncovered), format!("failovers that fail, {} each", time(args.uncovered)))
        .line("  exhausted", minutes(solved.exhausted), format!("fewer than {n} left"))
        .outages(&downtime)
        .line("capacity lost", minutes(solved.capacity_weighted), format!("weighted by its part of {n}"))
        .assuming(year())
        .assuming(format!("{n} carry, {spares} stand by; {}", crews_text(crews, units)))
        .assuming("nothing else fails during a failover".to_owned());
    Ok(Estimate {
        answer: json!({
            "U": downtime.unavailability,
            "U_failover": solved.failover,
            "U_uncovered": solved.uncovered,
            "U_exhausted": solved.exhausted,
            "outages_per_year": downtime.outages_per_year(),
            "downtime_min_per_year": downtime.minutes_per_year(),
            "mean_outage_h": downtime.mean_outage_h(),
            "capacity_weighted_U": solved.capacity_weighted,
            "mttf_from_all_up_h": solved.mttf_from_all_up_h,
        }),
        inputs: json!({
            "n": n, "spares": spares, "mttf_h": args.mttf, "standby_mttf_h": spare_mttf_h, "mttr_h": args.mttr,
            "crews": crews, "coverage": coverage, "failover_h": args.failover, "uncovered_h": args.uncovered,
        }),
        table,
    })
}

/// Units that all carry.
pub fn active_active(args: &ActiveActiveArgs) -> Result<Estimate, OutOfRange> {
    let &ActiveActiveArgs { n, spares, coverage, .. } = args;
    let units = n.saturating_add(spares);
    let crews = args.crews.unwrap_or(units.max(1));
    let chain = ActiveActive {
        need: n,
        spares,
        mttf_h: args.mttf,
        mttr_h: args.mttr,
        crews,
        coverage,
        detect_h: args.detect,
        uncovered_h: args.uncovered,
    };
    let solved = chain.downtime()?;
    let downtime = Downtime { unavailability: solved.unavailability(), outages_per_h: solved.outages_per_h };
    let table = Table::default()
        .unavailability("downtime", downtime.unavailability)
        .line("  uncovered", minutes(solved.uncovered), format!("units not ejected, {} each", time(args.uncovered)))
        .line("  exhausted", minutes(solved.exhausted), format!("fewer than {n} left"))
        .outages(&downtime)
        .line(
            "requests lost",
            minutes(solved.request_weighted),
            format!("as if all were lost so long; the load needs {n}"),
        )
        .assuming(year())
        .assuming(format!("all {units} carry, {n} suffice; {}", crews_text(crews, units)))
        .assuming(format!("a failed unit loses its share of the requests for {}", time(args.detect)));
    Ok(Estimate {
        answer: json!({
            "U_capacity": downtime.unavailability,
            "U_request_weighted": solved.request_weighted,
            "U_uncovered": solved.uncovered,
            "U_exhausted": solved.exhausted,
            "outages_per_year": downtime.outages_per_year(),
            "downtime_min_per_year": downtime.minutes_per_year(),
            "mean_outage_h": downtime.mean_outage_h(),
        }),
        inputs: json!({
            "n": n, "spares": spares, "mttf_h": args.mttf, "mttr_h": args.mttr, "crews": crews, "coverage": coverage,
            "detect_h": args.detect, "uncovered_h": args.uncovered,
        }),
        table,
    })
}

/// Like units and shocks.
pub fn common_cause(args: &CommonCauseArgs) -> Result<Estimate, OutOfRange> {
    let &CommonCauseArgs { n, k, beta, .. } = args;
    let crews = args.crews.unwrap_or(n.max(1));
    let shocked = CommonCause { n, k, mttf_h: args.mttf, mttr_h: args.mttr, crews, beta };
    let downtime = shocked.downtime()?;
    let alone = CommonCause { beta: 0.0, ..shocked }.downtime()?;
    let table = Table::default()
        .unavailability("downtime", downtime.unavailability)
        .unavailability("  without shocks", alone.unavailability)
        .outages(&downtime)
        .assuming(year())
        .assuming(format!("{k} of {n} must work; {}", crews_text(crews, n)))
        .assuming(format!("{} % of a unit's failures strike all units at once", brief(beta * 100.0)));
    Ok(Estimate {
        answer: json!({
            "U": downtime.unavailability,
            "outages_per_year": downtime.outages_per_year(),
            "mean_outage_h": downtime.mean_outage_h(),
            "downtime_min_per_year": downtime.minutes_per_year(),
            "U_without_common_cause": alone.unavailability,
        }),
        inputs: json!({
            "n": n, "k": k, "mttf_h": args.mttf, "mttr_h": args.mttr, "crews": crews, "beta": beta,
        }),
        table,
    })
}

fn year() -> String {
    format!("a year of {HOURS_PER_YEAR} h; units fail independently, and are as good as new after a repair")
}

fn crews_text(crews: u32, units: u32) -> String {
    if crews >= units {
        "every failed unit is repaired at once".to_owned()
    } else {
        format!("{crews} repaired at a time")
    }
}
