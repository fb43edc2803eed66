//! `drain NODE`: moves everything off a node before work on it; `--undo` lets it hold roles again.

use serde_json::{Value, json};

use crate::cli::DrainArgs;
use crate::connection::Agent;
use crate::exit_code::Exit;
use crate::output::{Answer, Failure, Output};

/// Asks for it and says what is left.
pub fn run(args: &DrainArgs, output: Output) -> Answer {
    let node = &args.node;
    let answer = Agent::find(args.state.state())?.change("/drain", json!({ "node": node, "undo": args.undo }))?;
    let is = |field: &str| answer[field].as_bool().unwrap_or(false);
    if !is("accepted") {
        let why = answer["why"].as_str().unwrap_or("no reason was given");
        let failure = Failure::new(Exit::Refused, "refused", format!("{node} is as it was: {why}"));
        return Err(failure.with_help(format!("`backstay explain {node}` says what is in the way")));
    }
    if args.undo {
        output.result(&format!("{node} may hold roles again"), answer);
        return Ok(Exit::Done);
    }
    let remaining: Vec<_> = answer["remaining"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if is("done") {
        let text = format!("drained: nothing is left on {node}\n  undo: backstay drain {node} --undo");
        output.result(&text, answer);
        return Ok(Exit::Done);
    }
    let text = format!(
        "draining {node}: still there: {}\n  it goes on; `backstay explain {node}` says what it waits for",
        if remaining.is_empty() { "unknown".to_owned() } else { remaining.join(", ") }
    );
    output.result(&text, answer);
    Ok(Exit::GoalNotMet)
}
