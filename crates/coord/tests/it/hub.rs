//! Voters in one process, joined by a network that can be cut and slowed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstay_coord::conformance::until;
use backstay_coord::{
    BoxFuture, Client, Config, Embedded, Founder, Health, Lane, OpenError, Store, Times, Transport, TransportError,
    disk_room,
};

/// A directory that goes away with the test.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("backstay-coord-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The network between all nodes.
#[derive(Default)]
pub struct Hub {
    voters: Mutex<BTreeMap<String, Embedded>>,
    cuts: Mutex<BTreeSet<(String, String)>>,
    delay: Mutex<Duration>,
}

impl Hub {
    pub fn attach(&self, voter: &Embedded) {
        self.voters.lock().unwrap().insert(voter.node().to_owned(), voter.clone());
    }

    pub fn detach(&self, node: &str) {
        self.voters.lock().unwrap().remove(node);
    }

    /// Cuts a node off from all of `others`, both ways.
    pub fn cut(&self, node: &str, others: &[&str]) {
        let mut cuts = self.cuts.lock().unwrap();
        for other in others {
            cuts.insert((node.to_owned(), (*other).to_owned()));
            cuts.insert(((*other).to_owned(), node.to_owned()));
        }
    }

    pub fn heal(&self) {
        self.cuts.lock().unwrap().clear();
    }

    pub fn slow(&self, delay: Duration) {
        *self.delay.lock().unwrap() = delay;
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        self.cuts.lock().unwrap().contains(&(from.to_owned(), to.to_owned()))
    }
}

/// One node's way into the hub.
pub struct Port {
    pub hub: Arc<Hub>,
    pub node: String,
}

impl Transport for Port {
    fn call<'a>(
        &'a self,
        to: &'a str,
        _lane: Lane,
        body: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, TransportError>> {
        Box::pin(async move {
            let lost = |detail: &str| TransportError::NoAnswer { to: to.to_owned(), detail: detail.to_owned() };
            let delay = *self.hub.delay.lock().unwrap();
            tokio::time::sleep(delay).await;
            if self.hub.is_cut(&self.node, to) {
                tokio::time::sleep(timeout).await;
                return Err(lost("cut"));
            }
            let voter = self.hub.voters.lock().unwrap().get(to).cloned();
            let Some(voter) = voter else {
                return Err(TransportError::NotSent { to: to.to_owned(), detail: "not there".into() });
            };
            // What was sent is handled even when the sender stops waiting.
            let from = self.node.clone();
            let handled = tokio::spawn(async move { voter.handle(&from, &body).await });
            let answer = tokio::time::timeout(timeout, handled).await.map_err(|_| lost("late"))?;
            tokio::time::sleep(delay).await;
            if self.hub.is_cut(to, &self.node) {
                return Err(lost("cut on the way back"));
            }
            answer.map_err(|_| lost("the voter went away"))
        })
    }
}

pub const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// A cluster of voters under one temporary directory.
pub struct Cluster {
    pub hub: Arc<Hub>,
    pub temp: TempDir,
    pub founders: Vec<Founder>,
    pub voters: BTreeMap<String, Embedded>,
}

impl Cluster {
    /// Founders on the first `count` nodes, none of them open.
    pub fn new(count: usize) -> Self {
        let founders = NODES[..count]
            .iter()
            .zip([0x51aa_u64, 0x72bb, 0x13cc])
            .map(|(node, raft_id)| Founder { raft_id, node: (*node).to_owned() });
        Self { hub: Arc::default(), temp: TempDir::new(), founders: founders.collect(), voters: BTreeMap::new() }
    }

    /// Founders that are open and have a leader.
    pub async fn started(count: usize) -> Self {
        let mut cluster = Self::new(count);
        for node in &NODES[..count] {
            cluster.open(node).await.unwrap();
        }
        cluster.leader().await;
        cluster.all_take_part().await;
        cluster
    }

    pub fn config(&self, node: &str) -> Config {
        let founder = self.founders.iter().find(|founder| founder.node == node);
        let home = self.temp.path().join(node);
        Config {
            cluster: "test".into(),
            node: node.to_owned(),
            raft_id: founder.map_or(0, |founder| founder.raft_id),
            dir: home.join("store"),
            marker: home.join("joined.json"),
            founders: self.founders.clone(),
            peers: NODES.iter().map(|node| (*node).to_owned()).collect(),
            times: Times::Lan,
            transport: self.port(node),
            room: Arc::new(disk_room),
        }
    }

    pub fn port(&self, node: &str) -> Arc<dyn Transport> {
        Arc::new(Port { hub: Arc::clone(&self.hub), node: node.to_owned() })
    }

    pub async fn open(&mut self, node: &str) -> Result<Embedded, OpenError> {
        let voter = Embedded::open(self.config(node)).await?;
        self.adopt(&voter);
        Ok(voter)
    }

    pub fn adopt(&mut self, voter: &Embedded) {
        self.hub.attach(voter);
        self.voters.insert(voter.node().to_owned(), voter.clone());
    }

    pub async fn stop(&mut self, node: &str) {
        self.hub.detach(node);
        if let Some(voter) = self.voters.remove(node) {
            voter.close().await;
        }
    }

    /// Waits for exactly one established leader and names it.
    pub async fn leader(&self) -> String {
        let mut leader = String::new();
        until("one established leader", || {
            let leading: Vec<_> =
                self.voters.values().filter(|voter| voter.leadership().borrow().am_leader_established).collect();
            let one = leading.len() == 1;
            if one {
                leader = leading[0].node().to_owned();
            }
            async move { one }
        })
        .await;
        leader
    }

    /// Waits until every open voter leads or follows.
    pub async fn all_take_part(&self) {
        until("every voter takes part", || {
            let mut health = self.voters.values().map(|voter| voter.leadership().borrow().health.clone());
            let all = health.all(|health| matches!(health, Health::Leading | Health::Following));
            async move { all }
        })
        .await;
    }

    /// A store for an agent on a node that is no voter.
    pub fn client(&self) -> Client {
        let voters = NODES.iter().map(|node| (*node).to_owned()).collect();
        Client::new("test", "agent", voters, self.port("agent"), None, Times::Lan)
    }

    pub fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.client())
    }

    pub async fn close(mut self) {
        for node in NODES {
            self.stop(node).await;
        }
    }
}
