//! Domain trees and fault trees against going through every case there is.

use std::collections::BTreeMap;

use backstay_planner::predict::fault_tree::FaultTree;
use backstay_planner::predict::{Domain, Tree};

use crate::chains::Numbers;

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * a.abs().max(b.abs()) + 1e-300
}

fn random_tree(numbers: &mut Numbers) -> (Tree, Vec<Domain>) {
    let (mut tree, mut domains) = (Tree::default(), Vec::new());
    for number in 0..2 + numbers.below(8) {
        let domain = Domain {
            parent: (number > 0 && numbers.below(4) > 0).then(|| numbers.below(number)),
            unavailability: numbers.unit() * if numbers.below(2) == 0 { 1.0 } else { 1e-3 },
            mttr_h: 0.1 + numbers.unit(),
            units: numbers.below(3) as u32,
        };
        tree.add(domain).unwrap();
        domains.push(domain);
    }
    let number = tree.add(Domain { parent: None, unavailability: 0.1, mttr_h: 1.0, units: 1 }).unwrap();
    assert_eq!(number, domains.len());
    domains.push(Domain { parent: None, unavailability: 0.1, mttr_h: 1.0, units: 1 });
    (tree, domains)
}

/// Units that work when the domains in `down` (bits) are down.
fn working(domains: &[Domain], down: usize) -> u32 {
    let mut is_down = vec![false; domains.len()];
    let mut units = 0;
    for (v, domain) in domains.iter().enumerate() {
        is_down[v] = down & (1 << v) != 0 || domain.parent.is_some_and(|parent| is_down[parent]);
        units += if is_down[v] { 0 } else { domain.units };
    }
    units
}

fn chance(domains: &[Domain], down: usize) -> f64 {
    let each = domains.iter().enumerate();
    each.map(|(v, domain)| match down & (1 << v) {
        0 => 1.0 - domain.unavailability,
        _ => domain.unavailability,
    })
    .product()
}

#[test]
fn a_tree_is_the_sum_over_all_its_cases() {
    let mut numbers = Numbers(11);
    for _ in 0..150 {
        let (tree, domains) = random_tree(&mut numbers);
        let need = 1 + numbers.below(tree.units() as usize) as u32;
        let solved = tree.downtime(need).unwrap();
        let cases = 1_usize << domains.len();
        let is_down = |case: usize| working(&domains, case) < need;
        let (mut unavailability, mut per_h) = (0.0, 0.0);
        for case in 0..cases {
            let p = chance(&domains, case);
            if is_down(case) {
                unavailability += p;
                continue;
            }
            for (v, domain) in domains.iter().enumerate().filter(|(v, _)| case & (1 << v) == 0) {
                // Failures per hour of what is up: u/(1 − u) repairs per hour.
                let failures = domain.unavailability / (1.0 - domain.unavailability) / domain.mttr_h;
                per_h += if is_down(case | 1 << v) { p * failures } else { 0.0 };
            }
        }
        assert!(near(solved.downtime.unavailability, unavailability), "{domains:?}");
        assert!(near(solved.downtime.outages_per_h, per_h), "{domains:?}");
        for (v, effect) in solved.effects.iter().enumerate() {
            let u = domains[v].unavailability;
            let critical = |case: &usize| case & (1 << v) == 0 && !is_down(*case) && is_down(case | 1 << v);
            let birnbaum = (0..cases).filter(critical).map(|case| chance(&domains, case) / (1.0 - u)).sum::<f64>();
            assert!(near(effect.birnbaum, birnbaum), "{v}: {domains:?}");
            assert_eq!(effect.is_spof, is_down(1 << v), "{v}: {domains:?}");
            let mut above = 0;
            let mut around = domains[v].parent;
            while let Some(parent) = around {
                above |= 1 << parent;
                around = domains[parent].parent;
            }
            let survives = |case: &usize| case & (1 << v) != 0 && case & above == 0 && !is_down(*case);
            let holds = (0..cases).filter(survives).map(|case| chance(&domains, case) / u).sum::<f64>();
            assert!(near(effect.holds_without, holds), "{v}: {domains:?}");
        }
        let known = [(numbers.below(domains.len()), numbers.below(2) == 0)];
        let fits = |case: &usize| (case & (1 << known[0].0) == 0) == known[0].1;
        let given: f64 = (0..cases).filter(fits).map(|case| chance(&domains, case)).sum();
        let both: f64 = (0..cases).filter(fits).filter(|case| is_down(*case)).map(|case| chance(&domains, case)).sum();
        assert!((tree.unavailability_given(need, &known).unwrap() - both / given).abs() < 1e-12, "{domains:?}");
        let down = numbers.below(domains.len());
        let fatal = |v: &usize| !is_down(1 << down) && is_down(1 << down | 1 << v);
        let spofs: Vec<_> = (0..domains.len()).filter(fatal).collect();
        assert_eq!(tree.spofs_given(need, &[down]).unwrap(), spofs, "{domains:?}");
    }
}

