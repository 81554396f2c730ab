//! The chart: what the real helm renders of it, what a real API server says to that, and what nobody in it may.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by it")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use stoke_kube::settings::Settings;
use testbed::kubernetes::ControlPlane;
use testbed::{HELM, go_tool};

const NAMESPACE: &str = "stokehold-system";

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/stokehold")
}

fn values(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/values").join(format!("{name}.yaml"))
}

/// helm without a cluster; its output, or what it says when it fails.
fn helm(arguments: &[&str]) -> Result<String, String> {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(go_tool(HELM).unwrap());
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, home.path());
    }
    let output = command.args(arguments).env_remove("KUBECONFIG").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn rendered(values_file: &str) -> String {
    let (chart, values) = (chart(), values(values_file));
    let arguments =
        ["template", "stokehold", chart.to_str().unwrap(), "--namespace", NAMESPACE, "--kube-version", "1.36.0"];
    helm(&[arguments.as_slice(), &["--values", values.to_str().unwrap()]].concat()).unwrap()
}

/// All objects of what was rendered.
fn objects(values_file: &str) -> Vec<Value> {
    let text = rendered(values_file);
    let documents = text.split("\n---\n").map(|document| document.trim_start_matches("---\n"));
    let objects = documents.map(|document| serde_saphyr::from_str::<Value>(document).unwrap());
    objects.filter(|object| !object.is_null()).collect()
}

fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

fn pod_specs(objects: &[Value]) -> Vec<(String, &Value)> {
    let with_pods = objects.iter().filter(|object| object.pointer("/spec/template/spec").is_some());
    with_pods.map(|object| (object["metadata"]["name"].to_string(), &object["spec"]["template"]["spec"])).collect()
}

#[test]
fn the_least_that_must_be_said() {
    insta::assert_snapshot!(rendered("short"));
}

#[test]
fn everything_that_can_be_said() {
    insta::assert_snapshot!(rendered("full"));
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    for file in ["short", "full"] {
        let (chart, values) = (chart(), values(file));
        helm(&["lint", "--strict", chart.to_str().unwrap(), "--values", values.to_str().unwrap()]).unwrap();
    }
}

#[test]
fn a_misspelt_value_is_refused() {
    let chart = chart();
    let with = |set: &str| {
        helm(&["template", "s", chart.to_str().unwrap(), "--set", "images.registry=r", "--set", set]).unwrap_err()
    };
    assert!(with("operater.replicas=2").contains("'operater' not allowed"));
    assert!(with("images.stoke.digset=x").contains("'digset' not allowed"));
    assert!(with("images.pullPolicy=Sometimes").contains("pullPolicy"));
    assert!(with("vm.extraMemory=many").contains("extraMemory"));
}

#[test]
fn without_a_registry_nothing_is_pulled_from_somewhere() {
    let refused = helm(&["template", "s", chart().to_str().unwrap()]).unwrap_err();
    assert!(refused.contains("--set images.registry="), "{refused}");
}

#[test]
fn the_operator_understands_its_configuration() {
    for file in ["short", "full"] {
        let objects = objects(file);
        let text = named(&objects, "ConfigMap", "stokehold-operator")["data"]["config.json"].as_str().unwrap();
        let settings: Settings = serde_json::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}\n{text}"));
        assert_eq!(settings.namespace, NAMESPACE);
    }
    let objects = objects("full");
    let text = named(&objects, "ConfigMap", "stokehold-operator")["data"]["config.json"].as_str().unwrap();
    let settings: Settings = serde_json::from_str(text).unwrap();
    assert!(settings.images.vm.starts_with("registry.example.org/mirror/stokehold/vm@sha256:"));
    assert_eq!(settings.build.resources.requests["cpu"], "2");
    assert!(!settings.storage.persistent && !settings.vm.evictable && !settings.log_json);
}

