//! The routing table: all that the balancer is told. A table is whole; it replaces the one before it or is refused as a whole.

use std::collections::HashSet;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One routing table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Generation of the goal this table was made from.
    pub generation: u64,
    /// Counts the tables made from one goal. Tables are ordered by (generation, serial).
    pub serial: u64,
    /// Where clients connect to.
    pub listeners: Vec<Listener>,
    /// Where connections go to.
    pub upstreams: Vec<Upstream>,
}

/// One socket that clients connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Name, unique in the table.
    pub name: String,
    /// Address to bind; held by this process alone.
    pub bind: SocketAddr,
    /// What is spoken on it.
    pub proto: Proto,
    /// Name of the upstream behind it.
    pub upstream: String,
    /// For a listener on a floating address: the instant, in ns on CLOCK_BOOTTIME of this machine, past which the socket and its
    /// sessions are closed unless it was extended.
    #[serde(default)]
    pub valid_until: Option<u64>,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// Bytes.
    Tcp,
    /// HTTP/1.0 and HTTP/1.1.
    Http,
}

/// A named set of backends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Name, unique in the table.
    pub name: String,
    /// Who serves it.
    pub backends: Vec<Backend>,
    /// How long a connection or request waits while no backend can be used, in milliseconds.
    #[serde(default)]
    pub hold_ms: u64,
    /// For a route bound to an exclusive role: the instant, in ns on CLOCK_BOOTTIME of this machine, past which nothing is
    /// forwarded unless it was extended.
    #[serde(default)]
    pub valid_until: Option<u64>,
    /// Token of the role's holder; sessions made under another token are cut.
    #[serde(default)]
    pub token: u64,
    /// How backends are probed; none means they are taken to be up until a connection fails.
    #[serde(default)]
    pub check: Option<Check>,
    /// Whether at most one holder may be reached at a time; then sessions are cut rather than drained.
    #[serde(default)]
    pub exclusive: bool,
}

/// One address that serves an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Name, unique in the upstream.
    pub id: String,
    /// Address to connect to.
    pub addr: SocketAddr,
    /// Whether it gets new work.
    pub state: BackendState,
}

/// Whether a backend gets new work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// It gets new sessions and requests.
    Active,
    /// It finishes what it has and gets nothing new.
    Draining,
}

/// An active check of every backend of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// Milliseconds between the starts of two checks.
    pub every_ms: u64,
    /// Milliseconds after which an unanswered check has failed.
    pub timeout_ms: u64,
    /// Passed checks in a row that bring a backend up.
    pub rise: u32,
    /// Failed checks in a row that take it down.
    pub fall: u32,
}

/// What an active check asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// `GET` of this path; any status from 200 to 399 passes.
    Http(String),
    /// A connection is accepted.
    Tcp,
}

/// Why a table was refused. The table in force stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is older than the one in force.
    #[error(
        "table (generation {generation}, serial {serial}) is older than the one in force (generation {in_force_generation}, serial {in_force_serial}); send a newer one"
    )]
    Older {
        /// Of the refused table.
        generation: u64,
        /// Of the refused table.
        serial: u64,
        /// Of the table in force.
        in_force_generation: u64,
        /// Of the table in force.
        in_force_serial: u64,
    },
    /// It has the number of the one in force and says something else.
    #[error(
        "table (generation {generation}, serial {serial}) differs from the table in force under the same number; raise the serial"
    )]
    Reused {
        /// Of both tables.
        generation: u64,
        /// Of both tables.
        serial: u64,
    },
    /// A listener names an upstream that the table does not have.
    #[error("listener {listener} names the upstream {upstream}, which the table does not have; retrying does not help")]
    UnknownUpstream {
        /// The listener.
        listener: String,
        /// What it names.
        upstream: String,
    },
    /// Something that must be unique is not.
    #[error("{what} {name} stands twice in the table; retrying does not help")]
    Duplicate {
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A number is out of its bounds.
    #[error("{what} of {name} is {value}, which is out of bounds ({bounds}); retrying does not help")]
    OutOfBounds {
        /// Which number.
        what: &'static str,
        /// Whose.
        name: String,
        /// The value.
        value: u64,
        /// What is allowed.
        bounds: &'static str,
    },
}

/// Most listeners, and most upstreams, that one table may have.
pub const ENTRIES_MAX: usize = 1_000;
/// Most backends of one upstream.
pub const BACKENDS_MAX: usize = 256;
/// Longest hold, in milliseconds.
pub const HOLD_MAX_MS: u64 = 600_000;

