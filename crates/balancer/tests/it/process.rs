//! The balancer as a process of its own: signals, a killed one before it, too few file descriptors.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use backstay_balancer::client::Control;
use backstay_balancer::table::{Proto, Table};
use backstay_balancer::{Options, run};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, setrlimit};

use crate::it::rig::*;

const SOCKET: &str = "BACKSTAY_TEST_BALANCER_SOCKET";
const FILES: &str = "BACKSTAY_TEST_BALANCER_FILES";

/// Not a test of its own: what the others start as a child. Alone it has nothing to do.
#[test]
fn child() {
    let Some(socket) = std::env::var_os(SOCKET) else { return };
    if let Some(files) = std::env::var(FILES).ok().and_then(|files| files.parse().ok()) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: Some(files) }).unwrap();
    }
    run(Options { socket: socket.into(), workers: 1, log: false }).unwrap();
}

/// A child that is killed at the end, whatever happens.
struct Process {
    child: Child,
    socket: PathBuf,
}

impl Process {
    fn start(socket: &Path, files: Option<u64>) -> (Self, Control) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "it::process::child"]);
        command.env(SOCKET, socket).stdout(Stdio::null()).stdin(Stdio::null());
        if let Some(files) = files {
            command.env(FILES, files.to_string());
        }
        let process = Self { child: command.spawn().unwrap(), socket: socket.to_owned() };
        let pid = process.child.id();
        let control = until("the child answers", || {
            let mut control = Control::connect(&process.socket).ok()?;
            (control.stats().ok()?.pid == pid).then_some(control)
        });
        (process, control)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bal-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn table(server: &Server) -> Table {
    Table {
        generation: 1,
        serial: 1,
        listeners: vec![listener("front", Proto::Tcp, "app")],
        upstreams: vec![upstream("app", &[server.backend()])],
    }
}

#[test]
fn signals_and_the_death_of_the_agent_and_of_a_balancer() {
    let dir = Dir::new("signals");
    let socket = dir.0.join("c.sock");
    let server = Server::echo("a");
    let (first, mut control) = Process::start(&socket, None);
    let addr = control.set_table(&table(&server)).unwrap().bound[0].addr;
    first.signal(Signal::HUP);
    drop(control);
    client(addr).read_exact(&mut [0; 1]).expect("it forwards without an agent and after a hang-up");
    first.signal(Signal::KILL);
    drop(first);

    let (mut second, mut control) = Process::start(&socket, None);
    let answer = control.stats().unwrap();
    assert_eq!((answer.generation, answer.bound.len()), (0, 0), "it begins without a table");
    let addr = control.set_table(&table(&server)).unwrap().bound[0].addr;
    let mut stream = client(addr);
    stream.read_exact(&mut [0; 1]).unwrap();
    second.signal(Signal::TERM);
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "what does not end by itself is ended");
    let status = until("it exits", || second.child.try_wait().unwrap());
    assert!(status.success(), "{status}");
    assert!(!socket.exists());
}

#[test]
fn too_few_file_descriptors_make_clients_wait_and_nothing_else() {
    let dir = Dir::new("files");
    let server = Server::echo("a");
    let (_process, mut control) = Process::start(&dir.0.join("c.sock"), Some(64));
    let mut table = table(&server);
    table.upstreams[0].hold_ms = 20_000;
    let addr = control.set_table(&table).unwrap().bound[0].addr;
    let mut waiting: Vec<_> = (0..100).map(|_| client(addr)).collect();
    // Each one that was served makes room for others.
    while !waiting.is_empty() {
        let served = until("somebody is served", || {
            waiting.iter().position(|stream| {
                stream.set_nonblocking(true).unwrap();
                matches!(stream.peek(&mut [0; 1]), Ok(1))
            })
        });
        drop(waiting.swap_remove(served));
    }
    assert_eq!(control.stats().unwrap().stats.unwrap().listeners["front"].failed, 0);
}
