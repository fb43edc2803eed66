//! Where the demo plays: a directory, a config file, identities, three agents, and somebody who clears it all away.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use backstay_agent::identity;
use serde_json::Value;

use super::load::{Target, Through};
use super::processes::{self, MARK};
use super::watchdog::Watchdog;
use crate::clock;
use crate::connection::Agent;
use crate::output::Failure;

/// The nodes, each with a loopback address of its own.
pub const NODES: [(&str, Ipv4Addr); 3] =
    [("n1", Ipv4Addr::new(127, 0, 1, 1)), ("n2", Ipv4Addr::new(127, 0, 1, 2)), ("n3", Ipv4Addr::new(127, 0, 1, 3))];
/// The floating address.
pub const FLOATING: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 100);
/// The services, as the listeners' entries are called too.
pub const SERVICES: [&str; 3] = ["web", "api", "till"];
/// In the demo's directory, so that nothing else is ever taken for one.
pub const MARK_FILE: &str = "this-is-a-backstay-demo";

/// A longer path would leave no room for the sockets below it, whose paths the kernel bounds.
const PARENT_BYTES_MAX: usize = 60;
/// Ports below the range from which the kernel picks for outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Killing one node's processes may take so long.
const KILL_WITHIN: Duration = Duration::from_secs(5);
/// Lines of an agent's log that are shown when the demo cannot go on.
const LOG_LINES_SHOWN: usize = 4;

/// The stage.
pub struct Stage {
    /// Everything is in here.
    pub dir: PathBuf,
    exe: PathBuf,
    ports: Ports,
    agents: BTreeMap<&'static str, Child>,
    watchdog: Option<Watchdog>,
}

/// Ports that were free on every address of the demo.
struct Ports {
    peer: u16,
    front: [u16; 3],
    local: [u16; 3],
}

