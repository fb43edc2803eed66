//! One task per service on this node: it keeps the instance as ordered, and says what it sees.
//!
//! It chooses nothing: it is told to run or not to run, restarts with back-off what ends by itself, and moves the guard's
//! deadline along with the session's. A guard that is already there when the agent starts is adopted as it is.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backstay_app::check::{Check, CheckKind, Checker, HealthState};
use backstay_app::{AppError, ExitReason, ExitReport, GuardEvent, GuardHandle, GuardSpec, GuardState, ports};
use backstay_model::{
    Generation, Health, InstanceObservation, InstanceState, Instant, NodeName, Role, ServiceId, Token,
};
use backstay_spec::{AppSpec, RunSpec};
use tokio::sync::{mpsc, watch};

use crate::clock;
use crate::program;
use crate::session::write_whole;

/// Failures older than this are forgotten.
const FAILURE_WINDOW: Duration = Duration::from_secs(60);
/// First pause before a restart; doubled with each failure in the window.
const RESTART_FIRST: Duration = Duration::from_millis(100);
/// Longest pause before a restart.
const RESTART_MAX: Duration = Duration::from_secs(10);
/// The program's log: size of one file and number of files.
const LOG_BYTES_MAX: u64 = 8 << 20;
const LOG_FILES_MAX: u32 = 5;
/// A balanced instance goes on for this long after its last goal, so that balancers elsewhere have stopped using it.
const LEAVE_AFTER: Duration = Duration::from_millis(1500);
/// A program that has not passed its check since its start is starting for this long, and only then failing.
const START_WITHIN: Duration = Duration::from_secs(20);
/// On top of the grace: how long an end may take before it no longer proves that the instance is looked after.
const END_WITHIN: Duration = Duration::from_secs(10);
/// An instance that had to be ended because it no longer proved life counts as so many failures: as many as make the
/// coordinator look for another node.
const FAILURES_OF_A_HANG: usize = 3;
/// Pause before a call to a guard that failed is made again.
const CALL_AGAIN: Duration = Duration::from_millis(500);

/// What the instance should do.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Nothing is known yet: what runs is left alone.
    Leave,
    /// Run.
    Run {
        /// In which role.
        role: Role,
        /// Under which token (exclusive services).
        token: Option<Token>,
        /// For which goal.
        generation: Generation,
    },
    /// Do not run.
    Stop,
}

/// What does not change in an instance's life.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceConfig {
    /// Which service.
    pub service: ServiceId,
    /// On which node.
    pub node: NodeName,
    /// The node's address.
    pub address: IpAddr,
    /// What the file says of the program.
    pub app: AppSpec,
    /// It runs only with a grant.
    pub exclusive: bool,
    /// Where its guard and its port are kept.
    pub dir: PathBuf,
    /// Where its output goes.
    pub log: PathBuf,
    /// The binary that plays the guard.
    pub exe: PathBuf,
}

/// An order with its number, so that it can be known which one was carried out.
#[derive(Clone, Debug)]
struct Numbered {
    number: u64,
    order: Order,
}

/// What its task last saw, with the instants from which ages are counted: they go on while the task waits.
#[derive(Clone, Debug)]
struct Seen {
    said: InstanceObservation,
    failed_at: Vec<Instant>,
    healthy_since: Option<Instant>,
    proof: Proof,
}

/// What speaks for it that it lives (S5).
#[derive(Clone, Copy, Debug, PartialEq)]
enum Proof {
    /// Nothing.
    None,
    /// It runs, and has no check that could say more.
    Runs,
    /// Its check passed then.
    Passed(Instant),
    /// It starts or stops, which may take until then.
    Until(Instant),
}

/// The agent's ends of an instance's task.
#[derive(Debug)]
pub struct Instance {
    order: watch::Sender<Numbered>,
    idle_under: watch::Receiver<u64>,
    seen: watch::Receiver<Seen>,
    /// Tell it until when its role runs.
    pub until: watch::Sender<Option<(Token, Instant)>>,
    /// What it was made from; another one replaces it.
    pub config: Arc<InstanceConfig>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        // The guard and the program go on; only the agent's attention ends.
        self.task.abort();
    }
}

