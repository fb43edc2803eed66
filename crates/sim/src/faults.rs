//! What goes wrong: each seed draws a few kinds of fault and how often they strike, then nothing is random but by the seed.

use backstay_model::{InstanceState, RoleKey, Subject};

use crate::clock::{MS, SECOND};
use crate::network::DELAY_QUIET;
use crate::rng::Rng;
use crate::store::COMMIT_QUIET;
use crate::world::{Happening, World};

/// So many runs in a thousand only have a bad network; up to the second number, only one fault.
const MILD_BELOW: u64 = 50;
const LONE_BELOW: u64 = 150;
/// By then everything is placed and runs, and a preferred node has its role.
const LONE_AT: u64 = 10 * SECOND;
/// Longer than any promise that follows it.
const LONE_LASTS: u64 = 8 * SECOND;
/// The worst network that must cause no failover: 5 % loss, and up to 10 ms.
const MILD_LOSS_PERMILLE: u64 = 50;
const MILD_DELAY: u64 = 10 * MS;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    InstanceCrash,
    InstanceHang,
    CannotStart,
    AgentKill,
    AgentFreeze,
    NodeKill,
    NodePause,
    Isolation,
    Halves,
    OneWay,
    Loss,
    Delay,
    Repeat,
    Silence,
    LeaderKill,
    SlowCommit,
    BalancerKill,
    WallStep,
    Drain,
    Switchover,
    Flapping,
    NearLapse,
}

const KINDS: [Kind; 22] = [
    Kind::InstanceCrash,
    Kind::InstanceHang,
    Kind::CannotStart,
    Kind::AgentKill,
    Kind::AgentFreeze,
    Kind::NodeKill,
    Kind::NodePause,
    Kind::Isolation,
    Kind::Halves,
    Kind::OneWay,
    Kind::Loss,
    Kind::Delay,
    Kind::Repeat,
    Kind::Silence,
    Kind::LeaderKill,
    Kind::SlowCommit,
    Kind::BalancerKill,
    Kind::WallStep,
    Kind::Drain,
    Kind::Switchover,
    Kind::Flapping,
    Kind::NearLapse,
];

/// A fault that lasts and is mended.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Hang {
        node: usize,
        service: usize,
    },
    CannotStart {
        node: usize,
        service: usize,
    },
    Cuts(Vec<(usize, usize)>),
    Loss,
    Delay,
    Repeat,
    Silence {
        node: usize,
    },
    SlowCommit,
    Drain {
        node: usize,
    },
    /// Cut off and joined again, so many times more.
    Flap {
        node: usize,
        times: u32,
        cut: bool,
    },
}

/// The plan of one seed.
#[derive(Debug)]
pub(crate) struct Faults {
    kinds: Vec<Kind>,
    /// Mean time between faults.
    every: u64,
    /// True time at which they end.
    pub(crate) until: u64,
    /// How many struck.
    pub(crate) struck: u64,
    pub(crate) course: Course,
}

/// What kind of run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// Some kinds of fault, again and again.
    Swarm,
    /// Nothing fails; the network is as bad as a cluster must bear without a single failover (DESIGN §6).
    Mild,
    /// One fault only, so that the times promised in DESIGN §6 are due.
    Lone,
}

impl Faults {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let share = [80, 200, 400][rng.index(3)];
        let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| rng.chance(share)).collect();
        if kinds.is_empty() {
            kinds.push(KINDS[rng.index(KINDS.len())]);
        }
        let every = [500 * MS, 1500 * MS, 4 * SECOND][rng.index(3)];
        let course = match rng.below(1000) {
            0..MILD_BELOW => Course::Mild,
            MILD_BELOW..LONE_BELOW => Course::Lone,
            _ => Course::Swarm,
        };
        Self { kinds, every, until: rng.between(12 * SECOND, 26 * SECOND), struck: 0, course }
    }
}

/// A hang outlasts `proof_within` of S5, a lease, and what the checker allows.
const HANG_MAX: u64 = 20 * SECOND;

