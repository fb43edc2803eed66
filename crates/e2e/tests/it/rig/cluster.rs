//! Three agents and everything they start, in a directory of their own, gone at the end of the test.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use backstay_e2e::boottime_ns;
use rustix::process::Signal;
use serde_json::Value;

use super::processes::{self, Kind, MARK, Process};
use super::{GENEROUS, Journal, sampler, wait};

/// The names of the nodes.
pub const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Lines of each log that are shown when a test failed.
const LOG_LINES_SHOWN: usize = 25;
/// Ports below the range from which the kernel picks for outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Where a cluster is: its directory, addresses and ports.
#[derive(Clone, Debug)]
pub struct Place {
    /// The directory.
    pub dir: PathBuf,
    /// The network's two middle bytes, 127.A.B.
    net: (u8, u8),
    /// Agents.
    pub peer: u16,
    /// The balanced service: on the floating address, and on every node's own.
    pub web: u16,
    /// The exclusive service, likewise.
    pub till: u16,
    /// One more, for what a test adds.
    pub extra: u16,
}

impl Place {
    /// A new directory, and ports that are free on all its addresses. Each test has a network of its own.
    pub fn find(test: u8) -> Self {
        static SERIAL: AtomicU16 = AtomicU16::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let id = std::process::id();
        // Short, because sockets' paths have a bound.
        let parent = std::env::var_os("BACKSTAY_E2E_DIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
        let dir = parent.join(format!("bs-e2e-{id}-{test}-{serial}"));
        fs::create_dir(&dir).expect("a new directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("its mode");
        let net = (10 + test, 1 + (id % 250) as u8);
        let mut place = Self { dir, net, peer: 0, web: 0, till: 0, extra: 0 };
        let span = u64::from(PORTS.end - PORTS.start);
        let first = boottime_ns() / 1000 % span;
        let mut free = (0..span)
            .map(|at| PORTS.start + ((first + at) % span) as u16)
            .filter(|port| place.addresses().iter().all(|address| TcpListener::bind((*address, *port)).is_ok()));
        let ports: [u16; 4] = std::array::from_fn(|_| free.next().expect("free ports"));
        drop(free);
        [place.peer, place.web, place.till, place.extra] = ports;
        place
    }

    /// The address of node `number`, from 1.
    pub fn addr(&self, number: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, self.net.0, self.net.1, number))
    }

    /// The floating address.
    pub fn vip(&self) -> IpAddr {
        self.addr(100)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        [1, 2, 3, 100].map(|number| self.addr(number)).to_vec()
    }

    /// The file.
    pub fn file(&self) -> PathBuf {
        self.dir.join("backstay.toml")
    }

    /// A node's state directory.
    pub fn state(&self, node: &str) -> PathBuf {
        self.dir.join(node)
    }

    /// What the exclusive program writes.
    pub fn journal(&self) -> Journal {
        Journal(self.dir.join("journal"))
    }

    /// The test's web server with these further arguments, as an array of the file, and the mark that it is ours.
    pub fn program(&self, arguments: &str) -> String {
        let app = env!("CARGO_BIN_EXE_testapp");
        let app = if self.dir.join("testapp").exists() { self.dir.join("testapp") } else { PathBuf::from(app) };
        let (app, dir) = (app.display(), self.dir.display());
        format!(
            "run = [\"{app}\", \"--addr\", \"{{addr}}\", \"--port\", \"{{port}}\"{arguments}]\nenv = {{ {MARK} = \"{dir}/{{node}}\" }}\n"
        )
    }

    /// The beginning of every file: name, ports, nodes.
    pub fn head(&self) -> String {
        let nodes: String =
            (1..=3).map(|number| format!("n{number} = {{ addr = \"{}\" }}\n", self.addr(number))).collect();
        format!("cluster = \"lab\"\n[ports]\npeer = {}\n[nodes]\n{nodes}", self.peer)
    }

    /// The exclusive service.
    pub fn till_app(&self, arguments: &str) -> String {
        let journal = self.journal();
        let arguments = format!(", \"--journal\", \"{}\"{arguments}", journal.0.display());
        let run = self.program(&arguments);
        format!("[app.till]\nexclusive = true\ncheck = \"tcp\"\nprefer = [\"n1\"]\nsteady = \"3s\"\n{run}")
    }

