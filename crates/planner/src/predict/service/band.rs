//! How sure a prediction is: the same service under many values of what nobody knows exactly.

use serde::Serialize;

use super::super::downtime::minutes_per_year;
use super::super::quantile;
use super::super::range::OutOfRange;
use super::Service;
use super::model::{LEVELS, Model, Parameters};

/// How many sets of values are tried.
pub const DRAWS: u32 = 512;

/// Where the minutes down per year lie, given how little is known of the rates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Band {
    /// With a probability of 5 % they are fewer.
    pub low_min_per_year: f64,
    /// As likely to be more as to be fewer.
    pub median_min_per_year: f64,
    /// With a probability of 5 % they are more.
    pub high_min_per_year: f64,
}

/// The band of a service's downtime.
///
/// The failure rate of each level and the gap in the coverage are gamma distributed: events seen over exposure, a
/// declared value counting as one event. Times of repair and recovery are taken as they are. The values are no random
/// ones: a Halton sequence covers the possibilities evenly, and the same question has the same answer.
///
/// # Errors
/// As [`predict`](super::predict).
pub fn band(service: &Service<'_>) -> Result<Band, OutOfRange> {
    let model = Model::of(service)?;
    let mut minutes = Vec::with_capacity(DRAWS as usize);
    for draw in 1..=DRAWS {
        let figures = model.solve(&parameters(&model, draw))?;
        minutes.push(minutes_per_year(figures.unavailability()));
    }
    minutes.sort_by(f64::total_cmp);
    let at = |part: f64| minutes[(part * f64::from(DRAWS - 1)).round() as usize];
    Ok(Band { low_min_per_year: at(0.05), median_min_per_year: at(0.5), high_min_per_year: at(0.95) })
}

fn parameters(model: &Model, draw: u32) -> Parameters {
    /// Halton's bases: one for each level and one for the coverage.
    const BASES: [u32; LEVELS + 1] = [2, 3, 5, 7, 11];
    /// With more events than this seen, what is left unknown is less than a thousandth.
    const EVENTS_MAX: f64 = 1e6;
    let around_one = |events: f64, base: u32| {
        let events = events.min(EVENTS_MAX);
        quantile::gamma(events, radical_inverse(draw, base)) / events
    };
    let mut parameters = model.parameters;
    for ((factor, failures), base) in parameters.failure.iter_mut().zip(model.evidence.failures).zip(BASES) {
        *factor *= failures.map_or(1.0, |events| around_one(events, base));
    }
    let gap = model.evidence.gap.map_or(1.0, |events| around_one(events, BASES[LEVELS]));
    parameters.gap = (parameters.gap * gap).min(1.0);
    parameters
}

/// The digits of a number mirrored behind the point: 6 = 110₂ → 0.011₂. Never 0 for numbers from 1 on.
fn radical_inverse(mut number: u32, base: u32) -> f64 {
    let (mut inverse, mut place) = (0.0, 1.0);
    while number > 0 {
        place /= f64::from(base);
        inverse += f64::from(number % base) * place;
        number /= base;
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrored_digits_cover_evenly() {
        assert_eq!(radical_inverse(6, 2), 0.375);
        assert_eq!(radical_inverse(1, 11), 1.0 / 11.0);
        let below_a_tenth = (1..=DRAWS).filter(|draw| radical_inverse(*draw, 3) < 0.1).count();
        assert!((50..=53).contains(&below_a_tenth), "{below_a_tenth}");
    }
}
