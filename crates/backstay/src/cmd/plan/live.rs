//! How a cluster stands now, as its agent says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use backstay_model::{NodeName, ServiceId};
use backstay_planner::contingency::Thing;
use backstay_planner::plan::Proof;
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
    let proofs = proofs(&agent.read("/events")?);
    let age = Duration::from_millis(status["age_ms"].as_u64().unwrap_or(0));
    let now = Some(standing(&status));
    Ok(Scene { name, text: text.to_owned(), spec, now, proofs, age })
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
    let holders = listeners.filter_map(|listener| {
        Some((listener["name"].as_str()?.into(), named(&listener["vip_holder"])?))
    });
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

/// Outages that the cluster measured itself, the newest of each kind.
fn proofs(events: &Value) -> BTreeMap<Thing, Proof> {
    let events = events["events"].as_array().into_iter().flatten();
    let measured = events.filter_map(|event| {
        let outage = Some(&event["reason"]).filter(|reason| reason["kind"] == "serves_again")?;
        let proof = Proof {
            outage: Duration::from_millis(outage["outage_ms"].as_u64()?),
            ago: Duration::from_millis(event["age_ms"].as_u64()?),
        };
        Some((Thing::Node(outage["from"].as_str()?.into()), proof))
    });
    // They come oldest first, so that the newest stays.
    measured.collect()
}
