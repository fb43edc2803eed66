//! Kinds that say what was seen and what it proves.

use backstay_planner::predict::{
    HOURS_PER_YEAR, OutOfRange, clean_drills_to_prove, coverage_interval, coverage_lower_bound, estimate_rate,
};
use serde_json::json;

use super::Estimate;
use super::text::{Table, brief, time};
use crate::cli::estimate::{CoverageArgs, RateArgs};

/// What drills prove.
pub fn coverage(args: &CoverageArgs) -> Result<Estimate, OutOfRange> {
    let &CoverageArgs { drills, failed, confidence } = args;
    let Some(passed) = drills.checked_sub(failed) else {
        return Err(OutOfRange::new("failed", failed, format!("at most the {drills} drills")));
    };
    let lower = coverage_lower_bound(passed, failed, confidence)?;
    let likely = coverage_interval(passed, failed, confidence)?;
    let percent = |part: f64| format!("{} %", brief(part * 100.0));
    let mut table = Table::default()
        .line(
            "coverage",
            format!("> {}", percent(lower)),
            format!("with {} confidence (Clopper–Pearson)", percent(confidence)),
        )
        .line("", format!("{} … {}", percent(likely.0), percent(likely.1)), "likely range (Jeffreys)".to_owned());
    for gap in [0.05, 0.01, 0.001] {
        let wanted = clean_drills_to_prove(gap, confidence)?;
        table = table.line(format!("to prove {}", percent(1.0 - gap)), brief(wanted), "drills in a row that work");
    }
    Ok(Estimate {
        answer: json!({
            "lower": lower,
            "confidence": confidence,
            "passed": passed,
            "failed": failed,
            "jeffreys_lower": likely.0,
            "jeffreys_upper": likely.1,
        }),
        inputs: json!({ "drills": drills, "failed": failed, "confidence": confidence }),
        table: table.assuming("drills are independent of each other and like real failovers"),
    })
}

/// What failures tell.
pub fn rate(args: &RateArgs) -> Result<Estimate, OutOfRange> {
    let &RateArgs { failures, hours, level } = args;
    let found = estimate_rate(failures, hours, level)?;
    let per_year = |per_h: f64| format!("{} per year", brief(per_h * HOURS_PER_YEAR));
    let longest = match failures {
        0 => "nothing seen says how long it works at most".to_owned(),
        _ => format!("MTTF at most {}", time(found.lower.recip())),
    };
    let table = Table::default()
        .line("rate", per_year(found.mle_per_h), format!("{} failures in {} h", failures, brief(hours)))
        .line("  at least", per_year(found.lower), longest)
        .line("  at most", per_year(found.upper), format!("MTTF at least {}", time(found.upper.recip())))
        .assuming(format!(
            "failures come independently at one rate; the interval holds it with {} %",
            brief(level * 100.0)
        ));
    Ok(Estimate {
        answer: json!({
            "mle_per_h": found.mle_per_h,
            "lower": found.lower,
            "upper": found.upper,
            "level": level,
            "jeffreys_mean_per_h": found.jeffreys_mean,
            "jeffreys_lower": found.jeffreys.0,
            "jeffreys_upper": found.jeffreys.1,
        }),
        inputs: json!({ "failures": failures, "hours": hours, "level": level }),
        table,
    })
}
