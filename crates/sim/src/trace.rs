//! What happened, line by line, for people and for comparing two runs.
//!
//! A line of a whole trace is: true time in seconds, the node it happens to (`-`: the store, the network, the run itself),
//! and what. Lines with a `>` are consequences of the line above them, as the run tells them: what was started, granted,
//! decided, or broken.

use std::collections::VecDeque;
use std::mem;

use crate::clock::SECOND;
use crate::database::Talk;
use crate::message::{Context, Message};
use crate::world::{Happening, World};

/// Most lines that are kept of one run.
pub const TRACE_LINES_MAX: usize = 1_000_000;

/// The newest lines; of a whole trace the first.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    lines: VecDeque<String>,
    max: usize,
    /// Everything that happens has a line, not only what is told.
    every_event: bool,
}

impl Trace {
    pub(crate) fn new(lines_max: usize, every_event: bool) -> Self {
        Self { lines: VecDeque::new(), max: lines_max.min(TRACE_LINES_MAX), every_event }
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.max > 0
    }

    /// Whether everything that happens is to be told.
    pub(crate) fn is_whole(&self) -> bool {
        self.max > 0 && self.every_event
    }

    pub(crate) fn told(&mut self, now: u64, text: &str) {
        let mark = if self.every_event { "     > " } else { "" };
        self.push(format!("{} {mark}{text}", seconds(now)));
    }

    fn happened(&mut self, now: u64, node: &str, text: &str) {
        self.push(format!("{} {node:<4} {text}", seconds(now)));
    }

    fn push(&mut self, line: String) {
        if self.lines.len() >= self.max {
            // The end of a run is what people look for; what another run is compared with is whole from its beginning.
            if self.every_event {
                return;
            }
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub(crate) fn take(&mut self) -> Vec<String> {
        mem::take(&mut self.lines).into()
    }
}

fn seconds(now: u64) -> String {
    let micros = now % SECOND / 1000;
    format!("{:>5}.{micros:06}", now / SECOND)
}

impl World {
    /// A line for what is about to happen, or about to be missed.
    pub(crate) fn trace_happening(&mut self, what: &Happening, missed: bool) {
        let (node, text) = self.in_words(what);
        let node = node.map_or("-", |node| self.names[node].as_str()).to_owned();
        let text = if missed { format!("(stands still) {text}") } else { text };
        self.trace.happened(self.now, &node, &text);
    }

    fn in_words(&self, what: &Happening) -> (Option<usize>, String) {
        match what {
            Happening::Arrive { to, message } => (Some(*to), self.message_in_words(message)),
            Happening::Round { node, .. } => (Some(*node), "round".to_owned()),
            Happening::Look { node, .. } => (Some(*node), "look".to_owned()),
            Happening::GuardAlarm { node, service, id } => {
                (Some(*node), format!("alarm of the guard of {} #{id}", self.services[*service]))
            }
            Happening::AddressAlarm { node, listener, id } => {
                (Some(*node), format!("alarm of the balancer for {} #{id}", self.listeners[*listener]))
            }
            Happening::Started { node, service, id } => {
                (Some(*node), format!("start of {} #{id} is through", self.services[*service]))
            }
            Happening::Stopped { node, service, id, .. } => {
                (Some(*node), format!("stop of {} #{id} is through", self.services[*service]))
            }
            Happening::AgentStarts { node, .. } => (Some(*node), "agent is to start".to_owned()),
            Happening::NodeBoots { node } => (Some(*node), "machine is to boot".to_owned()),
            Happening::BalancerStarts { node, .. } => (Some(*node), "balancer is to start".to_owned()),
            Happening::Resumes { node, .. } => (Some(*node), "is to move again".to_owned()),
            Happening::StoreTick => (self.store.leader, "voters look around".to_owned()),
            Happening::Commit => (self.store.leader, "the log goes on".to_owned()),
            Happening::Strike(index) => (None, format!("strike {index}")),
            Happening::FaultsEnd => (None, "end of all faults".to_owned()),
            Happening::Weather => (None, "the network turns bad".to_owned()),
            Happening::Mend(fault) => (None, format!("mended: {fault:?}")),
            Happening::DatabaseTick { node, .. } => (Some(*node), "its database looks around".to_owned()),
            Happening::Talk { to, talk } => (Some(*to), self.talk_in_words(talk)),
            Happening::Flushed { node, upto, .. } => (Some(*node), format!("on disk up to {upto}")),
            Happening::CopyMended { node, .. } => (Some(*node), "its copy is mended".to_owned()),
            Happening::ReceiverEnded { node, generation, .. } => {
                (Some(*node), format!("its receiver has ended, for a promise of goal {generation}"))
            }
            Happening::Beats => (None, "agents beat and listen".to_owned()),
            Happening::Watchers => (None, "clients act, checkers look".to_owned()),
            Happening::Due(promise) => (None, format!("due: {promise:?}")),
        }
    }

    fn talk_in_words(&self, talk: &Talk) -> String {
        match talk {
            Talk::Connect { from, flushed, .. } => format!("{} would stream from {flushed}", self.names[*from]),
            Talk::Diverged { stream } => format!("stream {stream} is refused: the copies have parted"),
            Talk::Log { from, upto, .. } => format!("log of {} up to {upto}", self.names[*from]),
            Talk::Acknowledge { from, flushed, .. } => format!("{} has everything up to {flushed}", self.names[*from]),
        }
    }

    fn message_in_words(&self, message: &Message) -> String {
        match message {
            Message::Propose { from, context, .. } => {
                format!("proposal of {}: {}", self.names[*from], self.context_in_words(context))
            }
            Message::Reply { context, answer, .. } => {
                format!("reply to {}: {answer:?}", self.context_in_words(context))
            }
            Message::Watch { upto } => format!("watch up to {upto}"),
            Message::Report { from, observation, .. } => {
                format!("report {} of {}", observation.serial, self.names[*from])
            }
        }
    }

    fn context_in_words(&self, context: &Context) -> String {
        match context {
            Context::Open { session } => format!("open session {session:x}"),
            Context::Renew { session, .. } => format!("renew session {session:x}"),
            Context::Take { role, token, .. } => format!("take {} under {token}", self.roles[*role]),
            Context::Release { role } => format!("release {}", self.roles[*role]),
            Context::Claim { token, .. } => format!("coordinate under {token}"),
            Context::Adopt => "adopt a goal".to_owned(),
            Context::Promise => "promise".to_owned(),
            Context::Publish => "publish a position".to_owned(),
        }
    }
}
