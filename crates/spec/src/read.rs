//! From TOML to typed tables, by the tables of [`crate::keys`]: unknown keys, wrong types, missing units and missing keys.
//!
//! What a value means together with others is left to [`crate::check`].

mod lists;
mod numbers;
mod texts;

use std::borrow::Cow;
use std::net::IpAddr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::Sink;
use crate::keys::{self, Key, Kind, Section};
use crate::suggest::nearest;
use crate::table::{Entry, Named, Span, Table, Typed, Word};

/// So many nodes, services, listeners or backups of each kind are read: far above what the product is made for.
const ENTRIES_MAX: usize = 4096;

/// Reads one table. `place` names it for messages; `missing_at` is where a key that is not there is missed.
pub(crate) fn read_table(
    sink: &mut Sink<'_>,
    section: &'static Section,
    toml: &DeTable<'_>,
    place: &str,
    missing_at: Option<&Span>,
) -> Table {
    let mut table = Table::empty(section);
    let mut guessed = Vec::new();
    for (key, value) in toml {
        let name: &str = key.get_ref();
        if let Some(known) = section.key(name) {
            let typed = read_value(sink, known, key, value, place);
            let is_leaf = !matches!(known.kind, Kind::Section(_) | Kind::Named(_));
            if is_leaf && value.get_ref().is_table() {
                refuse_header(sink, &key.span(), name, place);
            }
            table.entries.insert(known.name, Entry { key_span: key.span(), span: value.span(), value: typed });
        } else if let (Some(entry), Some(toml)) = (section.free, value.get_ref().as_table()) {
            refuse_header(sink, &key.span(), name, place);
            if table.free.len() == ENTRIES_MAX {
                sink.error(key.span(), "too-many", format!("at most {ENTRIES_MAX} entries are read"), None);
                break;
            }
            let name = read_name(sink, key);
            let place = format!("{place} {}", name.text);
            let at = name.span.clone();
            table.free.push(Named { name, table: read_table(sink, entry, toml, &place, Some(&at)) });
        } else {
            guessed.extend(unknown_key(sink, section, key, value, place));
            table.broken = true;
        }
    }
    table.free.sort_by_key(|named| named.name.span.start);
    if let Some(at) = missing_at {
        for key in section.keys().filter(|key| key.required && !table.has(key.name) && !guessed.contains(&key.name)) {
            let help = if section.form.is_empty() {
                key.doc.to_owned()
            } else {
                format!("write it like `{}`: {}", form_of(section, key), key.doc)
            };
            sink.error(at.clone(), "missing-key", format!("{} needs `{}`", what_lacks(place), key.name), Some(help));
        }
    }
    table
}

/// Tables go two levels deep, `[kind.name]`; what is below stands on one line, so that a file of many stays a list.
fn refuse_header(sink: &mut Sink<'_>, key: &Span, name: &str, place: &str) {
    if before_on_line(sink.text(), key).starts_with('[') {
        let message = format!("`{name}` has a header of its own, a third level below {place}");
        sink.error(key.clone(), "too-deep", message, Some(format!("write it on one line: `{name} = {{ … }}`")));
    }
}

/// What stands before a key on its line: an opening bracket or two when it is in a header.
fn before_on_line<'t>(text: &'t str, key: &Span) -> &'t str {
    let line_start = text[..key.start].rfind('\n').map_or(0, |at| at + 1);
    text[line_start..key.start].trim_start()
}

fn what_lacks(place: &str) -> &str {
    if place.is_empty() { "the file" } else { place }
}

fn form_of(section: &Section, key: &Key) -> String {
    match section.form.contains(&format!("{} =", key.name)) {
        true => section.form.to_owned(),
        false => format!("{} = …", key.name),
    }
}

