//! Failure domains within failure domains: exact, by convolution up the tree and down again.
//!
//! A unit works when its own domain and all above it work; domains fail and are repaired independently. Going up, each
//! domain gets the distribution of its failed units: F = (1 − u)·(⊛ of those within) + u·(all) (availability.md §2.5).
//! Going down, each gets the distribution of the failed units outside it, from which every importance follows without a
//! subtraction. O(units²) up, O(units · units that may fail · log) down; all terms non-negative.

use super::downtime::Downtime;
use super::range::{self, OutOfRange};

/// The most units of one tree.
pub const TREE_UNITS_MAX: u32 = 10_000;
/// The most domains of one tree.
pub const TREE_DOMAINS_MAX: usize = 100_000;
/// The most domains one within another.
pub const TREE_DEPTH_MAX: u32 = 64;

/// One domain: something that fails as one piece with all that is in it. A unit that fails by itself is one too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Domain {
    /// The domain around it, by number; none at the top.
    pub parent: Option<usize>,
    /// Part of the time that it is down by itself.
    pub unavailability: f64,
    /// Mean time to its repair, in hours.
    pub mttr_h: f64,
    /// Units that are down exactly when it, or one around it, is.
    pub units: u32,
}

/// Domains by number, each after the one around it.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    domains: Vec<Domain>,
    depths: Vec<u32>,
    units: u32,
}

/// What one domain means to the service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effect {
    /// Units in it, at any depth.
    pub units: u32,
    /// Birnbaum importance: the probability that the service is up, and would be down if this domain were.
    pub birnbaum: f64,
    /// Criticality: the part of the downtime that would go if this domain never failed.
    pub criticality: f64,
    /// The probability that all around it is up and the service holds although this domain is down.
    pub holds_without: f64,
    /// Its failure alone takes the service down.
    pub is_spof: bool,
}

/// What a tree says about a service that needs so many of its units.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeDowntime {
    /// Time with fewer than the needed units.
    pub downtime: Downtime,
    /// The probability of so many failed units, from 0 to all.
    pub failed_units: Vec<f64>,
    /// Each domain's part in it, in the order they were added.
    pub effects: Vec<Effect>,
}

impl Tree {
    /// Adds a domain; answers its number.
    ///
    /// # Errors
    /// When the one around it is not there yet, a field is out of its range, or the tree grows too large.
    pub fn add(&mut self, domain: Domain) -> Result<usize, OutOfRange> {
        let number = self.domains.len();
        if let Some(parent) = domain.parent.filter(|parent| *parent >= number) {
            return Err(OutOfRange::new("parent", parent, format!("a domain that was added before, below {number}")));
        }
        if number >= TREE_DOMAINS_MAX {
            return Err(OutOfRange::new("number of domains", number + 1, format!("at most {TREE_DOMAINS_MAX}")));
        }
        range::fraction("unavailability", domain.unavailability)?;
        range::repair_rate("mttr", domain.mttr_h)?;
        range::count("units", domain.units, 0, TREE_UNITS_MAX - self.units)?;
        let depth = domain.parent.map_or(1, |parent| self.depths[parent] + 1);
        range::count("depth", depth, 1, TREE_DEPTH_MAX)?;
        self.depths.push(depth);
        self.units += domain.units;
        self.domains.push(domain);
        Ok(number)
    }

    /// Units of all domains together.
    pub fn units(&self) -> u32 {
        self.units
    }

    /// Downtime in the long run of a service that needs `need` of the units, and what each domain has to do with it.
    ///
    /// # Errors
    /// When `need` is not among the number of units.
    pub fn downtime(&self, need: u32) -> Result<TreeDowntime, OutOfRange> {
        range::count("need", need, 1, self.units)?;
        let fails_at = (self.units - need + 1) as usize;
        let sums = Sums::over(self);
        let unavailability: f64 = sums.root[fails_at..].iter().sum();
        let mut effects = sums.effects(self, fails_at);
        let mut outages_per_h = 0.0;
        for (effect, domain) in effects.iter_mut().zip(&self.domains) {
            let down = effect.birnbaum * domain.unavailability;
            effect.criticality = if unavailability > 0.0 { down / unavailability } else { 0.0 };
            outages_per_h += down / domain.mttr_h;
        }
        let downtime = Downtime { unavailability, outages_per_h };
        Ok(TreeDowntime { downtime, failed_units: sums.root, effects })
    }

    /// The probability that a service which needs `need` units is down, given that some domains are known to be up
    /// (`true`) or down; the others are as likely to be down as in the long run.
    ///
    /// # Errors
    /// When a domain does not exist or `need` is not among the number of units.
    pub fn unavailability_given(&self, need: u32, known: &[(usize, bool)]) -> Result<f64, OutOfRange> {
        range::count("need", need, 1, self.units)?;
        let given = self.given(known)?;
        let fails_at = (self.units - need + 1) as usize;
        Ok(Sums::over(&given).root[fails_at..].iter().sum())
    }

