//! How a cluster stands now, as its agent says.

use std::time::Duration;

use backstay_planner::Standing;
use backstay_planner::contingency::Thing;
use backstay_planner::plan::{Measured, Proof};
use serde_json::Value;

use super::Scene;
use crate::cli::PlanArgs;
use crate::connection::Agent;
use crate::exit_code::Exit;
use crate::output::Failure;

/// Asks the agent for the adopted file and for what it knows of everybody.
pub fn scene(args: &PlanArgs) -> Result<Scene, Failure> {
    let agent = Agent::find(args.state.state())?;
    let answer = agent.read("/standing")?;
    let Some(text) = answer["text"].as_str() else {
        let message = "no file is adopted yet: the store has no quorum, or no coordinator has taken over";
        return Err(Failure::new(Exit::Outage, "no-file", message).with_help("backstay status"));
    };
    let another = |what: &str| {
        let message = format!("this command does not understand {what}: it may be of another version than the agent");
        Failure::unexpected("bad-answer", message)
    };
    let name = "the adopted file".to_owned();
    let spec = backstay_spec::parse(&name, text).spec.ok_or_else(|| another(&name))?;
    let standing: Standing =
        serde_json::from_value(answer["standing"].clone()).map_err(|_| another("how the cluster stands"))?;
    let measured = measured(&agent.read("/events")?);
    let age = Duration::from_millis(answer["age_ms"].as_u64().unwrap_or(0));
    let places = standing.seats.iter().map(|(id, seats)| {
        let here = seats.keys().filter(|node| !standing.down.contains(*node));
        (id.clone(), here.cloned().collect())
    });
    let places = Some(places.collect());
    Ok(Scene { name, text: text.to_owned(), spec, places, now: Some(standing), measured, age })
}

/// Failovers that the cluster measured itself. They come oldest first, so that the newest of each node stays; of the roles
/// that one loss took, the longest away.
fn measured(events: &Value) -> Measured {
    /// Outages that began by one loss end within this time of each other.
    const ONE_LOSS_MS: u64 = 30_000;
    let mut measured = Measured::default();
    for event in events["events"].as_array().into_iter().flatten() {
        let Some(reason) = Some(&event["reason"]).filter(|reason| reason["kind"] == "serves_again") else { continue };
        let (Some(outage), Some(ago)) = (reason["outage_ms"].as_u64(), event["age_ms"].as_u64()) else { continue };
        let Some(from) = reason["from"].as_str() else { continue };
        let (mut outage, ago) = (Duration::from_millis(outage), Duration::from_millis(ago));
        let known = measured.proofs.get(&Thing::Node(from.into()));
        if let Some(same) = known.filter(|known| known.ago.abs_diff(ago) < Duration::from_millis(ONE_LOSS_MS)) {
            outage = outage.max(same.outage);
            measured.failovers.pop();
        }
        // One loss is one failover, however many roles it took.
        measured.failovers.push(outage);
        measured.proofs.insert(Thing::Node(from.into()), Proof { outage, ago });
    }
    measured
}
