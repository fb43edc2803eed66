//! One change to a file's text, everything else left as it was: what a question "what if?" asks about.
//!
//! The result is only text; [`crate::parse`] says whether it makes sense, with all it says about any other file.

use std::net::{IpAddr, Ipv4Addr};

use backstay_model::NodeName;
use toml_edit::{DocumentMut, InlineTable, Item, Table, Value};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A key gets another value: `app.web.redundancy`, `2N`.
    Set {
        /// The key, from the top of the file.
        path: Vec<String>,
        /// The value: TOML, or a text without its quotes.
        value: String,
    },
    /// A node joins.
    AddNode {
        /// Its name.
        name: NodeName,
        /// Its keys; `addr` may be missing, it then gets one that no other node has.
        keys: Vec<(String, String)>,
    },
    /// A node leaves, and whatever prefers it forgets it.
    RemoveNode(NodeName),
}

/// Why a file can't be changed so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EditError {
    /// The text is not TOML.
    NotToml(String),
    /// The part of the path with this name is no table.
    NotATable(String),
    /// The node is there already.
    NodeExists(NodeName),
    /// There is no such node.
    NoSuchNode(NodeName),
}

impl std::fmt::Display for EditError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotToml(why) => write!(f, "the file is not TOML: {why}"),
            Self::NotATable(name) => write!(f, "`{name}` is not a table"),
            Self::NodeExists(name) => write!(f, "there is a node {name} already"),
            Self::NoSuchNode(name) => write!(f, "there is no node {name}"),
        }
    }
}

impl std::error::Error for EditError {}

/// The file with one change.
///
/// # Errors
/// When the text is not TOML, or the change does not fit it.
pub fn edit(text: &str, change: &Edit) -> Result<String, EditError> {
    let mut document: DocumentMut =
        text.parse().map_err(|error: toml_edit::TomlError| EditError::NotToml(error.message().to_owned()))?;
    match change {
        Edit::Set { path, value } => set(document.as_item_mut(), path, value)?,
        Edit::AddNode { name, keys } => add_node(&mut document, name, keys)?,
        Edit::RemoveNode(name) => remove_node(&mut document, name)?,
    }
    Ok(document.to_string())
}

fn set(root: &mut Item, path: &[String], value: &str) -> Result<(), EditError> {
    let Some((last, tables)) = path.split_last() else { return Ok(()) };
    let mut at = root;
    for name in tables {
        let table = at.as_table_like_mut().ok_or_else(|| EditError::NotATable(name.clone()))?;
        if !table.contains_key(name) {
            let mut implied = Table::new();
            implied.set_implicit(true);
            table.insert(name, Item::Table(implied));
        }
        at = table.get_mut(name).ok_or_else(|| EditError::NotATable(name.clone()))?;
    }
    let table = at.as_table_like_mut().ok_or_else(|| EditError::NotATable(tables.join(".")))?;
    let mut value = value_of(value);
    if let Some(before) = table.get(last).and_then(Item::as_value) {
        // The comment behind it stays.
        *value.decor_mut() = before.decor().clone();
    }
    table.insert(last, Item::Value(value));
    Ok(())
}

/// A value as the file would write it; what is not TOML by itself is a text.
fn value_of(text: &str) -> Value {
    text.parse().unwrap_or_else(|_| Value::from(text))
}

fn nodes(document: &mut DocumentMut) -> Result<&mut dyn toml_edit::TableLike, EditError> {
    let nodes = document.entry("nodes").or_insert(Item::Table(Table::new()));
    nodes.as_table_like_mut().ok_or_else(|| EditError::NotATable("nodes".to_owned()))
}

