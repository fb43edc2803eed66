//! Hunts every mutant: `mutants [NAME]`. The last line counts; a mutant that survives is a hole in the checkers.
//!
//! For each: the first seed that catches it, how many seeds it takes (the median of several hunts that begin at different
//! seeds), and the rule that it breaks first.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use backstay_sim::{HUNTS, Hunted, Mutant, hunt};

/// Seeds of one hunt.
const SEEDS_MAX: u64 = 600;

fn main() -> ExitCode {
    let only = std::env::args().nth(1);
    let all: Vec<Mutant> =
        Mutant::all().iter().copied().filter(|mutant| only.as_ref().is_none_or(|name| mutant.name() == name)).collect();
    let hunted = over_threads(&all);
    println!("{:<28} {:>10} {:>6} {:>7}  rule it breaks first", "mutant", "first seed", "median", "hunts");
    for one in &hunted {
        let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
        let (seed, rule) = one.first.as_ref().map_or((None, "SURVIVED"), |(seed, rule)| (Some(*seed), rule.as_str()));
        let (name, median) = (one.mutant.name(), number(one.seeds_median));
        println!("{name:<28} {:>10} {median:>6} {:>4}/{HUNTS}  {rule}", number(seed), one.caught);
    }
    let caught = hunted.iter().filter(|one| one.first.is_some()).count();
    println!("{caught} caught, {} survived", hunted.len() - caught);
    if caught == hunted.len() && caught > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn over_threads(all: &[Mutant]) -> Vec<Hunted> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(mutant) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let hunted = hunt(*mutant, SEEDS_MAX);
                    done.lock().expect("no hunt panics").push(hunted);
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no hunt panics");
    done.sort_by_key(|one| all.iter().position(|mutant| *mutant == one.mutant));
    done
}
