//! What carries steps out and goes on without the agent: starts and stops that take time, guards and balancers that end
//! things at their deadlines by their node's own clock.

use backstay_model::{InstanceState, ListenerName, RoleKey, ServiceId, Token};

use crate::agent::SOON;
use crate::clock::MS;
use crate::mutant::Mutant;
use crate::node::Instance;
use crate::world::{Happening, World};

/// How late a runnable guard may be; S1 allows for it within the margin of S3.
const GUARD_LATE_MAX: u64 = 30 * MS;
const START_TAKES: (u64, u64) = (20 * MS, 400 * MS);
const STOP_TAKES: (u64, u64) = (5 * MS, 1500 * MS);
/// A database that stops ships what its standbys lack: it looks so often, so many times at most.
const SHIPS_FOR: u64 = 100 * MS;
const SHIPS_TIMES: u32 = 10;
/// First wait before a failed instance is started again; doubled with each failure.
const BACK_OFF: u64 = 250 * MS;
const BACK_OFF_MAX: u64 = 5_000 * MS;

impl World {
    pub(crate) fn service_index(&self, service: &ServiceId) -> Option<usize> {
        self.services.iter().position(|known| known == service)
    }

    pub(crate) fn role_of_service(&self, service: usize) -> Option<usize> {
        let id = &self.services[service];
        self.roles.iter().position(|role| matches!(role, RoleKey::Service(known) if known == id))
    }

    fn role_of_listener(&self, listener: usize) -> usize {
        // Addresses are the last roles, in the order of the listeners.
        self.roles.len() - self.listeners.len() + listener
    }

    /// Starts an instance, if nothing of it runs and its back-off is over.
    pub(crate) fn start_instance(&mut self, n: usize, service: &ServiceId, token: Option<Token>) {
        let Some(service) = self.service_index(service) else { return };
        self.start_instance_as(n, service, token);
    }

    /// Starts what a slot is for; with a token if it is to act in a role.
    pub(crate) fn start_instance_as(&mut self, n: usize, service: usize, token: Option<Token>) {
        let role = self.role_of_service(service).filter(|_| token.is_some());
        let (reading, boottime) = (self.product_clock(n), self.boottime(n));
        let instance = &self.nodes[n].instances[service];
        if instance.lives() {
            return;
        }
        if boottime < instance.retry_at {
            let wait = self.nodes[n].clock.stretch(instance.retry_at - boottime);
            return self.wake_in(n, wait.max(SOON + 1));
        }
        let held = role.and_then(|role| self.nodes[n].agent.as_ref()?.holds[role]);
        let until = held.map(|(_, until)| until);
        let until =
            if self.mutant == Some(Mutant::OldGrantObeyed) { until.or(Some(reading + 2700 * MS)) } else { until };
        if role.is_some() && until.is_none() {
            return;
        }
        let id = self.fresh_id();
        let instance = &mut self.nodes[n].instances[service];
        (instance.id, instance.state) = (id, InstanceState::Starting);
        instance.token = token;
        instance.deadline = role.and(until);
        instance.hung_since = None;
        let takes = self.rng.between(START_TAKES.0, START_TAKES.1);
        self.push_in(takes, Happening::Started { node: n, service, id });
        self.say(|w| format!("{}: starts {} (token {token:?})", w.names[n], w.services[service]));
        if let (Some(role), Some(until)) = (role, until) {
            self.set_alarm(n, until.saturating_sub(reading), Happening::GuardAlarm { node: n, service, id });
            if !self.is_database(service) {
                self.begins_to_act(n, role, id, token);
            }
        }
    }

    /// An instance or address of an exclusive role can act from now on.
    fn begins_to_act(&mut self, n: usize, role: usize, id: u64, token: Option<Token>) {
        let verdict = self.checks.exclusivity.begins(self.now, role, id, n, &self.keys[role], &self.names);
        self.judge(verdict);
        // A node whose clock stood cannot know that its token is old.
        if !self.checks.exclusivity.is_late(self.now, n) {
            let verdict = self.checks.order.acts_under(role, token, &self.keys[role]);
            self.judge(verdict);
        }
    }

    /// It cannot act any more.
    fn ceases_to_act(&mut self, n: usize, role: usize, id: u64) {
        let reading = self.boottime(n);
        if !self.checks.exclusivity.is_excused(self.now, id) {
            let verdict = self.checks.leases.acts(n, role, reading, &self.keys[role]);
            self.judge(verdict);
        }
        self.checks.exclusivity.ceases(id);
    }

