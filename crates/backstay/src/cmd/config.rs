//! `config …`: everything about the file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use backstay_model::ServiceKind;
use backstay_spec::{Change, Diagnostic, Severity, Spec};
use serde_json::{Value, json};

use crate::cli::{ConfigVerb, FileArgs, StateArgs};
use crate::config_file::ConfigFile;
use crate::connection::Agent;
use crate::exit_code::Exit;
use crate::output::{Answer, Failure, Output, counted};

/// Does what was asked about the file.
pub fn run(verb: ConfigVerb, output: Output) -> Answer {
    match verb {
        ConfigVerb::Check(file) => check(&file, output),
        ConfigVerb::Fmt { file, check } => fmt(&file, check, output),
        ConfigVerb::Schema => schema(output),
        ConfigVerb::Diff { file, state } => diff(&file, &state, output),
        ConfigVerb::Apply { file, state, yes } => apply(&file, &state, yes, output),
    }
}

/// Everything there is to say about the file, all at once.
fn check(args: &FileArgs, output: Output) -> Answer {
    let file = match ConfigFile::read(args.named()) {
        Ok(file) => file,
        Err(mut failure) => {
            failure.fields.insert("ok".to_owned(), json!(false));
            failure.fields.entry("errors").or_insert_with(|| json!([]));
            failure.fields.insert("warnings".to_owned(), json!([]));
            return Err(failure);
        }
    };
    let mut diagnostics = file.parsed.diagnostics.clone();
    if let Some(spec) = &file.parsed.spec {
        // The file is right all the same; only `agent` and `apply` refuse it.
        diagnostics.extend(
            backstay_spec::not_in_this_build(&file.name, &file.text, spec)
                .into_iter()
                .map(|diagnostic| Diagnostic { severity: Severity::Warning, ..diagnostic }),
        );
        diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
    }
    let render = if output.is_coloured() { backstay_spec::render_coloured } else { backstay_spec::render };
    let mut text = render(&file.name, &file.text, &diagnostics);
    if let Some(spec) = &file.parsed.spec {
        text.push_str(&summary(&file.name, spec));
    }
    let (errors, warnings): (Vec<_>, Vec<_>) =
        diagnostics.iter().partition(|diagnostic| diagnostic.severity == Severity::Error);
    output.result(&text, json!({ "ok": errors.is_empty(), "errors": errors, "warnings": warnings }));
    Ok(if errors.is_empty() { Exit::Done } else { Exit::Usage })
}

/// What the file holds, and what follows from it without being written in it.
fn summary(name: &str, spec: &Spec) -> String {
    let mut kinds: BTreeMap<ServiceKind, usize> = BTreeMap::new();
    for service in spec.services.keys() {
        *kinds.entry(service.kind).or_default() += 1;
    }
    let mut parts = vec![counted(spec.nodes.len(), "node")];
    let counts = [
        (kinds.get(&ServiceKind::Postgres).copied().unwrap_or(0), "database"),
        (kinds.get(&ServiceKind::App).copied().unwrap_or(0), "app"),
        (spec.listeners.len(), "listener"),
        (spec.backups.len(), "backup"),
    ];
    parts.extend(counts.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| counted(n, what)));
    let voters = spec.voters();
    let names: Vec<_> = voters.iter().map(|node| node.as_str()).collect();
    let quorum = voters.len() / 2 + 1;
    let alone = if voters.len() == 1 { " (a single point of failure)" } else { "" };
    format!(
        "ok: {name}  {}\n  derived  quorum {quorum} of {}: {}{alone}\n",
        parts.join(", "),
        voters.len(),
        names.join(", ")
    )
}

/// Lays the file out evenly, in place.
fn fmt(args: &FileArgs, check: bool, output: Output) -> Answer {
    let file = ConfigFile::read(args.named())?;
    let tidy = backstay_spec::fmt(&file.text).map_err(|diagnostics| {
        let rendered = backstay_spec::render(&file.name, &file.text, &diagnostics);
        Failure::usage("bad-file", format!("{} is not TOML\n{}", file.name, rendered.trim_end()))
    })?;
    let changed = tidy != file.text;
    if changed && !check {
        replace(&file.path, &tidy)
            .map_err(|error| Failure::unexpected("write", format!("cannot write {}: {error}", file.name)))?;
    }
    let text = match (changed, check) {
        (false, _) => "is laid out evenly already",
        (true, true) => "would change",
        (true, false) => "was laid out anew",
    };
    output.result(&format!("{} {text}", file.name), json!({ "file": file.name, "changed": changed }));
    Ok(if changed && check { Exit::GoalNotMet } else { Exit::Done })
}

/// Replaces a file whole: after a crash it is the old one or the new one. Behind a link, it is the target that is replaced.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let mut partial = path.clone().into_os_string();
    partial.push(format!(".partial-{}", std::process::id()));
    let partial = PathBuf::from(partial);
    let write = || {
        let mut file = File::create_new(&partial)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(fs::metadata(&path)?.permissions())?;
        file.sync_all()?;
        fs::rename(&partial, &path)
    };
    write().inspect_err(|_| {
        // What was begun is of no use.
        let _ = fs::remove_file(&partial);
    })
}

