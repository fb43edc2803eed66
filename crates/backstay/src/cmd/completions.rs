//! `completions SHELL`: a script that the shell sources.

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use crate::cli::Cli;
use crate::exit_code::Exit;
use crate::output::{Answer, Output};

/// Prints the script.
pub fn run(shell: Shell, output: Output) -> Answer {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "backstay", &mut script);
    let script = String::from_utf8_lossy(&script);
    output.result(&script, json!({ "shell": shell.to_string(), "script": script }));
    Ok(Exit::Done)
}
