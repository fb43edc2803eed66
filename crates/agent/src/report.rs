//! Sends what this node sees to whoever coordinates, on change and every half second, and keeps the picture that comes back.

use std::sync::Arc;
use std::time::Duration;

use backstay_model::picture::Picture;
use backstay_model::{Instant, NodeName, Observation, RoleKey};
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock;
use crate::cluster::Reading;
use crate::coordinator::Report;
use crate::peer::{Lane, PeerNet};

/// A report is sent at least this often.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// Changes within this time of each other go out as one report.
const GATHER: Duration = Duration::from_millis(10);
/// Longest wait for the picture.
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
/// Where peers take reports.
pub const REPORT_PATH: &str = "/report";

/// The newest picture, and when it came.
pub type Seen = Option<(Arc<Picture>, Instant)>;

/// Everything the reporting task needs.
pub struct Reporter {
    /// This node.
    pub node: NodeName,
    /// The way to the others.
    pub net: Arc<PeerNet>,
    /// Who coordinates.
    pub reading: watch::Receiver<Arc<Reading>>,
    /// What this node sees.
    pub own: watch::Receiver<Observation>,
    /// The coordinating task of this very node.
    pub local: mpsc::Sender<Report>,
    /// The picture that came back.
    pub picture: watch::Sender<Seen>,
}

impl Reporter {
    /// Reports for as long as the agent lives.
    pub async fn run(mut self) {
        let mut serial = 0;
        loop {
            drop(tokio::time::timeout(REPORT_EVERY, self.own.changed()).await);
            tokio::time::sleep(GATHER).await;
            serial += 1;
            let observation = Observation { serial, ..self.own.borrow_and_update().clone() };
            let holder = self.reading.borrow().grants.get(&RoleKey::Coordinator).map(|(grant, _)| grant.holder.clone());
            let answer = match holder {
                Some(holder) if holder != self.node => self.send(&holder, &observation).await,
                _ => self.hand_over(observation).await,
            };
            match answer {
                Ok(picture) => {
                    let picture = self.with_earlier_sightings(picture);
                    self.picture.send_replace(Some((Arc::new(picture), clock::now())));
                }
                Err(why) => tracing::debug!(why, "nobody took the report"),
            }
        }
    }

    /// A new coordinator has not heard everybody yet; what its predecessor knew of the others is still the best there is.
    fn with_earlier_sightings(&self, mut picture: Picture) -> Picture {
        if let Some((earlier, at)) = self.picture.borrow().as_ref() {
            let since = clock::now().since(*at);
            for (node, sighting) in picture.nodes.iter_mut().filter(|(_, sighting)| sighting.observation.is_none()) {
                if let Some(known) = earlier.nodes.get(node).filter(|known| known.observation.is_some()) {
                    sighting.observation.clone_from(&known.observation);
                    sighting.age = known.age.saturating_add(since);
                }
            }
        }
        picture
    }

    async fn send(&self, to: &NodeName, observation: &Observation) -> Result<Picture, String> {
        let body = serde_json::to_vec(observation).map_err(|error| error.to_string())?;
        let call = self.net.call(to.as_str(), Lane::Observe, REPORT_PATH, body, ANSWER_WITHIN);
        let answer = call.await.map_err(|error| error.to_string())?;
        serde_json::from_slice(&answer).map_err(|error| error.to_string())
    }

    async fn hand_over(&self, observation: Observation) -> Result<Picture, String> {
        take(&self.local, observation).await
    }
}

/// Gives a report to this node's coordinating task.
///
/// # Errors
/// A sentence naming who coordinates instead, as far as is known.
pub async fn take(to: &mpsc::Sender<Report>, observation: Observation) -> Result<Picture, String> {
    let (answer, answered) = oneshot::channel();
    to.try_send(Report { observation, arrived: clock::now(), answer })
        .map_err(|_| "too many reports are waiting".to_owned())?;
    match tokio::time::timeout(ANSWER_WITHIN, answered).await {
        Ok(Ok(Ok(picture))) => Ok(picture),
        Ok(Ok(Err(Some(other)))) => Err(format!("{other} coordinates")),
        Ok(Ok(Err(None))) => Err("nobody coordinates yet".to_owned()),
        Ok(Err(_)) => Err("the coordinating task has ended".to_owned()),
        Err(_) => Err("the coordinating task did not answer in time".to_owned()),
    }
}
