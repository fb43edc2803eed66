//! The hand on the balancer: finds the running one or starts it, gives it tables, moves its instants, reads what it did.
//!
//! The balancer is a process of its own that outlives the agent. Its control socket is blocking, so this hand is a thread;
//! it only ever looks at the newest wish, so it can be neither flooded nor left behind.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use backstay_balancer::client::{Control, ControlError};
use backstay_balancer::table::Table;
use backstay_balancer::wire::{Answer, Extend, Stats};
use backstay_model::Instant;
use tokio::sync::watch;

use crate::clock;

/// How often the balancer is asked how it does when nothing changes.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// A balancer that has not answered for this long is started again.
const START_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Longest pause between attempts to start one.
const START_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What the balancer should do.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Counts the wishes of this agent.
    pub number: u64,
    /// The table, with the instants as of when it was made.
    pub table: Option<Table>,
}

/// What the balancer was last seen to do.
#[derive(Clone, Debug, Default)]
pub struct Forwarding {
    /// When it last answered.
    pub answered_at: Option<Instant>,
    /// The last wish that it has carried out.
    pub obeyed: u64,
    /// Its process.
    pub pid: Option<u32>,
    /// Listener entries that are bound.
    pub bound: BTreeMap<String, SocketAddr>,
    /// Entries that could not be bound: since when, and why.
    pub failed: BTreeMap<String, (Instant, String)>,
    /// Its counters.
    pub stats: Stats,
    /// Why it cannot be used, for `status`.
    pub trouble: Option<String>,
}

impl Forwarding {
    /// It answered a moment ago.
    pub fn is_up(&self) -> bool {
        self.answered_at.is_some_and(|at| clock::now().since(at) < Duration::from_secs(2))
    }
}

/// Where the balancer is and how one is started.
pub struct Forwarder {
    /// Its control socket.
    pub socket: PathBuf,
    /// Where its own messages go.
    pub log: PathBuf,
    /// The binary.
    pub exe: PathBuf,
    /// The newest wish.
    pub wish: watch::Receiver<Arc<Wish>>,
    /// What is seen.
    pub tell: watch::Sender<Forwarding>,
}

/// The table in force and under which number.
struct Sent {
    table: Table,
    serial: u64,
}

impl Forwarder {
    /// Runs on a thread of its own until the agent ends.
    pub fn run(self, runtime: tokio::runtime::Handle) {
        let mut wish = self.wish.clone();
        let mut seen = Forwarding::default();
        let mut control: Option<Control> = None;
        let mut sent: Option<Sent> = None;
        let mut starts = 0_u32;
        loop {
            let open = match control.take() {
                Some(open) => Ok(open),
                None => Control::connect(&self.socket),
            };
            let turn = open.and_then(|mut open| {
                let wanted = wish.borrow_and_update().clone();
                let answer = self.turn(&mut open, &wanted, &mut sent)?;
                control = Some(open);
                Ok((wanted.number, answer))
            });
            match turn {
                Ok((obeyed, answer)) => {
                    starts = 0;
                    seen.obeyed = obeyed;
                    note(&mut seen, answer);
                }
                Err(error) => {
                    sent = None;
                    seen.trouble = Some(error.to_string());
                    let silent = seen.answered_at.is_none_or(|at| clock::now().since(at) > START_AGAIN_AFTER);
                    if silent && matches!(error, ControlError::Unreachable { .. }) {
                        self.start(&mut seen, &mut starts);
                    }
                }
            }
            self.tell.send_replace(seen.clone());
            let next = runtime.block_on(async { tokio::time::timeout(ASK_EVERY, wish.changed()).await });
            if matches!(next, Ok(Err(_))) {
                return;
            }
        }
    }

