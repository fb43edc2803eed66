//! The first story: a program and a node of three die, the node returns, and gets its roles back. In order, each act with
//! what it waits for and what it measures.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::journal;
use super::load::{Target, Through};
use super::player::{Act, LOOK_EVERY, Player, START_WITHIN, TAKEN_OVER_WITHIN};
use super::report::{Fault, Promise, Report};
use super::setting::THREE_NODES;
use super::status::{floating_on, instances, is_healthy, primary};
use crate::clock;
use crate::connection::Agent;
use crate::output::Failure;

/// Whatever happens, nothing is waited for longer than this after the beginning.
pub const WITHIN: Duration = Duration::from_secs(36);
/// A node that was started again takes part.
const RETURN_WITHIN: Duration = Duration::from_secs(8);
/// The preferred node has its roles back.
const FAILBACK_WITHIN: Duration = Duration::from_secs(12);
/// Between two requests of one client.
const CLIENT_PAUSE: Duration = Duration::from_millis(10);

/// A balanced service while one of its instances or nodes dies: what died is ejected within 1 s.
const BALANCED: Promise = ("balanced services", Duration::from_millis(1000));
/// An exclusive role or an address whose node dies: lease of 3 s × 1.01 + 50 ms + 0.5 s, and the start of the program.
const EXCLUSIVE: Promise = ("the address, app.till", Duration::from_millis(4000));
/// A planned move of an exclusive role: new connections wait for less than 1 s, and for the start and first check of the
/// program, which is stopped here before it is started there.
const PLANNED: Promise = ("app.till", Duration::from_millis(2000));

/// Everything in order. A failure here means that the demo could not be played; a broken promise is in the report.
pub fn play(player: &mut Player) -> Result<Report, Failure> {
    player.start(&is_whole)?;
    player.say("all nodes, services and the floating address are up");
    let main = gather_roles(player)?;
    let targets = player.stage.targets(&[main]);
    player.begin_traffic(targets, CLIENT_PAUSE, "the floating address and the nodes' own")?;
    let faults =
        vec![app_killed(player)?, node_killed(player, main)?, node_returned(player, main)?, failback(player, main)];
    Ok(player.end_traffic(faults))
}

/// Moves the floating address to the node that has the exclusive role, so that one death takes both; answers that node.
fn gather_roles(player: &Player) -> Result<&'static str, Failure> {
    let all = player.stage.nodes();
    let status = player.stage.status(&all).unwrap_or_default();
    let Some(main) = primary(&status, "till").and_then(|name| all.iter().copied().find(|node| *node == name)) else {
        return Err(Failure::unexpected("demo", "no node has the exclusive role"));
    };
    let give_up = player.deadline(START_WITHIN);
    while floating_on(&player.stage.status(&all).unwrap_or_default()) != Some(main) {
        let body = json!({ "subject": "listen.front", "to": main });
        let answer = Agent::in_state(&player.stage.state(main)).change("/switchover", body)?;
        if clock::boottime() > give_up {
            let why = answer["why"].as_str().unwrap_or("no reason was given");
            let message = format!("the floating address did not move to {main}: {why}");
            return Err(Failure::unexpected("not-started", message));
        }
        // Refused for now (a node that has just started may not have reported yet): asked again.
        thread::sleep(LOOK_EVERY);
    }
    player
        .wait(&all, START_WITHIN, &is_whole)
        .map_err(|missing| Failure::unexpected("not-started", format!("the demo's cluster is not whole: {missing}")))?;
    player.say(&format!("{main} has the floating address and the exclusive role"));
    Ok(main)
}

/// Act 1: one program dies under load. Nobody notices.
fn app_killed(player: &Player) -> Result<Fault, Failure> {
    let (from, missed) = player.kill_program("web", &is_whole)?;
    player.pause();
    Ok(measured(player, "app_killed", from, missed, true, &|_| BALANCED))
}