/// How long a fault lasts: often about as long as a lease, where the races are.
fn lasts(rng: &mut Rng) -> u64 {
    match rng.below(10) {
        0..=3 => rng.between(2200 * MS, 3600 * MS),
        4..=7 => rng.between(50 * MS, 1500 * MS),
        _ => rng.between(1500 * MS, 8 * SECOND),
    }
}

impl World {
    /// One fault, and the plan for the next.
    pub(crate) fn strike(&mut self) {
        if self.now >= self.faults.until {
            return self.heal();
        }
        let wait = self.rng.between(self.faults.every / 4, self.faults.every * 2);
        let wait = wait.min(self.faults.until.saturating_sub(self.now));
        self.push_in(wait, Happening::Strike);
        match self.faults.course {
            Course::Swarm => {}
            Course::Mild => {
                (self.network.loss_permille, self.network.delay_max) = (MILD_LOSS_PERMILLE, MILD_DELAY);
                return;
            }
            Course::Lone => {
                if self.faults.struck == 0 && self.now >= LONE_AT {
                    self.faults.until = self.faults.until.max(self.now + LONE_LASTS);
                    self.strike_alone();
                }
                return;
            }
        }
        let kind = self.faults.kinds[self.rng.index(self.faults.kinds.len())];
        self.faults.struck += 1;
        let node = self.rng.index(self.nodes.len());
        let service = self.rng.index(self.services.len());
        let (node, service) = match kind {
            Kind::InstanceCrash | Kind::InstanceHang => self.living().unwrap_or((node, service)),
            _ => (node, service),
        };
        self.say(|w| format!("fault: {kind:?} ({})", w.names[node]));
        self.strike_with(kind, node, service);
    }

    /// Some instance that lives.
    fn living(&mut self) -> Option<(usize, usize)> {
        let all = self.nodes.iter().enumerate().flat_map(|(n, node)| {
            let living = node.instances.iter().enumerate().filter(|(_, instance)| instance.lives());
            living.map(move |(service, _)| (n, service))
        });
        let all: Vec<_> = all.collect();
        let pick = self.rng.index(all.len());
        all.get(pick).copied()
    }

    fn strike_with(&mut self, kind: Kind, node: usize, service: usize) {
        match kind {
            Kind::InstanceCrash if !self.nodes[node].paused => self.crash_instance(node, service),
            Kind::InstanceCrash => {}
            Kind::InstanceHang => self.hang(node, service),
            Kind::CannotStart => {
                self.nodes[node].cannot_start[service] = true;
                self.mend_later(Fault::CannotStart { node, service });
            }
            Kind::AgentKill => self.kill_agent(node),
            Kind::LeaderKill => self.kill_agent(self.store.leader.unwrap_or(node)),
            Kind::NodeKill => self.kill_node(node),
            Kind::AgentFreeze => self.stand_still(node, false),
            Kind::NodePause => self.stand_still(node, true),
            Kind::Isolation => self.cut(self.isolation(node)),
            Kind::Halves => {
                let side: Vec<bool> = self.nodes.iter().map(|_| self.rng.chance(500)).collect();
                let crosses = |(one, other): &(usize, usize)| side[*one] != side[*other];
                self.cut(self.pairs().filter(crosses).collect());
            }
            Kind::OneWay => {
                let some: Vec<_> = self.pairs().collect();
                let some = some.into_iter().filter(|_| self.rng.chance(200)).collect();
                self.cut(some);
            }
            Kind::Loss => {
                self.network.loss_permille = self.rng.between(20, 600);
                self.mend_later(Fault::Loss);
            }
            Kind::Delay => {
                self.network.delay_max = self.slowness();
                self.mend_later(Fault::Delay);
            }
            Kind::Repeat => {
                self.network.twice_permille = 400;
                self.network.delay_max = self.network.delay_max.max(80 * MS);
                self.mend_later(Fault::Repeat);
            }
            Kind::Silence => {
                self.nodes[node].silenced = true;
                self.mend_later(Fault::Silence { node });
            }
            Kind::SlowCommit => {
                self.store.commit_max = self.slowness();
                self.mend_later(Fault::SlowCommit);
            }
            Kind::BalancerKill => {
                if !self.nodes[node].paused && self.nodes[node].up {
                    self.kill_balancer(node);
                    let boot = self.nodes[node].boot;
                    let takes = self.rng.between(100 * MS, 3 * SECOND);
                    self.push_in(takes, Happening::BalancerStarts { node, boot });
                }
            }
            Kind::WallStep => self.nodes[node].wall_step -= self.rng.between(SECOND, 60 * SECOND) as i64,
            Kind::Drain => {
                self.drains.insert(self.names[node].clone());
                self.mend_later(Fault::Drain { node });
            }
            Kind::Switchover => self.ask_switchover(node),
            Kind::NearLapse => {
                // A renewal that arrives just when its lease runs out, while the log is behind.
                let cuts = self.isolation(node);
                cuts.iter().for_each(|(from, to)| self.network.cut(*from, *to));
                let after = self.rng.between(2400 * MS, 3000 * MS);
                self.push_in(after, Happening::Mend(Fault::Cuts(cuts)));
                self.store.commit_max = self.rng.between(200 * MS, 900 * MS);
                self.push_in(after + 500 * MS, Happening::Mend(Fault::SlowCommit));
            }
            Kind::Flapping => self.mend(Fault::Flap { node, times: 6, cut: false }),
        }
    }

