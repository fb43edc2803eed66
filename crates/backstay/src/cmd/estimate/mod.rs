//! `estimate`: how available something would be, from a few numbers and without a cluster. The sums are the planner's.

mod chains;
mod evidence;
mod files;
mod text;
mod trees;

use backstay_planner::predict::{HOURS_PER_YEAR, OutOfRange};
use serde_json::{Value, json};

use crate::cli::estimate::EstimateKind;
use crate::exit_code::Exit;
use crate::output::{Answer, Failure, Output};
use text::Table;

/// What came of it, for scripts and for people.
struct Estimate {
    answer: Value,
    inputs: Value,
    table: Table,
}

/// Estimates what was asked for.
pub fn run(kind: &EstimateKind, output: Output) -> Answer {
    let (name, estimate) = match kind {
        EstimateKind::KOfN(args) => ("k-of-n", chains::k_of_n(args).map_err(out_of_range)?),
        EstimateKind::ActivePassive(args) => ("active-passive", chains::active_passive(args).map_err(out_of_range)?),
        EstimateKind::ActiveActive(args) => ("active-active", chains::active_active(args).map_err(out_of_range)?),
        EstimateKind::CommonCause(args) => ("common-cause", chains::common_cause(args).map_err(out_of_range)?),
        EstimateKind::Tree { file } => ("tree", trees::tree(file)?),
        EstimateKind::FaultTree { file, list } => ("fault-tree", trees::fault_tree(file, *list)?),
        EstimateKind::Coverage(args) => ("coverage", evidence::coverage(args).map_err(out_of_range)?),
        EstimateKind::Rate(args) => ("rate", evidence::rate(args).map_err(out_of_range)?),
    };
    let Estimate { mut answer, inputs, table } = estimate;
    answer["kind"] = json!(name);
    answer["inputs"] = inputs;
    answer["year_h"] = json!(HOURS_PER_YEAR as u32);
    output.result(&table.to_string(), answer);
    Ok(Exit::Done)
}

/// Names the flag that the planner's input came from.
fn out_of_range(error: OutOfRange) -> Failure {
    let flag = match error.what.as_str() {
        "need" => "n".to_owned(),
        "spare_mttf" => "standby-mttf".to_owned(),
        "number of drills" | "passed drills" => "drills".to_owned(),
        "failed drills" => "failed".to_owned(),
        same => same.to_owned(),
    };
    Failure::usage("out-of-range", format!("--{flag} is {}, but must be {}", error.value, error.permitted))
}