/// A formula as text, and as what it means.
enum Formula {
    Event(usize),
    AtLeast(usize, Vec<Formula>),
}

impl Formula {
    fn random(numbers: &mut Numbers, events: usize, depth: usize) -> Self {
        if depth == 0 || numbers.below(4) == 0 {
            return Self::Event(numbers.below(events));
        }
        let inputs: Vec<_> = (0..2 + numbers.below(3)).map(|_| Self::random(numbers, events, depth - 1)).collect();
        Self::AtLeast(1 + numbers.below(inputs.len()), inputs)
    }

    fn text(&self) -> String {
        match self {
            Self::Event(event) => format!("e{event}"),
            Self::AtLeast(needed, inputs) => {
                let inputs: Vec<_> = inputs.iter().map(Self::text).collect();
                match needed {
                    1 => format!("({})", inputs.join(" or ")),
                    all if *all == inputs.len() => format!("({})", inputs.join(" and ")),
                    _ => format!("{needed} of ({})", inputs.join(", ")),
                }
            }
        }
    }

    fn happens(&self, case: usize) -> bool {
        match self {
            Self::Event(event) => case & (1 << event) != 0,
            Self::AtLeast(needed, inputs) => inputs.iter().filter(|input| input.happens(case)).count() >= *needed,
        }
    }
}

