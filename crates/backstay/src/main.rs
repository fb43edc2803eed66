//! `backstay`, the command. It parses the command line, calls the verb and turns its answer into an exit code; each verb is
//! one file under `cmd`.

mod cli;
mod clock;
mod cmd;
mod config_file;
mod connection;
mod exit_code;
mod output;

use std::process::ExitCode;

use clap::FromArgMatches;

use crate::cli::{Cli, NOT_IN_THIS_BUILD};
use crate::exit_code::Exit;
use crate::output::{Answer, Failure, Output};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    let matches = match cli::command().try_get_matches_from(&args) {
        Ok(matches) => matches,
        Err(error) => return bad_usage(&error, &args),
    };
    let json = wants_json(&args);
    if let Some(verb) = matches.subcommand_name().and_then(not_in_this_build) {
        let failure = Failure::usage("not-in-this-build", format!("`backstay {verb}` is not in this build"))
            .with_help("`backstay help` lists what is");
        return finish(Output::new(verb, json), Err(failure));
    }
    match Cli::from_arg_matches(&matches) {
        Ok(cli) => {
            let output = Output::new(cmd::name(&cli.verb), cli.json);
            match cmd::run(cli.verb, output) {
                cmd::Ran::Verb(answer) => finish(output, answer),
                cmd::Ran::Process(code) => code,
            }
        }
        Err(error) => bad_usage(&error, &args),
    }
}

fn finish(output: Output, answer: Answer) -> ExitCode {
    match answer {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

/// Help and version are answers; everything else clap has to say is bad usage.
fn bad_usage(error: &clap::Error, args: &[std::ffi::OsString]) -> ExitCode {
    // Nobody reads any more: there is nobody left to tell.
    let _ = error.print();
    if !error.use_stderr() {
        return Exit::Done.into();
    }
    if wants_json(args) {
        let text = error.render().to_string();
        // The first paragraph says what is wrong; the rest is how to use it.
        let lines: Vec<_> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
        let message = lines.join(" ");
        let failure = Failure::usage("usage", message.strip_prefix("error: ").unwrap_or(&message))
            .with_help("`backstay help` lists the verbs and their options");
        Output::new(verb_named(args), true).json_failure(&failure);
    }
    Exit::Usage.into()
}

fn not_in_this_build(verb: &str) -> Option<&'static str> {
    NOT_IN_THIS_BUILD.into_iter().find(|known| *known == verb)
}

/// Known before the command line makes sense, so that a script gets its object for bad usage too. What follows `--` belongs
/// to somebody else.
fn wants_json(args: &[std::ffi::OsString]) -> bool {
    args.iter().skip(1).take_while(|arg| *arg != "--").any(|arg| arg == "--json")
}

fn verb_named(args: &[std::ffi::OsString]) -> &'static str {
    let first = args.iter().skip(1).find(|arg| !arg.as_encoded_bytes().starts_with(b"-"));
    first.and_then(|arg| arg.to_str()).and_then(cmd::verb_named).unwrap_or("usage")
}
