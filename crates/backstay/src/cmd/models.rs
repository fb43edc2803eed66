//! `models`: the five models of one service side by side, with a plot.

use std::fmt::Write;
use std::fs;

use backstay_planner::forecast::Forecast;
use backstay_planner::models::{Row, models};
use backstay_planner::predict::HOURS_PER_YEAR;
use backstay_spec::Spec;
use serde_json::json;

use super::plan::minutes;
use crate::cli::ModelsArgs;
use crate::config_file::ConfigFile;
use crate::exit_code::Exit;
use crate::output::{Answer, Failure, Output};

/// Compares them.
pub fn run(args: &ModelsArgs, output: Output) -> Answer {
    let file = ConfigFile::read(args.config.as_deref())?;
    let spec = file.spec()?;
    let id = spec.services.keys().find(|id| id.to_string() == args.service).ok_or_else(|| {
        let known: Vec<_> = spec.services.keys().map(ToString::to_string).collect();
        Failure::usage("unknown-service", format!("{} has no service `{}`", file.name, args.service))
            .with_help(format!("there are {}", known.join(", ")))
    })?;
    let rows = models(spec, id).map_err(|why| Failure::usage("rates", format!("[rates] of {}: {why}", file.name)))?;
    if let Some(path) = &args.svg {
        fs::write(path, svg(&args.service, &rows))
            .map_err(|error| Failure::unexpected("svg", format!("cannot write {}: {error}", path.display())))?;
    }
    let best = ranked(&rows).first().map(|row| row.model.clone());
    let answer = json!({
        "service": args.service,
        "models": rows,
        "best": best,
        "currency": spec.prices.as_ref().map(|prices| prices.currency.clone()),
        "year_h": HOURS_PER_YEAR,
    });
    output.result(&text(&args.service, spec, &rows), answer);
    Ok(Exit::Done)
}

/// Those that fit, the best first: by cost where there are prices, else by minutes down and then by instances.
fn ranked(rows: &[Row]) -> Vec<&Row> {
    let mut fitting: Vec<&Row> = rows.iter().filter(|row| row.fits && row.minutes_per_year.is_some()).collect();
    let key = |row: &&Row| (row.cost_per_year.unwrap_or(0.0), row.minutes_per_year.unwrap_or(f64::INFINITY));
    fitting.sort_by(|a, b| {
        let (a_key, b_key) = (key(a), key(b));
        a_key.0.total_cmp(&b_key.0).then(a_key.1.total_cmp(&b_key.1)).then(a.instances.cmp(&b.instances))
    });
    fitting
}

fn text(service: &str, spec: &Spec, rows: &[Row]) -> String {
    let mut text = String::new();
    let currency = spec.prices.as_ref().map_or("", |prices| prices.currency.as_str());
    let _ = writeln!(
        text,
        "{service}\n  model  instances  survives           min/year   5–95 %      outages/year  {:>12}  fits",
        if currency.is_empty() { "cost/year".to_owned() } else { format!("{currency}/year") }
    );
    for row in rows {
        let mark = if row.is_declared { '*' } else { ' ' };
        let forecast = row.forecast.as_ref();
        let year = row.minutes_per_year.map_or_else(|| "never up".to_owned(), minutes);
        let band = forecast.and_then(Forecast::band_with_store);
        let band = band
            .map_or_else(String::new, |b| format!("{}–{}", minutes(b.low_min_per_year), minutes(b.high_min_per_year)));
        let outages = forecast.map_or_else(String::new, |forecast| minutes(forecast.prediction.outages_per_year));
        let cost = row.cost_per_year.map_or_else(|| "–".to_owned(), |cost| format!("{cost:.0}"));
        let fits = row.lacks.as_ref().map_or_else(|| "yes".to_owned(), |lacks| format!("no: {lacks}"));
        let _ = writeln!(
            text,
            "{mark} {:5}  {:>9}  {:17}  {year:>8}   {band:10}  {outages:>12}  {cost:>12}  {fits}",
            row.model, row.instances, row.survives
        );
    }
    text.push('\n');
    text.push_str(&plot(rows));
    if let Some(best) = ranked(rows).first() {
        let by = if best.cost_per_year.is_some() { "costs least" } else { "is down least" };
        let _ = writeln!(text, "\n{} {by} of those that fit this cluster", best.model);
    }
    if let Some(row) = rows.iter().find(|row| row.is_declared) {
        let improves = row.forecast.iter().flat_map(|forecast| &forecast.improves).take(3);
        let improves: Vec<_> = improves.map(|one| format!("{} ({:+.2})", one.parameter, one.elasticity)).collect();
        let _ = writeln!(text, "of {} as declared, what weighs most: {}", row.model, improves.join(", "));
    }
    text.push_str("* declared in the file; a year has 8760 h; predictions rest on [rates], or on assumptions where it says nothing\n");
    text
}

