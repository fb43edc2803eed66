//! Reading what test runners print: how many passed, failed and were skipped.

use std::path::Path;

use crate::process::Tally;

/// The sum of all summary lines of nextest and of `cargo test`. `own_skips` tests said at run time that they could not run;
/// their runner took them for passed. A runner that failed without naming a failed test counts as one failure.
pub fn runner(lines: &[String], success: bool, own_skips: u64) -> Tally {
    let sum = lines.iter().filter_map(|line| summary(line)).fold(Tally::default(), Tally::plus);
    let moved = own_skips.min(sum.passed);
    let unnamed = u64::from(!success && sum.failed == 0);
    Tally { passed: sum.passed - moved, failed: sum.failed + unnamed, skipped: sum.skipped + moved }
}

/// One summary line, or none.
/// nextest: `Summary [ 1.2s] 9 tests run: 7 passed (1 slow), 1 failed, 1 timed out, 2 skipped`.
/// cargo test: `test result: ok. 7 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s`.
fn summary(line: &str) -> Option<Tally> {
    let line = line.trim_start();
    let counts = if line.starts_with("Summary [") {
        line.split_once("run:")?.1
    } else {
        line.strip_prefix("test result:")?.split_once(". ")?.1
    };
    let mut tally = Tally::default();
    for part in counts.split([',', ';']) {
        let mut words = part.split_whitespace();
        let Some(Ok(count)) = words.next().map(str::parse::<u64>) else { continue };
        match words.collect::<Vec<_>>().join(" ") {
            what if what.starts_with("passed") => tally.passed += count,
            what if what.starts_with("failed") => tally.failed += count,
            what if what.starts_with("timed out") || what.starts_with("exec failed") => tally.failed += count,
            what if what.starts_with("skipped") || what.starts_with("ignored") => tally.skipped += count,
            _ => {}
        }
    }
    Some(tally)
}

/// Whether the simulator passed, and a note on it, from its last line of JSON.
pub fn simulation(lines: &[String]) -> (bool, String) {
    let last = lines.iter().rev().find(|line| line.starts_with('{'));
    let Some(Ok(answer)) = last.map(|line| serde_json::from_str::<serde_json::Value>(line)) else {
        return (false, "it answered no JSON".to_owned());
    };
    let runs = answer["runs"].as_u64().unwrap_or(0);
    let failed: Vec<String> =
        answer["failed_seeds"].as_array().into_iter().flatten().take(5).map(ToString::to_string).collect();
    let speed = answer["events_per_s"].as_f64().unwrap_or(0.0);
    match failed.as_slice() {
        [] if runs == 0 => (false, "it ran no seed".to_owned()),
        [] => (true, format!("{runs} seeds, {speed:.0} events a second")),
        [first, ..] => (false, format!("seeds {} failed; replay: backstay sim --seed {first}", failed.join(", "))),
    }
}

/// Whether any doc comment under `dir` holds a block that rustdoc would run.
pub fn has_doctests(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    entries.flatten().map(|entry| entry.path()).any(|path| {
        if path.is_dir() {
            return has_doctests(&path);
        }
        let rust = path.extension().is_some_and(|ending| ending == "rs");
        rust && std::fs::read_to_string(&path).is_ok_and(|text| opens_doctest(&text))
    })
}

fn opens_doctest(text: &str) -> bool {
    let mut inside = false;
    for line in text.lines().map(str::trim_start) {
        let doc = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
        let Some(fence) = doc.map(str::trim).and_then(|doc| doc.strip_prefix("```")) else { continue };
        if !inside
            && (fence.is_empty()
                || ["rust", "should_panic", "no_run", "compile_fail"].iter().any(|w| fence.starts_with(w)))
        {
            return true;
        }
        inside = !inside;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn both_runners_are_counted() {
        let nextest = lines(
            "x\n     Summary [   1.204s] 9/12 tests run: 7 passed (1 slow, 1 leaky), 1 failed, 1 timed out, 2 skipped",
        );
        assert_eq!(runner(&nextest, false, 0), Tally { passed: 7, failed: 2, skipped: 2 });
        let one = lines("     Summary [   0.004s] 1 test run: 1 passed, 0 skipped");
        assert_eq!(runner(&one, true, 0), Tally { passed: 1, failed: 0, skipped: 0 });
        let cargo = lines(
            "test result: ok. 7 passed; 0 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.01s\n\
             test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        assert_eq!(runner(&cargo, false, 0), Tally { passed: 8, failed: 2, skipped: 2 });
    }

    #[test]
    fn a_runner_that_fails_without_a_summary_is_a_failure() {
        assert_eq!(runner(&lines("error: could not compile"), false, 0), Tally { passed: 0, failed: 1, skipped: 0 });
    }

    #[test]
    fn tests_that_could_not_run_are_skipped_not_passed() {
        let one = lines("Summary [ 0.004s] 3 tests run: 3 passed, 0 skipped");
        assert_eq!(runner(&one, true, 2), Tally { passed: 1, failed: 0, skipped: 2 });
    }

    #[test]
    fn the_simulator_answers_for_its_seeds() {
        assert!(simulation(&lines("{\"runs\":9,\"passed\":9,\"failed_seeds\":[],\"events_per_s\":5}")).0);
        let (passed, note) = simulation(&lines("{\"runs\":9,\"passed\":8,\"failed_seeds\":[7]}"));
        assert!(!passed && note.contains("--seed 7"), "{note}");
        assert!(!simulation(&lines("nothing")).0);
        assert!(!simulation(&lines("{\"runs\":0,\"failed_seeds\":[]}")).0);
    }

    #[test]
    fn doctests_are_told_from_drawings() {
        assert!(opens_doctest("/// ```\n/// a();\n/// ```"));
        assert!(opens_doctest("/// ```text\n/// a\n/// ```\n//! ```rust\n"));
        assert!(!opens_doctest("/// ```text\n/// a\n/// ```\nfn a() {}"));
    }
}