impl Instance {
    /// Begins to look after an instance.
    pub fn look_after(config: InstanceConfig) -> Self {
        let config = Arc::new(config);
        let (order, orders) = watch::channel(Numbered { number: 0, order: Order::Leave });
        let (tell_idle, idle_under) = watch::channel(u64::MAX);
        let (until, deadlines) = watch::channel(None);
        let (failed_at, proof) = (Vec::new(), Proof::Until(clock::now() + START_WITHIN));
        let unknown = Seen { said: not_looked_yet(), failed_at, healthy_since: None, proof };
        let (tell, seen) = watch::channel(unknown);
        let keeper = Keeper {
            config: config.clone(),
            orders,
            deadlines,
            tell,
            tell_idle,
            guard: None,
            checker: None,
            health: None,
            under: None,
            pid: None,
            containment: None,
            port: None,
            failures: Vec::new(),
            state: InstanceState::Starting,
            trouble: None,
            healthy_since: None,
            started: Some(clock::now()),
            has_passed: false,
            ends_by: None,
        };
        Self { order, idle_under, until, seen, config, task: tokio::spawn(keeper.keep()) }
    }

    /// Gives an order, if it differs from the last one. Only the token makes a running program another one: a new goal or
    /// role is no reason to start it again.
    pub fn tell(&self, order: Order) {
        self.order.send_if_modified(|known| {
            let same = match (&known.order, &order) {
                (Order::Run { token: before, .. }, Order::Run { token: after, .. }) => before == after,
                (before, after) => before == after,
            };
            if !same {
                *known = Numbered { number: known.number + 1, order };
            }
            !same
        });
    }

    /// What is seen of it, judged against what it was told last: until it has said that nothing runs *under that order*, it
    /// is not idle, for it may be starting something at this very moment.
    pub fn observe(&self) -> InstanceObservation {
        let now = clock::now();
        let Seen { said, failed_at, healthy_since, .. } = self.seen.borrow().clone();
        let told = self.order.borrow();
        let idle = *self.idle_under.borrow() == told.number;
        let state = match (said.state, &told.order) {
            (InstanceState::Prepared, Order::Run { .. }) => InstanceState::Starting,
            (InstanceState::Prepared, Order::Stop | Order::Leave) if !idle => InstanceState::Stopping,
            (state, _) => state,
        };
        let failures = failed_at.iter().filter(|at| now.since(**at) < FAILURE_WINDOW).count() as u32;
        let healthy_for = healthy_since.map_or(Duration::ZERO, |since| now.since(since));
        InstanceObservation { state, failures, healthy_for, ..said }
    }

    /// The newest instant at which it was proven alive, if it ever was.
    pub fn proven_at(&self) -> Option<Instant> {
        let now = clock::now();
        match self.seen.borrow().proof {
            Proof::None => None,
            Proof::Runs => Some(now),
            Proof::Passed(at) => Some(at),
            Proof::Until(end) => Some(now.min(end)),
        }
    }

    /// Wakes somebody whenever something about it changes, for as long as it is looked after.
    pub fn wake(&self, whom: mpsc::Sender<()>) {
        let (mut seen, mut idle) = (self.seen.clone(), self.idle_under.clone());
        tokio::spawn(async move {
            loop {
                let news = tokio::select! {
                    news = seen.changed() => news,
                    news = idle.changed() => news,
                };
                if news.is_err() {
                    return;
                }
                // A full channel already says it.
                whom.try_send(()).ok();
            }
        });
    }
}

/// An instance that may run since before this agent: until its guard has been looked for, it must not be taken for
/// stopped, or its grant would be released, or its traffic moved, while it serves.
fn not_looked_yet() -> InstanceObservation {
    InstanceObservation {
        state: InstanceState::Starting,
        health: Health::Unknown,
        endpoint: None,
        token: None,
        failures: 0,
        healthy_for: Duration::ZERO,
        pid: None,
        containment: None,
        trouble: None,
        replica: None,
    }
}