/// The plot's logarithmic axis: minutes per year from a tenth of a second to a year.
const AXIS: std::ops::Range<f64> = -3.0..5.8;

fn place(minutes: f64) -> f64 {
    let log = minutes.max(1e-9).log10().clamp(AXIS.start, AXIS.end);
    (log - AXIS.start) / (AXIS.end - AXIS.start)
}

/// One bar a model on a logarithmic axis, its band drawn lighter.
fn plot(rows: &[Row]) -> String {
    const WIDTH: f64 = 60.0;
    let mut text = String::new();
    for row in rows {
        let Some(year) = row.minutes_per_year else { continue };
        let high =
            row.forecast.as_ref().and_then(Forecast::band_with_store).map_or(year, |band| band.high_min_per_year);
        let (bar, tail) = ((place(year) * WIDTH) as usize, (place(high.max(year)) * WIDTH) as usize);
        let _ = writeln!(
            text,
            "  {:5} {}{} {}",
            row.model,
            "█".repeat(bar),
            "░".repeat(tail.saturating_sub(bar)),
            minutes(year)
        );
    }
    text.push_str("        minutes down per year, logarithmic; lighter: up to the 95th percentile\n");
    text
}

/// The same plot as a picture that stands by itself.
fn svg(service: &str, rows: &[Row]) -> String {
    const WIDTH: f64 = 640.0;
    const LEFT: f64 = 70.0;
    const ROW: f64 = 34.0;
    let span = WIDTH - LEFT - 90.0;
    let height = 70.0 + ROW * rows.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>Redundancy models of {service}: minutes down per year</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"22\" font-weight=\"bold\">{service}: minutes down per year (logarithmic, with the 5–95 % band)</text>\n"
    );
    for power in [-2, 0, 2, 4] {
        let x = LEFT + place(10_f64.powi(power)) * span;
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"34\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"#dddddd\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666666\">{}</text>",
            height - 30.0,
            height - 12.0,
            minutes(10_f64.powi(power))
        );
    }
    for (number, row) in rows.iter().enumerate() {
        let y = 40.0 + ROW * number as f64;
        let weight = if row.is_declared { "bold" } else { "normal" };
        let _ = writeln!(svg, "<text x=\"12\" y=\"{:.1}\" font-weight=\"{weight}\">{}</text>", y + 17.0, row.model);
        let Some(year) = row.minutes_per_year else { continue };
        let bar = place(year) * span;
        let fill = if row.fits { "#3b6ea5" } else { "#a9bdd3" };
        let _ = writeln!(svg, "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{bar:.1}\" height=\"22\" fill=\"{fill}\"/>");
        if let Some(band) = row.forecast.as_ref().and_then(Forecast::band_with_store) {
            let (low, high) = (LEFT + place(band.low_min_per_year) * span, LEFT + place(band.high_min_per_year) * span);
            let middle = y + 11.0;
            let _ = writeln!(
                svg,
                "<line x1=\"{low:.1}\" y1=\"{middle:.1}\" x2=\"{high:.1}\" y2=\"{middle:.1}\" stroke=\"#1b2f45\" stroke-width=\"3\"/>"
            );
        }
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", WIDTH - 80.0, y + 17.0, minutes(year));
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_is_logarithmic_and_ends_where_nothing_is_beyond() {
        assert_eq!(place(0.0), 0.0);
        assert_eq!(place(1e-3), 0.0);
        assert_eq!(place(1e9), 1.0);
        let decade = place(10.0) - place(1.0);
        assert!((place(1000.0) - place(100.0) - decade).abs() < 1e-12);
    }
}
