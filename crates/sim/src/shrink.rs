//! The few faults that matter: of those that struck before a rule was broken, a set from which none can be left out.
//!
//! Delta debugging (Zeller's ddmin): leave out halves, then quarters, and so on down to single strikes, and keep what still
//! breaks the same rule. A run from which a strike is missing draws its delays differently from there on, so the answer is
//! a small set, not always the smallest.

use std::collections::BTreeSet;

use crate::{Options, RunReport, run};

/// Most runs that one shrinking takes.
const RUNS_MAX: u32 = 600;

/// What shrinking came to.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// Strikes that remain, by index.
    pub remaining: Vec<u32>,
    /// Strikes to leave out so that only these strike: what [`Options::without`] takes.
    pub without: BTreeSet<u32>,
    /// The run in which only these struck; it breaks the same rule.
    pub report: RunReport,
    /// How many runs it took.
    pub runs: u32,
}

/// Finds few strikes after which `seed` still breaks the rule that it breaks with `options`; none when it breaks none.
pub fn shrink(seed: u64, options: &Options) -> Option<Shrunk> {
    let options = Options { trace_lines: 0, every_event: false, ..options.clone() };
    let first = run(seed, &options);
    let rule = rule_of(first.violation.as_deref()?);
    let mut search = Search { seed, options, rule, runs: 1, best: first };
    search.reduce();
    let remaining = search.best.struck.iter().map(|struck| struck.index).collect();
    let without = search.without(&remaining);
    Some(Shrunk { remaining: remaining.into_iter().collect(), without, report: search.best, runs: search.runs })
}

/// Which rule a violation broke: its sentence without the time and what follows a colon, and with `…` for whatever names
/// or counts something. Two violations of one rule differ in nothing else.
pub fn rule_of(violation: &str) -> String {
    let text = violation.strip_prefix("at ").and_then(|text| text.split_once(" ms: "));
    let text = text.map_or(violation, |(_, text)| text);
    let is_numbered = |rule: &str| rule.starts_with('S') && rule[1..].parse::<u32>().is_ok();
    let (number, sentence) = match text.split_once(": ") {
        Some((number, sentence)) if is_numbered(number) => (Some(number), sentence),
        _ => (None, text),
    };
    let sentence = sentence.split_once(": ").map_or(sentence, |(sentence, _)| sentence);
    let words = sentence.split(' ').map(|word| {
        let is_name = word.contains(|c: char| c.is_ascii_digit() || matches!(c, '/' | '[' | '"' | '.'));
        if is_name { "…" } else { word }
    });
    number.map(|number| format!("{number}:")).iter().map(String::as_str).chain(words).collect::<Vec<_>>().join(" ")
}

struct Search {
    seed: u64,
    options: Options,
    rule: String,
    runs: u32,
    best: RunReport,
}

impl Search {
    /// Everything that could strike, but for these.
    fn without(&self, kept: &BTreeSet<u32>) -> BTreeSet<u32> {
        (0..self.best.planned).filter(|index| !kept.contains(index)).collect()
    }

    /// Whether the rule is broken too when only these strike; then that is the best run so far.
    fn still_breaks(&mut self, kept: &[u32]) -> bool {
        if self.runs >= RUNS_MAX {
            return false;
        }
        self.runs += 1;
        let without = self.without(&kept.iter().copied().collect());
        let report = run(self.seed, &Options { without, ..self.options.clone() });
        let breaks = report.violation.as_deref().is_some_and(|violation| rule_of(violation) == self.rule);
        if breaks {
            self.best = report;
        }
        breaks
    }

    fn reduce(&mut self) {
        let mut kept: Vec<u32> = self.best.struck.iter().map(|struck| struck.index).collect();
        if self.still_breaks(&[]) {
            return;
        }
        let mut parts = 2;
        while kept.len() > 1 && self.runs < RUNS_MAX {
            let size = kept.len().div_ceil(parts);
            let chunks: Vec<Vec<u32>> = kept.chunks(size).map(<[u32]>::to_vec).collect();
            let rest_of =
                |chunk: &[u32]| kept.iter().copied().filter(|index| !chunk.contains(index)).collect::<Vec<_>>();
            let rests: Vec<Vec<u32>> = chunks.iter().map(|chunk| rest_of(chunk)).collect();
            if let Some(chunk) = chunks.iter().find(|chunk| self.still_breaks(chunk)) {
                (kept, parts) = (chunk.clone(), 2);
            } else if let Some(rest) = rests.iter().find(|rest| parts > 2 && self.still_breaks(rest)) {
                (kept, parts) = (rest.clone(), (parts - 1).max(2));
            } else if parts >= kept.len() {
                return;
            } else {
                parts = (parts * 2).min(kept.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mutant;

    #[test]
    fn a_rule_is_told_without_what_varies() {
        let one = rule_of("at 10100 ms: S3: grant/app.cron acts 152 ms past its deadline");
        let other = rule_of("at 17 ms: S3: grant/address.db acts 60 ms past its deadline");
        assert_eq!(one, other);
        assert_eq!(one, "S3: … acts … ms past its deadline");
        let missing = rule_of("at 85100 ms: redundancy did not return within 60 s: app.cron has no holder");
        assert_eq!(missing, "redundancy did not return within … s");
        assert_ne!(one, rule_of("at 17 ms: S1: grant/app.cron acts on n1 and on n2 at once"));
    }

    #[test]
    fn what_remains_breaks_the_same_rule_and_is_less() {
        let mut reduced = 0;
        for mutant in [Mutant::GuardIgnoresDeadline, Mutant::LeaseFromReply, Mutant::RestartForgets] {
            let options = Options { mutant: Some(mutant), ..Options::default() };
            let failed = (1..300).map(|seed| run(seed, &options)).find(|report| !report.passed).expect("it is caught");
            let shrunk = shrink(failed.seed, &options).expect("it fails");
            assert!(shrunk.runs <= RUNS_MAX);
            let again = run(failed.seed, &Options { without: shrunk.without.clone(), ..options.clone() });
            assert_eq!(again, shrunk.report, "{mutant:?}: what it says can be repeated");
            let (before, after) = (failed.violation.expect("it fails"), again.violation.expect("it still fails"));
            assert_eq!(rule_of(&before), rule_of(&after), "{mutant:?}");
            assert!(shrunk.remaining.len() <= failed.struck.len());
            reduced += failed.struck.len() - shrunk.remaining.len();
        }
        assert!(reduced > 0);
        assert!(shrink(1, &Options::default()).is_none(), "a run that passes has nothing to shrink");
    }
}
