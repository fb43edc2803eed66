//! Who plays in the second story: one service of each redundancy model, where its instances must stand, what it loses and
//! what is promised then.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::report::Promise;
use super::setting::list;
use super::status::{instances, names};

/// A program that died is started again where it was, within 0.5 s and its own start.
const RESTARTED: Promise = ("started again", Duration::from_millis(2000));
/// Others carry traffic too: what died is ejected within 1 s.
const CARRIED_ON: Promise = ("others carry on", Duration::from_millis(1000));
/// Nobody who carries traffic is left: lease of 3 s × 1.01 + 50 ms + 0.5 s, and a spare that runs already.
const TAKEN_OVER: Promise = ("a spare takes over", Duration::from_millis(4000));

/// One service of the second story.
pub struct Part {
    /// Its name, after `app.`.
    pub service: &'static str,
    /// Its model, for people.
    pub model: &'static str,
    /// The fault that it must survive.
    pub fault: &'static str,
    /// What the model says, for the reader of the config file.
    pub about: &'static str,
    /// What is lost, for people.
    pub lost: &'static str,
    /// What is promised to its clients then.
    pub promise: Promise,
    /// N.
    pub need: usize,
    /// The nodes of its instances, by the sets of the model.
    sets: &'static [&'static [&'static str]],
    /// Those that carry traffic.
    active: &'static [&'static str],
    /// What the file says of it beside `need`, `prefer` and `steady`.
    keys: &'static str,
}

/// As the listeners' entries are called: what [`CAST`] names, in its order.
pub const SERVICES: [&str; 6] = ["n", "n-plus-1", "n-plus-2", "two-n", "two-n-plus-1", "geo"];

/// Everybody.
pub static CAST: [Part; 6] = [
    Part {
        service: SERVICES[0],
        model: "N",
        fault: "model_n",
        about: "one, and no spare: no loss of a node is survived, that of its program is",
        lost: "its program",
        promise: RESTARTED,
        need: 1,
        sets: &[&["n5"]],
        active: &["n5"],
        keys: "redundancy = \"N\"\n",
    },
    Part {
        service: SERVICES[1],
        model: "N+1",
        fault: "model_n1",
        about: "one and a hot spare: any one node may fail",
        lost: "the node that carries it: n2",
        promise: TAKEN_OVER,
        need: 1,
        sets: &[&["n2"], &["n4"]],
        active: &["n2"],
        keys: "redundancy = \"N+1\"\nmode = \"active/passive\"\n",
    },
    Part {
        service: SERVICES[2],
        model: "N+2",
        fault: "model_n2",
        about: "three carry traffic, one suffices: any two nodes may fail",
        lost: "two nodes: n1, n2",
        promise: CARRIED_ON,
        need: 1,
        sets: &[&["n1"], &["n2"], &["n5"]],
        active: &["n1", "n2", "n5"],
        keys: "redundancy = \"N+2\"\nmode = \"active/active\"\n",
    },
    Part {
        service: SERVICES[3],
        model: "2N",
        fault: "model_2n",
        about: "two full sets that share no site: either may fail as a whole",
        lost: "a whole set: n1, n2",
        promise: TAKEN_OVER,
        need: 2,
        sets: &[&["n1", "n2"], &["n3", "n4"]],
        active: &["n1", "n2"],
        keys: "redundancy = \"2N\"\nspread = \"site\"\nmode = \"active/passive\"\n",
    },
    Part {
        service: SERVICES[4],
        model: "2N+1",
        fault: "model_2n1",
        about: "two full sets and a spare for either: a whole set may fail, and one more",
        lost: "a set and one more: n1, n2",
        promise: CARRIED_ON,
        need: 1,
        sets: &[&["n1"], &["n4"], &["n2"]],
        active: &["n1", "n2", "n4"],
        keys: "redundancy = \"2N+1\"\nmode = \"active/active\"\n",
    },
    Part {
        service: SERVICES[5],
        model: "geographic",
        fault: "model_geo",
        about: "N+1 at each of two sites, one of which carries the traffic: a site may fail",
        lost: "the site that carries it: east",
        promise: TAKEN_OVER,
        need: 1,
        sets: &[&["n1", "n2"], &["n3", "n4"]],
        active: &["n1"],
        keys: "redundancy = \"N+1\"\nsites = [\"east\", \"west\"]\nmode = \"active/passive\"\n",
    },
];

/// Whose program is killed.
pub static LOSES_PROGRAM: &Part = &CAST[0];
/// Who loses the node that carries it.
pub static LOSES_NODE: &Part = &CAST[1];
/// Who lose the site, all at once.
pub static LOSE_SITE: &[Part] = CAST.split_at(2).1;

impl Part {
    /// What the config file says of it.
    pub fn keys(&self) -> String {
        let prefer = list(self.nodes());
        format!("need = {}\n{}prefer = {prefer}\nsteady = \"2s\"\n", self.need, self.keys)
    }

