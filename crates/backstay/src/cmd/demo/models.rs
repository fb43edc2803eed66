//! The second story: each redundancy model, and a service at two sites, loses what it promises to survive. In order, each act
//! with what it waits for and what it measures.

use std::time::Duration;

use serde_json::Value;

use super::cast::{CAST, LOSE_SITE, LOSES_NODE, LOSES_PROGRAM, Part};
use super::load::Target;
use super::player::{Act, Player, TAKEN_OVER_WITHIN};
use super::report::{Fault, Model, Report};
use super::status::is_healthy;
use crate::clock;
use crate::output::Failure;

/// Whatever happens, nothing is waited for longer than this after the beginning.
pub const WITHIN: Duration = Duration::from_secs(50);
/// A node that was started again takes part, was steady for a while, and has all that it had.
const WHOLE_AGAIN_WITHIN: Duration = Duration::from_secs(20);
/// Between two requests of one client: there are many clients, and one machine plays all of them and five nodes.
const CLIENT_PAUSE: Duration = Duration::from_millis(20);
/// The nodes of the site that is lost.
const EAST: [&str; 2] = ["n1", "n2"];
/// The one of them that is lost before, and returns.
const NODE: &str = "n2";

/// Everything in order. A failure here means that the demo could not be played, or that a service did not stand as its model
/// asks when it was to be put to the test; a broken promise is in the report.
pub fn play(player: &mut Player) -> Result<Report, Failure> {
    player.start(&is_whole)?;
    player.say("a service of each redundancy model is up, and one at two sites");
    // Through nodes that live on: a dead node's own listener is dead with it.
    let targets = player.stage.targets(&EAST);
    player.begin_traffic(targets, CLIENT_PAUSE, "the own addresses of n3, n4 and n5")?;
    let mut faults = vec![program_lost(player)?, node_lost(player)?];
    faults.extend(site_lost(player)?);
    Ok(player.end_traffic(faults))
}

/// N: nothing stands by, and the program that dies is started again.
fn program_lost(player: &Player) -> Result<Fault, Failure> {
    assert_models(player)?;
    let (from, missed) = player.kill_program(LOSES_PROGRAM.service, &is_whole)?;
    player.pause();
    Ok(measured(player, LOSES_PROGRAM, from, missed.err()))
}

/// N+1: the node that carries it dies; it goes on, and once the node is back everything is as it was.
fn node_lost(player: &mut Player) -> Result<Fault, Failure> {
    assert_models(player)?;
    let from = player.kill_nodes(&[NODE])?;
    player.say(&format!("kill -9 everything of {NODE}, which carries {}", LOSES_NODE.name()));
    let missed = carried_without(player, &[NODE], std::slice::from_ref(LOSES_NODE)).pop().flatten();
    player.say(&format!("start {NODE} again; it is given back what it had once it was steady for 2 s"));
    player.start_node(NODE)?;
    let whole = player.wait(&player.stage.nodes(), WHOLE_AGAIN_WITHIN, &is_whole);
    // Until here: a return that takes the service away is no better than a loss that does.
    let fault = measured(player, LOSES_NODE, from, missed);
    whole.map_err(|why| not_the_model(&format!("after {NODE} came back: {why}")))?;
    Ok(fault)
}

/// N+2, 2N, 2N+1 and geographic: one site dies, which is two nodes, a whole set, a set and one more, and a site.
fn site_lost(player: &mut Player) -> Result<Vec<Fault>, Failure> {
    player.pause();
    let coordinator = assert_models(player)?;
    let from = player.kill_nodes(&EAST)?;
    player.say(&format!(
        "kill -9 everything of {} at once: the site east ({coordinator} was the coordinator)",
        EAST.join(" and ")
    ));
    let missed = carried_without(player, &EAST, LOSE_SITE);
    player.pause();
    Ok(LOSE_SITE.iter().zip(missed).map(|(part, missed)| measured(player, part, from, missed)).collect())
}

/// Waits until services carry their full load without some nodes, and their clients are answered through every address; what
/// each of them misses when time is up.
fn carried_without(player: &Player, lost: &[&str], parts: &[Part]) -> Vec<Option<String>> {
    let left: Vec<_> = player.stage.nodes().into_iter().filter(|node| !lost.contains(node)).collect();
    // Together they are waited for, then each is asked for itself: one that is not carried says nothing of the others.
    let _ = player
        .wait(&left, TAKEN_OVER_WITHIN, &|status| parts.iter().try_for_each(|part| part.check_load(status, lost)));
    let status = player.stage.status(&left);
    let since = clock::boottime();
    let is_meant = |target: &Target| parts.iter().any(|part| part.service == target.service);
    let _ = player.wait_for_answers(since, TAKEN_OVER_WITHIN, &is_meant);
    let missed = |part: &Part| {
        part.check_load(status.as_ref().ok_or("no agent answers")?, lost)?;
        player.wait_for_answers(since, Duration::ZERO, &|target| target.service == part.service)
    };
    parts.iter().map(|part| missed(part).err()).collect()
}

/// What the clients of one service saw.
fn measured(player: &Player, part: &'static Part, from: Duration, missed: Option<String>) -> Fault {
    let model = Model { name: part.model, service: part.name(), standing: part.standing(), lost: part.lost };
    let act = Act { name: part.fault, from, missed, model: Some(model), ..Act::default() };
    player.measured(act, &|target| (target.service == part.service).then_some(part.promise))
}

/// Every service stands as its model asks, and the cluster misses nothing.
fn is_whole(status: &Value) -> Result<(), String> {
    CAST.iter().try_for_each(|part| part.check_placement(status))?;
    is_healthy(status)
}

/// Looks once more right before a strike: what is struck must be the model, or surviving it proves nothing. Answers who
/// coordinates.
fn assert_models(player: &Player) -> Result<String, Failure> {
    let status = player.stage.status(&player.stage.nodes()).unwrap_or_default();
    is_whole(&status).map_err(|why| not_the_model(&why))?;
    Ok(status["coordinator"].as_str().unwrap_or("nobody").to_owned())
}

fn not_the_model(why: &str) -> Failure {
    Failure::unexpected("not-the-model", format!("a service does not stand as its redundancy model asks: {why}"))
}
