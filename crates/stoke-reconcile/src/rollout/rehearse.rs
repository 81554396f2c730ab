//! A version is tried in a virtual machine before any node gets it: with each different configuration, one after the other.

use stoke_api::node::Phase;
use stoke_api::objects::{NodeState, Rehearsal, RehearsalPhase, RolloutPhase};

use super::step::{Step, began_ms};

/// A machine that says for so long that its boot fails is not waited for any longer.
const FAILING_MS: u64 = 60_000;

impl Step<'_> {
    pub(super) fn rehearse(&mut self) {
        if self.rollout.phase != RolloutPhase::Rehearsing {
            return;
        }
        if self.input.update.is_none_or(|update| update.rehearsal.is_none()) {
            self.rollout.phase = RolloutPhase::Progressing;
            return;
        }
        let Some(mut rehearsal) = self.rollout.rehearsal.take() else {
            self.rollout.rehearsal = Some(self.rehearsal(0));
            return;
        };
        if rehearsal.phase == RehearsalPhase::Running {
            let judged = self.judged(&mut rehearsal);
            match judged {
                None => {}
                Some(Ok(())) => {
                    let next = rehearsal.number.saturating_add(1);
                    if usize::try_from(next).is_ok_and(|next| next < self.input.examples.len()) {
                        rehearsal = self.rehearsal(next);
                    } else {
                        rehearsal.phase = RehearsalPhase::Passed;
                        self.rollout.phase = RolloutPhase::Progressing;
                    }
                }
                Some(Err(why)) => {
                    rehearsal.phase = RehearsalPhase::Failed;
                    let image = rehearsal.image.short();
                    self.stop(format!("the rehearsal of {image} failed, so no node got it: {why}"));
                }
            }
        }
        self.rollout.rehearsal = Some(rehearsal);
    }

    fn rehearsal(&self, number: u32) -> Rehearsal {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let same = self.input.machine.as_ref().filter(|state| state.boots == Some(self.rollout.target));
        Rehearsal {
            image: self.rollout.target,
            phase: RehearsalPhase::Running,
            machine: self.input.farm.clone(),
            stands_for: self.input.examples.get(index).cloned(),
            number,
            began_ms: self.input.now_ms,
            ready_since_ms: None,
            // A machine that was taken away before it came up counts as one failure of the next.
            failed_before: same.map_or(0, |state| state.failed_boots.saturating_add(1)),
        }
    }

    /// Whether the machine has passed; `None` while that is open.
    fn judged(&self, rehearsal: &mut Rehearsal) -> Option<Result<(), String>> {
        let (now, limit) = (self.input.now_ms, self.limit_ms());
        let of_this_run = |state: &&NodeState| state.boots == Some(rehearsal.image);
        let state = self.input.machine.as_ref().filter(of_this_run);
        let current = state.filter(|state| began_ms(state).saturating_add(1_000) >= rehearsal.began_ms);
        let why = |what: &str| match state.and_then(|state| state.failure.as_ref()) {
            Some(failure) => Some(Err(format!("{what}: {failure}"))),
            None => Some(Err(what.to_owned())),
        };
        if current.is_some_and(|state| state.ready && state.image == Some(rehearsal.image)) {
            let since = *rehearsal.ready_since_ms.get_or_insert(now);
            return (now.saturating_sub(since) >= self.proof_ms()).then_some(Ok(()));
        }
        if rehearsal.ready_since_ms.take().is_some() {
            return why("the machine came up and did not stay up");
        }
        if state.is_some_and(|state| state.failed_boots > rehearsal.failed_before) {
            return why("the machine started over without having come up");
        }
        let age = now.saturating_sub(rehearsal.began_ms);
        if current.is_some_and(|state| state.phase == Phase::Failed) && age > FAILING_MS {
            return why("the machine's boot fails");
        }
        if age > limit { why(&format!("the machine was not ready after {} min", limit / 60_000)) } else { None }
    }
}
