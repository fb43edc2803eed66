//! What the demo measured, and whether every promise held.

use std::time::Duration;

use serde_json::{Value, json};

/// Everything that came of the demo.
#[derive(Debug, Default)]
pub struct Report {
    /// Requests that clients sent.
    pub sent: u64,
    /// Those that failed at their one attempt.
    pub failed: u64,
    /// Those that a balancer tried again on another backend.
    pub retried: u64,
    /// One entry per fault, in order.
    pub faults: Vec<Fault>,
}

/// One fault and what clients saw of it.
#[derive(Debug)]
pub struct Fault {
    /// `app_killed`, `node_killed`, …
    pub name: &'static str,
    /// What clients saw, each kind of target with its own promise.
    pub seen: Vec<TargetSeen>,
    /// Requests that failed meanwhile.
    pub failed: u64,
    /// Whether none may fail.
    pub none_may_fail: bool,
    /// How long two holders of the exclusive role acted at once.
    pub overlap: Duration,
    /// What did not come about in time.
    pub missed: Option<String>,
}

/// One target during one fault.
#[derive(Clone, Debug)]
pub struct TargetSeen {
    /// For people.
    pub name: String,
    /// The longest time without a success.
    pub outage: Duration,
    /// What was promised.
    pub promised: Duration,
    /// Requests that failed.
    pub failed: u64,
}

impl Report {
    /// Every promise held.
    pub fn passed(&self) -> bool {
        !self.faults.is_empty() && self.faults.iter().all(|fault| fault.broken().is_empty())
    }

    /// The fields of the JSON answer.
    pub fn json(&self) -> Value {
        json!({
            "passed": self.passed(),
            "requests": { "sent": self.sent, "failed": self.failed, "retried": self.retried },
            "faults": self.faults.iter().map(Fault::json).collect::<Vec<_>>(),
        })
    }

    /// The verdict, for people.
    pub fn text(&self) -> String {
        let mut text =
            format!("{:<15}{:>9}  {:>9}  {:>6}  {:>7}\n", "FAULT", "OUTAGE", "PROMISED", "FAILED", "OVERLAP");
        for fault in &self.faults {
            let worst = fault.worst();
            text.push_str(&format!(
                "{:<15}{:>6} ms  {:>6} ms  {:>6}  {:>4} ms\n",
                fault.name,
                worst.outage.as_millis(),
                worst.promised.as_millis(),
                fault.failed,
                fault.overlap.as_millis(),
            ));
            for broken in fault.broken() {
                text.push_str(&format!("  BROKEN  {broken}\n"));
            }
        }
        let verdict = if self.passed() { "PASSED" } else { "FAILED" };
        text.push_str(&format!(
            "{verdict}  {} requests, {} failed at the client, {} retried by a balancer",
            self.sent, self.failed, self.retried
        ));
        text
    }
}

impl Fault {
    /// Sentences about promises that did not hold.
    pub fn broken(&self) -> Vec<String> {
        let mut broken: Vec<_> = self.missed.iter().cloned().collect();
        let slow = self.seen.iter().filter(|seen| seen.outage > seen.promised);
        broken.extend(slow.map(|seen| {
            format!(
                "{} was out for {} ms, promised {} ms",
                seen.name,
                seen.outage.as_millis(),
                seen.promised.as_millis()
            )
        }));
        if self.none_may_fail && self.failed > 0 {
            broken.push(format!("{} requests failed, none may", self.failed));
        }
        if !self.overlap.is_zero() {
            broken.push(format!("two holders of the exclusive role acted at once for {} µs", self.overlap.as_micros()));
        }
        broken
    }

    /// The target that came closest to its promise, or broke it most: the longest outage among those with the longest
    /// promise says nothing of a short promise that was broken.
    fn worst(&self) -> TargetSeen {
        let used = |seen: &TargetSeen| seen.outage.as_secs_f64() / seen.promised.as_secs_f64().max(f64::MIN_POSITIVE);
        let broken =
            self.seen.iter().filter(|seen| seen.outage > seen.promised).max_by(|a, b| used(a).total_cmp(&used(b)));
        let longest = self.seen.iter().max_by_key(|seen| seen.outage);
        broken.or(longest).cloned().unwrap_or(TargetSeen {
            name: String::new(),
            outage: Duration::ZERO,
            promised: Duration::ZERO,
            failed: 0,
        })
    }

    fn json(&self) -> Value {
        let worst = self.worst();
        let targets: Vec<_> = self
            .seen
            .iter()
            .map(|seen| {
                json!({
                    "name": seen.name,
                    "outage_ms": millis(seen.outage),
                    "promised_ms": millis(seen.promised),
                    "failed": seen.failed,
                })
            })
            .collect();
        json!({
            "name": self.name,
            "outage_ms": millis(worst.outage),
            "promised_ms": millis(worst.promised),
            "failed": self.failed,
            // Rounded up: an overlap of any length is never shown as none.
            "role_overlap_ms": u64::try_from(self.overlap.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX),
            "targets": targets,
            "broken": self.broken(),
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(outage_ms: u64, failed: u64, none_may_fail: bool, overlap_us: u64) -> Fault {
        let seen = |name: &str, outage, promised| TargetSeen {
            name: name.to_owned(),
            outage: Duration::from_millis(outage),
            promised: Duration::from_millis(promised),
            failed: 0,
        };
        Fault {
            name: "node_killed",
            seen: vec![seen("till", 3500, 4000), seen("web", outage_ms, 1000)],
            failed,
            none_may_fail,
            overlap: Duration::from_micros(overlap_us),
            missed: None,
        }
    }

    fn passed(fault: Fault) -> bool {
        Report { faults: vec![fault], ..Report::default() }.passed()
    }

    #[test]
    fn each_promise_is_judged_by_itself() {
        assert!(passed(fault(900, 5, false, 0)));
        assert!(!passed(fault(1100, 0, false, 0)), "a short promise is not hidden by a long outage that was promised");
        assert!(!passed(fault(900, 1, true, 0)));
        assert!(!passed(fault(900, 0, false, 1)));
        assert!(!Report::default().passed(), "a demo without faults proves nothing");
    }

    #[test]
    fn the_answer_shows_what_decided_it() {
        let answer = fault(1100, 0, false, 1).json();
        assert_eq!((&answer["outage_ms"], &answer["promised_ms"]), (&json!(1100), &json!(1000)));
        assert_eq!(answer["role_overlap_ms"], json!(1));
        let answer = fault(900, 0, false, 0).json();
        assert_eq!((&answer["outage_ms"], &answer["promised_ms"]), (&json!(3500), &json!(4000)));
    }
}
