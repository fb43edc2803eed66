//! This node's part of the embedded store: the voter, if it has one, and the client that every agent uses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backstay_coord::{
    BoxFuture, Client, Config, Embedded, Founder, Health, Lane, Leadership, OpenError, StoreError, Times, Transport,
    TransportError, disk_room, joined,
};
use backstay_model::NodeName;
use backstay_spec::Spec;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock;
use crate::identity::{ClusterFacts, Identity};
use crate::peer::{self, PeerError, PeerNet};

/// Where peers take the store's messages.
pub const STORE_PATH: &str = "/store";
/// Pause between the steps of a rejoin that have to wait for others.
const REJOIN_PAUSE: Duration = Duration::from_millis(300);
/// Pause before a witness tries again to hand leadership on.
const HAND_ON_AGAIN: Duration = Duration::from_secs(30);
/// Longest time between two looks at who leads.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long a rejoin may take in all.
const REJOIN_WITHIN: Duration = Duration::from_secs(120);

/// The store's messages over the agents' own connections.
pub struct StoreNet(pub Arc<PeerNet>);

impl Transport for StoreNet {
    fn call<'a>(
        &'a self,
        to: &'a str,
        lane: Lane,
        body: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, TransportError>> {
        let lane = match lane {
            Lane::Control => peer::Lane::Control,
            Lane::Bulk => peer::Lane::Bulk,
            Lane::Client => peer::Lane::Client,
        };
        Box::pin(async move {
            let (node, called) = (to.to_owned(), self.0.call(to, lane, STORE_PATH, body, timeout).await);
            called.map_err(|error| {
                let detail = error.to_string();
                match error {
                    // A peer without an open voter says so before it does anything (503, see `Peers::handle`).
                    PeerError::Unreachable { .. }
                    | PeerError::NotMember { .. }
                    | PeerError::Refused { status: 503, .. } => TransportError::NotSent { to: node, detail },
                    PeerError::Refused { .. } | PeerError::Lost { .. } | PeerError::Timeout { .. } => {
                        TransportError::NoAnswer { to: node, detail }
                    }
                }
            })
        })
    }
}

/// Where the nodes of a file are reached.
pub fn addresses(spec: &Spec) -> BTreeMap<NodeName, SocketAddr> {
    let nodes = spec.nodes.iter();
    nodes.map(|(name, node)| (name.clone(), SocketAddr::new(node.addr, spec.ports.peer))).collect()
}

/// What it takes to open this node's voter.
pub struct Voter {
    /// Who we are and who founded the cluster.
    pub facts: ClusterFacts,
    /// The voter's directory.
    pub dir: PathBuf,
    /// The marker beside it, which says that this node had joined (S12).
    pub marker: PathBuf,
    /// Nodes of the file.
    pub peers: Vec<String>,
    /// The way to the others.
    pub net: Arc<dyn Transport>,
}

/// A voter and what is known of it.
pub struct Opened {
    /// The voter; none where this node has none, or it must not be opened.
    pub voter: Option<Embedded>,
    /// Why it was not opened, with the way back.
    pub trouble: Option<String>,
    /// Its store is gone or damaged: it may come back under a new id.
    pub is_lost: bool,
}

impl Voter {
    /// The facts of an identity, laid out for the store.
    pub fn new(identity: &Identity, state: &crate::local::StateDir, spec: &Spec, net: Arc<dyn Transport>) -> Self {
        Self {
            facts: identity.facts.clone(),
            dir: state.store(),
            marker: state.path().join("joined.json"),
            peers: spec.nodes.keys().map(ToString::to_string).collect(),
            net,
        }
    }

    /// A store that must not be opened costs this node its vote, not its service: the agent goes on with the others.
    pub async fn open(&self) -> Opened {
        let Some(config) = self.config() else { return Opened { voter: None, trouble: None, is_lost: false } };
        let founder = self.facts.founders.iter().any(|founder| founder.raft_id == config.raft_id);
        let opened = if founder { Embedded::open(config).await } else { Embedded::open_as_learner(config).await };
        match opened {
            Ok(voter) => Opened { voter: Some(voter), trouble: None, is_lost: false },
            Err(error) => {
                tracing::error!(%error, "this node does not vote");
                let is_lost = matches!(error, OpenError::LostStore { .. } | OpenError::Corrupted { .. });
                let way_back =
                    if is_lost { "; to bring it back under a new id: `backstay agent … --rejoin`" } else { "" };
                let trouble = Some(format!("this node does not vote: {error}{way_back}"));
                Opened { voter: None, trouble, is_lost }
            }
        }
    }

    /// Under which id: the one it last joined under, else the founder's.
    fn config(&self) -> Option<Config> {
        let kept = joined(&self.marker).ok().flatten().map(|joined| joined.raft_id);
        let mut founders = self.facts.founders.iter();
        let own = founders.find(|founder| founder.node == self.facts.node).map(|founder| founder.raft_id);
        Some(self.config_for(kept.or(own)?))
    }

