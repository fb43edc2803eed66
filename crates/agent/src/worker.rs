//! The story of an agent's worker: read the file, know who we are, open the store, and start the tasks.
//!
//! What can be wrong with the file, the identity or the machine is said before anything is touched, with an exit code
//! that tells the parent not to start us again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstay_coord::{Client, Embedded, Leadership, Store, Times};
use backstay_model::{Generation, NodeName, Observation};
use backstay_spec::Spec;
use tokio::sync::{mpsc, watch};

use crate::api::ApiServer;
use crate::cluster::{self, FileValue, Reading};
use crate::coordinator::{Coordinator, Report};
use crate::cycle::Cycle;
use crate::forward::{Forwarder, Forwarding, Wish};
use crate::identity::Identity;
use crate::local::{self, StateDir};
use crate::log;
use crate::parent::Lifeline;
use crate::peer::{BoxFuture, PeerHandler, PeerNet, PeerRefusal, PeerServer};
use crate::report::{REPORT_PATH, Reporter, Seen};
use crate::requests::Requests;
use crate::session::{Holding, Keeper};
use crate::voter::{self, Opened, STORE_PATH, StoreNet, Voter};

/// Reports that may wait for the coordinating task.
const REPORTS_WAITING: usize = 256;
/// Grants just taken that may wait for the session.
const TAKEN_WAITING: usize = 64;
/// Threads of the runtime: enough that two calls which wait for a slow disk do not hold up a renewal or the store.
const RUNTIME_THREADS: usize = 4;

/// How an agent was asked to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file.
    pub file: PathBuf,
    /// Which node this is, if it was said.
    pub node: Option<String>,
    /// The state directory, if it was said.
    pub state: Option<PathBuf>,
    /// Bring this node's lost or damaged store back under a new id.
    pub rejoin: bool,
    /// Log to standard error too.
    pub log_stderr: bool,
}

/// Why a worker did not run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The file, the command line or the machine must change first: nothing was touched. Exit 2.
    #[error("{0}")]
    Refused(String),
    /// Refused for safety. Exit 5.
    #[error("{0}")]
    Unsafe(String),
    /// Something failed; trying again may help. Exit 1.
    #[error("{0}")]
    Failed(String),
}

impl WorkerError {
    /// The exit code that tells the parent, and people, what kind of end it was.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => 2,
            Self::Unsafe(_) => 5,
            Self::Failed(_) => 1,
        }
    }
}

/// The file as it was read.
struct OwnFile {
    path: PathBuf,
    value: FileValue,
    spec: Spec,
}

/// Everything that was checked before the first task starts.
struct Ready {
    file: OwnFile,
    node: NodeName,
    state: StateDir,
    identity: Arc<Identity>,
}

/// Checks what an agent needs without touching anything but the state directory it is given.
///
/// # Errors
/// [`WorkerError`], with what to do.
fn prepare(options: &Options) -> Result<Ready, WorkerError> {
    let refused = |error: &dyn std::fmt::Display| WorkerError::Refused(error.to_string());
    let file = read_file(&options.file)?;
    let node = local::choose_node(&file.spec, options.node.as_deref()).map_err(|e| refused(&e))?;
    let cluster = file.spec.cluster.clone();
    let path = match &options.state {
        Some(path) => path.clone(),
        None => local::default_state_dir(&cluster, &node).map_err(|e| refused(&e))?,
    };
    let state = StateDir::open(&path, &cluster, &node).map_err(|e| refused(&e))?;
    let identity = Identity::load(&state.identity()).map_err(|e| refused(&e))?;
    identity.check_owner(&cluster, &node).map_err(|e| WorkerError::Unsafe(e.to_string()))?;
    Ok(Ready { file, node, state, identity: Arc::new(identity) })
}

