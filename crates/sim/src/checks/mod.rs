//! The checkers. They know the rules of DESIGN §5 in their own words and see what happens, never what the product thinks.

pub(crate) mod changes;
pub(crate) mod durability;
pub(crate) mod exclusivity;
pub(crate) mod leases;
pub(crate) mod order;
pub(crate) mod promises;
pub(crate) mod proof;
pub(crate) mod redundancy;
pub(crate) mod silence;

/// All of them, for one run.
#[derive(Debug)]
pub(crate) struct Checks {
    pub(crate) exclusivity: exclusivity::Exclusivity,
    pub(crate) leases: leases::Leases,
    pub(crate) order: order::Order,
    pub(crate) silence: silence::Silence,
    pub(crate) changes: changes::Changes,
    pub(crate) durability: durability::Durability,
}

impl Checks {
    pub(crate) fn new(roles: usize, nodes: usize) -> Self {
        Self {
            exclusivity: exclusivity::Exclusivity::default(),
            leases: leases::Leases::default(),
            order: order::Order::new(roles, nodes),
            silence: silence::Silence::default(),
            changes: changes::Changes::default(),
            durability: durability::Durability::default(),
        }
    }
}
