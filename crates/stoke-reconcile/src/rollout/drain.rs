//! Nodes of the cluster that Stokehold runs in are freed of their pods before they are rebooted, and kept out of use until they
//! are well with their version.
//!
//! What is decided here is who is held: cordoned, and free of pods while it is [`UpdatePhase::Draining`]. Whoever has the cluster
//! carries it out ([`crate::observed::NodeUse`]), and says what it sees ([`ClusterNode`]). Nothing is ever ended by force: what
//! does not go in time stops the update.

use stoke_api::objects::{NodeDrain, NodeUpdate, RolloutPhase, UpdatePhase};

use super::step::{Seen, Step, minutes, tell};
use crate::observed::ClusterNode;

/// A node as the cluster knows it.
#[derive(Clone, Debug)]
pub(crate) struct InCluster {
    /// The name of its `Node`.
    pub(crate) name: String,
    /// What is seen of it; or why that `Node` is taken for another machine's.
    pub(crate) known: Result<ClusterNode, String>,
}

impl Seen {
    fn in_cluster(&self) -> Option<&ClusterNode> {
        self.cluster.as_ref()?.known.as_ref().ok()
    }

    /// Whether its `Node` is cordoned by us.
    pub(super) fn is_cordoned(&self) -> bool {
        self.in_cluster().is_some_and(|node| node.cordoned)
    }

    /// Whether no pod has to go from it any more: also if the cluster does not know it.
    fn is_free(&self) -> bool {
        self.in_cluster().is_none_or(|node| node.unschedulable && node.pods_left == Some(0))
    }

    /// What it waits for until it may be told.
    fn waits_for(&self) -> String {
        let Some(node) = self.in_cluster().filter(|_| !self.is_free()) else {
            return "nothing is heard of the system that runs there".to_owned();
        };
        let left = || match node.pods_left {
            Some(left) => format!("{left} pods have yet to go"),
            None => "it is about to be cordoned and looked at".to_owned(),
        };
        node.blocked.clone().unwrap_or_else(left)
    }

    /// The boot that the cluster knows of.
    pub(super) fn cluster_boot(&self) -> Option<String> {
        self.in_cluster().map(|node| node.boot.clone())
    }
}

/// Whether a node runs what it shall; if it is held, the cluster must say so, too, and of this boot.
pub(super) fn is_well(noted: &NodeUpdate, seen: &Seen) -> bool {
    let in_cluster =
        |drain: &NodeDrain| seen.in_cluster().is_some_and(|node| node.ready && drain.boot.as_ref() != Some(&node.boot));
    seen.runs() == Some(noted.image) && noted.drain.as_ref().is_none_or(in_cluster)
}

/// Has a node that runs something else reboot: at once, or when its pods have gone. Whether it began.
pub(super) fn begin(noted: &mut NodeUpdate, seen: &Seen, now: u64) -> bool {
    match &seen.cluster {
        None => tell(noted, seen, now),
        Some(InCluster { known: Err(why), .. }) => {
            noted.message.clone_from(why);
            return false;
        }
        Some(InCluster { name, .. }) => {
            hold(noted, name, now);
            (noted.phase, noted.since_ms) = (UpdatePhase::Draining, now);
            noted.message = seen.waits_for();
        }
    }
    true
}

fn hold(noted: &mut NodeUpdate, name: &str, now: u64) {
    noted.drain = Some(NodeDrain { name: name.to_owned(), since_ms: now, boot: None });
}

/// Whether a node that is up may be told to reboot out of its turn: one of the cluster is freed of its pods first.
pub(super) fn may_be_told(noted: &mut NodeUpdate, seen: &Seen, now: u64) -> bool {
    match &seen.cluster {
        Some(InCluster { name, known: Ok(_) }) if noted.drain.is_none() => {
            hold(noted, name, now);
            false
        }
        Some(InCluster { known: Err(_), .. }) => false,
        _ => seen.is_free(),
    }
}

/// It is used again, and waits for its turn.
fn release(noted: &mut NodeUpdate) {
    (noted.phase, noted.drain) = (UpdatePhase::Waiting, None);
    noted.message.clear();
}

impl Step<'_> {
    /// How far nodes are whose pods go elsewhere.
    pub(super) fn drain(&mut self) {
        let update = self.input.update.filter(|_| !self.rollout.paused);
        let goes_on = matches!(self.rollout.phase, RolloutPhase::Progressing | RolloutPhase::Complete);
        let limit = update.filter(|_| goes_on).map(|update| update.drain.limit_minutes);
        let (now, target) = (self.input.now_ms, self.rollout.target);
        let mut stopped = None;
        for (noted, seen) in self.pairs().filter(|(noted, _)| noted.phase == UpdatePhase::Draining) {
            let is_off = seen.runs().is_none() && seen.in_cluster().is_none_or(|node| !node.ready);
            let Some(limit) = limit.filter(|_| !is_off) else {
                release(noted);
                continue;
            };
            if seen.is_free() && seen.runs().is_some() {
                noted.message.clear();
                tell(noted, seen, now);
                continue;
            }
            noted.message = seen.waits_for();
            if now.saturating_sub(noted.since_ms) <= minutes(limit) {
                continue;
            }
            let name = noted.drain.as_ref().map(|drain| drain.name.clone()).unwrap_or_default();
            let why = format!("node {name} could not be drained within {limit} min: {}", noted.message);
            release(noted);
            if noted.image == target && seen.pin.is_none() {
                stopped.get_or_insert_with(|| format!("{}: {why}", seen.node));
            } else {
                (noted.undrained, noted.message) = (true, why);
            }
        }
        if let Some(why) = stopped {
            self.stop(why);
        }
    }
}
