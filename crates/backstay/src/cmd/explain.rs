//! `explain NODE|SERVICE|LISTENER`: why it is as it is, in the words of the decision itself.

use serde_json::Value;

use crate::cli::ExplainArgs;
use crate::connection::Agent;
use crate::exit_code::Exit;
use crate::output::{Answer, Failure, Output};

/// Shows it.
pub fn run(args: &ExplainArgs, output: Output) -> Answer {
    let subject = &args.subject;
    if subject.is_empty() || !subject.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) {
        return Err(Failure::usage("bad-name", format!("`{subject}` cannot be the name of a node or service")));
    }
    let answer = Agent::find(args.state.state())?.read(&format!("/explain/{subject}"))?;
    if answer["known"].as_bool() == Some(false) {
        let failure = Failure::usage("unknown-name", format!("nothing here is called `{subject}`"));
        let names: Vec<_> = answer["candidates"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        return Err(if names.is_empty() {
            failure
        } else {
            failure.with_help(format!("there is {}", names.join(", ")))
        });
    }
    let lines: Vec<_> = answer["lines"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    output.result(&lines.join("\n"), answer.clone());
    Ok(Exit::Done)
}
