//! Predictions: how often and for how long a service will be down, what it rests on, and what would help.
//!
//! [`service`] answers that for one service on a layout of failure domains. It stands on kernels that are exact for what
//! they describe, each its own file: like units and crews ([`KOfN`]), failovers that take time and sometimes fail
//! ([`ActivePassive`], [`ActiveActive`]), shocks ([`CommonCause`]), planned work ([`Maintained`]), domains within domains
//! ([`Tree`]), parts that paths share ([`fault_tree`]). [`Chain`] solves anything small, and is what the closed forms are
//! checked against.
//!
//! Three rules hold everywhere. Unavailability is what is computed with, and only sums and products of what is not
//! negative, so that a probability of 10⁻⁵⁴ has all its digits. Inputs are checked at the door, by name. A year has
//! [`HOURS_PER_YEAR`] hours. The formulas come from the books named beside them; the numbers in `tests/vectors.json` were
//! computed elsewhere, in exact arithmetic.

mod common_cause;
mod cost;
mod downtime;
mod evidence;
mod failover_chain;
pub mod fault_tree;
mod gth;
mod k_of_n;
mod maintenance;
mod quantile;
mod range;
mod rates;
mod recovery;
pub mod service;
mod sizing;
mod tree;

pub use common_cause::{COMMON_CAUSE_UNITS_MAX, CommonCause};
pub use cost::{Cost, Prices, yearly_cost};
pub use downtime::{
    Downtime, HOURS_PER_YEAR, availability_text, minutes_per_year, nines, parallel, probability_of_outages, series,
    unavailability_of,
};
pub use evidence::{
    EVENTS_MAX, RateEstimate, clean_drills_to_prove, coverage_interval, coverage_lower_bound, estimate_rate,
};
pub use failover_chain::{
    ActiveActive, ActiveActiveDowntime, ActivePassive, ActivePassiveDowntime, FailoverChain, State,
};
pub use gth::{Chain, STATES_MAX};
pub use k_of_n::{KOfN, failed_of, lost_requests, mttf_without_repair_h};
pub use maintenance::Maintained;
pub use range::{DELAY_MAX_H, MTTF_MAX_H, OutOfRange, TIME_MIN_H, UNITS_MAX};
pub use rates::{Level, Rate, Rates, Times};
pub use recovery::{RecoveryTime, latent_probability, latent_probability_random};
pub use sizing::{copyset_loss, units_to_survive};
pub use tree::{Domain, Effect, TREE_DEPTH_MAX, TREE_DOMAINS_MAX, TREE_UNITS_MAX, Tree, TreeDowntime};
