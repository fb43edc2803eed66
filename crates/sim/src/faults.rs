//! What goes wrong, as it happens: strikes of the plan hit the world, last, and are mended.

use std::fmt;

use backstay_model::{InstanceState, RoleKey, Subject};

use crate::clock::{DRIFT_PPM_MAX, MS, SECOND};
use crate::disk::DiskState;
use crate::network::DELAY_QUIET;
use crate::plan::{Course, Kind, LONE_KINDS, Plan, Strike};
use crate::rng::Rng;
use crate::store::COMMIT_QUIET;
use crate::world::{Happening, World};

/// The worst network that must cause no failover: 5 % loss, and up to 10 ms.
const MILD_LOSS_PERMILLE: u64 = 50;
const MILD_DELAY: u64 = 10 * MS;

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
    /// The links are cut and joined again after each of these waits.
    Flap {
        links: Vec<(usize, usize)>,
        waits: Vec<u64>,
        cut: bool,
    },
    /// Links that are cut one by one and joined again in another order, as many steps as there are waits left.
    Swizzle {
        links: Vec<(usize, usize)>,
        waits: Vec<u64>,
    },
    Disk {
        node: usize,
    },
    /// These agents are killed again.
    Storm {
        nodes: Vec<usize>,
        waits: Vec<u64>,
    },
}

/// One fault that struck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Struck {
    /// Its place in the plan of the seed: what `without` names.
    pub index: u32,
    /// When, in true time.
    pub at_ms: u64,
    /// What kind of fault.
    pub kind: String,
    /// Whom it struck; none for what strikes all alike.
    pub nodes: Vec<String>,
    /// How long it was to last; none for what is over at once.
    pub lasts_ms: Option<u64>,
    /// What else there is to say: which service, how much.
    pub detail: String,
}

impl fmt::Display for Struck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>3}  at {:>6}.{:03} s  {}", self.index, self.at_ms / 1000, self.at_ms % 1000, self.kind)?;
        if !self.nodes.is_empty() {
            write!(f, " {}", self.nodes.join(" "))?;
        }
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        self.lasts_ms.map_or(Ok(()), |lasts| write!(f, " for {} ms", lasts))
    }
}

/// The plan, and what has become of it.
#[derive(Debug)]
pub(crate) struct Faults {
    pub(crate) plan: Plan,
    /// True time at which they end.
    pub(crate) until: u64,
    /// How many struck.
    pub(crate) struck: u64,
    pub(crate) course: Course,
    /// Those that struck, in order.
    pub(crate) list: Vec<Struck>,
}

impl Faults {
    pub(crate) fn of(plan: Plan) -> Self {
        Self { until: plan.until, course: plan.course, plan, struck: 0, list: Vec::new() }
    }

    /// Whether a node is not among those that are healed.
    pub(crate) fn stays_dead(&self, now: u64, node: usize) -> bool {
        now >= self.until && self.plan.core.as_ref().is_some_and(|core| !core.contains(&node))
    }
}

impl World {
    /// Plans every strike that is not left out, and the end of all faults.
    pub(crate) fn plan_strikes(&mut self) {
        let plan = &self.faults.plan;
        let kept = plan.strikes.iter().filter(|strike| !plan.without.contains(&strike.index));
        let kept: Vec<(u64, usize)> = kept.map(|strike| (strike.at, strike.index as usize)).collect();
        for (at, index) in kept {
            self.push_in(at, Happening::Strike(index));
        }
        self.push_in(self.faults.until, Happening::FaultsEnd);
        if self.faults.course == Course::Mild {
            self.push_in(3 * SECOND, Happening::Weather);
        }
    }

    /// The network turns as bad as a cluster must bear.
    pub(crate) fn turn_mild(&mut self) {
        (self.network.loss_permille, self.network.delay_max) = (MILD_LOSS_PERMILLE, MILD_DELAY);
    }

