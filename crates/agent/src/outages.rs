//! How long a failover of an exclusive role really took, as the coordinator saw it: from the last sign of life of the lost
//! holder to the first report of the new one that it serves. `plan --live` shows it as proof.
//!
//! Both ends are instants of this coordinator's clock. Where it did not hear the old holder itself, because it took over
//! with the same failure, nothing is measured rather than something guessed.

use std::collections::BTreeMap;

use backstay_model::reason::MoveCause;
use backstay_model::{AddressState, Goal, Instant, NodeName, Observation, Reason, RoleKey};

/// What each node last said, and when.
type Heard = BTreeMap<NodeName, (Observation, Instant)>;

/// Failovers under way; at most one for each role.
#[derive(Debug, Default)]
pub struct Outages(BTreeMap<RoleKey, Outage>);

#[derive(Debug)]
struct Outage {
    from: NodeName,
    to: NodeName,
    since: Instant,
}

impl Outages {
    /// A goal was adopted for these reasons: whoever lost a role to its node's loss has been away since it was last heard.
    pub fn begin(&mut self, before: &Goal, reasons: &[Reason], heard: &Heard) {
        for reason in reasons {
            let Reason::HolderNamed { role, node, cause } = reason else { continue };
            self.0.remove(role);
            let from = holder(before, role).filter(|_| *cause == MoveCause::HolderLost);
            if let Some((from, (_, since))) = from.and_then(|from| Some((from, heard.get(from)?))) {
                self.0.insert(role.clone(), Outage { from: from.clone(), to: node.clone(), since: *since });
            }
        }
    }

    /// Failovers that are over by now.
    pub fn over(&self, heard: &Heard) -> Vec<Reason> {
        let over = self.0.iter().filter_map(|(role, outage)| {
            let (report, at) = heard.get(&outage.to)?;
            serves(report, role).then(|| Reason::ServesAgain {
                role: role.clone(),
                from: outage.from.clone(),
                to: outage.to.clone(),
                outage: at.since(outage.since),
            })
        });
        over.collect()
    }

    /// They are on record.
    pub fn recorded(&mut self, reasons: &[Reason]) {
        self.0
            .retain(|known, _| !reasons.iter().any(|r| matches!(r, Reason::ServesAgain { role, .. } if role == known)));
    }
}

fn holder<'a>(goal: &'a Goal, role: &RoleKey) -> Option<&'a NodeName> {
    match role {
        RoleKey::Service(id) => goal.services.get(id)?.primary.as_ref()?.holder.as_ref(),
        RoleKey::Address(name) => goal.addresses.get(name)?.role.holder.as_ref(),
        RoleKey::Coordinator => None,
    }
}

fn serves(report: &Observation, role: &RoleKey) -> bool {
    match role {
        RoleKey::Service(id) => report.instances.get(id).is_some_and(|seen| seen.is_well()),
        RoleKey::Address(name) => matches!(report.addresses.get(name), Some(AddressState::Bound(_))),
        RoleKey::Coordinator => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use backstay_model::{AddressGoal, Generation, RoleGoal};

    use super::*;

    fn report(node: &str, address: AddressState) -> Observation {
        Observation {
            node: node.into(),
            boot: String::new(),
            serial: 1,
            generation: Generation::ZERO,
            instances: BTreeMap::new(),
            addresses: [("front".into(), address)].into(),
            balancer_up: true,
            suspects: std::collections::BTreeSet::new(),
            notes: Vec::new(),
        }
    }

    fn held_by(node: &str) -> Goal {
        let role = RoleGoal::held_by(node.into());
        let mut goal = Goal::default();
        goal.addresses.insert("front".into(), AddressGoal { role, chosen: None });
        goal
    }

    fn named(node: &str, cause: MoveCause) -> Vec<Reason> {
        vec![Reason::HolderNamed { role: RoleKey::Address("front".into()), node: node.into(), cause }]
    }

    #[test]
    fn a_failover_lasts_from_the_last_word_of_the_old_holder_to_the_first_service_of_the_new() {
        let mut outages = Outages::default();
        let second = |s: u64| Instant(s * 1_000_000_000);
        let mut heard: Heard = [("a".into(), (report("a", AddressState::Closed), second(1)))].into();
        outages.begin(&held_by("a"), &named("b", MoveCause::HolderLost), &heard);
        heard.insert("b".into(), (report("b", AddressState::Closed), second(4)));
        assert_eq!(outages.over(&heard), [], "it does not serve yet");
        heard.insert("b".into(), (report("b", AddressState::Bound(Generation::ZERO)), second(5)));
        let over = outages.over(&heard);
        assert!(
            matches!(&over[..], [Reason::ServesAgain { outage, .. }] if *outage == Duration::from_secs(4)),
            "{over:?}"
        );
        outages.recorded(&over);
        assert_eq!(outages.over(&heard), [], "it is told once");
    }

    #[test]
    fn nothing_is_measured_of_planned_moves_or_of_nodes_never_heard() {
        let mut outages = Outages::default();
        let bound = (report("b", AddressState::Bound(Generation::ZERO)), Instant(9));
        let mut heard: Heard = [("b".into(), bound)].into();
        outages.begin(&held_by("a"), &named("b", MoveCause::HolderLost), &heard);
        assert_eq!(outages.over(&heard), [], "nobody knows since when");
        heard.insert("a".into(), (report("a", AddressState::Closed), Instant(1)));
        outages.begin(&held_by("a"), &named("b", MoveCause::Failback), &heard);
        assert_eq!(outages.over(&heard), [], "a planned move is no failover");
    }
}
