//! Values that are written as one text: words, names, addresses.

use std::net::IpAddr;

use toml::Spanned;
use toml::de::DeValue;

use super::{NAME_MAX, Reader, scalar};
use crate::keys::{self, Kind};
use crate::secret::{has_inline_login, inline_secret, is_secret_reference};
use crate::suggest::{did_you_mean, nearest};
use crate::table::Typed;
use crate::units::{VipError, parse_vip};

impl Reader<'_, '_> {
    pub(super) fn text(&mut self, value: &Spanned<DeValue<'_>>, then: impl FnOnce(&mut Self, &str) -> Typed) -> Typed {
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

    pub(super) fn label(&mut self, text: &str) -> Typed {
        let fits =
            text.len() <= NAME_MAX && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if fits {
            return Typed::Text(text.to_owned());
        }
        let help = "up to 31 letters, digits, `.`, `_` or `-`".to_owned();
        self.wrong("invalid-name", format!("`{text}` is not a name of a {}", self.key.name), Some(help))
    }

    pub(super) fn one_of(&mut self, text: &str, words: &[&'static str]) -> Typed {
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

    pub(super) fn signal(&mut self, text: &str) -> Typed {
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

    pub(super) fn store(&mut self, text: &str) -> Typed {
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

    pub(super) fn secret(&mut self, text: &str) -> Typed {
        if is_secret_reference(text) {
            return Typed::Text(text.to_owned());
        }
        self.inline_secret(&format!("`{}`", self.key.name))
    }

    pub(super) fn inline_secret(&mut self, what: &str) -> Typed {
        inline_secret(self.sink, self.span.clone(), what);
        Typed::Wrong
    }

    pub(super) fn address(&mut self, text: &str) -> Typed {
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

    pub(super) fn vip(&mut self, text: &str) -> Typed {
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