    /// The balanced service.
    pub fn web_app(&self) -> String {
        let run = self.program("");
        format!("[app.web]\nneed = 2\ncheck = \"GET /\"\nprefer = [\"n1\", \"n2\"]\nsteady = \"3s\"\n{run}")
    }

    /// Both services on a floating address and on every node.
    pub fn listeners(&self) -> String {
        let entries = format!(
            "web = {{ port = {}, to = \"app.web\", proto = \"http\" }}\ntill = {{ port = {}, to = \"app.till\", proto = \"http\" }}\n",
            self.web, self.till
        );
        format!("[listen.front]\nvip = \"{}/32\"\n{entries}[listen.local]\n{entries}", self.vip())
    }

    /// Where clients reach the balanced service: over the floating address, and over these nodes' own listeners.
    pub fn web_targets(&self, nodes: &[u8]) -> Vec<(&'static str, SocketAddr)> {
        let mut targets = vec![("web over the floating address", SocketAddr::new(self.vip(), self.web))];
        let names = ["", "web over n1", "web over n2", "web over n3"];
        targets.extend(nodes.iter().map(|n| (names[usize::from(*n)], SocketAddr::new(self.addr(*n), self.web))));
        targets
    }

    /// The same for the exclusive service.
    pub fn till_targets(&self, nodes: &[u8]) -> Vec<(&'static str, SocketAddr)> {
        let mut targets = vec![("till over the floating address", SocketAddr::new(self.vip(), self.till))];
        let names = ["", "till over n1", "till over n2", "till over n3"];
        targets.extend(nodes.iter().map(|n| (names[usize::from(*n)], SocketAddr::new(self.addr(*n), self.till))));
        targets
    }
}

/// The file that most tests use: a balanced and an exclusive service, both on a floating address and on every node.
pub fn standard(place: &Place) -> String {
    [place.head(), place.web_app(), place.till_app(""), place.listeners()].concat()
}

/// What a command answered.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// Its last line on stdout, as JSON; null without one.
    pub json: Value,
    /// Everything on stdout.
    pub stdout: String,
    /// Everything on stderr.
    pub stderr: String,
}

/// The cluster.
pub struct Cluster {
    /// Where it is.
    pub place: Place,
    program: PathBuf,
    user: Option<u32>,
    agents: BTreeMap<String, Child>,
    mounts: Vec<PathBuf>,
}

/// The program under test.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("BACKSTAY_BIN") {
        return path.into();
    }
    let beside = Path::new(env!("CARGO_BIN_EXE_testapp")).with_file_name("backstay");
    assert!(beside.exists(), "{} is not there: cargo build -p backstay, or set BACKSTAY_BIN", beside.display());
    beside
}

impl Cluster {
    /// Writes the file and the identities and starts nothing.
    pub fn set(test: u8, file: impl FnOnce(&Place) -> String) -> Self {
        Self::set_as(test, None, file)
    }