#[test]
fn nobody_is_privileged_and_only_the_agent_has_rights_on_the_host() {
    for file in ["short", "full"] {
        assert!(!rendered(file).contains("privileged: true"));
        for (name, spec) in pod_specs(&objects(file)) {
            let container = &spec["containers"][0]["securityContext"];
            assert_eq!(container["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(container["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(container["capabilities"]["drop"], json!(["ALL"]), "{name}");
            let has_host =
                spec["volumes"].as_array().into_iter().flatten().any(|volume| volume["hostPath"].is_object());
            if name.contains("agent") {
                assert_eq!(spec["automountServiceAccountToken"], false);
                continue;
            }
            assert_eq!(container["capabilities"]["add"], Value::Null, "{name}");
            assert!(!has_host && spec["hostNetwork"].is_null() && spec["hostPID"].is_null(), "{name}");
            assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{name}");
            assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        }
    }
}

#[test]
fn nobody_runs_anything_in_pods_of_others_and_no_rule_is_for_everything() {
    for object in objects("full").iter().filter(|object| object["rules"].is_array()) {
        for rule in object["rules"].as_array().unwrap() {
            let name = &object["metadata"]["name"];
            let words = |field: &str| rule[field].as_array().into_iter().flatten().filter_map(Value::as_str);
            if object["kind"] == "ValidatingWebhookConfiguration" {
                continue;
            }
            assert!(!words("resources").any(|word| word == "pods/exec" || word == "*"), "{name}: {rule}");
            assert!(
                !words("verbs").any(|word| ["*", "impersonate", "escalate", "bind"].contains(&word)),
                "{name}: {rule}"
            );
        }
    }
}

#[test]
fn only_the_operator_and_the_uninstaller_are_bound_to_rights() {
    let objects = objects("full");
    let bound = objects.iter().filter_map(|object| object["subjects"].as_array()).flatten();
    let mut bound: Vec<_> = bound.map(|subject| subject["name"].as_str().unwrap()).collect();
    bound.sort_unstable();
    bound.dedup();
    // Whoever has a token of a boot, and may ask for a certificate.
    let booting = "system:bootstrappers:stokehold";
    assert_eq!(bound, ["stokehold-operator", "stokehold-uninstall", booting]);
    let of_booting =
        objects.iter().filter(|object| object["subjects"].as_array().is_some_and(|all| all[0]["name"] == booting));
    let roles: Vec<_> = of_booting.map(|object| object["roleRef"]["name"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system:node-bootstrapper"]);
}

/// The real API server takes everything, strictly, and the operator's account may what it says and no more.
#[test]
fn a_real_cluster_takes_it() {
    let plane = ControlPlane::shared().unwrap();
    plane.ensure_namespace(NAMESPACE).unwrap();
    let run = |arguments: &[&str]| {
        let output = plane.helm().unwrap().args(arguments).args(["--namespace", NAMESPACE]).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let (chart, short) = (chart(), values("short"));
    let (chart, short) = (chart.to_str().unwrap(), short.to_str().unwrap());
    run(&["install", "stokehold", chart, "--values", short]);
    let may = |verb: &str, resource: &str, namespace: &str| {
        let user = format!("system:serviceaccount:{NAMESPACE}:stokehold-operator");
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let mut command = plane.kubectl().unwrap();
        let arguments = ["auth", "can-i", verb, resource, "--namespace", namespace, "--as", &user, "--quiet"];
        command.args(arguments).arg(format!("--subresource={subresource}")).status().unwrap().success()
    };
    assert!(may("create", "pods", "default") && may("patch", "machines.stokehold.dev/status", "default"));
    assert!(may("create", "secrets", NAMESPACE) && !may("create", "secrets", "default"));
    assert!(!may("list", "secrets", "default"), "it reads those that are named, and finds no others");
    assert!(!may("create", "pods/exec", NAMESPACE) && !may("delete", "nodes", "default"));
    // Upgrade and rollback with other values; the hook needs pods, which nothing runs here.
    let others = "operator.replicas=2,join.enabled=true,agent.nodeLabels=false";
    run(&["upgrade", "stokehold", chart, "--values", short, "--set", others]);
    assert!(may("patch", "nodes", "default") && may("create", "secrets", "kube-system"));
    run(&["upgrade", "stokehold", chart, "--values", short, "--set", "agent.nodeLabels=false"]);
    assert!(!may("patch", "nodes", "default"), "it has nothing to say on nodes");
    run(&["rollback", "stokehold", "1"]);
    assert!(may("patch", "nodes", "default") && !may("create", "secrets", "kube-system"));
    run(&["uninstall", "stokehold", "--no-hooks"]);
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/stokehold-operator");
    assert!(plane.api().get(&path).unwrap().is_none());
}