impl Table {
    /// Says whether the table can be put in force, whatever is in force now.
    pub fn validate(&self) -> Result<(), Refusal> {
        within("number", "listeners", self.listeners.len() as u64, 0, ENTRIES_MAX as u64, "at most 1000")?;
        within("number", "upstreams", self.upstreams.len() as u64, 0, ENTRIES_MAX as u64, "at most 1000")?;
        let mut upstreams = HashSet::new();
        for upstream in &self.upstreams {
            if !upstreams.insert(upstream.name.as_str()) {
                return Err(duplicate("upstream", &upstream.name));
            }
            upstream.validate()?;
        }
        let (mut names, mut binds) = (HashSet::new(), HashSet::new());
        for listener in &self.listeners {
            if !names.insert(listener.name.as_str()) {
                return Err(duplicate("listener", &listener.name));
            }
            // Port 0 asks for any free port, so two of them do not collide.
            if listener.bind.port() != 0 && !binds.insert(listener.bind) {
                return Err(duplicate("bind address", &listener.bind.to_string()));
            }
            if !upstreams.contains(listener.upstream.as_str()) {
                return Err(Refusal::UnknownUpstream {
                    listener: listener.name.clone(),
                    upstream: listener.upstream.clone(),
                });
            }
        }
        Ok(())
    }

    /// Says whether the table may replace `in_force`.
    pub fn follows(&self, in_force: &Table) -> Result<(), Refusal> {
        let (new, old) = ((self.generation, self.serial), (in_force.generation, in_force.serial));
        if new < old {
            return Err(Refusal::Older {
                generation: new.0,
                serial: new.1,
                in_force_generation: old.0,
                in_force_serial: old.1,
            });
        }
        if new == old && self != in_force {
            return Err(Refusal::Reused { generation: new.0, serial: new.1 });
        }
        Ok(())
    }
}

impl Upstream {
    fn validate(&self) -> Result<(), Refusal> {
        let name = &self.name;
        within("number of backends", name, self.backends.len() as u64, 0, BACKENDS_MAX as u64, "at most 256")?;
        within("hold_ms", name, self.hold_ms, 0, HOLD_MAX_MS, "at most 600000")?;
        let mut ids = HashSet::new();
        for backend in &self.backends {
            if !ids.insert(backend.id.as_str()) {
                return Err(duplicate("backend", &format!("{name}/{}", backend.id)));
            }
        }
        if let Some(check) = &self.check {
            within("check every_ms", name, check.every_ms, 10, 3_600_000, "10 to 3600000")?;
            within("check timeout_ms", name, check.timeout_ms, 1, 3_600_000, "1 to 3600000")?;
            within("check rise", name, u64::from(check.rise), 1, 1_000, "1 to 1000")?;
            within("check fall", name, u64::from(check.fall), 1, 1_000, "1 to 1000")?;
            if let CheckKind::Http(path) = &check.kind
                && (!path.starts_with('/') || path.bytes().any(|byte| byte <= b' ' || byte >= 0x7f))
            {
                return Err(Refusal::OutOfBounds {
                    what: "check path",
                    name: name.clone(),
                    value: path.len() as u64,
                    bounds: "starts with a slash, printable ASCII without spaces",
                });
            }
        }
        Ok(())
    }
}

fn duplicate(what: &'static str, name: &str) -> Refusal {
    Refusal::Duplicate { what, name: name.to_owned() }
}

fn within(
    what: &'static str,
    name: &str,
    value: u64,
    least: u64,
    most: u64,
    bounds: &'static str,
) -> Result<(), Refusal> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Refusal::OutOfBounds { what, name: name.to_owned(), value, bounds })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        serde_json::from_str(
            r#"{"generation":1,"serial":1,
                "listeners":[{"name":"web","bind":"127.0.0.1:80","proto":"http","upstream":"app"}],
                "upstreams":[{"name":"app","hold_ms":500,"backends":[{"id":"a","addr":"127.0.0.1:81","state":"active"}],
                  "check":{"kind":{"http":"/up"},"every_ms":100,"timeout_ms":50,"rise":2,"fall":3}}]}"#,
        )
        .unwrap()
    }

    #[test]
    fn a_bad_table_is_refused_by_name() {
        assert_eq!(table().validate(), Ok(()));
        let mut unknown = table();
        unknown.listeners[0].upstream = "nobody".into();
        assert!(matches!(unknown.validate(), Err(Refusal::UnknownUpstream { upstream, .. }) if upstream == "nobody"));
        let mut twice = table();
        twice.listeners.push(Listener { name: "other".into(), ..twice.listeners[0].clone() });
        assert!(matches!(twice.validate(), Err(Refusal::Duplicate { what: "bind address", .. })));
        let mut path = table();
        path.upstreams[0].check.as_mut().unwrap().kind = CheckKind::Http("/a b\r\n".into());
        assert!(matches!(path.validate(), Err(Refusal::OutOfBounds { what: "check path", .. })));
    }

    #[test]
    fn order_is_by_generation_then_serial() {
        let in_force = table();
        let mut older = table();
        older.serial = 0;
        assert!(matches!(older.follows(&in_force), Err(Refusal::Older { .. })));
        older.generation = 2;
        assert_eq!(older.follows(&in_force), Ok(()));
        assert_eq!(table().follows(&in_force), Ok(()), "the same table again is harmless");
        let mut reused = table();
        reused.listeners.clear();
        assert!(matches!(reused.follows(&in_force), Err(Refusal::Reused { .. })));
    }

    #[test]
    fn json_round_trip() {
        let text = serde_json::to_string(&table()).unwrap();
        assert!(text.contains(r#""proto":"http""#) && text.contains(r#""state":"active""#));
        assert_eq!(serde_json::from_str::<Table>(&text).unwrap(), table());
    }
}
