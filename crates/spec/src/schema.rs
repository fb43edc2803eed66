//! The list of keys as a JSON Schema for editors, and as a page for people.

use serde_json::{Map, Value, json};

use crate::keys::{self, Key, Kind, Section};

const DURATION_PATTERN: &str = "^ *([0-9]+ *(ms|s|m|h|d|w) *)+$";
const LOSS_PATTERN: &str = "^ *(0|([0-9]+ *(ms|s|m|h|d|w) *)+|([0-9]+ *([kMGT]?B|[KMGT]iB) *)+)$";
const NAME_PATTERN: &str = "^[a-z][a-z0-9-]{0,30}$";
const SECRET_PATTERN: &str = "^(file|env):.+$";

/// The file as a JSON Schema (draft 2020-12), pretty-printed.
pub fn schema() -> String {
    let mut root = object(&keys::ROOT);
    if let Value::Object(map) = &mut root {
        map.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        map.insert("title".to_owned(), json!("backstay.toml"));
    }
    format!("{root:#}\n")
}

fn object(section: &Section) -> Value {
    let properties: Map<String, Value> = section.keys().map(|key| (key.name.to_owned(), property(key))).collect();
    let required: Vec<_> = section.keys().filter(|key| key.required).map(|key| key.name).collect();
    let additional = section.free.map_or(json!(false), object);
    json!({
        "type": "object",
        "description": section.doc,
        "properties": properties,
        "required": required,
        "additionalProperties": additional,
    })
}

fn property(key: &Key) -> Value {
    let mut value = kind_schema(key.kind);
    if let Value::Object(map) = &mut value {
        map.insert("description".to_owned(), json!(key.doc));
        if let Some(default) = key.default {
            map.insert("default".to_owned(), serde_json::from_str(default).unwrap_or_else(|_| json!(default)));
        }
    }
    value
}

fn kind_schema(kind: Kind) -> Value {
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    match kind {
        Kind::Name => json!({ "type": "string", "pattern": NAME_PATTERN }),
        Kind::Label => json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,31}$" }),
        Kind::Text | Kind::Address | Kind::Vip => json!({ "type": "string", "minLength": 1 }),
        Kind::Store => json!({ "type": "string", "pattern": "^(embedded|etcd:https?://.+)$" }),
        Kind::Duration { .. } => json!({ "type": "string", "pattern": DURATION_PATTERN }),
        Kind::Loss => json!({ "type": "string", "pattern": LOSS_PATTERN }),
        Kind::Count { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Port => json!({ "type": "integer", "minimum": 1, "maximum": 65535 }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::OneOf(words) => json!({ "enum": words }),
        Kind::Signal => json!({ "enum": keys::SIGNALS }),
        Kind::Secret => json!({ "type": "string", "pattern": SECRET_PATTERN }),
        Kind::Argv => json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 }),
        Kind::Names => texts,
        Kind::Texts => json!({ "oneOf": [{ "type": "string" }, texts] }),
        Kind::TextMap => {
            json!({ "type": "object", "additionalProperties": { "type": ["string", "number", "boolean"] } })
        }
        Kind::Users => {
            let secrets =
                json!({ "type": "object", "additionalProperties": { "type": "string", "pattern": SECRET_PATTERN } });
            json!({ "oneOf": [texts, secrets] })
        }
        Kind::Check => {
            json!({ "oneOf": [{ "type": "string", "pattern": "^(tcp|GET /[!-~]*)$" }, object(&keys::CHECK)] })
        }
        Kind::Section(section) => object(section),
        Kind::Named(section) => json!({
            "type": "object",
            "propertyNames": { "pattern": NAME_PATTERN },
            "additionalProperties": object(section),
        }),
    }
}

