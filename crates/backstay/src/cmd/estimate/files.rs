//! The files that `estimate` reads: small, and wrong at a line and a column.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

use crate::output::Failure;

/// The largest file that is read.
const BYTES_MAX: u64 = 1 << 20;

/// `estimate tree FILE`.
#[derive(Debug, Deserialize, Serialize)]
pub struct TreeFile {
    /// Hosts of each rack of each site.
    pub layout_hosts_per_rack_per_site: Vec<Vec<u32>>,
    /// Hosts that are needed.
    #[serde(rename = "N")]
    pub need: u32,
    /// Part of the time that a host is down by itself.
    #[serde(deserialize_with = "fraction")]
    pub u_host: f64,
    /// The same of what a rack shares.
    #[serde(deserialize_with = "fraction")]
    pub u_rack: f64,
    /// The same of what a site shares.
    #[serde(deserialize_with = "fraction")]
    pub u_site: f64,
    /// Mean times to repair, in hours.
    pub mttr_h: RepairTimes,
}

/// Mean times to repair, in hours.
#[derive(Debug, Deserialize, Serialize)]
pub struct RepairTimes {
    /// Of a host.
    #[serde(deserialize_with = "repair_time")]
    pub host: f64,
    /// Of what a rack shares.
    #[serde(deserialize_with = "repair_time")]
    pub rack: f64,
    /// Of what a site shares.
    #[serde(deserialize_with = "repair_time")]
    pub site: f64,
}

/// `estimate fault-tree FILE`.
#[derive(Debug, Deserialize, Serialize)]
pub struct FaultTreeFile {
    /// The formula of the top.
    pub top: String,
    /// Formulas that it names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gates: BTreeMap<String, String>,
    /// The probability of each event.
    #[serde(default)]
    pub p: BTreeMap<String, Probability>,
}

/// From 0 to 1.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Probability(#[serde(deserialize_with = "fraction")] pub f64);

fn fraction<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(from)?;
    let fits = (0.0..=1.0).contains(&value);
    if fits { Ok(value) } else { Err(D::Error::custom(format_args!("{value} must be from 0 to 1"))) }
}

fn repair_time<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(from)?;
    let fits = value > 0.0 && value <= backstay_planner::predict::DELAY_MAX_H;
    if fits {
        Ok(value)
    } else {
        Err(D::Error::custom(format_args!("{value} h must be more than 0 h, at most 10⁹ h")))
    }
}

/// Reads a file of JSON.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let name = path.display();
    let unreadable = |why: String| Failure::usage("unreadable", format!("cannot read {name}: {why}"));
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
    file.take(BYTES_MAX + 1).read_to_end(&mut text).map_err(|error| unreadable(error.to_string()))?;
    if text.len() as u64 > BYTES_MAX {
        return Err(unreadable("it is larger than 1 MiB".to_owned()));
    }
    serde_json::from_slice(&text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        // Its own text ends with the place, which stands in front here.
        let whole = error.to_string();
        let why = whole.split(" at line ").next().unwrap_or(&whole);
        let mut failure = Failure::usage("bad-file", format!("{name}:{line}:{column}: {why}"));
        failure.fields.insert(
            "errors".to_owned(),
            json!([{ "file": name.to_string(), "line": line, "column": column, "code": "bad-file", "message": why }]),
        );
        failure
    })
}
