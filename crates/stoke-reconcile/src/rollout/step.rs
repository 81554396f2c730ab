//! One step of a rollout: what was noted, and what is seen, to what is noted now. Pure; taken every round.
//!
//! ```text
//!                    a version that is new
//!   Complete ----------------------------------> Rehearsing --- came up ---> Progressing ---- all are well ---> Complete
//!      ^          (no rehearsal is wanted: straight to Progressing)              |
//!      |                                              | did not                  | a node did not come up
//!      |                                              v                          v
//!      +---- another version, or taken back ------ Stopped <---------------------+
//! ```
//!
//! A node: `Settled -> Waiting -> Booting -> Proving -> Settled`, or `Booting -> Returned` with an earlier version; one of
//! the cluster that Stokehold runs in: `Waiting -> Draining -> Booting` (`drain.rs`). What a node is to boot is noted first
//! and told to it in a later round, when the note is on disk.

use stoke_api::node::Phase;
use stoke_api::objects::{
    FAILED_BOOTS, HealthGate, NodeState, NodeUpdate, RebootWay, RolloutPhase, RolloutStatus, UpdatePhase, UpdateSpec,
};
use stoke_api::{Digest, ObjectRef};

use super::drain::{InCluster, is_well, may_be_told};
use super::waves;

/// A node that has said nothing for so long after it was told to reboot was not reached.
const DEAF_MS: u64 = 3 * 60_000;
/// How long a system may take to go down, and its firmware to ask for a boot.
const DOWN_MS: u64 = 10 * 60_000;

/// What a step is taken from.
pub(crate) struct Input<'a> {
    /// How nodes are to be updated; when they happen to boot if absent.
    pub(crate) update: Option<&'a UpdateSpec>,
    /// Versions that can be handed out, the one that is wanted first.
    pub(crate) versions: &'a [Digest],
    /// The farm's nodes, in order.
    pub(crate) nodes: &'a [Seen],
    /// The farm, which owns the machine of a rehearsal.
    pub(crate) farm: &'a ObjectRef,
    /// What is known of that machine.
    pub(crate) machine: Option<NodeState>,
    /// Nodes whose configurations differ from each other: each is rehearsed.
    pub(crate) examples: Vec<ObjectRef>,
    /// Milliseconds since 1970.
    pub(crate) now_ms: u64,
}

/// What is seen of a node.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) node: ObjectRef,
    /// The version that its object demands, or why there is none such.
    pub(crate) pin: Option<Result<Digest, String>>,
    /// What it reported in the boot that runs.
    pub(crate) state: Option<NodeState>,
    /// Ways to make it boot anew, best first.
    pub(crate) ways: Vec<RebootWay>,
    /// Its node in the cluster, if it has joined the one that Stokehold runs in.
    pub(crate) cluster: Option<InCluster>,
}

impl Seen {
    /// The version that runs, if the system is up.
    pub(crate) fn runs(&self) -> Option<Digest> {
        self.state.as_ref().filter(|state| state.ready)?.image
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state.as_ref().map(|state| state.phase).unwrap_or_default()
    }

    fn began_ms(&self) -> u64 {
        self.state.as_ref().map(began_ms).unwrap_or_default()
    }

    fn failed_boots_of(&self, image: Digest) -> u32 {
        let state = self.state.as_ref().filter(|state| state.boots == Some(image));
        state.map_or(0, |state| state.failed_boots)
    }
}

/// When a node's session began, in milliseconds since 1970.
pub(crate) fn began_ms(state: &NodeState) -> u64 {
    let stamp = state.boot_started.parse::<jiff::Timestamp>().ok();
    stamp.and_then(|stamp| u64::try_from(stamp.as_millisecond()).ok()).unwrap_or_default()
}

/// What is noted after a step; `None` while there is no version.
pub(crate) fn next(before: Option<&RolloutStatus>, input: &Input<'_>) -> Option<RolloutStatus> {
    let rollout = aim(before, input)?;
    let mut step = Step { input, rollout };
    step.take_in_nodes();
    step.look();
    step.judge();
    step.rehearse();
    step.drain();
    waves::advance(&mut step);
    step.insist();
    step.settle();
    Some(step.rollout)
}