#[test]
fn a_fault_tree_is_the_sum_over_all_its_cases() {
    let mut numbers = Numbers(5);
    for _ in 0..150 {
        let events = 3 + numbers.below(8);
        let formula = Formula::random(&mut numbers, events, 4);
        let p: Vec<f64> =
            (0..events).map(|_| numbers.unit() * if numbers.below(2) == 0 { 1.0 } else { 1e-4 }).collect();
        let text = formula.text();
        let named = p.iter().enumerate().map(|(event, p)| (format!("e{event}"), *p)).collect();
        let solved = FaultTree::parse(&text, &BTreeMap::new(), &named).unwrap().solve(usize::MAX).unwrap();
        let cases = 1_usize << events;
        let chance = |case: usize, but: Option<usize>| -> f64 {
            let each = p.iter().enumerate().filter(|(event, _)| Some(*event) != but);
            each.map(|(event, p)| if case & (1 << event) == 0 { 1.0 - p } else { *p }).product()
        };
        let q: f64 = (0..cases).filter(|case| formula.happens(*case)).map(|case| chance(case, None)).sum();
        assert!(near(solved.probability, q), "{text}");
        for (name, importance) in &solved.importance {
            let event: usize = name[1..].parse().unwrap();
            let without = || (0..cases).filter(move |case| case & (1 << event) == 0);
            let critical = |case: &usize| formula.happens(case | 1 << event) && !formula.happens(*case);
            let mif: f64 = without().filter(critical).map(|case| chance(case, Some(event))).sum();
            let certain = without().filter(|case| formula.happens(case | 1 << event));
            let certain: f64 = certain.map(|case| chance(case, Some(event))).sum();
            let never = without().filter(|case| formula.happens(*case));
            let never: f64 = never.map(|case| chance(case, Some(event))).sum();
            assert!(near(importance.mif, mif), "{text}: {name}");
            assert!(near(importance.cif, p[event] * mif / q), "{text}: {name}");
            assert!(near(importance.dif, p[event] * certain / q), "{text}: {name}");
            assert!(near(importance.raw, certain / q), "{text}: {name}");
            assert!((importance.rrw * never / q - 1.0).abs() < 1e-11 || never == 0.0, "{text}: {name}");
            assert_eq!(never == 0.0, importance.rrw.is_infinite(), "{text}: {name}");
        }
        let is_minimal = |case: &usize| {
            let fewer = |event: usize| case & (1 << event) != 0 && formula.happens(case & !(1 << event));
            formula.happens(*case) && !(0..events).any(fewer)
        };
        let mut wanted: Vec<_> = (0..cases).filter(is_minimal).collect();
        let bits = |set: &Vec<String>| set.iter().map(|name| 1 << name[1..].parse::<usize>().unwrap()).sum::<usize>();
        let mut found: Vec<_> = solved.cut_sets.listed.iter().map(bits).collect();
        wanted.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, wanted, "{text}");
        assert_eq!(solved.cut_sets.total(), wanted.len() as u128, "{text}");
        let sizes: Vec<_> = solved.cut_sets.listed.iter().map(Vec::len).collect();
        assert!(sizes.is_sorted(), "{text}: {sizes:?}");
        for (order, sets) in solved.cut_sets.by_order.iter().enumerate() {
            assert_eq!(*sets, sizes.iter().filter(|size| **size == order).count() as u128, "{text}");
        }
        let singles: Vec<_> = wanted.iter().filter(|case| case.is_power_of_two()).collect();
        assert_eq!(solved.spofs.len(), singles.len(), "{text}");
    }
}

/// Sixty events: four of eight shelves of five disks each, or three of ten pairs. The cut sets are known by counting:
/// C(8, 4)·5⁴ + C(10, 3)·2³.
#[test]
fn a_large_tree_has_as_many_cut_sets_as_counting_says() {
    let p: BTreeMap<_, _> = (0..60).map(|event| (format!("e{event}"), 1e-3)).collect();
    let group = |first: usize, size: usize| {
        let names: Vec<_> = (first..first + size).map(|event| format!("e{event}")).collect();
        format!("({})", names.join(" or "))
    };
    let shelves: Vec<_> = (0..8).map(|shelf| group(5 * shelf, 5)).collect();
    let pairs: Vec<_> = (0..10).map(|pair| group(40 + 2 * pair, 2)).collect();
    let top = format!("4 of ({}) or 3 of ({})", shelves.join(", "), pairs.join(", "));
    let solved = FaultTree::parse(&top, &BTreeMap::new(), &p).unwrap().solve(100).unwrap();
    assert_eq!(solved.cut_sets.by_order, [0, 0, 0, 960, 43_750]);
    assert_eq!((solved.cut_sets.total(), solved.cut_sets.listed.len(), solved.spofs.len()), (44_710, 100, 0));
    let binomial = |units: i32, at_least: i32, u: f64| -> f64 {
        let choose = |k: i32| (0..k).map(|i| f64::from(units - i) / f64::from(i + 1)).product::<f64>();
        (at_least..=units).map(|k| choose(k) * u.powi(k) * (1.0 - u).powi(units - k)).sum()
    };
    let any = |events: i32| -f64::exp_m1(f64::from(events) * f64::ln_1p(-1e-3));
    let (shelves, pairs) = (binomial(8, 4, any(5)), binomial(10, 3, any(2)));
    assert!(near(solved.probability, shelves + (1.0 - shelves) * pairs), "{:e}", solved.probability);
}
