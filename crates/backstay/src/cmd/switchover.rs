//! `switchover SERVICE --to NODE`: a planned move of a role or an address.

use serde_json::{Value, json};

use crate::cli::SwitchoverArgs;
use crate::connection::Agent;
use crate::exit_code::Exit;
use crate::output::{Answer, Failure, Output};

/// Asks for it and says what came of it.
pub fn run(args: &SwitchoverArgs, output: Output) -> Answer {
    let (subject, to) = (&args.subject, &args.to);
    output.progress(format_args!("asking for {subject} to move to {to} …"));
    let answer = Agent::find(args.state.state())?.change("/switchover", json!({ "subject": subject, "to": to }))?;
    let is = |field: &str| answer[field].as_bool().unwrap_or(false);
    let why = answer["why"].as_str().unwrap_or("no reason was given").to_owned();
    if !is("accepted") || (is("answered") && !is("met")) {
        let message = format!("{subject} stays where it is: {why}");
        return Err(with_answer(Failure::new(Exit::Refused, "refused", message), &answer)
            .with_help(format!("`backstay explain {to}` says what is in the way")));
    }
    if !is("answered") {
        let message = format!("{subject} was asked to move to {to}, but had not answered in time: {why}");
        return Err(with_answer(Failure::new(Exit::ResultUnknown, "not-yet-known", message), &answer)
            .with_help("the request stands; `backstay status` shows where the role is"));
    }
    output.result(&format!("switched: {subject} is on {to}"), answer);
    Ok(Exit::Done)
}

fn with_answer(mut failure: Failure, answer: &Value) -> Failure {
    if let Value::Object(fields) = answer {
        failure.fields.extend(fields.clone());
    }
    failure
}