/// Which version nodes shall go over to.
fn aim(before: Option<&RolloutStatus>, input: &Input<'_>) -> Option<RolloutStatus> {
    let newest = *input.versions.first()?;
    let Some(before) = before else { return Some(beginning(newest)) };
    let mut rollout = before.clone();
    rollout.refused.retain(|version| input.versions.contains(version));
    let there = |version: &Digest| input.versions.contains(version) && !rollout.refused.contains(version);
    let target = input.versions.iter().copied().find(there).unwrap_or(newest);
    rollout.stable = rollout.stable.filter(there);
    if target != rollout.target {
        rollout.going_back = rollout.refused.contains(&rollout.target);
        let rehearses = !rollout.going_back && input.update.is_some_and(|update| update.rehearsal.is_some());
        rollout.phase = if rehearses { RolloutPhase::Rehearsing } else { RolloutPhase::Progressing };
        (rollout.target, rollout.began_ms, rollout.wave, rollout.rehearsal) = (target, input.now_ms, 0, None);
        rollout.message.clear();
        rollout.nodes.iter_mut().for_each(begin_anew);
    }
    if !input.versions.contains(&rollout.handed_out) {
        rollout.handed_out = rollout.stable.unwrap_or(target);
    }
    Some(rollout)
}

/// What a node failed with is of the past when the farm goes over to something else.
fn begin_anew(noted: &mut NodeUpdate) {
    if noted.phase == UpdatePhase::Returned {
        let is_up = noted.ready_since_ms.is_some();
        noted.phase = if is_up { UpdatePhase::Settled } else { UpdatePhase::Waiting };
        noted.message.clear();
    }
    noted.undrained = false;
}

/// The first version of a farm, which there is nothing to compare with.
fn beginning(version: Digest) -> RolloutStatus {
    RolloutStatus {
        target: version,
        stable: None,
        handed_out: version,
        phase: RolloutPhase::Progressing,
        message: String::new(),
        began_ms: 0,
        wave: 0,
        paused: false,
        going_back: false,
        refused: Vec::new(),
        rehearsal: None,
        nodes: Vec::new(),
    }
}

/// A step under way.
pub(super) struct Step<'a> {
    pub(super) input: &'a Input<'a>,
    pub(super) rollout: RolloutStatus,
}

