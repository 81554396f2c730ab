//! What is known of each node, and what it is told.
//!
//! ```text
//!              script fetched          hello                 reports             silent for 90 s
//!   (unheard) ---------------> Loading -----> session begins --------> ... Ready ---------------> not ready
//!                                 ^              |    ^                  |
//!                                 |              |    +---- hello -------+  (a new session replaces the old one)
//!                                 +--------------+------------------------+  (it boots again)
//! ```
//!
//! Pure: the caller brings the clock (milliseconds since 1970), the sessions' names, and writes [`Node`]s down before it
//! answers. A session's phases only go forward, except to `Failed` and from there on; a repeated report changes nothing.

mod attempts;

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use stoke_api::node::{Event, Hello, LayerUse, Orders, Phase, Report};
use stoke_api::objects::{Inventory, NodeState, NodeTpm};
use stoke_api::report::FarmNodeReport;
use stoke_api::{Digest, MacAddr, ObjectRef};

pub use attempts::Attempts;

use crate::classes::inventory;

/// Silence after which a node that was ready no longer counts as such. It asks for orders every 30 seconds.
pub const SILENCE_MS: u64 = 90_000;
/// Nodes without an object that are kept; the one that was silent longest goes first.
const STRANGERS: usize = 256;
/// A machine that loads the same version again this soon has not booted in between.
const SAME_LOAD_MS: u64 = 15_000;
/// Events kept of one session. A boot has eight; what retries for ever must not grow for ever.
const EVENTS: usize = 64;
/// Host keys kept of one node.
const HOST_KEYS: usize = 8;
/// Remarks kept of one node.
const REMARKS: usize = 32;
/// Longest text that a node can put into our state.
const TEXT: usize = 1000;

/// Identity of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeKey {
    /// By its object.
    Owner(ObjectRef),
    /// By the interface that booted.
    Stranger(MacAddr),
}

impl NodeKey {
    /// The key of a node with this owner, or without one.
    pub fn new(owner: Option<ObjectRef>, mac: MacAddr) -> Self {
        owner.map_or(Self::Stranger(mac), Self::Owner)
    }
}

/// What is known of a node. Its serialised form is what outlasts the farm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// The `Server` or `Machine`.
    #[serde(default)]
    pub owner: Option<ObjectRef>,
    /// The interface that booted.
    pub mac: MacAddr,
    /// The session's name; empty while there is none.
    #[serde(default)]
    pub session: String,
    /// When it began.
    #[serde(default)]
    pub began_ms: u64,
    /// Its address.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// The image version that it boots.
    #[serde(default)]
    pub image: Option<Digest>,
    /// Reboots that had been asked for when the session began: they are done.
    #[serde(default)]
    pub reboots_done: u64,
    /// How far it is.
    #[serde(default)]
    pub phase: Phase,
    /// Everything that it reported, each once.
    #[serde(default)]
    pub events: Vec<Event>,
    /// `nbd` or `ram`.
    #[serde(default)]
    pub root: String,
    /// Public host keys.
    #[serde(default)]
    pub ssh_host_keys: Vec<String>,
    /// Why the boot fails.
    #[serde(default)]
    pub failure: Option<String>,
    /// The root that it booted with.
    #[serde(default)]
    pub root_blob: Option<Digest>,
    /// Where it gives that root to others; empty if it does not.
    #[serde(default)]
    pub serves: String,
    /// The version that it boots, or booted last, and how that went.
    #[serde(default)]
    pub attempts: Attempts,
    /// Its writable layer, once it has been full.
    #[serde(default)]
    pub layer: Option<LayerUse>,
    /// What the machine is.
    #[serde(default)]
    pub inventory: Option<Inventory>,
    /// What it does not do that its configuration asks for.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// What its TPM says.
    #[serde(default)]
    pub tpm: Option<NodeTpm>,
    /// When it was given its secrets; 0 if it was not.
    #[serde(default)]
    pub secrets_given_ms: u64,
    /// Whether it was up when its session began: it is not at the beginning of a boot.
    #[serde(default)]
    pub runs_already: bool,
    /// When it was heard last. Not written down: who starts again gives everybody time to speak.
    #[serde(skip)]
    pub heard_ms: u64,
    /// When it fetched a boot script after it was heard last.
    #[serde(skip)]
    pub loading_ms: Option<u64>,
    /// When its last boot was counted.
    #[serde(skip)]
    pub counted_ms: u64,
}

