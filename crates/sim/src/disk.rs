//! What an agent keeps through a restart, and what its disk does to that.
//!
//! A write is first in the page cache: it survives the death of the agent, and is lost with the power unless it was synced.
//! The product syncs before it acts. A disk may also be full (a voter closes its store and the agent goes on with the other
//! voters), slow (its voter acknowledges late) or hung (its voter acknowledges nothing, and nothing new is obeyed, because
//! what was obeyed cannot be kept). A disk that is lost takes the voter's identity with it: the node comes back with a new
//! one, as a learner.

use backstay_model::Generation;

use crate::mutant::Mutant;
use crate::world::World;

/// What the agent has written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    session: u64,
    session_boot: u32,
    obeyed: Generation,
}

/// What an agent keeps through a restart, as it reads it: from the page cache.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    /// Its session; 0: none yet.
    pub(crate) session: u64,
    /// The boot that the session was opened in.
    pub(crate) session_boot: u32,
    /// The highest goal it has obeyed.
    pub(crate) obeyed: Generation,
    /// What a loss of power leaves.
    synced: Kept,
    pub(crate) state: DiskState,
}

/// How a disk is just now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum DiskState {
    #[default]
    Well,
    Full,
    /// A sync takes up to so many nanoseconds.
    Slow(u64),
    Hung,
}

impl Disk {
    /// Everything written so far survives a loss of power.
    pub(crate) fn sync(&mut self) {
        self.synced = Kept { session: self.session, session_boot: self.session_boot, obeyed: self.obeyed };
    }

    /// The power is gone: what was not synced is lost; torn, there is nothing that can be read.
    pub(crate) fn lose_power(&mut self, torn: bool) {
        let cached = Kept { session: self.session, session_boot: self.session_boot, obeyed: self.obeyed };
        let left = if torn && cached != self.synced { Kept::default() } else { self.synced.clone() };
        (self.session, self.session_boot, self.obeyed) = (left.session, left.session_boot, left.obeyed);
        self.sync();
    }

    /// Its voter can keep what it is asked to keep.
    pub(crate) fn serves_a_voter(&self) -> bool {
        matches!(self.state, DiskState::Well | DiskState::Slow(_))
    }

    fn delay_max(&self) -> u64 {
        match self.state {
            DiskState::Slow(max) => max,
            _ => 0,
        }
    }
}

impl World {
    /// An agent syncs what it wrote before it acts on it.
    pub(crate) fn sync(&mut self, n: usize) {
        if self.mutant != Some(Mutant::ObeyedUnsynced) {
            self.nodes[n].disk.sync();
        }
    }

    /// How long the disks of a majority take for one entry: the slowest of the quickest that make one.
    pub(crate) fn majority_syncs_in(&mut self) -> u64 {
        let voters = self.store.voters;
        if self.nodes.iter().take(voters).all(|node| node.disk.delay_max() == 0) {
            return 0;
        }
        let limits: Vec<u64> = self.nodes.iter().take(voters).map(|node| node.disk.delay_max()).collect();
        let mut takes: Vec<u64> = limits.into_iter().map(|max| self.rng.between(max / 2, max)).collect();
        takes.sort_unstable();
        takes[voters / 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_synced_survives_a_loss_of_power() {
        let mut disk = Disk { obeyed: Generation(7), ..Disk::default() };
        disk.sync();
        disk.obeyed = Generation(8);
        let mut torn = disk.clone();
        disk.lose_power(false);
        assert_eq!(disk.obeyed, Generation(7));
        torn.lose_power(true);
        assert_eq!(torn.obeyed, Generation::ZERO);
        disk.lose_power(true);
        assert_eq!(disk.obeyed, Generation(7), "what was synced is whole");
    }

    #[test]
    fn full_and_hung_disks_serve_no_voter() {
        let with = |state| Disk { state, ..Disk::default() };
        assert!(with(DiskState::Slow(5)).serves_a_voter() && Disk::default().serves_a_voter());
        assert!(!with(DiskState::Full).serves_a_voter() && !with(DiskState::Hung).serves_a_voter());
    }
}