impl Step<'_> {
    fn gate(&self) -> HealthGate {
        self.input.update.map(|update| update.health_gate).unwrap_or_default()
    }

    /// How long a node must have been ready.
    pub(super) fn proof_ms(&self) -> u64 {
        self.input.update.map_or(0, |update| minutes(update.health_gate.minutes))
    }

    pub(super) fn limit_ms(&self) -> u64 {
        minutes(self.gate().limit_minutes)
    }

    /// Notes for the nodes that there are, in their order.
    fn take_in_nodes(&mut self) {
        let nodes = self.input.nodes.iter().map(|seen| self.noted(seen)).collect();
        self.rollout.nodes = nodes;
    }

    fn noted(&self, seen: &Seen) -> NodeUpdate {
        let (rollout, there) = (&self.rollout, |version: &Digest| self.input.versions.contains(version));
        let first = seen.runs().filter(there).unwrap_or(rollout.handed_out);
        let mut noted = rollout.node(&seen.node).cloned().unwrap_or_else(|| fresh(&seen.node, first));
        if !there(&noted.image) {
            renew(&mut noted, first, self.input.now_ms);
        }
        match &seen.pin {
            Some(Ok(pinned)) if noted.image != *pinned => renew(&mut noted, *pinned, self.input.now_ms),
            Some(Err(why)) => noted.message.clone_from(why),
            _ => {}
        }
        noted
    }

    /// Each note with what is seen of its node. They are in the same order.
    pub(super) fn pairs(&mut self) -> impl Iterator<Item = (&mut NodeUpdate, &Seen)> {
        self.rollout.nodes.iter_mut().zip(self.input.nodes)
    }

    /// How far each node is with what it shall have.
    fn look(&mut self) {
        let (now, proof, rolling) = (self.input.now_ms, self.proof_ms(), self.input.update.is_some());
        for (noted, seen) in self.pairs() {
            if is_well(noted, seen) {
                if noted.phase == UpdatePhase::Waiting {
                    noted.since_ms = now;
                }
                let since = *noted.ready_since_ms.get_or_insert(now);
                match noted.phase {
                    UpdatePhase::Returned => noted.way = None,
                    UpdatePhase::Settled => {}
                    _ if now.saturating_sub(since) < proof => noted.phase = UpdatePhase::Proving,
                    _ => {
                        noted.phase = UpdatePhase::Settled;
                        noted.message.clear();
                    }
                }
                if now.saturating_sub(since) >= proof {
                    noted.drain = None;
                }
                continue;
            }
            noted.ready_since_ms = None;
            match noted.phase {
                UpdatePhase::Proving => noted.phase = UpdatePhase::Booting,
                UpdatePhase::Settled if rolling && seen.runs().is_some_and(|runs| runs != noted.image) => {
                    noted.phase = UpdatePhase::Waiting;
                }
                _ => {}
            }
        }
    }

    /// Gives nodes an earlier version that do not come up with theirs, and stops.
    fn judge(&mut self) {
        let (now, limit) = (self.input.now_ms, self.limit_ms());
        let failed_boots = self.input.update.map_or(FAILED_BOOTS, |update| update.failed_boots);
        let (target, stable, refused) = (self.rollout.target, self.rollout.stable, self.rollout.refused.clone());
        let versions = self.input.versions;
        let mut stopped = None;
        for (noted, seen) in
            self.pairs().filter(|(noted, seen)| noted.phase != UpdatePhase::Returned && seen.pin.is_none())
        {
            let good = seen.state.as_ref().and_then(|state| state.good_image);
            let usable =
                |version: &Digest| *version != noted.image && versions.contains(version) && !refused.contains(version);
            let Some(back) = good.filter(usable).or_else(|| stable.filter(usable)) else { continue };
            let failures = seen.failed_boots_of(noted.image);
            let late = noted.phase == UpdatePhase::Booting && now.saturating_sub(noted.since_ms) > limit;
            let what = if failures >= failed_boots {
                format!("{failures} boots with {} failed", noted.image.short())
            } else if late {
                let what = if seen.runs() == Some(noted.image) { "its node in the cluster" } else { "it" };
                let limit = limit / 60_000;
                format!("{what} was not ready {limit} min after it was told to boot {}", noted.image.short())
            } else {
                continue;
            };
            let why = seen.state.as_ref().and_then(|state| state.failure.as_ref());
            let why = why.map_or(what.clone(), |why| format!("{what}: {why}"));
            if noted.image == target {
                stopped.get_or_insert_with(|| format!("{}: {why}", seen.node));
            }
            renew(noted, back, now);
            (noted.phase, noted.message) = (UpdatePhase::Returned, format!("{why}; it has {} again", back.short()));
            outlive(noted, seen);
            if late && seen.runs() != Some(back) {
                tell(noted, seen, now);
            }
        }
        if let Some(why) = stopped {
            self.stop(why);
        }
    }

    /// Nobody else goes over.
    pub(super) fn stop(&mut self, why: String) {
        (self.rollout.phase, self.rollout.message) = (RolloutPhase::Stopped, why);
        let (now, target, versions) = (self.input.now_ms, self.rollout.target, self.input.versions);
        let otherwise = self.rollout.stable.unwrap_or(target);
        for (noted, seen) in self.pairs().filter(|(_, seen)| seen.pin.is_none()) {
            if matches!(noted.phase, UpdatePhase::Waiting | UpdatePhase::Draining) && noted.image == target {
                let good = seen.state.as_ref().and_then(|state| state.good_image);
                let kept = seen.runs().or(good).filter(|version| versions.contains(version));
                renew(noted, kept.unwrap_or(otherwise), now);
                noted.phase = UpdatePhase::Settled;
            }
        }
    }

    /// Whom telling once did not help is told in another way.
    fn insist(&mut self) {
        let (now, limit) = (self.input.now_ms, self.limit_ms());
        for (noted, seen) in self.pairs() {
            let on_its_way = matches!(noted.phase, UpdatePhase::Booting | UpdatePhase::Returned);
            if !on_its_way || seen.runs() == Some(noted.image) {
                continue;
            }
            let Some(way) = noted.way else {
                // It boots again and again by itself, or hangs.
                let hangs = now.saturating_sub(noted.since_ms) > limit;
                let is_up = seen.runs().is_some();
                if noted.phase == UpdatePhase::Returned && (is_up && may_be_told(noted, seen, now) || hangs && !is_up) {
                    tell(noted, seen, now);
                }
                continue;
            };
            let patience = match seen.phase() {
                Phase::Stopping => DOWN_MS,
                Phase::Firmware | Phase::Loading => limit,
                _ => DEAF_MS,
            };
            if seen.began_ms() > noted.told_ms || now.saturating_sub(noted.told_ms) <= patience {
                continue;
            }
            let next = seen.ways.iter().skip_while(|other| **other != way).nth(1);
            match next {
                Some(next) => order(noted, seen, *next, now),
                None => noted.message = format!("{way} did not help, and there is no other way to make it boot"),
            }
        }
    }

    fn settle(&mut self) {
        let target = self.rollout.target;
        let through = |(noted, seen): (&NodeUpdate, &Seen)| {
            let off = seen.runs().is_none() && noted.phase == UpdatePhase::Waiting;
            seen.pin.is_some() || (noted.image == target && (noted.phase == UpdatePhase::Settled || off))
        };
        let all = self.rollout.nodes.iter().zip(self.input.nodes).all(through);
        let rollout = &mut self.rollout;
        if rollout.phase == RolloutPhase::Progressing && all {
            (rollout.phase, rollout.stable, rollout.going_back) = (RolloutPhase::Complete, Some(target), false);
            rollout.message.clear();
        }
        let rolling = self.input.update.is_some() && !rollout.going_back;
        let early = match rollout.phase {
            RolloutPhase::Complete => false,
            RolloutPhase::Progressing => rolling,
            RolloutPhase::Rehearsing | RolloutPhase::Stopped => true,
        };
        rollout.handed_out = rollout.stable.filter(|_| early).unwrap_or(target);
    }
}

