//! Why something was decided, or was not. Typed, so that tests, `explain`, `events` and a dashboard read the same thing.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::grant::Grant;
use crate::ids::{ListenerName, NodeName, RoleKey, ServiceId, Token};
use crate::observation::millis;
use crate::role::{DomainLevel, Role};
use crate::time::human;

/// What a reason is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// A node.
    Node(NodeName),
    /// A service.
    Service(ServiceId),
    /// A listener's address.
    Address(ListenerName),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => node.fmt(f),
            Self::Service(service) => service.fmt(f),
            Self::Address(listener) => f.pad(&format!("listen.{listener}")),
        }
    }
}

/// Why an exclusive role moves, or would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveCause {
    /// Nobody held it before.
    First,
    /// Its holder is lost (failover).
    HolderLost,
    /// Its holder cannot make it work (failover).
    HolderFailing,
    /// Its holder never took the grant.
    NotTaken,
    /// An operator asked (switchover).
    Asked,
    /// Its node is being drained.
    Drained,
    /// It returns to the preferred node (failback).
    Failback,
    /// The file no longer allows the holder.
    NotAllowed,
    /// The address makes room for a primary on the same node.
    KeepApart,
    /// The last primary is here after all, and has everything.
    Returned,
}

impl fmt::Display for MoveCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::First => "first placement",
            Self::HolderLost => "failover: its holder is lost",
            Self::HolderFailing => "failover: its holder cannot keep it well",
            Self::NotTaken => "failover: its holder never took the grant",
            Self::Asked => "switchover: an operator asked",
            Self::Drained => "its node is being drained",
            Self::Failback => "failback: the preferred node is whole and steady",
            Self::NotAllowed => "the file no longer places it there",
            Self::KeepApart => "kept apart from a primary on the same node",
            Self::Returned => "the last primary is here and has everything",
        })
    }
}