fn schema(output: Output) -> Answer {
    let schema = backstay_spec::schema();
    let value: Value = serde_json::from_str(&schema)
        .map_err(|error| Failure::unexpected("schema", format!("the schema is not JSON: {error}")))?;
    output.result(&schema, json!({ "json_schema": value }));
    Ok(Exit::Done)
}

/// How the file differs from the adopted one.
struct Difference {
    /// Hash of the adopted text, on which it may be swapped.
    adopted_hash: String,
    changes: Vec<Change>,
    /// The texts are the same, comments included.
    is_same_text: bool,
}

fn difference(file: &ConfigFile, agent: &Agent) -> Result<Difference, Failure> {
    let spec = file.spec()?;
    let answer = agent.read("/config")?;
    let adopted_hash = answer["hash"].as_str().unwrap_or_default().to_owned();
    let text = answer["text"].as_str().unwrap_or_default();
    let Some(adopted) = backstay_spec::parse("the adopted file", text).spec else {
        return Err(Failure::new(
            Exit::Outage,
            "nothing-adopted",
            "the agent shows no adopted file that this build can read",
        )
        .with_help("`backstay status` says whether the cluster has a quorum"));
    };
    Ok(Difference { adopted_hash, changes: backstay_spec::diff(&adopted, spec), is_same_text: text == file.text })
}

fn change_lines(changes: &[Change]) -> String {
    let lines = changes.iter().map(|change| match (&change.from, &change.to) {
        (Some(from), Some(to)) => format!("  ~ {}  {from} → {to}", change.path),
        (None, Some(to)) => format!("  + {}  {to}", change.path),
        (Some(from), None) => format!("  - {}  {from}", change.path),
        (None, None) => format!("  ~ {}", change.path),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn diff(args: &FileArgs, state: &StateArgs, output: Output) -> Answer {
    let file = ConfigFile::read(args.named())?;
    file.spec()?;
    let found = difference(&file, &Agent::find(state.state())?)?;
    let text = match (found.changes.is_empty(), found.is_same_text) {
        (true, true) => format!("{} is the adopted file", file.name),
        (true, false) => {
            format!("{} means the same as the adopted file; only its layout or comments differ", file.name)
        }
        (false, _) => format!(
            "{} differs from the adopted file in {}\n{}\n  apply: backstay config apply -c {}",
            file.name,
            counted(found.changes.len(), "place"),
            change_lines(&found.changes),
            file.name
        ),
    };
    let same = found.changes.is_empty();
    output.result(
        &text,
        json!({ "same": same, "same_text": found.is_same_text, "adopted_hash": found.adopted_hash, "changes": found.changes }),
    );
    Ok(if same { Exit::Done } else { Exit::GoalNotMet })
}

fn apply(args: &FileArgs, state: &StateArgs, yes: bool, output: Output) -> Answer {
    let file = ConfigFile::read(args.named())?;
    let spec = file.spec()?;
    refuse_what_cannot_run(&file, spec)?;
    let agent = Agent::find(state.state())?;
    let found = difference(&file, &agent)?;
    if found.is_same_text {
        let answer = json!({ "adopted": true, "hash": found.adopted_hash, "changes": [] });
        output.result(&format!("{} is the adopted file already", file.name), answer);
        return Ok(Exit::Done);
    }
    output.progress(format_args!("{}:\n{}", counted(found.changes.len(), "change"), change_lines(&found.changes)));
    if !yes && io::stdin().is_terminal() && !confirmed("adopt it? [y/N] ") {
        return Err(
            Failure::new(Exit::Refused, "not-confirmed", "nothing was changed").with_help("`--yes` does not ask")
        );
    }
    let body = json!({ "text": file.text, "expected_hash": found.adopted_hash });
    let answer = agent.change("/config/apply", body)?;
    output.result(&format!("adopted: {}", answer["hash"].as_str().unwrap_or_default()), answer);
    Ok(Exit::Done)
}

/// What this build does not run must not become the adopted file: every agent would refuse it.
pub fn refuse_what_cannot_run(file: &ConfigFile, spec: &Spec) -> Result<(), Failure> {
    let refused: Vec<_> = backstay_spec::not_in_this_build(&file.name, &file.text, spec)
        .into_iter()
        .map(|diagnostic| Diagnostic { severity: Severity::Error, ..diagnostic })
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    let rendered = backstay_spec::render(&file.name, &file.text, &refused);
    let message = format!("{} asks for what is not in this build\n{}", file.name, rendered.trim_end());
    let mut failure = Failure::usage("not-in-this-build", message);
    failure.fields.insert("errors".to_owned(), json!(refused));
    Err(failure)
}

/// Asks on the terminal; anything but a clear yes is a no.
fn confirmed(question: &str) -> bool {
    let mut line = String::new();
    let asked = write!(io::stderr(), "{question}").and_then(|()| io::stdin().lock().read_line(&mut line));
    asked.is_ok() && matches!(line.trim(), "y" | "Y" | "yes")
}