/// There is no such session, or not any more: the node says hello again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this session is over; say hello again")]
pub struct SessionOver;

/// What a session is begun with.
#[derive(Clone, Debug)]
pub struct Greeting<'a> {
    /// The object, if there is one.
    pub owner: Option<ObjectRef>,
    /// What the node said.
    pub hello: &'a Hello,
    /// Name of the new session.
    pub session: String,
    /// The image version that the node's root belongs to.
    pub image: Digest,
    /// Reboots asked for so far.
    pub reboots_requested: u64,
    /// What the node will not do that its configuration asks for.
    pub remarks: Vec<String>,
}

/// All nodes that were heard of.
#[derive(Debug, Default)]
pub struct Sessions {
    nodes: BTreeMap<NodeKey, Node>,
    /// The node of each session.
    by_session: HashMap<String, NodeKey>,
    forgotten: Vec<NodeKey>,
}

impl Sessions {
    /// Goes on from what was written down. Of two records of one node the newer counts.
    pub fn restore(records: impl IntoIterator<Item = Node>, now_ms: u64) -> Self {
        let mut sessions = Self::default();
        for mut node in records {
            node.heard_ms = now_ms;
            let key = node.key();
            if sessions.nodes.get(&key).is_none_or(|other| other.began_ms <= node.began_ms) {
                sessions.nodes.insert(key, node);
            }
        }
        sessions.index();
        sessions
    }

    /// Finds all sessions anew.
    fn index(&mut self) {
        let with_one = self.nodes.iter().filter(|(_, node)| !node.session.is_empty());
        self.by_session = with_one.map(|(key, node)| (node.session.clone(), key.clone())).collect();
    }

    /// Every node.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// A machine fetched its boot script, or the kernel, of this version; of none if it was told to wait. Says nothing about
    /// its session: anybody can fetch a script. Whether another boot has begun with that, which is to be written down.
    pub fn loading(&mut self, owner: Option<ObjectRef>, mac: MacAddr, image: Option<Digest>, now_ms: u64) -> bool {
        let key = NodeKey::new(owner.clone(), mac);
        let node = self.nodes.entry(key).or_insert_with(|| Node::unheard(owner, mac, now_ms));
        // What fails to load is loaded again at once: that is one boot. One that fails every few seconds is counted, too.
        let was_loading = node.loading_ms.replace(now_ms).is_some();
        let soon = was_loading && now_ms.saturating_sub(node.counted_ms) < SAME_LOAD_MS;
        let counts = image.filter(|image| !soon || node.attempts.image != Some(*image));
        if let Some(image) = counts {
            node.attempts.begin(image);
            node.counted_ms = now_ms;
        }
        let named = node.owner.is_some();
        self.forget_strangers();
        named && counts.is_some()
    }

    /// The version that a node should have which says hello: the one that it loaded, or runs already.
    pub fn expected(&self, key: &NodeKey, hello: &Hello) -> Option<Digest> {
        let node = self.nodes.get(key)?;
        let known = node.loading_ms.is_some() || hello.orders_seen.is_some();
        node.attempts.image.filter(|_| known)
    }

    /// What is known of a node.
    pub fn of_key(&self, key: &NodeKey) -> Option<&Node> {
        self.nodes.get(key)
    }

    /// A node begins a session; an earlier one is over.
    pub fn hello(&mut self, greeting: Greeting<'_>, now_ms: u64) -> Node {
        let Greeting { owner, hello, session, image, reboots_requested, remarks } = greeting;
        let key = NodeKey::new(owner.clone(), hello.boot_mac);
        let before = self.nodes.get(&key);
        let failure = before.and_then(|node| node.failure.clone());
        let attempts = Attempts::after_hello(before, image, hello.orders_seen.is_some());
        // The keys are the node's own for this boot; until it reports them nobody should trust the old ones.
        let node = Node {
            session,
            inventory: Some(inventory(hello)),
            remarks,
            began_ms: now_ms,
            address: Some(hello.address),
            image: Some(image),
            root_blob: Some(hello.root),
            // A node that had a session before says what it has heard of; what came after that is still to be done.
            reboots_done: hello.orders_seen.map_or(reboots_requested, |seen| seen.min(reboots_requested)),
            phase: Phase::Network,
            failure,
            runs_already: hello.orders_seen.is_some(),
            attempts,
            ..Node::unheard(owner, hello.boot_mac, now_ms)
        };
        self.by_session.insert(node.session.clone(), key.clone());
        if let Some(before) = self.nodes.insert(key, node.clone()) {
            self.by_session.remove(&before.session);
        }
        self.forget_strangers();
        node
    }

