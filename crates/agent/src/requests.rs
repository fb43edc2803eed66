//! What the command line asks of this agent, over its socket.
//!
//! Reading is answered from what is known here, at once and with its age. Changing something is a wish in the store that
//! the coordinator answers; this side waits for that a bounded while and says what became of it.

use std::sync::Arc;
use std::time::Duration;

use backstay_coord::{Leadership, Store, StoreError};
use backstay_model::memory::{Compare, Op, Txn};
use backstay_model::{NodeName, Observation, Subject};
use backstay_spec::Spec;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::api::ApiHandler;
use crate::clock;
use crate::cluster::{self, FILE_KEY, FileValue, Reading, encode};
use crate::forward::Forwarding;
use crate::peer::BoxFuture;
use crate::report::Seen;
use crate::status::Sight;

/// How long a change waits to be carried out before it says "still under way".
const CARRIED_OUT_WITHIN: Duration = Duration::from_secs(15);
/// How long one transaction may take.
const TXN_WITHIN: Duration = Duration::from_secs(3);
/// Events shown at most.
const EVENTS_SHOWN: usize = 200;

/// An answer: an HTTP status and its body.
type Answer = (u16, Value);

/// The agent's side of the socket. Cheap to clone.
#[derive(Clone)]
pub struct Requests {
    /// This node.
    pub node: NodeName,
    /// The cluster.
    pub cluster: String,
    /// This node's own file: hash and where it is.
    pub own_file: FileValue,
    /// Its path.
    pub own_file_path: String,
    /// The store.
    pub store: Arc<dyn Store>,
    /// What the store last said.
    pub reading: watch::Receiver<Arc<Reading>>,
    /// The last picture.
    pub picture: watch::Receiver<Seen>,
    /// What this node sees.
    pub own: watch::Receiver<Observation>,
    /// What its balancer does.
    pub forwarding: watch::Receiver<Forwarding>,
    /// What its voter knows.
    pub leadership: watch::Receiver<Option<Leadership>>,
    /// Trouble with the voter itself, for `status`.
    pub voter_trouble: watch::Receiver<Option<String>>,
}

impl ApiHandler for Requests {
    fn handle(&self, method: String, path: String, body: Value) -> BoxFuture<'static, Answer> {
        let requests = self.clone();
        Box::pin(async move { requests.answer(&method, &path, &body).await })
    }
}

impl Requests {
    async fn answer(&self, method: &str, path: &str, body: &Value) -> Answer {
        let result = match (method, path) {
            ("GET", "/status") => return self.status(),
            ("GET", "/standing") => return self.standing(),
            ("GET", "/events") => return self.events(),
            ("GET", "/config") => return self.config(),
            ("GET", path) if path.starts_with("/explain/") => return self.explain(&path["/explain/".len()..]),
            ("POST", "/switchover") => self.switchover(body).await,
            ("POST", "/drain") => self.drain(body).await,
            ("POST", "/config/apply") => self.apply(body).await,
            _ => Err(failed(
                404,
                "unknown-request",
                format!("this agent has no {method} {path}"),
                "check that command and agent are of one version",
            )),
        };
        result.unwrap_or_else(|error| error)
    }

    fn sight(&self) -> Sight {
        let mut own = self.own.borrow().clone();
        own.notes.extend(self.voter_trouble.borrow().clone());
        Sight {
            node: self.node.clone(),
            reading: self.reading.borrow().clone(),
            picture: self.picture.borrow().clone(),
            own,
            forwarding: self.forwarding.borrow().clone(),
            leadership: self.leadership.borrow().clone(),
        }
    }

    fn status(&self) -> Answer {
        match serde_json::to_value(self.sight().status(&self.cluster)) {
            Ok(status) => (200, status),
            Err(error) => failed(500, "internal", error.to_string(), "report this as a bug"),
        }
    }

