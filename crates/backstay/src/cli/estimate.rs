//! `estimate`: its kinds and their flags, and how times are written.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

/// `estimate KIND …`.
#[derive(Debug, Subcommand)]
pub enum EstimateKind {
    /// n like units of which k must work, with so many repair crews
    KOfN(KOfNArgs),
    /// N units carry and spares stand by: failovers take time, and sometimes fail
    ActivePassive(ActivePassiveArgs),
    /// All units carry, more than are needed: failed ones are ejected
    ActiveActive(ActiveActiveArgs),
    /// n like units of which k must work, and a part of all failures that strikes them all at once
    CommonCause(CommonCauseArgs),
    /// Units on hosts in racks in sites, from a JSON file
    Tree {
        /// {"layout_hosts_per_rack_per_site": [[1,1],[2]], "N", "u_host", "u_rack", "u_site", "mttr_h": {"host","rack","site"}}
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// What has to fail together, from a JSON file
    FaultTree {
        /// {"top": "dns or 2 of (a, b, c and d)", "p": {"dns": 0.001, …}}; "gates" may name further formulas
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// List at most so many minimal cut sets; all are counted
        #[arg(long, value_name = "N", default_value_t = 100_000)]
        list: usize,
    },
    /// What so many failover drills prove
    Coverage(CoverageArgs),
    /// A failure rate from what was seen
    Rate(RateArgs),
}

/// `estimate k-of-n`.
#[derive(Debug, Args)]
pub struct KOfNArgs {
    /// Units
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub n: u32,
    /// Units that must work
    #[arg(long, value_name = "K", allow_hyphen_values = true)]
    pub k: u32,
    /// Mean time to failure of a unit, from the end of its repair: 2190h, 3y, never
    #[arg(long, value_name = "TIME", value_parser = time_or_never, allow_hyphen_values = true)]
    pub mttf: f64,
    /// Mean time to repair of a unit: 4h, 30m
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    pub mttr: f64,
    /// Units that can be under repair at once [default: all]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub crews: Option<u32>,
    /// How often a unit that is not needed fails, as a part of how often one that works does: 1 hot, 0 cold
    #[arg(long, value_name = "0..1", default_value_t = 1.0, allow_hyphen_values = true)]
    pub dormancy: f64,
}

/// `estimate active-passive`.
#[derive(Debug, Args)]
pub struct ActivePassiveArgs {
    /// Units that carry, all of them needed
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub n: u32,
    /// Units that stand by
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub spares: u32,
    /// Mean time to failure of a unit that carries: 2190h, 3y, never
    #[arg(long, value_name = "TIME", value_parser = time_or_never, allow_hyphen_values = true)]
    pub mttf: f64,
    /// Mean time to repair of a unit: 4h, 30m
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    pub mttr: f64,
    /// The probability that a failover works: 0.99
    #[arg(long, value_name = "0..1", allow_hyphen_values = true)]
    pub coverage: f64,
    /// How long a failover takes: 30s
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    pub failover: f64,
    /// How long people take when it does not work: 30m
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    pub uncovered: f64,
    /// Units that can be under repair at once [default: all]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub crews: Option<u32>,
    /// Mean time to failure of a spare; cold ones never fail [default: that of a unit that carries]
    #[arg(long, value_name = "TIME", value_parser = time_or_never, allow_hyphen_values = true)]
    pub standby_mttf: Option<f64>,
}

/// `estimate active-active`.
#[derive(Debug, Args)]
pub struct ActiveActiveArgs {
    /// Units that are needed
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub n: u32,
    /// Units beyond that; they carry too
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub spares: u32,
    /// Mean time to failure of a unit: 2190h, 3y, never
    #[arg(long, value_name = "TIME", value_parser = time_or_never, allow_hyphen_values = true)]
    pub mttf: f64,
    /// Mean time to repair of a unit: 4h, 30m
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    pub mttr: f64,
    /// The probability that a failed unit is ejected: 0.999
    #[arg(long, value_name = "0..1", allow_hyphen_values = true)]
    pub coverage: f64,
    /// How long that takes: 10s
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    pub detect: f64,
    /// How long people take when it is not: 30m
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    pub uncovered: f64,
    /// Units that can be under repair at once [default: all]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub crews: Option<u32>,
}

/// `estimate common-cause`.
#[derive(Debug, Args)]
pub struct CommonCauseArgs {
    /// Units
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub n: u32,
    /// Units that must work
    #[arg(long, value_name = "K", allow_hyphen_values = true)]
    pub k: u32,
    /// Mean time to failure of a unit for any reason: 2190h, 3y, never
    #[arg(long, value_name = "TIME", value_parser = time_or_never, allow_hyphen_values = true)]
    pub mttf: f64,
    /// Mean time to repair of a unit: 4h, 30m
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    pub mttr: f64,
    /// The part of a unit's failures that strikes all of them: 0.02
    #[arg(long, value_name = "0..1", allow_hyphen_values = true)]
    pub beta: f64,
    /// Units that can be under repair at once [default: all]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub crews: Option<u32>,
}

/// `estimate coverage`.
#[derive(Debug, Args)]
pub struct CoverageArgs {
    /// Drills in all
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub drills: u32,
    /// Those of them that failed
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true)]
    pub failed: u32,
    /// How sure the bound is to be
    #[arg(long, value_name = "0..1", default_value_t = 0.95, allow_hyphen_values = true)]
    pub confidence: f64,
}

