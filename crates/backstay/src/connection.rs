//! The way to the agent of this machine: its socket in a state directory, and what its refusals mean for exit codes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use backstay_agent::api::{ApiClient, ApiError};
use backstay_agent::local;
use serde_json::Value;

use crate::exit_code::Exit;
use crate::output::Failure;

/// How long a question may take: an agent answers from memory, without asking its peers.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request for change may take: the agent waits for its effect, and gives up well before this.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// HTTP statuses that the agent uses with a meaning of their own.
const BAD_REQUEST: u16 = 400;
const NOT_FOUND: u16 = 404;
const CONFLICT: u16 = 409;
const UNPROCESSABLE: u16 = 422;
const UNAVAILABLE: u16 = 503;
/// The code of an error whose effect may or may not have happened.
const OUTCOME_UNKNOWN: &str = "unknown-outcome";

/// The agent that keeps its state in one directory.
#[derive(Debug)]
pub struct Agent {
    state: PathBuf,
}

impl Agent {
    /// The agent of the directory named, or of the only one on this machine.
    pub fn find(named: Option<&Path>) -> Result<Self, Failure> {
        let state = match named {
            Some(state) => state.to_owned(),
            None => local::find_state_dir().map_err(|error| match error {
                local::LocalError::SeveralStates { .. } => Failure::usage("several-agents", error.to_string()),
                error => Failure::unexpected("no-agent", error.to_string()),
            })?,
        };
        Ok(Self { state })
    }

    /// The agent of a directory.
    pub fn in_state(state: &Path) -> Self {
        Self { state: state.to_owned() }
    }

    /// Asks something that changes nothing.
    pub fn read(&self, path: &str) -> Result<Value, Failure> {
        self.call("GET", path, None, READ_TIMEOUT)
    }

    /// Asks for a change. An answer that never came leaves the result unknown: it is never tried again by itself.
    pub fn change(&self, path: &str, body: Value) -> Result<Value, Failure> {
        self.call("POST", path, Some(body), WRITE_TIMEOUT)
    }

    fn call(&self, method: &str, path: &str, body: Option<Value>, within: Duration) -> Result<Value, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::unexpected("runtime", format!("cannot start a runtime: {error}")))?;
        let answer = runtime.block_on(ApiClient::call(&self.state, method, path, body, within));
        answer.map_err(|error| failure(&error, method == "GET"))
    }
}

/// What an error of the socket means. Once a change was sent, no answer means that its result is not known.
fn failure(error: &ApiError, is_read: bool) -> Failure {
    let lost = if is_read { Exit::Unexpected } else { Exit::ResultUnknown };
    match error {
        ApiError::Refused { status, message, answer } => refusal(*status, message, answer),
        ApiError::Timeout { .. } | ApiError::Broken { .. } => Failure::new(lost, "no-answer", error.to_string())
            .with_help(if is_read { "try again" } else { "`backstay status` shows whether it happened" }),
        ApiError::PathTooLong { .. } => Failure::usage("path-too-long", error.to_string()),
        ApiError::NoAgent { .. } => Failure::unexpected("no-agent", error.to_string()),
        ApiError::Denied { .. } => Failure::unexpected("denied", error.to_string()),
        _ => Failure::unexpected("api", error.to_string()),
    }
}

/// `{error: {code, message, help}}` with an HTTP status.
fn refusal(status: u16, message: &str, answer: &Value) -> Failure {
    let error = &answer["error"];
    let code = error["code"].as_str().unwrap_or("refused");
    let exit = match status {
        CONFLICT => Exit::Refused,
        BAD_REQUEST | NOT_FOUND | UNPROCESSABLE => Exit::Usage,
        UNAVAILABLE if code == OUTCOME_UNKNOWN => Exit::ResultUnknown,
        UNAVAILABLE => Exit::Outage,
        _ => Exit::Unexpected,
    };
    let mut failure = Failure::new(exit, code, error["message"].as_str().unwrap_or(message));
    failure.help = error["help"].as_str().map(str::to_owned);
    if let Some(errors) = answer.get("errors") {
        failure.fields.insert("errors".to_owned(), errors.clone());
    }
    failure
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(status: u16, code: &str) -> Exit {
        let answer = json!({ "error": { "code": code, "message": "why", "help": "what next" } });
        let failure = refusal(status, "raw", &answer);
        assert_eq!((failure.message.as_str(), failure.help.as_deref()), ("why", Some("what next")));
        failure.exit
    }

    #[test]
    fn refusals_become_exit_codes() {
        assert_eq!(refused(409, "hash-moved"), Exit::Refused);
        assert_eq!(refused(422, "bad-file"), Exit::Usage);
        assert_eq!(refused(503, "no-quorum"), Exit::Outage);
        assert_eq!(refused(503, "unknown-outcome"), Exit::ResultUnknown);
        assert_eq!(refused(500, "internal"), Exit::Unexpected);
    }

    #[test]
    fn a_change_that_got_no_answer_is_unknown_and_a_question_only_failed() {
        let lost = ApiError::Timeout { path: "/s".into(), waited: Duration::from_secs(1) };
        assert_eq!(failure(&lost, true).exit, Exit::Unexpected);
        assert_eq!(failure(&lost, false).exit, Exit::ResultUnknown);
        let nobody = ApiError::NoAgent { path: "/s".into() };
        assert_eq!(failure(&nobody, false).exit, Exit::Unexpected, "nothing was sent, so nothing happened");
    }
}
