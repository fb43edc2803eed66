//! What can fail as one piece, and how people write it: `node db1`, `rack a`, `app.web@db1`.

use std::fmt;
use std::str::FromStr;

use backstay_model::{DomainLevel, NodeName, ServiceId};
use serde::{Serialize, Serializer};

/// Something that can fail as one piece.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    /// One program or database on one node, for good: it is not started again there.
    Instance {
        /// The service it belongs to.
        service: ServiceId,
        /// The node it runs on.
        node: NodeName,
    },
    /// A machine with all that is on it.
    Node(NodeName),
    /// A rack with all its machines, as [`backstay_spec::Spec::rack_of`] names it.
    Rack(String),
    /// A site with all its machines.
    Site(String),
    /// Where copies are kept, outside the cluster: `backup.main`.
    Repository(String),
}

impl Thing {
    /// The level of failure domains it belongs to; none for what is no domain of machines.
    pub fn level(&self) -> Option<DomainLevel> {
        match self {
            Self::Node(_) => Some(DomainLevel::Node),
            Self::Rack(_) => Some(DomainLevel::Rack),
            Self::Site(_) => Some(DomainLevel::Site),
            Self::Instance { .. } | Self::Repository(_) => None,
        }
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance { service, node } => f.pad(&format!("{service}@{node}")),
            Self::Node(node) => f.pad(&format!("node {node}")),
            Self::Rack(rack) => f.pad(&format!("rack {rack}")),
            Self::Site(site) => f.pad(&format!("site {site}")),
            Self::Repository(name) => f.pad(&format!("backup.{name}")),
        }
    }
}

impl FromStr for Thing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["node", name] => Ok(Self::Node(name.into())),
            ["rack", name] => Ok(Self::Rack(name.to_owned())),
            ["site", name] => Ok(Self::Site(name.to_owned())),
            [word] if word.contains('@') => {
                let (service, node) = word.split_once('@').unwrap_or((word, ""));
                Ok(Self::Instance { service: service.parse()?, node: node.into() })
            }
            [word] if word.starts_with("backup.") => Ok(Self::Repository(word["backup.".len()..].to_owned())),
            _ => Err(format!(
                "`{text}` is nothing that can fail: write `node NAME`, `rack NAME`, `site NAME`, `app.NAME@NODE` or `backup.NAME`"
            )),
        }
    }
}

impl Serialize for Thing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["node db1", "rack a", "site x/1", "app.web@db1", "postgres.main@db2", "backup.main"] {
            assert_eq!(text.parse::<Thing>().map(|thing| thing.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "db1", "node", "node a b", "web@db1", "app@db1"] {
            assert!(text.parse::<Thing>().is_err(), "{text}");
        }
    }
}
