//! The traffic of the demo: one client thread per target, each request's end written down, and what outages they saw.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::client::Client;
use crate::clock;

/// One address that clients use.
#[derive(Clone, Debug)]
pub struct Target {
    /// `web`, `api`, `till`, …
    pub service: &'static str,
    /// What stands there: `the floating address`, or the node whose own listener it is.
    pub through: Through,
    /// Where it is.
    pub address: SocketAddr,
}

/// The listener that a target is an entry of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Through {
    /// The one with the floating address.
    Front,
    /// A node's own.
    Node(String),
}

impl Target {
    /// For people.
    pub fn name(&self) -> String {
        match &self.through {
            Through::Front => format!("{} through the floating address", self.service),
            Through::Node(node) => format!("{} through {node}", self.service),
        }
    }
}

/// When one request ended, and how.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    is_ok: bool,
}

/// What one target saw between two instants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The longest time without a success, from the last success before.
    pub outage: Duration,
    /// Requests that failed.
    pub failed: u64,
}

/// Clients at work.
pub struct Load {
    lanes: Vec<Lane>,
    stop: Arc<AtomicBool>,
}

struct Lane {
    target: Target,
    samples: Arc<Mutex<Vec<Sample>>>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts one client per target, each with a pause between two requests.
    pub fn start(targets: Vec<Target>, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let lanes = targets.into_iter().map(|target| Lane::start(target, pause, Arc::clone(&stop))).collect();
        Self { lanes, stop }
    }

    /// Requests that ended, and those among them that failed.
    pub fn counts(&self) -> (u64, u64) {
        let mut counts = (0, 0);
        for lane in &self.lanes {
            let samples = lane.samples.lock().unwrap_or_else(PoisonError::into_inner);
            counts.0 += samples.len() as u64;
            counts.1 += samples.iter().filter(|sample| !sample.is_ok).count() as u64;
        }
        counts
    }

    /// What each target saw between two instants.
    pub fn seen(&self, from: Duration, to: Duration) -> Vec<(Target, Seen)> {
        let seen = |lane: &Lane| {
            let samples = lane.samples.lock().unwrap_or_else(PoisonError::into_inner);
            (lane.target.clone(), seen_between(&samples, from, to))
        };
        self.lanes.iter().map(seen).collect()
    }

    /// Whether every target that is meant has answered since that instant.
    pub fn all_answered_since(&self, since: Duration, is_meant: &dyn Fn(&Target) -> bool) -> bool {
        self.lanes.iter().filter(|lane| is_meant(&lane.target)).all(|lane| {
            let samples = lane.samples.lock().unwrap_or_else(PoisonError::into_inner);
            samples.iter().rev().take_while(|sample| sample.at > since).any(|sample| sample.is_ok)
        })
    }

    /// Stops all clients and waits for their last answers.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for lane in &mut self.lanes {
            if let Some(thread) = lane.thread.take() {
                // A client that panicked has left its samples; they count.
                let _ = thread.join();
            }
        }
    }
}

impl Lane {
    fn start(target: Target, pause: Duration, stop: Arc<AtomicBool>) -> Self {
        let samples: Arc<Mutex<Vec<Sample>>> = Arc::default();
        let mut client = Client::new(target.address);
        let kept = Arc::clone(&samples);
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let is_ok = client.ask().is_ok();
                let sample = Sample { at: clock::boottime(), is_ok };
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                thread::sleep(pause);
            }
        });
        Self { target, samples, thread: Some(thread) }
    }
}

fn seen_between(samples: &[Sample], from: Duration, to: Duration) -> Seen {
    let mut last_ok = from;
    let mut seen = Seen::default();
    for sample in samples.iter().filter(|sample| sample.at <= to) {
        if sample.at < from {
            if sample.is_ok {
                last_ok = sample.at;
            }
        } else if sample.is_ok {
            seen.outage = seen.outage.max(sample.at.saturating_sub(last_ok));
            last_ok = sample.at;
        } else {
            seen.failed += 1;
        }
    }
    seen.outage = seen.outage.max(to.saturating_sub(last_ok));
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(list: &[(u64, bool)]) -> Vec<Sample> {
        list.iter().map(|(ms, is_ok)| Sample { at: Duration::from_millis(*ms), is_ok: *is_ok }).collect()
    }

    fn between(list: &[(u64, bool)], from_ms: u64, to_ms: u64) -> (u64, u64) {
        let seen = seen_between(&samples(list), Duration::from_millis(from_ms), Duration::from_millis(to_ms));
        (seen.outage.as_millis() as u64, seen.failed)
    }

    #[test]
    fn an_outage_lasts_from_the_last_success_before_it() {
        let list = [(90, true), (110, false), (200, false), (300, true), (310, true)];
        assert_eq!(between(&list, 100, 320), (210, 2));
    }

    #[test]
    fn what_never_comes_back_is_out_until_the_end() {
        assert_eq!(between(&[(90, true), (110, false)], 100, 1000), (910, 1));
        assert_eq!(between(&[], 100, 1000), (900, 0));
    }

    #[test]
    fn failures_outside_do_not_count() {
        assert_eq!(between(&[(10, false), (90, true), (100, true), (200, false)], 95, 150), (50, 0));
    }
}
