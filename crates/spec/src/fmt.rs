//! `config fmt`: one layout for all files, without touching a value, a comment or their order.
//!
//! It works on lines, led by the places that the TOML parser found, so that whatever it does not understand stays as it is.
//! The result is read again and must mean the same, else the text is handed back untouched.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Sink};

/// Comments behind shorter code begin in the column after this many characters.
const COMMENT_COLUMN: usize = 38;

/// A line, taken apart.
enum Line {
    Blank,
    /// A comment of its own.
    Comment(String),
    /// `[table]`, with what follows it.
    Header(String, Trailer),
    /// `key = value`, with its comment. The value may run over several lines, which are kept.
    Statement {
        key: String,
        value: String,
        comment: Trailer,
    },
    /// Anything else, as it is.
    Verbatim(String),
}

/// A comment behind code, and how far behind it stood.
#[derive(Default)]
struct Trailer {
    text: String,
    gap: usize,
}

impl Trailer {
    fn new(text: &str) -> Self {
        let bare = text.trim();
        Self { text: bare.to_owned(), gap: text.len() - text.trim_start().len() }
    }
}

/// Lays a file out: `=` and comments aligned, one blank line between tables, no stray blanks.
///
/// # Errors
/// When the text is not TOML; then it says where.
pub fn fmt(text: &str) -> Result<String, Vec<Diagnostic>> {
    let (toml, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let mut sink = Sink::new("", text);
        for error in &errors {
            let message = crate::syntax_message(error.message(), false);
            sink.error(error.span().unwrap_or(0..0), "syntax", message, None);
        }
        return Err(sink.finish());
    }
    let mut ends = BTreeMap::new();
    collect_ends(toml.get_ref(), &mut ends);
    let out = lay_out(&take_apart(text, &ends));
    let (again, errors) = DeTable::parse_recoverable(&out);
    let same = errors.is_empty() && same_table(toml.get_ref(), again.get_ref());
    Ok(if same { out } else { text.to_owned() })
}

/// Where each value ends, by where it starts.
fn collect_ends(table: &DeTable<'_>, ends: &mut BTreeMap<usize, usize>) {
    for value in table.values() {
        let span = value.span();
        let end = ends.entry(span.start).or_insert(span.end);
        *end = span.end.max(*end);
        if let DeValue::Table(inner) = value.get_ref() {
            collect_ends(inner, ends);
        }
    }
}

fn take_apart(text: &str, ends: &BTreeMap<usize, usize>) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    while at < text.len() {
        let line_end = text[at..].find('\n').map_or(text.len(), |end| at + end);
        let line = text[at..line_end].trim();
        let mut next = line_end + 1;
        lines.push(match line.bytes().next() {
            None => Line::Blank,
            Some(b'#') => Line::Comment(line.to_owned()),
            Some(b'[') => header(line),
            Some(_) => match statement(text, at, line_end, ends) {
                Some((statement, end)) => {
                    next = end + 1;
                    statement
                }
                None => Line::Verbatim(text[at..line_end].trim_end().to_owned()),
            },
        });
        at = next;
    }
    lines
}

fn header(line: &str) -> Line {
    let Some(hash) = outside_quotes(line, b'#') else {
        return Line::Header(line.to_owned(), Trailer::default());
    };
    let header = line[..hash].trim_end();
    Line::Header(header.to_owned(), Trailer::new(&line[header.len()..]))
}

/// A statement that begins on this line, and where the line on which it ends does.
fn statement(text: &str, at: usize, line_end: usize, ends: &BTreeMap<usize, usize>) -> Option<(Line, usize)> {
    let equals = at + outside_quotes(&text[at..line_end], b'=')?;
    let blanks = text[equals + 1..line_end].len() - text[equals + 1..line_end].trim_start().len();
    let start = equals + 1 + blanks;
    let end = *ends.get(&start)?;
    let value = text.get(start..end)?;
    let last_end = text[end..].find('\n').map_or(text.len(), |more| end + more);
    let comment = Trailer::new(&text[end..last_end]);
    if !comment.text.is_empty() && !comment.text.starts_with('#') {
        return None;
    }
    let key = text[at..equals].trim().to_owned();
    Some((Line::Statement { key, value: value.to_owned(), comment }, last_end))
}

