//! `status`: how the cluster is, on one screen, trouble first.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cli::StateArgs;
use crate::connection::Agent;
use crate::exit_code::Exit;
use crate::output::{Answer, Failure, Output, age_text};

/// The screen that the answer fits.
const COLUMNS: usize = 80;
const ROWS: usize = 24;
/// Trouble and notes beyond this many say nothing that `explain` does not say better.
const TROUBLE_MAX: usize = 4;
const NOTES_MAX: usize = 3;
/// Domains named that must not fail.
const MUST_NOT_SHOWN: usize = 2;

/// Shows it; the exit code says it too.
pub fn run(args: &StateArgs, output: Output) -> Answer {
    let status = Agent::find(args.state())?.read("/status")?;
    let exit = match text(&status, "health") {
        "healthy" => Exit::Done,
        "degraded" => Exit::GoalNotMet,
        "outage" => Exit::Outage,
        other => {
            let message = format!("the agent says `{other}`, which is no health this command knows");
            return Err(Failure::unexpected("bad-answer", message).with_help("use the `backstay` that the agent runs"));
        }
    };
    output.result(&screen(&status), status);
    Ok(exit)
}

/// The whole answer for people.
pub fn screen(status: &Value) -> String {
    let mut head = vec![first_line(status)];
    head.extend(may_fail(status));
    head.extend(sentences(status, "trouble", "  ! ", TROUBLE_MAX));
    let mut lists = [nodes(status), services(status), listeners(status)];
    let notes = sentences(status, "notes", "  note: ", NOTES_MAX);
    fit(&mut lists, ROWS.saturating_sub(head.len() + notes.len() + 1));
    let lines = head.into_iter().chain(lists.into_iter().flat_map(|list| list.rows)).chain(notes);
    lines.map(|line| clipped(&line)).collect::<Vec<_>>().join("\n")
}

fn first_line(status: &Value) -> String {
    let age = status["age_ms"].as_u64().map_or_else(|| "age unknown".to_owned(), |ms| format!("{} old", age_text(ms)));
    let quorum = if status["quorum"].as_bool().unwrap_or(false) { "quorum" } else { "NO QUORUM" };
    let coordinator = status["coordinator"].as_str().unwrap_or("nobody");
    let mut line = format!(
        "{}  {}  {quorum} · coordinator {coordinator} · {age}",
        text(status, "cluster"),
        text(status, "health").to_uppercase(),
    );
    if let Some(next) = status["next"].as_str().filter(|next| !next.is_empty()) {
        line.push_str(&format!(" · {next}"));
    }
    line
}

/// What may fail now; `plan --live` says the rest.
fn may_fail(status: &Value) -> Option<String> {
    let must_not: Vec<_> = status["must_not_fail"].as_array()?.iter().filter_map(Value::as_str).collect();
    Some(match must_not.is_empty() {
        true => "any single node may fail".to_owned(),
        // The first few are enough to see; the plan has all of them.
        false => match must_not.len().saturating_sub(MUST_NOT_SHOWN) {
            0 => format!("MUST NOT FAIL now: {} · backstay plan --live", must_not.join(", ")),
            more => {
                let shown = must_not[..MUST_NOT_SHOWN].join(", ");
                format!("MUST NOT FAIL now: {shown}, {more} more · backstay plan --live")
            }
        },
    })
}

fn sentences(status: &Value, field: &str, before: &str, most: usize) -> Vec<String> {
    let all: Vec<_> = items(status, field).iter().filter_map(Value::as_str).collect();
    let mut lines: Vec<_> = all.iter().take(most).flat_map(|sentence| wrapped(before, sentence)).collect();
    if all.len() > most {
        lines.push(format!("{before}{} more, see --json", all.len() - most));
    }
    lines
}

/// A sentence on at most two lines; the rest is in `--json`.
fn wrapped(before: &str, sentence: &str) -> Vec<String> {
    let room = COLUMNS - before.chars().count();
    if sentence.chars().count() <= room {
        return vec![format!("{before}{sentence}")];
    }
    let cut = sentence.char_indices().take(room).filter(|(_, c)| *c == ' ').last().map(|(at, _)| at);
    let (first, rest) = sentence.split_at(cut.unwrap_or_else(|| sentence.floor_char_boundary(room)));
    vec![format!("{before}{first}"), format!("{:indent$}{}", "", rest.trim_start(), indent = before.chars().count())]
}

/// A heading and rows, those that need a look first.
struct List {
    rows: Vec<String>,
    left_out: usize,
    what: &'static str,
}

impl List {
    fn new(what: &'static str, heading: String, mut rows: Vec<(bool, String)>) -> Self {
        rows.sort_by_key(|(is_well, _)| *is_well);
        let rows = match rows.is_empty() {
            true => Vec::new(),
            false => std::iter::once(heading).chain(rows.into_iter().map(|(_, row)| row)).collect(),
        };
        Self { rows, left_out: 0, what }
    }
}

/// Leaves out the last rows of the longest lists until all fit, and says how many.
fn fit(lists: &mut [List], rows: usize) {
    let lines = |list: &List| list.rows.len() + usize::from(list.left_out > 0);
    while lists.iter().map(lines).sum::<usize>() > rows {
        let Some(longest) = lists.iter_mut().filter(|list| list.rows.len() > 2).max_by_key(|list| list.rows.len())
        else {
            break;
        };
        longest.rows.pop();
        longest.left_out += 1;
    }
    for list in lists.iter_mut().filter(|list| list.left_out > 0) {
        list.rows.push(format!("  … {} more {}, see --json", list.left_out, list.what));
    }
}