    fn config_for(&self, raft_id: u64) -> Config {
        let founder = |f: &crate::identity::Founder| Founder { raft_id: f.raft_id, node: f.node.to_string() };
        Config {
            cluster: self.facts.cluster_id.clone(),
            node: self.facts.node.to_string(),
            raft_id,
            dir: self.dir.clone(),
            marker: self.marker.clone(),
            founders: self.facts.founders.iter().map(founder).collect(),
            peers: self.peers.clone(),
            times: Times::Lan,
            transport: self.net.clone(),
            room: Arc::new(disk_room),
        }
    }

    /// Brings a node whose store is lost or damaged back as a new voter: a new id, a learner, filled, promoted, and the
    /// old id removed. What was left of the old store is set aside, not deleted.
    ///
    /// `opened` hears of the empty store before anything is sent to it: from then on the leader must reach it, to fill it.
    ///
    /// # Errors
    /// A sentence that says which step failed; the next attempt begins anew and harms nothing.
    pub async fn rejoin(&self, client: &Client, opened: impl FnOnce(&Embedded)) -> Result<Embedded, String> {
        let say = |step: &'static str| move |error: StoreError| format!("rejoin: {step}: {error}");
        let old: Vec<_> = client.members().await.map_err(say("asking for the members"))?;
        let old = old.into_iter().filter(|member| member.node == self.facts.node.as_str());
        let raft_id = client.mint_id().await.map_err(say("taking a new id"))?;
        if let Some(aside) =
            backstay_coord::set_aside(&self.dir).map_err(|e| format!("rejoin: setting the old store aside: {e}"))?
        {
            tracing::warn!(aside = %aside.display(), "what was left of the old store is kept there");
        }
        drop(std::fs::remove_file(&self.marker));
        let voter = Embedded::open_as_learner(self.config_for(raft_id)).await;
        let voter = voter.map_err(|error| format!("rejoin: opening an empty store: {error}"))?;
        opened(&voter);
        client.add_learner(raft_id, self.facts.node.as_str()).await.map_err(say("adding it as a learner"))?;
        for member in old {
            client.remove(member.raft_id).await.map_err(say("removing the old id"))?;
        }
        // Boxed, because the store's futures are deep.
        let filled = Box::pin(async {
            while let Err(error) = Box::pin(client.promote(raft_id)).await {
                tracing::debug!(%error, "not promoted yet");
                tokio::time::sleep(REJOIN_PAUSE).await;
            }
        });
        let within = tokio::time::timeout(REJOIN_WITHIN, filled).await;
        within.map_err(|_| "rejoin: it was not filled in time; it goes on learning, run it again".to_owned())?;
        tracing::info!(raft_id, "this node votes again, under a new id");
        Ok(voter)
    }
}

/// Follows what the voter knows: who leads, whether it is shut, whether it must end.
///
/// A witness is a full voter that should not lead for long: as leader it would coordinate from the place that was chosen
/// for its distance. It hands leadership on when another voter can take it.
pub async fn watch_over(
    voter: Embedded,
    is_witness: bool,
    leads: watch::Sender<bool>,
    known: watch::Sender<Option<Leadership>>,
    trouble: watch::Sender<Option<String>>,
) {
    let mut leadership = voter.leadership();
    let mut handing_on: Option<JoinHandle<()>> = None;
    let mut next_try = clock::now();
    loop {
        let now = leadership.borrow_and_update().clone();
        let others = now.members.iter().any(|member| member.voter && member.node != voter.node());
        if is_witness && others && now.am_leader_established && clock::now() >= next_try {
            next_try = clock::now() + HAND_ON_AGAIN;
            handing_on = Some(tokio::spawn(hand_on(voter.clone())));
        }
        // While it hands leadership on it does not coordinate: it would only fight its successor.
        let busy = handing_on.as_ref().is_some_and(|task| !task.is_finished());
        leads.send_if_modified(|leading| {
            let leads = now.am_leader_established && !busy;
            std::mem::replace(leading, leads) != leads
        });
        let sentence = match &now.health {
            Health::Forming { waiting_for } => Some(format!("the store waits for {} to form", waiting_for.join(", "))),
            Health::Shut { why } => Some(format!("this node's voter is shut: {why}")),
            _ => None,
        };
        trouble.send_if_modified(|known| {
            let changed = *known != sentence;
            *known = sentence;
            changed
        });
        known.send_replace(Some(now));
        let wake = tokio::time::timeout(LOOK_AGAIN, leadership.changed());
        if matches!(wake.await, Ok(Err(_))) {
            return;
        }
    }
}

async fn hand_on(voter: Embedded) {
    if let Err(error) = voter.step_down().await {
        tracing::debug!(%error, "no other voter takes leadership from this witness");
    }
}