    /// One strike of the plan.
    pub(crate) fn strike(&mut self, index: usize) {
        let Some(strike) = self.faults.plan.strikes.get(index).cloned() else { return };
        let strike = self.aimed(strike);
        self.faults.struck += 1;
        self.note(&strike);
        if strike.is_lone() {
            self.strike_alone(&strike);
        } else {
            self.strike_with(&strike);
        }
    }

    /// Some kinds look for what is there when they strike.
    fn aimed(&self, mut strike: Strike) -> Strike {
        match strike.kind {
            Kind::InstanceCrash | Kind::InstanceHang => {
                (strike.node, strike.service) = self.living(strike.pick).unwrap_or((strike.node, strike.service));
            }
            Kind::PrimaryAgentFreeze | Kind::PrimaryLoss => strike.node = self.primary().unwrap_or(strike.node),
            Kind::StandbyCrash => strike.node = self.standby(strike.pick).unwrap_or(strike.node),
            Kind::LeaderKill => strike.node = self.store.leader.unwrap_or(strike.node),
            _ if strike.is_lone() => {
                let holder = self.grant_in_store(strike.role).and_then(|grant| self.node_named(&grant.holder));
                strike.node = holder.unwrap_or(strike.node);
            }
            _ => {}
        }
        strike
    }

    /// Where the database is primary.
    fn primary(&self) -> Option<usize> {
        (0..self.nodes.len()).rev().find(|n| self.nodes[*n].database.primary.is_some())
    }

    /// Where it is a standby: the first in an order that is the same whatever else has happened.
    fn standby(&self, pick: u64) -> Option<usize> {
        let service = self.database_service()?;
        let stands_by =
            |n: &usize| self.nodes[*n].instances[service].lives() && self.nodes[*n].database.primary.is_none();
        (0..self.nodes.len()).filter(stands_by).min_by_key(|n| Rng::stream(pick, *n as u64).next())
    }

    /// Some instance that lives: the first in an order that is the same whatever else has happened.
    fn living(&self, pick: u64) -> Option<(usize, usize)> {
        let all = self.nodes.iter().enumerate().flat_map(|(n, node)| {
            let living = node.instances.iter().enumerate().filter(|(_, instance)| instance.lives());
            living.map(move |(service, _)| (n, service))
        });
        all.min_by_key(|(n, service)| Rng::stream(pick, (n * 64 + service) as u64).next())
    }

    fn note(&mut self, strike: &Strike) {
        let nodes = match strike.whom() {
            Whom::Nobody => Vec::new(),
            Whom::Node => vec![self.names[strike.node].0.clone()],
            Whom::Links => strike.links.iter().map(|(a, b)| format!("{}→{}", self.names[*a], self.names[*b])).collect(),
        };
        let detail = match strike.kind {
            Kind::InstanceCrash | Kind::InstanceHang | Kind::CannotStart => self.services[strike.service].to_string(),
            Kind::Switchover | Kind::LoneCrash | Kind::LoneHang | Kind::LoneFailure | Kind::LoneSwitchover => {
                self.roles[strike.role].to_string()
            }
            Kind::Loss => format!("{} in a thousand", strike.amount),
            Kind::Delay
            | Kind::SlowCommit
            | Kind::SlowDisk
            | Kind::WallStep
            | Kind::WallStepAhead
            | Kind::NearLapse => {
                format!("{} ms", strike.amount / MS)
            }
            Kind::Flapping => format!("{} times", strike.waits.len().div_ceil(2)),
            Kind::RestartStorm => format!("{} times", strike.waits.len()),
            Kind::Drift => format!("{} ppm", strike.amount as i64 - DRIFT_PPM_MAX as i64),
            _ => String::new(),
        };
        let struck = Struck {
            index: strike.index,
            at_ms: self.now / MS,
            kind: format!("{:?}", strike.kind),
            nodes,
            lasts_ms: strike.is_lasting().then_some(strike.lasts / MS),
            detail,
        };
        self.say(|_| format!("fault {struck}"));
        self.faults.list.push(struck);
    }