/// Act 2: a node dies with all that is on it: the exclusive role, the floating address, its balancer.
fn node_killed(player: &mut Player, main: &str) -> Result<Fault, Failure> {
    let survivors = survivors_of(player, main);
    let from = player.kill_nodes(&[main])?;
    player.say(&format!("kill -9 everything of {main}: agent, balancer, guards, programs"));
    let missed = player.wait(&survivors, TAKEN_OVER_WITHIN, &|status| {
        let holder = primary(status, "till").filter(|node| *node != main);
        let floating = floating_on(status).filter(|node| *node != main);
        let running = instances(status, "till").any(|i| i["node"].as_str() == holder && i["state"] == "running");
        match (holder, floating) {
            (Some(_), Some(_)) if running => Ok(()),
            (Some(_), Some(_)) => Err("app.till does not run yet".to_owned()),
            (None, _) => Err("nobody has taken app.till over".to_owned()),
            (_, None) => Err("nobody has taken the floating address over".to_owned()),
        }
    });
    let status = player.stage.status(&survivors).unwrap_or_default();
    let answering = clock::boottime();
    let missed = missed.and_then(|()| player.wait_for_answers(answering, TAKEN_OVER_WITHIN, &|_| true));
    player.say(&format!(
        "app.till is on {}, the floating address on {}",
        primary(&status, "till").unwrap_or("no node"),
        floating_on(&status).unwrap_or("no node")
    ));
    player.pause();
    let promise = |target: &Target| match (target.service, &target.through) {
        ("till", _) | (_, Through::Front) => EXCLUSIVE,
        _ => BALANCED,
    };
    Ok(measured(player, "node_killed", from, missed, false, &promise))
}

/// Act 3: the node is started again, and takes part.
fn node_returned(player: &mut Player, main: &'static str) -> Result<Fault, Failure> {
    let from = clock::boottime();
    player.start_node(main)?;
    player.say(&format!("start {main} again"));
    let missed = player.wait(&survivors_of(player, main), RETURN_WITHIN, &|status| {
        let runs = |service| instances(status, service).any(|i| i["node"] == main && i["state"] == "running");
        match ["web", "api"].into_iter().find(|service| !runs(service)) {
            None => Ok(()),
            Some(service) => Err(format!("app.{service} does not run on {main}")),
        }
    });
    // Where the return takes long, the roles begin to move back before it is complete.
    Ok(measured(player, "node_returned", from, missed, false, &while_moving))
}

/// Act 4: once it was steady for a while, the preferred node gets its roles back.
fn failback(player: &Player, main: &str) -> Fault {
    let from = clock::boottime();
    player.say(&format!("{main} is back; its roles return once it was steady for 2 s"));
    let missed = player.wait(&player.stage.nodes(), FAILBACK_WITHIN, &|status| {
        is_whole(status)?;
        let has =
            |service: &str, role: &str| instances(status, service).any(|i| i["node"] == main && i["role"] == role);
        match (primary(status, "till") == Some(main), has("web", "active")) {
            (true, true) => Ok(()),
            (false, _) => Err(format!("app.till is not back on {main}")),
            (_, false) => Err(format!("app.web is not active on {main}")),
        }
    });
    if missed.is_ok() {
        player.say(&format!("app.till and app.web are back on {main}"));
    }
    player.pause();
    measured(player, "failback", from, missed, true, &while_moving)
}

/// What is promised while roles move by plan.
fn while_moving(target: &Target) -> Promise {
    if target.service == "till" { PLANNED } else { BALANCED }
}

/// What clients and the journal of the exclusive program say of an act.
fn measured(
    player: &Player,
    name: &'static str,
    from: Duration,
    missed: Result<(), String>,
    none_may_fail: bool,
    promise: &dyn Fn(&Target) -> Promise,
) -> Fault {
    let overlap = journal::overlap(&player.stage.journal(), from, clock::boottime());
    let unread = overlap.as_ref().err().map(|error| format!("the journal cannot be read: {error}"));
    let act = Act {
        name,
        from,
        missed: missed.err().or(unread),
        none_may_fail,
        overlap: overlap.unwrap_or_default(),
        model: None,
    };
    player.measured(act, &|target| Some(promise(target)))
}

fn survivors_of(player: &Player, main: &str) -> Vec<&'static str> {
    player.stage.nodes().into_iter().filter(|node| *node != main).collect()
}

/// Healthy, and every instance that should run does.
fn is_whole(status: &Value) -> Result<(), String> {
    for service in THREE_NODES.services.iter().copied() {
        // The exclusive one has one instance that runs; of the others all do, spares too.
        let wanted = if service == "till" { 1 } else { THREE_NODES.nodes.len() };
        let running = instances(status, service).filter(|instance| instance["state"] == "running").count();
        if running < wanted {
            return Err(format!("{running} of {wanted} instances of app.{service} run"));
        }
    }
    if floating_on(status).is_none() {
        return Err("nobody holds the floating address".to_owned());
    }
    is_healthy(status)
}