/// Every key, as a page in Markdown.
pub fn reference_markdown() -> String {
    let mut out = String::from("# The file\n\nGenerated from the list of keys that the program itself reads.\n");
    let top: Vec<&Key> = keys::ROOT.keys().filter(|key| !is_table(key.kind)).collect();
    chapter(&mut out, "At the top", keys::ROOT.doc, &top);
    for key in keys::ROOT.keys() {
        match key.kind {
            Kind::Section(section) => {
                chapter(&mut out, &format!("`[{}]`", key.name), key.doc, &section.keys().collect::<Vec<_>>())
            }
            Kind::Named(section) => named_chapter(&mut out, key, section),
            _ => {}
        }
    }
    let check: Vec<_> = keys::CHECK.keys().collect();
    chapter(&mut out, "`check` as a table", keys::CHECK.doc, &check);
    out
}

fn is_table(kind: Kind) -> bool {
    matches!(kind, Kind::Section(_) | Kind::Named(_))
}

fn named_chapter(out: &mut String, key: &Key, section: &Section) {
    let title = if section.form.starts_with('[') {
        format!("`{}`", section.form)
    } else {
        format!("`[{}]`, entries like `{}`", key.name, section.form)
    };
    chapter(out, &title, &format!("{} {}", key.doc, section.doc), &section.keys().collect::<Vec<_>>());
    if let Some(free) = section.free {
        let title = format!("`{}`, entries like `{}`", section.form, free.form);
        chapter(out, &title, free.doc, &free.keys().collect::<Vec<_>>());
    }
}

fn chapter(out: &mut String, title: &str, doc: &str, keys: &[&Key]) {
    out.push_str(&format!(
        "\n## {title}\n\n{doc}\n\n| key | takes | without it | meaning |\n| --- | --- | --- | --- |\n"
    ));
    for key in keys {
        let default = match key.default {
            Some(default) => format!("`{default}`"),
            None if key.required => "**needed**".to_owned(),
            None => String::new(),
        };
        let takes = takes(key.kind).replace('|', "\\|");
        out.push_str(&format!("| `{}` | {takes} | {default} | {} |\n", key.name, key.doc.replace('|', "\\|")));
    }
}

fn takes(kind: Kind) -> String {
    let one_of = |words: &[&str]| words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" or ");
    match kind {
        Kind::Name => "a name: a small letter, then small letters, digits, `-`".to_owned(),
        Kind::Label => "a name: letters, digits, `.`, `_`, `-`".to_owned(),
        Kind::Text => "a text".to_owned(),
        Kind::Duration { .. } => "a duration: `\"30s\"`".to_owned(),
        Kind::Loss => "`\"0\"`, a duration, or an amount: `\"16MB\"`".to_owned(),
        Kind::Count { min, max } => format!("a whole number, {min} to {max}"),
        Kind::Port => "a port".to_owned(),
        Kind::Flag => "`true` or `false`".to_owned(),
        Kind::OneOf(words) => one_of(words),
        Kind::Signal => one_of(keys::SIGNALS),
        Kind::Argv => "a list: `[\"/path/to/program\", \"argument\"]`".to_owned(),
        Kind::Names => "a list of names".to_owned(),
        Kind::Texts => "a text, or a list of texts".to_owned(),
        Kind::Address => "an address: `\"10.0.0.1\"`".to_owned(),
        Kind::Vip => "an address: `\"10.0.0.100/24\"`".to_owned(),
        Kind::Secret => "where a secret is: `\"file:/path\"`, `\"env:NAME\"`".to_owned(),
        Kind::Check => "`\"GET /path\"`, `\"tcp\"` or a table".to_owned(),
        Kind::TextMap => "a table: `{ NAME = \"value\" }`".to_owned(),
        Kind::Users => "a list of names, or `{ name = \"file:/path\" }`".to_owned(),
        Kind::Store => "`\"embedded\"` or `\"etcd:https://HOST:2379\"`".to_owned(),
        Kind::Section(_) | Kind::Named(_) => "a table".to_owned(),
    }
}
