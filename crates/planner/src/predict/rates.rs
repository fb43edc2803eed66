//! How often things fail when nobody has measured it: defaults, each with where it comes from.
//!
//! A default is a place to start from: it weighs as one failure seen, and measured ones outweigh it soon.

use std::fmt;

use backstay_model::DomainLevel;
use serde::Serialize;

/// What fails as one piece, from small to large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// One run of the service.
    Instance,
    /// One machine.
    Node,
    /// Machines that share power or a switch.
    Rack,
    /// Machines in one place.
    Site,
}

impl Level {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Instance, Self::Node, Self::Rack, Self::Site];
}

impl From<DomainLevel> for Level {
    fn from(level: DomainLevel) -> Self {
        match level {
            DomainLevel::Node => Self::Node,
            DomainLevel::Rack => Self::Rack,
            DomainLevel::Site => Self::Site,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Instance => "instance",
            Self::Node => "node",
            Self::Rack => "rack",
            Self::Site => "site",
        })
    }
}

/// How long something works, and how long its repair takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Times {
    /// Mean time to failure, in hours, counted from the end of a repair; infinite: never.
    pub mttf_h: f64,
    /// Mean time to repair, in hours, detection included; of no meaning for what never fails.
    pub mttr_h: f64,
}

impl Times {
    /// Of something that never fails.
    pub const NEVER: Self = Self { mttf_h: f64::INFINITY, mttr_h: 1.0 };
}

/// The rates of one level, and why these.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// The times.
    pub times: Times,
    /// Where the mean time to failure comes from; begins with "assumed" when nobody measured it.
    pub mttf_source: &'static str,
    /// Where the mean time to repair comes from; the same.
    pub mttr_source: &'static str,
}

/// The rates of all levels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Of one run of a service.
    pub instance: Rate,
    /// Of one machine.
    pub node: Rate,
    /// Of what the machines of one rack share.
    pub rack: Rate,
    /// Of what the machines of one site share.
    pub site: Rate,
}

impl Rates {
    /// Those of one level.
    pub fn of(&self, level: Level) -> &Rate {
        match level {
            Level::Instance => &self.instance,
            Level::Node => &self.node,
            Level::Rack => &self.rack,
            Level::Site => &self.site,
        }
    }
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            instance: Rate {
                times: Times { mttf_h: 2190.0, mttr_h: 1.0 / 60.0 },
                mttf_source: "assumed: a program fails four times a year",
                mttr_source: "assumed: its agent starts it again within a minute",
            },
            node: Rate {
                times: Times { mttf_h: 4.3 * 730.0, mttr_h: 4.0 },
                mttf_source: "4.3 months, Ford et al., Availability in Globally Distributed Storage Systems, OSDI 2010",
                mttr_source: "assumed: somebody comes within four hours; most restarts are far shorter",
            },
            rack: Rate {
                times: Times { mttf_h: 10.2 * 8760.0, mttr_h: 4.0 },
                mttf_source: "10.2 years, Ford et al., Availability in Globally Distributed Storage Systems, OSDI 2010",
                mttr_source: "assumed: somebody comes within four hours",
            },
            site: Rate {
                times: Times { mttf_h: 8760.0, mttr_h: 2.0 },
                mttf_source: "assumed: one outage a year of power, network or cooling",
                mttr_source: "assumed: two hours, near the 1.6 h a year that are quoted for a Tier III site",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_says_where_it_comes_from() {
        let rates = Rates::default();
        for level in Level::ALL {
            let rate = rates.of(level);
            for source in [rate.mttf_source, rate.mttr_source] {
                assert!(source.starts_with("assumed: ") || source.contains("et al."), "{level}: {source}");
            }
        }
        assert!((rates.node.times.mttf_h - 3139.0).abs() < 1e-9);
    }

    #[test]
    fn larger_things_fail_less_than_what_they_hold() {
        let rates = Rates::default();
        assert!(rates.of(DomainLevel::Rack.into()).times.mttf_h > rates.of(DomainLevel::Node.into()).times.mttf_h);
        assert_eq!(Level::from(DomainLevel::Site), Level::Site);
    }
}
