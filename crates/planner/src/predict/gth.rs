//! Markov chains in continuous time, solved without a subtraction.
//!
//! Grassmann, Taksar and Heyman (1985): states are eliminated one by one, each reading off-diagonal rates only, so every
//! probability keeps its leading digits however small it is (O'Cinneide 1993). A solver that subtracts answers 10⁻²⁶ for
//! a probability of 10⁻⁵⁴. Rows are sparse: a chain of banded structure is solved in time linear in its states.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::range::OutOfRange;

/// The most states of one chain.
pub const STATES_MAX: usize = 20_000;

/// A chain: states by number, and the rates between them, per hour.
#[derive(Clone, Debug)]
pub struct Chain {
    rates: Vec<BTreeMap<usize, f64>>,
}

impl Chain {
    /// A chain of so many states without transitions.
    ///
    /// # Errors
    /// When there are none, or more than [`STATES_MAX`].
    pub fn new(states: usize) -> Result<Self, OutOfRange> {
        if states == 0 || states > STATES_MAX {
            return Err(OutOfRange::new("number of states", states, format!("from 1 to {STATES_MAX}")));
        }
        Ok(Self { rates: vec![BTreeMap::new(); states] })
    }

    /// Adds to the rate, per hour, at which `from` turns into `to`; of a state to itself it means nothing.
    ///
    /// # Errors
    /// When a state does not exist, or the rate is negative or not finite.
    pub fn add(&mut self, from: usize, to: usize, per_h: f64) -> Result<(), OutOfRange> {
        let states = self.rates.len();
        if from >= states || to >= states {
            return Err(OutOfRange::new("state", from.max(to), format!("below {states}")));
        }
        if !(0.0..f64::INFINITY).contains(&per_h) {
            return Err(OutOfRange::new(format!("rate {from} → {to}"), per_h, "finite, not negative"));
        }
        if from != to && per_h > 0.0 {
            *self.rates[from].entry(to).or_default() += per_h;
        }
        Ok(())
    }

    /// The part of the time that the chain spends in each state in the long run.
    ///
    /// States are eliminated from the last to the second, so number them such that the last ones are the fullest.
    ///
    /// # Errors
    /// When some state never leads back to those before it: then there is no one long run.
    pub fn stationary(&self) -> Result<Vec<f64>, OutOfRange> {
        let mut elimination = Elimination::of(self);
        let mut shares = Vec::with_capacity(self.rates.len());
        for state in (1..self.rates.len()).rev() {
            let (incoming, exit) = elimination.take(state);
            if exit <= 0.0 {
                return Err(OutOfRange::new("chain", format!("stuck in state {state}"), "able to return to state 0"));
            }
            shares.push(incoming);
        }
        const LARGE: f64 = 1e250;
        let mut time = vec![1.0];
        for incoming in shares.iter().rev() {
            let next: f64 = incoming.iter().map(|(from, share)| time[*from] * share).sum();
            time.push(next);
            if next > LARGE {
                // Only proportions count, and those to the largest are the ones that matter.
                time.iter_mut().for_each(|t| *t /= next);
            }
        }
        let total: f64 = time.iter().sum();
        Ok(time.into_iter().map(|t| t / total).collect())
    }

    /// The mean time in hours from `start` until one of `ends` is entered; infinite when that may never happen.
    ///
    /// The same elimination, each state carrying the time it is left with: a sum of products of rates and times.
    ///
    /// # Errors
    /// When a state does not exist.
    pub fn mean_time_to(&self, start: usize, ends: &[usize]) -> Result<f64, OutOfRange> {
        let states = self.rates.len();
        if let Some(wrong) = ends.iter().chain([&start]).find(|state| **state >= states) {
            return Err(OutOfRange::new("state", wrong, format!("below {states}")));
        }
        if ends.contains(&start) {
            return Ok(0.0);
        }
        let mut elimination = Elimination::of(self);
        // The start goes first, so that it is eliminated last; the ends stay.
        let is_end = |state: &usize| ends.contains(state);
        for state in (0..states).rev().filter(|state| *state != start && !is_end(state)) {
            elimination.take(state);
        }
        let exit: f64 = elimination.rates[start].values().sum();
        Ok(if exit > 0.0 { elimination.left_h[start] / exit } else { f64::INFINITY })
    }
}

/// What is left of a chain while states are taken out of it.
struct Elimination {
    rates: Vec<BTreeMap<usize, f64>>,
    /// Which states lead to a state.
    sources: Vec<Vec<usize>>,
    /// Time spent per visit × rate of leaving: 1 at first, more when it stands for visits to states taken out.
    left_h: Vec<f64>,
}

impl Elimination {
    fn of(chain: &Chain) -> Self {
        let mut sources = vec![Vec::new(); chain.rates.len()];
        for (from, row) in chain.rates.iter().enumerate() {
            for to in row.keys() {
                sources[*to].push(from);
            }
        }
        Self { rates: chain.rates.clone(), sources, left_h: vec![1.0; chain.rates.len()] }
    }

