//! What is wrong with a file: where, why, and what to write instead.

use std::collections::BTreeSet;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

/// At most so many diagnostics are kept of one file; what follows is counted, not listed.
pub const DIAGNOSTICS_MAX: usize = 200;

/// Longer messages are cut: they quote the file.
const MESSAGE_CHARS_MAX: usize = 500;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken; somebody should look.
    Warning,
}

/// One thing to tell about a file. Serialises to `{file, line, column, code, message, help}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Whether the file is refused for it.
    #[serde(skip)]
    pub severity: Severity,
    /// The file's name, as it was handed in.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Column behind the last character, on the same line.
    #[serde(skip)]
    pub end_column: usize,
    /// Stable name of the kind of problem, for scripts: `unknown-key`.
    pub code: String,
    /// What is wrong, in a sentence.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// Where it is, in bytes of the text.
    #[serde(skip)]
    pub span: Range<usize>,
}

impl Diagnostic {
    /// The same, as something that does not refuse the file.
    pub fn into_warning(self) -> Self {
        Self { severity: Severity::Warning, ..self }
    }
}

/// Collects diagnostics of one text and knows its lines.
pub(crate) struct Sink<'t> {
    file: &'t str,
    text: &'t str,
    line_starts: Vec<usize>,
    list: Vec<Diagnostic>,
}

impl<'t> Sink<'t> {
    pub(crate) fn new(file: &'t str, text: &'t str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file, text, line_starts, list: Vec::new() }
    }

    pub(crate) fn text(&self) -> &'t str {
        self.text
    }

    pub(crate) fn error(&mut self, span: Range<usize>, code: &str, message: impl Into<String>, help: Option<String>) {
        self.push(Severity::Error, span, code, message.into(), help);
    }

    pub(crate) fn warning(&mut self, span: Range<usize>, code: &str, message: impl Into<String>, help: Option<String>) {
        self.push(Severity::Warning, span, code, message.into(), help);
    }

    fn push(&mut self, severity: Severity, span: Range<usize>, code: &str, message: String, help: Option<String>) {
        let start = self.text.floor_char_boundary(span.start.min(self.text.len()));
        let end = self.text.ceil_char_boundary(span.end.clamp(start, self.text.len()));
        self.list.push(Diagnostic {
            severity,
            file: self.file.to_owned(),
            line: self.line_of(start) + 1,
            column: 0,
            end_column: 0,
            code: code.to_owned(),
            message: printable(&message),
            help: help.as_deref().map(printable),
            span: start..end,
        });
    }

    /// The index, from 0, of the line that holds this byte.
    pub(crate) fn line_of(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// Drops what was found on lines that are not valid TOML anyway, since it is only an echo of that.
    pub(crate) fn drop_echoes(&mut self, first: usize, broken_lines: &BTreeSet<usize>) {
        let mut at = 0;
        self.list.retain(|diagnostic| {
            at += 1;
            at <= first || (diagnostic.code != "missing-key" && !broken_lines.contains(&(diagnostic.line - 1)))
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Everything, by position.
    pub(crate) fn finish(self) -> Vec<Diagnostic> {
        let mut list = self.list;
        list.sort_by(|a, b| {
            (a.span.start, a.severity, a.span.end, &a.code).cmp(&(b.span.start, b.severity, b.span.end, &b.code))
        });
        list.dedup();
        if list.len() > DIAGNOSTICS_MAX {
            let more = list.len() - (DIAGNOSTICS_MAX - 1);
            let refused = list.iter().any(|d| d.severity == Severity::Error);
            list.truncate(DIAGNOSTICS_MAX - 1);
            if let Some(mut last) = list.last().cloned() {
                last.severity = if refused { Severity::Error } else { Severity::Warning };
                last.code = "too-many".to_owned();
                last.message = format!("{more} more problems from here on are not listed");
                last.help = Some("mend these first".to_owned());
                list.push(last);
            }
        }
        list.iter_mut().for_each(|diagnostic| count_columns(self.text, &self.line_starts, diagnostic));
        list
    }
}

/// Only done for what is shown: it costs as much as the line is long.
fn count_columns(text: &str, line_starts: &[usize], diagnostic: &mut Diagnostic) {
    let span = diagnostic.span.clone();
    let line_start = line_starts[diagnostic.line - 1];
    let first_line_end = text[span.clone()].find('\n').map_or(span.end, |at| span.start + at);
    diagnostic.column = text[line_start..span.start].chars().count() + 1;
    diagnostic.end_column = diagnostic.column + text[span.start..first_line_end].chars().count();
}

/// Control characters of the file must not reach a terminal through a message, nor whole pages of it.
fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] };
    let mut short: String = text.chars().take(MESSAGE_CHARS_MAX).flat_map(escape).collect();
    if text.chars().nth(MESSAGE_CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}

/// Shows diagnostics with their lines and carets, without colour, and counts them at the end.
pub fn render(file_name: &str, text: &str, diagnostics: &[Diagnostic]) -> String {
    render_with(&Renderer::plain(), file_name, text, diagnostics)
}

/// [`render`], with terminal colours.
pub fn render_coloured(file_name: &str, text: &str, diagnostics: &[Diagnostic]) -> String {
    render_with(&Renderer::styled(), file_name, text, diagnostics)
}

fn render_with(renderer: &Renderer, file_name: &str, text: &str, diagnostics: &[Diagnostic]) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(diagnostic.message.as_str()));
        group = group.element(snippet(file_name, text, diagnostic));
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        out.push_str(&renderer.render(&[group]));
        out.push('\n');
    }
    out.push_str(&summary(diagnostics));
    out
}

/// The lines that a diagnostic spans, so that a long file costs no more than a short one.
fn snippet<'a>(
    file_name: &'a str,
    text: &'a str,
    diagnostic: &Diagnostic,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let start = text.floor_char_boundary(diagnostic.span.start.min(text.len()));
    let end = text.ceil_char_boundary(diagnostic.span.end.clamp(start, text.len()));
    let from = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[start..end].find('\n').map_or(end, |at| start + at);
    let to = text[end..].find('\n').map_or(text.len(), |at| end + at);
    let line = text[from..to].trim_end_matches('\r');
    let span = (start - from).min(line.len())..(end - from).min(line.len());
    Snippet::source(line).line_start(diagnostic.line).path(file_name).annotation(AnnotationKind::Primary.span(span))
}

fn summary(diagnostics: &[Diagnostic]) -> String {
    let count = |severity| diagnostics.iter().filter(|d| d.severity == severity).count();
    let many = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
    match (count(Severity::Error), count(Severity::Warning)) {
        (0, 0) => String::new(),
        (0, warnings) => format!("{}\n", many(warnings, "warning")),
        (errors, 0) => format!("{}; nothing was changed\n", many(errors, "error")),
        (errors, warnings) => {
            format!("{}, {}; nothing was changed\n", many(errors, "error"), many(warnings, "warning"))
        }
    }
}