    fn strike_with(&mut self, strike: &Strike) {
        let Strike { node, service, lasts, amount, .. } = *strike;
        match strike.kind {
            Kind::InstanceCrash if !self.nodes[node].paused => self.crash_instance(node, service),
            Kind::InstanceCrash => {}
            Kind::InstanceHang => self.hang(node, service, lasts),
            Kind::CannotStart => {
                self.nodes[node].cannot_start[service] = true;
                self.mend_after(lasts, Fault::CannotStart { node, service });
            }
            Kind::AgentKill | Kind::LeaderKill => self.kill_agent(node, lasts),
            Kind::NodeKill | Kind::PrimaryLoss => self.kill_node(node, lasts),
            Kind::StandbyCrash => {
                if let Some(service) = self.database_service().filter(|_| !self.nodes[node].paused) {
                    self.crash_instance(node, service);
                }
            }
            Kind::AgentFreeze | Kind::PrimaryAgentFreeze => drop(self.stand_still(node, false, lasts)),
            Kind::NodePause => drop(self.stand_still(node, true, lasts)),
            Kind::ClockStop => self.stop_with_its_clock(node, lasts),
            Kind::DiskLoss => self.lose_disk(node, lasts),
            Kind::Blackout => self.black_out(lasts),
            Kind::RestartStorm => self.storm(strike.crowd(self.nodes.len()), strike.waits.clone()),
            Kind::Drift => self.drift(node, amount),
            Kind::FullDisk => self.disk_turns(strike, DiskState::Full),
            Kind::SlowDisk => self.disk_turns(strike, DiskState::Slow(amount)),
            Kind::HungDisk => self.disk_turns(strike, DiskState::Hung),
            Kind::Swizzle => self.swizzle(strike.links.clone(), strike.waits.clone()),
            Kind::Isolation | Kind::Halves | Kind::OneWay | Kind::Ring | Kind::Bridge => self.cut(&strike.links, lasts),
            Kind::Loss => {
                self.network.loss_permille = amount;
                self.mend_after(lasts, Fault::Loss);
            }
            Kind::Delay => {
                self.network.delay_max = amount;
                self.mend_after(lasts, Fault::Delay);
            }
            Kind::Repeat => {
                self.network.twice_permille = 400;
                self.network.delay_max = self.network.delay_max.max(80 * MS);
                self.mend_after(lasts, Fault::Repeat);
            }
            Kind::Silence => {
                self.nodes[node].silenced = true;
                self.mend_after(lasts, Fault::Silence { node });
            }
            Kind::SlowCommit => {
                self.store.commit_max = amount;
                self.mend_after(lasts, Fault::SlowCommit);
            }
            Kind::BalancerKill => self.lose_balancer(node, lasts),
            Kind::WallStep => self.nodes[node].wall_step -= amount as i64,
            Kind::WallStepAhead => self.nodes[node].wall_step += amount as i64,
            Kind::Drain => {
                self.drains.insert(self.names[node].clone());
                self.mend_after(lasts, Fault::Drain { node });
            }
            Kind::Switchover => self.ask_switchover(strike.role, node),
            Kind::NearLapse => {
                self.cut(&strike.links, lasts);
                self.store.commit_max = amount;
                self.mend_after(lasts + 500 * MS, Fault::SlowCommit);
            }
            Kind::Flapping => self.flap(strike.links.clone(), strike.waits.clone(), false),
            Kind::LoneLoss | Kind::LoneCrash | Kind::LoneHang | Kind::LoneFailure | Kind::LoneSwitchover => {}
        }
    }

    fn mend_after(&mut self, after: u64, fault: Fault) {
        self.push_in(after, Happening::Mend(fault));
    }

    fn cut(&mut self, links: &[(usize, usize)], lasts: u64) {
        links.iter().for_each(|(from, to)| self.network.cut(*from, *to));
        self.mend_after(lasts, Fault::Cuts(links.to_vec()));
    }

    pub(crate) fn hang(&mut self, node: usize, service: usize, lasts: u64) {
        let reading = self.boottime(node);
        let instance = &mut self.nodes[node].instances[service];
        if instance.state == InstanceState::Running && instance.hung_since.is_none() {
            instance.hung_since = Some(reading);
            self.mend_after(lasts, Fault::Hang { node, service });
        }
    }