    pub(crate) fn set_alarm(&mut self, n: usize, after: u64, alarm: Happening) {
        let late = self.rng.between(0, GUARD_LATE_MAX);
        // An alarm that never comes needs no place in the queue.
        if after < u64::MAX / 4 {
            self.push_in(self.nodes[n].clock.stretch(after) + late, alarm);
        }
    }

    pub(crate) fn started(&mut self, n: usize, service: usize, id: u64) {
        let reading = self.boottime(n);
        let instance = &mut self.nodes[n].instances[service];
        if instance.id != id || instance.state != InstanceState::Starting {
            return;
        }
        if self.nodes[n].cannot_start[service] {
            return self.crash_instance(n, service);
        }
        let instance = &mut self.nodes[n].instances[service];
        (instance.state, instance.healthy_since) = (InstanceState::Running, reading);
        if self.is_database(service) {
            self.database_started(n, service);
        }
        self.wake_in(n, MS);
    }

    /// An instance ends by itself; its guard reports it at once.
    pub(crate) fn crash_instance(&mut self, n: usize, service: usize) {
        if !self.nodes[n].instances[service].lives() {
            return;
        }
        let reading = self.boottime(n);
        self.end_instance(n, service, InstanceState::Failed);
        let instance = &mut self.nodes[n].instances[service];
        instance.failures.push(reading);
        let doubled = BACK_OFF << instance.failures.len().min(8).saturating_sub(1);
        instance.retry_at = reading + doubled.min(BACK_OFF_MAX);
        self.wake_in(n, MS);
    }

    /// Nothing of an instance is left running.
    fn end_instance(&mut self, n: usize, service: usize, state: InstanceState) {
        let instance = &mut self.nodes[n].instances[service];
        if !instance.lives() {
            return;
        }
        let id = instance.id;
        instance.state = state;
        instance.hung_since = None;
        self.say(|w| format!("{}: {} is gone ({state:?})", w.names[n], w.services[service]));
        if self.is_database(service) {
            self.database_ended(n);
        } else if let Some(role) = self.role_of_service(service) {
            self.ceases_to_act(n, role, id);
        }
    }

    /// Asks an instance to stop; it takes its time, up to its deadline.
    pub(crate) fn stop_instance(&mut self, n: usize, service: &ServiceId) {
        let Some(service) = self.service_index(service) else { return };
        let instance = &mut self.nodes[n].instances[service];
        match instance.state {
            InstanceState::Starting | InstanceState::Running => {
                instance.state = InstanceState::Stopping;
                let id = instance.id;
                let takes = self.rng.between(STOP_TAKES.0, STOP_TAKES.1);
                self.push_in(takes, Happening::Stopped { node: n, service, id, patience: SHIPS_TIMES });
                self.say(|w| format!("{}: stops {}", w.names[n], w.services[service]));
            }
            InstanceState::Failed => {
                instance.state = InstanceState::Prepared;
                instance.retry_at = 0;
                self.wake_in(n, MS);
            }
            InstanceState::Prepared | InstanceState::Stopping => {}
        }
    }

    pub(crate) fn stopped(&mut self, n: usize, service: usize, id: u64, patience: u32) {
        let same = self.nodes[n].instances[service].id == id;
        if same && patience > 0 && self.is_database(service) && !self.has_shipped(n) {
            return self.push_in(SHIPS_FOR, Happening::Stopped { node: n, service, id, patience: patience - 1 });
        }
        if same {
            self.end_instance(n, service, InstanceState::Prepared);
            self.wake_in(n, MS);
        }
    }

    /// A guard wakes: past its deadline everything inside is killed, else it sleeps on (S6).
    pub(crate) fn guard_alarm(&mut self, n: usize, service: usize, id: u64) {
        let reading = self.product_clock(n);
        let orphan = self.nodes[n].orphans.iter().position(|(_, orphan)| orphan.id == id);
        let slot = &self.nodes[n].instances[service];
        let instance = match orphan {
            Some(place) => &self.nodes[n].orphans[place].1,
            None => slot,
        };
        let Some(deadline) = instance.deadline.filter(|_| instance.id == id && instance.lives()) else { return };
        if reading < deadline {
            return self.set_alarm(n, deadline - reading, Happening::GuardAlarm { node: n, service, id });
        }
        if self.mutant == Some(Mutant::GuardIgnoresDeadline) {
            return;
        }
        if let Some(place) = orphan {
            let (service, orphan) = self.nodes[n].orphans.remove(place);
            if let Some(role) = self.role_of_service(service) {
                self.ceases_to_act(n, role, orphan.id);
            }
            return;
        }
        if self.mutant == Some(Mutant::GracefulAfterLoss) {
            let service = self.services[service].clone();
            return self.stop_instance(n, &service);
        }
        self.end_instance(n, service, InstanceState::Prepared);
        self.wake_in(n, MS);
    }

