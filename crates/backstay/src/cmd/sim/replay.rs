//! `sim replay`: runs the world of a trace again and says where the two first differ; or shows it line by line.

use std::io::{self, BufRead, IsTerminal};
use std::path::Path;

use backstay_sim::RunReport;
use serde_json::json;

use super::trace_file::{self, Recorded};
use crate::exit_code::Exit;
use crate::output::{Answer, Failure, Output};

/// Lines of both runs that are shown before the first one that differs.
const CONTEXT_LINES: usize = 5;

/// Runs it.
pub fn run(file: &Path, step: bool, output: Output) -> Answer {
    if step && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err(Failure::usage("no-terminal", "`--step` shows one line at a time and needs a terminal")
            .with_help(format!("without it the whole trace is compared: backstay sim replay {}", file.display())));
    }
    let recorded = trace_file::read(file)?;
    let report = trace_file::record(&recorded.world);
    if step {
        show(&report.trace, output);
    }
    let version = trace_file::version();
    let note = (recorded.header.version != version)
        .then(|| format!("it was written by {} and this is {version}: they need not agree", recorded.header.version));
    let differs = first_difference(&recorded, &report.trace);
    let same_hash = recorded.header.hash == format!("{:016x}", report.hash);
    let text = match differs {
        None if same_hash => format!("the same in all {} lines", recorded.lines.len()),
        None => format!("the same in {} lines; then they differ where the file has none", recorded.lines.len()),
        Some(at) => difference(&recorded.lines, &report.trace, at),
    };
    let text = note.iter().fold(text, |text, note| format!("{text}\n  note: {note}"));
    let text =
        report.violation.iter().fold(text, |text, violation| format!("{text}\n  the run broke a rule: {violation}"));
    output.result(
        &text,
        json!({
            "file": file.display().to_string(),
            "lines": recorded.lines.len(),
            "same": differs.is_none() && same_hash,
            "differs_at": differs.map(|at| at + 1),
            "recorded": differs.and_then(|at| recorded.lines.get(at)),
            "now": differs.and_then(|at| report.trace.get(at)),
            "note": note,
            "violation": report.violation,
            "repeat": recorded.world.repeat(),
        }),
    );
    Ok(exit(differs.is_none() && same_hash, &report))
}

fn exit(same: bool, report: &RunReport) -> Exit {
    match (same, report.passed) {
        (false, _) => Exit::GoalNotMet,
        (true, false) => Exit::ProofFailed,
        (true, true) => Exit::Done,
    }
}

/// The first line, counted from 0, that is not the same in both; lines that a trace should have and lacks differ too.
fn first_difference(recorded: &Recorded, now: &[String]) -> Option<usize> {
    let lines = &recorded.lines;
    let both = lines.iter().zip(now).position(|(recorded, now)| recorded != now);
    both.or_else(|| (lines.len() != recorded.promised()).then_some(lines.len()))
        .or_else(|| (lines.len() > now.len()).then_some(now.len()))
}

fn difference(recorded: &[String], now: &[String], at: usize) -> String {
    let from = at.saturating_sub(CONTEXT_LINES);
    let common = recorded.get(from..at).unwrap_or_default().iter().map(|line| format!("    {line}\n"));
    let line = |lines: &[String]| lines.get(at).cloned().unwrap_or_else(|| "(ends here)".to_owned());
    let common: String = common.collect();
    format!("they differ from line {} on\n{common}  - {}\n  + {}", at + 1, line(recorded), line(now))
}

/// Shows one line at a time: Enter goes on, a number goes there, q ends.
fn show(lines: &[String], output: Output) {
    let mut at = 0;
    let mut typed = String::new();
    while let Some(line) = lines.get(at) {
        output.progress(format_args!("{:>6} {line}", at + 1));
        typed.clear();
        // A terminal that went away ends it like a q.
        match io::stdin().lock().read_line(&mut typed) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        match next(typed.trim(), at) {
            Some(next) => at = next.min(lines.len()),
            None => return,
        }
    }
}

/// The line to show after this one, counted from 0; none to end. People count from 1.
fn next(typed: &str, at: usize) -> Option<usize> {
    match typed {
        "" => Some(at + 1),
        "q" => None,
        number => Some(number.parse::<usize>().map_or(at, |number| number.saturating_sub(1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enter_goes_on_a_number_goes_there_and_q_ends() {
        assert_eq!(next("", 4), Some(5));
        assert_eq!(next("12", 4), Some(11));
        assert_eq!(next("0", 4), Some(0));
        assert_eq!(next("what", 4), Some(4), "what is not understood shows the same line again");
        assert_eq!(next("q", 4), None);
    }

    #[test]
    fn the_first_difference_is_shown_with_what_led_to_it() {
        let (a, b) = (["x", "y", "z"].map(str::to_owned), ["x", "y", "w"].map(str::to_owned));
        let text = difference(&a, &b, 2);
        assert_eq!(text, "they differ from line 3 on\n    x\n    y\n  - z\n  + w");
        assert!(difference(&a, &b[..2], 2).ends_with("+ (ends here)"));
    }
}
