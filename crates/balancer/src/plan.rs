//! The table in force as the workers see it: immutable, shared, swapped whole. What must survive a swap (sockets, health, counters,
//! the instants that are extended) hangs on it by reference count.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::table::{Check, Proto};

/// Stands for "never" where an instant is expected.
pub(crate) const NEVER: u64 = u64::MAX;
/// First time for which a failing backend is left out; it doubles up to `EJECT_MAX_MS`.
pub(crate) const EJECT_MIN_MS: u64 = 250;
pub(crate) const EJECT_MAX_MS: u64 = 5_000;
/// Bad answers or timeouts in a row that eject a backend.
pub(crate) const FAILS_TO_EJECT: u64 = 3;

/// One version of the routing.
pub(crate) struct Plan {
    pub(crate) version: u64,
    pub(crate) routes: Vec<Route>,
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    /// The process drains and will exit.
    pub(crate) stopping: bool,
}

/// A bound listener and where it leads.
pub(crate) struct Route {
    /// Closed when no plan and no worker listens to it any longer, whatever sessions came through it.
    pub(crate) socket: Arc<OwnedFd>,
    pub(crate) listener: Arc<Listener>,
    pub(crate) proto: Proto,
    pub(crate) upstream: Arc<Upstream>,
}

/// What is known of a bound socket; its sessions hold on to this and never to the socket.
pub(crate) struct Listener {
    /// Never used twice in a process.
    pub(crate) id: u64,
    pub(crate) addr: SocketAddr,
    /// In ns on CLOCK_BOOTTIME.
    pub(crate) until: AtomicU64,
    /// By worker.
    pub(crate) counts: Arc<[ListenerCounts]>,
}

impl Listener {
    /// Whether it sits on a floating address, which ends its sessions when it ends.
    pub(crate) fn is_address(&self) -> bool {
        self.until.load(Relaxed) != NEVER
    }
}

/// A named set of backends in one table.
pub(crate) struct Upstream {
    pub(crate) name: String,
    pub(crate) members: Vec<Member>,
    pub(crate) hold_ms: u64,
    /// In ns on CLOCK_BOOTTIME; survives a swap.
    pub(crate) until: Arc<AtomicU64>,
    pub(crate) exclusive: bool,
    pub(crate) check: Option<Check>,
    turn: AtomicUsize,
}

/// A backend's place in one table.
pub(crate) struct Member {
    pub(crate) peer: Arc<Peer>,
    pub(crate) draining: bool,
}

/// A backend from its first table to its last, under one token.
pub(crate) struct Peer {
    /// Never used twice in a process.
    pub(crate) uid: u64,
    pub(crate) id: String,
    pub(crate) addr: SocketAddr,
    pub(crate) token: u64,
    pub(crate) health: Health,
    /// By worker.
    pub(crate) counts: Box<[PeerCounts]>,
}

/// What is known about a backend's health.
#[derive(Default)]
pub(crate) struct Health {
    /// Failed its active check.
    pub(crate) down: AtomicBool,
    ejected_until_ms: AtomicU64,
    eject_ms: AtomicU64,
    fails: AtomicU64,
}

impl Health {
    /// A connection or request went well.
    pub(crate) fn passed(&self) {
        // Loads first: in good times the line stays shared between the workers' caches.
        if self.fails.load(Relaxed) != 0 {
            self.fails.store(0, Relaxed);
        }
        self.reached();
    }

    /// A connection was accepted: whoever could not reach it may try again.
    pub(crate) fn reached(&self) {
        if self.eject_ms.load(Relaxed) != 0 {
            self.eject_ms.store(0, Relaxed);
            self.ejected_until_ms.store(0, Relaxed);
        }
    }

    /// A connection was refused, reset or not answered in time: leave the backend out at once, for a while.
    pub(crate) fn unreachable(&self, now_ms: u64) {
        if self.is_ejected(now_ms) {
            return;
        }
        let next = (self.eject_ms.load(Relaxed) * 2).clamp(EJECT_MIN_MS, EJECT_MAX_MS);
        self.eject_ms.store(next, Relaxed);
        self.ejected_until_ms.store(now_ms + next, Relaxed);
    }

