//! What a worker does besides moving bytes: follow a new plan, end what has expired, look after what waits.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::link::POOL_IDLE_MS;
use crate::plan::NEVER;
use crate::session::{Phase, Session, Step};
use crate::slab::Key;
use crate::table::Proto;
use crate::worker::{Owner, Worker};

/// How long a session may go on after its listener or backend has left the table.
pub(crate) const DRAIN_MAX_MS: u64 = 10_000;

/// What a new plan means for a session.
enum Verdict {
    Stay,
    /// It may finish what it does, for a bounded time.
    Drain,
    /// Its backend may not be used from this moment on.
    Cut,
    /// It has no right to exist.
    End,
}

impl Worker {
    /// Someone changed the plan, a deadline, or the health of a backend.
    pub(crate) fn follow_plan(&mut self) {
        let mut count = [0u8; 8];
        let _ = rustix::io::read(self.board.waker(self.at), &mut count[..]);
        let plan = self.board.plan();
        if plan.version != self.plan.version {
            self.plan = plan;
            self.listen_to_plan();
            for key in self.sessions.keys() {
                self.judge(key);
            }
            self.forget_strangers();
            self.board.follows(self.at, self.plan.version);
        }
        self.look_at_urgent();
    }

    fn judge(&mut self, key: Key) {
        let Some(mut session) = self.sessions.take(key) else {
            return;
        };
        match self.verdict(&session) {
            Verdict::Stay => self.refresh_upstream(&mut session),
            Verdict::Drain => {
                let idle = session.phase == Phase::Head && session.http.input.is_empty();
                if idle || session.phase == Phase::Linger {
                    return self.end(session, false);
                }
                session.drain_by_ms = session.drain_by_ms.min(self.now_ms + DRAIN_MAX_MS);
                session.http.response.reusable = false;
            }
            Verdict::Cut => return self.cut(session),
            Verdict::End => {
                session.counts(self.at).cut.up();
                return self.end(session, true);
            }
        }
        self.sessions.put(key, session);
    }

    fn verdict(&self, session: &Session) -> Verdict {
        let listed = self.plan.routes.iter().any(|route| route.listener.id == session.listener.id);
        if !listed && session.listener.is_address() && !self.plan.stopping {
            return Verdict::End;
        }
        let mut verdict = if listed { Verdict::Stay } else { Verdict::Drain };
        if let (Some(link), Some(old)) = (&session.link, &session.upstream) {
            let new = self.plan.upstreams.iter().find(|new| new.name == old.name);
            // A new token makes a new peer, so a session of the old holder is not found here.
            let member = new.and_then(|new| new.member(link.peer.uid));
            if member.is_none() {
                let exclusive = old.exclusive || new.is_some_and(|new| new.exclusive);
                verdict = if exclusive { Verdict::Cut } else { Verdict::Drain };
            }
        }
        verdict
    }

    fn refresh_upstream(&self, session: &mut Session) {
        if let Some(old) = &session.upstream
            && let Some(new) = self.plan.upstreams.iter().find(|new| new.name == old.name)
        {
            session.upstream = Some(Arc::clone(new));
        }
    }

    /// Takes the backend away from a session at once. A request that can be sent again waits for the next holder; anything else
    /// ends.
    fn cut(&mut self, mut session: Box<Session>) {
        session.counts(self.at).cut.up();
        let in_request = matches!(session.phase, Phase::Exchange | Phase::Connecting);
        if session.proto == Proto::Tcp && session.phase == Phase::Connecting {
            self.drop_link(&mut session, true);
            return self.drive(session);
        }
        if session.proto == Proto::Tcp || !in_request {
            return self.end(session, true);
        }
        match self.lose_backend(&mut session) {
            Step::Reset => self.end(session, true),
            Step::Close => self.end(session, false),
            Step::Again | Step::Wait => self.drive(session),
        }
    }

    /// Closes idle connections to backends that the plan does not have, or lets drain.
    fn forget_strangers(&mut self) {
        let known: Vec<u64> = self.pool.keys().copied().collect();
        for uid in known {
            let welcome =
                self.plan.upstreams.iter().filter_map(|upstream| upstream.member(uid)).any(|member| !member.draining);
            if !welcome || self.plan.stopping {
                self.purge_pool(uid);
            }
        }
    }

