//! The decision, as a numbered procedure. A person who stops reading here knows what Backstay does.

use std::time::Duration;

use backstay_model::{Goal, Instant, NodeName, Reason, Subject};
use backstay_planner::{Placement, Topology, place};
use backstay_spec::Workload;

use crate::view::View;
use crate::{balanced, exclusive, members, replicated, room};

/// What should be, and why.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a decision that nobody adopts moves nothing"]
pub struct Decision {
    /// The next goal; none when the one in force still stands.
    pub goal: Option<Goal>,
    /// Why, also for what was not done.
    pub reasons: Vec<Reason>,
    /// When time alone may change the answer.
    pub wake_at: Option<Instant>,
    /// Operators' requests that are answered by this decision, met or refused.
    pub answered: Vec<Subject>,
}

/// One turn of thought. Pure: same arguments, same answer.
pub fn decide(view: &View<'_>, now: Instant) -> Decision {
    let mut draft = Draft::from(view);

    // 1. Who is here, who was lost, who flaps.
    let members = members::revise(&mut draft, view);

    // 2. Nothing is placed for the first time before everybody could be there; the wait ends after one session time.
    if members::must_wait(&mut draft, view, &members) {
        return draft.finish(view, now);
    }

    // 3. Which nodes carry each service: the planner's placement over the nodes that are here, as far as there is room now.
    let demands: Vec<_> =
        view.spec.services.values().map(|service| members.demand(view, service, &mut draft)).collect();
    let topology = Topology::of(view.spec);
    let placement = room::for_now(&mut draft, view, &members, &topology, place(&topology, &demands));
    draft.forget_undeclared(view);
    draft.report_shortages(view, &placement);

    // 4. Who carries traffic, who is ready to: services of which several may act.
    for service in view.spec.services.values().filter(|service| !service.exclusive) {
        balanced::revise(&mut draft, view, &members, service, &placement.nodes[&service.id]);
    }

    // 5. Who is primary: services of which only one may act. A move waits for the old holder's grant.
    //    Of a database also whom its commits wait for, and which standby has everything that was acknowledged.
    for service in view.spec.services.values().filter(|service| service.exclusive) {
        let placed = &placement.nodes[&service.id];
        match service.workload {
            Workload::App(_) => exclusive::revise_service(&mut draft, view, &members, service, placed),
            Workload::Postgres(_) => replicated::revise(&mut draft, view, &members, service, placed),
        }
    }

    // 6. Who holds each address: the same rules, after the primaries, to keep apart from them.
    for (name, listener) in view.spec.listeners.iter().filter(|(_, listener)| listener.vip.is_some()) {
        exclusive::revise_address(&mut draft, view, &members, name, listener);
    }

    draft.finish(view, now)
}

/// A goal in the making.
pub(crate) struct Draft {
    pub(crate) goal: Goal,
    reasons: Vec<Reason>,
    answered: Vec<Subject>,
    wake_in: Option<Duration>,
}

impl Draft {
    fn from(view: &View<'_>) -> Self {
        let mut goal = view.goal.clone();
        let another = goal.spec_hash != view.spec_hash;
        goal.spec_hash = view.spec_hash.to_owned();
        let adopted = another.then(|| Reason::FileAdopted { hash: view.spec_hash.to_owned() });
        Self { goal, reasons: adopted.into_iter().collect(), answered: Vec::new(), wake_in: None }
    }

    pub(crate) fn because(&mut self, reason: Reason) {
        self.reasons.push(reason);
    }

    pub(crate) fn answer(&mut self, subject: Subject) {
        self.answered.push(subject);
    }

    /// An operator's choice is part of the goal; that it changed is a reason of its own.
    pub(crate) fn say_choice(&mut self, subject: &Subject, before: Option<&NodeName>, after: Option<&NodeName>) {
        if before == after {
            return;
        }
        if let Some(node) = before {
            self.because(Reason::ChoiceEnded { subject: subject.clone(), node: node.clone() });
        }
        if let Some(node) = after {
            self.because(Reason::Chosen { subject: subject.clone(), node: node.clone() });
        }
    }

    /// The answer may change after this long even if nothing else does.
    pub(crate) fn look_again_in(&mut self, wait: Duration) {
        self.wake_in = Some(self.wake_in.map_or(wait, |known| known.min(wait)));
    }

    /// What the file no longer declares leaves the goal; `next_steps` stops it and releases its grant.
    fn forget_undeclared(&mut self, view: &View<'_>) {
        let (services, reasons) = (&mut self.goal.services, &mut self.reasons);
        services.retain(|id, gone| {
            let declared = view.spec.services.contains_key(id);
            if !declared {
                let nodes = gone.instances.keys();
                reasons.extend(nodes.map(|node| Reason::Removed { service: id.clone(), node: node.clone() }));
            }
            declared
        });
        let listeners = &view.spec.listeners;
        self.goal.addresses.retain(|name, _| listeners.get(name).is_some_and(|listener| listener.vip.is_some()));
    }

    fn report_shortages(&mut self, view: &View<'_>, placement: &Placement) {
        for (id, short) in &placement.short {
            let need = view.spec.services[id].need;
            self.because(Reason::Short {
                service: id.clone(),
                placed: short.placed,
                wanted: short.wanted,
                need,
                level: short.level,
            });
        }
    }

    /// A goal is new only if it asks for something else; that durations went on is no change.
    fn finish(mut self, view: &View<'_>, now: Instant) -> Decision {
        let changed = ageless(&self.goal) != ageless(view.goal);
        if changed {
            self.goal.parent = view.goal.generation;
            self.goal.generation = view.goal.generation.next(view.incarnation);
        }
        Decision {
            goal: changed.then_some(self.goal),
            reasons: self.reasons,
            wake_at: self.wake_in.map(|wait| now + wait),
            answered: self.answered,
        }
    }
}

/// The goal without its durations, and without what is only noted in passing: that an agent started again asks for nothing.
fn ageless(goal: &Goal) -> Goal {
    let mut goal = goal.clone();
    for node in goal.nodes.values_mut() {
        node.steady_for = Duration::ZERO;
        node.losses_ms.clear();
        node.boot.clear();
    }
    let roles = goal.services.values_mut().filter_map(|service| service.primary.as_mut());
    let roles = roles.chain(goal.addresses.values_mut().map(|address| &mut address.role));
    for role in roles {
        role.stood_for = Duration::ZERO;
    }
    goal
}
