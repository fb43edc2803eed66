//! Choosing a backend, reaching it, holding while there is none, and keeping its connections for the next request.

use std::sync::Arc;

use crate::plan::{Peer, Upstream};
use crate::session::{Link, Phase, Session};
use crate::slab::Key;
use crate::sys::{self, Ready};
use crate::worker::{Owner, Worker};

/// How long a backend has to accept a connection.
pub(crate) const CONNECT_TIMEOUT_MS: u64 = 1_000;
/// Backends asked in one round; then the session is held, or refused.
const ATTEMPTS_MAX: u32 = 3;
/// Sessions that wait for a backend, per worker; more are refused at once. With the most workers there are, 10 000 in all.
pub(crate) const HELD_MAX: usize = 2_500;
/// Held sessions of one worker that try an ejected backend in one tick.
pub(crate) const PROBES_PER_TICK: u32 = 8;
/// Idle connections kept per backend and worker.
const POOL_MAX: usize = 256;
/// How long an idle backend connection is kept.
pub(crate) const POOL_IDLE_MS: u64 = 30_000;

/// What came of asking for a backend.
pub(crate) enum Opened {
    /// A connection exists; it may still be under way.
    Linked,
    /// None can be used now; the session waits in `Phase::Held`.
    Held,
    /// None can be used and the session may not wait, or not any longer.
    Refused,
}

impl Worker {
    /// Gives the session a connection to a backend of its upstream.
    pub(crate) fn open(&mut self, session: &mut Session) -> Opened {
        if session.phase == Phase::Held {
            self.held -= 1;
            session.phase = Phase::Connecting;
            session.new_round();
        }
        let Some(upstream) = self.upstream_of(session) else {
            return Opened::Refused;
        };
        if session.hold_until_ms == 0 {
            session.hold_until_ms = self.now_ms + upstream.hold_ms;
        }
        session.upstream = Some(Arc::clone(&upstream));
        if upstream.is_valid(self.now_ns) && self.reach(session, &upstream) {
            return Opened::Linked;
        }
        self.hold(session)
    }

    fn upstream_of(&self, session: &Session) -> Option<Arc<Upstream>> {
        let route = self.plan.routes.iter().find(|route| route.listener.id == session.listener.id);
        if let Some(route) = route {
            return Some(Arc::clone(&route.upstream));
        }
        // The listener is gone and the session drains: what it has begun still goes where it went.
        let name = &session.upstream.as_ref()?.name;
        let upstream = self.plan.upstreams.iter().find(|upstream| upstream.name == *name)?;
        Some(Arc::clone(upstream))
    }

    fn reach(&mut self, session: &mut Session, upstream: &Upstream) -> bool {
        while session.attempts < ATTEMPTS_MAX {
            let Some(peer) = upstream.pick(self.now_ms, &session.tried) else {
                return false;
            };
            if session.was_held && peer.health.is_ejected(self.now_ms) {
                // A few find out for all whether it is back.
                if self.probes_left == 0 {
                    return false;
                }
                self.probes_left -= 1;
            }
            session.attempts += 1;
            if self.attach_pooled(session, peer) {
                return true;
            }
            match self.attach_new(session, peer) {
                Ok(()) => return true,
                Err(errno) if sys::is_exhausted(errno) => return false,
                Err(_) => self.unreachable(session, peer),
            }
        }
        false
    }

    fn hold(&mut self, session: &mut Session) -> Opened {
        if self.now_ms >= session.hold_until_ms || self.held >= HELD_MAX {
            return Opened::Refused;
        }
        if !std::mem::replace(&mut session.was_held, true) {
            session.counts(self.at).held.up();
        }
        self.held += 1;
        session.enter(Phase::Held, session.hold_until_ms);
        self.urgent.push(session.key);
        Opened::Held
    }

