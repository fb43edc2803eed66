//! What redundancy costs in a year, and what going without it does.

use serde::Serialize;

use super::downtime::{Downtime, HOURS_PER_YEAR};
use super::range::{self, OutOfRange};

/// Prices, in any currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Prices {
    /// Of one unit, a year.
    pub unit: f64,
    /// Of one domain that is used, a year: a site, a rack.
    pub domain: f64,
    /// Of one hour of downtime.
    pub downtime_h: f64,
    /// Of one outage, however short.
    pub outage: f64,
}

/// What a year costs, and what for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Units.
    pub units: f64,
    /// Domains.
    pub domains: f64,
    /// Hours of downtime.
    pub downtime: f64,
    /// Outages.
    pub outages: f64,
}

impl Cost {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.units + self.domains + self.downtime + self.outages
    }
}

/// The cost of a year with so many units in so many domains, and so much downtime (availability.md §2.7).
///
/// # Errors
/// When a price is negative or not finite.
pub fn yearly_cost(prices: &Prices, units: u32, domains: u32, downtime: Downtime) -> Result<Cost, OutOfRange> {
    Ok(Cost {
        units: range::amount("price of a unit", prices.unit)? * f64::from(units),
        domains: range::amount("price of a domain", prices.domain)? * f64::from(domains),
        downtime: range::amount("price of an hour", prices.downtime_h)? * downtime.unavailability * HOURS_PER_YEAR,
        outages: range::amount("price of an outage", prices.outage)? * downtime.outages_per_year(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_counted_once() {
        let prices = Prices { unit: 1000.0, domain: 200.0, downtime_h: 50.0, outage: 7.0 };
        let downtime = Downtime { unavailability: 2.0 / HOURS_PER_YEAR, outages_per_h: 3.0 / HOURS_PER_YEAR };
        let cost = yearly_cost(&prices, 5, 2, downtime).unwrap();
        assert_eq!((cost.units, cost.domains), (5000.0, 400.0));
        assert!((cost.downtime - 100.0).abs() < 1e-9 && (cost.outages - 21.0).abs() < 1e-9, "{cost:?}");
        assert!((cost.total() - 5521.0).abs() < 1e-9);
        let bad = Prices { outage: f64::NAN, ..prices };
        assert_eq!(yearly_cost(&bad, 1, 1, downtime).unwrap_err().what, "price of an outage");
    }
}
