//! From TOML to typed tables, by the tables of [`crate::keys`]: unknown keys, wrong types, missing units and missing keys.
//!
//! What a value means together with others is left to [`crate::check`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::Sink;
use crate::keys::{self, Key, Kind, Section};
use crate::suggest::{did_you_mean, nearest};
use crate::types::{CheckKind, CheckSpec, MaxLoss, Vip};
use crate::units::{DURATION_UNIT_NAMES, UnitError, VipError, parse_duration, parse_loss, parse_vip};

/// A place in the text.
pub(crate) type Span = Range<usize>;

/// A name or text with its place.
#[derive(Clone, Debug)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) span: Span,
}

/// One table, read.
#[derive(Debug)]
pub(crate) struct Table {
    section: &'static Section,
    pub(crate) entries: BTreeMap<&'static str, Entry>,
    /// Entries with free names, in the order of the file.
    pub(crate) free: Vec<Named>,
    /// Something in it was refused, so that what seems to be missing may be there.
    pub(crate) broken: bool,
}

/// One key that the file states.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key_span: Span,
    pub(crate) span: Span,
    pub(crate) value: Typed,
}

/// A table under a free name.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) name: Word,
    pub(crate) table: Table,
}

/// A value of the kind its key wants.
#[derive(Debug)]
pub(crate) enum Typed {
    Text(String),
    Number(i64),
    Flag(bool),
    Duration(Duration),
    Loss(MaxLoss),
    Address(IpAddr),
    Vip(Vip),
    Check(CheckSpec),
    Words(Vec<Word>),
    Map(Vec<(Word, Option<Word>)>),
    Table(Table),
    Named(Vec<Named>),
    /// It was refused; the key counts as stated all the same.
    Wrong,
}

impl std::fmt::Debug for Section {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.doc)
    }
}

impl Table {
    pub(crate) fn empty(section: &'static Section) -> Self {
        Self { section, entries: BTreeMap::new(), free: Vec::new(), broken: false }
    }

    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Whether the file states it, and rightly.
    pub(crate) fn states(&self, name: &str) -> bool {
        self.entry(name).is_some_and(|entry| !matches!(entry.value, Typed::Wrong))
    }

    /// The place of a key's value, or nowhere in particular when the file does not state it.
    pub(crate) fn span(&self, name: &str) -> Option<Span> {
        self.entry(name).map(|entry| entry.span.clone())
    }

    pub(crate) fn text(&self, name: &str) -> Option<String> {
        match self.entry(name).map(|entry| &entry.value) {
            Some(Typed::Text(text)) => Some(text.clone()),
            _ => self.default_text(name).map(|text| text.trim_matches('"').to_owned()),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        match self.entry(name).map(|entry| &entry.value) {
            Some(Typed::Number(number)) => Some(*number),
            _ => self.default_text(name).and_then(|text| text.parse().ok()),
        }
    }

    pub(crate) fn count(&self, name: &str) -> Option<u32> {
        self.number(name).and_then(|number| u32::try_from(number).ok())
    }

    pub(crate) fn port(&self, name: &str) -> Option<u16> {
        self.number(name).and_then(|number| u16::try_from(number).ok())
    }

    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        match self.entry(name).map(|entry| &entry.value) {
            Some(Typed::Flag(flag)) => Some(*flag),
            _ => self.default_text(name).and_then(|text| text.parse().ok()),
        }
    }

    pub(crate) fn duration(&self, name: &str) -> Option<Duration> {
        match self.entry(name).map(|entry| &entry.value) {
            Some(Typed::Duration(duration)) => Some(*duration),
            _ => self.default_text(name).and_then(|text| parse_duration(text.trim_matches('"')).ok()),
        }
    }

