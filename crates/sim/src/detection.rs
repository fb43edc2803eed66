//! Beats between agents, and the real failure detector that listens to them. One happening stands for all beats of an
//! instant: each takes its own way through the network.

use backstay_failover::detector::BEAT_EVERY;
use backstay_model::Instant;

use crate::clock::MS;
use crate::network::Passage;
use crate::world::{Happening, World};

impl World {
    /// Every agent that runs sends a beat to every other, and looks who is silent.
    pub(crate) fn beats(&mut self) {
        self.push_in(BEAT_EVERY.as_nanos() as u64, Happening::Beats);
        for from in 0..self.nodes.len() {
            if self.nodes[from].agent_runs() {
                (0..self.nodes.len()).filter(|to| *to != from).for_each(|to| self.beat(from, to));
            }
        }
        for n in 0..self.nodes.len() {
            self.look_for_silence(n);
        }
    }

    fn beat(&mut self, from: usize, to: usize) {
        let Passage::Arrives(after) = self.network.passage(from, to, &mut self.rng) else { return };
        let (name, node) = (self.names[from].clone(), &mut self.nodes[to]);
        let arrives = Instant(node.clock.reading(self.now + after));
        if let (true, Some(agent)) = (node.agent_runs(), &mut node.agent) {
            agent.detector.heard(&name, arrives);
        }
    }

    fn look_for_silence(&mut self, n: usize) {
        let reading = Instant(self.boottime(n));
        let node = &mut self.nodes[n];
        if !node.agent_runs() {
            return;
        }
        let Some(agent) = &mut node.agent else { return };
        let suspects = agent.detector.look(reading);
        if suspects != agent.suspects {
            agent.suspects = suspects;
            self.wake_in(n, MS);
        }
    }
}