    /// The domains whose failure alone would take the service down, while those in `down` are down already. Empty when
    /// the service is down as it is. Counts units; no probability is compared.
    ///
    /// # Errors
    /// When a domain does not exist or `need` is not among the number of units.
    pub fn spofs_given(&self, need: u32, down: &[usize]) -> Result<Vec<usize>, OutOfRange> {
        range::count("need", need, 1, self.units)?;
        let down: Vec<_> = down.iter().map(|domain| (*domain, false)).collect();
        let mut is_down: Vec<_> =
            self.given(&down)?.domains.iter().map(|domain| domain.unavailability >= 1.0).collect();
        let mut working = vec![0; self.domains.len()];
        for (v, domain) in self.domains.iter().enumerate() {
            is_down[v] |= domain.parent.is_some_and(|parent| is_down[parent]);
            working[v] = if is_down[v] { 0 } else { domain.units };
        }
        let up: u32 = working.iter().sum();
        for v in (0..self.domains.len()).rev() {
            if let Some(parent) = self.domains[v].parent {
                working[parent] += working[v];
            }
        }
        let is_fatal = |v: &usize| up >= need && up - working[*v] < need;
        Ok((0..self.domains.len()).filter(is_fatal).collect())
    }

    fn given(&self, known: &[(usize, bool)]) -> Result<Self, OutOfRange> {
        let mut given = self.clone();
        for (number, is_up) in known {
            let most = self.domains.len();
            let Some(domain) = given.domains.get_mut(*number) else {
                return Err(OutOfRange::new("domain", number, format!("below {most}")));
            };
            domain.unavailability = if *is_up { 0.0 } else { 1.0 };
        }
        Ok(given)
    }
}

/// Distributions of failed units, by number of them.
struct Sums {
    /// Units of each domain, at any depth.
    units: Vec<u32>,
    /// Within each domain, given that it is up itself.
    within: Vec<Vec<f64>>,
    /// Of each domain, its own failure included.
    all: Vec<Vec<f64>>,
    /// Of the whole tree.
    root: Vec<f64>,
    /// Domains directly within each; last, those at the top.
    children: Vec<Vec<usize>>,
}

impl Sums {
    fn over(tree: &Tree) -> Self {
        let count = tree.domains.len();
        let mut units: Vec<u32> = tree.domains.iter().map(|domain| domain.units).collect();
        let mut children = vec![Vec::new(); count + 1];
        let mut within: Vec<Vec<f64>> = vec![Vec::new(); count];
        let mut all: Vec<Vec<f64>> = vec![Vec::new(); count];
        for (v, domain) in tree.domains.iter().enumerate() {
            children[domain.parent.unwrap_or(count)].push(v);
        }
        for v in (0..count).rev() {
            let domain = &tree.domains[v];
            let inside = product(&children[v], &all, usize::MAX);
            let mut failed: Vec<f64> = inside.iter().map(|chance| chance * (1.0 - domain.unavailability)).collect();
            failed.resize(units[v] as usize + 1, 0.0);
            failed[units[v] as usize] += domain.unavailability;
            within[v] = inside;
            all[v] = failed;
            if let Some(parent) = domain.parent {
                units[parent] += units[v];
            }
        }
        let root = product(&children[count], &all, usize::MAX);
        Self { units, within, all, root, children }
    }

    /// Goes down the tree with what is around: the distribution of the units that failed outside, while everything
    /// above is up, only as far as the service is not down yet. Siblings get it by halves, so that no sum is made more
    /// than log times; what is still to do is a list, so that only one path of it is in memory.
    fn effects(&self, tree: &Tree, fails_at: usize) -> Vec<Effect> {
        let nothing = Effect { units: 0, birnbaum: 0.0, criticality: 0.0, holds_without: 0.0, is_spof: false };
        let mut effects = vec![nothing; tree.domains.len()];
        let mut todo = vec![(self.children[tree.domains.len()].as_slice(), vec![1.0])];
        while let Some((group, around)) = todo.pop() {
            match group {
                [] => {}
                [v] => {
                    effects[*v] = self.effect(*v, &around, fails_at);
                    let up = 1.0 - tree.domains[*v].unavailability;
                    todo.push((&self.children[*v], around.iter().map(|chance| chance * up).collect()));
                }
                _ => {
                    let (left, right) = group.split_at(group.len() / 2);
                    for (half, other) in [(left, right), (right, left)] {
                        todo.push((half, convolve(&around, &product(other, &self.all, fails_at), fails_at)));
                    }
                }
            }
        }
        effects
    }

    fn effect(&self, v: usize, around: &[f64], fails_at: usize) -> Effect {
        let units = self.units[v] as usize;
        let (mut birnbaum, mut holds_without) = (0.0, 0.0);
        for (failed, chance) in around.iter().enumerate() {
            if failed + units < fails_at {
                holds_without += chance;
            } else {
                birnbaum += chance * self.within[v].iter().take(fails_at - failed).sum::<f64>();
            }
        }
        let is_spof = units >= fails_at;
        Effect { units: self.units[v], birnbaum, criticality: 0.0, holds_without, is_spof }
    }
}

