//! `demo`: three nodes on this machine, traffic, and the failures that Backstay is for. It measures what clients see, and
//! ends with 0 when every promise held, else with 7.
//!
//! [`stage`] sets everything up and [`watchdog`] clears it away, whatever happens to the demo itself; [`load`] is the
//! traffic, [`story`] the faults in their order, [`report`] the verdict.

mod client;
mod journal;
mod load;
mod processes;
mod report;
mod stage;
mod story;
pub mod watchdog;

use serde_json::json;

use self::stage::{NODES, Stage};
use self::story::Story;
use crate::cli::DemoArgs;
use crate::exit_code::Exit;
use crate::output::{Answer, Failure, Output};

/// Plays the demo.
pub fn run(args: &DemoArgs, output: Output) -> Answer {
    if let Some(dir) = &args.stop {
        watchdog::clean_up(dir)?;
        output
            .result(&format!("stopped and removed {}", dir.display()), json!({ "stopped": dir.display().to_string() }));
        return Ok(Exit::Done);
    }
    if !args.command.is_empty() && !args.command.iter().any(|word| word.contains("{port}")) {
        return Err(Failure::usage(
            "no-port",
            "the command must be told where to listen: write {port} where its port goes",
        )
        .with_help("backstay demo -- python3 -m http.server {port}"));
    }
    let stage = Stage::set(&args.command)?;
    let mut story = Story::new(stage, output);
    let played = story.play();
    let stage = story.end();
    let report = match played {
        Ok(report) => report,
        Err(mut failure) => {
            failure.message.push_str(&format!("\n{}", stage.last_words().trim_end()));
            if !args.command.is_empty() {
                let help =
                    "the command must stay in the foreground and listen on {addr}, or on all addresses, at {port}";
                failure = failure.with_help(help);
            }
            stage.clear();
            return Err(failure);
        }
    };
    let mut answer = report.json();
    let mut text = report.text();
    if args.keep {
        let dir = stage
            .keep()
            .map_err(|error| Failure::unexpected("watchdog", format!("the watchdog did not let go: {error}")))?;
        let state = dir.join(NODES[0].0);
        text.push_str(&format!(
            "\nleft running in {dir}\n  look: backstay status --state {state}\n  end:  backstay demo --stop {dir}",
            dir = dir.display(),
            state = state.display()
        ));
        answer["dir"] = json!(dir.display().to_string());
    } else {
        let dir = stage.dir.clone();
        if !stage.clear() {
            output.progress(format_args!(
                "warning: something of the demo is left; remove it with: backstay demo --stop {}",
                dir.display()
            ));
        }
    }
    output.result(&text, answer);
    Ok(if report.passed() { Exit::Done } else { Exit::ProofFailed })
}