    /// A request got no or a bad answer; some in a row eject.
    pub(crate) fn failed(&self, now_ms: u64) {
        if self.fails.fetch_add(1, Relaxed) + 1 >= FAILS_TO_EJECT {
            self.fails.store(0, Relaxed);
            self.unreachable(now_ms);
        }
    }

    pub(crate) fn is_ejected(&self, now_ms: u64) -> bool {
        self.ejected_until_ms.load(Relaxed) > now_ms
    }
}

impl Upstream {
    pub(crate) fn new(table: &crate::table::Upstream, members: Vec<Member>, until: Arc<AtomicU64>) -> Self {
        Self {
            name: table.name.clone(),
            members,
            hold_ms: table.hold_ms,
            until,
            exclusive: table.exclusive,
            check: table.check.clone(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Whether anything may be forwarded to it now.
    pub(crate) fn is_valid(&self, now_ns: u64) -> bool {
        self.until.load(Relaxed) > now_ns
    }

    pub(crate) fn member(&self, uid: u64) -> Option<&Member> {
        self.members.iter().find(|member| member.peer.uid == uid)
    }

    /// Chooses the next backend in turn, passing over those in `tried`. Ejected ones are taken only when no other is left: passive
    /// ejection never empties an upstream. A failed active check is evidence, and does.
    pub(crate) fn pick(&self, now_ms: u64, tried: &Tried) -> Option<&Arc<Peer>> {
        let count = self.members.len();
        if count == 0 {
            return None;
        }
        let start = self.turn.fetch_add(1, Relaxed) % count;
        let mut last_resort = None;
        for step in 0..count {
            let member = &self.members[(start + step) % count];
            let health = &member.peer.health;
            if member.draining || health.down.load(Relaxed) || tried.has(member.peer.uid) {
                continue;
            }
            if !health.is_ejected(now_ms) {
                return Some(&member.peer);
            }
            last_resort.get_or_insert(&member.peer);
        }
        last_resort
    }
}

/// Backends that one request or connection has failed on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tried {
    uids: [u64; Tried::MAX],
    count: usize,
}

impl Tried {
    /// More attempts than one request makes.
    const MAX: usize = 8;

    pub(crate) fn has(&self, uid: u64) -> bool {
        self.uids[..self.count].contains(&uid)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn add(&mut self, uid: u64) {
        if self.count < Self::MAX {
            self.uids[self.count] = uid;
            self.count += 1;
        }
    }
}

/// A counter that one worker writes and anyone reads; no locked instruction.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn up(&self) {
        self.0.store(self.0.load(Relaxed).wrapping_add(1), Relaxed);
    }

    pub(crate) fn down(&self) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(1), Relaxed);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counters of a listener in one worker; on cache lines of their own.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct ListenerCounts {
    pub(crate) accepted: Count,
    pub(crate) active: Count,
    pub(crate) requests: Count,
    pub(crate) failed: Count,
    pub(crate) retried: Count,
    pub(crate) held: Count,
    pub(crate) refused: Count,
    pub(crate) cut: Count,
}

/// Counters of a backend in one worker.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct PeerCounts {
    pub(crate) active: Count,
    pub(crate) requests: Count,
    pub(crate) errors: Count,
    pub(crate) connects: Count,
}

/// Where the control thread leaves a plan and the workers find it.
pub(crate) struct Board {
    plan: Mutex<Arc<Plan>>,
    seen: Mutex<Vec<u64>>,
    seen_changed: Condvar,
    wakers: Vec<OwnedFd>,
    phase: AtomicU8,
}

const RUNNING: u8 = 0;
const EXITING: u8 = 1;

impl Board {
    pub(crate) fn new(wakers: Vec<OwnedFd>) -> Self {
        let empty = Plan { version: 0, routes: Vec::new(), upstreams: Vec::new(), stopping: false };
        Self {
            plan: Mutex::new(Arc::new(empty)),
            seen: Mutex::new(vec![0; wakers.len()]),
            seen_changed: Condvar::new(),
            wakers,
            phase: AtomicU8::new(RUNNING),
        }
    }

    /// Puts a plan in force and waits a bounded time until every worker follows it.
    pub(crate) fn publish(&self, plan: Plan, patience: Duration) {
        let version = plan.version;
        *lock(&self.plan) = Arc::new(plan);
        self.wake();
        let seen = lock(&self.seen);
        // On a timeout the workers still follow, only later; the answer to the agent must not wait for them for ever.
        let _ = self.seen_changed.wait_timeout_while(seen, patience, |seen| seen.iter().any(|seen| *seen < version));
    }

