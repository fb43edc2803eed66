//! What the demo reads in an agent's status.

use std::collections::BTreeSet;

use serde_json::Value;

/// The instances of `app.SERVICE`.
pub fn instances<'a>(status: &'a Value, service: &str) -> impl Iterator<Item = &'a Value> {
    let full = format!("app.{service}");
    let services = status["services"].as_array().into_iter().flatten();
    let found = services.filter(move |entry| entry["name"] == full.as_str());
    found.flat_map(|entry| entry["instances"].as_array().into_iter().flatten())
}

/// The nodes of some instances.
pub fn names<'a>(instances: impl Iterator<Item = &'a Value>) -> BTreeSet<&'a str> {
    instances.filter_map(|instance| instance["node"].as_str()).collect()
}

/// Who holds an exclusive role.
pub fn primary<'a>(status: &'a Value, service: &str) -> Option<&'a str> {
    instances(status, service).find(|instance| instance["role"] == "primary")?["node"].as_str()
}

/// Who holds the floating address.
pub fn floating_on(status: &Value) -> Option<&str> {
    let listeners = status["listeners"].as_array().into_iter().flatten();
    listeners.into_iter().find(|listener| listener["name"] == "front")?["vip_holder"].as_str()
}

/// Nothing is as it should not be, by the cluster's own word; or what it is that troubles it.
pub fn is_healthy(status: &Value) -> Result<(), String> {
    match status["health"].as_str() {
        Some("healthy") => Ok(()),
        health => {
            let trouble =
                status["trouble"].as_array().and_then(|all| all.first()?.as_str()).unwrap_or("no trouble is named");
            Err(format!("the cluster is {}: {trouble}", health.unwrap_or("of unknown health")))
        }
    }
}
