//! Values that are amounts: durations, losses, counts, ports, flags.

use toml::Spanned;
use toml::de::DeValue;

use super::{Reader, scalar};
use crate::keys::Kind;
use crate::table::Typed;
use crate::units::{DURATION_UNIT_NAMES, UnitError, parse_duration, parse_loss};

impl Reader<'_, '_> {
    pub(super) fn duration(&mut self, value: &Spanned<DeValue<'_>>, zero: bool) -> Typed {
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

    pub(super) fn loss(&mut self, value: &Spanned<DeValue<'_>>) -> Typed {
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
    pub(super) fn missing_unit(&mut self, number: &str) -> Typed {
        let days = self.key.default.is_some_and(|default| default.contains('d'));
        let help = if days {
            format!("write \"{number}d\" for {number} days or \"{number}h\" for {number} hours")
        } else {
            format!("write \"{number}s\" for {number} seconds or \"{number}ms\" for {number} milliseconds")
        };
        self.wrong("missing-unit", format!("`{}`: `{number}` has no unit", self.key.name), Some(help))
    }

    pub(super) fn wrong_unit(&mut self, text: &str, error: UnitError) -> Typed {
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

    pub(super) fn number(&mut self, value: &Spanned<DeValue<'_>>, min: i64, max: i64) -> Typed {
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

    pub(super) fn flag(&mut self, value: &Spanned<DeValue<'_>>) -> Typed {
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
}