    pub(crate) fn words(&self, name: &str) -> &[Word] {
        match self.entry(name).map(|entry| &entry.value) {
            Some(Typed::Words(words)) => words,
            _ => &[],
        }
    }

    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        self.words(name).iter().map(|word| word.text.clone()).collect()
    }

    pub(crate) fn map(&self, name: &str) -> &[(Word, Option<Word>)] {
        match self.entry(name).map(|entry| &entry.value) {
            Some(Typed::Map(map)) => map,
            _ => &[],
        }
    }

    pub(crate) fn table(&self, name: &str) -> Option<&Table> {
        match self.entry(name).map(|entry| &entry.value) {
            Some(Typed::Table(table)) => Some(table),
            _ => None,
        }
    }

    pub(crate) fn named(&self, name: &str) -> &[Named] {
        match self.entry(name).map(|entry| &entry.value) {
            Some(Typed::Named(named)) => named,
            _ => &[],
        }
    }

    fn default_text(&self, name: &str) -> Option<&'static str> {
        self.section.key(name).and_then(|key| key.default)
    }
}

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
    key: &Spanned<std::borrow::Cow<'_, str>>,
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
fn read_name(sink: &mut Sink<'_>, key: &Spanned<std::borrow::Cow<'_, str>>) -> Word {
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
    toml_key: &Spanned<std::borrow::Cow<'_, str>>,
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
        let mut list = Vec::new();
        for (name, value) in toml {
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
        name: &Spanned<std::borrow::Cow<'_, str>>,
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

    fn text(&mut self, value: &Spanned<DeValue<'_>>, then: impl FnOnce(&mut Self, &str) -> Typed) -> Typed {
        match value.get_ref() {
            DeValue::String(text) if text.is_empty() => self.wrong(
                "empty",
                format!("`{}` is empty", self.key.name),
                Some("leave the key out, or say what it is".to_owned()),
            ),
            DeValue::String(text) if text.contains('\0') => {
                self.wrong("wrong-value", format!("`{}` holds a zero byte", self.key.name), None)
            }
            DeValue::String(text) => then(self, text),
            DeValue::Array(list) if list.len() == 1 => {
                let help = list[0].get_ref().as_str().map(|text| format!("write `{} = \"{text}\"`", self.key.name));
                self.wrong_type(value.get_ref(), "one text", help)
            }
            other => {
                let any_text = matches!(self.key.kind, Kind::Text | Kind::Label);
                let help =
                    scalar(other).filter(|_| any_text).map(|text| format!("write `{} = \"{text}\"`", self.key.name));
                self.wrong_type(other, wanted_text(self.key.kind), help)
            }
        }
    }

    fn label(&mut self, text: &str) -> Typed {
        let fits =
            text.len() <= NAME_MAX && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if fits {
            return Typed::Text(text.to_owned());
        }
        let help = "up to 31 letters, digits, `.`, `_` or `-`".to_owned();
        self.wrong("invalid-name", format!("`{text}` is not a name of a {}", self.key.name), Some(help))
    }

    fn one_of(&mut self, text: &str, words: &[&'static str]) -> Typed {
        if words.contains(&text) {
            return Typed::Text(text.to_owned());
        }
        let meant = words.iter().find(|word| word.eq_ignore_ascii_case(&text.replace(' ', ""))).copied();
        let meant =
            meant.or_else(|| alias_of_word(self.key.name, text)).or_else(|| nearest(text, words.iter().copied()));
        let all = words.join("\", \"");
        let help = meant.map_or_else(
            || format!("one of \"{all}\""),
            |meant| format!("did you mean \"{meant}\"? (one of \"{all}\")"),
        );
        self.wrong("unknown-value", format!("\"{text}\" is not a value of `{}`", self.key.name), Some(help))
    }

    fn signal(&mut self, text: &str) -> Typed {
        if keys::SIGNALS.contains(&text) {
            return Typed::Text(text.to_owned());
        }
        let with_prefix = format!("SIG{}", text.to_ascii_uppercase().trim_start_matches("SIG"));
        let meant = keys::SIGNALS.iter().find(|name| **name == with_prefix).copied();
        let meant = meant.or_else(|| nearest(&with_prefix, keys::SIGNALS.iter().copied()));
        let help = did_you_mean(meant).unwrap_or_else(|| format!("one of {}", keys::SIGNALS.join(", ")));
        self.wrong(
            "unknown-signal",
            format!("\"{text}\" is not a signal that a program can be asked to stop with"),
            Some(help),
        )
    }

    fn store(&mut self, text: &str) -> Typed {
        let urls = text.strip_prefix("etcd:");
        let good_url = |url: &str| {
            let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace))
        };
        match urls {
            _ if text == "embedded" => Typed::Text(text.to_owned()),
            Some(urls) if has_inline_login(urls) => self.inline_secret("an address with a password in it"),
            Some(urls) if urls.split(',').all(good_url) => Typed::Text(text.to_owned()),
            _ => {
                let help = "\"embedded\", or \"etcd:https://HOST:2379\" (several, separated by commas)".to_owned();
                self.wrong("wrong-value", format!("\"{text}\" is not a store"), Some(help))
            }
        }
    }

    fn secret(&mut self, text: &str) -> Typed {
        if is_secret_reference(text) {
            return Typed::Text(text.to_owned());
        }
        self.inline_secret(&format!("`{}`", self.key.name))
    }

    fn inline_secret(&mut self, what: &str) -> Typed {
        inline_secret(self.sink, self.span.clone(), what);
        Typed::Wrong
    }

    fn address(&mut self, text: &str) -> Typed {
        match text.parse::<IpAddr>() {
            Ok(addr) if addr.is_unspecified() || addr.is_multicast() => {
                let message = format!("`{text}` is not the address of one machine");
                self.wrong(
                    "wrong-address",
                    message,
                    Some("write the address by which the other machines reach it".to_owned()),
                )
            }
            Ok(addr) => Typed::Address(addr),
            Err(_) => {
                let help = match text.rsplit_once([':', '/']) {
                    Some((addr, _)) if addr.parse::<IpAddr>().is_ok() => format!("only the address: `\"{addr}\"`"),
                    _ => "like \"10.0.0.1\" or \"fd00::1\"; names are not looked up".to_owned(),
                };
                self.wrong("wrong-address", format!("`{text}` is not an address"), Some(help))
            }
        }
    }

    fn vip(&mut self, text: &str) -> Typed {
        match parse_vip(text) {
            Ok(vip) if vip.addr.is_unspecified() || vip.addr.is_multicast() => {
                self.wrong("wrong-address", format!("`{text}` can't be a floating address"), None)
            }
            Ok(vip) => Typed::Vip(vip),
            Err(VipError::Address) => {
                let help = "like \"10.0.0.100/24\"".to_owned();
                self.wrong(
                    "wrong-address",
                    format!("`{text}` is not an address with the bits of its network"),
                    Some(help),
                )
            }
            Err(VipError::Prefix(bits)) => {
                let message = format!("`{text}`: the bits of its network must be 1 to {bits}");
                self.wrong("wrong-prefix", message, Some("like \"10.0.0.100/24\"".to_owned()))
            }
        }
    }

    fn duration(&mut self, value: &Spanned<DeValue<'_>>, zero: bool) -> Typed {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            other => match scalar(other) {
                Some(number) if other.is_integer() => return self.missing_unit(&number),
                _ => return self.wrong_type(other, "a duration like \"30s\"", None),
            },
        };
        match parse_duration(&text) {
            Ok(duration) if duration.is_zero() && !zero => {
                self.wrong("impossible-number", format!("`{}` can't be zero", self.key.name), None)
            }
            Ok(duration) => Typed::Duration(duration),
            Err(error) => self.wrong_unit(&text, error),
        }
    }

    fn loss(&mut self, value: &Spanned<DeValue<'_>>) -> Typed {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            other => match scalar(other) {
                Some(number) if number == "0" => {
                    let help = format!("write `{} = \"0\"`", self.key.name);
                    return self.wrong_type(other, "a text", Some(help));
                }
                Some(number) if other.is_integer() => {
                    let help = format!("write \"{number}s\" for a time or \"{number}MB\" for an amount of log");
                    return self.wrong(
                        "missing-unit",
                        format!("`{}`: `{number}` has no unit", self.key.name),
                        Some(help),
                    );
                }
                _ => return self.wrong_type(other, "\"0\", a time like \"10s\" or an amount like \"16MB\"", None),
            },
        };
        match parse_loss(&text) {
            Ok(loss) => Typed::Loss(loss),
            Err(UnitError::MissingUnit(number)) => {
                let help = format!("write \"{number}s\" for a time or \"{number}MB\" for an amount of log");
                self.wrong("missing-unit", format!("`{}`: `{number}` has no unit", self.key.name), Some(help))
            }
            Err(error) => {
                let help = "\"0\", a time like \"10s\" or an amount like \"16MB\"".to_owned();
                self.wrong("wrong-value", format!("`{}`: \"{text}\" can't be read: {error}", self.key.name), Some(help))
            }
        }
    }

    /// Shows both readings of a bare number, of the size that this key usually has.
    fn missing_unit(&mut self, number: &str) -> Typed {
        let days = self.key.default.is_some_and(|default| default.contains('d'));
        let help = if days {
            format!("write \"{number}d\" for {number} days or \"{number}h\" for {number} hours")
        } else {
            format!("write \"{number}s\" for {number} seconds or \"{number}ms\" for {number} milliseconds")
        };
        self.wrong("missing-unit", format!("`{}`: `{number}` has no unit", self.key.name), Some(help))
    }

    fn wrong_unit(&mut self, text: &str, error: UnitError) -> Typed {
        match error {
            UnitError::MissingUnit(number) => self.missing_unit(&number),
            UnitError::UnknownUnit(unit) => {
                let meant = match unit.to_ascii_lowercase().as_str() {
                    "sec" | "secs" | "second" | "seconds" => Some("s"),
                    "min" | "mins" | "minute" | "minutes" => Some("m"),
                    "hr" | "hrs" | "hour" | "hours" => Some("h"),
                    "day" | "days" => Some("d"),
                    "week" | "weeks" => Some("w"),
                    "msec" | "millis" | "milliseconds" => Some("ms"),
                    lower => DURATION_UNIT_NAMES.iter().copied().find(|name| *name == lower),
                };
                let units = DURATION_UNIT_NAMES.join(", ");
                let help = meant.map_or_else(
                    || format!("units are {units}"),
                    |meant| format!("did you mean `{meant}`? (units are {units})"),
                );
                self.wrong("unknown-unit", format!("`{}`: `{unit}` is not a unit of time", self.key.name), Some(help))
            }
            error => {
                let help = "like \"350ms\", \"30s\", \"1h30m\" or \"14d\"".to_owned();
                self.wrong(
                    "wrong-value",
                    format!("`{}`: \"{text}\" is not a duration: {error}", self.key.name),
                    Some(help),
                )
            }
        }
    }

    fn number(&mut self, value: &Spanned<DeValue<'_>>, min: i64, max: i64) -> Typed {
        let port = matches!(self.key.kind, Kind::Port);
        let wanted = if port { "a port" } else { "a whole number" };
        let DeValue::Integer(integer) = value.get_ref() else {
            let help = match value.get_ref() {
                DeValue::String(text) if text.parse::<i64>().is_ok() => {
                    Some(format!("without quotes: `{} = {text}`", self.key.name))
                }
                _ => None,
            };
            return self.wrong_type(value.get_ref(), wanted, help);
        };
        match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if (min..=max).contains(&number) => Typed::Number(number),
            _ => {
                let message = format!("`{}` can't be {integer}: it must be {min} to {max}", self.key.name);
                self.wrong("impossible-number", message, None)
            }
        }
    }

    fn flag(&mut self, value: &Spanned<DeValue<'_>>) -> Typed {
        let meant = match value.get_ref() {
            DeValue::Boolean(flag) => return Typed::Flag(*flag),
            DeValue::String(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" => Some(true),
                "false" | "no" | "off" => Some(false),
                _ => None,
            },
            _ => None,
        };
        let help = meant.map(|flag| format!("write `{} = {flag}`", self.key.name));
        self.wrong_type(value.get_ref(), "true or false", help)
    }

    fn argv(&mut self, value: &Spanned<DeValue<'_>>) -> Typed {
        let list = match value.get_ref() {
            DeValue::Array(list) => list,
            DeValue::String(text) => {
                let words: Vec<_> = text.split_whitespace().map(|word| format!("\"{word}\"")).collect();
                let help = format!("there is no shell; write `{} = [{}]`", self.key.name, words.join(", "));
                return self.wrong_type(value.get_ref(), "a list: the program and its arguments", Some(help));
            }
            other => return self.wrong_type(other, "a list: the program and its arguments", None),
        };
        let Some(words) = self.list(list) else { return Typed::Wrong };
        match words.first() {
            None => self.wrong(
                "empty",
                format!("`{}` names no program", self.key.name),
                Some("[\"/path/to/program\", \"argument\"]".to_owned()),
            ),
            Some(program) if program.text.is_empty() => {
                self.sink.error(program.span.clone(), "empty", "the program's name is empty", None);
                Typed::Wrong
            }
            Some(_) => Typed::Words(words),
        }
    }

    fn words(&mut self, value: &Spanned<DeValue<'_>>, one_is_enough: bool) -> Typed {
        match value.get_ref() {
            DeValue::Array(list) => self.list(list).map_or(Typed::Wrong, Typed::Words),
            DeValue::String(text) if one_is_enough => {
                Typed::Words(vec![Word { text: text.to_string(), span: self.span.clone() }])
            }
            DeValue::String(text) => {
                let help = format!("write `{} = [\"{text}\"]`", self.key.name);
                self.wrong_type(value.get_ref(), "a list", Some(help))
            }
            other => self.wrong_type(other, "a list of texts", None),
        }
    }

    fn list(&mut self, list: &[Spanned<DeValue<'_>>]) -> Option<Vec<Word>> {
        let mut words = Vec::with_capacity(list.len());
        for item in list {
            match item.get_ref() {
                DeValue::String(text) if text.contains('\0') => {
                    self.sink.error(
                        item.span(),
                        "wrong-value",
                        format!("an item of `{}` holds a zero byte", self.key.name),
                        None,
                    );
                }
                DeValue::String(text) => words.push(Word { text: text.to_string(), span: item.span() }),
                other => {
                    let message = format!("items of `{}` are texts, found {}", self.key.name, describe(other));
                    let help = scalar(other).map(|text| format!("write \"{text}\""));
                    self.sink.error(item.span(), "wrong-type", message, help);
                }
            }
        }
        (words.len() == list.len()).then_some(words)
    }

    fn map(&mut self, value: &Spanned<DeValue<'_>>) -> Typed {
        let DeValue::Table(toml) = value.get_ref() else {
            let help = format!("write `{} = {{ NAME = \"value\" }}`", self.key.name);
            return self.wrong_type(value.get_ref(), "a table of texts", Some(help));
        };
        let mut map = Vec::new();
        for (name, value) in toml {
            let text = match value.get_ref() {
                DeValue::String(text) if !text.contains('\0') => text.to_string(),
                other => match scalar(other) {
                    Some(text) if matches!(self.key.kind, Kind::TextMap) => text,
                    _ => {
                        let message = format!(
                            "`{}` of `{}` wants a text, found {}",
                            name.get_ref(),
                            self.key.name,
                            describe(other)
                        );
                        self.sink.error(value.span(), "wrong-type", message, None);
                        continue;
                    }
                },
            };
            map.push((
                Word { text: name.get_ref().to_string(), span: name.span() },
                Some(Word { text, span: value.span() }),
            ));
        }
        Typed::Map(map)
    }

    fn check(&mut self, value: &Spanned<DeValue<'_>>) -> Typed {
        let table = match value.get_ref() {
            DeValue::Table(toml) => {
                let place = format!("`check` of {}", self.place);
                let at = self.span.clone();
                read_table(self.sink, &keys::CHECK, toml, &place, Some(&at))
            }
            DeValue::String(_) => Table::empty(&keys::CHECK),
            other => return self.wrong_type(other, "\"GET /path\", \"tcp\" or { run = [\"/path/to/program\"] }", None),
        };
        let kind = match value.get_ref() {
            DeValue::String(text) => match self.check_text(text) {
                Some(kind) => kind,
                None => return Typed::Wrong,
            },
            _ => CheckKind::Run(table.texts("run")),
        };
        Typed::Check(CheckSpec {
            kind,
            every: table.duration("every").unwrap_or_default(),
            timeout: table.duration("timeout").unwrap_or_default(),
            rise: table.count("rise").unwrap_or(1),
            fall: table.count("fall").unwrap_or(1),
        })
    }

    fn check_text(&mut self, text: &str) -> Option<CheckKind> {
        if text == "tcp" {
            return Some(CheckKind::Tcp);
        }
        let printable = |path: &str| path.bytes().all(|byte| byte.is_ascii_graphic());
        let help = match text.split_once(' ') {
            Some(("GET", path)) if path.starts_with('/') && printable(path) => {
                return Some(CheckKind::Http(path.to_owned()));
            }
            Some((method, path))
                if method.eq_ignore_ascii_case("GET") || (is_method(method) && path.starts_with('/')) =>
            {
                let path: String = path.chars().filter(char::is_ascii_graphic).collect();
                format!("write \"GET /{}\"", path.trim_start_matches('/'))
            }
            _ if text.starts_with('/') && printable(text) => format!("write \"GET {text}\""),
            _ if text.eq_ignore_ascii_case("tcp") => "write \"tcp\"".to_owned(),
            _ => "\"GET /path\", \"tcp\" or { run = [\"/path/to/program\"] }".to_owned(),
        };
        self.wrong("wrong-check", format!("\"{text}\" is not a check"), Some(help));
        None
    }
}

