//! The few roles an instance may have, and the levels at which things fail together.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an instance is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The one instance of an exclusive service that may act; only with its grant.
    Primary,
    /// Ready to become primary of an exclusive service.
    Standby,
    /// Carries traffic.
    Active,
    /// Ready to become active; gets no traffic.
    Spare,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::Active => "active",
            Self::Spare => "spare",
        })
    }
}

/// What may fail as one piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DomainLevel {
    /// One machine.
    #[default]
    Node,
    /// Machines that share power or a switch.
    Rack,
    /// Machines in one place.
    Site,
}

impl fmt::Display for DomainLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Node => "node",
            Self::Rack => "rack",
            Self::Site => "site",
        })
    }
}
