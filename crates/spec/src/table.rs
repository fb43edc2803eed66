//! A table of the file after reading: values of the kinds their keys want, each with its place.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use crate::keys::Section;
use crate::types::{CheckSpec, MaxLoss, Vip};
use crate::units::parse_duration;

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