    /// What `plan --live` starts from: the adopted file, where everything stands, and how old that is.
    fn standing(&self) -> Answer {
        let sight = self.sight();
        let file = sight.reading.file.as_ref();
        let standing = json!(sight.standing());
        (200, json!({ "text": file.map(|file| file.text.clone()), "standing": standing, "age_ms": sight.age_ms() }))
    }

    fn events(&self) -> Answer {
        let reading = self.reading.borrow().clone();
        let now_ms = clock::wall().as_millis() as u64;
        let newest = reading.events.values().rev().take(EVENTS_SHOWN);
        let mut events: Vec<_> = newest
            .flat_map(|event| event.reasons.iter().rev().map(move |reason| (event, reason)))
            .map(|(event, reason)| {
                let subjects: Vec<_> = reason.subjects().iter().map(ToString::to_string).collect();
                json!({
                    "generation": event.generation,
                    "unix_ms": event.unix_ms,
                    "age_ms": now_ms.saturating_sub(event.unix_ms),
                    "text": reason.to_string(),
                    "reason": reason,
                    "subjects": subjects,
                })
            })
            .collect();
        events.reverse();
        (200, json!({ "events": events }))
    }

    fn config(&self) -> Answer {
        let reading = self.reading.borrow().clone();
        let adopted = reading.file.as_ref();
        (
            200,
            json!({
                "hash": adopted.map(|file| file.hash.clone()),
                "text": adopted.map(|file| file.text.clone()),
                "local_hash": self.own_file.hash,
                "source": self.own_file_path,
            }),
        )
    }

    fn explain(&self, word: &str) -> Answer {
        let sight = self.sight();
        match sight.subject(word) {
            Ok(subject) => {
                let lines = sight.explain(&subject);
                (200, json!({ "subject": word, "known": true, "candidates": [], "lines": lines }))
            }
            Err(candidates) => (200, json!({ "subject": word, "known": false, "candidates": candidates, "lines": [] })),
        }
    }

    async fn switchover(&self, body: &Value) -> Result<Answer, Answer> {
        let (what, to) = (text(body, "subject")?, text(body, "to")?);
        let sight = self.sight();
        let subject = match sight.subject(&what) {
            Ok(subject @ (Subject::Service(_) | Subject::Address(_))) => subject,
            Ok(Subject::Node(_)) | Err(_) => {
                let help = "name a service as `app.NAME`, or an address as `listen.NAME`";
                return Err(failed(422, "unknown-subject", format!("nothing called `{what}` can be moved"), help));
            }
        };
        let to = self.known_node(&sight, &to)?;
        let told_before = sight.reading.events.keys().next_back().copied().unwrap_or(0);
        let key = cluster::switchover_key(&subject);
        let put = Op::Put { key: key.clone(), value: encode(&to), session: None };
        self.submit(Vec::new(), vec![put]).await?;
        let done = |reading: &Reading| !reading.switchovers.contains_key(&subject) && holds(reading, &subject, &to);
        let refused = |reading: &Reading| {
            let newest = reading.events.range(told_before + 1..).map(|(_, event)| event);
            newest.flat_map(|event| &event.reasons).find_map(|reason| match reason {
                backstay_model::Reason::Refused { subject: s, node, why } if *s == subject && *node == to => Some(*why),
                _ => None,
            })
        };
        let reading = self.wait_until(|reading| done(reading) || refused(reading).is_some()).await;
        let met = done(&reading);
        let answered = !reading.switchovers.contains_key(&subject);
        let why = match (met, refused(&reading)) {
            (true, _) => String::new(),
            (false, Some(why)) => why.to_string(),
            (false, None) => "it is still under way".to_owned(),
        };
        let generation = reading.goal.generation;
        Ok((200, json!({ "accepted": true, "answered": answered, "met": met, "why": why, "generation": generation })))
    }