/// The first such byte that is not inside quotes.
fn outside_quotes(line: &str, wanted: u8) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, byte) in line.bytes().enumerate() {
        match quote {
            None if byte == wanted => return Some(at),
            None if byte == b'"' || byte == b'\'' => quote = Some(byte),
            Some(b'"') if !escaped && byte == b'\\' => {
                escaped = true;
                continue;
            }
            Some(open) if byte == open && !escaped => quote = None,
            _ => {}
        }
        escaped = false;
    }
    None
}

fn lay_out(lines: &[Line]) -> String {
    let widths = key_widths(lines);
    let mut out = String::new();
    let mut previous_blank = true;
    for (at, line) in lines.iter().enumerate() {
        let written = match line {
            Line::Blank => {
                if !previous_blank {
                    out.push('\n');
                }
                previous_blank = true;
                continue;
            }
            Line::Comment(comment) => comment.clone(),
            Line::Verbatim(text) => text.clone(),
            Line::Header(header, comment) => with_comment(header, comment),
            Line::Statement { key, value, comment } => {
                let pad = " ".repeat(widths[at].saturating_sub(key.chars().count()));
                with_comment(&format!("{key}{pad} = {value}"), comment)
            }
        };
        let after_comment = at > 0 && matches!(lines[at - 1], Line::Comment(_));
        if matches!(line, Line::Header(..)) && !previous_blank && !after_comment {
            out.push('\n');
        }
        out.push_str(&written);
        out.push('\n');
        previous_blank = false;
    }
    while out.ends_with("\n\n") {
        out.pop();
    }
    out
}

/// For each line the widest key of its block: statements with nothing but comments between them.
fn key_widths(lines: &[Line]) -> Vec<usize> {
    let mut widths = vec![0; lines.len()];
    let mut start = 0;
    for end in 0..=lines.len() {
        if end < lines.len() && matches!(lines[end], Line::Statement { .. } | Line::Comment(_)) {
            continue;
        }
        let width = lines[start..end]
            .iter()
            .map(|line| if let Line::Statement { key, .. } = line { key.chars().count() } else { 0 })
            .max();
        widths[start..end].fill(width.unwrap_or(0));
        start = end + 1;
    }
    widths
}

/// Behind long code a comment stays as far away as it was.
fn with_comment(code: &str, comment: &Trailer) -> String {
    if comment.text.is_empty() {
        return code.to_owned();
    }
    let last_line = code.rsplit('\n').next().unwrap_or(code).chars().count();
    let pad = if last_line < COMMENT_COLUMN - 1 { COMMENT_COLUMN - last_line } else { comment.gap.max(2) };
    format!("{code}{}{}", " ".repeat(pad), comment.text)
}

fn same_table(a: &DeTable<'_>, b: &DeTable<'_>) -> bool {
    a.len() == b.len()
        && a.iter().all(|(key, value)| {
            let other = b.get(key.get_ref().as_ref());
            other.is_some_and(|other| same_value(value.get_ref(), other.get_ref()))
        })
}

fn same_value(a: &DeValue<'_>, b: &DeValue<'_>) -> bool {
    match (a, b) {
        (DeValue::Table(a), DeValue::Table(b)) => same_table(a, b),
        (DeValue::Array(a), DeValue::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same_value(a.get_ref(), b.get_ref()))
        }
        (DeValue::String(a), DeValue::String(b)) => a == b,
        (DeValue::Integer(a), DeValue::Integer(b)) => a.to_string() == b.to_string(),
        (DeValue::Float(a), DeValue::Float(b)) => a.to_string() == b.to_string(),
        (DeValue::Boolean(a), DeValue::Boolean(b)) => a == b,
        (DeValue::Datetime(a), DeValue::Datetime(b)) => a == b,
        _ => false,
    }
}