    /// A new table if it differs but for its instants, else the instants, then the counters.
    fn turn(&self, control: &mut Control, wish: &Wish, sent: &mut Option<Sent>) -> Result<Answer, ControlError> {
        let Some(table) = &wish.table else { return control.stats() };
        let same = sent.as_ref().is_some_and(|sent| timeless(&sent.table) == timeless(table));
        if same {
            control.extend(&instants(table))?;
        } else {
            // A balancer that was there before this agent has a number of its own; go on from it.
            let in_force = control.stats()?;
            let newest = (in_force.generation, in_force.serial).max((table.generation, 0));
            let serial = newest.1.max(sent.as_ref().map_or(0, |sent| sent.serial)) + 1;
            let numbered = Table { generation: newest.0, serial, ..table.clone() };
            control.set_table(&numbered)?;
            *sent = Some(Sent { table: table.clone(), serial });
        }
        control.stats()
    }

    /// A balancer that holds its socket and does not answer would keep a new one out.
    fn end_hung(&self, pid: u32) {
        let number = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let Some(number) = number.filter(|_| is_balancer(pid, &self.socket)) else { return };
        tracing::error!(pid, "the balancer does not answer and is ended");
        if let Err(error) = rustix::process::kill_process(number, rustix::process::Signal::KILL) {
            tracing::debug!(pid, %error, "it had ended before");
        }
    }

    fn start(&self, seen: &mut Forwarding, starts: &mut u32) {
        if *starts > 0 {
            let pause = (START_AGAIN_AFTER * 2_u32.pow((*starts).min(8))).min(START_PAUSE_MAX);
            std::thread::sleep(pause);
        }
        *starts += 1;
        if let Some(pid) = seen.pid.take() {
            self.end_hung(pid);
        }
        match spawn(&self.exe, &self.socket, &self.log) {
            Ok(()) => tracing::info!("balancer started"),
            Err(error) => {
                seen.trouble = Some(format!("the balancer could not be started: {error}"));
                tracing::error!(%error, "the balancer could not be started");
            }
        }
        wait_for(&self.socket);
    }
}

/// A process of that number is the balancer of that socket only if it was started with it.
fn is_balancer(pid: u32, socket: &Path) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0);
    words.any(|word| word == socket.as_os_str().as_bytes())
}

/// Starts the balancer as a session of its own, so that it outlives this agent and its terminal.
fn spawn(exe: &Path, socket: &Path, log: &Path) -> std::io::Result<()> {
    let output = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    let mut child = Command::new("setsid")
        .arg("--fork")
        .arg(exe)
        .args(["balancer", "--log", "--socket"])
        .arg(socket)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()?;
    child.wait().map(drop)
}

/// Gives a balancer that was just started the time to open its socket.
fn wait_for(socket: &Path) {
    for _ in 0..40 {
        if Control::connect(socket).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}

fn note(seen: &mut Forwarding, answer: Answer) {
    let now = clock::now();
    seen.answered_at = Some(now);
    seen.pid = Some(answer.pid);
    seen.trouble = None;
    seen.bound = answer.bound.into_iter().map(|bound| (bound.listener, bound.addr)).collect();
    let before = std::mem::take(&mut seen.failed);
    for failed in answer.failed {
        let since = before.get(&failed.listener).map_or(now, |(since, _)| *since);
        let holder = failed.holder.map(|holder| format!(", held by {holder}")).unwrap_or_default();
        seen.failed.insert(failed.listener, (since, format!("{}: {}{holder}", failed.bind, failed.error)));
    }
    if let Some(stats) = answer.stats {
        seen.stats = stats;
    }
}

/// The table without its instants and numbers: what makes it another table.
fn timeless(table: &Table) -> Table {
    let mut table = Table { generation: 0, serial: 0, ..table.clone() };
    for listener in &mut table.listeners {
        listener.valid_until = listener.valid_until.map(|_| 0);
    }
    for upstream in &mut table.upstreams {
        upstream.valid_until = upstream.valid_until.map(|_| 0);
    }
    table
}

fn instants(table: &Table) -> Extend {
    let listeners = table.listeners.iter().filter_map(|l| Some((l.name.clone(), l.valid_until?)));
    let upstreams = table.upstreams.iter().filter_map(|u| Some((u.name.clone(), u.valid_until?)));
    Extend { listeners: listeners.collect(), upstreams: upstreams.collect() }
}
