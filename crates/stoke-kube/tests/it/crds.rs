//! The definitions: they are what is checked in, a real API server serves them, and refuses what is wrong in our words.

use std::collections::BTreeMap;
use std::path::Path;

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use stoke_api::{AnyObject, Kind};
use stoke_kube::{crd, object};

use crate::cluster::shared;

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

#[test]
fn the_definitions_that_are_checked_in_are_those_of_the_types() {
    let folder = repository().join("charts/stokehold/crds");
    let read = fs_err::read_dir(&folder).expect("the folder is there").map(|entry| {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, fs_err::read_to_string(path).expect("a text"))
    });
    let read: BTreeMap<_, _> = read.collect();
    let wanted: BTreeMap<_, _> = crd::files().into_iter().collect();
    assert!(read == wanted, "{} is stale: run cargo xtask crds", folder.display());
}

#[tokio::test]
async fn an_api_server_serves_all_kinds_and_a_second_installation_changes_nothing() {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let (_plane, client) = shared().await;
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let mut before = BTreeMap::new();
    for (name, _) in crd::all() {
        let found = definitions.get(&name).await.expect("it is there");
        let conditions = found.status.clone().and_then(|status| status.conditions).unwrap_or_default();
        let holds =
            |name: &str| conditions.iter().any(|condition| condition.type_ == name && condition.status == "True");
        assert!(holds("Established") && holds("NamesAccepted"), "{name}: {conditions:?}");
        assert!(!conditions.iter().any(|condition| condition.type_ == "NonStructuralSchema"), "{name}: {conditions:?}");
        before.insert(name, found.resource_version());
    }
    let writes = crd::install(&client, "tests").await.expect("all kinds are served");
    assert_eq!(writes, 0);
    for (name, _) in crd::all() {
        let found = definitions.get(&name).await.expect("it is there");
        assert_eq!(found.resource_version(), before[&name], "{name}");
    }
}