    pub(crate) fn plan(&self) -> Arc<Plan> {
        Arc::clone(&lock(&self.plan))
    }

    /// A worker says which version it follows.
    pub(crate) fn follows(&self, worker: usize, version: u64) {
        lock(&self.seen)[worker] = version;
        self.seen_changed.notify_all();
    }

    /// Makes every worker look at the plan, its deadlines and what it holds.
    pub(crate) fn wake(&self) {
        for waker in &self.wakers {
            let _ = rustix::io::write(waker, &1u64.to_ne_bytes());
        }
    }

    pub(crate) fn waker(&self, worker: usize) -> &OwnedFd {
        &self.wakers[worker]
    }

    /// Makes every worker return.
    pub(crate) fn exit(&self) {
        self.phase.store(EXITING, Relaxed);
        self.wake();
    }

    pub(crate) fn is_exiting(&self) -> bool {
        self.phase.load(Relaxed) == EXITING
    }
}

/// Locks; a thread that panicked while it held the lock leaves plain data behind, which stays usable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(count: u64) -> Upstream {
        let members = (1..=count)
            .map(|uid| Member {
                peer: Arc::new(Peer {
                    uid,
                    id: format!("b{uid}"),
                    addr: SocketAddr::from(([127, 0, 0, 1], uid as u16)),
                    token: 0,
                    health: Health::default(),
                    counts: Box::default(),
                }),
                draining: false,
            })
            .collect();
        let table = crate::table::Upstream {
            name: "app".into(),
            backends: Vec::new(),
            hold_ms: 0,
            valid_until: None,
            token: 0,
            check: None,
            exclusive: false,
        };
        Upstream::new(&table, members, Arc::new(AtomicU64::new(NEVER)))
    }

    fn picks(upstream: &Upstream, now_ms: u64) -> Vec<u64> {
        let mut uids: Vec<u64> =
            (0..6).filter_map(|_| upstream.pick(now_ms, &Tried::default())).map(|peer| peer.uid).collect();
        uids.sort_unstable();
        uids
    }

    #[test]
    fn all_take_turns() {
        assert_eq!(picks(&upstream(3), 0), [1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn an_unreachable_one_is_left_out_and_comes_back() {
        let upstream = upstream(2);
        upstream.members[0].peer.health.unreachable(1_000);
        assert_eq!(picks(&upstream, 1_000), [2; 6]);
        assert!(picks(&upstream, 1_000 + EJECT_MIN_MS).contains(&1));
        upstream.members[0].peer.health.unreachable(2_000);
        assert_eq!(picks(&upstream, 2_000 + EJECT_MIN_MS), [2; 6], "the time doubles");
        for round in 0..10 {
            upstream.members[0].peer.health.unreachable(10_000 * round);
        }
        assert!(picks(&upstream, 90_000 + EJECT_MAX_MS).contains(&1), "and is bounded");
        upstream.members[0].peer.health.passed();
        assert!(!upstream.members[0].peer.health.is_ejected(0));
    }

    #[test]
    fn three_bad_answers_in_a_row_eject() {
        let health = Health::default();
        health.failed(0);
        health.failed(0);
        health.passed();
        health.failed(0);
        health.failed(0);
        assert!(!health.is_ejected(0));
        health.failed(0);
        assert!(health.is_ejected(0));
    }

    #[test]
    fn ejection_never_empties_an_upstream_but_a_check_does() {
        let upstream = upstream(2);
        for member in &upstream.members {
            member.peer.health.unreachable(0);
        }
        assert!(upstream.pick(0, &Tried::default()).is_some());
        for member in &upstream.members {
            member.peer.health.down.store(true, Relaxed);
        }
        assert!(upstream.pick(0, &Tried::default()).is_none());
    }

    #[test]
    fn what_was_tried_or_drains_is_passed_over() {
        let mut upstream = upstream(3);
        upstream.members[2].draining = true;
        let mut tried = Tried::default();
        tried.add(1);
        assert_eq!(upstream.pick(0, &tried).map(|peer| peer.uid), Some(2));
        tried.add(2);
        assert!(upstream.pick(0, &tried).is_none());
    }
}
