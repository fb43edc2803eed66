//! Faults in the product, put in on purpose by the simulator's own wiring: each must be caught, or the checkers are blind.

/// One wrong product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// A holder counts its lease from the reply, not from the instant it sent the renewal.
    LeaseFromReply,
    /// The store ends a lease after its bare length, without its own margin.
    StoreExpiresEarly,
    /// A grant is taken without asking whether it is free.
    GrantTakenBlindly,
    /// A guard does nothing at its deadline.
    GuardIgnoresDeadline,
    /// A guard stops gracefully at its deadline instead of killing.
    GracefulAfterLoss,
    /// An agent acts on any grant that names it, without a running deadline.
    OldGrantObeyed,
    /// The coordinator takes a node that sends nothing for one without a session.
    UnknownIsDead,
    /// A grant is released when the stop begins, not when nothing is left.
    ReleasedTooSoon,
    /// A planned move is one goal: it names the new holder and deletes the old grant.
    MoveInOneGoal,
    /// A coordinator adopts goals without comparing what it relied on.
    GoalWithoutCompare,
    /// An agent that starts again does not adopt its guards and starts anew beside them.
    RestartForgets,
    /// An agent that starts again opens another session and frees its guards of their deadlines.
    SessionForgotten,
    /// The balancer goes on with an address past its `valid_until`.
    BalancerIgnoresValidity,
    /// An expiry is applied whatever was renewed since it was proposed.
    ExpireBlindly,
    /// Deadlines are read from the wall clock, which steps.
    WallClock,
    /// A renewal that is answered after its deadline still starts what was stopped.
    LateAnswerCounts,
    /// An agent acts on an older goal than it has obeyed before.
    OldGoalObeyed,
    /// An agent that starts again still holds the coordinator's grant, and does not decide because it forgot that.
    RestartedIdle,
    /// An agent vouches for a role however long its proof of life is overdue.
    VouchesBlindly,
    /// A primary takes clients before its rule covers what it found.
    OpensAtOnce,
    /// A primary is told whom to wait for after it has begun.
    RuleAfterStart,
    /// A copy that has parted from the primary's follows it all the same.
    RejoinWithoutRewind,
    /// The database waits for a new standby before the store knows of it.
    DatabaseBeforeStore,
    /// The store forgets a member before the database has stopped waiting for it.
    StoreForgetsFirst,
    /// Promises of an earlier asking are taken for this one's.
    OldPromiseCounts,
    /// A new reign forgets that the last primary may be the only one to have a write.
    LastPrimaryForgotten,
    /// Positions are compared without their timelines.
    TimelineIgnored,
    /// All promised positions are taken for equal.
    PositionsIgnored,
    /// A takeover takes the grant of a living primary although commits wait for nobody.
    CoverWithoutPromises,
    /// What an agent has obeyed is not synced before it acts, and goes with the power.
    ObeyedUnsynced,
    /// A guard's deadline stands still while its machine is suspended.
    SuspendStopsGuard,
}

impl Mutant {
    /// Every mutant.
    pub fn all() -> &'static [Self] {
        &[
            Self::LeaseFromReply,
            Self::StoreExpiresEarly,
            Self::GrantTakenBlindly,
            Self::GuardIgnoresDeadline,
            Self::GracefulAfterLoss,
            Self::OldGrantObeyed,
            Self::UnknownIsDead,
            Self::ReleasedTooSoon,
            Self::MoveInOneGoal,
            Self::GoalWithoutCompare,
            Self::RestartForgets,
            Self::SessionForgotten,
            Self::BalancerIgnoresValidity,
            Self::ExpireBlindly,
            Self::WallClock,
            Self::LateAnswerCounts,
            Self::OldGoalObeyed,
            Self::RestartedIdle,
            Self::VouchesBlindly,
            Self::OpensAtOnce,
            Self::RuleAfterStart,
            Self::RejoinWithoutRewind,
            Self::DatabaseBeforeStore,
            Self::StoreForgetsFirst,
            Self::OldPromiseCounts,
            Self::LastPrimaryForgotten,
            Self::TimelineIgnored,
            Self::PositionsIgnored,
            Self::CoverWithoutPromises,
            Self::ObeyedUnsynced,
            Self::SuspendStopsGuard,
        ]
    }

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::LeaseFromReply => "lease-from-reply",
            Self::StoreExpiresEarly => "store-expires-early",
            Self::GrantTakenBlindly => "grant-taken-blindly",
            Self::GuardIgnoresDeadline => "guard-ignores-deadline",
            Self::GracefulAfterLoss => "graceful-after-loss",
            Self::OldGrantObeyed => "old-grant-obeyed",
            Self::UnknownIsDead => "unknown-is-dead",
            Self::ReleasedTooSoon => "released-too-soon",
            Self::MoveInOneGoal => "move-in-one-goal",
            Self::GoalWithoutCompare => "goal-without-compare",
            Self::RestartForgets => "restart-forgets",
            Self::SessionForgotten => "session-forgotten",
            Self::BalancerIgnoresValidity => "balancer-ignores-validity",
            Self::ExpireBlindly => "expire-blindly",
            Self::WallClock => "wall-clock",
            Self::LateAnswerCounts => "late-answer-counts",
            Self::OldGoalObeyed => "old-goal-obeyed",
            Self::RestartedIdle => "restarted-idle",
            Self::VouchesBlindly => "vouches-blindly",
            Self::OpensAtOnce => "opens-at-once",
            Self::RuleAfterStart => "rule-after-start",
            Self::RejoinWithoutRewind => "rejoin-without-rewind",
            Self::DatabaseBeforeStore => "database-before-store",
            Self::StoreForgetsFirst => "store-forgets-first",
            Self::OldPromiseCounts => "old-promise-counts",
            Self::LastPrimaryForgotten => "last-primary-forgotten",
            Self::TimelineIgnored => "timeline-ignored",
            Self::PositionsIgnored => "positions-ignored",
            Self::CoverWithoutPromises => "cover-without-promises",
            Self::ObeyedUnsynced => "obeyed-unsynced",
            Self::SuspendStopsGuard => "suspend-stops-guard",
        }
    }
}