/// `estimate rate`.
#[derive(Debug, Args)]
pub struct RateArgs {
    /// Failures that were seen
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub failures: u32,
    /// Hours within which they were, those of all units added up
    #[arg(long, value_name = "HOURS", value_parser = hours, allow_hyphen_values = true)]
    pub hours: f64,
    /// The probability that the interval holds the rate
    #[arg(long, value_name = "0..1", default_value_t = 0.95, allow_hyphen_values = true)]
    pub level: f64,
}

/// Units of time, in hours; a year is the one that figures "per year" are counted on.
const UNITS: [(&str, f64); 8] = [
    ("ms", 1.0 / 3_600_000.0),
    ("s", 1.0 / 3600.0),
    ("m", 1.0 / 60.0),
    ("min", 1.0 / 60.0),
    ("h", 1.0),
    ("d", 24.0),
    ("w", 168.0),
    ("y", 8760.0),
];

/// A time in hours: `30s`, `4h`, `1h30m`, `0.5h`; or `never`, which is infinite.
fn time_or_never(text: &str) -> Result<f64, String> {
    if text == "never" { Ok(f64::INFINITY) } else { time(text).map_err(|error| format!("{error}, or `never`")) }
}

/// A time in hours: `30s`, `4h`, `1h30m`, `0.5h`.
fn time(text: &str) -> Result<f64, String> {
    let wrong = || "must be a number with a unit (ms, s, m, h, d, w, y), such as 30s or 2190h".to_owned();
    let mut rest = text.trim();
    let mut sum = 0.0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (number, behind) = number(rest).ok_or_else(wrong)?;
        let behind = behind.trim_start();
        let (unit, behind) = behind.split_at(behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len()));
        let (_, hours) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        // Divided where it divides, so that 30s is what 30/3600 is.
        sum += if *hours < 1.0 { number / hours.recip().round() } else { number * hours };
        rest = behind.trim_start();
    }
    Ok(sum)
}

/// A number of hours, with or without its unit.
fn hours(text: &str) -> Result<f64, String> {
    let plain = text.trim().strip_suffix('h').unwrap_or(text).trim();
    match number(plain) {
        Some((hours, "")) => Ok(hours),
        _ => Err("must be a number of hours, such as 10000".to_owned()),
    }
}

/// The decimal number at the beginning, and what follows; an exponent counts as part of it.
fn number(text: &str) -> Option<(f64, &str)> {
    let digits =
        |from: usize| text[from..].find(|c: char| !(c.is_ascii_digit() || c == '.')).map_or(text.len(), |n| from + n);
    let mut end = digits(0);
    if let Some(exponent) = text[end..].strip_prefix(['e', 'E']) {
        let sign = usize::from(exponent.starts_with(['+', '-']));
        let behind = digits(end + 1 + sign);
        end = if behind > end + 1 + sign { behind } else { end };
    }
    text[..end].parse().ok().map(|number| (number, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        for (text, expected) in [
            ("30s", 30.0 / 3600.0),
            ("4h", 4.0),
            ("1h30m", 1.5),
            ("0.5h", 0.5),
            ("90 min", 1.5),
            ("1e9h", 1e9),
            ("2.5e-1h", 0.25),
            ("250ms", 0.25 / 3600.0),
            ("2w 1d", 360.0),
            ("3y", 26_280.0),
            ("0s", 0.0),
        ] {
            assert_eq!(time(text), Ok(expected), "{text}");
        }
        for bad in ["", "30", "h", "4 parsecs", "-4h", "4h-", "1.2.3h", "never", "inf", "nan h", "4h5", "1eh", "é"] {
            assert!(time(bad).is_err(), "{bad}: {:?}", time(bad));
        }
        assert_eq!(time_or_never("never"), Ok(f64::INFINITY));
        assert!(time_or_never("Never").unwrap_err().ends_with("or `never`"));
    }

    #[test]
    fn hours_need_none() {
        assert_eq!((hours("10000"), hours("1e4h"), hours("12.5 h")), (Ok(1e4), Ok(1e4), Ok(12.5)));
        assert!(hours("10d").is_err() && hours("").is_err() && hours("h").is_err() && hours("-1").is_err());
    }
}