    /// A later deadline, from the agent to the guard or balancer that must keep it.
    pub(crate) fn pass_on_deadline(&mut self, n: usize, role: usize, token: Token, deadline: u64) {
        match self.roles[role].clone() {
            RoleKey::Coordinator => {}
            RoleKey::Service(id) => {
                let Some(service) = self.service_index(&id) else { return };
                let instance = &mut self.nodes[n].instances[service];
                if instance.token == Some(token) && instance.lives() {
                    instance.deadline = instance.deadline.map(|before| before.max(deadline));
                }
            }
            RoleKey::Address(_) => {
                let listener = role + self.listeners.len() - self.roles.len();
                let address = &mut self.nodes[n].addresses[listener];
                if address.bound.is_some_and(|(_, bound)| bound == token) {
                    address.valid_until = address.valid_until.max(deadline);
                }
            }
        }
    }

    pub(crate) fn bind(&mut self, n: usize, listener: &ListenerName, token: Token) {
        let Some(listener) = self.listeners.iter().position(|known| known == listener) else { return };
        let role = self.role_of_listener(listener);
        let reading = self.product_clock(n);
        let held = self.nodes[n].agent.as_ref().and_then(|agent| agent.holds[role]);
        let until = held.map(|(_, until)| until);
        let until =
            if self.mutant == Some(Mutant::OldGrantObeyed) { until.or(Some(reading + 2700 * MS)) } else { until };
        let Some(until) = until.filter(|_| self.nodes[n].balancer_up) else { return };
        if self.nodes[n].addresses[listener].bound.is_some() {
            return;
        }
        let id = self.fresh_id();
        let address = &mut self.nodes[n].addresses[listener];
        (address.bound, address.valid_until) = (Some((id, token)), until);
        self.say(|w| format!("{}: binds {} (token {token})", w.names[n], w.listeners[listener]));
        self.set_alarm(n, until.saturating_sub(reading), Happening::AddressAlarm { node: n, listener, id });
        self.begins_to_act(n, role, id, Some(token));
        self.wake_in(n, MS);
    }

    pub(crate) fn unbind(&mut self, n: usize, listener: &ListenerName) {
        if let Some(listener) = self.listeners.iter().position(|known| known == listener) {
            self.close_address(n, listener);
            self.wake_in(n, MS);
        }
    }

    fn close_address(&mut self, n: usize, listener: usize) {
        if let Some((id, _)) = self.nodes[n].addresses[listener].bound.take() {
            self.say(|w| format!("{}: closes {}", w.names[n], w.listeners[listener]));
            self.ceases_to_act(n, self.role_of_listener(listener), id);
        }
    }

    /// A balancer wakes: an address past its `valid_until` is closed, whoever is dead.
    pub(crate) fn address_alarm(&mut self, n: usize, listener: usize, id: u64) {
        let reading = self.product_clock(n);
        let address = &self.nodes[n].addresses[listener];
        if address.bound.is_none_or(|(bound, _)| bound != id) {
            return;
        }
        if reading < address.valid_until {
            let left = address.valid_until - reading;
            return self.set_alarm(n, left, Happening::AddressAlarm { node: n, listener, id });
        }
        if self.mutant != Some(Mutant::BalancerIgnoresValidity) {
            self.close_address(n, listener);
            self.wake_in(n, MS);
        }
    }

    /// The balancer dies; the kernel closes what it had open.
    pub(crate) fn kill_balancer(&mut self, n: usize) {
        (0..self.listeners.len()).for_each(|listener| self.close_address(n, listener));
        self.nodes[n].balancer_up = false;
        self.wake_in(n, MS);
    }

    pub(crate) fn start_balancer(&mut self, n: usize, boot: u32) {
        if self.nodes[n].up && self.nodes[n].boot == boot {
            self.nodes[n].balancer_up = true;
            self.wake_in(n, MS);
        }
    }

    /// Every process of a machine ends at once.
    pub(crate) fn kill_everything(&mut self, n: usize) {
        (0..self.services.len()).for_each(|service| self.end_instance(n, service, InstanceState::Prepared));
        for (service, orphan) in std::mem::take(&mut self.nodes[n].orphans) {
            if let Some(role) = self.role_of_service(service) {
                self.ceases_to_act(n, role, orphan.id);
            }
        }
        self.nodes[n].instances.fill(Instance::none());
        self.kill_balancer(n);
        self.nodes[n].agent = None;
    }
}