    /// Its full name.
    pub fn name(&self) -> String {
        format!("app.{}", self.service)
    }

    /// Where its instances stand, with the sets of the model told apart.
    pub fn standing(&self) -> String {
        self.sets.iter().map(|set| set.join(" ")).collect::<Vec<_>>().join(" | ")
    }

    fn nodes(&self) -> impl Iterator<Item = &'static str> {
        self.sets.iter().flat_map(|set| set.iter().copied())
    }

    /// Whether its instances stand as the model asks, run, and carry traffic where they should; or how they do instead.
    pub fn check_placement(&self, status: &Value) -> Result<(), String> {
        let all: Vec<_> = instances(status, self.service).collect();
        let of = |role: &str| names(all.iter().copied().filter(|instance| instance["role"] == role));
        let placed = names(all.iter().copied());
        let is_right = placed == self.nodes().collect()
            && of("active") == self.active.iter().copied().collect()
            && all.len() == placed.len()
            && all.iter().all(|instance| instance["state"] == "running");
        if is_right {
            return Ok(());
        }
        let told = all.iter().map(|instance| {
            let word = |key: &str| instance[key].as_str().unwrap_or("?").to_owned();
            format!("{} ({}, {})", word("node"), word("role"), word("state"))
        });
        let told: Vec<_> = told.collect();
        Err(format!(
            "{} ({}) should run on {} and carry traffic on {}, and is on {}",
            self.name(),
            self.model,
            self.standing(),
            self.active.join(" "),
            if told.is_empty() { "no node".to_owned() } else { told.join(", ") }
        ))
    }

    /// Whether it carries its full load without some nodes; or how much of it.
    pub fn check_load(&self, status: &Value, without: &[&str]) -> Result<(), String> {
        let serving = instances(status, self.service).filter(|instance| {
            let is_left = instance["node"].as_str().is_some_and(|node| !without.contains(&node));
            is_left && instance["role"] == "active" && instance["state"] == "running"
        });
        let serving: BTreeSet<_> = names(serving);
        match serving.len() {
            count if count >= self.need => Ok(()),
            count => Err(format!("{count} instances of {} carry traffic, it needs {}", self.name(), self.need)),
        }
    }
}

#[cfg(test)]
mod tests {
    use backstay_model::{NodeName, ServiceId};
    use backstay_planner::{Topology, sets};
    use serde_json::json;

    use super::*;
    use crate::cmd::demo::setting::{FIVE_NODES, tests::spec};

    #[test]
    fn where_the_cast_stands_is_what_the_planner_calls_the_model() {
        let spec = spec(&FIVE_NODES, &[]);
        let topology = Topology::of(&spec);
        for part in &CAST {
            let service = &spec.services[&part.name().parse::<ServiceId>().expect("a name")];
            let nodes: Vec<_> = part.nodes().map(NodeName::from).collect();
            let found = sets(&topology, service, &nodes);
            assert!(found.is_ok(), "{}: {found:?}", part.model);
            assert_eq!(service.need as usize, part.need);
        }
    }

    fn status(part: &Part, change: impl Fn(&str) -> (&'static str, &'static str)) -> Value {
        let instances: Vec<_> = part
            .nodes()
            .map(|node| {
                let (role, state) = change(node);
                json!({ "node": node, "role": role, "state": state })
            })
            .collect();
        json!({ "services": [{ "name": part.name(), "instances": instances }] })
    }

    #[test]
    fn a_placement_that_only_looks_like_the_model_is_told() {
        let two_n = &CAST[3];
        let right = |node: &str| (if ["n1", "n2"].contains(&node) { "active" } else { "spare" }, "running");
        assert_eq!(two_n.check_placement(&status(two_n, right)), Ok(()));
        let mixed = |node: &str| (if ["n1", "n3"].contains(&node) { "active" } else { "spare" }, "running");
        assert!(two_n.check_placement(&status(two_n, mixed)).is_err(), "half of each set carries traffic");
        let down = |node: &str| (right(node).0, if node == "n4" { "failing" } else { "running" });
        assert!(two_n.check_placement(&status(two_n, down)).is_err());
        assert!(two_n.check_placement(&json!({})).is_err());
        let mut moved = status(two_n, right);
        moved["services"][0]["instances"][3]["node"] = json!("n5");
        assert!(two_n.check_placement(&moved).is_err());
    }

    #[test]
    fn what_is_lost_carries_no_load() {
        let two_n = &CAST[3];
        let all = status(two_n, |_| ("active", "running"));
        assert_eq!(two_n.check_load(&all, &["n1", "n2"]), Ok(()));
        assert!(two_n.check_load(&all, &["n1", "n2", "n3"]).is_err());
    }
}
