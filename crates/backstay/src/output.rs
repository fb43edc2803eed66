//! Where words go: results on stdout, progress and errors on stderr, and with `--json` one object as the last line of stdout.
//!
//! A reader that went away (`backstay events | head -1`) is not an error: what can no longer be written is dropped.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use serde_json::{Map, Value, json};

use crate::exit_code::Exit;

/// What every verb answers: how it ended, its result being written already; or why it could not.
pub type Answer = Result<Exit, Failure>;

/// Why a command could not do what it was asked, and what to do next.
#[derive(Debug)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// Stable name of the kind of failure, for scripts: `no-agent`.
    pub code: String,
    /// Who, what, why.
    pub message: String,
    /// The next command, or whether to try again.
    pub help: Option<String>,
    /// Further fields of the JSON answer.
    pub fields: Map<String, Value>,
}

impl Failure {
    /// A failure without further advice.
    pub fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        Self { exit, code: code.to_owned(), message: message.into(), help: None, fields: Map::new() }
    }

    /// Wrong usage or config.
    pub fn usage(code: &str, message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, code, message)
    }

    /// A file, socket or process failed.
    pub fn unexpected(code: &str, message: impl Into<String>) -> Self {
        Self::new(Exit::Unexpected, code, message)
    }

    /// Adds what to do next.
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The two streams of one run of a verb.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    verb: &'static str,
    json: bool,
}

impl Output {
    /// For one run of `verb`; the verb names the schema of its JSON answer.
    pub fn new(verb: &'static str, json: bool) -> Self {
        Self { verb, json }
    }

    /// Whether the answer is to be JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether stdout may show colour: a terminal, and nobody objects (<https://no-color.org>).
    pub fn is_coloured(&self) -> bool {
        !self.json && io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }

    /// The result: as text, or as one JSON object with the verb's schema.
    pub fn result(&self, text: &str, answer: Value) {
        if self.json {
            self.json_line(answer);
        } else {
            write_line(&mut io::stdout().lock(), text.trim_end_matches('\n'));
        }
    }

    /// A part of the result that is only for people: nothing with `--json`.
    pub fn text(&self, text: impl Display) {
        if !self.json {
            write_line(&mut io::stdout().lock(), text);
        }
    }

    /// What is going on, for people who watch.
    pub fn progress(&self, text: impl Display) {
        write_line(&mut io::stderr().lock(), text);
    }

    /// Why it could not be done.
    pub fn failure(&self, failure: &Failure) {
        let mut stderr = io::stderr().lock();
        write_line(&mut stderr, format_args!("error: {}", failure.message));
        if let Some(help) = &failure.help {
            write_line(&mut stderr, format_args!("  help: {help}"));
        }
        if self.json {
            self.json_failure(failure);
        }
    }

    /// The JSON half of [`Self::failure`], where the text was written already.
    pub fn json_failure(&self, failure: &Failure) {
        let mut answer = failure.fields.clone();
        answer.insert(
            "error".to_owned(),
            json!({ "code": failure.code, "message": failure.message, "help": failure.help }),
        );
        self.json_line(Value::Object(answer));
    }

    fn json_line(&self, answer: Value) {
        let mut object = match answer {
            Value::Object(fields) => fields,
            other => Map::from_iter([("answer".to_owned(), other)]),
        };
        object.insert("schema".to_owned(), Value::String(format!("backstay.{}/1", self.verb)));
        write_line(&mut io::stdout().lock(), Value::Object(object));
    }
}

fn write_line(to: &mut impl Write, text: impl Display) {
    // Nobody reads any more: there is nobody left to tell.
    let _ = writeln!(to, "{text}").and_then(|()| to.flush());
}

/// `1 node`, `2 nodes`.
pub fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// An age for people: `0.3 s`, `41 s`, `12 min`, `5 h`, `3 d`.
pub fn age_text(age_ms: u64) -> String {
    const SECOND: u64 = 1000;
    const MINUTE: u64 = 60 * SECOND;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match age_ms {
        0..10_000 => format!("{}.{} s", age_ms / SECOND, age_ms % SECOND / 100),
        10_000..100_000 => format!("{} s", age_ms / SECOND),
        100_000..7_200_000 => format!("{} min", age_ms / MINUTE),
        7_200_000..172_800_000 => format!("{} h", age_ms / HOUR),
        _ => format!("{} d", age_ms / DAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short_and_carry_a_unit() {
        for (ms, text) in [
            (0, "0.0 s"),
            (340, "0.3 s"),
            (41_000, "41 s"),
            (720_000, "12 min"),
            (18_000_000, "5 h"),
            (259_200_000, "3 d"),
        ] {
            assert_eq!(age_text(ms), text);
        }
    }
}
