//! What people ask of a farm's update: pause, go on, take back. It is noted in the farm's status, and the reconcilers follow.

use stoke_api::control::RolloutAction;
use stoke_api::objects::RolloutPhase;
use stoke_api::{AnyObject, Digest};
use stoke_reconcile::{Status, rollout};

/// The farm's status with the request in it, or why it cannot be. `versions` are those of its image that are there.
///
/// # Errors
/// If it is no farm, or there is nothing to steer.
pub fn steered(object: &AnyObject, action: RolloutAction, versions: &[Digest]) -> Result<Status, String> {
    let AnyObject::Farm(farm) = object else { return Err(format!("{} is no farm", object.reference())) };
    let mut status = farm.status.clone();
    let Some(noted) = status.rollout.as_mut() else { return Err("its image is not built yet".to_owned()) };
    match action {
        RolloutAction::Pause if noted.phase == RolloutPhase::Complete => {
            return Err("no update is under way; every node has its version, or gets it when it boots".to_owned());
        }
        RolloutAction::Pause => noted.paused = true,
        RolloutAction::Resume => rollout::resume(noted),
        RolloutAction::Undo => {
            let usable = |version: &&Digest| **version != noted.target && !noted.refused.contains(version);
            if !versions.iter().any(|version| usable(&version)) {
                return Err("there is no other version to go back to".to_owned());
            }
            rollout::undo(noted);
        }
    }
    Ok(Status::Farm(status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const OLD: Digest = Digest([1; 32]);
    const NEW: Digest = Digest([2; 32]);

    fn farm(phase: &str) -> AnyObject {
        let rollout = json!({"target": NEW, "stable": OLD, "handedOut": OLD, "phase": phase});
        let object = json!({"kind": "Farm", "metadata": {"name": "lab"}, "spec": {"lan": "lab", "image": "node"},
            "status": {"rollout": rollout}});
        serde_json::from_value(object).unwrap()
    }

    fn after(
        phase: &str,
        action: RolloutAction,
        versions: &[Digest],
    ) -> Result<stoke_api::objects::RolloutStatus, String> {
        steered(&farm(phase), action, versions).map(|status| match status {
            Status::Farm(status) => status.rollout.unwrap(),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn what_can_be_asked_and_what_cannot() {
        assert!(after("Progressing", RolloutAction::Pause, &[NEW, OLD]).unwrap().paused);
        assert!(after("Complete", RolloutAction::Pause, &[NEW, OLD]).is_err());
        let resumed = after("Stopped", RolloutAction::Resume, &[NEW, OLD]).unwrap();
        assert_eq!((resumed.phase, resumed.paused), (RolloutPhase::Progressing, false));
        assert_eq!(after("Complete", RolloutAction::Undo, &[NEW, OLD]).unwrap().refused, [NEW]);
        assert!(after("Complete", RolloutAction::Undo, &[NEW]).unwrap_err().contains("no other version"));
    }
}