    /// A node reports. Returns what is known now.
    ///
    /// # Errors
    /// If the session is over.
    pub fn report(&mut self, report: Report, now_ms: u64) -> Result<Node, SessionOver> {
        let node = self.heard(&report.session, now_ms)?;
        report.events.into_iter().for_each(|event| node.reached(event));
        if !report.ssh_host_keys.is_empty() {
            node.ssh_host_keys = report.ssh_host_keys.into_iter().take(HOST_KEYS).map(clean).collect();
        }
        if !report.root.is_empty() {
            node.root = clean(report.root);
        }
        if !report.serves.is_empty() {
            node.serves = clean(report.serves);
        }
        node.layer = report.layer.or(node.layer);
        if let Some(remarks) = report.remarks {
            node.remarks = remarks.into_iter().take(REMARKS).map(clean).collect();
        }
        Ok(node.clone())
    }

    /// A node asks for orders. Returns who it is.
    ///
    /// # Errors
    /// If the session is over.
    pub fn asks_for_orders(&mut self, session: &str, now_ms: u64) -> Result<&Node, SessionOver> {
        self.heard(session, now_ms).map(|node| &*node)
    }

    /// The node of a session.
    ///
    /// # Errors
    /// If the session is over.
    pub fn of_session(&self, session: &str) -> Result<&Node, SessionOver> {
        self.by_session.get(session).and_then(|key| self.nodes.get(key)).ok_or(SessionOver)
    }

    /// Goes over to another set of objects: `owner` tells whose node an interface is. Nodes of objects that are gone are
    /// forgotten and returned; nodes that had no object and got one keep their sessions.
    pub fn reassign(
        &mut self,
        owner: impl Fn(MacAddr) -> Option<ObjectRef>,
        exists: impl Fn(&ObjectRef) -> bool,
    ) -> Vec<NodeKey> {
        let mut gone = Vec::new();
        for (key, mut node) in std::mem::take(&mut self.nodes) {
            if node.owner.as_ref().is_none_or(|owner| !exists(owner)) {
                gone.push(key);
                let had_one = node.owner.is_some();
                node.owner = owner(node.mac);
                if had_one && node.owner.is_none() {
                    continue;
                }
            }
            gone.retain(|key| *key != node.key());
            self.nodes.entry(node.key()).or_insert(node);
        }
        self.index();
        gone
    }

    /// What the farm reports of each node.
    pub fn reports(&self, now_ms: u64) -> Vec<FarmNodeReport> {
        let report =
            |node: &Node| FarmNodeReport { owner: node.owner.clone(), mac: node.mac, state: node.state(now_ms) };
        self.nodes.values().map(report).collect()
    }

    fn heard(&mut self, session: &str, now_ms: u64) -> Result<&mut Node, SessionOver> {
        let node = self.by_session.get(session).and_then(|key| self.nodes.get_mut(key)).ok_or(SessionOver)?;
        node.heard_ms = now_ms;
        if node.loading_ms.take().is_some() && node.phase == Phase::Ready {
            // It was somebody else who loaded in its name: it goes on.
            node.attempts.came_up();
        }
        Ok(node)
    }

    /// Strangers cost nothing: their list is bounded.
    fn forget_strangers(&mut self) {
        let strangers = self.nodes.iter().filter(|(key, _)| matches!(key, NodeKey::Stranger(_)));
        if strangers.clone().count() > STRANGERS {
            let last_heard = |node: &Node| node.heard_ms.max(node.loading_ms.unwrap_or_default());
            let silent = strangers.min_by_key(|(_, node)| last_heard(node)).map(|(key, _)| key.clone());
            if let Some(key) = silent {
                if let Some(node) = self.nodes.remove(&key) {
                    self.by_session.remove(&node.session);
                }
                self.forgotten.push(key);
            }
        }
    }

    /// Nodes that were forgotten since this was asked last: what was written down of them can go.
    pub fn take_forgotten(&mut self) -> Vec<NodeKey> {
        std::mem::take(&mut self.forgotten)
    }
}