    /// How long something takes that is slow: mostly well within a lease, sometimes about as long.
    fn slowness(&mut self) -> u64 {
        match self.rng.chance(300) {
            true => self.rng.between(SECOND, 3 * SECOND),
            false => self.rng.between(20 * MS, 700 * MS),
        }
    }

    fn mend_later(&mut self, fault: Fault) {
        let after = lasts(&mut self.rng);
        self.push_in(after, Happening::Mend(fault));
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let count = self.nodes.len();
        (0..count).flat_map(move |one| (0..count).filter(move |other| *other != one).map(move |other| (one, other)))
    }

    fn isolation(&self, node: usize) -> Vec<(usize, usize)> {
        self.pairs().filter(|(one, other)| *one == node || *other == node).collect()
    }

    fn cut(&mut self, cuts: Vec<(usize, usize)>) {
        cuts.iter().for_each(|(from, to)| self.network.cut(*from, *to));
        self.mend_later(Fault::Cuts(cuts));
    }

    fn hang(&mut self, node: usize, service: usize) {
        let reading = self.boottime(node);
        let instance = &mut self.nodes[node].instances[service];
        if instance.state == InstanceState::Running && instance.hung_since.is_none() {
            instance.hung_since = Some(reading);
            let after = if self.rng.chance(500) { HANG_MAX } else { self.rng.between(SECOND, HANG_MAX) };
            self.push_in(after, Happening::Mend(Fault::Hang { node, service }));
        }
    }

    fn kill_agent(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.paused || node.agent.take().is_none() {
            return;
        }
        node.frozen = false;
        node.deferred.clear();
        let boot = node.boot;
        // The parent mostly starts it again at once.
        let takes = if self.rng.chance(500) { self.rng.between(20 * MS, 300 * MS) } else { lasts(&mut self.rng) };
        self.push_in(takes, Happening::AgentStarts { node: n, boot });
        self.say(|w| format!("{}: agent is killed", w.names[n]));
    }

    fn kill_node(&mut self, n: usize) {
        if self.nodes[n].up {
            self.kill_node_until_healed(n);
            let takes = self.rng.between(SECOND, 8 * SECOND);
            self.push_in(takes, Happening::NodeBoots { node: n });
        }
    }

    /// A machine is gone until all faults end.
    pub(crate) fn kill_node_until_healed(&mut self, n: usize) {
        self.kill_everything(n);
        let node = &mut self.nodes[n];
        (node.up, node.paused, node.frozen) = (false, false, false);
        node.boot += 1;
        node.deferred.clear();
    }

    pub(crate) fn boot_node(&mut self, n: usize) {
        if self.nodes[n].up {
            return;
        }
        let now = self.now;
        let node = &mut self.nodes[n];
        (node.up, node.balancer_up) = (true, true);
        node.clock.restart(now);
        let boot = node.boot;
        self.checks.leases.rebooted(n);
        self.push_in(50 * MS, Happening::AgentStarts { node: n, boot });
    }

