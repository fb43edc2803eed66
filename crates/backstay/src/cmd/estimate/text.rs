//! Estimates for people: aligned lines with units, and what they assume.

use std::fmt::Write;

use backstay_planner::predict::{Downtime, HOURS_PER_YEAR, availability_text, nines};

/// Lines of a label, a value and a remark, in columns.
#[derive(Debug, Default)]
pub struct Table {
    lines: Vec<[String; 3]>,
    assumptions: Vec<String>,
}

impl Table {
    /// Adds a line.
    pub fn line(mut self, label: impl Into<String>, value: impl Into<String>, remark: impl Into<String>) -> Self {
        self.lines.push([label.into(), value.into(), remark.into()]);
        self
    }

    /// Adds what something is, in minutes a year and as an availability.
    pub fn unavailability(self, label: impl Into<String>, unavailability: f64) -> Self {
        let up = availability_text(unavailability);
        let remark = if unavailability > 0.0 {
            format!("{up} up, {} nines", brief(nines(unavailability)))
        } else {
            format!("{up} up")
        };
        self.line(label, minutes(unavailability), remark)
    }

    /// Adds how often and how long.
    pub fn outages(self, downtime: &Downtime) -> Self {
        let per_year = downtime.outages_per_year();
        let Some(mean_h) = downtime.mean_outage_h() else { return self.line("outages", "none", "") };
        let every = format!("1 outage every {}", time(downtime.outages_per_h.recip()));
        self.line("outages", format!("{} per year", brief(per_year)), every).line(
            "one outage",
            time(mean_h),
            "on average",
        )
    }

    /// Adds something that the figures rest on.
    pub fn assuming(mut self, assumption: impl Into<String>) -> Self {
        self.assumptions.push(assumption.into());
        self
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |column: usize| self.lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let (labels, values) = (width(0), width(1));
        for [label, value, remark] in &self.lines {
            let line = format!("{label:<labels$}  {value:>values$}  {remark}");
            writeln!(f, "{}", line.trim_end())?;
        }
        for (number, assumption) in self.assumptions.iter().enumerate() {
            writeln!(f, "{} {assumption}", if number == 0 { "assumes:" } else { "        " })?;
        }
        Ok(())
    }
}

/// `12.81 min/yr`.
pub fn minutes(unavailability: f64) -> String {
    format!("{} min/yr", brief(unavailability * HOURS_PER_YEAR * 60.0))
}

/// A time in the unit that suits it: `30 s`, `4 h`, `22.8 d`, `3.2 y`; `never` for one that does not come.
pub fn time(hours: f64) -> String {
    if hours.is_infinite() {
        return "never".to_owned();
    }
    let (value, unit) = match hours {
        h if h < 1.0 / 30.0 => (h * 3600.0, "s"),
        h if h < 2.0 => (h * 60.0, "min"),
        h if h < 72.0 => (h, "h"),
        h if h < HOURS_PER_YEAR => (h / 24.0, "d"),
        h => (h / HOURS_PER_YEAR, "y"),
    };
    format!("{} {unit}", brief(value))
}

/// Four digits that count, without the zeros behind them.
pub fn brief(value: f64) -> String {
    const DIGITS: i32 = 4;
    if value == 0.0 || !value.is_finite() {
        return if value.is_infinite() { "∞".to_owned() } else { "0".to_owned() };
    }
    let magnitude = value.abs().log10().floor() as i32;
    if !(-3..7).contains(&magnitude) {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(text, "{value:.3e}");
        return text;
    }
    let text = format!("{value:.places$}", places = (DIGITS - 1 - magnitude).max(0) as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_long_as_they_need_to_be() {
        for (value, text) in [
            (12.812_34, "12.81"),
            (3822.0, "3822"),
            (0.5, "0.5"),
            (1_234_567.0, "1234567"),
            (5.586e-14, "5.586e-14"),
            (0.0, "0"),
            (f64::INFINITY, "∞"),
            (9.999_96, "10"),
            (120.0, "120"),
        ] {
            assert_eq!(brief(value), text, "{value}");
        }
        for (hours, text) in [
            (30.0 / 3600.0, "30 s"),
            (0.5, "30 min"),
            (4.0, "4 h"),
            (547.5, "22.81 d"),
            (17_520.0, "2 y"),
            (f64::INFINITY, "never"),
        ] {
            assert_eq!(time(hours), text);
        }
    }

    #[test]
    fn columns_line_up() {
        let table = Table::default()
            .line("a", "1 min/yr", "x")
            .line("long", "10.5 min/yr", "")
            .assuming("much")
            .assuming("more");
        assert_eq!(table.to_string(), "a        1 min/yr  x\nlong  10.5 min/yr\nassumes: much\n         more\n");
    }
}