/// One typed cause. `Display` is its sentence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// A node's session ended.
    NodeLost {
        /// Which node.
        node: NodeName,
    },
    /// A node has a session again.
    NodeReturned {
        /// Which node.
        node: NodeName,
    },
    /// A node has a session but sends nothing: it moves and stops nothing.
    NodeUnknown {
        /// Which node.
        node: NodeName,
    },
    /// A node was lost too often; it holds nothing until it has been steady long enough.
    HeldDown {
        /// Which node.
        node: NodeName,
        /// Losses within the window.
        losses: u32,
        /// How much longer.
        #[serde(with = "millis")]
        remaining: Duration,
    },
    /// Nothing is placed for the first time before every node is there, or long enough has passed.
    WaitingForNodes {
        /// Nodes without a session yet.
        missing: Vec<NodeName>,
    },
    /// An instance is placed.
    Placed {
        /// Which service.
        service: ServiceId,
        /// Where.
        node: NodeName,
        /// As what.
        role: Role,
    },
    /// An instance is no longer wanted on a node.
    Removed {
        /// Which service.
        service: ServiceId,
        /// Where.
        node: NodeName,
    },
    /// An instance changes its role.
    RoleChanged {
        /// Which service.
        service: ServiceId,
        /// Where.
        node: NodeName,
        /// Its role now.
        role: Role,
        /// Why.
        cause: MoveCause,
    },
    /// An exclusive role gets a holder.
    HolderNamed {
        /// Which role.
        role: RoleKey,
        /// Who.
        node: NodeName,
        /// Why.
        cause: MoveCause,
    },
    /// A failover is over: how long clients went without, as the coordinator saw it.
    ServesAgain {
        /// Which role.
        role: RoleKey,
        /// Who was lost.
        from: NodeName,
        /// Who serves.
        to: NodeName,
        /// From the last sign of life of the one to the first service of the other.
        #[serde(with = "millis", rename = "outage_ms")]
        outage: Duration,
    },
    /// A planned move: the old holder gives the role up first.
    HolderAsked {
        /// Which role.
        role: RoleKey,
        /// Who gives it up.
        from: NodeName,
        /// For whom.
        to: NodeName,
        /// Why.
        cause: MoveCause,
    },
    /// The role's grant still runs; it moves when that is released or has ended.
    WaitingForGrant {
        /// Which role.
        role: RoleKey,
        /// Who still holds it.
        holder: NodeName,
        /// Under which token.
        token: Token,
    },
    /// Nobody is primary: the members of the synchronous set are asked to follow nothing older any more.
    PromisesAsked {
        /// Which role.
        role: RoleKey,
        /// So many promises make certain who has every acknowledged write.
        needed: u32,
        /// Why there is no primary.
        cause: MoveCause,
    },
    /// There are too few promises to tell who has every acknowledged write, or whoever has them is not here.
    PromisesMissing {
        /// Which role.
        role: RoleKey,
        /// Promises so far.
        promised: u32,
        /// So many are needed.
        needed: u32,
    },
    /// Commits wait for other standbys than before.
    WaitsFor {
        /// Which role.
        role: RoleKey,
        /// Standbys whose acknowledgement counts.
        members: Vec<NodeName>,
        /// How many of them must acknowledge.
        k: u32,
    },
    /// Nobody takes over: the furthest copy lacks more than the file allows to lose.
    WouldLose {
        /// Which role.
        role: RoleKey,
        /// The furthest copy.
        node: NodeName,
        /// What it lacks of the last position that the primary wrote into the store.
        bytes: u64,
        /// What may be lost.
        bound: u64,
    },
    /// The furthest copy takes over and lacks this much, which the file allows.
    Loses {
        /// Which role.
        role: RoleKey,
        /// Who takes over.
        node: NodeName,
        /// What is lost of the last position that the primary wrote into the store.
        bytes: u64,
    },
    /// An instance goes to another node once there is a free slot.
    WaitsForRoom {
        /// Which service.
        service: ServiceId,
        /// Where it would go.
        to: NodeName,
    },
    /// Nobody can hold the role now.
    NoCandidate {
        /// Which role.
        role: RoleKey,
    },
    /// A node was considered and not taken.
    PassedOver {
        /// For what.
        subject: Subject,
        /// Which node.
        node: NodeName,
        /// Why not.
        why: WhyNot,
    },
    /// Failback waits until the preferred node has been whole long enough.
    FailbackWaits {
        /// What would move.
        subject: Subject,
        /// To whom.
        node: NodeName,
        /// How much longer; zero when it waits for something other than time.
        #[serde(with = "millis")]
        remaining: Duration,
    },
    /// The model's number of instances cannot be placed.
    Short {
        /// Which service.
        service: ServiceId,
        /// How many instances count for the model: of N+1 those in domains of their own.
        placed: u32,
        /// How many the model asks for.
        wanted: u32,
        /// How many carry the full load.
        need: u32,
        /// At which level there are too few domains, or where capacity ends.
        level: DomainLevel,
    },
    /// The service runs with fewer well instances than carry the load.
    BelowNeed {
        /// Which service.
        service: ServiceId,
        /// Well and active.
        well: u32,
        /// Needed.
        need: u32,
    },
    /// An operator's choice is recorded: it stands until that node is lost, drained, or another is chosen.
    Chosen {
        /// About what.
        subject: Subject,
        /// Which node.
        node: NodeName,
    },
    /// What an operator chose no longer stands: the node is gone from here, or another was chosen.
    ChoiceEnded {
        /// About what.
        subject: Subject,
        /// Which node was chosen.
        node: NodeName,
    },
    /// A request of an operator cannot be met.
    Refused {
        /// About what.
        subject: Subject,
        /// Which node was asked for.
        node: NodeName,
        /// Why not.
        why: WhyNot,
    },
    /// Another file is adopted; what it changes follows.
    FileAdopted {
        /// Hash of its text.
        hash: String,
    },
    /// A node is drained: nothing is placed on it.
    Draining {
        /// Which node.
        node: NodeName,
    },
}