    async fn drain(&self, body: &Value) -> Result<Answer, Answer> {
        let sight = self.sight();
        let node = self.known_node(&sight, &text(body, "node")?)?;
        let undo = body.get("undo").and_then(Value::as_bool).unwrap_or(false);
        let key = cluster::drain_key(&node);
        let op = if undo { Op::Delete { key } } else { Op::Put { key, value: encode(&true), session: None } };
        self.submit(Vec::new(), vec![op]).await?;
        if undo {
            self.wait_until(|reading| !reading.drains.contains(&node)).await;
            return Ok((200, json!({ "accepted": true, "done": true, "remaining": [] })));
        }
        let reading =
            self.wait_until(|reading| reading.drains.contains(&node) && roles_of(reading, &node).is_empty()).await;
        let remaining = roles_of(&reading, &node);
        Ok((200, json!({ "accepted": true, "done": remaining.is_empty(), "remaining": remaining })))
    }

    /// S14: shows what would change is the caller's part; this swaps the file on the hash of the one before.
    async fn apply(&self, body: &Value) -> Result<Answer, Answer> {
        let (new_text, expected) = (text(body, "text")?, text(body, "expected_hash")?);
        let parsed = backstay_spec::parse("the new file", &new_text);
        let Some(spec) = parsed.spec else {
            let message = backstay_spec::render("the new file", &new_text, &parsed.diagnostics);
            return Err(failed(422, "file-refused", message, "backstay config check FILE"));
        };
        let refused = backstay_spec::not_in_this_build("the new file", &new_text, &spec);
        if !refused.is_empty() {
            let message = backstay_spec::render("the new file", &new_text, &refused);
            return Err(failed(422, "not-in-this-build", message, "leave out what this build does not run"));
        }
        let reading = self.reading.borrow().clone();
        let moved = || {
            failed(
                409,
                "hash-moved",
                "the adopted file is not the one that you changed".to_owned(),
                "backstay config diff, then apply again",
            )
        };
        let Some(adopted) = reading.file.as_ref().filter(|file| file.hash == expected) else { return Err(moved()) };
        if spec.cluster != adopted.spec.cluster {
            let message = format!("the file is for cluster `{}`, this is `{}`", spec.cluster, adopted.spec.cluster);
            return Err(failed(422, "other-cluster", message, "apply it on that cluster"));
        }
        if let Some((why, help)) = unsafe_change(&adopted.spec, &spec, &self.voters()) {
            return Err(failed(409, "refused-for-safety", why, help));
        }
        let changes = backstay_spec::diff(&adopted.spec, &spec);
        let hash = backstay_spec::hash(&new_text);
        let value = encode(&FileValue { hash: hash.clone(), text: new_text });
        let compares = vec![Compare::Revision { key: FILE_KEY.to_owned(), revision: adopted.revision }];
        let put = Op::Put { key: FILE_KEY.to_owned(), value, session: None };
        if !self.submit(compares, vec![put]).await? {
            return Err(moved());
        }
        self.wait_until(|reading| reading.file.as_ref().is_some_and(|file| file.hash == hash)).await;
        Ok((200, json!({ "adopted": true, "hash": hash, "changes": changes })))
    }

    /// Nodes whose votes count now.
    fn voters(&self) -> Vec<NodeName> {
        let known = self.leadership.borrow();
        let members = known.iter().flat_map(|known| &known.members).filter(|member| member.voter);
        members.map(|member| NodeName::from(member.node.as_str())).collect()
    }

    fn known_node(&self, sight: &Sight, word: &str) -> Result<NodeName, Answer> {
        match sight.subject(word) {
            Ok(Subject::Node(node)) => Ok(node),
            _ => {
                let nodes = sight.reading.file.iter().flat_map(|file| file.spec.nodes.keys());
                let nodes: Vec<_> = nodes.map(ToString::to_string).collect();
                Err(failed(
                    422,
                    "unknown-node",
                    format!("there is no node `{word}`"),
                    &format!("the nodes are {}", nodes.join(", ")),
                ))
            }
        }
    }

