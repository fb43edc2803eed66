//! `[app.NAME]` and `[postgres.NAME]`.

use std::collections::BTreeMap;

use backstay_model::{DomainLevel, NodeName, ServiceId, ServiceKind};

use super::{Check, place_of};
use crate::secret::{has_inline_login, inline_secret, is_secret_reference};
use crate::suggest::nearest;
use crate::table::{Named, Word};
use crate::types::*;
use crate::units::parse_vip;

/// What is replaced in the arguments of a program.
const PLACEHOLDERS: [&str; 4] = ["addr", "port", "node", "service"];

/// Ends of names of variables and flags that hold a secret.
const SECRET_ENDS: [&str; 9] =
    ["PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "API_KEY", "SECRET_KEY", "PRIVATE_KEY", "ACCESS_KEY"];

impl Check<'_, '_> {
    pub(super) fn services(&mut self) {
        let (root, spec) = (self.root, self.spec);
        let mut ports: BTreeMap<u16, ServiceId> = BTreeMap::new();
        for (kind, key) in [(ServiceKind::App, "app"), (ServiceKind::Postgres, "postgres")] {
            for named in root.named(key) {
                let id = ServiceId { kind, name: named.name.text.clone() };
                let Some(service) = spec.services.get(&id) else { continue };
                self.model(named, service);
                self.count(named, service);
                self.prefer(named, service);
                let port = match &service.workload {
                    Workload::App(app) => {
                        self.app(named, service, app);
                        app.port
                    }
                    Workload::Postgres(postgres) => {
                        self.postgres(named, service, postgres);
                        Some(postgres.port)
                    }
                };
                if let Some(port) = port {
                    self.service_port(named, &id, port, &mut ports);
                }
            }
        }
    }

    fn service_port(&mut self, named: &Named, id: &ServiceId, port: u16, ports: &mut BTreeMap<u16, ServiceId>) {
        let span = place_of(named, &["port"]);
        if port == self.spec.ports.peer {
            let message = format!("{id} wants port {port}, where the agents talk to each other");
            self.error(span, "port-taken", message, "take another port, or move the agents with `[ports] peer`");
        } else if let Some(other) = ports.insert(port, id.clone()) {
            let message = format!("{other} and {id} both listen on port {port}, and may meet on one node");
            self.warning(span, "port-shared", message, "give each its own port");
        }
    }

    /// Exclusive, mode, spare and spread together.
    fn model(&mut self, named: &Named, service: &ServiceSpec) {
        let (id, table) = (&service.id, &named.table);
        if let Some(span) = table.span("spread") {
            if service.spread == DomainLevel::Site && !service.sites.is_empty() {
                let message = format!("{id} has a model inside each of its `sites`, so it can't be spread over sites");
                let help = "write `spread = \"rack\"` or `\"node\"`, or leave out `sites`";
                self.error(span, "contradiction", message, help);
            } else {
                self.level_is_declared(service.spread, span, "spread");
            }
        }
        let is_app = id.kind == ServiceKind::App;
        if is_app && service.exclusive {
            if service.need != 1 {
                let message =
                    format!("{id} is exclusive: one instance acts at a time, so `need` can't be {}", service.need);
                self.error(
                    place_of(named, &["need"]),
                    "contradiction",
                    message,
                    "write `need = 1`, or leave out `exclusive`",
                );
            }
            if service.mode == Mode::ActiveActive {
                let message = format!("{id} is exclusive: one instance acts at a time, so they can't all be active");
                self.error(place_of(named, &["mode"]), "contradiction", message, "leave out `mode` or `exclusive`");
            }
            if service.spare == SpareKind::Hot && table.has("spare") {
                let message = format!("{id} is exclusive: it runs only with a grant, so a spare can't run already");
                self.error(
                    place_of(named, &["spare"]),
                    "contradiction",
                    message,
                    "write `spare = \"cold\"` or `\"warm\"`",
                );
            }
        } else if is_app && service.mode == Mode::ActiveActive && table.has("spare") {
            let message =
                format!("`spare` has no effect on {id}: all instances of an active/active service carry traffic");
            self.warning(place_of(named, &["spare"]), "no-effect", message, "leave it out");
        }
        let largest = self.spec.nodes.values().map(|node| node.slots.unwrap_or(u32::MAX)).max();
        if largest.is_some_and(|largest| service.slots > largest) {
            let message = format!("one instance of {id} takes {} slots, and no node has so many", service.slots);
            self.error(
                place_of(named, &["slots"]),
                "impossible-number",
                message,
                "lower it, or raise `slots` of the nodes",
            );
        }
    }

    /// Whether the model's instances find nodes and domains, in each site by itself.
    fn count(&mut self, named: &Named, service: &ServiceSpec) {
        let spec = self.spec;
        self.twice("sites", named.table.words("sites"));
        let mut known: Vec<String> = spec.nodes.values().filter_map(|node| node.site.clone()).collect();
        known.sort();
        known.dedup();
        for word in named.table.words("sites") {
            if !known.contains(&word.text) {
                self.dangling(word, "site", &known);
            }
        }
        let scopes: Vec<Option<&String>> = match service.sites.is_empty() {
            true => vec![None],
            false => service.sites.iter().filter(|site| known.contains(site)).map(Some).collect(),
        };
        for site in scopes {
            self.count_in(named, service, site);
        }
    }

    fn count_in(&mut self, named: &Named, service: &ServiceSpec, site: Option<&String>) {
        let spec = self.spec;
        let inside = |name: &&NodeName| site.is_none_or(|site| spec.site_of(name) == *site);
        let nodes: Vec<_> =
            spec.nodes.iter().filter(|(_, node)| !node.witness).map(|(name, _)| name).filter(inside).collect();
        let mut domains: Vec<_> = nodes.iter().map(|name| spec.domain_of(name, service.spread)).collect();
        domains.sort();
        domains.dedup();
        let (need, wanted) = (service.need as usize, service.instances_per_site() as usize);
        let (id, level) = (&service.id, service.spread);
        let place = site.map_or_else(String::new, |site| format!(" in site {site}"));
        let holders = many(nodes.len(), "node");
        let domains_wanted = match service.redundancy {
            Redundancy::N => 0,
            Redundancy::NPlus1 | Redundancy::NPlus2 => wanted,
            Redundancy::TwoN => 2,
            Redundancy::TwoNPlus1 => 3,
        };
        let model = service.redundancy;
        if need > nodes.len() {
            let message =
                format!("{id} needs {need} instances, at most one per node, and {holders}{place} can hold one");
            self.error(place_of(named, &["need"]), "impossible-number", message, "lower `need`, or add nodes");
        } else if wanted > nodes.len() {
            let message = format!(
                "{model} of {id} is {wanted} instances, at most one per node, and {holders}{place} can hold one"
            );
            self.warning(
                place_of(named, &["redundancy", "need"]),
                "too-few-nodes",
                message,
                fewer_survive(service, nodes.len()),
            );
        } else if domains_wanted > domains.len() {
            let message = format!(
                "{model} of {id} wants {domains_wanted} {level}s{place}, and the file has {}",
                many(domains.len(), &level.to_string())
            );
            let help = format!(
                "losing one {level} may take more instances than there are to spare; add {level}s, or lower `spread`"
            );
            self.warning(place_of(named, &["redundancy", "spread", "need"]), "too-few-domains", message, help);
        }
    }

    fn prefer(&mut self, named: &Named, service: &ServiceSpec) {
        let (spec, table) = (self.spec, &named.table);
        let words = table.words("prefer");
        let known = self.node_names();
        self.twice("prefer", words);
        for word in words {
            let name = NodeName(word.text.clone());
            let Some(node) = spec.nodes.get(&name) else {
                self.dangling(word, "node", &known);
                continue;
            };
            if node.witness {
                let message = format!("{name} is a witness: it votes and holds nothing, so it can't be preferred");
                self.error(word.span.clone(), "contradiction", message, "leave it out of `prefer`");
            }
            if node.postgres.no_primary && service.id.kind == ServiceKind::Postgres {
                let message = format!("{name} is preferred as primary and marked `no_primary`");
                self.error(word.span.clone(), "contradiction", message, "leave it out of `prefer`, or drop the mark");
            }
            let known_sites =
                service.sites.iter().all(|site| spec.nodes.values().any(|node| node.site.as_ref() == Some(site)));
            if !service.sites.is_empty() && known_sites && !service.sites.contains(&spec.site_of(&name)) {
                let message = format!("{name} is preferred, but it stands in none of the `sites` of {}", service.id);
                self.error(word.span.clone(), "contradiction", message, "leave it out of `prefer`, or add its site");
            }
        }
        if !table.has("prefer") {
            for key in ["failback", "steady"].into_iter().filter(|key| table.states(key)) {
                let message = format!(
                    "`{key}` has no effect on {}: without `prefer` no node is main, and nothing moves back",
                    service.id
                );
                self.warning(place_of(named, &[key]), "no-effect", message, "add `prefer`, or leave it out");
            }
        }
    }

    fn app(&mut self, named: &Named, service: &ServiceSpec, app: &AppSpec) {
        let (id, table) = (&service.id, &named.table);
        match (table.entry("run"), table.entry("unit")) {
            (Some(_), Some(unit)) => {
                let message = format!("{id} has both `run` and `unit`");
                self.error(
                    unit.key_span.clone(),
                    "run-and-unit",
                    message,
                    "keep one: a program of its own, or a systemd unit",
                );
            }
            (None, None) => {
                let message = format!("{id} says nothing about what runs");
                self.error(
                    named.name.span.clone(),
                    "missing-key",
                    message,
                    "add `run = [\"/path/to/program\"]` or `unit = \"NAME.service\"`",
                );
            }
            _ => {}
        }
        self.absolute(table, "cwd");
        self.arguments(id, table.words("run"));
        self.environment(table.map("env"));
        if let RunSpec::Unit(unit) = &app.run
            && !table.has("run")
        {
            self.unit(named, service, app, unit);
        }
    }

    fn unit(&mut self, named: &Named, service: &ServiceSpec, app: &AppSpec, unit: &str) {
        let id = &service.id;
        if unit.contains(|c: char| c.is_whitespace() || c == '/') || unit.starts_with('-') {
            let message = format!("\"{unit}\" is not the name of a systemd unit");
            self.error(place_of(named, &["unit"]), "wrong-value", message, "like \"shop-web.service\"");
        }
        for key in ["env", "user", "cwd", "stop"].into_iter().filter(|key| named.table.has(key)) {
            let message = format!("`{key}` has no effect on {id}: its systemd unit says so itself");
            self.warning(place_of(named, &[key]), "no-effect", message, "leave it out, or use `run` instead of `unit`");
        }
        let asks_port = matches!(&app.check, Some(CheckSpec { kind: CheckKind::Http(_) | CheckKind::Tcp, .. }));
        if asks_port && app.port.is_none() {
            let message = format!("the check of {id} needs a port: a systemd unit can't be told which one was picked");
            self.error(
                place_of(named, &["check"]),
                "missing-port",
                message,
                "add `port = …`, the one that the unit listens on",
            );
        }
    }

    /// Placeholders that are not replaced, and secrets.
    fn arguments(&mut self, id: &ServiceId, words: &[Word]) {
        for (at, word) in words.iter().enumerate() {
            for name in placeholders(&word.text) {
                if !PLACEHOLDERS.contains(&name)
                    && let Some(meant) = nearest(name, PLACEHOLDERS)
                {
                    let message = format!("`{{{name}}}` in `run` of {id} is not replaced");
                    self.warning(
                        word.span.clone(),
                        "unknown-placeholder",
                        message,
                        format!("did you mean `{{{meant}}}`?"),
                    );
                }
            }
            let (flag, value) = match word.text.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (word.text.as_str(), words.get(at + 1).map(|next| next.text.as_str())),
            };
            let is_secret = flag.starts_with("--")
                && names_secret(flag)
                && value.is_some_and(|value| is_plain_secret(value) && !value.starts_with('-'));
            if is_secret || has_inline_login(&word.text) {
                inline_secret(self.sink, word.span.clone(), &format!("argument {at} of `run`"));
            }
        }
    }

    fn environment(&mut self, map: &[(Word, Option<Word>)]) {
        for (name, value) in map {
            let mut bytes = name.text.bytes();
            let starts = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
            if !starts || !bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                let message = format!("`{}` is not the name of a variable", name.text);
                self.error(
                    name.span.clone(),
                    "invalid-name",
                    message,
                    "letters, digits and `_`, not beginning with a digit",
                );
            }
            if name.text == "PORT" || name.text.starts_with("BACKSTAY_") {
                let message = format!("`{}` is set by Backstay for every program", name.text);
                self.error(name.span.clone(), "reserved-name", message, "leave it out; `port = …` chooses the port");
            }
            if let Some(value) = value
                && ((names_secret(&name.text) && is_plain_secret(&value.text)) || has_inline_login(&value.text))
            {
                inline_secret(self.sink, value.span.clone(), &format!("`{}`", name.text));
            }
        }
    }

    fn postgres(&mut self, named: &Named, service: &ServiceSpec, postgres: &PostgresSpec) {
        let (id, table) = (&service.id, &named.table);
        self.absolute(table, "data");
        self.absolute(table, "bin");
        let standbys = service.instances_per_site().saturating_sub(1);
        if let Some(sync) = postgres.sync {
            let span = place_of(named, &["sync"]);
            if sync > standbys {
                let message = format!("a commit of {id} would wait for {sync} standbys, and its model has {standbys}");
                self.error(span, "impossible-number", message, "lower `sync`, or raise `redundancy`");
            } else if sync == 0 && self.spec.goal.max_loss == MaxLoss::Zero {
                let message = format!("`goal.max_loss` is \"0\", but no commit of {id} would wait for a standby");
                self.error(span, "contradiction", message, "leave out `sync`, or allow a loss: `max_loss = \"10s\"`");
            }
        }
        for word in table.words("clients") {
            if parse_vip(&word.text).is_err() {
                let message = format!("\"{}\" is not a network", word.text);
                self.error(word.span.clone(), "wrong-address", message, "like \"10.0.0.0/8\"");
            }
        }
        for (name, secret) in table.map("users") {
            if let Some(secret) = secret.as_ref().filter(|secret| !is_secret_reference(&secret.text)) {
                inline_secret(self.sink, secret.span.clone(), &format!("the password of `{}`", name.text));
            }
        }
    }

    /// The address that a service has on every node, for listeners that share it.
    pub(super) fn services_on_port(&self, port: u16) -> Vec<String> {
        let on_port = self.spec.services.values().filter(|service| match &service.workload {
            Workload::App(app) => app.port == Some(port),
            Workload::Postgres(postgres) => postgres.port == port,
        });
        on_port.map(|service| service.id.to_string()).collect()
    }
}

fn many(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn fewer_survive(service: &ServiceSpec, nodes: usize) -> String {
    match nodes - service.need as usize {
        0 => {
            "no instance would be to spare: add nodes, or lower `need`, or say so with `redundancy = \"N\"`".to_owned()
        }
        spare => {
            format!("only {} would be to spare: add nodes, or lower `need` or `redundancy`", many(spare, "instance"))
        }
    }
}

/// The words in single braces.
fn placeholders(text: &str) -> Vec<&str> {
    text.split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
        .map(|(name, _)| name)
        .filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic()))
        .collect()
}

fn names_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase().replace('-', "_");
    SECRET_ENDS.iter().any(|end| name.ends_with(end))
}

/// Neither where a secret is, nor a path to it.
fn is_plain_secret(value: &str) -> bool {
    !value.is_empty() && !is_secret_reference(value) && !value.starts_with('/')
}