impl Node {
    fn unheard(owner: Option<ObjectRef>, mac: MacAddr, now_ms: u64) -> Self {
        Self {
            owner,
            mac,
            session: String::new(),
            began_ms: 0,
            address: None,
            image: None,
            reboots_done: 0,
            phase: Phase::Unknown,
            events: Vec::new(),
            root: String::new(),
            ssh_host_keys: Vec::new(),
            failure: None,
            root_blob: None,
            serves: String::new(),
            tpm: None,
            secrets_given_ms: 0,
            runs_already: false,
            layer: None,
            inventory: None,
            remarks: Vec::new(),
            attempts: Attempts::default(),
            heard_ms: now_ms,
            loading_ms: None,
            counted_ms: 0,
        }
    }

    /// Whether it gives its root to others, and was heard of lately.
    pub fn gives_any(&self, now_ms: u64) -> bool {
        self.root_blob.is_some_and(|root| self.gives(&root, now_ms).is_some())
    }

    /// Where this root can be had of it, if it gives it to others and was heard of lately.
    pub fn gives(&self, root: &Digest, now_ms: u64) -> Option<&str> {
        let alive = now_ms.saturating_sub(self.heard_ms) <= SILENCE_MS && self.loading_ms.is_none();
        let up = (Phase::Root..=Phase::Ready).contains(&self.phase);
        (alive && up && self.root_blob == Some(*root) && !self.serves.is_empty()).then_some(self.serves.as_str())
    }

    /// What it is called in logs.
    pub fn label(&self) -> String {
        self.owner.as_ref().map_or_else(|| self.mac.to_string(), |owner| owner.name.to_string())
    }

    /// Its key.
    pub fn key(&self) -> NodeKey {
        NodeKey::new(self.owner.clone(), self.mac)
    }

    /// What it is told when it has seen orders up to `seen`, and `requested` reboots were asked for: each number once, and
    /// none that was asked for before this boot.
    pub fn orders(&self, seen: u64, requested: u64) -> Orders {
        let reboot = requested > self.reboots_done && requested > seen;
        Orders { number: requested, reboot, ..Orders::default() }
    }

    fn reached(&mut self, event: Event) {
        let event = Event { detail: clean(event.detail), ..event };
        if self.events.contains(&event) || self.events.len() >= EVENTS {
            return;
        }
        match event.phase {
            Phase::Failed => {
                let word = if event.detail.is_empty() { "the boot failed" } else { &event.detail };
                self.failure = Some(word.to_owned());
                self.phase = Phase::Failed;
            }
            phase if phase > self.phase || self.phase == Phase::Failed => {
                self.phase = phase;
                if phase == Phase::Ready {
                    self.failure = None;
                    self.attempts.came_up();
                }
            }
            _ => {}
        }
        self.events.push(event);
    }

    /// What objects' statuses say of it.
    pub fn state(&self, now_ms: u64) -> NodeState {
        let silent = now_ms.saturating_sub(self.heard_ms);
        let lost = self.phase == Phase::Ready && silent > SILENCE_MS;
        let silence = || format!("its agent is silent since {} s; is it switched off or cut off?", silent / 1000);
        let loading = self.loading_ms.is_some();
        NodeState {
            phase: if loading { Phase::Loading } else { self.phase },
            address: self.address,
            image: self.image,
            root: self.root.clone(),
            layer: self.layer,
            inventory: self.inventory.clone(),
            remarks: self.remarks.clone(),
            ssh_host_keys: self.ssh_host_keys.clone(),
            failure: if lost && !loading { Some(silence()) } else { self.failure.clone() },
            boot_started: timestamp(self.began_ms),
            timeline: self.events.iter().map(|event| (event.phase, event.uptime_ms)).collect(),
            ready: self.phase == Phase::Ready && !lost && !loading,
            tpm: self.tpm.clone(),
            secrets_given: timestamp(self.secrets_given_ms),
            failed_boots: self.attempts.failed,
            boots: self.attempts.image,
            good_image: self.attempts.good,
        }
    }
}

/// A node's text, bounded and on one line.
fn clean(text: String) -> String {
    if text.len() <= TEXT && !text.contains(char::is_control) {
        return text;
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(TEXT).collect()
}

fn timestamp(ms: u64) -> String {
    let known = i64::try_from(ms).ok().filter(|ms| *ms != 0);
    known.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map(|time| time.to_string()).unwrap_or_default()
}

mod trust;

#[cfg(test)]
mod tests;