/// Makes a node boot anew, in the best way that there is.
pub(super) fn tell(noted: &mut NodeUpdate, seen: &Seen, now: u64) {
    match seen.ways.first() {
        Some(way) => order(noted, seen, *way, now),
        None => "there is no way to make it boot: reboot it by hand".clone_into(&mut noted.message),
    }
}

fn order(noted: &mut NodeUpdate, seen: &Seen, way: RebootWay, now: u64) {
    *noted.reboots.entry(way).or_default() += 1;
    outlive(noted, seen);
    (noted.way, noted.told_ms) = (Some(way), now);
    if noted.phase != UpdatePhase::Returned {
        if noted.phase != UpdatePhase::Booting {
            noted.since_ms = now;
        }
        noted.phase = UpdatePhase::Booting;
    }
}

/// What the cluster says of the boot that runs is of the past when it says something of the next one.
fn outlive(noted: &mut NodeUpdate, seen: &Seen) {
    if let Some(drain) = noted.drain.as_mut().filter(|_| seen.runs() != Some(noted.image)) {
        drain.boot = seen.cluster_boot();
    }
}

fn fresh(node: &ObjectRef, image: Digest) -> NodeUpdate {
    NodeUpdate {
        node: node.clone(),
        image,
        phase: UpdatePhase::Settled,
        since_ms: 0,
        ready_since_ms: None,
        way: None,
        told_ms: 0,
        reboots: std::collections::BTreeMap::new(),
        drain: None,
        undrained: false,
        message: String::new(),
    }
}

/// Notes that a node shall have another version. One that still runs is used again until its turn comes; one that boots stays
/// out of use until it is well.
pub(super) fn renew(noted: &mut NodeUpdate, image: Digest, now: u64) {
    noted.drain.take_if(|_| noted.phase == UpdatePhase::Draining);
    if let Some(drain) = &mut noted.drain {
        drain.boot = None;
    }
    noted.undrained = false;
    (noted.image, noted.phase, noted.since_ms) = (image, UpdatePhase::Waiting, now);
    (noted.ready_since_ms, noted.way) = (None, None);
    noted.message.clear();
}

pub(super) fn minutes(count: u32) -> u64 {
    u64::from(count) * 60_000
}