/// Why a node was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhyNot {
    /// It has no session.
    Absent,
    /// It sends nothing.
    Unknown,
    /// An operator drains it.
    Drained,
    /// It was lost too often of late.
    HeldDown,
    /// The instance there fails.
    Failing,
    /// No instance of the service is placed there.
    NotPlaced,
    /// It only votes.
    Witness,
    /// It is not in the file.
    NotInFile,
    /// Its balancer does not answer.
    NoBalancer,
    /// Its balancer cannot bind the address.
    CannotBind,
    /// Its copy is not whole, or it does not stream from the primary.
    Behind,
    /// The file says that it is never primary.
    NoPrimary,
    /// Too few standbys follow for a takeover that is certain to have everything.
    TooFewCopies,
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Absent => "it has no session",
            Self::Unknown => "it has a session but says nothing",
            Self::Drained => "it is being drained",
            Self::HeldDown => "it was lost too often of late",
            Self::Failing => "the instance there fails",
            Self::NotPlaced => "no instance is placed there",
            Self::Witness => "it is a witness: it votes and holds nothing",
            Self::NotInFile => "it is not in the file",
            Self::NoBalancer => "its balancer does not answer",
            Self::CannotBind => "its balancer cannot bind the address",
            Self::Behind => "its copy is not whole, or does not stream from the primary",
            Self::TooFewCopies => "too few standbys follow to be certain who has every acknowledged write",
            Self::NoPrimary => "the file says that it is never primary",
        })
    }
}

impl Reason {
    /// A role waits for the end of somebody's grant.
    pub fn waiting_for(role: &RoleKey, grant: &Grant) -> Self {
        Self::WaitingForGrant { role: role.clone(), holder: grant.holder.clone(), token: grant.token }
    }

    /// Whom `explain` shows it for: the thing it is about first, then the nodes it names.
    pub fn subjects(&self) -> Vec<Subject> {
        let role = |role: &RoleKey| match role {
            RoleKey::Service(service) => Some(Subject::Service(service.clone())),
            RoleKey::Address(listener) => Some(Subject::Address(listener.clone())),
            RoleKey::Coordinator => None,
        };
        let node = |node: &NodeName| Subject::Node(node.clone());
        match self {
            Self::NodeLost { node: n } | Self::NodeReturned { node: n } | Self::NodeUnknown { node: n } => {
                vec![node(n)]
            }
            Self::HeldDown { node: n, .. } | Self::Draining { node: n } => vec![node(n)],
            Self::WaitingForNodes { missing } => missing.iter().map(node).collect(),
            Self::WaitsForRoom { service, to } => vec![Subject::Service(service.clone()), node(to)],
            Self::Placed { service, node: n, .. }
            | Self::Removed { service, node: n }
            | Self::RoleChanged { service, node: n, .. } => vec![Subject::Service(service.clone()), node(n)],
            Self::HolderNamed { role: r, node: n, .. } => role(r).into_iter().chain([node(n)]).collect(),
            Self::ServesAgain { role: r, from, to, .. } | Self::HolderAsked { role: r, from, to, .. } => {
                role(r).into_iter().chain([node(from), node(to)]).collect()
            }
            Self::WaitingForGrant { role: r, holder, .. } => role(r).into_iter().chain([node(holder)]).collect(),
            Self::NoCandidate { role: r }
            | Self::PromisesAsked { role: r, .. }
            | Self::PromisesMissing { role: r, .. } => role(r).into_iter().collect(),
            Self::WaitsFor { role: r, members, .. } => role(r).into_iter().chain(members.iter().map(node)).collect(),
            Self::WouldLose { role: r, node: n, .. } | Self::Loses { role: r, node: n, .. } => {
                role(r).into_iter().chain([node(n)]).collect()
            }
            Self::PassedOver { subject, node: n, .. }
            | Self::FailbackWaits { subject, node: n, .. }
            | Self::Chosen { subject, node: n }
            | Self::ChoiceEnded { subject, node: n }
            | Self::Refused { subject, node: n, .. } => vec![subject.clone(), node(n)],
            Self::FileAdopted { .. } => Vec::new(),
            Self::Short { service, .. } | Self::BelowNeed { service, .. } => vec![Subject::Service(service.clone())],
        }
    }

