//! Small clusters at random, the same ones every time.

use std::collections::BTreeSet;

use backstay_model::{DomainLevel, NodeName, ServiceId};
use backstay_planner::{Carrier, Demand, Topology};
use backstay_spec::{Redundancy, ServiceSpec};

/// Numbers that only look random (xorshift64*, Vigna 2016).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn some_of<T: Clone>(&mut self, list: &[T], percent: usize) -> Vec<T> {
        list.iter().filter(|_| self.chance(percent)).cloned().collect()
    }
}

/// What clusters and services are like.
pub struct Kind {
    pub nodes: usize,
    pub racks: usize,
    pub sites: usize,
    pub need: usize,
    /// The sizes of instances.
    pub sizes: Vec<u32>,
    /// Percent of nodes that have a number of slots, and the largest.
    pub slots: (usize, usize),
}

pub fn topology(dice: &mut Dice, kind: &Kind) -> Topology {
    let nodes = 1 + dice.below(kind.nodes);
    let racks = 1 + dice.below(kind.racks);
    let sites = 1 + dice.below(kind.sites);
    let carriers: Vec<_> = (0..nodes)
        .map(|n| Carrier {
            name: NodeName(format!("n{n}")),
            rack: dice.chance(90).then(|| format!("r{}", dice.below(racks))),
            site: format!("s{}", dice.below(sites)),
            slots: dice.chance(kind.slots.0).then(|| 1 + dice.below(kind.slots.1) as u32),
        })
        .collect();
    Topology::new(carriers)
}

pub fn names(topology: &Topology) -> Vec<NodeName> {
    topology.carriers().iter().map(|carrier| carrier.name.clone()).collect()
}

pub fn service(dice: &mut Dice, kind: &Kind, name: &str) -> ServiceSpec {
    let mut service = plain_service(name);
    service.need = 1 + dice.below(kind.need) as u32;
    service.redundancy = MODELS[dice.below(5)];
    service.spread = [DomainLevel::Node, DomainLevel::Rack, DomainLevel::Site][dice.below(3)];
    service.slots = kind.sizes[dice.below(kind.sizes.len())];
    if kind.sites > 1 && dice.chance(25) {
        service.sites = vec!["s1".to_owned(), "s0".to_owned()];
        service.spread = service.spread.min(DomainLevel::Rack);
    }
    service
}

pub const MODELS: [Redundancy; 5] =
    [Redundancy::N, Redundancy::NPlus1, Redundancy::NPlus2, Redundancy::TwoN, Redundancy::TwoNPlus1];

pub fn plain_service(name: &str) -> ServiceSpec {
    let app = format!("[app.{name}]\nrun = [\"/bin/x\"]\nredundancy = \"N\"\n");
    let text = format!("cluster = \"t\"\n[nodes]\nn = {{ addr = \"10.0.0.1\" }}\n{app}");
    let parsed = backstay_spec::parse("t.toml", &text);
    parsed.spec.unwrap().services.remove(&ServiceId::app(name)).unwrap()
}

pub fn demand<'a>(dice: &mut Dice, topology: &Topology, service: &'a ServiceSpec) -> Demand<'a> {
    let nodes = names(topology);
    let current = match dice.below(3) {
        0 => BTreeSet::new(),
        _ => dice.some_of(&nodes, 45).into_iter().collect(),
    };
    let mut pull = if dice.chance(30) { dice.some_of(&nodes, 25) } else { Vec::new() };
    if dice.chance(50) {
        pull.reverse();
    }
    Demand {
        service,
        current,
        pull,
        reluctant: dice.some_of(&nodes, 12).into_iter().collect(),
        barred: dice.some_of(&nodes, 12).into_iter().collect(),
    }
}

/// Gives a service preferred nodes, sometimes.
pub fn prefer(dice: &mut Dice, topology: &Topology, service: &mut ServiceSpec) {
    if dice.chance(30) {
        service.prefer = dice.some_of(&names(topology), 30);
    }
}
