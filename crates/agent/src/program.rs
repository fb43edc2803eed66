//! What a program is told when it is started, and how its end is put into words.

use std::collections::BTreeMap;

use backstay_app::{ExitReason, ExitReport};
use backstay_model::{Generation, Role, Token};

use crate::instance::InstanceConfig;

/// Its environment: what the file gives it, and who it is. Its role is that of its start: it may become active or spare later
/// without being started again.
///
/// # Errors
/// A sentence about a secret that cannot be had.
pub fn environment(
    config: &InstanceConfig,
    port: Option<u16>,
    role: Role,
    token: Option<Token>,
    generation: Generation,
) -> Result<BTreeMap<String, String>, String> {
    let mut env = BTreeMap::new();
    for (name, value) in &config.app.env {
        env.insert(name.clone(), reveal(value).map(|value| fill(&value, config, port))?);
    }
    let told = [
        ("PORT", port.map(|port| port.to_string()).unwrap_or_default()),
        ("BACKSTAY_SERVICE", config.service.to_string()),
        ("BACKSTAY_NODE", config.node.to_string()),
        ("BACKSTAY_ROLE", role.to_string()),
        ("BACKSTAY_GENERATION", generation.0.to_string()),
        ("BACKSTAY_TOKEN", token.map(|token| token.0.to_string()).unwrap_or_default()),
    ];
    env.extend(told.into_iter().filter(|(_, value)| !value.is_empty()).map(|(k, v)| (k.to_owned(), v)));
    Ok(env)
}

/// Replaces what the file may name in arguments: `{addr}`, `{port}`, `{node}`, `{service}`.
pub fn fill(text: &str, config: &InstanceConfig, port: Option<u16>) -> String {
    text.replace("{addr}", &config.address.to_string())
        .replace("{port}", &port.map(|port| port.to_string()).unwrap_or_default())
        .replace("{node}", config.node.as_str())
        .replace("{service}", &config.service.to_string())
}

/// A value of `env`: plain, or a secret named by `file:PATH` or `env:NAME`, so that it never stands in the file.
fn reveal(value: &str) -> Result<String, String> {
    if let Some(path) = value.strip_prefix("file:") {
        let text =
            std::fs::read_to_string(path).map_err(|error| format!("the secret in {path} cannot be read: {error}"))?;
        return Ok(text.trim_end_matches('\n').to_owned());
    }
    match value.strip_prefix("env:") {
        Some(name) => std::env::var(name).map_err(|_| format!("the agent's environment has no `{name}`")),
        None => Ok(value.to_owned()),
    }
}

/// How it ended, as a sentence.
pub fn describe_end(report: &ExitReport) -> String {
    let how = match (report.code, report.signal) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an end that nobody saw".to_owned(),
    };
    match report.reason {
        ExitReason::Exited => format!("it ended by itself with {how}"),
        ExitReason::Deadline => "its guard ended it: the role's deadline had passed".to_owned(),
        ExitReason::Lost => "its guard died, and with it everything inside".to_owned(),
        ExitReason::Stopped | ExitReason::Killed => format!("it was ended, with {how}"),
    }
}