/// Reports a key that does not exist; answers which one was probably meant.
fn unknown_key(
    sink: &mut Sink<'_>,
    section: &'static Section,
    key: &Spanned<Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
    place: &str,
) -> Option<&'static str> {
    let name: &str = key.get_ref();
    let meant = section
        .keys()
        .find(|known| known.also.contains(&name))
        .map(|known| known.name)
        .or_else(|| nearest(name, section.keys().map(|known| known.name)));
    let near_free = section.free.is_some() && meant.is_none();
    if near_free {
        let found = describe(value.get_ref());
        let message = format!("entry `{name}` of {place} wants a table, found {found}");
        let help = section.free.map(|entry| format!("write it like `{}`", entry.form));
        sink.error(key.span(), "wrong-type", message, help);
        return None;
    }
    let help = meant.map(|meant| format!("did you mean `{meant}`?")).or_else(|| {
        keys::home_of(name).map(|home| format!("`{name}` belongs in {home}")).or_else(|| {
            let all: Vec<_> = section.keys().map(|known| known.name).collect();
            Some(format!("known here: {}", all.join(", ")))
        })
    });
    let message =
        if place.is_empty() { format!("unknown key `{name}`") } else { format!("unknown key `{name}` in {place}") };
    sink.error(key.span(), "unknown-key", message, help);
    meant
}

/// The name that a table is declared under.
fn read_name(sink: &mut Sink<'_>, key: &Spanned<Cow<'_, str>>) -> Word {
    let word = Word { text: key.get_ref().to_string(), span: key.span() };
    check_name(sink, &word.text, word.span.clone());
    word
}

/// Whether a text may be a name of ours.
pub(crate) fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && text.len() <= NAME_MAX
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

const NAME_MAX: usize = 31;

fn check_name(sink: &mut Sink<'_>, text: &str, span: Span) {
    if is_name(text) {
        return;
    }
    let better: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .skip_while(|c| !c.is_ascii_lowercase())
        .take(NAME_MAX)
        .collect();
    let rule = "names are a small letter and then up to 30 small letters, digits or `-`";
    let help = if is_name(&better) { format!("{rule}: `{better}`") } else { rule.to_owned() };
    sink.error(span, "invalid-name", format!("`{text}` is not a name"), Some(help));
}

fn read_value(
    sink: &mut Sink<'_>,
    key: &'static Key,
    toml_key: &Spanned<Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
    place: &str,
) -> Typed {
    let mut reader = Reader { sink, key, span: value.span(), place };
    match key.kind {
        Kind::Section(section) => reader.section(section, value, &toml_key.span()),
        Kind::Named(section) => reader.named(section, value, &toml_key.span()),
        Kind::Name => reader.text(value, |reader, text| {
            check_name(reader.sink, text, reader.span.clone());
            Typed::Text(text.to_owned())
        }),
        Kind::Label => reader.text(value, Reader::label),
        Kind::Text => reader.text(value, |_, text| Typed::Text(text.to_owned())),
        Kind::OneOf(words) => reader.text(value, |reader, text| reader.one_of(text, words)),
        Kind::Signal => reader.text(value, Reader::signal),
        Kind::Store => reader.text(value, Reader::store),
        Kind::Secret => reader.text(value, Reader::secret),
        Kind::Address => reader.text(value, Reader::address),
        Kind::Vip => reader.text(value, Reader::vip),
        Kind::Duration { zero } => reader.duration(value, zero),
        Kind::Loss => reader.loss(value),
        Kind::Count { min, max } => reader.number(value, min, max),
        Kind::Port => reader.number(value, 1, i64::from(u16::MAX)),
        Kind::Flag => reader.flag(value),
        Kind::Argv => reader.argv(value),
        Kind::Names => reader.words(value, false),
        Kind::Texts => reader.words(value, true),
        Kind::TextMap => reader.map(value),
        Kind::Users => match value.get_ref() {
            DeValue::Array(_) => match reader.words(value, false) {
                Typed::Words(words) => Typed::Map(words.into_iter().map(|word| (word, None)).collect()),
                other => other,
            },
            _ => reader.map(value),
        },
        Kind::Check => reader.check(value),
    }
}

/// Reads the value of one key.
struct Reader<'a, 't> {
    sink: &'a mut Sink<'t>,
    key: &'static Key,
    span: Span,
    place: &'a str,
}

impl Reader<'_, '_> {
    fn wrong(&mut self, code: &str, message: String, help: Option<String>) -> Typed {
        self.sink.error(self.span.clone(), code, message, help);
        Typed::Wrong
    }

    fn wrong_type(&mut self, value: &DeValue<'_>, wanted: &str, help: Option<String>) -> Typed {
        let message = format!("`{}` wants {wanted}, found {}", self.key.name, describe(value));
        self.wrong("wrong-type", message, help)
    }

