//! Whose turn it is: canaries, then wave after wave, and never more at once than may be down.

use stoke_api::objects::{NodeUpdate, RolloutPhase, UpdatePhase, UpdateSpec};

use super::drain::begin;
use super::step::{Seen, Step, renew};

/// Lets nodes go over.
pub(super) fn advance(step: &mut Step<'_>) {
    let Some(update) = step.input.update else { return step.at_their_next_boot() };
    if step.rollout.paused {
        return;
    }
    if step.rollout.phase == RolloutPhase::Progressing {
        step.next_wave(update);
        step.assign(update);
    }
    if matches!(step.rollout.phase, RolloutPhase::Progressing | RolloutPhase::Complete) {
        step.reboot(update);
    }
}

impl Step<'_> {
    /// Nodes that follow the farm.
    fn members(&self) -> impl Iterator<Item = (&NodeUpdate, &Seen)> {
        self.rollout.nodes.iter().zip(self.input.nodes).filter(|(_, seen)| seen.pin.is_none())
    }

    /// Without an order of going over: whoever boots gets the version.
    fn at_their_next_boot(&mut self) {
        if self.rollout.phase == RolloutPhase::Rehearsing {
            self.rollout.phase = RolloutPhase::Progressing;
        }
        if self.rollout.phase != RolloutPhase::Progressing || self.rollout.paused {
            return;
        }
        let (now, target) = (self.input.now_ms, self.rollout.target);
        for (noted, seen) in self.rollout.nodes.iter_mut().zip(self.input.nodes) {
            if seen.pin.is_none() && noted.image != target && noted.phase != UpdatePhase::Returned {
                renew(noted, target, now);
            }
        }
    }

    /// Nodes that have the version or were given it.
    fn given(&self) -> usize {
        let target = self.rollout.target;
        let given = |noted: &NodeUpdate| noted.image == target || noted.phase == UpdatePhase::Returned;
        self.members().filter(|(noted, _)| given(noted)).count()
    }

    /// Nodes that may have the version in this wave.
    fn allowed(&self, update: &UpdateSpec) -> usize {
        let all = self.members().count();
        if self.rollout.going_back {
            return all;
        }
        let canaries = usize::try_from(update.canary).unwrap_or(usize::MAX);
        let wave = usize::try_from(self.rollout.wave).unwrap_or(usize::MAX);
        match wave.checked_sub(1).map(|wave| update.waves.get(wave)) {
            None => canaries.min(all),
            Some(Some(share)) => (all * usize::from(*share)).div_ceil(100).clamp(canaries.min(all), all),
            Some(None) => all,
        }
    }

    /// The next wave begins when all of this one are well.
    fn next_wave(&mut self, update: &UpdateSpec) {
        let target = self.rollout.target;
        let well = |(noted, seen): (&NodeUpdate, &Seen)| {
            let off = noted.phase == UpdatePhase::Waiting && seen.runs().is_none();
            noted.image != target || noted.phase == UpdatePhase::Settled || off
        };
        let all = self.members().count();
        while self.allowed(update) < all && self.given() >= self.allowed(update) && self.members().all(well) {
            self.rollout.wave += 1;
        }
    }

    /// Gives the version to those of this wave: first to nodes that are up, for they show soonest what it is worth.
    fn assign(&mut self, update: &UpdateSpec) {
        let mut free = self.allowed(update).saturating_sub(self.given());
        let (now, target) = (self.input.now_ms, self.rollout.target);
        for up in [true, false] {
            for (noted, seen) in self.rollout.nodes.iter_mut().zip(self.input.nodes) {
                let follows = seen.pin.is_none() && noted.image != target && noted.phase != UpdatePhase::Returned;
                if free > 0 && follows && seen.runs().is_some() == up {
                    renew(noted, target, now);
                    free -= 1;
                }
            }
        }
    }

    /// Reboots nodes that run something else than they shall, a few at a time.
    fn reboot(&mut self, update: &UpdateSpec) {
        let under_way = |noted: &NodeUpdate| {
            use UpdatePhase::{Booting, Draining, Proving, Returned};
            matches!(noted.phase, Draining | Booting | Proving | Returned)
        };
        let returned = |noted: &NodeUpdate| {
            noted.phase == UpdatePhase::Returned && noted.ready_since_ms.is_some() && noted.drain.is_none()
        };
        // Pods of the next one must find room: it waits until the one before is in use again.
        let (now, limit) = (self.input.now_ms, self.limit_ms());
        let out_of_use = |noted: &NodeUpdate, seen: &Seen| match &noted.drain {
            None => seen.is_cordoned(),
            // It boots, and was given another version meanwhile; one that does not come up holds nobody up.
            Some(_) => {
                matches!(noted.phase, UpdatePhase::Waiting | UpdatePhase::Settled)
                    && now.saturating_sub(noted.since_ms) <= limit
            }
        };
        let is_down =
            |(noted, seen): &(&NodeUpdate, &Seen)| (under_way(noted) && !returned(noted)) || out_of_use(noted, seen);
        let down = self.rollout.nodes.iter().zip(self.input.nodes).filter(is_down).count();
        let mut free = usize::try_from(update.max_unavailable).unwrap_or(usize::MAX).saturating_sub(down);
        for (noted, seen) in self.rollout.nodes.iter_mut().zip(self.input.nodes) {
            let elsewhere = seen.runs().is_some_and(|runs| runs != noted.image);
            let waits = noted.phase == UpdatePhase::Waiting && !noted.undrained;
            let counted = noted.drain.is_some();
            if (free > 0 || counted) && elsewhere && waits && begin(noted, seen, now) {
                free = free.saturating_sub(usize::from(!counted));
            }
        }
    }
}