fn is_method(text: &str) -> bool {
    ["HEAD", "POST", "PUT", "OPTIONS"].iter().any(|method| method.eq_ignore_ascii_case(text))
}

/// `file:…` or `env:…`.
pub(crate) fn is_secret_reference(text: &str) -> bool {
    ["file:", "env:"].iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}

/// An address that carries a password: `scheme://user:password@host`.
pub(crate) fn has_inline_login(text: &str) -> bool {
    text.match_indices("://").any(|(at, _)| {
        let authority = text[at + 3..].split(['/', '?', '#', ' ']).next().unwrap_or_default();
        authority
            .rsplit_once('@')
            .and_then(|(login, _)| login.split_once(':'))
            .is_some_and(|(_, password)| !password.is_empty())
    })
}

/// Refuses a secret in the file.
pub(crate) fn inline_secret(sink: &mut Sink<'_>, span: Span, what: &str) {
    let help = "say where it is: \"file:/etc/backstay/secret\" or \"env:NAME\"".to_owned();
    sink.error(
        span,
        "inline-secret",
        format!("{what} would put a secret into this file, which every machine and every diff shows"),
        Some(help),
    );
}

/// Words that other tools use for ours.
fn alias_of_word(key: &str, text: &str) -> Option<&'static str> {
    match (key, text.to_ascii_lowercase().as_str()) {
        ("survive" | "spread", "zone" | "az") => Some("rack"),
        ("survive" | "spread", "region" | "datacenter" | "dc") => Some("site"),
        ("survive" | "spread", "host" | "machine" | "server") => Some("node"),
        ("mode", "active-passive" | "passive" | "failover") => Some("active/passive"),
        ("mode", "active-active" | "active") => Some("active/active"),
        ("redundancy", "none" | "0") => Some("N"),
        ("redundancy", "1+1") => Some("2N"),
        ("proto", "https" | "http/1.1" | "h2") => Some("http"),
        _ => None,
    }
}

fn wanted_text(kind: Kind) -> &'static str {
    match kind {
        Kind::Address => "an address like \"10.0.0.1\"",
        Kind::Vip => "an address like \"10.0.0.100/24\"",
        Kind::Name => "a name in quotes",
        _ => "a text in quotes",
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