    fn section(&mut self, section: &'static Section, value: &Spanned<DeValue<'_>>, key_span: &Span) -> Typed {
        match value.get_ref() {
            DeValue::Table(toml) => {
                Typed::Table(read_table(self.sink, section, toml, &format!("[{}]", self.key.name), Some(key_span)))
            }
            DeValue::Array(_) if self.is_array_of_tables(key_span) => {
                self.array_of_tables(key_span, &format!("[{}]", self.key.name))
            }
            other => {
                let help = format!("write `[{}]` and its keys below it", self.key.name);
                self.wrong_type(other, "a table", Some(help))
            }
        }
    }

    fn named(&mut self, section: &'static Section, value: &Spanned<DeValue<'_>>, key_span: &Span) -> Typed {
        let form = section.form;
        let toml = match value.get_ref() {
            DeValue::Table(toml) => toml,
            DeValue::Array(_) if self.is_array_of_tables(key_span) => {
                let form = if form.starts_with('[') {
                    form
                } else {
                    "[nodes]` with lines like `db1 = { addr = \"10.0.0.1\" }"
                };
                return self.array_of_tables(key_span, form);
            }
            other => return self.wrong_type(other, "tables with names", Some(format!("write it like `{form}`"))),
        };
        if toml.len() > ENTRIES_MAX {
            let message = format!("there are {} entries; at most {ENTRIES_MAX} are read", toml.len());
            self.sink.error(key_span.clone(), "too-many", message, None);
        }
        let mut list = Vec::new();
        for (name, value) in toml.iter().take(ENTRIES_MAX) {
            let place = if self.key.name == "nodes" {
                format!("node `{}`", name.get_ref())
            } else {
                format!("[{}.{}]", self.key.name, name.get_ref())
            };
            match value.get_ref() {
                DeValue::Table(toml) => {
                    let name = read_name(self.sink, name);
                    let at = name.span.clone();
                    let table = read_table(self.sink, section, toml, &place, Some(&at));
                    list.push(Named { name, table });
                }
                DeValue::Array(_) if self.is_array_of_tables(&name.span()) => {
                    self.array_of_tables(&name.span(), &place);
                }
                other => self.not_a_table(section, name, other, value.span()),
            }
        }
        list.sort_by_key(|named| named.name.span.start);
        Typed::Named(list)
    }

    /// `[app]` with keys of an app below it, or a node that is only an address.
    fn not_a_table(
        &mut self,
        section: &'static Section,
        name: &Spanned<Cow<'_, str>>,
        value: &DeValue<'_>,
        span: Span,
    ) {
        let kind = self.key.name;
        if section.key(name.get_ref()).is_some() {
            let message = format!("`{}` is a key of one {kind}, and this one has no name", name.get_ref());
            self.sink.error(name.span(), "missing-name", message, Some(format!("write it below `{}`", section.form)));
            return;
        }
        let help = match value {
            DeValue::String(text) if text.parse::<IpAddr>().is_ok() => {
                format!("write `{} = {{ addr = \"{text}\" }}`", name.get_ref())
            }
            _ => format!("write it like `{}`", section.form),
        };
        self.sink.error(
            span,
            "wrong-type",
            format!("`{}` wants a table, found {}", name.get_ref(), describe(value)),
            Some(help),
        );
    }

    /// The header's second bracket stands right before its first key.
    fn is_array_of_tables(&self, key_span: &Span) -> bool {
        before_on_line(self.sink.text(), key_span).starts_with("[[")
    }

    fn array_of_tables(&mut self, at: &Span, form: &str) -> Typed {
        let header = self.sink.text()[..at.end].rfind("[[").map_or("", |start| &self.sink.text()[start + 2..at.end]);
        let message = format!("`[[{header}]]` is an array of tables, which this file does not use");
        self.sink.error(at.clone(), "array-of-tables", message, Some(format!("give each one a name: `{form}`")));
        Typed::Wrong
    }
}

/// What was found, in words.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) if text.chars().count() <= 40 => format!("the text \"{text}\""),
        DeValue::String(_) => "a text".to_owned(),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A number or flag as text.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}
