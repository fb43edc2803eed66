//! What follows from a file without being written in it, each with its because.

use std::time::Duration;

use backstay_model::lease;
use backstay_spec::{Mode, Spec, duration_text};
use serde::Serialize;

use super::seconds;
use crate::contingency::{ejection, sync_standbys, takeover};

/// One value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Derived {
    /// What: `voters`, `app.web.instances`.
    pub name: String,
    /// How much.
    pub value: String,
    /// Why.
    pub because: String,
}

/// Everything that a reader of the file might ask "why that?" about.
pub(super) fn derived(spec: &Spec) -> Vec<Derived> {
    let mut all = Vec::new();
    let mut say = |name: String, value: String, because: String| all.push(Derived { name, value, because });
    let voters = spec.voters();
    let names: Vec<_> = voters.iter().map(ToString::to_string).collect();
    let quorum = voters.len() / 2 + 1;
    let may_fail = voters.len() - quorum;
    let because = match voters.len() {
        1 => "with one or two nodes one votes, a single point of failure: two cannot outvote each other".to_owned(),
        count => format!("{} nodes: {count} vote, {quorum} are a quorum, {may_fail} may fail", spec.nodes.len()),
    };
    say("voters".to_owned(), names.join(", "), because);
    let lease = duration_text(lease::LAN);
    say("lease".to_owned(), lease.clone(), "nodes on a LAN; renewed every 500 ms".to_owned());
    say(
        "takeover".to_owned(),
        seconds(takeover()),
        format!(
            "an exclusive role or an address of a lost node: {lease} × 1.01 + 50 ms until its lease has ended, 0.5 s to take it"
        ),
    );
    say("ejection".to_owned(), seconds(ejection()), "a lost node's instances get no more requests".to_owned());
    for service in spec.services.values() {
        let (id, sites) = (&service.id, service.sites.len());
        let within = if sites > 0 { format!(", in each of {sites} sites") } else { String::new() };
        let because = format!("need {} and {}{within}", service.need, service.redundancy);
        say(format!("{id}.instances"), service.instances_wanted().to_string(), because);
        let because = match service.spread == spec.goal.survive {
            true => format!("goal.survive = \"{}\"", spec.goal.survive),
            false => "stated, or what a model inside each of several sites has without it".to_owned(),
        };
        say(format!("{id}.spread"), service.spread.to_string(), because);
        if sync_standbys(spec, service) > 0 {
            let because = format!("goal.max_loss = \"{}\": a commit waits", spec.goal.max_loss);
            say(format!("{id}.sync"), format!("any {}", sync_standbys(spec, service)), because);
        }
        if service.mode == Mode::ActiveActive {
            let (need, wanted) = (service.need, service.instances_wanted());
            let share = Duration::from_millis(u64::from(1000 * need / wanted.max(1))).as_millis() / 10;
            say(
                format!("{id}.load"),
                format!("{share} %"),
                format!("of each instance's capacity, while all {wanted} carry"),
            );
        }
    }
    all
}
