//! Which messages arrive, and when.

use crate::clock::MS;
use crate::rng::Rng;

/// What becomes of one message.
pub(crate) enum Passage {
    /// It never arrives.
    Lost,
    /// It arrives after so long, in true time.
    Arrives(u64),
}

/// Links between nodes, one direction each, and how they are just now.
#[derive(Debug)]
pub(crate) struct Network {
    nodes: usize,
    /// How many faults cut this direction; 0: open.
    cuts: Vec<u32>,
    /// Messages lost in a thousand.
    pub(crate) loss_permille: u64,
    /// Messages delivered twice in a thousand.
    pub(crate) twice_permille: u64,
    /// Longest delay of an ordinary message, in nanoseconds; delays are drawn one by one, so messages overtake.
    pub(crate) delay_max: u64,
}

/// Delay of a message on a quiet network, in nanoseconds.
pub(crate) const DELAY_QUIET: u64 = 3 * MS;
const DELAY_LEAST: u64 = MS / 10;
/// How long TCP waits before it sends again what was not acknowledged, at least.
const SENT_AGAIN_AFTER: u64 = 200 * MS;
/// Delay between two processes of one machine.
const DELAY_LOCAL: u64 = MS / 20;

impl Network {
    pub(crate) fn new(nodes: usize) -> Self {
        Self { nodes, cuts: vec![0; nodes * nodes], loss_permille: 0, twice_permille: 0, delay_max: DELAY_QUIET }
    }

    pub(crate) fn open(&self, from: usize, to: usize) -> bool {
        from == to || self.cuts[from * self.nodes + to] == 0
    }

    /// Both directions.
    pub(crate) fn joined(&self, one: usize, other: usize) -> bool {
        self.open(one, other) && self.open(other, one)
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cuts[from * self.nodes + to] += 1;
    }

    pub(crate) fn mend(&mut self, from: usize, to: usize) {
        let cut = &mut self.cuts[from * self.nodes + to];
        *cut = cut.saturating_sub(1);
    }

    /// Everything works again.
    pub(crate) fn heal(&mut self) {
        *self = Self::new(self.nodes);
    }

    pub(crate) fn passage(&self, from: usize, to: usize, rng: &mut Rng) -> Passage {
        if from == to {
            return Passage::Arrives(DELAY_LOCAL);
        }
        let delay = rng.between(DELAY_LEAST, self.delay_max);
        match () {
            () if !self.open(from, to) => Passage::Lost,
            () if !rng.chance(self.loss_permille) => Passage::Arrives(delay),
            // Lost once, it is sent again; lost twice, whoever asked has given up.
            () if !rng.chance(self.loss_permille) => Passage::Arrives(delay + SENT_AGAIN_AFTER),
            () => Passage::Lost,
        }
    }
}