    async fn submit(&self, compares: Vec<Compare>, then: Vec<Op>) -> Result<bool, Answer> {
        let txn = Txn { compares, then, otherwise: Vec::new() };
        match tokio::time::timeout(TXN_WITHIN, self.store.txn(txn)).await {
            Ok(Ok(reply)) => Ok(reply.succeeded),
            Ok(Err(StoreError::Unknown { detail })) => Err(unknown(&detail)),
            Ok(Err(error)) => Err(failed(503, "no-quorum", error.to_string(), "backstay status")),
            Err(_) => Err(unknown("the store did not answer in time")),
        }
    }

    async fn wait_until(&self, done: impl Fn(&Reading) -> bool) -> Arc<Reading> {
        let mut reading = self.reading.clone();
        drop(tokio::time::timeout(CARRIED_OUT_WITHIN, reading.wait_for(|reading| done(reading))).await);
        reading.borrow().clone()
    }
}

/// A change of the file that would cut agents off from each other, or let two instances act at once, while it is under way.
fn unsafe_change(old: &Spec, new: &Spec, voters: &[NodeName]) -> Option<(String, &'static str)> {
    if old.ports != new.ports {
        let help = "stop all agents, change the file everywhere, and found the store anew";
        return Some(("agents could not reach each other while `[ports] peer` changes".to_owned(), help));
    }
    let moved = new.nodes.iter().find(|(name, node)| old.nodes.get(*name).is_some_and(|was| was.addr != node.addr));
    if let Some((name, _)) = moved {
        let help = "drain it, take it out of the file, and add it under another name";
        return Some((format!("{name} could not be reached by the others while its `addr` changes"), help));
    }
    if let Some(name) = voters.iter().find(|name| !new.nodes.contains_key(*name)) {
        return Some((
            format!("{name} votes in the store, which this build cannot hand to another node"),
            "keep it in the file, drained",
        ));
    }
    let turned = new
        .services
        .values()
        .find(|service| old.services.get(&service.id).is_some_and(|was| was.exclusive != service.exclusive));
    turned.map(|service| {
        let why = format!("{} runs without a grant (or under one) while `exclusive` changes", service.id);
        (why, "declare it under another name, and take this one out once that runs")
    })
}

/// Whether a move has arrived: the node holds the grant, or carries traffic of a service that several may.
fn holds(reading: &Reading, subject: &Subject, node: &NodeName) -> bool {
    use backstay_model::{Role, RoleKey};
    let granted = |role: RoleKey| reading.grants.get(&role).is_some_and(|(grant, _)| grant.holder == *node);
    match subject {
        Subject::Node(_) => false,
        Subject::Address(listener) => granted(RoleKey::Address(listener.clone())),
        Subject::Service(service) => {
            let goal = reading.goal.services.get(service);
            let active = goal.and_then(|goal| goal.instances.get(node)).is_some_and(|i| i.role == Role::Active);
            active || granted(RoleKey::Service(service.clone()))
        }
    }
}

/// What a node still has.
fn roles_of(reading: &Reading, node: &NodeName) -> Vec<String> {
    let held = reading
        .grants
        .iter()
        .filter(|(role, (grant, _))| grant.holder == *node && **role != backstay_model::RoleKey::Coordinator);
    let placed = reading.goal.services.iter().filter(|(_, service)| service.instances.contains_key(node));
    let mut roles: Vec<_> =
        held.map(|(role, _)| role.to_string()).chain(placed.map(|(id, _)| id.to_string())).collect();
    roles.sort();
    roles.dedup();
    roles
}

fn text(body: &Value, field: &str) -> Result<String, Answer> {
    let found = body.get(field).and_then(Value::as_str).map(str::to_owned);
    found.ok_or_else(|| {
        failed(
            422,
            "missing-field",
            format!("the request lacks `{field}`"),
            "check that command and agent are of one version",
        )
    })
}

fn failed(status: u16, code: &str, message: String, help: &str) -> Answer {
    (status, json!({ "error": { "code": code, "message": message, "help": help } }))
}

fn unknown(detail: &str) -> Answer {
    failed(
        503,
        "unknown-outcome",
        format!("nobody can say whether it was written: {detail}"),
        "backstay status, then look before you repeat it",
    )
}
