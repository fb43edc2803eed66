//! `cargo xtask tidy`: what a compiler does not see. The architecture as a table, and the house rules.
//!
//! Every breach says where, which rule, why the rule exists and what to do. It must stay under two seconds, so that it is run
//! before every commit and not only by the machine that tests.

mod manifest;
mod ratchet;
mod rules;
mod source;
mod tables;

use std::path::{Path, PathBuf};

use rules::Breach;
use source::Source;

use crate::process::{self, Tally};

/// What was found in the whole tree.
#[derive(Default)]
struct Findings {
    breaches: Vec<Breach>,
    warnings: Vec<Breach>,
    panics: ratchet::Counts,
    files: usize,
}

/// Checks the tree under `root`; with `lower`, commits lower numbers of the ratchet first.
pub fn run(root: &Path, lower: bool) -> Result<Tally, String> {
    let mut findings = read_tree(root)?;
    findings.breaches.extend(manifest::check_graph(&process::dependency_tree(root)?));
    hold_ratchet(root, lower, &mut findings)?;

    for warning in &findings.warnings {
        eprintln!("warning: {}", render(warning));
    }
    findings.breaches.sort_by(|a, b| (a.rule.name, &a.path, a.line).cmp(&(b.rule.name, &b.path, b.line)));
    for breach in &findings.breaches {
        eprintln!("error: {}", render(breach));
    }
    let (files, count) = (findings.files, findings.breaches.len());
    println!("tidy: {files} files, {count} breaches, {} warnings", findings.warnings.len());
    Ok(Tally::check(count == 0))
}

fn render(breach: &Breach) -> String {
    let place = if breach.line == 0 { breach.path.clone() } else { format!("{}:{}", breach.path, breach.line) };
    let rule = breach.rule;
    format!("{place}: [{}] {}\n  why: {}\n  do:  {}", rule.name, breach.what, rule.why, rule.fix)
}

fn read_tree(root: &Path) -> Result<Findings, String> {
    let mut findings = Findings::default();
    for path in text_files(root)? {
        let full = root.join(&path);
        let text =
            std::fs::read_to_string(&full).map_err(|error| format!("cannot read {}: {error}", full.display()))?;
        findings.files += 1;
        check_file(&path, &text, &mut findings);
    }
    Ok(findings)
}

fn check_file(path: &str, text: &str, findings: &mut Findings) {
    findings.breaches.extend(rules::check_machine_paths(path, text));
    if let Some(dir) = path.strip_suffix("/Cargo.toml") {
        findings.breaches.extend(manifest::check_manifest(path, dir.trim_start_matches("crates/"), text));
    } else if path.ends_with(".md") {
        findings.breaches.extend(rules::check_page(path, text));
    } else if path.ends_with(".rs") {
        let source = Source::new(path, text);
        findings.breaches.extend(rules::check_source(&source));
        findings.warnings.extend(rules::long_file(&source));
        *findings.panics.entry(source.crate_dir().to_owned()).or_default() += rules::panics(&source);
    }
}

fn hold_ratchet(root: &Path, lower: bool, findings: &mut Findings) -> Result<(), String> {
    let file = root.join(tables::RATCHET_FILE);
    let cannot = |error: std::io::Error| format!("cannot use {}: {error}", file.display());
    let committed = ratchet::parse(&std::fs::read_to_string(&file).map_err(cannot)?)?;
    let next = ratchet::lowered(&committed, &findings.panics);
    if lower {
        std::fs::write(&file, ratchet::render(&next)).map_err(cannot)?;
    } else if next != committed {
        println!("note: {} can be tightened: cargo xtask tidy --ratchet", tables::RATCHET_FILE);
    }
    findings.breaches.extend(ratchet::check(&committed, &findings.panics));
    Ok(())
}

const TEXT_ENDINGS: &[&str] = &["rs", "toml", "md", "sh", "py", "txt", "json", "html", "css", "js", "service"];
/// Hidden directories that are part of the project.
const HIDDEN_DIRS: &[&str] = &[".ci", ".config", ".cargo", ".github"];

/// The text files of the project, by their path from `root`, in order.
fn text_files(root: &Path) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        let cannot = |error: std::io::Error| format!("cannot list {}: {error}", dir.display());
        for entry in std::fs::read_dir(&dir).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().map_err(cannot)?;
            let hidden = name.starts_with('.') && !HIDDEN_DIRS.contains(&name.as_str());
            if kind.is_dir() && !hidden && name != "target" {
                open.push(entry.path());
            } else if kind.is_file() && is_text(&dir, &name) {
                let path = entry.path();
                let relative = path.strip_prefix(root).map_err(|error| format!("{}: {error}", path.display()))?;
                found.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_text(dir: &Path, name: &str) -> bool {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending);
    ending.is_some_and(|ending| TEXT_ENDINGS.contains(&ending)) || dir.file_name().is_some_and(|dir| dir == ".ci")
}
