//! Which parameter to improve: by how much the downtime changes when one parameter changes by a hundredth.

use std::fmt;

use serde::Serialize;

use super::super::range::OutOfRange;
use super::super::rates::Level;
use super::Service;
use super::model::{Model, Parameters};

/// Something that may be improved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Parameter {
    /// How long a failover takes.
    FailoverTime,
    /// The probability that a failover does not happen by itself.
    CoverageGap,
    /// How long people take when it does not.
    UncoveredTime,
    /// How often things of a level fail.
    TimeToFailure(Level),
    /// How long their repair takes.
    TimeToRepair(Level),
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FailoverTime => f.pad("failover time"),
            Self::CoverageGap => f.pad("coverage gap"),
            Self::UncoveredTime => f.pad("recovery time without failover"),
            Self::TimeToFailure(level) => f.pad(&format!("time to failure of {}", one(*level))),
            Self::TimeToRepair(level) => f.pad(&format!("time to repair of {}", one(*level))),
        }
    }
}

fn one(level: Level) -> &'static str {
    match level {
        Level::Instance => "an instance",
        Level::Node => "a node",
        Level::Rack => "a rack",
        Level::Site => "a site",
    }
}

/// What one parameter does to the downtime.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Elasticity {
    /// Which.
    pub parameter: Parameter,
    /// d ln U / d ln θ: 0.7 means that a parameter smaller by 1 % leaves about 0.7 % less downtime; negative ones have to
    /// grow.
    pub elasticity: f64,
}

/// The elasticities of everything that the service's downtime depends on, the strongest first. Those of all times add up
/// to nothing: a world in which everything takes twice as long is down as much. Empty when it is never down.
///
/// # Errors
/// As [`predict`](super::predict).
pub fn tornado(service: &Service<'_>) -> Result<Vec<Elasticity>, OutOfRange> {
    // Central differences: the error is of the order of its square, far below what is shown.
    const STEP: f64 = 1e-4;
    let model = Model::of(service)?;
    if model.solve(&model.parameters)?.unavailability() <= 0.0 {
        return Ok(Vec::new());
    }
    let log_u = |parameters: &Parameters| model.solve(parameters).map(|figures| figures.unavailability().ln());
    let mut all = Vec::new();
    for parameter in parameters(&model) {
        let (mut less, mut more) = (model.parameters, model.parameters);
        scale(&mut less, parameter, 1.0 - STEP);
        scale(&mut more, parameter, 1.0 + STEP);
        let elasticity = (log_u(&more)? - log_u(&less)?) / (2.0 * STEP);
        all.push(Elasticity { parameter, elasticity });
    }
    all.sort_by(|a, b| b.elasticity.abs().total_cmp(&a.elasticity.abs()).then(a.parameter.cmp(&b.parameter)));
    Ok(all)
}

fn parameters(model: &Model) -> Vec<Parameter> {
    let now = &model.parameters;
    let recovery = [
        (Parameter::FailoverTime, now.failover_h),
        (Parameter::CoverageGap, now.gap),
        (Parameter::UncoveredTime, now.uncovered_h),
    ];
    // What is nothing cannot become less.
    let mut all: Vec<_> = recovery.into_iter().filter(|(_, value)| *value > 0.0).map(|(of, _)| of).collect();
    for level in model.levels() {
        all.push(Parameter::TimeToFailure(level));
        all.push(Parameter::TimeToRepair(level));
    }
    all
}

fn scale(parameters: &mut Parameters, parameter: Parameter, factor: f64) {
    match parameter {
        Parameter::FailoverTime => parameters.failover_h *= factor,
        Parameter::CoverageGap => parameters.gap = (parameters.gap * factor).min(1.0),
        Parameter::UncoveredTime => parameters.uncovered_h *= factor,
        Parameter::TimeToFailure(level) => parameters.failure[level as usize] /= factor,
        Parameter::TimeToRepair(level) => parameters.repair[level as usize] *= factor,
    }
}