    fn lose_balancer(&mut self, node: usize, lasts: u64) {
        if !self.nodes[node].paused && self.nodes[node].up {
            self.kill_balancer(node);
            let boot = self.nodes[node].boot;
            self.push_in(lasts, Happening::BalancerStarts { node, boot });
        }
    }

    fn ask_switchover(&mut self, role: usize, node: usize) {
        let subject = match self.roles[role].clone() {
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
            Fault::Flap { links, waits, cut } => self.flap(links, waits, cut),
            Fault::Swizzle { links, waits } => self.swizzle(links, waits),
            Fault::Disk { node } => self.nodes[node].disk.state = DiskState::Well,
            Fault::Storm { nodes, waits } => self.storm(nodes, waits),
        }
    }

    /// One step: first every link is cut, one by one; then they are joined, in the other order of the list's halves.
    fn swizzle(&mut self, links: Vec<(usize, usize)>, mut waits: Vec<u64>) {
        if self.now >= self.faults.until {
            return;
        }
        let Some(after) = waits.pop() else { return };
        let (cuts, joins) = links.split_at(links.len() / 2);
        let step = links.len() - 1 - waits.len();
        match cuts.get(step) {
            Some((one, other)) => [(*one, *other), (*other, *one)].iter().for_each(|(a, b)| self.network.cut(*a, *b)),
            None => {
                let (one, other) = joins[step - cuts.len()];
                [(one, other), (other, one)].iter().for_each(|(a, b)| self.network.mend(*a, *b));
            }
        }
        self.mend_after(after, Fault::Swizzle { links, waits });
    }

    fn flap(&mut self, links: Vec<(usize, usize)>, mut waits: Vec<u64>, cut: bool) {
        if cut {
            links.iter().for_each(|(from, to)| self.network.mend(*from, *to));
        }
        if self.now >= self.faults.until {
            return;
        }
        if let Some(after) = waits.pop() {
            if !cut {
                self.faults.struck += 1;
                links.iter().for_each(|(from, to)| self.network.cut(*from, *to));
            }
            self.mend_after(after, Fault::Flap { links, waits, cut: !cut });
        }
    }

    /// The end of all faults: what was broken is mended, what was asked is withdrawn. Where only a core is healed, the other
    /// nodes are dead from now on.
    pub(crate) fn heal(&mut self) {
        self.say(|_| "faults end".to_owned());
        for n in 0..self.nodes.len() {
            if self.nodes[n].up && self.faults.stays_dead(self.now, n) {
                self.kill_node_until_healed(n);
                self.faults.struck += 1;
            }
        }
        self.network.heal();
        self.store.commit_max = COMMIT_QUIET;
        self.drains.clear();
        self.switchovers.clear();
        for n in 0..self.nodes.len() {
            let reading = self.boottime(n);
            let node = &mut self.nodes[n];
            node.silenced = false;
            node.cannot_start.fill(false);
            node.disk.state = DiskState::Well;
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

/// Whom a strike is said to hit.
enum Whom {
    Nobody,
    Node,
    Links,
}

impl Strike {
    fn whom(&self) -> Whom {
        match self.kind {
            Kind::Loss | Kind::Delay | Kind::Repeat | Kind::SlowCommit => Whom::Nobody,
            Kind::Halves | Kind::OneWay | Kind::Ring | Kind::Bridge | Kind::Swizzle => Whom::Links,
            Kind::Blackout => Whom::Nobody,
            _ => Whom::Node,
        }
    }

    fn is_lone(&self) -> bool {
        LONE_KINDS.contains(&self.kind)
    }

    fn is_lasting(&self) -> bool {
        let over_at_once = [
            Kind::InstanceCrash,
            Kind::WallStep,
            Kind::WallStepAhead,
            Kind::Drift,
            Kind::Swizzle,
            Kind::RestartStorm,
            Kind::Switchover,
            Kind::Flapping,
        ];
        !self.is_lone() && !over_at_once.contains(&self.kind)
    }
}