    /// The next instant at which something in the plan stops being allowed, in ns.
    pub(crate) fn next_expiry(&self) -> u64 {
        let listeners = self.plan.routes.iter().map(|route| &route.listener.until);
        let upstreams = self.plan.upstreams.iter().map(|upstream| &*upstream.until);
        listeners
            .chain(upstreams)
            .map(|until| until.load(Relaxed))
            .filter(|until| *until > self.now_ns)
            .min()
            .unwrap_or(NEVER)
    }

    /// Ends what was allowed only until an instant that has passed. Needs nobody else: the agent may be dead.
    pub(crate) fn end_expired(&mut self) {
        let now_ns = self.now_ns;
        let expired = |until: u64| until <= now_ns;
        let any_listener = self.plan.routes.iter().any(|route| expired(route.listener.until.load(Relaxed)));
        let any_upstream =
            self.plan.upstreams.iter().any(|upstream| upstream.exclusive && expired(upstream.until.load(Relaxed)));
        if !any_listener && !any_upstream {
            self.expired_sweep_done = false;
            return;
        }
        let instant = self.last_expiry();
        if self.expired_sweep_done && instant == self.swept_expiry_ns {
            return;
        }
        self.expired_sweep_done = true;
        self.swept_expiry_ns = instant;
        for key in self.sessions.keys() {
            let Some(session) = self.sessions.take(key) else {
                continue;
            };
            let role_over = session.link.is_some()
                && session
                    .upstream
                    .as_ref()
                    .is_some_and(|upstream| upstream.exclusive && expired(upstream.until.load(Relaxed)));
            if expired(session.listener.until.load(Relaxed)) {
                session.counts(self.at).cut.up();
                self.end(session, true);
            } else if role_over {
                self.cut(session);
            } else {
                self.sessions.put(key, session);
            }
        }
    }

    /// The sum of expired instants: changes whenever another one passes or is extended.
    fn last_expiry(&self) -> u64 {
        let listeners = self.plan.routes.iter().map(|route| &route.listener.until);
        let upstreams = self.plan.upstreams.iter().map(|upstream| &*upstream.until);
        listeners
            .chain(upstreams)
            .map(|until| until.load(Relaxed))
            .filter(|until| *until <= self.now_ns)
            .fold(self.plan.version, u64::wrapping_add)
    }

    /// Looks at sessions that wait for something short: a backend, a connect, a last read.
    pub(crate) fn look_at_urgent(&mut self) {
        if self.urgent.is_empty() {
            return;
        }
        for key in std::mem::take(&mut self.urgent) {
            let Some(session) = self.sessions.take(key) else {
                continue;
            };
            if session.is_overdue(self.now_ms) {
                self.on_timeout(session);
                continue;
            }
            match session.phase {
                // Tries again; it comes back into the list if it must go on waiting.
                Phase::Held => self.drive(session),
                Phase::Connecting | Phase::Linger => {
                    self.urgent.push(key);
                    self.sessions.put(key, session);
                }
                _ => self.sessions.put(key, session),
            }
        }
        // A session may enter the list more than once in a tick.
        self.urgent.sort_unstable_by_key(|key| key.0);
        self.urgent.dedup();
    }

    /// Looks at everything: slow deadlines, and idle backend connections.
    pub(crate) fn look_at_all(&mut self) {
        for key in self.sessions.keys() {
            let overdue = self.sessions.at(key).is_some_and(|session| session.is_overdue(self.now_ms));
            if overdue && let Some(session) = self.sessions.take(key) {
                self.on_timeout(session);
            }
        }
        let now_ms = self.now_ms;
        for key in self.links.keys() {
            let stale =
                matches!(self.links.at(key), Some(Owner::Pool(link)) if link.idle_since_ms + POOL_IDLE_MS <= now_ms);
            if stale {
                self.drop_pooled(key);
            }
        }
        self.pool.retain(|_, rest| !rest.is_empty());
    }

    fn on_timeout(&mut self, mut session: Box<Session>) {
        if session.drain_by_ms <= self.now_ms {
            session.counts(self.at).cut.up();
            return self.end(session, true);
        }
        let step = match (session.proto, session.phase) {
            (_, Phase::Linger) => Step::Close,
            (_, Phase::Pump) => Step::Reset,
            (Proto::Tcp, Phase::Connecting) if session.link.is_some() => {
                self.connect_failed(&mut session);
                Step::Again
            }
            (Proto::Tcp, _) => {
                session.counts(self.at).failed.up();
                Step::Close
            }
            (Proto::Http, _) => self.http_timeout(&mut session),
        };
        match step {
            Step::Reset => self.end(session, true),
            Step::Close => self.end(session, false),
            Step::Again | Step::Wait => self.drive(session),
        }
    }
}
