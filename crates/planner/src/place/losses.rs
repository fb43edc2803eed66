//! The question behind the models, in general: n instances in a tree of domains, of which n − s are left when any f
//! domains of a level are lost.
//!
//! The five models ask it with one instance to a domain; this is for sizes between them, and to hold them against. The
//! f fullest domains hold s at most if, for some t, the instances beyond t in every domain are s − f·t at most. For one
//! t such sets of slots are a matroid, also within caps on domains at the level and below, so that the greedy is exact
//! (availability.md §5.2). With caps above the level and f > 1 it is not: then an answer holds, but may move too much.

use std::collections::BTreeMap;

/// A slot that can take one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot<'a> {
    /// The domains it is in, the largest first, its host last. A name stands for one domain of the whole tree.
    pub path: Vec<&'a str>,
    /// Whether it has an instance now.
    pub in_use: bool,
}

/// What must be survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Losses {
    /// n: how many instances there are.
    pub instances: u32,
    /// s: how many of them may be lost.
    pub to_spare: u32,
    /// f: how many domains fail.
    pub domains: u32,
    /// Their level: a place in the paths.
    pub level: usize,
}

/// The slots to take, by their place in the list, in the order of being taken: with as many as possible that are in
/// use.
///
/// `caps` says how many instances a domain may hold. None where it cannot be done.
pub fn survive_losses(slots: &[Slot<'_>], losses: Losses, caps: &BTreeMap<&str, u32>) -> Option<Vec<usize>> {
    let Losses { to_spare, domains, .. } = losses;
    // With one domain lost, a cap of s says it all; with none, nothing is asked.
    let thresholds = match domains {
        0 => u32::MAX..=u32::MAX,
        1 => to_spare..=to_spare,
        _ => 0..=to_spare / domains,
    };
    let mut order: Vec<usize> = (0..slots.len()).collect();
    order.sort_by_key(|at| !slots[*at].in_use);
    let kept = |taken: &Vec<usize>| taken.iter().filter(|at| slots[**at].in_use).count();
    let ways = thresholds.filter_map(|threshold| take(slots, &order, losses, threshold, caps));
    ways.reduce(|best, way| if kept(&way) > kept(&best) { way } else { best })
}

/// The greedy for one threshold.
fn take(
    slots: &[Slot<'_>],
    order: &[usize],
    losses: Losses,
    threshold: u32,
    caps: &BTreeMap<&str, u32>,
) -> Option<Vec<usize>> {
    let mut beyond_left = losses.to_spare.saturating_sub(losses.domains.saturating_mul(threshold));
    let mut used: BTreeMap<&str, u32> = BTreeMap::new();
    let mut taken = Vec::new();
    for at in order {
        if taken.len() as u32 == losses.instances {
            break;
        }
        let path = &slots[*at].path;
        let count = |domain: &&str| used.get(domain).copied().unwrap_or(0);
        let is_beyond = path.get(losses.level).is_some_and(|domain| count(domain) >= threshold);
        let is_capped = path.iter().any(|domain| caps.get(domain).is_some_and(|cap| count(domain) >= *cap));
        if is_capped || (is_beyond && beyond_left == 0) {
            continue;
        }
        beyond_left -= u32::from(is_beyond);
        path.iter().for_each(|domain| *used.entry(domain).or_default() += 1);
        taken.push(*at);
    }
    (taken.len() as u32 == losses.instances).then_some(taken)
}