#[tokio::test]
async fn the_examples_are_accepted_strictly() {
    let (plane, _client) = shared().await;
    let namespace = plane.namespace().expect("a namespace");
    for example in ["netboot", "netboot-two"] {
        let folder = repository().join("examples").join(example);
        let mut kubectl = plane.kubectl().expect("kubectl");
        kubectl.args(["apply", "--server-side", "--validate=strict", "--namespace", &namespace, "--filename"]);
        // Files of an example, and not what is in folders below it.
        let output = kubectl.arg(&folder).output().expect("kubectl runs");
        assert!(output.status.success(), "{example}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let get = |what: &[&str]| {
        let mut kubectl = plane.kubectl().expect("kubectl");
        let output = kubectl.args(["get", "--namespace", &namespace]).args(what).output().expect("kubectl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let table = get(&["smach"]);
    assert!(table.starts_with("NAME") && table.contains("READY") && table.contains("node-1"), "{table}");
    let all = get(&["stokehold", "--output", "name"]);
    assert!(all.contains("lan.stokehold.dev/lab") && all.contains("image.stokehold.dev/node"), "{all}");
    // What the API server has filled in is what the types fill in.
    let stored: Value = serde_json::from_str(&get(&["lan/lab", "--output", "json"])).expect("an object");
    let read =
        object::read(Kind::Lan, &serde_json::from_value(stored).expect("an object")).expect("it is of our version");
    let AnyObject::Lan(lan) = &read else { panic!("a LAN") };
    assert_eq!((lan.spec.mtu, lan.spec.subnets.len()), (1500, 1));
}

/// A machine as it should be.
fn machine() -> Value {
    let spec = json!({
        "vm": { "cpus": 1, "memory": "1Gi", "firmware": { "uefi": {} } },
        "farm": "lab",
        "nics": [{ "name": "lab", "lan": "lab", "mac": "52:54:00:00:00:01" }],
    });
    json!({ "apiVersion": "stokehold.dev/v1alpha1", "kind": "Machine", "metadata": { "name": "m" }, "spec": spec })
}

fn object_of(kind: Kind, spec: &Value) -> Value {
    json!({ "apiVersion": "stokehold.dev/v1alpha1", "kind": kind.to_string(), "metadata": { "name": "m" }, "spec": spec })
}

fn with(mut object: Value, at: &str, value: Value) -> Value {
    let (outer, name) = at.rsplit_once('/').expect("a path");
    object.pointer_mut(outer).and_then(Value::as_object_mut).expect("an object").insert(name.to_owned(), value);
    object
}

/// What a strict API server says of an object; nothing is stored.
async fn said(client: &kube::Client, namespace: &str, object: &Value) -> Result<(), String> {
    let kind: Kind = object["kind"].as_str().expect("a kind").parse().expect("one of ours");
    let api: Api<kube::api::DynamicObject> = if kind.is_namespaced() {
        Api::namespaced_with(client.clone(), namespace, &object::resource(kind))
    } else {
        object::all(client, kind)
    };
    let parameters = PatchParams::apply("tests").dry_run().force().validation_strict();
    let name = object["metadata"]["name"].as_str().expect("a name");
    match api.patch(name, &parameters, &Patch::Apply(object)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_words_that_help() {
    let (plane, client) = shared().await;
    let namespace = plane.namespace().expect("a namespace");
    assert_eq!(said(&client, &namespace, &machine()).await, Ok(()));
    let server = json!({ "farm": { "namespace": "default", "name": "lab" }, "macs": ["52:54:00:00:00:07"] });
    assert_eq!(said(&client, &namespace, &object_of(Kind::Server, &server)).await, Ok(()));
    let twice = json!([{ "name": "lab", "lan": "lab" }, { "name": "lab", "lan": "lab" }]);
    let cases = [
        (with(machine(), "/spec/vm/cpu", json!(2)), "field not declared in schema"),
        (with(machine(), "/spec/runStrategy", json!("Sometimes")), "supported values: \"Always\""),
        (with(machine(), "/spec/vm/cpus", json!(0)), "spec.vm.cpus in body should be greater than or equal to 1"),
        (with(machine(), "/spec/vm/memory", json!("much")), "spec.vm.memory in body should match"),
        (with(machine(), "/spec/nics", twice), "duplicate entries for key [name=\"lab\"]"),
        (with(machine(), "/metadata/name", json!("a.b")), "metadata.name"),
        (with(machine(), "/spec/vm/disks", json!([{ "name": "d" }])), "spec.vm.disks[0].size: Required value"),
    ];
    for (object, words) in cases {
        let refused = said(&client, &namespace, &object).await.expect_err(words);
        assert!(refused.contains(words), "{words}: {refused}");
    }
}

#[tokio::test]
async fn a_broken_rule_is_told_in_the_words_of_the_types() {
    let (plane, client) = shared().await;
    let namespace = plane.namespace().expect("a namespace");
    let debian = json!({ "suite": "bookworm" });
    let both = json!({ "debian": debian, "tree": { "path": "/srv/root" } });
    let firmware = json!({ "bios": {}, "uefi": {} });
    let reservation = json!([{ "name": "a", "address": "10.0.0.9" }]);
    let subnets = json!([{ "name": "v4", "cidr": "10.0.0.0/24" }]);
    let file = json!([{ "path": "/etc/x", "content": "a", "secret": { "secret": "s", "key": "k" } }]);
    let bmc = json!({ "farm": { "namespace": "default", "name": "lab" }, "macs": ["52:54:00:00:00:07"], "bmc": {} });
    let macs = json!({ "farm": { "namespace": "default", "name": "lab" }, "macs": [] });
    let netboot = json!({ "netboot": {} });
    let objects = [
        object_of(Kind::Image, &json!({ "source": both, "forms": netboot })),
        object_of(Kind::Image, &json!({ "source": {}, "forms": netboot })),
        object_of(Kind::Image, &json!({ "source": { "debian": debian } })),
        object_of(Kind::Image, &json!({ "source": { "debian": debian }, "forms": netboot, "architectures": [] })),
        object_of(Kind::Image, &json!({ "source": { "oci": {} }, "forms": netboot })),
        object_of(Kind::Lan, &json!({ "subnets": [] })),
        object_of(Kind::Lan, &json!({ "subnets": subnets, "ipv6": { "prefix": "fd00::/48" } })),
        object_of(Kind::Lan, &json!({ "subnets": subnets, "dhcp": { "reservations": reservation } })),
        object_of(Kind::Server, &macs),
        object_of(Kind::Server, &bmc),
        with(machine(), "/spec/vm/firmware", firmware),
        with(machine(), "/spec/nics", json!([])),
        with(machine(), "/spec/config", json!({ "files": file })),
        with(machine(), "/spec/config", json!({ "interfaces": [{}] })),
    ];
    for written in objects {
        let kind: Kind = written["kind"].as_str().expect("a kind").parse().expect("one of ours");
        let mut value = written.clone();
        value.as_object_mut().expect("an object").remove("apiVersion");
        let ours: AnyObject = serde_json::from_value(value).expect("it is well-formed");
        let problems = ours.check();
        let refused = said(&client, &namespace, &written).await.expect_err("a rule is broken");
        let told = problems.iter().any(|problem| refused.contains(&problem.message));
        assert!(told, "{kind}: types: {problems:?}\nAPI server: {refused}");
    }
    let secret =
        with(machine(), "/spec/config", json!({ "files": [{ "path": "/x", "secret": { "file": "/root/x" } }] }));
    let refused = said(&client, &namespace, &secret).await.expect_err("a file of one host");
    assert!(refused.contains("name the Secret: {secret: NAME, key: KEY}"), "{refused}");
}

#[tokio::test]
async fn kubectl_scales_a_set_of_machines() {
    let (plane, client) = shared().await;
    let namespace = plane.namespace().expect("a namespace");
    let set = json!({ "template": { "spec": machine()["spec"] } });
    let mut set = object_of(Kind::MachineSet, &set);
    set["spec"]["template"]["spec"]["nics"] = json!([{ "name": "lab", "lan": "lab" }]);
    let api: Api<kube::api::DynamicObject> =
        Api::namespaced_with(client.clone(), &namespace, &object::resource(Kind::MachineSet));
    let parameters = PatchParams::apply("tests").validation_strict();
    let made = api.patch("m", &parameters, &Patch::Apply(&set)).await.expect("it is accepted");
    assert_eq!(made.data["spec"]["replicas"], 1, "the default of the type");
    let mut kubectl = plane.kubectl().expect("kubectl");
    let scaled = kubectl.args(["scale", "machineset/m", "--replicas=3", "--namespace", &namespace]).output();
    let scaled = scaled.expect("kubectl runs");
    assert!(scaled.status.success(), "{}", String::from_utf8_lossy(&scaled.stderr));
    let scale = api.get_scale("m").await.expect("it has a scale");
    assert_eq!(scale.spec.and_then(|spec| spec.replicas), Some(3));
}
