//! The file: `backstay.toml` → [`Spec`], with every problem at once, each at its line and column and with a suggestion.
//!
//! Pure: it is handed text and never opens a file. [`parse`] goes in three steps, each of which reports all it finds:
//! TOML itself (syntax), each table by itself against the one list of keys (`keys`, `read`), and the tables against each
//! other (`build`, `check`). A [`Spec`] is only handed out when nothing was wrong.

mod build;
mod check;
mod derive;
mod diagnostic;
mod diff;
mod edit;
mod fmt;
mod keys;
mod read;
mod schema;
mod secret;
mod suggest;
mod table;
mod this_build;
mod types;
mod units;
mod words;

pub use derive::{NodeByAddrError, UNNAMED_SITE, hash};
pub use diagnostic::{DIAGNOSTICS_MAX, Diagnostic, Severity, render, render_coloured};
pub use diff::{Change, diff};
pub use edit::{Edit, EditError, edit};
pub use fmt::fmt;
pub use schema::{reference_markdown, schema};
pub use this_build::not_in_this_build;
pub use types::*;
pub use units::{DURATION_MAX, UnitError, duration_text, parse_duration, parse_loss, parse_size, size_text};

use std::collections::BTreeSet;

use diagnostic::Sink;
use table::Table;

/// A file of twenty machines has a few kilobytes; more than this is not a config file, and must fit into the store.
pub const FILE_BYTES_MAX: usize = 1 << 19;

/// What became of a file.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// What the file means; nothing when it has any error.
    pub spec: Option<Spec>,
    /// Everything there is to say about it, by position.
    pub diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    /// The errors among the diagnostics.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// The warnings among the diagnostics.
    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Warning)
    }
}

/// Reads a whole file. `file_name` is only repeated in diagnostics.
pub fn parse(file_name: &str, text: &str) -> Parsed {
    let mut sink = Sink::new(file_name, text);
    let spec = read_root(&mut sink).map(|root| {
        let spec = build::spec(&root);
        check::check(&mut sink, &root, &spec);
        spec
    });
    let diagnostics = sink.finish();
    let refused = diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    Parsed { spec: spec.filter(|_| !refused), diagnostics }
}

/// The file's tables, each checked by itself; nothing when the text is not TOML, since what is missing or dangling then is
/// most likely only unreadable.
fn read_root(sink: &mut Sink<'_>) -> Option<Table> {
    let text = sink.text();
    if text.len() > FILE_BYTES_MAX {
        let message = format!("the file has {} bytes; at most {FILE_BYTES_MAX} are read", text.len());
        sink.error(0..0, "too-large", message, None);
        return None;
    }
    let (toml, errors) = toml::de::DeTable::parse_recoverable(text);
    let mut broken_lines = BTreeSet::new();
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        let duplicate = error.message().contains("duplicate key");
        let line = sink.line_of(span.start);
        if !duplicate {
            // What follows the first slip of a line is most likely only an echo of it.
            if !broken_lines.insert(line) {
                continue;
            }
        }
        let (code, help) =
            if duplicate { ("duplicate-key", Some("keep one of them".to_owned())) } else { ("syntax", None) };
        sink.error(span, code, syntax_message(error.message(), duplicate), help);
    }
    let first = sink.len();
    let is_toml = broken_lines.is_empty();
    let missing_at = 0..0;
    let root = read::read_table(sink, &keys::ROOT, toml.get_ref(), "", is_toml.then_some(&missing_at));
    sink.drop_echoes(first, &with_lost_tables(text, &broken_lines));
    is_toml.then_some(root)
}

/// Where a header is broken, everything up to the next one belongs to a table that nobody knows.
fn with_lost_tables(text: &str, broken_lines: &BTreeSet<usize>) -> BTreeSet<usize> {
    let headers: Vec<bool> = text.lines().map(|line| line.trim_start().starts_with('[')).collect();
    let mut lost = broken_lines.clone();
    for &line in broken_lines.iter().filter(|line| headers.get(**line) == Some(&true)) {
        let rest = (line + 1..headers.len()).take_while(|after| !headers[*after]);
        lost.extend(rest);
    }
    lost
}

fn syntax_message(message: &str, duplicate: bool) -> String {
    if duplicate {
        return "this key is stated twice".to_owned();
    }
    let flat: Vec<_> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    format!("not TOML: {}", flat.join("; "))
}
