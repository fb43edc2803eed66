//! Who is here: the first thing a decision needs, and what it must remember of each node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use backstay_model::{NodeMemory, NodeName, Reason, Subject, reason::WhyNot};
use backstay_planner::Demand;
use backstay_spec::{Failback, ServiceSpec};

use crate::decide::Draft;
use crate::view::View;

/// Losses older than this say nothing about tomorrow.
const LOSS_WINDOW: Duration = Duration::from_secs(600);
/// So many losses within the window make a node one that flaps. Two may be a reboot that took two tries.
const LOSSES_TO_HOLD_DOWN: usize = 3;
/// How long a node that flaps must be steady; doubled with each further loss.
const HOLD_DOWN: Duration = Duration::from_secs(60);
/// The doubling ends here: whoever mended the node should not have to wait for more.
const HOLD_DOWN_MAX: Duration = Duration::from_secs(600);

/// What one node is to this decision.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Why it may not take a role that it does not have; none when it may.
    pub(crate) unfit: Option<WhyNot>,
    /// It has a live session.
    pub(crate) present: bool,
    /// It says something.
    pub(crate) known: bool,
    /// It has been present this long.
    pub(crate) steady_for: Duration,
}

/// All nodes of the file.
pub(crate) struct Members(BTreeMap<NodeName, Member>);

impl Members {
    pub(crate) fn get(&self, node: &NodeName) -> Option<&Member> {
        self.0.get(node)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NodeName, &Member)> {
        self.0.iter()
    }

    pub(crate) fn present(&self, node: &NodeName) -> bool {
        self.get(node).is_some_and(|member| member.present)
    }

    /// It may take any role.
    pub(crate) fn fit(&self, node: &NodeName) -> bool {
        self.get(node).is_some_and(|member| member.unfit.is_none())
    }

    /// It may take a role that nobody better can: at worst it was lost too often of late.
    pub(crate) fn fit_at_need(&self, node: &NodeName) -> bool {
        self.get(node).is_some_and(|member| matches!(member.unfit, None | Some(WhyNot::HeldDown)))
    }

    /// It says something, so it can be judged: unknown moves nothing.
    pub(crate) fn speaks(&self, node: &NodeName) -> bool {
        self.get(node).is_some_and(|member| member.known)
    }

    /// An operator drains it.
    pub(crate) fn drained(&self, node: &NodeName) -> bool {
        self.get(node).is_some_and(|member| member.unfit == Some(WhyNot::Drained))
    }

    /// The node that an operator asked for, if that can be answered by now: a coordinator that has not heard everybody yet
    /// does not refuse a move to a node that may be well.
    pub(crate) fn asked<'v>(&self, view: &'v View<'_>, subject: &Subject) -> Option<&'v NodeName> {
        let unheard = |node: &NodeName| self.get(node).is_some_and(|member| member.unfit == Some(WhyNot::Unknown));
        view.switchovers.get(subject).filter(|node| view.settled || !unheard(node))
    }

    /// The demand of one service: on lost and drained nodes nothing, on steady preferred nodes first.
    pub(crate) fn demand<'a>(&self, view: &View<'_>, service: &'a ServiceSpec, draft: &mut Draft) -> Demand<'a> {
        let goal = view.goal.services.get(&service.id);
        let current: BTreeSet<_> = goal.map(|goal| goal.instances.keys().cloned().collect()).unwrap_or_default();
        let (mut barred, mut reluctant) = (BTreeSet::new(), BTreeSet::new());
        for (name, member) in self.iter() {
            match member.unfit {
                Some(WhyNot::HeldDown) => drop(reluctant.insert(name.clone())),
                // A node that says nothing keeps what it has: unknown is not dead. It is given nothing new.
                Some(WhyNot::Unknown) if current.contains(name) => {}
                Some(_) => drop(barred.insert(name.clone())),
                None => {}
            }
        }
        let asked = view.switchovers.get(&Subject::Service(service.id.clone())).cloned();
        let chosen = asked.or_else(|| goal.and_then(|goal| goal.chosen.clone()));
        let returns =
            |node: &&NodeName| service.failback == Failback::Auto && !current.contains(*node) && self.fit(node);
        let mut pull: Vec<_> = chosen.into_iter().collect();
        let mut settling = Vec::new();
        for node in service.prefer.iter().filter(|node| current.contains(*node) || returns(node)) {
            let steady_for = self.get(node).map_or(Duration::ZERO, |member| member.steady_for);
            let remaining = service.steady.saturating_sub(steady_for);
            if current.is_empty() || remaining.is_zero() {
                pull.push(node.clone());
            } else if current.contains(node) {
                settling.push(node.clone());
            } else {
                draft.look_again_in(remaining);
                if service.exclusive {
                    let subject = Subject::Service(service.id.clone());
                    draft.because(Reason::FailbackWaits { subject, node: node.clone(), remaining });
                }
            }
        }
        // A newcomer takes the place of a standby, never of the holder: that moves by a decision of its own. Nor does a
        // preferred node that has not been here for long enough, where only one of the two can stay.
        let primary = goal.and_then(|goal| goal.primary.as_ref());
        pull.extend(primary.and_then(|primary| primary.holder.clone().or_else(|| primary.next.clone())));
        pull.append(&mut settling);
        Demand { service, current, pull, reluctant, barred }
    }
}

