//! What the demo measured, and whether every promise held.

use std::time::Duration;

use serde_json::{Value, json};

/// What is promised to the clients of one kind of target: what it is about, and how long an outage may last.
pub type Promise = (&'static str, Duration);

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
    /// The redundancy model that was put to the test, if it was one.
    pub model: Option<Model>,
}

/// The service of a redundancy model that lost what it promises to survive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// `N`, `N+1`, …
    pub name: &'static str,
    /// Its full name.
    pub service: String,
    /// The nodes of its instances, by the sets of the model.
    pub standing: String,
    /// What it lost.
    pub lost: &'static str,
}

/// One target during one fault.
#[derive(Clone, Debug)]
pub struct TargetSeen {
    /// For people.
    pub name: String,
    /// What the promise is about: `balanced`, or what may be away for longer.
    pub kind: &'static str,
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

    /// Adds another story.
    pub fn extend(&mut self, other: Self) {
        self.sent += other.sent;
        self.failed += other.failed;
        self.retried += other.retried;
        self.faults.extend(other.faults);
    }

    /// The fields of the JSON answer.
    pub fn json(&self) -> Value {
        json!({
            "passed": self.passed(),
            "requests": { "sent": self.sent, "failed": self.failed, "retried": self.retried },
            "faults": self.faults.iter().map(Fault::json).collect::<Vec<_>>(),
        })
    }

    /// The verdict, for people: a row for each kind of promise within each fault, then a row for each model.
    pub fn text(&self) -> String {
        let mut text = self.faults_text();
        text.push_str(&self.models_text());
        let overlap: Duration = self.faults.iter().map(|fault| fault.overlap).sum();
        let verdict = if self.passed() { "PASSED" } else { "FAILED" };
        text.push_str(&format!(
            "{verdict}  {} requests, {} failed, {} retried by a balancer; two tills at once for {} ms",
            self.sent,
            self.failed,
            self.retried,
            millis_rounded_up(overlap)
        ));
        text
    }

    fn faults_text(&self) -> String {
        let mut text =
            format!("{:<15}{:<21}{:>8}  {:>8}  {:>6}\n", "FAULT", "SEEN BY CLIENTS OF", "OUTAGE", "PROMISED", "FAILED");
        for fault in self.faults.iter().filter(|fault| fault.model.is_none()) {
            let mut name = fault.name;
            for kind in fault.kinds() {
                let numbers = fault.numbers(|seen| seen.kind == kind);
                text.push_str(&format!("{name:<15}{kind:<21}{numbers}\n"));
                name = "";
            }
            text.push_str(&fault.broken_text());
        }
        text
    }

    fn models_text(&self) -> String {
        let mut text = String::new();
        for (fault, model) in self.faults.iter().filter_map(|fault| Some((fault, fault.model.as_ref()?))) {
            if text.is_empty() {
                text.push_str(&format!(
                    "\n{:<12}{:<15}{:<32}{:<20}{:>8}  {:>8}  {:>6}\n",
                    "MODEL", "INSTANCES ON", "LOST", "THEN", "OUTAGE", "PROMISED", "FAILED"
                ));
            }
            let then = fault.kinds().first().copied().unwrap_or_default();
            let numbers = fault.numbers(|_| true);
            let (name, standing, lost) = (model.name, &model.standing, model.lost);
            text.push_str(&format!("{name:<12}{standing:<15}{lost:<32}{then:<20}{numbers}\n{}", fault.broken_text()));
        }
        text
    }
}

impl Fault {
    /// Kinds of promises, in the order of the targets.
    fn kinds(&self) -> Vec<&'static str> {
        let mut kinds: Vec<&'static str> = Vec::new();
        for seen in &self.seen {
            if !kinds.contains(&seen.kind) {
                kinds.push(seen.kind);
            }
        }
        kinds
    }

    /// The last columns of a row: the longest outage of some targets, what they were promised, and what failed.
    fn numbers(&self, is_meant: impl Fn(&TargetSeen) -> bool) -> String {
        let meant = || self.seen.iter().filter(|seen| is_meant(seen));
        let longest = |of: fn(&TargetSeen) -> Duration| meant().map(of).max().unwrap_or_default().as_millis();
        let failed: u64 = meant().map(|seen| seen.failed).sum();
        let (outage, promised) = (longest(|seen| seen.outage), longest(|seen| seen.promised));
        format!("{outage:>5} ms  {promised:>5} ms  {failed:>6}")
    }

    fn broken_text(&self) -> String {
        self.broken().iter().map(|broken| format!("  BROKEN  {broken}\n")).collect()
    }

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
            kind: "",
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
                    "kind": seen.kind,
                    "outage_ms": millis(seen.outage),
                    "promised_ms": millis(seen.promised),
                    "failed": seen.failed,
                })
            })
            .collect();
        let mut answer = json!({
            "name": self.name,
            "outage_ms": millis(worst.outage),
            "promised_ms": millis(worst.promised),
            "failed": self.failed,
            "role_overlap_ms": millis_rounded_up(self.overlap),
            "targets": targets,
            "broken": self.broken(),
        });
        if let Some(model) = &self.model {
            answer["model"] = json!(model.name);
            answer["service"] = json!(model.service);
            answer["instances"] = json!(model.standing);
            answer["lost"] = json!(model.lost);
        }
        answer
    }
}

/// An overlap of any length is never shown as none.
fn millis_rounded_up(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
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
            kind: "balanced",
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
            model: None,
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
    fn a_model_has_a_row_of_its_own() {
        let model = Model {
            name: "2N",
            service: "app.two-n".to_owned(),
            standing: "n1 n2 | n3 n4".to_owned(),
            lost: "a whole set: n1, n2",
        };
        let of_model = Fault { name: "model_2n", model: Some(model), ..fault(900, 0, false, 0) };
        let answer = of_model.json();
        assert_eq!((&answer["model"], &answer["service"]), (&json!("2N"), &json!("app.two-n")));
        assert!(fault(900, 0, false, 0).json().get("model").is_none(), "only a model's fault has these fields");
        let mut report = Report { faults: vec![fault(900, 0, false, 0)], ..Report::default() };
        report.extend(Report { faults: vec![of_model], sent: 7, ..Report::default() });
        let text = report.text();
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with("2N ")).collect();
        assert!(rows.len() == 1 && rows[0].contains("n1 n2 | n3 n4") && rows[0].contains("3500 ms"), "{text}");
        assert_eq!(text.matches("node_killed").count(), 1, "{text}");
        assert_eq!((report.sent, report.passed()), (7, true));
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
