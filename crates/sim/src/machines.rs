//! What happens to whole machines and to agents: killed, paused, out of power, out of time, without their disk.

use crate::clock::MS;
use crate::disk::{Disk, DiskState};
use crate::faults::Fault;
use crate::mutant::Mutant;
use crate::plan::Strike;
use crate::world::{Happening, World};

/// From power to the first process of an agent.
const AGENT_AFTER_BOOT: u64 = 50 * MS;
/// How far apart the machines of a room come back after a blackout, at most.
const BLACKOUT_STAGGER: u64 = 3000 * MS;

impl World {
    pub(crate) fn kill_agent(&mut self, n: usize, lasts: u64) {
        let node = &mut self.nodes[n];
        if node.paused || node.agent.take().is_none() {
            return;
        }
        node.frozen = false;
        node.deferred.clear();
        let boot = node.boot;
        self.push_in(lasts, Happening::AgentStarts { node: n, boot });
        self.say(|w| format!("{}: agent is killed", w.names[n]));
    }

    pub(crate) fn kill_node(&mut self, n: usize, lasts: u64) {
        if self.nodes[n].up {
            self.kill_node_until_healed(n);
            self.push_in(lasts, Happening::NodeBoots { node: n });
        }
    }

    /// A machine is without power until somebody gives it back.
    pub(crate) fn kill_node_until_healed(&mut self, n: usize) {
        if self.nodes[n].paused {
            self.clock_goes(n);
        }
        self.kill_everything(n);
        let torn = self.rng.chance(500);
        let node = &mut self.nodes[n];
        (node.up, node.paused, node.frozen) = (false, false, false);
        node.boot += 1;
        node.deferred.clear();
        node.disk.lose_power(torn);
    }

    /// The machine comes back without what was on its disk: with another session and another voter, which must learn first.
    pub(crate) fn lose_disk(&mut self, n: usize, lasts: u64) {
        if !self.nodes[n].up {
            return;
        }
        self.kill_node(n, lasts);
        // With the stores of a majority the cluster's memory would be gone: that is a disaster, which an operator ends. So it
        // is where half of a core had lost its stores when the others died.
        if !self.store.may_lose(n) || self.faults.plan.core.is_some() {
            return;
        }
        self.nodes[n].disk = Disk::default();
        self.store.loses_voter(n);
        self.checks.order.wiped(n);
        self.say(|w| format!("{}: its disk is lost", w.names[n]));
    }

    pub(crate) fn boot_node(&mut self, n: usize) {
        if self.nodes[n].up || self.faults.stays_dead(self.now, n) {
            return;
        }
        let now = self.now;
        let node = &mut self.nodes[n];
        (node.up, node.balancer_up) = (true, true);
        node.clock.restart(now);
        let boot = node.boot;
        self.checks.leases.rebooted(n);
        self.push_in(AGENT_AFTER_BOOT, Happening::AgentStarts { node: n, boot });
    }

    pub(crate) fn stand_still(&mut self, n: usize, whole: bool, lasts: u64) -> bool {
        let now = self.now;
        let node = &mut self.nodes[n];
        if !node.up || node.paused || node.frozen {
            return false;
        }
        (node.paused, node.frozen, node.still_since) = (whole, !whole, now);
        if whole {
            self.checks.exclusivity.pauses(n);
        }
        self.push_in(lasts, Happening::Resumes { node: n, whole });
        true
    }

    /// A hypervisor stops a machine, and its CLOCK_BOOTTIME with it: nothing on it can know how late it is (S1).
    pub(crate) fn stop_with_its_clock(&mut self, n: usize, lasts: u64) {
        if self.stand_still(n, true, lasts) {
            let now = self.now;
            self.nodes[n].clock.stop(now);
            self.checks.leases.lags(n, u64::MAX);
        }
    }

    /// A clock that stood goes on where it stood; what the machine holds is late by as much, for one lease at most.
    fn clock_goes(&mut self, n: usize) {
        let now = self.now;
        if self.nodes[n].clock.go_on(now) {
            self.checks.leases.lags(n, now);
            self.checks.exclusivity.lags(now, n);
        }
    }

    /// What a node missed happens now, in no particular order.
    pub(crate) fn resume(&mut self, n: usize, whole: bool) {
        let node = &mut self.nodes[n];
        if (whole && !node.paused) || (!whole && !node.frozen) {
            return;
        }
        (node.paused, node.frozen) = (false, false);
        self.say(|w| format!("{}: moves again", w.names[n]));
        if whole {
            self.checks.exclusivity.resumes(self.now, n);
            self.clock_goes(n);
            if self.mutant == Some(Mutant::SuspendStopsGuard) {
                let late = self.now - self.nodes[n].still_since;
                let guarded = self.nodes[n].instances.iter_mut().filter_map(|instance| instance.deadline.as_mut());
                guarded.for_each(|deadline| *deadline = deadline.saturating_add(late));
            }
        }
        let missed = std::mem::take(&mut self.nodes[n].deferred);
        for what in missed {
            let after = self.rng.between(0, 20 * MS);
            self.push_in(after, what);
        }
    }

    /// A clock runs at another rate from now on; timers of the kernel follow it.
    pub(crate) fn drift(&mut self, n: usize, drift: u64) {
        let now = self.now;
        self.nodes[n].clock.drift(now, drift);
        for service in 0..self.services.len() {
            let instance = &self.nodes[n].instances[service];
            if instance.lives() && instance.deadline.is_some() {
                let id = instance.id;
                self.push_in(0, Happening::GuardAlarm { node: n, service, id });
            }
        }
        for listener in 0..self.listeners.len() {
            if let Some((id, _)) = self.nodes[n].addresses[listener].bound {
                self.push_in(0, Happening::AddressAlarm { node: n, listener, id });
            }
        }
    }

    pub(crate) fn disk_turns(&mut self, strike: &Strike, state: DiskState) {
        self.nodes[strike.node].disk.state = state;
        self.push_in(strike.lasts, Happening::Mend(Fault::Disk { node: strike.node }));
    }

    /// Agents of some nodes are killed together, again and again.
    pub(crate) fn storm(&mut self, nodes: Vec<usize>, mut waits: Vec<u64>) {
        if self.now >= self.faults.until {
            return;
        }
        let Some(wait) = waits.pop() else { return };
        self.faults.struck += nodes.len() as u64;
        nodes.iter().for_each(|node| self.kill_agent(*node, wait / 2));
        self.push_in(wait, Happening::Mend(Fault::Storm { nodes, waits }));
    }

    /// The whole room is without power, and comes back one machine after the other.
    pub(crate) fn black_out(&mut self, lasts: u64) {
        for n in 0..self.nodes.len() {
            let after = lasts + self.rng.between(0, BLACKOUT_STAGGER);
            self.kill_node(n, after);
        }
        self.faults.struck += self.nodes.len() as u64;
    }
}
