//! Kinds whose question is a file: domains within domains, and what has to fail together.

use std::path::Path;

use backstay_planner::predict::fault_tree::{FaultTree, FaultTreeError, Importance};
use backstay_planner::predict::{Domain, HOURS_PER_YEAR, OutOfRange, Tree};
use serde_json::{Map, Value, json};

use super::Estimate;
use super::files::{self, FaultTreeFile, Probability, TreeFile};
use super::text::{Table, brief, minutes};
use crate::output::Failure;

/// Cut sets and events that are shown to people.
const SHOWN: usize = 10;

/// Hosts in racks in sites.
pub fn tree(path: &Path) -> Result<Estimate, Failure> {
    let file: TreeFile = files::read(path)?;
    let in_file = |error: OutOfRange| Failure::usage("out-of-range", format!("{}: {}", path.display(), named(error)));
    let (tree, names) = build(&file).map_err(in_file)?;
    let solved = tree.downtime(file.need).map_err(in_file)?;
    let downtime = solved.downtime;
    let mut worst: Vec<_> = names.iter().zip(&solved.effects).collect();
    worst.sort_by(|a, b| b.1.criticality.total_cmp(&a.1.criticality));
    let spofs: Vec<_> = names.iter().zip(&solved.effects).filter(|(_, effect)| effect.is_spof).map(|of| of.0).collect();
    let mut table = Table::default().unavailability("downtime", downtime.unavailability).outages(&downtime);
    table = match spofs.len() {
        0 => table.line("single points", "none", "no domain alone takes it down"),
        some => table.line("single points", some.to_string(), list(spofs.iter().map(|name| name.as_str()), some)),
    };
    for (name, effect) in worst.iter().take(3).filter(|(_, effect)| effect.criticality > 0.0) {
        table = table.line(
            format!("  {name}"),
            format!("{} %", brief(effect.criticality * 100.0)),
            "of the downtime goes with it",
        );
    }
    let criticality: Map<_, _> =
        worst.iter().map(|(name, effect)| ((*name).clone(), json!(effect.criticality))).collect();
    Ok(Estimate {
        answer: json!({
            "U": downtime.unavailability,
            "outages_per_year": downtime.outages_per_year(),
            "mean_outage_h": downtime.mean_outage_h(),
            "downtime_min_per_year": downtime.minutes_per_year(),
            "spofs": spofs,
            "units": tree.units(),
            "criticality": criticality,
        }),
        inputs: json!(file),
        table: table
            .assuming(format!(
                "a year of {HOURS_PER_YEAR} h; domains fail independently, and take with them all in them"
            ))
            .assuming(format!("{} of {} hosts must work; every failure is repaired at once", file.need, tree.units()))
            .assuming("S1 is the second site, R1.0 its first rack, H1.0.2 the third host in that"),
    })
}

/// Sites, racks in them, hosts in these, each with a name.
fn build(file: &TreeFile) -> Result<(Tree, Vec<String>), OutOfRange> {
    let (mut tree, mut names) = (Tree::default(), Vec::new());
    let mut add = |name: String, parent, unavailability, mttr_h, units| {
        let number = tree.add(Domain { parent, unavailability, mttr_h, units })?;
        names.push(name);
        Ok(Some(number))
    };
    for (s, racks) in file.layout_hosts_per_rack_per_site.iter().enumerate() {
        let site = add(format!("S{s}"), None, file.u_site, file.mttr_h.site, 0)?;
        for (r, hosts) in racks.iter().enumerate() {
            let rack = add(format!("R{s}.{r}"), site, file.u_rack, file.mttr_h.rack, 0)?;
            for h in 0..*hosts {
                add(format!("H{s}.{r}.{h}"), rack, file.u_host, file.mttr_h.host, 1)?;
            }
        }
    }
    Ok((tree, names))
}

/// The planner's words in those of the file.
fn named(error: OutOfRange) -> OutOfRange {
    let what = match error.what.as_str() {
        "need" => "N".to_owned(),
        "units" => "the number of hosts".to_owned(),
        same => same.to_owned(),
    };
    OutOfRange { what, ..error }
}

/// What has to fail together.
pub fn fault_tree(path: &Path, limit: usize) -> Result<Estimate, Failure> {
    let file: FaultTreeFile = files::read(path)?;
    let p = file.p.iter().map(|(event, Probability(p))| (event.clone(), *p)).collect();
    let wrong = |error: FaultTreeError| {
        let mut failure = Failure::usage("bad-formula", format!("{}: {error}", path.display()));
        if let FaultTreeError::Syntax { gate, column, message } = error {
            failure.fields.insert(
                "errors".to_owned(),
                json!([{ "file": path.display().to_string(), "gate": gate, "column": column, "message": message }]),
            );
        }
        failure
    };
    let solved = FaultTree::parse(&file.top, &file.gates, &p).and_then(|tree| tree.solve(limit)).map_err(wrong)?;
    let sets = &solved.cut_sets;
    let mut worst: Vec<_> = solved.importance.iter().collect();
    worst.sort_by(|a, b| b.1.cif.total_cmp(&a.1.cif));
    let mut table = Table::default()
        .line("top", brief(solved.probability), format!("{} if it is a part of the time", minutes(solved.probability)))
        .line(
            "cut sets",
            sets.total().to_string(),
            format!("{} with one event, listed with --json", solved.spofs.len()),
        );
    if !solved.spofs.is_empty() {
        let names = list(solved.spofs.iter().map(String::as_str), solved.spofs.len());
        table = table.line("single points", solved.spofs.len().to_string(), names);
    }
    for (event, importance) in worst.iter().take(SHOWN).filter(|(_, importance)| importance.cif > 0.0) {
        let remark = format!("goes with it; {} times as likely once it has happened", brief(importance.raw));
        table = table.line(format!("  {event}"), format!("{} %", brief(importance.cif * 100.0)), remark);
    }
    let importance: Map<_, _> = solved.importance.iter().map(|(event, of)| (event.clone(), measures(of))).collect();
    let by_order: Vec<_> = sets.by_order.iter().map(|sets| number(*sets)).collect();
    Ok(Estimate {
        answer: json!({
            "Q": solved.probability,
            "mcs": sets.listed,
            "mcs_total": number(sets.total()),
            "mcs_by_order": by_order,
            "spofs": solved.spofs,
            "importance": importance,
            "nodes": solved.nodes,
        }),
        inputs: json!(file),
        table: table
            .assuming("events are independent; what several paths share is counted once")
            .assuming("the probability is exact: no rare-event sum, no bound"),
    })
}

fn measures(of: &Importance) -> Value {
    json!({ "MIF": of.mif, "CIF": of.cif, "DIF": of.dif, "RAW": of.raw, "RRW": of.rrw })
}

/// Numbers of sets leave the range in which JSON readers agree.
fn number(sets: u128) -> Value {
    u64::try_from(sets).map_or_else(|_| json!(sets as f64), |sets| json!(sets))
}

/// The first few names, and how many more there are.
fn list<'a>(names: impl Iterator<Item = &'a str>, count: usize) -> String {
    let shown: Vec<_> = names.take(SHOWN).collect();
    let more = if count > SHOWN { format!(", … and {} more", count - SHOWN) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}
