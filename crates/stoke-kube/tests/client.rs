//! The client of people against a real API server: objects, requests, rights.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use stoke_api::control::{Change, PowerAction};
use stoke_api::{AnyObject, Kind, ObjectRef};
use stoke_kube::client::{Access, Cluster, ClusterError};
use testbed::kubernetes::{ControlPlane, Kubeconfig};

struct Bench {
    plane: &'static ControlPlane,
    namespace: String,
    folder: tempfile::TempDir,
}

impl Bench {
    /// The shared control plane with our kinds, and a namespace of one's own.
    async fn new() -> Self {
        let plane = tokio::task::spawn_blocking(|| ControlPlane::shared().unwrap()).await.unwrap();
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let kubeconfig = kube::config::Kubeconfig::read_from(plane.kubeconfig_file()).unwrap();
        let options = kube::config::KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        stoke_kube::crd::install(&kube::Client::try_from(config).unwrap(), "test").await.unwrap();
        let namespace = tokio::task::spawn_blocking(|| plane.namespace().unwrap()).await.unwrap();
        Self { plane, namespace, folder: tempfile::tempdir().unwrap() }
    }

    async fn cluster_of(&self, kubeconfig: PathBuf) -> Cluster {
        let namespace = Some(self.namespace.parse().unwrap());
        let access =
            Access { kubeconfig: Some(kubeconfig), namespace, system: "stokehold-system".into(), context: None };
        Cluster::connect(&access).await.unwrap()
    }

    async fn cluster(&self) -> Cluster {
        self.cluster_of(self.plane.kubeconfig_file()).await
    }

    async fn as_user(&self, user: &str) -> Cluster {
        let kubeconfig: Kubeconfig = self.plane.kubeconfig_for_user(user, None).unwrap();
        let path = self.folder.path().join(user);
        kubeconfig.write(&path).unwrap();
        self.cluster_of(path).await
    }

    fn reference(&self, kind: Kind, name: &str) -> ObjectRef {
        ObjectRef { kind, namespace: Some(self.namespace.parse().unwrap()), name: name.parse().unwrap() }
    }

    async fn post(&self, path: String, object: Value) {
        let plane = self.plane;
        tokio::task::spawn_blocking(move || plane.api().create(&path, &object).unwrap()).await.unwrap();
    }
}

fn object(value: Value) -> AnyObject {
    serde_json::from_value(value).unwrap()
}

/// What a machine needs.
fn lab() -> Vec<AnyObject> {
    let image = json!({"kind": "Image", "metadata": {"name": "node"}, "spec": {
        "source": {"debian": {"suite": "bookworm", "packages": ["linux-image-amd64"]}}, "forms": {"netboot": {}},
    }});
    let farm = json!({"kind": "Farm", "metadata": {"name": "lab"}, "spec": {"lan": "lab", "image": "node"}});
    vec![object(image), lan(), object(farm)]
}

fn lan() -> AnyObject {
    object(json!({"kind": "Lan", "metadata": {"name": "lab"}, "spec": {
        "subnets": [{"name": "v4", "cidr": "10.10.0.0/24", "gateway": "10.10.0.1", "pools": ["10.10.0.100-10.10.0.199"]}],
    }}))
}

fn with(more: &[AnyObject]) -> Vec<AnyObject> {
    [lab().as_slice(), more].concat()
}