    fn stand_still(&mut self, n: usize, whole: bool) {
        let node = &mut self.nodes[n];
        if !node.up || node.paused || node.frozen {
            return;
        }
        (node.paused, node.frozen) = (whole, !whole);
        if whole {
            self.checks.exclusivity.pauses(n);
        }
        let takes = lasts(&mut self.rng);
        self.push_in(takes, Happening::Resumes { node: n, whole });
    }

    /// What a node missed happens now, in no particular order.
    pub(crate) fn resume(&mut self, n: usize, whole: bool) {
        let node = &mut self.nodes[n];
        if (whole && !node.paused) || (!whole && !node.frozen) {
            return;
        }
        (node.paused, node.frozen) = (false, false);
        self.say(|w| format!("{}: moves again", w.names[n]));
        let missed = std::mem::take(&mut self.nodes[n].deferred);
        for what in missed {
            let after = self.rng.between(0, 20 * MS);
            self.push_in(after, what);
        }
        if whole {
            self.checks.exclusivity.resumes(self.now, n);
        }
    }

    fn ask_switchover(&mut self, node: usize) {
        let role = self.roles[1 + self.rng.index(self.roles.len() - 1)].clone();
        let subject = match role {
            RoleKey::Service(id) => Subject::Service(id),
            RoleKey::Address(name) => Subject::Address(name),
            RoleKey::Coordinator => return,
        };
        self.switchovers.insert(subject, self.names[node].clone());
    }

    /// A fault ends by itself.
    pub(crate) fn mend(&mut self, fault: Fault) {
        match fault {
            Fault::Hang { node, service } => {
                let reading = self.boottime(node);
                let instance = &mut self.nodes[node].instances[service];
                if instance.hung_since.take().is_some() {
                    instance.healthy_since = reading;
                }
            }
            Fault::CannotStart { node, service } => self.nodes[node].cannot_start[service] = false,
            Fault::Cuts(cuts) => cuts.iter().for_each(|(from, to)| self.network.mend(*from, *to)),
            Fault::Loss => self.network.loss_permille = 0,
            Fault::Delay => self.network.delay_max = DELAY_QUIET,
            Fault::Repeat => self.network.twice_permille = 0,
            Fault::Silence { node } => self.nodes[node].silenced = false,
            Fault::SlowCommit => self.store.commit_max = COMMIT_QUIET,
            Fault::Drain { node } => drop(self.drains.remove(&self.names[node])),
            Fault::Flap { node, times, cut } => self.flap(node, times, cut),
        }
    }

    fn flap(&mut self, node: usize, times: u32, cut: bool) {
        let links = self.isolation(node);
        if cut {
            links.iter().for_each(|(from, to)| self.network.mend(*from, *to));
        }
        if times > 0 && self.now < self.faults.until {
            if !cut {
                self.faults.struck += 1;
                links.iter().for_each(|(from, to)| self.network.cut(*from, *to));
            }
            let after = self.rng.between(1500 * MS, 4 * SECOND);
            self.push_in(after, Happening::Mend(Fault::Flap { node, times: times - 1, cut: !cut }));
        }
    }

    /// The end of all faults: what was broken is mended, what was asked is withdrawn.
    fn heal(&mut self) {
        self.say(|_| "faults end".to_owned());
        self.network.heal();
        self.store.commit_max = COMMIT_QUIET;
        self.drains.clear();
        self.switchovers.clear();
        for n in 0..self.nodes.len() {
            let reading = self.boottime(n);
            let node = &mut self.nodes[n];
            node.silenced = false;
            node.cannot_start.fill(false);
            for instance in node.instances.iter_mut().filter(|instance| instance.hung_since.is_some()) {
                (instance.hung_since, instance.healthy_since) = (None, reading);
            }
            let (paused, frozen) = (node.paused, node.frozen);
            if paused || frozen {
                self.resume(n, paused);
            }
            self.boot_node(n);
        }
    }
}