/// Records losses and returns, and says of each node whether it may take a role.
pub(crate) fn revise(draft: &mut Draft, view: &View<'_>) -> Members {
    let mut members = BTreeMap::new();
    let remembered = std::mem::take(&mut draft.goal.nodes);
    for (name, node) in &view.spec.nodes {
        let before = remembered.get(name).cloned().unwrap_or_default();
        let memory = remember(draft, view, name, before);
        let known = view.report(name).is_some();
        let held = hold_down(&memory);
        if let (Some((losses, remaining)), true) = (held, memory.present) {
            draft.because(Reason::HeldDown { node: name.clone(), losses, remaining });
            draft.look_again_in(remaining);
        }
        let drained = view.drains.contains(name);
        if drained {
            draft.because(Reason::Draining { node: name.clone() });
        }
        if memory.present && !known {
            draft.because(Reason::NodeUnknown { node: name.clone() });
        }
        let unfit = match () {
            _ if node.witness => Some(WhyNot::Witness),
            _ if !memory.present => Some(WhyNot::Absent),
            _ if drained => Some(WhyNot::Drained),
            _ if !known => Some(WhyNot::Unknown),
            _ if held.is_some() => Some(WhyNot::HeldDown),
            _ => None,
        };
        let member = Member { unfit, present: memory.present, known, steady_for: memory.steady_for };
        members.insert(name.clone(), member);
        draft.goal.nodes.insert(name.clone(), memory);
    }
    Members(members)
}

/// Ages what is remembered of a node and notes whether it came or went.
fn remember(draft: &mut Draft, view: &View<'_>, name: &NodeName, before: NodeMemory) -> NodeMemory {
    let age_ms = view.goal_age.as_millis() as u64;
    let aged = before.losses_ms.iter().map(|loss| loss.saturating_add(age_ms));
    let mut losses_ms: Vec<u64> = aged.filter(|loss| u128::from(*loss) < LOSS_WINDOW.as_millis()).collect();
    let session = view.sessions.get(name);
    let present = session.is_some();
    let steady_for = if present == before.present { before.steady_for + view.goal_age } else { Duration::ZERO };
    match (before.present, present) {
        (true, false) => {
            losses_ms.insert(0, 0);
            losses_ms.truncate(NodeMemory::LOSSES_MAX);
            draft.because(Reason::NodeLost { node: name.clone() });
        }
        (false, true) => draft.because(Reason::NodeReturned { node: name.clone() }),
        _ => {}
    }
    let boot = session.map_or(before.boot, |session| session.boot.clone());
    NodeMemory { present, steady_for, losses_ms, boot }
}

/// Whether a node flaps: how often it was lost, and how much longer it must be steady.
fn hold_down(memory: &NodeMemory) -> Option<(u32, Duration)> {
    let beyond = memory.losses_ms.len().checked_sub(LOSSES_TO_HOLD_DOWN)?;
    let hold = HOLD_DOWN.saturating_mul(1 << beyond.min(8)).min(HOLD_DOWN_MAX);
    let remaining = hold.saturating_sub(memory.steady_for);
    (!remaining.is_zero()).then_some((memory.losses_ms.len() as u32, remaining))
}

/// Whether to wait with the very first placement: a node that starts a moment later should not find its role taken.
pub(crate) fn must_wait(draft: &mut Draft, view: &View<'_>, members: &Members) -> bool {
    if view.settled || !view.goal.services.is_empty() || !view.goal.addresses.is_empty() {
        return false;
    }
    let silent = members.iter().filter(|(_, member)| !member.known && member.unfit != Some(WhyNot::Witness));
    let missing: Vec<_> = silent.map(|(name, _)| name.clone()).collect();
    let wait = !missing.is_empty();
    if wait {
        draft.because(Reason::WaitingForNodes { missing });
    }
    wait
}
