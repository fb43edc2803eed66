//! `[listen.NAME]`: addresses, ports and targets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use backstay_model::{ListenerName, ServiceId, ServiceKind};

use super::{Check, place_of};
use crate::build::target;
use crate::suggest::nearest;
use crate::table::{Named, Typed, Word};
use crate::types::*;

/// Where an entry listens: a floating address, or every node's own.
type Place = (Option<IpAddr>, u16);

impl Check<'_, '_> {
    pub(super) fn listeners(&mut self) {
        let (root, spec) = (self.root, self.spec);
        let mut vips: BTreeMap<IpAddr, String> = BTreeMap::new();
        let mut places: BTreeMap<Place, String> = BTreeMap::new();
        for named in root.named("listen") {
            let Some(listener) = spec.listeners.get(&ListenerName(named.name.text.clone())) else { continue };
            if named.table.free.is_empty() && !named.table.broken {
                let message = format!("[listen.{}] listens on no port", named.name.text);
                self.error(
                    named.name.span.clone(),
                    "no-entry",
                    message,
                    "add an entry: `http = { port = 80, to = \"app.NAME\" }`",
                );
            }
            let mut shares_vip = false;
            if let Some(vip) = listener.vip {
                self.vip(named, vip);
                if let Some(other) = vips.insert(vip.addr, named.name.text.clone()) {
                    shares_vip = true;
                    let message = format!(
                        "[listen.{other}] and [listen.{}] have the same floating address {}",
                        named.name.text, vip.addr
                    );
                    let help =
                        format!("put the entries of both below [listen.{other}]: one address is held by one node");
                    self.error(place_of(named, &["vip"]), "duplicate-address", message, help);
                }
            }
            for entry in &named.table.free {
                let Some(entry_spec) = listener.entries.get(&entry.name.text) else { continue };
                self.entry(named, entry, entry_spec);
                let unknown_vip = named.table.has("vip") && listener.vip.is_none();
                if entry_spec.port != 0 && !shares_vip && !unknown_vip {
                    self.entry_port(named, entry, (listener.vip.map(|vip| vip.addr), entry_spec.port), &mut places);
                }
            }
        }
    }

    fn vip(&mut self, named: &Named, vip: Vip) {
        let span = place_of(named, &["vip"]);
        let nodes = &self.spec.nodes;
        if let Some((name, _)) = nodes.iter().find(|(_, node)| node.addr == vip.addr) {
            let message = format!("{} is the address of node {name}, so it can't float", vip.addr);
            self.error(span, "duplicate-address", message, "take an address that no machine has");
            return;
        }
        let holders = || nodes.iter().filter(|(_, node)| !node.witness && !node.addr.is_unspecified());
        if let Some((name, node)) = holders().find(|(_, node)| node.addr.is_ipv4() != vip.addr.is_ipv4()) {
            let family = |addr: IpAddr| if addr.is_ipv4() { "IPv4" } else { "IPv6" };
            let message = format!(
                "{} is {}, and node {name} has an {} address ({})",
                vip.addr,
                family(vip.addr),
                family(node.addr),
                node.addr
            );
            self.error(
                span,
                "address-family",
                message,
                "a floating address is of the same family as the nodes that hold it",
            );
            return;
        }
        let whole = if vip.addr.is_ipv4() { 32 } else { 128 };
        let outside = |addr: IpAddr| network(addr, vip.prefix) != network(vip.addr, vip.prefix);
        if vip.prefix < whole && holders().next().is_some() && holders().all(|(_, node)| outside(node.addr)) {
            let message = format!("no node has an address in the network of {}/{}", vip.addr, vip.prefix);
            self.warning(span, "foreign-network", message, "clients find it only if their network is told where it is");
        }
    }

    fn entry(&mut self, listener: &Named, entry: &Named, spec: &EntrySpec) {
        let (name, table) = (&entry.name.text, &entry.table);
        if spec.port == 0 && !table.has("port") {
            let message = format!("entry `{name}` of [listen.{}] needs `port`", listener.name.text);
            self.error(
                entry.name.span.clone(),
                "missing-key",
                message,
                "only `http` and `https` have one by themselves: 80 and 443",
            );
        }
        let looks_like = nearest(name, ["http", "https"]).filter(|word| word != name);
        if let Some(word) = looks_like.filter(|_| !table.has("proto")) {
            let message = format!("entry `{name}` looks like `{word}`, but would forward bytes");
            self.error(
                entry.name.span.clone(),
                "looks-like",
                message,
                format!("call it `{word}`, or add `proto = \"tcp\"`"),
            );
        }
        let Some(word) = table.span("to").zip(table.text("to")).map(|(span, text)| Word { text, span }) else { return };
        if matches!(table.entry("to").map(|entry| &entry.value), Some(Typed::Text(_))) {
            self.target(&word, entry, spec);
        }
    }

