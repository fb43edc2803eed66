//! Questions: what if this were lost, what if the file said that?

use std::collections::BTreeSet;
use std::str::FromStr;

use backstay_model::{NodeName, ServiceId};
use backstay_spec::{Edit, Spec};

use crate::contingency::Thing;

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhatIf {
    /// `node db1 lost`: it is gone, and what it carried has been taken over.
    Lost(Thing),
    /// `+ node db4 rack=d`, `- node db3`, `app.web.redundancy=2N`: another file.
    Change(Edit),
}

impl FromStr for WhatIf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if let Some(thing) = text.strip_suffix(" lost") {
            return thing.parse().map(Self::Lost);
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["+", "node", name, ref keys @ ..] => added(name, keys).map(Self::Change),
            ["-", "node", name] => Ok(Self::Change(Edit::RemoveNode(name.into()))),
            _ => set(text).map(Self::Change),
        }
    }
}

/// `rack=d slots=4 witness`: a word alone is a flag.
fn added(name: &str, keys: &[&str]) -> Result<Edit, String> {
    let keys = keys.iter().map(|word| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
        None => Ok(((*word).to_owned(), "true".to_owned())),
        Some(_) => Err(format!("`{word}` is no KEY=VALUE")),
    });
    Ok(Edit::AddNode { name: name.into(), keys: keys.collect::<Result<_, _>>()? })
}

fn set(text: &str) -> Result<Edit, String> {
    let forms = "write `node NAME lost`, `rack NAME lost`, `site NAME lost`, `app.NAME@NODE lost`, `+ node NAME rack=R`, \
                 `- node NAME` or `KEY=VALUE` with the key's whole path: `app.web.redundancy=2N`";
    let (path, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is no question; {forms}"))?;
    let path: Vec<String> = path.trim().split('.').map(str::to_owned).collect();
    let value = value.trim();
    let is_whole = path.iter().all(|part| !part.is_empty() && !part.contains(char::is_whitespace));
    if !is_whole || value.is_empty() {
        return Err(format!("`{text}` is no question; {forms}"));
    }
    Ok(Edit::Set { path, value: value.to_owned() })
}

/// What questions take away from a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Nodes, with all that is on them.
    pub nodes: BTreeSet<NodeName>,
    /// Single instances.
    pub instances: Vec<(ServiceId, NodeName)>,
}

impl Missing {
    /// What is lost, in the terms of a file.
    ///
    /// # Errors
    /// When the file has no such thing; names what it has.
    pub fn of<'a>(spec: &Spec, things: impl IntoIterator<Item = &'a Thing>) -> Result<Self, String> {
        let mut losses = Self::default();
        for thing in things {
            let inside = |node: &&NodeName| match thing {
                Thing::Node(name) => *node == name,
                Thing::Rack(rack) => spec.nodes[*node].rack.is_some() && spec.rack_of(node) == *rack,
                Thing::Site(site) => spec.nodes[*node].site.is_some() && spec.site_of(node) == *site,
                Thing::Instance { .. } | Thing::Repository(_) => false,
            };
            let nodes: Vec<NodeName> = spec.nodes.keys().filter(inside).cloned().collect();
            match thing {
                Thing::Instance { service, node } if !spec.services.contains_key(service) => {
                    return Err(format!("there is no {service}, so it can't be lost on {node}"));
                }
                Thing::Instance { node, .. } if !spec.nodes.contains_key(node) => {
                    return Err(unknown(spec, &Thing::Node(node.clone())));
                }
                Thing::Instance { service, node } => losses.instances.push((service.clone(), node.clone())),
                Thing::Repository(name) if spec.backups.contains_key(name) => {}
                Thing::Repository(_) => return Err(format!("there is no {thing}")),
                _ if nodes.is_empty() => return Err(unknown(spec, thing)),
                _ => losses.nodes.extend(nodes),
            }
        }
        Ok(losses)
    }
}

fn unknown(spec: &Spec, thing: &Thing) -> String {
    let known: BTreeSet<String> = spec
        .nodes
        .iter()
        .filter_map(|(name, node)| match thing {
            Thing::Rack(_) => node.rack.is_some().then(|| spec.rack_of(name)),
            Thing::Site(_) => node.site.clone(),
            _ => Some(name.to_string()),
        })
        .collect();
    const NAMED_MAX: usize = 20;
    let listed: Vec<_> = known.iter().take(NAMED_MAX).cloned().collect();
    match listed.is_empty() {
        true => format!("there is no {thing}: the file names none"),
        false => format!("there is no {thing}; there are {}", listed.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_losses_nodes_and_keys() {
        assert_eq!("node db1 lost".parse(), Ok(WhatIf::Lost(Thing::Node("db1".into()))));
        let keys = vec![("rack".to_owned(), "d".to_owned()), ("witness".to_owned(), "true".to_owned())];
        let added = WhatIf::Change(Edit::AddNode { name: "db4".into(), keys });
        assert_eq!("+ node db4 rack=d witness".parse(), Ok(added));
        assert_eq!("- node db3".parse(), Ok(WhatIf::Change(Edit::RemoveNode("db3".into()))));
        let path = vec!["app".to_owned(), "web".to_owned(), "redundancy".to_owned()];
        let set = WhatIf::Change(Edit::Set { path, value: "2N".to_owned() });
        assert_eq!("app.web.redundancy=2N".parse(), Ok(set.clone()));
        assert_eq!("app.web.redundancy = 2N".parse(), Ok(set));
        for text in ["", "db1 lost", "lost", "+ node", "app..web=1", "x=", "=x", "two words=1", "+ node n =x"] {
            assert!(text.parse::<WhatIf>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_lost_must_be_there() {
        let text = "cluster = \"t\"\n[nodes]\nn1 = { addr = \"10.0.0.1\", rack = \"a\" }\nn2 = { addr = \"10.0.0.2\", rack = \"a\" }\n\
                    [app.web]\nrun = [\"/web\"]\n";
        let spec = backstay_spec::parse("t", text).spec.unwrap();
        let losses = |text: &str| Missing::of(&spec, [&text.parse().unwrap()]);
        assert_eq!(losses("rack a").unwrap().nodes.len(), 2);
        assert_eq!(losses("app.web@n1").unwrap().instances, [(ServiceId::app("web"), "n1".into())]);
        assert_eq!(losses("rack b"), Err("there is no rack b; there are a".to_owned()));
        assert_eq!(losses("site x"), Err("there is no site x: the file names none".to_owned()));
        assert_eq!(losses("app.web@n3"), Err("there is no node n3; there are n1, n2".to_owned()));
        assert!(losses("app.db@n1").is_err() && losses("backup.main").is_err());
    }
}
