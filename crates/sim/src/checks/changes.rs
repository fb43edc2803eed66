//! No more role changes than faults explain: a role that wanders by itself is a fault of its own.

use backstay_model::Reason;
use backstay_model::reason::MoveCause;

/// A fault explains so many moves, on average over a run: roles go away and come back.
const MOVES_PER_FAULT: u64 = 3;
/// So many moves of each role need no fault: the first placement, and the return to a preferred node.
const MOVES_WITHOUT_FAULT: u64 = 2;

/// Causes that need no fault: the first placement, a return, a role kept apart from another.
fn needs_no_fault(cause: MoveCause) -> bool {
    matches!(cause, MoveCause::First | MoveCause::Failback | MoveCause::KeepApart)
}

/// Moves of exclusive roles so far.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) moves: u64,
}

impl Changes {
    pub(crate) fn moved(&mut self, moves: u64) {
        self.moves += moves;
    }

    /// A goal in a run without faults: nobody is lost, nothing fails over.
    pub(crate) fn calm(&self, reasons: &[Reason]) -> Result<(), String> {
        let moved = reasons.iter().find(|reason| match reason {
            Reason::NodeLost { .. } => true,
            Reason::HolderNamed { cause, .. } | Reason::HolderAsked { cause, .. } => !needs_no_fault(*cause),
            _ => false,
        });
        moved.map_or(Ok(()), |reason| Err(format!("without any fault: {reason}")))
    }

    /// Whether the faults that struck explain the moves that were made.
    pub(crate) fn verify(&self, faults: u64, roles: u64) -> Result<(), String> {
        let explained = roles * MOVES_WITHOUT_FAULT + faults * MOVES_PER_FAULT;
        match self.moves > explained {
            true => Err(format!("{} role changes where {faults} faults explain {explained}", self.moves)),
            false => Ok(()),
        }
    }
}