fn nodes(status: &Value) -> List {
    let rows = items(status, "nodes").iter().map(|node| {
        let seen = node["seen_ms"].as_u64();
        let roles = roles(node);
        let voter = if node["voter"].as_bool().unwrap_or(false) { "votes" } else { "" };
        let seen_text = seen.map_or_else(|| "never".to_owned(), age_text);
        (
            seen.is_some_and(|ms| ms < SEEN_LATELY_MS),
            format!("{:<14}{seen_text:<8}{voter:<7}{roles}", text(node, "name")),
        )
    });
    List::new("nodes", format!("{:<14}{:<8}{:<7}ROLES", "NODE", "SEEN", "VOTER"), rows.collect())
}

/// What is held in words, the rest as counts: the services below say which.
fn roles(node: &Value) -> String {
    let mut parts = Vec::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for role in items(node, "roles").iter().filter_map(Value::as_str) {
        match role.rsplit_once(' ') {
            Some((_, kind)) if kind != "primary" => *counts.entry(kind).or_default() += 1,
            _ => parts.push(role.to_owned()),
        }
    }
    parts.extend(counts.into_iter().map(|(kind, n)| format!("{n} {kind}")));
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

/// A node not seen for longer is worth a look.
const SEEN_LATELY_MS: u64 = 2_000;

fn services(status: &Value) -> List {
    let rows = items(status, "services").iter().map(|service| {
        let mut is_well = true;
        let mut instances = Vec::new();
        for instance in items(service, "instances") {
            let state = text(instance, "state");
            // Running is what one expects; anything else is said.
            let fine = matches!(state, "running" | "prepared");
            is_well &= fine;
            let state = if state == "running" { String::new() } else { format!(" ({state})") };
            instances.push(format!("{} {}{state}", text(instance, "node"), text(instance, "role")));
        }
        let instances = if instances.is_empty() { "no instance".to_owned() } else { instances.join(" · ") };
        (is_well, format!("{:<14}{instances}", service_name(service)))
    });
    List::new("services", format!("{:<14}INSTANCES", "SERVICE"), rows.collect())
}

/// `app.web`, whether the answer's name holds the kind or not.
fn service_name(service: &Value) -> String {
    let (kind, name) = (text(service, "kind"), text(service, "name"));
    if name.contains('.') || kind.is_empty() { name.to_owned() } else { format!("{kind}.{name}") }
}

fn listeners(status: &Value) -> List {
    let rows = items(status, "listeners").iter().map(|listener| {
        let up = listener["backends_up"].as_u64();
        let holder = listener["vip_holder"].as_str().unwrap_or("-");
        let up_text = up.map_or_else(|| "unknown".to_owned(), |up| up.to_string());
        (up.is_some_and(|up| up > 0), format!("{:<14}{holder:<15}{up_text}", text(listener, "name")))
    });
    List::new("listeners", format!("{:<14}{:<15}BACKENDS UP", "LISTENER", "ADDRESS ON"), rows.collect())
}

fn items<'a>(of: &'a Value, field: &str) -> &'a [Value] {
    of[field].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of[field].as_str().unwrap_or_default()
}

fn clipped(line: &str) -> String {
    if line.chars().count() <= COLUMNS {
        return line.to_owned();
    }
    line.chars().take(COLUMNS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn large(nodes: usize) -> Value {
        let nodes: Vec<_> = (0..nodes)
            .map(|n| {
                let seen = if n == 7 { 41_000 } else { 300 };
                json!({ "name": format!("db{n}"), "seen_ms": seen, "voter": n < 5, "roles": ["app.web active"] })
            })
            .collect();
        let services: Vec<_> = (0..12)
            .map(|n| json!({ "name": format!("s{n}"), "kind": "app", "instances": [{"node": "db1", "role": "active", "state": "running"}] }))
            .collect();
        json!({
            "cluster": "shop", "health": "degraded", "quorum": true, "coordinator": "db1", "age_ms": 250,
            "nodes": nodes, "services": services, "listeners": [{ "name": "front", "vip_holder": "db2", "backends_up": 2 }],
            "must_not_fail": ["node db1", "node db2"],
            "next": "backstay explain db7", "trouble": vec!["db7 was not seen for 41 s: its machine, its network or its agent may be down; look there first"; 6],
        })
    }

    #[test]
    fn any_cluster_fits_one_screen_with_trouble_first() {
        for nodes in [1, 3, 20] {
            let screen = screen(&large(nodes));
            let lines: Vec<_> = screen.lines().collect();
            assert!(lines.len() <= ROWS, "{screen}");
            assert!(lines.iter().all(|line| line.chars().count() <= COLUMNS), "{screen}");
            assert!(lines[0].contains("DEGRADED") && lines[0].contains("backstay explain db7"), "{screen}");
            assert!(lines[1].starts_with("MUST NOT FAIL now: node db1, node db2"), "{screen}");
            assert!(lines[2].contains("db7 was not seen"), "{screen}");
            assert!(screen.contains("front         db2"), "{screen}");
        }
        assert!(screen(&large(20)).contains("\ndb7           41 s"), "a node that needs a look is never left out");
    }

    #[test]
    fn what_a_node_holds_is_named_and_the_rest_counted() {
        let node =
            json!({ "roles": ["coordinator", "app.till primary", "app.web active", "app.api active", "app.x spare"] });
        assert_eq!(roles(&node), "coordinator, app.till primary, 2 active, 1 spare");
        assert_eq!(roles(&json!({})), "-");
    }

    #[test]
    fn an_answer_of_another_shape_is_shown_as_far_as_it_goes() {
        assert!(screen(&json!({})).contains("NO QUORUM"));
    }
}
