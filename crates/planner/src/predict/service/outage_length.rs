//! How long one outage lasts: a mixture of the kinds that there are.

use super::super::Downtime;

/// Kinds of outages, some that take about the same time each, others that last exponentially.
#[derive(Clone, Debug, Default)]
pub(super) struct OutageLengths {
    alike: Vec<Downtime>,
    exponential: Vec<Downtime>,
}

impl OutageLengths {
    /// Adds failovers.
    pub fn alike(mut self, kind: Downtime) -> Self {
        self.alike.push(kind);
        self
    }

    /// Adds repairs and recoveries.
    pub fn exponential(mut self, kind: Downtime) -> Self {
        self.exponential.push(kind);
        self
    }

    /// The seconds that this part of all outages exceeds: 0.01 gives the 99th percentile. None when there are no outages.
    pub fn exceeded_by_s(&self, part: f64) -> Option<f64> {
        let kinds = || self.alike.iter().chain(&self.exponential);
        let wanted = part * kinds().map(|kind| kind.outages_per_h).sum::<f64>();
        if wanted <= 0.0 {
            return None;
        }
        // Behind this all that are alike are over, and each exponential has less than its part left.
        let longest_h = kinds().filter_map(Downtime::mean_outage_h).fold(0.0, f64::max);
        let (mut low, mut high) = (0.0, longest_h * (1.0 - part.ln()));
        const HALVINGS: u32 = 52;
        for _ in 0..HALVINGS {
            let middle = 0.5 * (low + high);
            if self.longer_than(middle) > wanted {
                low = middle;
            } else {
                high = middle;
            }
        }
        Some(high * 3600.0)
    }

    /// Outages per hour that exceed so many hours.
    fn longer_than(&self, hours: f64) -> f64 {
        let means = |kind: &Downtime| (kind.outages_per_h, kind.mean_outage_h().unwrap_or_default());
        let alike = self.alike.iter().map(means).filter(|(_, mean)| hours < *mean).map(|(rate, _)| rate);
        let exponential = self.exponential.iter().map(means).filter(|(_, mean)| *mean > 0.0);
        alike.sum::<f64>() + exponential.map(|(rate, mean)| rate * (-hours / mean).exp()).sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(outages_per_h: f64, mean_h: f64) -> Downtime {
        Downtime { unavailability: outages_per_h * mean_h, outages_per_h }
    }

    #[test]
    fn failovers_are_a_step_in_the_distribution() {
        let of =
            OutageLengths::default().alike(kind(0.9, 0.01)).exponential(kind(0.1, 1.0)).exponential(kind(0.0, 0.0));
        let p50 = of.exceeded_by_s(0.5).unwrap();
        assert!((p50 - 36.0).abs() < 1e-9, "half are over when the failovers are: {p50}");
        let p99 = of.exceeded_by_s(0.01).unwrap() / 3600.0;
        assert!((p99 - 10_f64.ln()).abs() < 1e-9, "one in a hundred is one in ten of the others: {p99}");
    }

    #[test]
    fn short_exponentials_come_before_the_step() {
        let of = OutageLengths::default().alike(kind(0.3, 10.0)).exponential(kind(0.7, 1.0));
        let p50 = of.exceeded_by_s(0.5).unwrap() / 3600.0;
        assert!(p50 < 10.0 && (of.longer_than(p50) - 0.5).abs() < 1e-12, "{p50}");
    }

    #[test]
    fn instant_kinds_take_no_time() {
        assert_eq!(OutageLengths::default().alike(kind(1.0, 0.0)).exceeded_by_s(0.01), Some(0.0));
        assert_eq!(OutageLengths::default().exponential(kind(1.0, 0.0)).exceeded_by_s(0.5), Some(0.0));
        assert_eq!(OutageLengths::default().exceeded_by_s(0.5), None);
    }
}
