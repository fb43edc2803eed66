//! How a cluster stands now, as its agent says.

use std::collections::BTreeSet;
use std::time::Duration;

use backstay_model::{NodeName, ServiceId};
use backstay_planner::contingency::Thing;
use backstay_planner::plan::{Measured, Proof};
use backstay_planner::{Seat, Standing};
use serde_json::Value;

use super::Scene;
use crate::cli::PlanArgs;
use crate::connection::Agent;
use crate::exit_code::Exit;
use crate::output::Failure;

/// Asks the agent for the adopted file and for what it knows of everybody.
pub fn scene(args: &PlanArgs) -> Result<Scene, Failure> {
    let agent = Agent::find(args.state.state())?;
    let config = agent.read("/config")?;
    let Some(text) = config["text"].as_str() else {
        let message = "no file is adopted yet: the store has no quorum, or no coordinator has taken over";
        return Err(Failure::new(Exit::Outage, "no-file", message).with_help("backstay status"));
    };
    let name = "the adopted file".to_owned();
    let spec = backstay_spec::parse(&name, text).spec.ok_or_else(|| {
        let message = "this command does not understand the adopted file: it may be of another version than the agent";
        Failure::unexpected("bad-file", message)
    })?;
    let status = agent.read("/status")?;
    let measured = measured(&agent.read("/events")?);
    let age = Duration::from_millis(status["age_ms"].as_u64().unwrap_or(0));
    let now = Some(standing(&status));
    Ok(Scene { name, text: text.to_owned(), spec, now, measured, age })
}

fn standing(status: &Value) -> Standing {
    let named = |value: &Value| value.as_str().map(NodeName::from);
    let nodes = || status["nodes"].as_array().into_iter().flatten();
    let is_down = |node: &&Value| node["present"] == false || node["draining"] == true;
    let down: BTreeSet<NodeName> = nodes().filter(is_down).filter_map(|node| named(&node["name"])).collect();
    let services = status["services"].as_array().into_iter().flatten();
    let seats = services.filter_map(|service| {
        let id: ServiceId = service["name"].as_str()?.parse().ok()?;
        let instances = service["instances"].as_array().into_iter().flatten();
        let seats = instances.filter_map(|instance| Some((named(&instance["node"])?, seat(instance))));
        Some((id, seats.collect()))
    });
    let listeners = status["listeners"].as_array().into_iter().flatten();
    let holders =
        listeners.filter_map(|listener| Some((listener["name"].as_str()?.into(), named(&listener["vip_holder"])?)));
    Standing { seats: seats.collect(), holders: holders.collect(), coordinator: named(&status["coordinator"]), down }
}

/// What serves must be seen to run; a spare that is not to run yet only must not be known to fail.
fn seat(instance: &Value) -> Seat {
    let serves = matches!(instance["role"].as_str(), Some("active" | "primary"));
    let state = instance["state"].as_str().unwrap_or("unknown");
    let well = match serves {
        true => state == "running",
        false => !matches!(state, "failed" | "failing" | "stopping"),
    };
    Seat { serves, well }
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
        measured.failovers.push(outage);
        let known = measured.proofs.get(&Thing::Node(from.into()));
        if let Some(same) = known.filter(|known| known.ago.abs_diff(ago) < Duration::from_millis(ONE_LOSS_MS)) {
            outage = outage.max(same.outage);
        }
        measured.proofs.insert(Thing::Node(from.into()), Proof { outage, ago });
    }
    measured
}