    /// Takes a state out: who led to it leads to where it led. Answers the states that led to it, each with its rate
    /// over the taken state's total rate, and that total.
    fn take(&mut self, state: usize) -> (Vec<(usize, f64)>, f64) {
        let row = std::mem::take(&mut self.rates[state]);
        let exit: f64 = row.values().sum();
        let mut incoming = Vec::new();
        for from in std::mem::take(&mut self.sources[state]) {
            // Whoever was taken out before has no row any more.
            let Some(rate) = self.rates[from].remove(&state) else { continue };
            if exit <= 0.0 {
                // A trap: whoever may enter it may stay forever.
                self.left_h[from] = f64::INFINITY;
                continue;
            }
            let share = rate / exit;
            self.left_h[from] += share * self.left_h[state];
            for (&to, &onward) in row.iter().filter(|(to, _)| **to != from) {
                match self.rates[from].entry(to) {
                    Entry::Occupied(mut rate) => *rate.get_mut() += onward * share,
                    Entry::Vacant(rate) => {
                        rate.insert(onward * share);
                        self.sources[to].push(from);
                    }
                }
            }
            incoming.push((from, share));
        }
        (incoming, exit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up_and_down(failure: f64, repair: f64) -> Chain {
        let mut chain = Chain::new(2).unwrap();
        chain.add(0, 1, failure).unwrap();
        chain.add(1, 0, repair).unwrap();
        chain
    }

    #[test]
    fn a_machine_is_down_as_long_as_its_repairs_take() {
        let time = up_and_down(0.001, 0.25).stationary().unwrap();
        assert!((time[1] - 0.001 / 0.251).abs() < 1e-18);
        assert_eq!(up_and_down(0.001, 0.25).mean_time_to(0, &[1]), Ok(1000.0));
        assert_eq!(up_and_down(0.0, 0.25).stationary().unwrap(), [1.0, 0.0]);
        assert_eq!(up_and_down(0.0, 0.25).mean_time_to(0, &[1]), Ok(f64::INFINITY));
    }

    #[test]
    fn six_of_six_keep_their_digits() {
        let (failure, repair) = (1e-9, 1.0);
        let mut chain = Chain::new(7).unwrap();
        for failed in 0..6_u32 {
            let at = failed as usize;
            chain.add(at, at + 1, f64::from(6 - failed) * failure).unwrap();
            chain.add(at + 1, at, f64::from(failed + 1) * repair).unwrap();
        }
        let all = chain.stationary().unwrap()[6];
        assert!((all / 9.99999994e-55 - 1.0).abs() < 1e-14, "{all:e}");
    }

    #[test]
    fn proportions_beyond_any_float_are_still_proportions() {
        let mut chain = Chain::new(40).unwrap();
        for state in 0..39 {
            chain.add(state, state + 1, 1e12).unwrap();
            chain.add(state + 1, state, 1.0).unwrap();
        }
        let time = chain.stationary().unwrap();
        assert!((time[39] - 1.0).abs() < 1e-11 && (time[38] * 1e12 - 1.0).abs() < 1e-11 && time[0] == 0.0, "{time:?}");
    }

    #[test]
    fn traps_and_nonsense_are_named() {
        assert!(Chain::new(0).is_err() && Chain::new(STATES_MAX + 1).is_err());
        let mut chain = up_and_down(0.1, 0.2);
        assert!(chain.add(0, 2, 1.0).is_err());
        for rate in [f64::NAN, f64::INFINITY, -1.0] {
            assert!(chain.add(0, 1, rate).is_err(), "{rate}");
        }
        let error = up_and_down(0.1, 0.0).stationary().unwrap_err();
        assert_eq!(error.to_string(), "chain is stuck in state 1, but must be able to return to state 0");
        let mut trap = Chain::new(3).unwrap();
        trap.add(0, 1, 1.0).unwrap();
        trap.add(0, 2, 1.0).unwrap();
        assert_eq!(trap.mean_time_to(0, &[2]), Ok(f64::INFINITY), "it may stay in 1");
        assert_eq!(trap.mean_time_to(2, &[2]), Ok(0.0));
        assert!(trap.mean_time_to(0, &[3]).is_err());
    }

    /// From 0 to 1 and back at rate 1, and from 1 on to 2: two visits to each on average, of 1 h and half an hour.
    #[test]
    fn visits_add_up() {
        let mut chain = Chain::new(3).unwrap();
        chain.add(0, 1, 1.0).unwrap();
        chain.add(1, 0, 1.0).unwrap();
        chain.add(1, 2, 1.0).unwrap();
        assert_eq!(chain.mean_time_to(0, &[2]), Ok(3.0));
        assert_eq!(chain.mean_time_to(1, &[2]), Ok(2.0), "the order of elimination is another one");
    }
}
