//! `demo`: nodes on this machine, traffic, and the failures that Backstay is for. It measures what clients see, and ends with
//! 0 when every promise held, else with 7.
//!
//! Two stories, one after the other: [`story`] is about programs, an address and a node that come and go, [`models`] about what
//! each redundancy model survives. [`setting`] says what they are set in and [`cast`] who plays in the second. [`stage`] sets
//! everything up and [`watchdog`] clears it away, whatever happens to the demo itself; [`load`] is the traffic, [`player`] what
//! both are played with, [`report`] the verdict.

mod cast;
mod client;
mod journal;
mod load;
mod models;
mod player;
mod processes;
mod report;
mod setting;
mod stage;
mod status;
mod story;
pub mod watchdog;

use std::time::Duration;

use serde_json::{Value, json};

use self::player::Player;
use self::report::Report;
use self::setting::{FIVE_NODES, Setting, THREE_NODES};
use self::stage::Stage;
use crate::cli::DemoArgs;
use crate::clock;
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
    let began = clock::boottime();
    let first = Plot { setting: &THREE_NODES, play: story::play, within: story::WITHIN };
    let (mut report, stage) = played(&first, args, output, began)?;
    if args.keep {
        return kept(stage, &report, output);
    }
    clear(stage, output);
    let second = Plot { setting: &FIVE_NODES, play: models::play, within: models::WITHIN };
    let (models, stage) = played(&second, args, output, began)?;
    report.extend(models);
    clear(stage, output);
    Ok(told(&report, &report.text(), report.json(), output))
}

/// One story.
struct Plot {
    setting: &'static Setting,
    play: fn(&mut Player) -> Result<Report, Failure>,
    within: Duration,
}

/// Plays one story; what came of it, and the stage with everything still running.
fn played(plot: &Plot, args: &DemoArgs, output: Output, began: Duration) -> Result<(Report, Stage), Failure> {
    let stage = Stage::set(plot.setting, &args.command)?;
    let mut player = Player::new(stage, output, began, plot.within);
    let played = (plot.play)(&mut player);
    let stage = player.end();
    match played {
        Ok(report) => Ok((report, stage)),
        Err(mut failure) => {
            failure.message.push_str(&format!("\n{}", stage.last_words().trim_end()));
            if !args.command.is_empty() {
                let help =
                    "the command must stay in the foreground and listen on {addr}, or on all addresses, at {port}";
                failure = failure.with_help(help);
            }
            stage.clear();
            Err(failure)
        }
    }
}

/// Leaves the first story's nodes running. The second kills what it would leave, so it is not played.
fn kept(stage: Stage, report: &Report, output: Output) -> Answer {
    let (mut answer, mut text) = (report.json(), report.text());
    let first = stage.nodes().first().copied().unwrap_or_default();
    let dir = stage
        .keep()
        .map_err(|error| Failure::unexpected("watchdog", format!("the watchdog did not let go: {error}")))?;
    let state = dir.join(first);
    text.push_str(&format!(
        "\nleft running in {dir}; the story of the redundancy models is played without --keep\n  \
         look: backstay status --state {state}\n  end:  backstay demo --stop {dir}",
        dir = dir.display(),
        state = state.display()
    ));
    answer["dir"] = json!(dir.display().to_string());
    Ok(told(report, &text, answer, output))
}

fn clear(stage: Stage, output: Output) {
    let dir = stage.dir.clone();
    if !stage.clear() {
        output.progress(format_args!(
            "warning: something of the demo is left; remove it with: backstay demo --stop {}",
            dir.display()
        ));
    }
}

fn told(report: &Report, text: &str, answer: Value, output: Output) -> Exit {
    output.result(text, answer);
    if report.passed() { Exit::Done } else { Exit::ProofFailed }
}
