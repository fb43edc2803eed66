//! How much room a node keeps for what it would have to take over.

use std::collections::BTreeMap;

/// One service's load: where it is carried, and which node would carry it instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standby<'a> {
    /// The failure domain of the node that carries the load now, at the level of the failure that is prepared for.
    pub active_in: &'a str,
    /// The node that takes over.
    pub standby_on: &'a str,
    /// The load, in slots.
    pub load: u32,
}

/// The reserve of each node that has to stand in for others: R(h), the largest sum of loads that one failed domain
/// moves to it. Failures are taken to come one at a time, so that domains share a reserve (availability.md §5.4).
pub fn standby_reserve<'a>(standbys: &[Standby<'a>]) -> BTreeMap<&'a str, u32> {
    let mut moved: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for standby in standbys {
        let sum = moved.entry((standby.standby_on, standby.active_in)).or_default();
        *sum = sum.saturating_add(standby.load);
    }
    let mut reserve: BTreeMap<&str, u32> = BTreeMap::new();
    for ((node, _), sum) in moved {
        let most = reserve.entry(node).or_default();
        *most = sum.max(*most);
    }
    reserve
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_share_a_reserve_and_services_of_one_domain_do_not() {
        let standby = |active_in, load| Standby { active_in, standby_on: "spare", load };
        let reserve = standby_reserve(&[standby("a", 3), standby("b", 2), standby("b", 2)]);
        assert_eq!(reserve, BTreeMap::from([("spare", 4)]));
    }
}
