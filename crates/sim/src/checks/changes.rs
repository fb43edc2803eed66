//! No more role changes than faults explain: a role that wanders by itself is a fault of its own.

/// Each fault explains so many moves of each role: away, back, and once more because two faults overlapped.
const MOVES_PER_FAULT: u64 = 3;

/// Moves of exclusive roles so far.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    moves: u64,
}

impl Changes {
    pub(crate) fn moved(&mut self, moves: u64) {
        self.moves += moves;
    }

    /// Whether the faults that struck explain the moves that were made.
    pub(crate) fn verify(&self, faults: u64, roles: u64) -> Result<(), String> {
        // The first placement, and the returns to preferred nodes at the end.
        let explained = roles * (2 + MOVES_PER_FAULT * faults);
        match self.moves > explained {
            true => Err(format!("{} role changes where {faults} faults explain {explained}", self.moves)),
            false => Ok(()),
        }
    }
}
