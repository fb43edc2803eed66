//! `[nodes]` and `[goal]`.

use std::collections::BTreeMap;

use backstay_model::{DomainLevel, NodeName};

use super::Check;
use crate::table::Span;

impl Check<'_, '_> {
    pub(super) fn nodes(&mut self) {
        let (root, spec) = (self.root, self.spec);
        if let Some(entry) = root.entry("nodes")
            && root.named("nodes").is_empty()
            && matches!(entry.value, crate::table::Typed::Named(_))
        {
            self.error(
                entry.key_span.clone(),
                "no-nodes",
                "[nodes] names no machine".to_owned(),
                "db1 = { addr = \"10.0.0.1\" }",
            );
        }
        let mut seen = BTreeMap::new();
        for named in root.named("nodes") {
            let name = NodeName(named.name.text.clone());
            let Some(node) = spec.nodes.get(&name) else { continue };
            if let Some(span) = named.table.span("addr")
                && !node.addr.is_unspecified()
                && let Some(other) = seen.insert(node.addr, name.clone())
            {
                let message = format!("{other} and {name} have the same address {}", node.addr);
                self.error(
                    span,
                    "duplicate-address",
                    message,
                    "a node knows which entry it is by its address: give each its own",
                );
            }
            if node.witness && node.voter == Some(false) {
                let message = format!("{name} is a witness that does not vote, so it would do nothing");
                self.error(
                    super::place_of(named, &["voter"]),
                    "contradiction",
                    message,
                    "leave out `voter` or `witness`",
                );
            }
            if node.rack.is_none()
                && let Some((other, _)) =
                    spec.nodes.iter().find(|(_, other)| other.rack.as_deref() == Some(name.as_str()))
            {
                let message = format!(
                    "{name} has no rack, so it is a rack of its own, and the rack of {other} is called `{name}` too"
                );
                self.error(
                    named.name.span.clone(),
                    "name-clash",
                    message,
                    format!("give {name} its rack, or that rack another name"),
                );
            }
        }
        self.voters();
    }

    fn voters(&mut self) {
        let stated: Vec<_> =
            self.root.named("nodes").iter().filter(|named| named.table.flag("voter").is_some()).collect();
        let Some(last) = stated.last() else { return };
        let span = super::place_of(last, &["voter"]);
        let voters = self.spec.voters();
        if voters.is_empty() {
            self.error(
                span,
                "no-voter",
                "no node may vote, so nothing could ever be decided".to_owned(),
                "let one node, or three, vote",
            );
        } else if voters.len().is_multiple_of(2) {
            let names: Vec<_> = voters.iter().map(NodeName::as_str).collect();
            let message = format!(
                "{} nodes vote ({}): an even number survives no more than one fewer",
                voters.len(),
                names.join(", ")
            );
            self.warning(span, "even-voters", message, "let an odd number vote: one, three or five");
        }
    }

    pub(super) fn goal(&mut self) {
        if let Some(span) = self.root.table("goal").and_then(|goal| goal.span("survive")) {
            self.level_is_declared(self.spec.goal.survive, span, "survive");
        }
    }

    /// A promise about racks or sites needs to know where each machine stands.
    pub(super) fn level_is_declared(&mut self, level: DomainLevel, span: Span, key: &str) {
        let spec = self.spec;
        let holds = spec.nodes.iter().filter(|(_, node)| !node.witness);
        let lacking: Vec<_> = holds
            .filter(|(_, node)| match level {
                DomainLevel::Node => false,
                DomainLevel::Rack => node.rack.is_none(),
                DomainLevel::Site => node.site.is_none(),
            })
            .map(|(name, _)| name.to_string())
            .collect();
        if !lacking.is_empty() {
            let message =
                format!("`{key} = \"{level}\"`, but the {level} of {} is not stated", super::listed(&lacking));
            let help = format!("state it for each: `{} = {{ addr = …, {level} = \"a\" }}`", lacking[0]);
            self.error(span, &format!("missing-{level}"), message, help);
        }
    }
}