/// Reads the file and refuses, by name, what is wrong with it or not in this build.
fn read_file(path: &Path) -> Result<OwnFile, WorkerError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| WorkerError::Refused(format!("{name} cannot be read: {error}")))?;
    let parsed = backstay_spec::parse(&name, &text);
    let Some(spec) = parsed.spec else {
        return Err(WorkerError::Refused(backstay_spec::render(&name, &text, &parsed.diagnostics)));
    };
    let beyond = backstay_spec::not_in_this_build(&name, &text, &spec);
    if !beyond.is_empty() {
        return Err(WorkerError::Refused(backstay_spec::render(&name, &text, &beyond)));
    }
    let value = FileValue { hash: backstay_spec::hash(&text), text };
    Ok(OwnFile { path: path.to_owned(), value, spec })
}

/// Runs an agent's worker until it is asked to stop.
///
/// # Errors
/// [`WorkerError`]; its exit code says whether trying again may help.
pub fn run(options: &Options) -> Result<(), WorkerError> {
    let ready = prepare(options)?;
    let log = log::start(&ready.state.log(), options.log_stderr);
    let _log = log.map_err(|error| WorkerError::Refused(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(RUNTIME_THREADS).build();
    let runtime = runtime.map_err(|error| WorkerError::Failed(format!("no runtime: {error}")))?;
    let result = runtime.block_on(serve(ready, options.rejoin));
    // Tasks that wait for the disk or for a guard must not hold up the end.
    runtime.shutdown_background();
    result
}

async fn serve(ready: Ready, rejoin: bool) -> Result<(), WorkerError> {
    let lifeline = Lifeline::hold().map_err(|error| WorkerError::Refused(error.to_string()))?;
    let Ready { file, node, state, identity } = ready;
    let boot = format!("{:x}", crate::clock::now().0 ^ (u64::from(std::process::id()) << 40));
    let exe = std::env::current_exe().map_err(|error| WorkerError::Failed(format!("where am I? {error}")))?;

    // The way to the others, and theirs to us.
    let (tell_addresses, addresses) = watch::channel(voter::addresses(&file.spec));
    let net = Arc::new(PeerNet::new(identity.clone(), addresses));
    let store_net = Arc::new(StoreNet(net.clone()));
    let listener = bind_peer(&file.spec, &node)?;
    let (tell_members, members) = watch::channel(Arc::new(file.spec.nodes.keys().cloned().collect::<Vec<_>>()));
    let (tell_voter, own_voter) = watch::channel(None);
    let (reports_in, reports) = mpsc::channel(REPORTS_WAITING);
    let peers = Peers { voter: own_voter, reports: reports_in.clone(), members };
    let _server = PeerServer::serve(listener, identity.clone(), Arc::new(peers))
        .map_err(|error| WorkerError::Failed(format!("peers cannot be served: {error}")))?;

    // The store.
    let plan = Voter::new(&identity, &state, &file.spec, store_net.clone());
    let voters = file.spec.voters().iter().map(ToString::to_string).collect();
    let client = Client::new(&identity.facts.cluster_id, node.as_str(), voters, store_net, None, Times::Lan);
    let mut opened = plan.open().await;
    if rejoin && opened.is_lost {
        // A restart of this worker finds the new store and comes here no more.
        let reachable = |voter: &Embedded| drop(tell_voter.send_replace(Some(voter.clone())));
        let voter = plan.rejoin(&client, reachable).await.map_err(WorkerError::Failed)?;
        opened = Opened { voter: Some(voter), trouble: None, is_lost: false };
    }
    let Opened { voter, trouble, .. } = opened;
    let (tell_leads, leads) = watch::channel(false);
    let (tell_leadership, leadership) = watch::channel(None);
    let (tell_trouble, voter_trouble) = watch::channel(trouble);
    client.set_local(voter.clone());
    tell_voter.send_replace(voter.clone());
    let is_witness = file.spec.nodes.get(&node).is_some_and(|node| node.witness);
    if let Some(voter) = &voter {
        tokio::spawn(voter::watch_over(voter.clone(), is_witness, tell_leads, tell_leadership, tell_trouble));
    }
    let store: Arc<dyn Store> = Arc::new(client.clone());

    // What is known, held and seen: one writer each, any number of readers.
    let (tell_reading, reading) = watch::channel(Arc::new(Reading::default()));
    let (tell_holding, holding) = watch::channel(Holding::default());
    let (tell_picture, picture) = watch::channel::<Seen>(None);
    let (tell_own, own) = watch::channel(nothing_seen(&node, &boot));
    let (tell_proofs, proofs) = watch::channel(BTreeMap::new());
    let (tell_wish, wish) = watch::channel(Arc::new(Wish::default()));
    let (tell_forwarding, forwarding) = watch::channel(Forwarding::default());
    let (taken_in, taken) = mpsc::channel(TAKEN_WAITING);

    tokio::spawn(cluster::follow(store.clone(), tell_reading));
    tokio::spawn(follow_file(
        reading.clone(),
        client.clone(),
        voter.clone(),
        tell_addresses,
        tell_members,
        leadership.clone(),
    ));
    let keeper = Keeper {
        node: node.clone(),
        boot: boot.clone(),
        state_dir: state.path().to_owned(),
        store: store.clone(),
        reading: reading.clone(),
        proofs,
        taken,
        holding: tell_holding,
    };
    tokio::spawn(keeper.keep());
    let coordinator = Coordinator {
        node: node.clone(),
        store: store.clone(),
        reading: reading.clone(),
        holding: holding.clone(),
        leads,
        reports,
        own_file: file.value.clone(),
    };
    tokio::spawn(coordinator.run());
    let reporter = Reporter {
        node: node.clone(),
        net,
        reading: reading.clone(),
        own: own.clone(),
        local: reports_in,
        picture: tell_picture,
    };
    tokio::spawn(reporter.run());
    let forwarder = Forwarder {
        socket: state.path().join("balancer.sock"),
        log: state.log().join("balancer.log"),
        exe: exe.clone(),
        wish,
        tell: tell_forwarding,
    };
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name("forwarder".to_owned())
        .spawn(move || forwarder.run(runtime))
        .map_err(|error| WorkerError::Failed(format!("no thread for the balancer's hand: {error}")))?;
    let cycle = Cycle {
        node: node.clone(),
        boot,
        guards: state.path().join("guards"),
        logs: state.log(),
        exe,
        own_file_hash: file.value.hash.clone(),
        store: store.clone(),
        reading: reading.clone(),
        holding,
        picture: picture.clone(),
        forwarding: forwarding.clone(),
        wish: tell_wish,
        own: tell_own,
        proofs: tell_proofs,
        taken: taken_in,
    };
    tokio::spawn(cycle.run());
    let requests = Requests {
        node: node.clone(),
        cluster: file.spec.cluster.clone(),
        own_file: file.value,
        own_file_path: file.path.display().to_string(),
        store,
        reading,
        picture,
        own,
        forwarding,
        leadership,
        voter_trouble,
    };
    let socket = state.path().join("api.sock");
    let _api = ApiServer::serve(&socket, Arc::new(requests)).await.map_err(|e| WorkerError::Refused(e.to_string()))?;
    tracing::info!(%node, cluster = file.spec.cluster, "the agent runs");
    until_the_end(voter, lifeline).await
}

/// Until somebody asks us to stop, our parent is gone, or the voter cannot go on.
async fn until_the_end(voter: Option<Embedded>, mut lifeline: Lifeline) -> Result<(), WorkerError> {
    use tokio::signal::unix::{SignalKind, signal};
    let term = signal(SignalKind::terminate());
    let mut term = term.map_err(|error| WorkerError::Failed(format!("no signal handler: {error}")))?;
    let fatal = async {
        match &voter {
            Some(voter) => voter.fatal().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = term.recv() => tracing::info!("asked to stop: instances and balancer go on"),
        () = lifeline.ended() => tracing::warn!("the parent is gone: instances and balancer go on"),
        fatal = fatal => return Err(WorkerError::Failed(fatal.to_string())),
    }
    if let Some(voter) = &voter {
        voter.close().await;
    }
    Ok(())
}

fn bind_peer(spec: &Spec, node: &NodeName) -> Result<std::net::TcpListener, WorkerError> {
    let addr = spec.nodes.get(node).map(|node| node.addr);
    let addr = addr.ok_or_else(|| WorkerError::Refused(format!("{node} is not in the file")))?;
    let address = SocketAddr::new(addr, spec.ports.peer);
    std::net::TcpListener::bind(address).map_err(|error| {
        let holder = backstay_app::ports::who_listens(address);
        let who = holder.map(|holder| format!(": it is held by {holder}")).unwrap_or_default();
        WorkerError::Refused(format!("agents talk on {address}, which cannot be bound ({error}){who}; set another `[ports] peer`, the same on every node"))
    })
}

fn nothing_seen(node: &NodeName, boot: &str) -> Observation {
    Observation {
        node: node.clone(),
        boot: boot.to_owned(),
        serial: 0,
        generation: Generation::ZERO,
        instances: BTreeMap::new(),
        addresses: BTreeMap::new(),
        balancer_up: false,
        suspects: std::collections::BTreeSet::new(),
        notes: Vec::new(),
    }
}

/// The adopted file rules (S14): who is reached where, who is a member, who may become a voter.
async fn follow_file(
    mut reading: watch::Receiver<Arc<Reading>>,
    client: Client,
    voter: Option<Embedded>,
    addresses: watch::Sender<BTreeMap<NodeName, SocketAddr>>,
    members: watch::Sender<Arc<Vec<NodeName>>>,
    mut leadership: watch::Receiver<Option<Leadership>>,
) {
    let mut hash = String::new();
    loop {
        tokio::select! {
            changed = reading.changed() => if changed.is_err() { return },
            Ok(()) = leadership.changed() => {}
        }
        let file = reading.borrow_and_update().file.clone();
        let Some(file) = file else { continue };
        if file.hash != hash {
            hash.clone_from(&file.hash);
            addresses.send_replace(voter::addresses(&file.spec));
            members.send_replace(Arc::new(file.spec.nodes.keys().cloned().collect()));
            if let Some(voter) = &voter {
                voter.admit(file.spec.nodes.keys().map(ToString::to_string));
            }
        }
        let voters = leadership.borrow().as_ref().map(|known| {
            known.members.iter().filter(|member| member.voter).map(|member| member.node.clone()).collect::<Vec<_>>()
        });
        client.set_voters(match voters.filter(|voters| !voters.is_empty()) {
            Some(voters) => voters,
            None => file.spec.voters().iter().map(ToString::to_string).collect(),
        });
    }
}

/// What other agents may ask of this one.
struct Peers {
    voter: watch::Receiver<Option<Embedded>>,
    reports: mpsc::Sender<Report>,
    members: watch::Receiver<Arc<Vec<NodeName>>>,
}

impl PeerHandler for Peers {
    fn handle(&self, from: NodeName, path: String, body: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, PeerRefusal>> {
        let refuse = |status, message: String| PeerRefusal { status, message };
        match path.as_str() {
            STORE_PATH => {
                let voter = self.voter.borrow().clone();
                Box::pin(async move {
                    let voter = voter.ok_or_else(|| refuse(503, "this node has no open voter".to_owned()))?;
                    Ok(voter.handle(from.as_str(), &body).await)
                })
            }
            REPORT_PATH => {
                let reports = self.reports.clone();
                Box::pin(async move {
                    let observation: Observation =
                        serde_json::from_slice(&body).map_err(|error| refuse(400, error.to_string()))?;
                    if observation.node != from {
                        return Err(refuse(400, format!("{from} reports as {}", observation.node)));
                    }
                    let picture = crate::report::take(&reports, observation).await.map_err(|why| refuse(421, why))?;
                    serde_json::to_vec(&picture).map_err(|error| refuse(500, error.to_string()))
                })
            }
            _ => Box::pin(async move { Err(refuse(404, format!("nothing is at {path}"))) }),
        }
    }

    fn is_member(&self, node: &NodeName) -> bool {
        self.members.borrow().contains(node)
    }
}
