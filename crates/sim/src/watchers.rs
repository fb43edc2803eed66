//! Clients of the services, and the regular look of the checkers.

use backstay_model::InstanceState;

use crate::checks::{proof, redundancy};
use crate::world::{Happening, WATCH_EVERY, World};

impl World {
    /// Clients act on what serves; the checkers look at what can act.
    pub(crate) fn watchers(&mut self) {
        self.push_in(WATCH_EVERY, Happening::Watchers);
        for node in self.nodes.iter().filter(|node| node.up && !node.paused) {
            let serving = node.instances.iter().filter(|i| i.state == InstanceState::Running && i.hung_since.is_none());
            let bound = node.addresses.iter().filter(|address| address.bound.is_some());
            self.ops_ok += (serving.count() + bound.count()) as u64;
        }
        self.clients_write();
        let verdict = self.checks.exclusivity.verify(self.now, &self.keys, &self.names);
        self.judge(verdict);
        let late = self.checks.exclusivity.acting(self.now).find_map(|actor| {
            let reading = self.nodes[actor.node].clock.reading(self.now);
            self.checks.leases.acts(actor.node, actor.role, reading, &self.keys[actor.role]).err()
        });
        self.judge(late.map_or(Ok(()), Err));
        let unproven = self.checks.exclusivity.acting(self.now).find_map(|actor| {
            let node = &self.nodes[actor.node];
            let since = node.instances.iter().find(|instance| instance.id == actor.id)?.hung_since?;
            proof::of_life(since, node.clock.reading(self.now), &self.keys[actor.role]).err()
        });
        self.judge(unproven.map_or(Ok(()), Err));
    }

    /// What is still missing for redundancy to be whole.
    pub(crate) fn still_missing(&self) -> Option<String> {
        redundancy::missing(self)
    }
}
