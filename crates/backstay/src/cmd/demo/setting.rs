//! What the demo's two stories are set in: their nodes, services and config files.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::cast::{self, CAST};
use super::processes::MARK;
use super::stage::Ports;

/// The setting of one story.
pub struct Setting {
    /// The nodes, each with a loopback address of its own.
    pub nodes: &'static [Place],
    /// The floating address, if there is one.
    pub floating: Option<Ipv4Addr>,
    /// The services, as the listeners' entries are called too.
    pub services: &'static [&'static str],
    /// The services' part of the config file.
    apps: fn(&Props<'_>) -> String,
}

/// One node.
pub struct Place {
    /// Its name.
    pub name: &'static str,
    /// Its address.
    pub addr: Ipv4Addr,
    /// Where it stands.
    pub site: Option<&'static str>,
}

/// Three nodes, and services of the kinds that people have: what happens to each while a program, then a node dies.
pub static THREE_NODES: Setting = Setting {
    nodes: &[place(1, 1, "n1", None), place(1, 2, "n2", None), place(1, 3, "n3", None)],
    floating: Some(Ipv4Addr::new(127, 0, 1, 100)),
    services: &["web", "api", "till"],
    apps: web_api_till,
};

/// Five nodes at three sites, and a service of each redundancy model.
pub static FIVE_NODES: Setting = Setting {
    nodes: &[
        place(2, 1, "n1", Some("east")),
        place(2, 2, "n2", Some("east")),
        place(2, 3, "n3", Some("west")),
        place(2, 4, "n4", Some("west")),
        place(2, 5, "n5", Some("south")),
    ],
    floating: None,
    services: &cast::SERVICES,
    apps: |props| CAST.iter().map(|part| props.app(part.service, part.about, &part.keys())).collect(),
};

const fn place(net: u8, host: u8, name: &'static str, site: Option<&'static str>) -> Place {
    Place { name, addr: Ipv4Addr::new(127, 0, net, host), site }
}

/// What the exclusive program of the demo in `dir` writes.
pub fn journal(dir: &Path) -> PathBuf {
    dir.join("journal")
}

/// What a config file is written from.
pub struct Props<'a> {
    /// The setting.
    pub setting: &'a Setting,
    /// This program.
    pub exe: &'a Path,
    /// The demo's directory.
    pub dir: &'a Path,
    /// The ports.
    pub ports: &'a Ports,
    /// A program of the user's own, and its arguments; the built-in one when empty.
    pub command: &'a [String],
}

impl Props<'_> {
    /// The whole config file.
    pub fn config(&self) -> String {
        let node = |node: &Place| {
            let site = node.site.map_or_else(String::new, |site| format!(", site = \"{site}\""));
            format!("{} = {{ addr = \"{}\"{site} }}\n", node.name, node.addr)
        };
        let nodes: String = self.setting.nodes.iter().map(node).collect();
        let front = self.setting.floating.map_or_else(String::new, |floating| {
            let entries = self.entries(&self.ports.front);
            format!(
                "[listen.front]                        # one floating address\nvip = \"{floating}/32\"\n{entries}\n"
            )
        });
        format!(
            "# Written by `backstay demo`.\ncluster = \"demo\"\n\n[goal]\nsurvive = \"node\"\nmax_outage = \"10s\"\n\n\
             [ports]\npeer = {peer}\n\n[nodes]\n{nodes}\n{apps}{front}\
             [listen.local]                        # on every node's own address\n{local}",
            peer = self.ports.peer,
            apps = (self.setting.apps)(self),
            local = self.entries(&self.ports.local),
        )
    }

    fn entries(&self, ports: &[u16]) -> String {
        let entry = |(service, port): (&&str, &u16)| {
            format!("{service} = {{ port = {port}, proto = \"http\", to = \"app.{service}\" }}\n")
        };
        self.setting.services.iter().zip(ports).map(entry).collect()
    }

    /// A service that runs the user's program, or the built-in one.
    fn app(&self, name: &str, about: &str, keys: &str) -> String {
        // A program of the user's own is only known to listen.
        let (run, check) = match self.command.is_empty() {
            true => (self.built_in(&[]), "GET /up"),
            false => (list(self.command.iter().map(String::as_str)), "tcp"),
        };
        self.service(name, about, keys, &run, check)
    }

    /// The built-in program, as a list of words.
    fn built_in(&self, extra: &[&str]) -> String {
        let exe = self.exe.display().to_string();
        let words = [&exe, "demo-app", "--addr", "{addr}", "--port", "{port}"];
        list(words.iter().copied().chain(extra.iter().copied()))
    }

    fn service(&self, name: &str, about: &str, keys: &str, run: &str, check: &str) -> String {
        let (head, mark) = (format!("[app.{name}]"), string(&self.dir.join("{node}").display().to_string()));
        format!("{head:<38}# {about}\n{keys}run = {run}\ncheck = \"{check}\"\nenv = {{ {MARK} = {mark} }}\n\n")
    }
}

/// The services of the three nodes.
fn web_api_till(props: &Props<'_>) -> String {
    let journal = journal(props.dir).display().to_string();
    let till = props.built_in(&["--journal", &journal]);
    [
        props.app(
            "web",
            "two carry the load, the third is a hot spare",
            "need = 2\nredundancy = \"N+1\"\nmode = \"active/passive\"\nspare = \"hot\"\nprefer = [\"n1\", \"n2\"]\n\
             steady = \"2s\"\n",
        ),
        props.app(
            "api",
            "all carry traffic, two suffice",
            "need = 2\nredundancy = \"N+1\"\nmode = \"active/active\"\n",
        ),
        props.service(
            "till",
            "at most one at a time, whatever happens",
            "exclusive = true\nneed = 1\nredundancy = \"N+1\"\nprefer = [\"n1\"]\nsteady = \"2s\"\n",
            &till,
            "GET /up",
        ),
    ]
    .concat()
}

/// A TOML string: what JSON escapes, TOML's basic strings escape the same way.
fn string(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// A TOML list of strings.
pub fn list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", words.map(string).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
pub mod tests {
    use backstay_spec::Spec;

    use super::*;

    /// Ports that might have been picked.
    pub fn ports(setting: &Setting) -> Ports {
        let services = setting.services.len() as u16;
        let front = if setting.floating.is_some() { (20_001..20_001 + services).collect() } else { Vec::new() };
        Ports { peer: 20_000, front, local: (20_100..20_100 + services).collect() }
    }

    /// The file of a setting, as it is understood.
    pub fn spec(setting: &Setting, command: &[String]) -> Spec {
        let ports = ports(setting);
        let dir = Path::new("/tmp/backstay-demo-0");
        let text = Props { setting, exe: Path::new("/usr/bin/backstay"), dir, ports: &ports, command }.config();
        let parsed = backstay_spec::parse("backstay.toml", &text);
        assert_eq!(parsed.diagnostics, [], "{text}");
        let spec = parsed.spec.expect("no errors");
        assert_eq!(backstay_spec::not_in_this_build("backstay.toml", &text, &spec), []);
        assert_eq!(spec.services.len(), setting.services.len());
        spec
    }

    #[test]
    fn the_files_of_the_demo_are_right_with_any_command() {
        let odd = ["/opt/my \"app\"".to_owned(), "--port={port}".to_owned(), "tab\there".to_owned()];
        for command in [&[][..], &odd[..]] {
            for setting in [&THREE_NODES, &FIVE_NODES] {
                spec(setting, command);
            }
        }
    }
}