impl Stage {
    /// Makes the directory, the file and the identities; starts nothing but the watchdog.
    pub fn set(command: &[String]) -> Result<Self, Failure> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| Failure::unexpected("demo", format!("cannot {what}: {error}"))
        };
        let exe = std::env::current_exe().map_err(failed("find this program"))?;
        let ports = Ports::pick()?;
        let dir = make_dir().map_err(failed("make a directory for the demo"))?;
        let watchdog = Watchdog::start(&exe, &dir).map_err(failed("start the watchdog"))?;
        let stage = Self { dir, exe, ports, agents: BTreeMap::new(), watchdog: Some(watchdog) };

        let text = stage.config(command);
        fs::write(stage.file(), &text).map_err(failed("write the demo's config"))?;
        let parsed = backstay_spec::parse("backstay.toml", &text);
        let Some(spec) = parsed.spec else {
            let rendered = backstay_spec::render("backstay.toml", &text, &parsed.diagnostics);
            return Err(Failure::unexpected("demo", format!("the demo's own config is wrong\n{rendered}")));
        };
        let identities = stage.dir.join("identities");
        identity::init(&spec, &identities)
            .map_err(|error| Failure::unexpected("demo", format!("cannot make identities: {error}")))?;
        for (node, _) in NODES {
            let state = stage.state(node);
            DirBuilder::new().mode(0o700).create(&state).map_err(failed("make a state directory"))?;
            fs::rename(identities.join(node), state.join("identity")).map_err(failed("place an identity"))?;
        }
        Ok(stage)
    }

    /// The config file.
    pub fn file(&self) -> PathBuf {
        self.dir.join("backstay.toml")
    }

    /// A node's state directory.
    pub fn state(&self, node: &str) -> PathBuf {
        self.dir.join(node)
    }

    /// What the exclusive program writes.
    pub fn journal(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// Starts a node's agent.
    pub fn start(&mut self, node: &'static str) -> io::Result<()> {
        let output = File::options().append(true).create(true).open(self.dir.join(format!("{node}.out")))?;
        let mut command = Command::new(&self.exe);
        command.args(["agent", "--node", node, "-c"]).arg(self.file()).arg("--state").arg(self.state(node));
        command.env(MARK, self.state(node));
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // A Ctrl-C ends the demo, and the watchdog then ends the agents; not each by itself.
        command.process_group(0);
        if let Some(mut before) = self.agents.insert(node, command.spawn()?) {
            // It was killed; only its exit status is left.
            before.wait()?;
        }
        Ok(())
    }

    /// Kills everything of a node at once, as a power cut would.
    pub fn kill_node(&self, node: &str) -> bool {
        processes::kill_all(&self.dir, Some(node), KILL_WITHIN)
    }

    /// The status that the first of these nodes answers with.
    pub fn status(&self, nodes: &[&str]) -> Option<Value> {
        nodes.iter().find_map(|node| Agent::in_state(&self.state(node)).read("/status").ok())
    }

    /// Every address that clients use, but for the own listener of one node.
    pub fn targets(&self, but_not: &str) -> Vec<Target> {
        let mut targets = Vec::new();
        for (at, service) in SERVICES.into_iter().enumerate() {
            let address = SocketAddr::new(IpAddr::V4(FLOATING), self.ports.front[at]);
            targets.push(Target { service, through: Through::Front, address });
            for (node, own) in NODES.into_iter().filter(|(node, _)| *node != but_not) {
                let address = SocketAddr::new(IpAddr::V4(own), self.ports.local[at]);
                targets.push(Target { service, through: Through::Node(node.to_owned()), address });
            }
        }
        targets
    }

    /// The last lines of every agent's output, for when the demo cannot go on.
    pub fn last_words(&self) -> String {
        let mut words = String::new();
        for (node, _) in NODES {
            for log in [self.dir.join(format!("{node}.out")), self.state(node).join("log").join("agent.log")] {
                let text = fs::read(&log).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let lines: Vec<_> = text.lines().collect();
                for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
                    words.push_str(&format!("  {node}: {line}\n"));
                }
            }
        }
        words
    }

    /// Clears everything away; answers whether nothing was left.
    pub fn clear(mut self) -> bool {
        let is_clear = self.watchdog.take().is_none_or(Watchdog::finish);
        for agent in self.agents.values_mut() {
            // Killed by the watchdog; only the exit status is left. One that was not killed is not waited for.
            let _ = if is_clear { agent.wait().map(Some) } else { agent.try_wait() };
        }
        is_clear
    }

    /// Leaves everything running; answers where.
    pub fn keep(mut self) -> io::Result<PathBuf> {
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.keep()?;
        }
        Ok(self.dir.clone())
    }

    fn config(&self, command: &[String]) -> String {
        let own = |extra: &[&str]| {
            let exe = self.exe.display().to_string();
            let words = [&exe, "demo-app", "--addr", "{addr}", "--port", "{port}"];
            list(words.iter().copied().chain(extra.iter().copied()))
        };
        let journal = self.journal().display().to_string();
        let till = own(&["--journal", &journal]);
        // A program of the user's own is only known to listen.
        let (run, check) = match command.is_empty() {
            true => (own(&[]), "GET /up"),
            false => (list(command.iter().map(String::as_str)), "tcp"),
        };
        let mark = string(&self.dir.join("{node}").display().to_string());
        let nodes: String = NODES.iter().map(|(name, addr)| format!("{name} = {{ addr = \"{addr}\" }}\n")).collect();
        let entries = |ports: &[u16; 3]| -> String {
            let entry = |(service, port)| {
                format!("{service} = {{ port = {port}, proto = \"http\", to = \"app.{service}\" }}\n")
            };
            SERVICES.into_iter().zip(ports).map(entry).collect()
        };
        format!(
            "# Written by `backstay demo`.\ncluster = \"demo\"\n\n[goal]\nsurvive = \"node\"\nmax_outage = \"10s\"\n\n\
             [ports]\npeer = {peer}\n\n[nodes]\n{nodes}\n\
             [app.web]                             # two carry the load, the third is a hot spare\n\
             need = 2\nredundancy = \"N+1\"\nmode = \"active/passive\"\nspare = \"hot\"\nprefer = [\"n1\", \"n2\"]\nsteady = \"2s\"\n\
             run = {run}\ncheck = \"{check}\"\nenv = {{ {MARK} = {mark} }}\n\n\
             [app.api]                             # all carry traffic, two suffice\n\
             need = 2\nredundancy = \"N+1\"\nmode = \"active/active\"\n\
             run = {run}\ncheck = \"{check}\"\nenv = {{ {MARK} = {mark} }}\n\n\
             [app.till]                            # at most one at a time, whatever happens\n\
             exclusive = true\nneed = 1\nredundancy = \"N+1\"\nprefer = [\"n1\"]\nsteady = \"2s\"\n\
             run = {till}\ncheck = \"GET /up\"\nenv = {{ {MARK} = {mark} }}\n\n\
             [listen.front]                        # one floating address\nvip = \"{FLOATING}/32\"\n{front}\n\
             [listen.local]                        # on every node's own address\n{local}",
            peer = self.ports.peer,
            front = entries(&self.ports.front),
            local = entries(&self.ports.local),
        )
    }
}

