//! Values that are lists or small tables: programs, names, environments, checks.

use toml::Spanned;
use toml::de::DeValue;

use super::{Reader, describe, read_table, scalar};
use crate::keys::{self, Kind};
use crate::table::{Table, Typed, Word};
use crate::types::{CheckKind, CheckSpec};

/// Longer lists are surely a slip.
const ITEMS_MAX: usize = 1000;

impl Reader<'_, '_> {
    pub(super) fn argv(&mut self, value: &Spanned<DeValue<'_>>) -> Typed {
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

    pub(super) fn words(&mut self, value: &Spanned<DeValue<'_>>, one_is_enough: bool) -> Typed {
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

    pub(super) fn list(&mut self, list: &[Spanned<DeValue<'_>>]) -> Option<Vec<Word>> {
        if list.len() > ITEMS_MAX {
            let message = format!("`{}` has {} items; at most {ITEMS_MAX} are read", self.key.name, list.len());
            self.sink.error(self.span.clone(), "too-many", message, None);
            return None;
        }
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

    pub(super) fn map(&mut self, value: &Spanned<DeValue<'_>>) -> Typed {
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

    pub(super) fn check(&mut self, value: &Spanned<DeValue<'_>>) -> Typed {
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

    pub(super) fn check_text(&mut self, text: &str) -> Option<CheckKind> {
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
