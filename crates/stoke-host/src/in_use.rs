//! Which image versions are needed, and by what: they are not pruned, and people are shown who uses them.

use std::collections::{BTreeMap, BTreeSet};

use stoke_api::objects::{AnyObject, NodeState};
use stoke_api::{Digest, ObjectRef};

/// By image version, the objects that need it: nodes that run it or get it when they boot, farms that hand it out or may
/// go back to it.
pub fn in_use(objects: &[AnyObject]) -> BTreeMap<Digest, BTreeSet<ObjectRef>> {
    let mut users = BTreeMap::<Digest, BTreeSet<ObjectRef>>::new();
    for object in objects {
        for digest in versions(object) {
            users.entry(digest).or_default().insert(object.reference());
        }
    }
    users
}

fn versions(object: &AnyObject) -> Vec<Digest> {
    let runs = |node: &Option<NodeState>| node.as_ref().and_then(|node| node.image);
    match object {
        AnyObject::Server(server) => [runs(&server.status.node), server.status.image].into_iter().flatten().collect(),
        AnyObject::Machine(machine) => {
            [runs(&machine.status.node), machine.status.image].into_iter().flatten().collect()
        }
        AnyObject::Farm(farm) => {
            let rollout = farm.status.rollout.iter();
            let wanted = rollout.flat_map(|rollout| {
                let rehearsed = rollout.rehearsal.as_ref().map(|rehearsal| rehearsal.image);
                let nodes = rollout.nodes.iter().map(|node| node.image);
                nodes.chain([rollout.target, rollout.handed_out]).chain(rollout.stable).chain(rehearsed)
            });
            wanted.chain(farm.status.image).collect()
        }
        AnyObject::Image(_) | AnyObject::Lan(_) | AnyObject::MachineSet(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_runs_and_what_is_handed_out_is_in_use() {
        let digest = |byte: u8| Digest([byte; 32]);
        let object = |value| serde_json::from_value::<AnyObject>(value).unwrap();
        let objects = [
            object(json!({
                "kind": "Server", "metadata": {"name": "a"},
                "spec": {"farm": {"namespace": "default", "name": "lab"}, "macs": ["52:54:00:00:00:07"]},
                "status": {"node": {"phase": "Ready", "image": digest(1)}},
            })),
            object(json!({
                "kind": "Farm", "metadata": {"name": "lab", "namespace": "default"},
                "spec": {"lan": "lab", "image": "node"},
                "status": {
                    "image": digest(2),
                    "rollout": {"target": digest(3), "stable": digest(1), "handedOut": digest(2)},
                },
            })),
        ];
        let users = in_use(&objects);
        assert_eq!(users.keys().copied().collect::<Vec<_>>(), [1, 2, 3].map(digest));
        let named = |byte| users[&digest(byte)].iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!((named(1).as_str(), named(2).as_str()), ("farm/lab server/a", "farm/lab"));
    }
}