fn add_node(document: &mut DocumentMut, name: &NodeName, keys: &[(String, String)]) -> Result<(), EditError> {
    let nodes = nodes(document)?;
    if nodes.contains_key(name.as_str()) {
        return Err(EditError::NodeExists(name.clone()));
    }
    let mut node = InlineTable::new();
    if !keys.iter().any(|(key, _)| key == "addr") {
        let taken: Vec<_> =
            nodes.iter().filter_map(|(_, item)| item.get("addr")?.as_str().map(str::to_owned)).collect();
        node.insert("addr", Value::from(free_address(&taken).to_string()));
    }
    for (key, value) in keys {
        node.insert(key, value_of(value));
    }
    nodes.insert(name.as_str(), Item::Value(Value::InlineTable(node)));
    Ok(())
}

/// An address of the block kept for documentation, since no machine has it (RFC 5737).
fn free_address(taken: &[String]) -> IpAddr {
    let mut candidates = (1..=254).map(|last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)));
    candidates.find(|addr| !taken.contains(&addr.to_string())).unwrap_or(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)))
}

fn remove_node(document: &mut DocumentMut, name: &NodeName) -> Result<(), EditError> {
    if nodes(document)?.remove(name.as_str()).is_none() {
        return Err(EditError::NoSuchNode(name.clone()));
    }
    for kind in ["app", "postgres", "backup"] {
        let tables = document.get_mut(kind).and_then(Item::as_table_like_mut);
        for (_, table) in tables.into_iter().flat_map(|tables| tables.iter_mut()) {
            for key in ["prefer", "on"] {
                if let Some(list) = table.get_mut(key).and_then(Item::as_array_mut) {
                    list.retain(|word| word.as_str() != Some(name.as_str()));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "cluster = \"t\"\n[nodes] # machines\nn1 = { addr = \"192.0.2.1\" }\nn2 = { addr = \"10.0.0.2\" }\n\
                        [app.web]\nneed = 2 # two\nrun = [\"/web\"]\nprefer = [\"n1\", \"n2\"]\n";

    fn set_to(path: &str, value: &str) -> String {
        let path = path.split('.').map(str::to_owned).collect();
        edit(FILE, &Edit::Set { path, value: value.to_owned() }).unwrap()
    }

    #[test]
    fn one_key_changes_and_nothing_else() {
        assert_eq!(set_to("app.web.need", "3"), FILE.replace("need = 2", "need = 3"));
        assert!(set_to("app.web.redundancy", "2N").contains("redundancy = \"2N\""), "a text needs no quotes");
        let goal = set_to("goal.survive", "rack");
        assert!(goal.contains("[goal]\nsurvive = \"rack\""), "a table that was not there: {goal}");
        let node = set_to("nodes.n2.rack", "b");
        assert!(node.contains("n2 = { addr = \"10.0.0.2\" , rack = \"b\" }"), "{node}");
    }

    #[test]
    fn a_node_joins_with_an_address_of_its_own() {
        let keys = vec![("rack".to_owned(), "d".to_owned()), ("witness".to_owned(), "true".to_owned())];
        let text = edit(FILE, &Edit::AddNode { name: "n3".into(), keys: keys.clone() }).unwrap();
        assert!(text.contains("n3 = { addr = \"192.0.2.2\", rack = \"d\", witness = true }"), "{text}");
        let again = edit(&text, &Edit::AddNode { name: "n3".into(), keys });
        assert_eq!(again, Err(EditError::NodeExists("n3".into())));
    }

    #[test]
    fn a_node_that_leaves_is_preferred_no_longer() {
        let text = edit(FILE, &Edit::RemoveNode("n1".into())).unwrap();
        assert!(!text.contains("n1"), "{text}");
        assert_eq!(edit(&text, &Edit::RemoveNode("n1".into())), Err(EditError::NoSuchNode("n1".into())));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let deep = Edit::Set { path: vec!["cluster".into(), "name".into()], value: "1".into() };
        assert_eq!(edit(FILE, &deep), Err(EditError::NotATable("cluster".into())));
        assert!(matches!(edit("a = [", &deep), Err(EditError::NotToml(_))));
    }
}