/// The sum of the failed units of several domains, cut off behind the first `len` numbers.
fn product(group: &[usize], all: &[Vec<f64>], len: usize) -> Vec<f64> {
    group.iter().fold(vec![1.0], |sum, v| convolve(&sum, &all[*v], len))
}

fn convolve(a: &[f64], b: &[f64], len: usize) -> Vec<f64> {
    let mut sum = vec![0.0; (a.len() + b.len() - 1).min(len)];
    for (i, x) in a.iter().enumerate() {
        for (slot, y) in sum.iter_mut().skip(i).zip(b) {
            *slot += x * y;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(parent: Option<usize>, unavailability: f64, units: u32) -> Domain {
        Domain { parent, unavailability, mttr_h: 2.0, units }
    }

    /// Two racks of two nodes, one unit on each.
    fn two_racks() -> Tree {
        let mut tree = Tree::default();
        for _ in 0..2 {
            let rack = tree.add(domain(None, 0.01, 0)).unwrap();
            for _ in 0..2 {
                tree.add(domain(Some(rack), 0.1, 1)).unwrap();
            }
        }
        tree
    }

    #[test]
    fn two_racks_by_hand() {
        let tree = two_racks();
        let rack_out = 0.01 + 0.99 * 0.1 * 0.1;
        let all = tree.downtime(1).unwrap();
        assert!((all.downtime.unavailability - rack_out * rack_out).abs() < 1e-17, "{all:?}");
        let rack = all.effects[0];
        assert!((rack.birnbaum - (1.0 - 0.01) * rack_out).abs() < 1e-17, "{rack:?}");
        assert_eq!((rack.units, rack.is_spof), (2, false));
        assert!((rack.holds_without - (1.0 - rack_out)).abs() < 1e-15, "{rack:?}");
        let three = tree.downtime(3).unwrap();
        assert!(three.effects[0].is_spof && three.effects[3].is_spof && !three.effects[1].is_spof);
        assert_eq!(three.effects[0].holds_without, 0.0);
        assert_eq!(three.failed_units.len(), 5);
        assert!((three.failed_units.iter().sum::<f64>() - 1.0).abs() < 1e-15);
    }

    #[test]
    fn what_is_known_changes_what_is_likely() {
        let tree = two_racks();
        let down = tree.unavailability_given(1, &[(0, false)]).unwrap();
        assert!((down - (0.01 + 0.99 * 0.01)).abs() < 1e-17, "the other rack carries alone: {down}");
        assert_eq!(tree.unavailability_given(1, &[(0, false), (3, false)]), Ok(1.0));
        assert_eq!(tree.unavailability_given(2, &[(0, true), (1, true), (2, true)]), Ok(0.0));
        assert_eq!(tree.spofs_given(2, &[]), Ok(vec![]));
        assert_eq!(tree.spofs_given(2, &[1]), Ok(vec![3]), "a node is down: the other rack must stay");
        assert_eq!(tree.spofs_given(2, &[0]), Ok(vec![3, 4, 5]));
        assert_eq!(tree.spofs_given(3, &[0]), Ok(vec![]), "it is down as it is");
        assert!(tree.unavailability_given(1, &[(6, true)]).is_err() && tree.spofs_given(5, &[]).is_err());
    }

    #[test]
    fn wrong_trees_are_named() {
        let mut tree = two_racks();
        assert_eq!(tree.add(domain(Some(6), 0.1, 1)).unwrap_err().what, "parent");
        assert_eq!(tree.add(domain(None, f64::NAN, 1)).unwrap_err().what, "unavailability");
        assert_eq!(tree.add(Domain { mttr_h: 0.0, ..domain(None, 0.1, 1) }).unwrap_err().what, "mttr");
        assert_eq!(tree.add(domain(None, 0.1, TREE_UNITS_MAX)).unwrap_err().what, "units");
        assert_eq!(tree.downtime(0).unwrap_err().what, "need");
        assert_eq!(tree.downtime(5).unwrap_err().what, "need");
        assert!(Tree::default().downtime(1).is_err());
    }

    #[test]
    fn a_deep_tree_and_a_wide_one_are_no_trouble() {
        let mut deep = Tree::default();
        for level in 0..TREE_DEPTH_MAX as usize {
            deep.add(domain(level.checked_sub(1), 1e-9, u32::from(level == 63))).unwrap();
        }
        let down = deep.downtime(1).unwrap().downtime.unavailability;
        assert!((down / 64e-9 - 1.0).abs() < 1e-6, "{down}");
        assert_eq!(deep.add(domain(Some(63), 0.0, 1)).unwrap_err().what, "depth");
        let mut wide = Tree::default();
        for _ in 0..400 {
            wide.add(domain(None, 0.01, 1)).unwrap();
        }
        let effects = wide.downtime(390).unwrap().effects;
        assert!((effects[0].birnbaum / effects[399].birnbaum - 1.0).abs() < 1e-12);
    }
}
