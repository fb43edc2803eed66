//! What travels between nodes.

use backstay_model::Observation;
use backstay_model::Token;
use backstay_model::memory::{Answer, Command};

/// What a node wanted when it proposed something; it comes back with the answer.
#[derive(Clone, Debug)]
pub(crate) enum Context {
    /// Open a session.
    Open { session: u64 },
    /// Renew it. Instants are the sender's, read before it sent.
    Renew { session: u64, sent: Sent },
    /// Take the grant of a role.
    Take { role: usize, session: u64, token: Token, sent: Sent },
    /// Give a grant back.
    Release { role: usize },
    /// Become coordinator.
    Claim { session: u64, token: Token, sent: Sent },
    /// Adopt a goal.
    Adopt,
    /// Write a promise.
    Promise,
    /// Say how far an asynchronous primary is.
    Publish,
}

/// When something was sent, on the sender's clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// CLOCK_BOOTTIME: what the checkers go by.
    pub(crate) boottime: u64,
    /// What the product under test goes by; the same, but for one mutant.
    pub(crate) product: u64,
}

/// One message.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// To the store's leader.
    Propose { from: usize, run: u32, context: Context, command: Command },
    /// From the store's leader; only the run of the agent that asked listens.
    Reply { run: u32, context: Context, answer: Answer },
    /// The store has changed up to this position.
    Watch { upto: usize },
    /// What a node sees of itself, to the coordinator.
    Report { from: usize, run: u32, observation: Box<Observation> },
}
