//! Durations, sizes and addresses as the file writes them: always with a unit, so that no number can be read two ways.

use std::net::IpAddr;
use std::time::Duration;

use crate::types::{MaxLoss, Vip};

/// The longest duration that the file may state; beyond it a number is surely a slip.
pub const DURATION_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

const DURATION_UNITS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 7 * 86_400_000)];

const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Why a text is not a duration or a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitError {
    /// A bare number: it could mean anything.
    MissingUnit(String),
    /// A number with a unit that is not known.
    UnknownUnit(String),
    /// Not a number with a unit at all.
    NotANumber,
    /// A number too large to mean anything.
    TooLarge,
}

impl std::fmt::Display for UnitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::MissingUnit(number) => write!(f, "`{number}` has no unit"),
            Self::UnknownUnit(unit) => write!(f, "`{unit}` is not a unit"),
            Self::NotANumber => f.write_str("it is not a whole number with a unit"),
            Self::TooLarge => f.write_str("it is too large"),
        }
    }
}

impl std::error::Error for UnitError {}

/// Reads a duration: `"350ms"`, `"30s"`, `"1h30m"`, `"14d"`. Units: `ms`, `s`, `m`, `h`, `d`, `w`.
///
/// # Errors
/// When the unit is missing or unknown, or the whole is more than [`DURATION_MAX`].
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let ms = parse_sum(text, DURATION_UNITS)?;
    let duration = Duration::from_millis(ms);
    if duration > DURATION_MAX { Err(UnitError::TooLarge) } else { Ok(duration) }
}

/// Reads an amount of bytes: `"16MB"`, `"1GiB"`. `kB`, `MB`, … are powers of 1000; `KiB`, `MiB`, … of 1024.
///
/// # Errors
/// When the unit is missing or unknown, or the amount does not fit 64 bits.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    parse_sum(text, SIZE_UNITS)
}

/// Reads `max_loss`: `"0"`, a duration or an amount of bytes.
///
/// # Errors
/// When it is none of these.
pub fn parse_loss(text: &str) -> Result<MaxLoss, UnitError> {
    if text.trim() == "0" {
        return Ok(MaxLoss::Zero);
    }
    let duration_error = match parse_duration(text) {
        Ok(Duration::ZERO) => return Ok(MaxLoss::Zero),
        Ok(duration) => return Ok(MaxLoss::Time(duration)),
        Err(error) => error,
    };
    match parse_size(text) {
        Ok(0) => Ok(MaxLoss::Zero),
        Ok(bytes) => Ok(MaxLoss::Bytes(bytes)),
        Err(_) => Err(duration_error),
    }
}

/// Writes a duration the way [`parse_duration`] reads it: `90s`, `1500ms`, `14d`.
pub fn duration_text(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let days_are_meant = ms >= 86_400_000;
    for &(unit, factor) in DURATION_UNITS.iter().rev() {
        let fits = unit != "w" && (unit != "d" || days_are_meant);
        if fits && ms >= factor && ms.is_multiple_of(factor) {
            return format!("{}{unit}", ms / factor);
        }
    }
    if ms == 0 { "0s".to_owned() } else { format!("{ms}ms") }
}

/// Writes an amount of bytes the way [`parse_size`] reads it.
pub fn size_text(bytes: u64) -> String {
    let best =
        SIZE_UNITS.iter().filter(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor)).max_by_key(|u| u.1);
    best.map_or_else(|| format!("{bytes}B"), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

/// A run of `number unit` pairs, added up.
fn parse_sum(text: &str, units: &[(&str, u64)]) -> Result<u64, UnitError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(UnitError::NotANumber);
    }
    let mut sum: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        if number.is_empty() {
            return Err(UnitError::NotANumber);
        }
        let tail = tail.trim_start();
        let unit_end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, after) = tail.split_at(unit_end);
        if unit.is_empty() {
            return Err(if after.is_empty() {
                UnitError::MissingUnit(number.to_owned())
            } else {
                UnitError::NotANumber
            });
        }
        let factor =
            units.iter().find(|(name, _)| *name == unit).ok_or_else(|| UnitError::UnknownUnit(unit.to_owned()))?.1;
        let number: u64 = number.parse().map_err(|_| UnitError::TooLarge)?;
        sum = number.checked_mul(factor).and_then(|part| sum.checked_add(part)).ok_or(UnitError::TooLarge)?;
        rest = after.trim_start();
    }
    Ok(sum)
}

/// The units of durations, for help texts.
pub(crate) const DURATION_UNIT_NAMES: &[&str] = &["ms", "s", "m", "h", "d", "w"];

/// Reads a floating address: `10.0.0.100/24`, or without the bits of its network.
pub(crate) fn parse_vip(text: &str) -> Result<Vip, VipError> {
    let (addr, prefix) = match text.split_once('/') {
        Some((addr, prefix)) => (addr, Some(prefix)),
        None => (text, None),
    };
    let addr: IpAddr = addr.parse().map_err(|_| VipError::Address)?;
    let bits = if addr.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => bits,
        Some(prefix) => prefix.parse().map_err(|_| VipError::Prefix(bits))?,
    };
    if prefix == 0 || prefix > bits { Err(VipError::Prefix(bits)) } else { Ok(Vip { addr, prefix }) }
}

/// Which half of a floating address is wrong.
pub(crate) enum VipError {
    /// The address.
    Address,
    /// The bits of its network; so many there are at most.
    Prefix(u8),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_units_and_may_be_sums() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("350 ms"), Ok(Duration::from_millis(350)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("30"), Err(UnitError::MissingUnit("30".to_owned())));
        assert_eq!(parse_duration("3sec"), Err(UnitError::UnknownUnit("sec".to_owned())));
        for text in ["", "s", "-3s", "1.5s", "3s!", "١s"] {
            assert_eq!(parse_duration(text), Err(UnitError::NotANumber), "{text}");
        }
        assert_eq!(parse_duration("99999999999999999999d"), Err(UnitError::TooLarge));
        assert_eq!(parse_duration("9999999d"), Err(UnitError::TooLarge));
    }

    #[test]
    fn losses_are_nothing_a_time_or_an_amount() {
        assert_eq!(parse_loss("0"), Ok(MaxLoss::Zero));
        assert_eq!(parse_loss("0s"), Ok(MaxLoss::Zero));
        assert_eq!(parse_loss("10s"), Ok(MaxLoss::Time(Duration::from_secs(10))));
        assert_eq!(parse_loss("16MB"), Ok(MaxLoss::Bytes(16_000_000)));
        assert_eq!(parse_loss("16MiB"), Ok(MaxLoss::Bytes(16 << 20)));
        assert_eq!(parse_loss("16"), Err(UnitError::MissingUnit("16".to_owned())));
    }

    #[test]
    fn what_is_written_reads_back() {
        for ms in [0, 1, 999, 1000, 90_000, 3_600_000, 86_400_000, 14 * 86_400_000, 90_061_001] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&duration_text(duration)), Ok(duration));
        }
        for bytes in [0, 1, 16_000_000, 16 << 20, 12_345] {
            assert_eq!(parse_size(&size_text(bytes)), Ok(bytes));
        }
        assert_eq!(duration_text(Duration::from_secs(90)), "90s");
        assert_eq!(duration_text(Duration::from_secs(14 * 86_400)), "14d");
    }
}
