//! Names and numbers that identify things. Each is its own type, so that a node is never passed where a service is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.to_owned())
            }
        }
    };
}

name_type! {
    /// A machine that runs an agent, as the file calls it: `db1`.
    NodeName
}
name_type! {
    /// A `[listen.NAME]` of the file.
    ListenerName
}

/// What kind of thing a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceKind {
    /// A program: `[app.NAME]`.
    App,
    /// A replicated database: `[postgres.NAME]`.
    Postgres,
}

/// A declared service, written `app.web` or `postgres.main`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ServiceId {
    /// App or postgres.
    pub kind: ServiceKind,
    /// The name after the dot.
    pub name: String,
}

impl ServiceId {
    /// The service `app.NAME`.
    pub fn app(name: &str) -> Self {
        Self { kind: ServiceKind::App, name: name.to_owned() }
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ServiceKind::App => "app",
            ServiceKind::Postgres => "postgres",
        };
        f.pad(&format!("{kind}.{}", self.name))
    }
}

impl From<ServiceId> for String {
    fn from(id: ServiceId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ServiceId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for ServiceId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, name) = match text.split_once('.') {
            Some(("app", name)) => (ServiceKind::App, name),
            Some(("postgres", name)) => (ServiceKind::Postgres, name),
            _ => return Err(format!("`{text}` is not a service: expected `app.NAME` or `postgres.NAME`")),
        };
        if name.is_empty() || name.contains('.') {
            return Err(format!("`{text}` is not a service: expected `app.NAME` or `postgres.NAME`"));
        }
        Ok(Self { kind, name: name.to_owned() })
    }
}

/// A role that at most one node may hold at a time; each has one grant in the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum RoleKey {
    /// The right to decide.
    Coordinator,
    /// Primary of an exclusive service.
    Service(ServiceId),
    /// Holder of a listener's address.
    Address(ListenerName),
}

impl RoleKey {
    /// Where the grant of this role lives in the store.
    pub fn store_key(&self) -> String {
        format!("grant/{self}")
    }
}

impl fmt::Display for RoleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator => f.pad("coordinator"),
            Self::Service(service) => service.fmt(f),
            Self::Address(listener) => f.pad(&format!("address.{listener}")),
        }
    }
}

impl From<RoleKey> for String {
    fn from(role: RoleKey) -> Self {
        role.to_string()
    }
}

impl TryFrom<String> for RoleKey {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for RoleKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "coordinator" {
            return Ok(Self::Coordinator);
        }
        match text.strip_prefix("address.") {
            Some(listener) => Ok(Self::Address(ListenerName(listener.to_owned()))),
            None => text.parse().map(Self::Service),
        }
    }
}

/// Version of the goal: orders goals, routing tables and reasons.
///
/// The store's incarnation, raised when a store is restored or forced, stands in the top 16 bits, so that a goal made
/// after a restore is newer than any made before it, whatever its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

const INCARNATION_SHIFT: u32 = 48;

impl Generation {
    /// Before the first goal.
    pub const ZERO: Self = Self(0);

    /// The generation that follows, in the given incarnation of the store.
    pub fn next(self, incarnation: u16) -> Self {
        let floor = u64::from(incarnation) << INCARNATION_SHIFT;
        Self(self.0.max(floor) + 1)
    }

    /// The incarnation of the store it was made in.
    pub fn incarnation(self) -> u16 {
        (self.0 >> INCARNATION_SHIFT) as u16
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0 & ((1 << INCARNATION_SHIFT) - 1);
        match self.incarnation() {
            0 => f.pad(&number.to_string()),
            incarnation => f.pad(&format!("{incarnation}.{number}")),
        }
    }
}

/// One role's grant: the generation at which its present holder was granted. It stays while the holder stays, and only
/// grows from holder to holder; whatever is fenced compares it.
pub type Token = Generation;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip() {
        for text in ["coordinator", "app.web", "postgres.main", "address.db"] {
            assert_eq!(text.parse::<RoleKey>().unwrap().to_string(), text);
        }
        for text in ["web", "app.", "app.a.b", "redis.x"] {
            assert!(text.parse::<ServiceId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_restored_store_only_makes_newer_generations() {
        let before = Generation(41);
        let after = Generation(12).next(1);
        assert!(after > before);
        assert_eq!(after.to_string(), "1.1");
        assert_eq!(Generation(41).next(0), Generation(42));
    }
}