    fn target(&mut self, word: &Word, entry: &Named, spec: &EntrySpec) {
        let services = &self.spec.services;
        let Some(target) = target(&word.text) else { return self.not_a_target(word) };
        let Some(service) = services.get(target.service()) else {
            let known = self.targets();
            return self.dangling(word, "service to send to:", &known);
        };
        let lag = matches!(target, Target::Standbys(_));
        if !lag && entry.table.has("max_lag") {
            let message = format!("`max_lag` has no meaning for {}: only standbys lag", word.text);
            self.error(place_of(entry, &["max_lag"]), "contradiction", message, "leave it out");
        }
        if service.id.kind == ServiceKind::Postgres && spec.proto == Proto::Http {
            let message = format!("{} does not speak HTTP", service.id);
            self.error(
                word.span.clone(),
                "contradiction",
                message,
                "write `proto = \"tcp\"`, and call the entry otherwise than `http`",
            );
        }
        if lag && service.instances_per_site() < 2 {
            let message = format!("{} has no standbys: its model is one instance", service.id);
            self.warning(word.span.clone(), "no-effect", message, "raise its `redundancy`");
        }
        if let Workload::App(AppSpec { run: RunSpec::Unit(_), port: None, .. }) = &service.workload {
            let message =
                format!("{} has no port to send to: a systemd unit can't be told which one was picked", service.id);
            self.error(word.span.clone(), "missing-port", message, format!("add `port = …` to [{}]", service.id));
        }
    }

    /// Explains what is wrong with a target that is not written like one.
    fn not_a_target(&mut self, word: &Word) {
        let services = &self.spec.services;
        let parts: Vec<_> = word.text.split('.').collect();
        let (app, postgres) = (
            |name: &str| services.contains_key(&ServiceId::app(name)),
            |name: &str| services.contains_key(&ServiceId { kind: ServiceKind::Postgres, name: name.to_owned() }),
        );
        let help = match parts[..] {
            ["app", name, _] if app(name) => {
                format!("write `app.{name}`: its active instances, or its primary when it is exclusive")
            }
            ["postgres", name] if postgres(name) => {
                format!("write `postgres.{name}.primary` or `postgres.{name}.standbys`")
            }
            ["postgres", name, role] if postgres(name) => {
                let meant = match role {
                    "leader" | "writer" | "write" | "main" => "primary",
                    "replica" | "replicas" | "standby" | "reader" | "readers" | "read" => "standbys",
                    role => nearest(role, ["primary", "standbys"]).unwrap_or("primary` or `standbys"),
                };
                format!("write `postgres.{name}.{meant}`")
            }
            [name] if app(name) => format!("write `app.{name}`"),
            [name] if postgres(name) => format!("write `postgres.{name}.primary` or `postgres.{name}.standbys`"),
            _ => {
                let known = self.targets();
                match nearest(&word.text, known.iter().map(String::as_str)) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => "`app.NAME`, `postgres.NAME.primary` or `postgres.NAME.standbys`".to_owned(),
                }
            }
        };
        self.error(word.span.clone(), "wrong-target", format!("`{}` is not something to send to", word.text), help);
    }

    fn targets(&self) -> Vec<String> {
        let of = |id: &ServiceId| match id.kind {
            ServiceKind::App => vec![id.to_string()],
            ServiceKind::Postgres => vec![format!("{id}.primary"), format!("{id}.standbys")],
        };
        self.spec.services.keys().flat_map(of).collect()
    }

    fn entry_port(&mut self, listener: &Named, entry: &Named, place: Place, places: &mut BTreeMap<Place, String>) {
        let (vip, port) = place;
        let span = place_of(entry, &["port"]);
        let name = format!("listen.{}.{}", listener.name.text, entry.name.text);
        let address = vip.map_or_else(|| "every node's own address".to_owned(), |addr| addr.to_string());
        if let Some(other) = places.get(&place) {
            let message = format!("{other} and {name} would both listen on port {port} of {address}");
            self.error(span, "duplicate-port", message, "give each its own port");
            return;
        }
        places.insert(place, name.clone());
        if vip.is_some() {
            return;
        }
        if port == self.spec.ports.peer {
            let message = format!("{name} wants port {port} of {address}, where the agents talk to each other");
            self.error(span, "port-taken", message, "take another port, or move the agents with `[ports] peer`");
            return;
        }
        let services = self.services_on_port(port);
        if !services.is_empty() {
            let message = format!(
                "{name} wants port {port} of {address}, where {} {}",
                services.join(" and "),
                verb(services.len())
            );
            let help = format!("take another port, or give [listen.{}] a `vip` of its own", listener.name.text);
            self.error(span, "port-taken", message, help);
        }
    }
}

fn verb(count: usize) -> &'static str {
    if count == 1 { "listens" } else { "listen" }
}

/// The first bits of an address.
fn network(addr: IpAddr, prefix: u8) -> u128 {
    match addr {
        IpAddr::V4(addr) => u128::from(u32::from(addr).checked_shr(32 - u32::from(prefix)).unwrap_or(0)),
        IpAddr::V6(addr) => u128::from(addr).checked_shr(128 - u32::from(prefix)).unwrap_or(0),
    }
}