    /// It changed something, so it belongs into the record of events; the rest explains why nothing was done.
    pub fn is_change(&self) -> bool {
        matches!(
            self,
            Self::FileAdopted { .. }
                | Self::NodeLost { .. }
                | Self::NodeReturned { .. }
                | Self::Placed { .. }
                | Self::Removed { .. }
                | Self::RoleChanged { .. }
                | Self::HolderNamed { .. }
                | Self::HolderAsked { .. }
                | Self::PromisesAsked { .. }
                | Self::WaitsFor { .. }
                | Self::Loses { .. }
                | Self::ServesAgain { .. }
                | Self::Chosen { .. }
                | Self::ChoiceEnded { .. }
                | Self::Refused { .. }
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeLost { node } => write!(f, "{node} is lost: its session ended"),
            Self::NodeReturned { node } => write!(f, "{node} is here: it has a session"),
            Self::NodeUnknown { node } => write!(f, "{node} has a session but says nothing: unknown moves nothing"),
            Self::HeldDown { node, losses, remaining } => {
                write!(f, "{node} was lost {losses} times of late: held down for another {}", human(*remaining))
            }
            Self::WaitingForNodes { missing } => write!(f, "waiting for {} before the first placement", list(missing)),
            Self::Placed { service, node, role } => write!(f, "{service} is placed on {node} as {role}"),
            Self::Removed { service, node } => write!(f, "{service} is no longer placed on {node}"),
            Self::RoleChanged { service, node, role, cause } => {
                write!(f, "{service} on {node} becomes {role}: {cause}")
            }
            Self::HolderNamed { role, node, cause } => write!(f, "{role} goes to {node}: {cause}"),
            Self::ServesAgain { role, from, to, outage } => {
                let ms = outage.as_millis();
                write!(
                    f,
                    "{role} serves again on {to}: away for {}.{} s since {from} was last heard",
                    ms / 1000,
                    ms % 1000 / 100
                )
            }
            Self::HolderAsked { role, from, to, cause } => {
                write!(f, "{role} leaves {from} for {to}, after {from} has released it: {cause}")
            }
            Self::WaitingForGrant { role, holder, token } => {
                write!(f, "{role} waits: {holder} still holds its grant (token {token})")
            }
            Self::PromisesAsked { role, needed, cause } => {
                write!(f, "{role} has no primary and asks its synchronous standbys for {needed} promises: {cause}")
            }
            Self::PromisesMissing { role, promised, needed } => write!(
                f,
                "{role} has {promised} of the {needed} promises that tell who has every acknowledged write, or nobody here has them"
            ),
            Self::WaitsFor { role, members, k } => {
                write!(
                    f,
                    "commits of {role} wait for {k} of: {}",
                    if members.is_empty() { "nobody".to_owned() } else { list(members) }
                )
            }
            Self::WouldLose { role, node, bytes, bound } => write!(
                f,
                "{role} does not go to {node}, the furthest copy: {bytes} bytes would be lost, and {bound} may be"
            ),
            Self::Loses { role, node, bytes } => {
                write!(f, "{role} goes to {node} without {bytes} bytes, which the file allows")
            }
            Self::WaitsForRoom { service, to } => write!(f, "{service} waits for a free slot on {to}"),
            Self::NoCandidate { role } => write!(f, "{role} has no node that may hold it now"),
            Self::PassedOver { subject, node, why } => write!(f, "{node} is passed over for {subject}: {why}"),
            Self::FailbackWaits { subject, node, remaining } if remaining.is_zero() => {
                write!(f, "failback of {subject} to {node} waits until its instance is well")
            }
            Self::FailbackWaits { subject, node, remaining } => {
                write!(f, "failback of {subject} to {node} in {}, if it stays steady", human(*remaining))
            }
            Self::Short { service, placed, wanted, need, level } => write!(
                f,
                "{service} has {placed} of the {wanted} instances that its model counts ({need} carry the load): no further {level} can take one"
            ),
            Self::BelowNeed { service, well, need } => {
                write!(f, "{service} has {well} well instances where {need} carry the load")
            }
            Self::Chosen { subject, node } => write!(f, "{node} was chosen for {subject} by an operator"),
            Self::ChoiceEnded { subject, node } => {
                write!(f, "{node} is no longer the choice of an operator for {subject}")
            }
            Self::Refused { subject, node, why } => write!(f, "{subject} cannot go to {node}: {why}"),
            Self::FileAdopted { hash } => write!(f, "the file with hash {} is adopted", &hash[..hash.len().min(8)]),
            Self::Draining { node } => write!(f, "{node} is being drained: nothing is placed on it"),
        }
    }
}

fn list(names: &[NodeName]) -> String {
    names.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
}
