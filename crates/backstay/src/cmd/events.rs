//! `events`: what was decided lately, and why.

use serde_json::Value;

use crate::cli::EventsArgs;
use crate::connection::Agent;
use crate::exit_code::Exit;
use crate::output::{Answer, Output, age_text};

/// Shows the newest events, the newest last.
pub fn run(args: &EventsArgs, output: Output) -> Answer {
    let mut answer = Agent::find(args.state.state())?.read("/events")?;
    if let Some(events) = answer["events"].as_array_mut() {
        // The agent's order is not relied upon: the oldest first, as in a log.
        events.sort_by_key(|event| std::cmp::Reverse(event["age_ms"].as_u64().unwrap_or(u64::MAX)));
        let more_than_asked = events.len().saturating_sub(args.last);
        events.drain(..more_than_asked);
    }
    let lines: Vec<_> = answer["events"].as_array().into_iter().flatten().map(line).collect();
    let text = if lines.is_empty() { "nothing has happened yet".to_owned() } else { lines.join("\n") };
    output.result(&text, answer);
    Ok(Exit::Done)
}

fn line(event: &Value) -> String {
    let age = event["age_ms"].as_u64().map_or_else(|| "?".to_owned(), age_text);
    let generation = event["generation"].to_string();
    format!("{age:>7} ago  goal {generation:<6} {}", event["text"].as_str().unwrap_or_default())
}