    /// The same, to be run as this user.
    pub fn set_as(test: u8, user: Option<u32>, file: impl FnOnce(&Place) -> String) -> Self {
        let place = Place::find(test);
        let mut cluster = Self { program: program(), user, agents: BTreeMap::new(), mounts: Vec::new(), place };
        let dir = cluster.place.dir.clone();
        if let Some(user) = user {
            std::os::unix::fs::chown(&dir, Some(user), Some(user)).expect("root may give a directory away");
            // Where the others are may be closed to this user.
            for (name, from) in
                [("backstay", cluster.program.clone()), ("testapp", env!("CARGO_BIN_EXE_testapp").into())]
            {
                fs::copy(&from, dir.join(name)).expect("room for a copy");
                fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).expect("its mode");
            }
            cluster.program = dir.join("backstay");
        }
        fs::write(cluster.place.file(), file(&cluster.place)).expect("the file is written");
        let identities = dir.join("identities");
        let file = cluster.place.file();
        let ran = cluster.run(&["init", "-c", &file.display().to_string(), "--out", &identities.display().to_string()]);
        assert_eq!(ran.code, 0, "{ran:?}");
        for node in NODES {
            let state = cluster.place.state(node);
            fs::create_dir(&state).expect("a state directory");
            fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).expect("its mode");
            if user.is_some() {
                std::os::unix::fs::chown(&state, user, user).expect("root may give a directory away");
            }
            fs::rename(identities.join(node), state.join("identity")).expect("an identity");
        }
        cluster
    }

    /// Sets it up, starts all agents and waits until all is well.
    pub fn start(test: u8, file: impl FnOnce(&Place) -> String) -> Self {
        let mut cluster = Self::set(test, file);
        cluster.start_agents(&NODES);
        cluster.wait_healthy(&NODES);
        cluster
    }

    /// Starts agents.
    pub fn start_agents(&mut self, nodes: &[&str]) {
        for node in nodes {
            self.start_agent(node, &[]);
        }
    }

    /// Starts an agent with further arguments.
    pub fn start_agent(&mut self, node: &str, more: &[&str]) {
        let out = self.place.dir.join(format!("{node}.out"));
        let out = File::options().create(true).append(true).open(out).expect("a log");
        // A session of its own, as a service manager gives it.
        let mut command = self.command("setsid");
        command.arg(&self.program).args(["agent", "--node", node, "-c"]).arg(self.place.file());
        command.arg("--state").arg(self.place.state(node)).args(more).env(MARK, self.place.state(node));
        command.stdin(Stdio::null()).stdout(out.try_clone().expect("a log")).stderr(out);
        let child = command.spawn().expect("the agent starts");
        if let Some(mut before) = self.agents.insert((*node).to_owned(), child) {
            before.wait().expect("the agent before it had ended");
        }
    }

    /// Kills a node's agent, both processes, and waits for its end; what it started goes on.
    pub fn kill_agent(&mut self, node: &str) {
        self.strike(node, &[Kind::Parent, Kind::Worker], Signal::KILL);
        wait("the agent is gone", GENEROUS, || {
            let left = processes::of(&self.place.dir, Some(node));
            (!left.iter().any(|process| process.kind <= Kind::Worker)).then_some(())
        });
    }

    /// Runs an agent that is expected to end by itself; answers its exit code and what it said.
    pub fn refused_agent(&self, arguments: &[&str]) -> Ran {
        let mut command = self.command(&self.program);
        command.arg("agent").args(arguments).env(MARK, self.place.dir.join("refused"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("it starts");
        let ended = super::wait_for(GENEROUS, || child.try_wait().expect("our child"));
        if ended.is_none() {
            let _ = child.kill();
        }
        let output = child.wait_with_output().expect("our child");
        assert!(ended.is_some(), "an agent that should have been refused ran on: {arguments:?}");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        Ran { code: output.status.code().unwrap_or(-1), json: Value::Null, stdout, stderr }
    }

    /// Puts a small volume of its own under a directory; needs root.
    pub fn mount_small(&mut self, dir: &Path, mebibytes: u32) {
        fs::create_dir_all(dir).expect("a directory");
        let options = format!("size={mebibytes}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir).status();
        assert!(mounted.expect("mount runs").success(), "no volume at {}", dir.display());
        self.mounts.push(dir.to_owned());
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env("XDG_STATE_HOME", "/nonexistent").env_remove("NO_COLOR");
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// Runs `backstay` with these arguments to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let output = self.command(&self.program).args(arguments).stdin(Stdio::null()).output().expect("it starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        let last = stdout.lines().last().unwrap_or_default();
        let json = serde_json::from_str(last).unwrap_or(Value::Null);
        Ran { code: output.status.code().unwrap_or(-1), json, stdout, stderr }
    }

    /// Asks a node's agent, with `--json`.
    pub fn ask(&self, node: &str, arguments: &[&str]) -> Ran {
        let state = self.place.state(node).display().to_string();
        self.run(&[arguments, &["--state", &state, "--json"]].concat())
    }

    /// A request to an agent's socket, as another program than the command would make it: HTTP status and answer.
    pub fn request(&self, node: &str, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut socket = UnixStream::connect(self.place.state(node).join("api.sock")).ok()?;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n");
        write!(socket, "{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        Some((status, serde_json::from_str(body).ok()?))
    }

    /// A node's status.
    pub fn status(&self, node: &str) -> Value {
        self.ask(node, &["status"]).json
    }

    /// Waits until each of these nodes says that all is well.
    pub fn wait_healthy(&self, nodes: &[&str]) {
        for node in nodes {
            self.wait_status(node, "healthy", |status| status["health"] == "healthy");
        }
    }

    /// Waits for a status.
    pub fn wait_status(&self, node: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = super::wait_for(GENEROUS, || {
            last = self.status(node);
            is(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("waited in vain on {node} for: {what}; status is {last:#}"))
    }

    /// One process of a node.
    pub fn process(&self, node: &str, kind: Kind) -> Process {
        wait(&format!("a {kind:?} on {node}"), GENEROUS, || {
            processes::of_kind(&self.place.dir, node, kind).into_iter().next()
        })
    }

    /// A signal to every process of these kinds on a node; answers how many.
    pub fn strike(&self, node: &str, kinds: &[Kind], signal: Signal) -> usize {
        let found = processes::of(&self.place.dir, Some(node));
        let meant = found.iter().filter(|process| kinds.contains(&process.kind));
        meant.filter(|process| processes::signal(process.pid, &self.place.dir, signal)).count()
    }

    /// Kills everything of a node, as a power cut does.
    pub fn kill_node(&self, node: &str) {
        // Stopped first: nothing of it acts while the rest is being killed, as nothing does in a power cut.
        self.strike(node, &[Kind::Parent, Kind::Worker, Kind::Guard], Signal::STOP);
        processes::kill_all(&self.place.dir, Some(node));
    }

    /// The nodes whose balancer listens on this address now.
    pub fn bound_on(&self, address: SocketAddr) -> Vec<String> {
        sampler::bound(&self.balancers(), address)
    }

    /// The nodes' balancers.
    pub fn balancers(&self) -> Vec<(String, u32)> {
        let of = |node: &'static str| processes::of_kind(&self.place.dir, node, Kind::Balancer);
        NODES.into_iter().flat_map(|node| of(node).into_iter().map(move |p| (node.to_owned(), p.pid))).collect()
    }

    fn last_words(&self) {
        for node in NODES {
            let state = self.place.state(node);
            for log in [
                self.place.dir.join(format!("{node}.out")),
                state.join("log/agent.log"),
                state.join("log/balancer.log"),
            ] {
                let text = fs::read(&log).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let lines: Vec<_> = text.lines().collect();
                eprintln!("--- {}", log.display());
                for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
                    eprintln!("{line}");
                }
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.last_words();
        }
        // A stopped process is killed all the same.
        processes::kill_all(&self.place.dir, None);
        for agent in self.agents.values_mut() {
            let _ = agent.wait();
        }
        for dir in &self.mounts {
            let _ = Command::new("umount").arg(dir).status();
        }
        if std::env::var_os("BACKSTAY_E2E_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.place.dir);
        }
    }
}

/// The node that runs the exclusive service, in a status.
pub fn holder_in(status: &Value, service: &str) -> Option<String> {
    let service = service_in(status, service)?;
    let mut instances = service["instances"].as_array()?.iter();
    let primary = instances.find(|instance| instance["role"] == "primary" && instance["state"] == "running")?;
    primary["node"].as_str().map(str::to_owned)
}

/// A service in a status.
pub fn service_in<'a>(status: &'a Value, service: &str) -> Option<&'a Value> {
    status["services"].as_array()?.iter().find(|found| found["name"] == service)
}

/// The instance of a service on a node, in a status.
pub fn instance_in<'a>(status: &'a Value, service: &str, node: &str) -> Option<&'a Value> {
    service_in(status, service)?["instances"].as_array()?.iter().find(|found| found["node"] == node)
}

/// Who holds the floating address, in a status.
pub fn vip_holder_in(status: &Value) -> Option<String> {
    let front = status["listeners"].as_array()?.iter().find(|found| found["name"] == "front")?;
    front["vip_holder"].as_str().map(str::to_owned)
}
