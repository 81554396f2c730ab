//! Objects as tests write them.

use serde_json::{Value, json};
use stoke_api::{AnyObject, Kind, ObjectRef};

pub(crate) fn object(value: Value) -> AnyObject {
    serde_json::from_value(value).expect("tests write valid objects")
}

pub(crate) fn image(suite: &str) -> AnyObject {
    let source = json!({"debian": {"suite": suite}});
    let spec = json!({"source": source, "forms": {"netboot": {}}});
    object(json!({"kind": "Image", "metadata": {"name": "node"}, "spec": spec}))
}

pub(crate) fn lan(name: &str, cidr: &str) -> AnyObject {
    let spec = json!({"subnets": [{"name": "v4", "cidr": cidr}], "egress": "None"});
    object(json!({"kind": "Lan", "metadata": {"name": name}, "spec": spec}))
}

pub(crate) fn farm() -> AnyObject {
    object(json!({"kind": "Farm", "metadata": {"name": "lab"}, "spec": {"lan": "lab", "image": "node"}}))
}

pub(crate) fn machine(name: &str) -> AnyObject {
    let spec = json!({"vm": {}, "farm": "lab", "nics": [{"name": "lab", "lan": "lab"}]});
    object(json!({"kind": "Machine", "metadata": {"name": name}, "spec": spec}))
}

pub(crate) fn machine_set(name: &str, replicas: u32) -> AnyObject {
    let template = json!({"spec": {"vm": {}, "farm": "lab", "nics": [{"name": "lab", "lan": "lab"}]}});
    let spec = json!({"replicas": replicas, "template": template});
    object(json!({"kind": "MachineSet", "metadata": {"name": name}, "spec": spec}))
}

pub(crate) fn lab() -> Vec<AnyObject> {
    vec![image("bookworm"), lan("lab", "10.10.0.0/24"), farm(), machine("node-1")]
}

pub(crate) fn reference(kind: Kind, name: &str) -> ObjectRef {
    let namespace = kind.is_namespaced().then(|| "default".parse().expect("a name"));
    ObjectRef { kind, namespace, name: name.parse().expect("a name") }
}
