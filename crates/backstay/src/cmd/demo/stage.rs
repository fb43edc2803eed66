//! Where a story of the demo plays: a directory, a config file, identities, agents, and somebody who clears it all away.

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
use super::setting::{Props, Setting};
use super::watchdog::Watchdog;
use crate::clock;
use crate::connection::Agent;
use crate::output::Failure;

/// In the demo's directory, so that nothing else is ever taken for one.
pub const MARK_FILE: &str = "this-is-a-backstay-demo";

/// A longer path would leave no room for the sockets below it, whose paths the kernel bounds.
const PARENT_BYTES_MAX: usize = 60;
/// Ports below the range from which the kernel picks for outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Killing the processes of some nodes may take so long.
const KILL_WITHIN: Duration = Duration::from_secs(5);
/// Lines of an agent's log that are shown when the demo cannot go on.
const LOG_LINES_SHOWN: usize = 4;

/// The stage.
pub struct Stage {
    /// Everything is in here.
    pub dir: PathBuf,
    setting: &'static Setting,
    exe: PathBuf,
    ports: Ports,
    agents: BTreeMap<&'static str, Child>,
    watchdog: Option<Watchdog>,
}

/// Ports that were free on every address of the stage.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Where agents talk to each other.
    pub peer: u16,
    /// Of the floating address, one for each service; none where there is no such address.
    pub front: Vec<u16>,
    /// Of the nodes' own listeners, one for each service.
    pub local: Vec<u16>,
}

impl Stage {
    /// Makes the directory, the file and the identities; starts nothing but the watchdog.
    pub fn set(setting: &'static Setting, command: &[String]) -> Result<Self, Failure> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| Failure::unexpected("demo", format!("cannot {what}: {error}"))
        };
        let exe = std::env::current_exe().map_err(failed("find this program"))?;
        let ports = Ports::pick(setting)?;
        let dir = make_dir().map_err(failed("make a directory for the demo"))?;
        let watchdog = Watchdog::start(&exe, &dir).map_err(failed("start the watchdog"))?;
        let stage = Self { dir, setting, exe, ports, agents: BTreeMap::new(), watchdog: Some(watchdog) };

        let props = Props { setting, exe: &stage.exe, dir: &stage.dir, ports: &stage.ports, command };
        let text = props.config();
        fs::write(stage.file(), &text).map_err(failed("write the demo's config"))?;
        let parsed = backstay_spec::parse("backstay.toml", &text);
        let Some(spec) = parsed.spec else {
            let rendered = backstay_spec::render("backstay.toml", &text, &parsed.diagnostics);
            return Err(Failure::unexpected("demo", format!("the demo's own config is wrong\n{rendered}")));
        };
        let identities = stage.dir.join("identities");
        identity::init(&spec, &identities)
            .map_err(|error| Failure::unexpected("demo", format!("cannot make identities: {error}")))?;
        for node in stage.nodes() {
            let state = stage.state(node);
            DirBuilder::new().mode(0o700).create(&state).map_err(failed("make a state directory"))?;
            fs::rename(identities.join(node), state.join("identity")).map_err(failed("place an identity"))?;
        }
        Ok(stage)
    }

    /// The names of the nodes.
    pub fn nodes(&self) -> Vec<&'static str> {
        self.setting.nodes.iter().map(|node| node.name).collect()
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
        super::setting::journal(&self.dir)
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

    /// Kills everything of some nodes at once, as a power cut would.
    pub fn kill_nodes(&self, nodes: &[&str]) -> bool {
        processes::kill_all(&self.dir, Some(nodes), KILL_WITHIN)
    }

    /// The status that the first of these nodes answers with.
    pub fn status(&self, nodes: &[&str]) -> Option<Value> {
        nodes.iter().find_map(|node| Agent::in_state(&self.state(node)).read("/status").ok())
    }

    /// Every address that clients use, but for the own listeners of some nodes.
    pub fn targets(&self, but_not: &[&str]) -> Vec<Target> {
        let mut targets = Vec::new();
        for (at, service) in self.setting.services.iter().copied().enumerate() {
            if let (Some(floating), Some(port)) = (self.setting.floating, self.ports.front.get(at)) {
                let address = SocketAddr::new(IpAddr::V4(floating), *port);
                targets.push(Target { service, through: Through::Front, address });
            }
            for node in self.setting.nodes.iter().filter(|node| !but_not.contains(&node.name)) {
                let address = SocketAddr::new(IpAddr::V4(node.addr), self.ports.local[at]);
                targets.push(Target { service, through: Through::Node(node.name.to_owned()), address });
            }
        }
        targets
    }

    /// The last lines of every agent's output, for when the demo cannot go on.
    pub fn last_words(&self) -> String {
        let mut words = String::new();
        for node in self.nodes() {
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
    /// Ports that are free on all addresses now. Nothing keeps others from taking them before the demo does, so they are
    /// picked from where the kernel does not pick by itself, at a place that differs from demo to demo.
    fn pick(setting: &Setting) -> Result<Self, Failure> {
        let addresses: Vec<_> = setting.nodes.iter().map(|node| node.addr).chain(setting.floating).collect();
        let first = clock::boottime_ns() / 1000 + u64::from(std::process::id()) * 97;
        let span = u64::from(PORTS.end - PORTS.start);
        let candidates = (0..span).map(|at| PORTS.start + ((first + at) % span) as u16);
        let mut last_error = None;
        let mut free = candidates.filter(|port| match is_free_everywhere(&addresses, *port) {
            Ok(()) => true,
            Err(error) => {
                last_error = Some(error);
                false
            }
        });
        let local = setting.services.len();
        let front = if setting.floating.is_some() { local } else { 0 };
        let mut take = |count: usize| free.by_ref().take(count).collect::<Vec<u16>>();
        let (front_ports, local_ports, peer) = (take(front), take(local), take(1));
        match peer.first() {
            Some(peer) => Ok(Self { peer: *peer, front: front_ports, local: local_ports }),
            None => {
                let why = last_error.map_or_else(String::new, |error: io::Error| format!(": {error}"));
                let named: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                let message = format!("cannot listen on the loopback addresses {}{why}", named.join(", "));
                Err(Failure::unexpected("no-ports", message)
                    .with_help("the demo needs Linux with its loopback interface up"))
            }
        }
    }
}

fn is_free_everywhere(addresses: &[Ipv4Addr], port: u16) -> io::Result<()> {
    // Held until all are bound, then let go together.
    addresses.iter().map(|address| TcpListener::bind((*address, port))).collect::<io::Result<Vec<_>>>().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::demo::setting::{FIVE_NODES, THREE_NODES, tests::ports};

    fn targets(setting: &'static Setting, but_not: &[&str]) -> Vec<Target> {
        let stage = Stage {
            dir: PathBuf::from("/tmp/backstay-demo-0"),
            setting,
            exe: PathBuf::from("/usr/bin/backstay"),
            ports: ports(setting),
            agents: BTreeMap::new(),
            watchdog: None,
        };
        stage.targets(but_not)
    }

    #[test]
    fn targets_are_the_floating_address_and_the_survivors() {
        let on = |targets: &[Target], node: &str| {
            targets.iter().filter(|target| target.through == Through::Node(node.to_owned())).count()
        };
        let three = targets(&THREE_NODES, &["n1"]);
        assert_eq!((three.len(), on(&three, "n1"), on(&three, "n2")), (9, 0, 3));
        let five = targets(&FIVE_NODES, &["n1", "n2"]);
        assert_eq!((five.len(), on(&five, "n2"), on(&five, "n3")), (18, 0, 6));
    }
}