fn machine(name: &str, address: &str) -> AnyObject {
    object(json!({"kind": "Machine", "metadata": {"name": name}, "spec": {
        "farm": "lab", "vm": {"cpus": 1, "memory": "256Mi"}, "nics": [{"name": "lab", "lan": "lab", "address": address}],
    }}))
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_applied_shown_and_deleted() {
    let bench = Bench::new().await;
    let cluster = bench.cluster().await;
    let objects = with(&[machine("a", "10.10.0.21")]);
    let rehearsed = cluster.apply(&objects, true).await.unwrap();
    assert!(rehearsed.iter().all(|(_, change)| *change == Change::Created));
    assert!(cluster.list(Kind::Lan, Some(cluster.namespace()), &mut |_| {}).await.unwrap().is_empty());

    let applied = cluster.apply(&objects, false).await.unwrap();
    assert_eq!(applied.len(), 4);
    let again = cluster.apply(&objects, false).await.unwrap();
    assert!(again.iter().all(|(_, change)| *change == Change::Unchanged), "{again:?}");
    let mut other = lan();
    other.metadata_mut().name = "other".parse().unwrap();
    let beside = cluster.apply(&[other], false).await.unwrap();
    assert_eq!(beside[0].1, Change::Created, "each LAN of a cluster has a router of its own");
    let moved = cluster.apply(&[machine("a", "10.10.0.22")], false).await.unwrap();
    assert_eq!(moved[0].1, Change::Updated);

    let found = cluster.object(&bench.reference(Kind::Machine, "a")).await.unwrap();
    let AnyObject::Machine(found) = found else { panic!("no machine") };
    assert_eq!(found.spec.nics[0].address.unwrap().to_string(), "10.10.0.22");
    cluster.delete(&bench.reference(Kind::Machine, "a")).await.unwrap();
    let gone = cluster.object(&bench.reference(Kind::Machine, "a")).await.unwrap_err();
    assert!(matches!(gone, ClusterError::NotFound(_)), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_contradict_what_is_there_are_refused_before_anything_is_written() {
    let bench = Bench::new().await;
    let cluster = bench.cluster().await;
    cluster.apply(&with(&[machine("a", "10.10.0.21")]), false).await.unwrap();
    let refused = cluster.apply(&[machine("b", "10.10.0.21"), machine("c", "10.10.0.23")], false).await.unwrap_err();
    let ClusterError::Invalid(problems) = refused else { panic!("{refused}") };
    assert!(problems.iter().any(|problem| problem.message.contains("10.10.0.21")), "{problems:?}");
    let machines = cluster.list(Kind::Machine, Some(cluster.namespace()), &mut |_| {}).await.unwrap();
    assert_eq!(machines.len(), 1, "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn power_is_asked_for_with_the_persons_own_rights() {
    let bench = Bench::new().await;
    bench.cluster().await.apply(&with(&[machine("a", "10.10.0.21")]), false).await.unwrap();
    let namespace = &bench.namespace;
    let user = format!("operator-{namespace}");
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
    let rules = json!([
        {"apiGroups": ["stokehold.dev"], "resources": ["machines"], "verbs": ["get", "list"]},
        {"apiGroups": ["stokehold.dev"], "resources": ["machines/status"], "verbs": ["patch"]},
    ]);
    bench.post(format!("{rbac}/roles"), json!({"metadata": {"name": "power"}, "rules": rules})).await;
    let binding = json!({
        "metadata": {"name": "power"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "power"},
        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
    });
    bench.post(format!("{rbac}/rolebindings"), binding).await;
    let machine = bench.reference(Kind::Machine, "a");

    let cluster = bench.as_user(&user).await;
    let status = async || match cluster.object(&machine).await.unwrap() {
        AnyObject::Machine(machine) => machine.status,
        other => panic!("{}", other.reference()),
    };
    cluster.power(&machine, PowerAction::Reboot).await.unwrap();
    cluster.power(&machine, PowerAction::Stop).await.unwrap();
    assert!(status().await.stop_requested);
    assert_eq!(status().await.reboots_requested, 1);
    let refused = cluster.power(&machine, PowerAction::Reboot).await.unwrap_err();
    assert_eq!(refused.to_string(), "it is stopped; start it");
    cluster.power(&machine, PowerAction::Start).await.unwrap();
    assert!(!status().await.stop_requested);

    let refused = cluster.delete(&machine).await.unwrap_err();
    assert!(matches!(refused, ClusterError::Forbidden(_)), "{refused}");
    let stranger = bench.as_user(&format!("stranger-{namespace}")).await;
    let refused = stranger.power(&machine, PowerAction::Stop).await.unwrap_err();
    assert!(matches!(refused, ClusterError::Forbidden(_)), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_scaled() {
    let bench = Bench::new().await;
    let cluster = bench.cluster().await;
    let set = object(json!({"kind": "MachineSet", "metadata": {"name": "web"}, "spec": {
        "replicas": 2,
        "template": {"spec": {"farm": "lab", "vm": {"cpus": 1, "memory": "256Mi"}, "nics": [{"name": "lab", "lan": "lab"}]}},
    }}));
    cluster.apply(&with(&[set]), false).await.unwrap();
    let reference = bench.reference(Kind::MachineSet, "web");
    cluster.scale(&reference, 5).await.unwrap();
    let AnyObject::MachineSet(set) = cluster.object(&reference).await.unwrap() else { panic!("no set") };
    assert_eq!(set.spec.replicas, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_as_they_happen() {
    let bench = Bench::new().await;
    let cluster = bench.cluster().await;
    cluster.apply(&lab(), false).await.unwrap();
    let mut watch = cluster.watch(&[Kind::Lan, Kind::Machine], Some(cluster.namespace()));
    let mut next = async || tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap().unwrap();
    let first = next().await;
    assert_eq!((first.change, first.object.kind()), (Change::Created, Kind::Lan));
    cluster.apply(&[machine("a", "10.10.0.21")], false).await.unwrap();
    assert_eq!(next().await.change, Change::Created);
    cluster.power(&bench.reference(Kind::Machine, "a"), PowerAction::Stop).await.unwrap();
    assert_eq!(next().await.change, Change::Updated);
    cluster.delete(&bench.reference(Kind::Machine, "a")).await.unwrap();
    assert_eq!(next().await.change, Change::Deleted);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uninstallation_waits_for_the_operators_answer() {
    let bench = Bench::new().await;
    let cluster = bench.cluster().await;
    let limit = Duration::from_secs(30);
    assert!(cluster.uninstall("stokehold-operator", limit).await.unwrap().failures.is_empty(), "nobody ever led");
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", bench.namespace);
    bench.post(leases.clone(), json!({"metadata": {"name": "stokehold-operator"}})).await;

    let asking = cluster.clone();
    let asked = tokio::spawn(async move { asking.uninstall("stokehold-operator", limit).await });
    let (plane, namespace) = (bench.plane, bench.namespace.clone());
    let (lease, named) = (format!("{leases}/stokehold-operator"), namespace.clone());
    let words = ["stokehold.dev/uninstall=done", "stokehold.dev/uninstall-failures=node-1: no answer"];
    tokio::task::spawn_blocking(move || answer(plane, &named, &lease, &words)).await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap().failures, ["node-1: no answer"]);

    // Answered without failures, the operator's keys go, and nobody else's.
    let secrets = format!("/api/v1/namespaces/{namespace}/secrets");
    let managed = json!({"app.kubernetes.io/managed-by": "stokehold"});
    bench.post(secrets.clone(), json!({"metadata": {"name": "stokehold-ca", "labels": managed}})).await;
    bench.post(secrets.clone(), json!({"metadata": {"name": "other"}})).await;
    let asking = cluster.clone();
    let asked = tokio::spawn(async move { asking.uninstall("stokehold-operator", limit).await });
    let lease = format!("{leases}/stokehold-operator");
    tokio::task::spawn_blocking(move || answer(plane, &namespace, &lease, &["stokehold.dev/uninstall=done"]))
        .await
        .unwrap();
    assert!(asked.await.unwrap().unwrap().failures.is_empty());
    let there = async |name: &str| {
        let path = format!("{secrets}/{name}");
        tokio::task::spawn_blocking(move || plane.api().get(&path).unwrap().is_some()).await.unwrap()
    };
    assert!(there("other").await && !there("stokehold-ca").await);

    // Asked again, it is not satisfied with the old answer.
    let late = cluster.uninstall("stokehold-operator", Duration::from_secs(2)).await.unwrap_err();
    assert!(late.to_string().contains("within 2 seconds"), "{late}");
}

/// The operator, who sees the request and answers.
fn answer(plane: &ControlPlane, namespace: &str, lease: &str, words: &[&str]) {
    testbed::wait_for("the request", Duration::from_secs(20), || {
        let lease = plane.api().get(lease)?.unwrap_or_default();
        let value = lease.pointer("/metadata/annotations/stokehold.dev~1uninstall").cloned();
        let cleared = lease.pointer("/metadata/annotations/stokehold.dev~1uninstall-failures").is_none();
        Ok((value == Some("requested".into()) && cleared).then_some(()))
    })
    .unwrap();
    let mut command = plane.kubectl().unwrap();
    command.args(["annotate", "lease", "stokehold-operator", "--overwrite", "--namespace", namespace]).args(words);
    assert!(command.status().unwrap().success());
}