/// A TOML string: what JSON escapes, TOML's basic strings escape the same way.
fn string(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

fn list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", words.map(string).collect::<Vec<_>>().join(", "))
}

/// A new directory with a short path.
fn make_dir() -> io::Result<PathBuf> {
    let chosen = std::env::temp_dir();
    let parent = if chosen.as_os_str().len() <= PARENT_BYTES_MAX { chosen } else { PathBuf::from("/tmp") };
    let mut number = clock::boottime_ns() ^ (u64::from(std::process::id()) << 20);
    const TRIES: u32 = 16;
    for _ in 0..TRIES {
        let dir = parent.join(format!("backstay-demo-{:06x}", number & 0xff_ffff));
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return File::create(dir.join(MARK_FILE)).map(|_| dir),
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io::Error::new(error.kind(), format!("{}: {error}", parent.display())));
            }
            Err(_) => number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1),
        }
    }
    Err(io::Error::other(format!("{} is full of demos", parent.display())))
}

impl Ports {
    /// Seven ports that are free on all addresses now. Nothing keeps others from taking them before the demo does, so they are
    /// picked from where the kernel does not pick by itself, at a place that differs from demo to demo.
    fn pick() -> Result<Self, Failure> {
        let first = clock::boottime_ns() / 1000 + u64::from(std::process::id()) * 97;
        let span = u64::from(PORTS.end - PORTS.start);
        let candidates = (0..span).map(|at| PORTS.start + ((first + at) % span) as u16);
        let mut last_error = None;
        let mut free = candidates.filter(|port| match is_free_everywhere(*port) {
            Ok(()) => true,
            Err(error) => {
                last_error = Some(error);
                false
            }
        });
        let mut next = || free.next();
        let mut three = || Some([next()?, next()?, next()?]);
        let (front, local) = (three(), three());
        let peer = free.next();
        match (peer, front, local) {
            (Some(peer), Some(front), Some(local)) => Ok(Self { peer, front, local }),
            _ => {
                let why = last_error.map_or_else(String::new, |error: io::Error| format!(": {error}"));
                let message = format!("cannot listen on the loopback addresses 127.0.1.1 to 3 and {FLOATING}{why}");
                Err(Failure::unexpected("no-ports", message)
                    .with_help("the demo needs Linux with its loopback interface up"))
            }
        }
    }
}

fn is_free_everywhere(port: u16) -> io::Result<()> {
    let addresses = NODES.iter().map(|(_, addr)| *addr).chain([FLOATING]);
    // Held until all are bound, then let go together.
    addresses.map(|address| TcpListener::bind((address, port))).collect::<io::Result<Vec<_>>>().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage() -> Stage {
        Stage {
            dir: PathBuf::from("/tmp/backstay-demo-0"),
            exe: PathBuf::from("/usr/bin/backstay"),
            ports: Ports { peer: 20_000, front: [20_001, 20_002, 20_003], local: [20_004, 20_005, 20_006] },
            agents: BTreeMap::new(),
            watchdog: None,
        }
    }

    #[test]
    fn the_file_of_the_demo_is_right_with_any_command() {
        let odd = ["/opt/my \"app\"".to_owned(), "--port={port}".to_owned(), "tab\there".to_owned()];
        for command in [&[][..], &odd[..]] {
            let text = stage().config(command);
            let parsed = backstay_spec::parse("backstay.toml", &text);
            assert_eq!(parsed.diagnostics, [], "{text}");
            let spec = parsed.spec.expect("no errors");
            assert_eq!(backstay_spec::not_in_this_build("backstay.toml", &text, &spec), []);
            assert_eq!(spec.services.len(), SERVICES.len());
        }
    }

    #[test]
    fn targets_are_the_floating_address_and_the_survivors() {
        let targets = stage().targets("n1");
        assert_eq!(targets.len(), 9);
        assert!(targets.iter().all(|target| target.through != Through::Node("n1".to_owned())));
    }
}