struct Keeper {
    config: Arc<InstanceConfig>,
    orders: watch::Receiver<Numbered>,
    deadlines: watch::Receiver<Option<(Token, Instant)>>,
    tell: watch::Sender<Seen>,
    tell_idle: watch::Sender<u64>,
    guard: Option<GuardHandle>,
    checker: Option<Checker>,
    health: Option<watch::Receiver<backstay_app::check::Health>>,
    /// Token and generation of the running start.
    under: Option<(Option<Token>, Generation)>,
    pid: Option<u32>,
    containment: Option<String>,
    port: Option<u16>,
    failures: Vec<Instant>,
    state: InstanceState,
    trouble: Option<String>,
    healthy_since: Option<Instant>,
    started: Option<Instant>,
    has_passed: bool,
    /// It is being ended, which may take until then.
    ends_by: Option<Instant>,
}

impl Keeper {
    async fn keep(mut self) {
        self.adopt().await;
        loop {
            self.say();
            let Numbered { number, order } = self.orders.borrow_and_update().clone();
            match (order, self.guard.is_some()) {
                (Order::Run { token, .. }, true) if self.is_current(token) => {
                    self.attend().await;
                }
                (Order::Run { .. } | Order::Stop, true) => self.stop().await,
                (Order::Run { token, role, generation }, false) => self.start(role, token, generation).await,
                (Order::Leave, true) => self.attend().await,
                (Order::Leave | Order::Stop, false) => {
                    self.state = InstanceState::Prepared;
                    self.ends_by = None;
                    self.say();
                    self.tell_idle.send_replace(number);
                    if self.orders.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn is_current(&self, token: Option<Token>) -> bool {
        self.under.is_some_and(|(held, _)| held == token)
    }

    /// What an earlier agent left running, as it is.
    async fn adopt(&mut self) {
        loop {
            match GuardHandle::adopt(&self.config.dir).await {
                Ok(None) => return,
                Ok(Some(guard)) => match guard.status().await {
                    Err(error @ AppError::NoAnswer { .. }) => self.fail(&error),
                    status => return self.take_over(guard, status),
                },
                // Whatever is left must be known to be gone before anything is started here.
                Err(error) => self.fail(&error),
            }
            tokio::time::sleep(CALL_AGAIN).await;
        }
    }

    fn take_over(&mut self, guard: GuardHandle, status: Result<backstay_app::GuardStatus, AppError>) {
        self.port = self.remembered_port();
        self.trouble = None;
        match status {
            Ok(status) if status.state != GuardState::Empty => {
                let token = status.token.map(Generation);
                self.under = Some((token, Generation(status.generation)));
                self.note_running(&status);
                tracing::info!(service = %self.config.service, pid = status.pid, "adopted");
                self.begin_checks();
            }
            _ => self.under = Some((None, Generation::ZERO)),
        }
        self.guard = Some(guard);
    }

    fn note_running(&mut self, status: &backstay_app::GuardStatus) {
        self.pid = Some(status.pid);
        let containment = serde_json::to_value(status.containment.kind).ok();
        self.containment = containment.and_then(|kind| kind.as_str().map(str::to_owned));
    }

    /// Waits for whatever comes next while the program runs: its end, another order, a later deadline, its health.
    async fn attend(&mut self) {
        let Some(guard) = &self.guard else { return };
        let mut events = guard.events();
        let ended = events.borrow().report().cloned();
        if let Some(report) = ended {
            return self.ended(report).await;
        }
        tokio::select! {
            _ = events.changed() => {}
            changed = self.orders.changed() => if changed.is_err() { std::future::pending::<()>().await },
            Ok(()) = self.deadlines.changed() => {
                move_deadline(&self.config.service, guard, &mut self.deadlines, self.under).await;
            }
            () = changed(&mut self.health) => {}
        }
    }

    /// The program ended by itself, or its guard ended it: nothing may be left before the next start.
    async fn ended(&mut self, report: ExitReport) {
        let now = clock::now();
        let was_failing = self.guard.is_some() && self.health_now() == Health::Failing;
        // Found dead by an agent that has just started: its node went down with it, or its guard was killed. No fault of it.
        let found_dead = self.pid.is_none();
        self.state = InstanceState::Stopping;
        self.ends_by = Some(now + END_WITHIN);
        self.say();
        let Some(guard) = &self.guard else { return };
        let settled = guard.events().borrow().is_empty();
        if !settled {
            let mut events = guard.events();
            drop(events.wait_for(GuardEvent::is_empty).await);
        }
        let sentence = program::describe_end(&report);
        tracing::warn!(service = %self.config.service, "{sentence}");
        match report.reason {
            // It hung until its role was given up for want of proof: the next start here deserves no trust.
            ExitReason::Deadline if was_failing => self.failures.extend([now; FAILURES_OF_A_HANG]),
            // The end at a deadline is else the guard doing its duty, not a fault of the program.
            ExitReason::Deadline | ExitReason::Stopped | ExitReason::Killed => {}
            ExitReason::Lost if found_dead => {}
            ExitReason::Exited | ExitReason::Lost => self.failures.push(now),
        }
        let failed = self.failures.last() == Some(&now);
        self.trouble = failed.then_some(sentence);
        self.leave_guard().await;
        self.state = if failed { InstanceState::Failed } else { InstanceState::Starting };
    }

    /// Asks the program to stop. Exclusive: at once. Balanced: after balancers elsewhere have stopped using it.
    async fn stop(&mut self) {
        if !self.config.exclusive && self.state == InstanceState::Running {
            let wanted_again = self.orders.wait_for(|told| matches!(told.order, Order::Run { .. }));
            if let Ok(Ok(_)) = tokio::time::timeout(LEAVE_AFTER, wanted_again).await {
                return;
            }
        }
        let grace = self.config.app.grace;
        self.state = InstanceState::Stopping;
        self.ends_by = self.ends_by.or(Some(clock::now() + grace + END_WITHIN));
        self.say();
        let Some(guard) = &self.guard else { return };
        let stopped = {
            let stop = guard.stop(grace);
            tokio::pin!(stop);
            loop {
                tokio::select! {
                    stopped = &mut stop => break stopped,
                    // The role is still held: its grace must not be cut short by the deadline of a moment ago.
                    Ok(()) = self.deadlines.changed() => {
                        move_deadline(&self.config.service, guard, &mut self.deadlines, self.under).await;
                    }
                }
            }
        };
        match stopped {
            Ok(_) | Err(AppError::Gone { .. }) => {
                self.leave_guard().await;
                self.state = InstanceState::Prepared;
                self.trouble = None;
            }
            Err(error) => {
                self.fail(&error);
                tokio::time::sleep(CALL_AGAIN).await;
            }
        }
    }

    /// Takes the guard's report, so that it leaves.
    async fn leave_guard(&mut self) {
        if let Some(guard) = self.guard.take()
            && let Err(error) = guard.ack().await
        {
            tracing::warn!(service = %self.config.service, %error, "the guard did not leave");
        }
        (self.checker, self.health, self.healthy_since) = (None, None, None);
        (self.under, self.pid, self.containment, self.ends_by) = (None, None, None, None);
    }

    async fn start(&mut self, role: Role, token: Option<Token>, generation: Generation) {
        if let Some(pause) = self.pause() {
            self.state = InstanceState::Failed;
            self.say();
            // Another order ends the pause; the same one does not.
            let current = Order::Run { role, token, generation };
            let another = self.orders.wait_for(|told| told.order != current);
            drop(tokio::time::timeout(pause, another).await);
            if self.orders.borrow().order != current {
                return;
            }
        }
        let until = match self.until_for(token) {
            Ok(until) => until,
            Err(wait) => return drop(tokio::time::timeout(wait, self.deadlines.changed()).await),
        };
        self.state = InstanceState::Starting;
        self.say();
        let spec = match self.guard_spec(role, token, generation, until) {
            Ok(spec) => spec,
            Err(trouble) => return self.could_not_start(trouble),
        };
        match GuardHandle::start(&self.config.dir, spec).await {
            Ok(guard) => {
                if let Ok(status) = guard.status().await {
                    self.note_running(&status);
                }
                self.guard = Some(guard);
                self.under = Some((token, generation));
                self.trouble = None;
                self.begin_checks();
            }
            Err(AppError::AlreadyGuarded { .. } | AppError::NoAnswer { .. }) => self.adopt().await,
            Err(error) => self.could_not_start(error.to_string()),
        }
    }

    fn could_not_start(&mut self, trouble: String) {
        tracing::warn!(service = %self.config.service, trouble, "not started");
        self.failures.push(clock::now());
        self.state = InstanceState::Failed;
        self.trouble = Some(trouble);
        // A port that was picked may have been taken by somebody else: pick again.
        self.port = self.config.app.port;
    }

    /// The deadline that an exclusive instance starts with; without a running one it is not started at all.
    fn until_for(&mut self, token: Option<Token>) -> Result<Option<u64>, Duration> {
        let Some(token) = token.filter(|_| self.config.exclusive) else { return Ok(None) };
        match *self.deadlines.borrow_and_update() {
            Some((held, until)) if held == token && until > clock::now() => Ok(Some(until.0)),
            _ => Err(CALL_AGAIN),
        }
    }

    /// How much longer to wait before the next start.
    fn pause(&mut self) -> Option<Duration> {
        let now = clock::now();
        self.failures.retain(|at| now.since(*at) < FAILURE_WINDOW);
        let last = *self.failures.last()?;
        let doublings = (self.failures.len() - 1).min(16) as u32;
        let pause = RESTART_FIRST.saturating_mul(1 << doublings).min(RESTART_MAX);
        let left = (last + pause).since(now);
        (!left.is_zero()).then_some(left)
    }

    fn guard_spec(
        &mut self,
        role: Role,
        token: Option<Token>,
        generation: Generation,
        until: Option<u64>,
    ) -> Result<GuardSpec, String> {
        let (config, app) = (self.config.clone(), &self.config.app);
        let RunSpec::Argv(argv) = app.run.clone() else {
            return Err("systemd units are not in this build".to_owned());
        };
        let port = self.pick_port(&argv)?;
        let env = program::environment(&config, port, role, token, generation)?;
        let fill = |text: &String| program::fill(text, &config, port);
        Ok(GuardSpec {
            service: config.service.to_string(),
            node: config.node.to_string(),
            generation: generation.0,
            token: token.map(|token| token.0),
            argv: argv.iter().map(fill).collect(),
            env,
            user: config.app.user.clone(),
            cwd: config.app.cwd.clone().map(PathBuf::from),
            stop_signal: config.app.stop.clone(),
            grace: config.app.grace,
            exclusive: config.exclusive,
            deadline_boottime_ns: until,
            log: config.log.clone(),
            log_bytes_max: LOG_BYTES_MAX,
            log_files_max: LOG_FILES_MAX,
            exe: config.exe.clone(),
            containment: None,
        })
    }

    /// The declared port, or a free one that is kept from start to start, so that routes elsewhere stay right.
    fn pick_port(&mut self, argv: &[String]) -> Result<Option<u16>, String> {
        let (app, address) = (&self.config.app, self.config.address);
        if let Some(port) = app.port {
            self.port = Some(port);
            if let Some(holder) = ports::who_listens(SocketAddr::new(address, port)) {
                return Err(format!(
                    "port {port} is held by {holder}; stop that, or give {} another port",
                    self.config.service
                ));
            }
            return Ok(self.port);
        }
        let asked = argv.iter().chain(app.env.values()).any(|text| text.contains("{port}"));
        if !asked && app.check.is_none() {
            return Ok(None);
        }
        let port = ports::free_port(address, self.remembered_port());
        let port = port.map_err(|error| format!("no free port on {address}: {error}"))?;
        self.port = Some(port);
        let file = self.port_file();
        let dir = file.parent().map_or(Ok(()), std::fs::create_dir_all);
        if let Err(error) = dir.and_then(|()| write_whole(&file, port.to_string().as_bytes())) {
            tracing::warn!(%error, "the port was not kept: the next start may get another");
        }
        Ok(self.port)
    }

    fn port_file(&self) -> PathBuf {
        let mut path = self.config.dir.clone().into_os_string();
        path.push(".port");
        path.into()
    }

    fn remembered_port(&self) -> Option<u16> {
        let kept = std::fs::read_to_string(self.port_file()).ok().and_then(|text| text.trim().parse().ok());
        self.config.app.port.or(kept)
    }

    fn begin_checks(&mut self) {
        self.started = Some(clock::now());
        self.has_passed = false;
        let Some(check) = &self.config.app.check else { return };
        let port = self.port.unwrap_or_default();
        let kind = match &check.kind {
            backstay_spec::CheckKind::Http(path) => CheckKind::Http { path: path.clone(), host: None, port: None },
            backstay_spec::CheckKind::Tcp => CheckKind::Tcp,
            backstay_spec::CheckKind::Run(argv) => {
                CheckKind::Run(argv.iter().map(|text| program::fill(text, &self.config, self.port)).collect())
            }
        };
        let (every, timeout, rise, fall) = (check.every, check.timeout, check.rise, check.fall);
        let check = Check { kind, every, timeout, rise, fall };
        let checker = Checker::spawn(check, SocketAddr::new(self.config.address, port));
        self.health = Some(checker.health());
        self.checker = Some(checker);
    }

    fn fail(&mut self, error: &AppError) {
        tracing::warn!(service = %self.config.service, %error, "trouble with the guard");
        self.trouble = Some(error.to_string());
        self.say();
    }

    /// What the checks say; a program without one is well while it runs.
    fn health_now(&mut self) -> Health {
        let (Some(_), Some(health)) = (&self.guard, &mut self.health) else {
            return if self.guard.is_some() { Health::Passing } else { Health::Unknown };
        };
        let state = health.borrow_and_update().state;
        self.has_passed |= state == HealthState::Passing;
        let starts = !self.has_passed && self.started.is_some_and(|at| clock::now().since(at) < START_WITHIN);
        match state {
            HealthState::Passing => Health::Passing,
            HealthState::Failing if !starts => Health::Failing,
            HealthState::Unknown | HealthState::Failing => Health::Unknown,
        }
    }

    fn proof(&self) -> Proof {
        let passed = self.health.as_ref().and_then(|health| health.borrow().last_ok_boottime_ns);
        match (&self.guard, self.ends_by, passed) {
            (None, ..) if self.state == InstanceState::Starting => Proof::Until(clock::now() + END_WITHIN),
            (None, ..) => Proof::None,
            (Some(_), Some(ends_by), _) => Proof::Until(ends_by),
            (Some(_), None, Some(at)) => Proof::Passed(Instant(at)),
            (Some(_), None, None) if self.health.is_none() => Proof::Runs,
            (Some(_), None, None) => self.started.map_or(Proof::None, |started| Proof::Until(started + START_WITHIN)),
        }
    }

    /// Publishes what is seen, if it differs.
    fn say(&mut self) {
        let now = clock::now();
        self.failures.retain(|at| now.since(*at) < FAILURE_WINDOW);
        let health = self.health_now();
        let ending = self.state == InstanceState::Stopping && self.ends_by.is_some();
        if self.guard.is_some() && !ending {
            let started = health == Health::Passing || self.state == InstanceState::Running;
            self.state = if started { InstanceState::Running } else { InstanceState::Starting };
        }
        match (health, self.healthy_since) {
            (Health::Passing, None) => self.healthy_since = Some(now),
            (Health::Passing, Some(_)) => {}
            _ => self.healthy_since = None,
        }
        let last_error = self.health.as_ref().and_then(|health| health.borrow().last_error.clone());
        let endpoint = self.port.or_else(|| self.remembered_port());
        let said = InstanceObservation {
            state: self.state,
            health,
            endpoint: endpoint.map(|port| SocketAddr::new(self.config.address, port)),
            token: self.under.and_then(|(token, _)| token),
            failures: 0,
            healthy_for: Duration::ZERO,
            pid: self.pid,
            containment: self.containment.clone(),
            trouble: self.trouble.clone().or(last_error.filter(|_| health == Health::Failing)),
            replica: None,
        };
        let (failed_at, healthy_since, proof) = (self.failures.clone(), self.healthy_since, self.proof());
        let seen = Seen { said, failed_at, healthy_since, proof };
        self.tell.send_if_modified(|known| {
            let news = known.said != seen.said || known.failed_at != seen.failed_at;
            *known = seen;
            news
        });
    }
}

/// Moves a guard's deadline along with the role's, if it is the token that the guard runs under.
async fn move_deadline(
    service: &ServiceId,
    guard: &GuardHandle,
    deadlines: &mut watch::Receiver<Option<(Token, Instant)>>,
    under: Option<(Option<Token>, Generation)>,
) {
    let until = *deadlines.borrow_and_update();
    let held = under.and_then(|(token, _)| token);
    if let (Some((token, until)), Some(held)) = (until, held)
        && token == held
        && let Err(error) = guard.extend(token.0, until.0).await
    {
        tracing::warn!(%service, %error, "the guard's deadline was not moved");
    }
}

async fn changed<T>(receiver: &mut Option<watch::Receiver<T>>) {
    match receiver {
        Some(receiver) => {
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}