    fn attach_pooled(&mut self, session: &mut Session, peer: &Arc<Peer>) -> bool {
        if session.http.request.fresh {
            return false;
        }
        while let Some(key) = self.pool.get_mut(&peer.uid).and_then(Vec::pop) {
            let Some(Owner::Pool(mut link)) = self.links.take(key) else {
                continue;
            };
            // What may not be sent twice gets a connection that is known to be open at this moment.
            if !session.http.request.idempotent && !sys::is_quiet(&link.fd) {
                self.links.free(key);
                continue;
            }
            self.links.put(key, Owner::Session(session.key));
            link.reused = true;
            self.count_attached(&link);
            session.link = Some(link);
            return true;
        }
        false
    }

    fn attach_new(&mut self, session: &mut Session, peer: &Arc<Peer>) -> Result<(), rustix::io::Errno> {
        let fd = sys::connect(peer.addr)?;
        let key = self.links.reserve();
        if let Err(errno) = self.register_backend(&fd, key) {
            self.links.free(key);
            return Err(errno);
        }
        self.links.put(key, Owner::Session(session.key));
        let link = Link {
            key,
            fd,
            ready: Ready::default(),
            peer: Arc::clone(peer),
            reused: false,
            connected: false,
            idle_since_ms: 0,
        };
        self.count_attached(&link);
        link.counts(self.at).connects.up();
        session.link = Some(link);
        session.enter(Phase::Connecting, self.now_ms + CONNECT_TIMEOUT_MS);
        self.urgent.push(session.key);
        Ok(())
    }

    fn count_attached(&self, link: &Link) {
        link.counts(self.at).requests.up();
        link.counts(self.at).active.up();
    }

    /// Says how a started connection ended: `None` while it is undecided.
    pub(crate) fn connected(&mut self, session: &mut Session) -> Option<bool> {
        let link = session.link.as_mut()?;
        if !link.ready.write {
            return None;
        }
        if sys::connect_error(&link.fd).is_some() || link.ready.dead {
            return Some(false);
        }
        link.connected = true;
        link.peer.health.reached();
        Some(true)
    }

    /// The connection to the backend was refused or not answered in time: leaves it, so that another can be asked.
    pub(crate) fn connect_failed(&mut self, session: &mut Session) {
        if let Some(link) = &session.link {
            let peer = Arc::clone(&link.peer);
            self.unreachable(session, &peer);
        }
        self.drop_link(session, true);
    }

    fn unreachable(&self, session: &mut Session, peer: &Peer) {
        peer.health.unreachable(self.now_ms);
        peer.counts[self.at].errors.up();
        session.counts(self.at).retried.up();
        session.tried.add(peer.uid);
    }

    /// Closes the backend connection of a session.
    pub(crate) fn drop_link(&mut self, session: &mut Session, reset: bool) {
        if let Some(link) = session.link.take() {
            if reset {
                sys::reset_on_close(&link.fd);
            }
            link.counts(self.at).active.down();
            self.links.free(link.key);
        }
    }

    /// Puts the backend connection of a session into the pool, for whoever comes next.
    pub(crate) fn pool_link(&mut self, session: &mut Session) {
        let Some(mut link) = session.link.take() else {
            return;
        };
        link.counts(self.at).active.down();
        let member = session.upstream.as_ref().and_then(|upstream| upstream.member(link.peer.uid));
        let welcome = member.is_some_and(|member| !member.draining) && !link.ready.ended && !self.plan.stopping;
        let rest = self.pool.entry(link.peer.uid).or_default();
        if !welcome || rest.len() >= POOL_MAX {
            self.links.free(link.key);
            return;
        }
        link.idle_since_ms = self.now_ms;
        rest.push(link.key);
        self.links.put(link.key, Owner::Pool(link));
    }

    /// Closes one idle connection.
    pub(crate) fn drop_pooled(&mut self, key: Key) {
        if let Some(Owner::Pool(link)) = self.links.free(key)
            && let Some(rest) = self.pool.get_mut(&link.peer.uid)
        {
            rest.retain(|other| *other != key);
        }
    }

    /// Closes all idle connections to a backend: one of them was found dead.
    pub(crate) fn purge_pool(&mut self, uid: u64) {
        for key in self.pool.remove(&uid).unwrap_or_default() {
            self.links.free(key);
        }
    }
}
