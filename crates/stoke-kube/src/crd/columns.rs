//! What `kubectl get` shows of each kind: as near to `stoke get` as a path into an object comes.

use serde_json::{Value, json};
use stoke_api::Kind;

/// Shown only with `-o wide`.
const WIDE: i32 = 1;

const READY: &str = r#".status.conditions[?(@.type=="Ready")].status"#;
const MESSAGE: &str = r#".status.conditions[?(@.type=="Ready")].message"#;

/// Title, type, path, priority.
type Column = (&'static str, &'static str, &'static str, i32);

/// The columns of a kind.
pub(super) fn of(kind: Kind) -> Value {
    let (own, wide) = columns(kind);
    let ready = [("Ready", "string", READY, 0)];
    let age = [("Age", "date", ".metadata.creationTimestamp", 0)];
    let message = [("Message", "string", MESSAGE, WIDE)];
    let all = [&ready, own, &age, wide, &message].concat();
    all.into_iter().map(column).collect()
}

fn column((name, sort, path, priority): Column) -> Value {
    // As the API server keeps it: zero is not written.
    match priority {
        0 => json!({ "name": name, "type": sort, "jsonPath": path }),
        _ => json!({ "name": name, "type": sort, "jsonPath": path, "priority": priority }),
    }
}

fn columns(kind: Kind) -> (&'static [Column], &'static [Column]) {
    match kind {
        Kind::Image => (
            &[
                ("Digest", "string", ".status.digest", 0),
                ("Size", "integer", ".status.size", 0),
                ("Kernel", "string", ".status.kernel", 0),
            ],
            &[],
        ),
        Kind::Lan => (
            &[
                ("Subnets", "string", ".spec.subnets[*].cidr", 0),
                ("Leases", "integer", ".status.leases", 0),
                ("Capacity", "integer", ".status.capacity", 0),
            ],
            &[("Bridge", "string", ".status.bridge", WIDE)],
        ),
        Kind::Farm => (
            &[
                ("Image", "string", ".spec.image", 0),
                ("Nodes", "integer", ".status.nodes", 0),
                ("Ready-Nodes", "integer", ".status.readyNodes", 0),
                ("Address", "string", ".status.address", 0),
            ],
            &[("Lan", "string", ".spec.lan", WIDE), ("Version", "string", ".status.image", WIDE)],
        ),
        Kind::Server => (
            &[
                ("Phase", "string", ".status.node.phase", 0),
                ("Address", "string", ".status.node.address", 0),
                ("Image", "string", ".status.node.image", 0),
            ],
            &[
                ("Wanted", "string", ".status.image", WIDE),
                ("Root", "string", ".status.node.root", WIDE),
                ("Power", "string", ".status.bmc.power", WIDE),
                ("Farm", "string", ".spec.farm.name", WIDE),
                ("Macs", "string", ".spec.macs[*]", WIDE),
            ],
        ),
        Kind::Machine => (
            &[
                ("Phase", "string", ".status.node.phase", 0),
                ("Power", "string", ".status.power", 0),
                ("Address", "string", ".status.node.address", 0),
                ("Image", "string", ".status.node.image", 0),
            ],
            &[
                ("Wanted", "string", ".status.image", WIDE),
                ("Accel", "string", ".status.accelerator", WIDE),
                ("Root", "string", ".status.node.root", WIDE),
                ("Links", "string", ".status.links[*]", WIDE),
            ],
        ),
        Kind::MachineSet => (
            &[
                ("Desired", "integer", ".spec.replicas", 0),
                ("Current", "integer", ".status.replicas", 0),
                ("Ready-Replicas", "integer", ".status.readyReplicas", 0),
            ],
            &[],
        ),
    }
}
