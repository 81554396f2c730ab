//! Clusters: what the tests of Kubernetes stand on.

use std::process::Command;
use std::time::Duration;

use serde_json::json;
use testbed::kubernetes::{Cluster, ControlPlane, GUEST_IMAGE, Options, PretendNodes};
use testbed::wait_for;

/// Runs a command that must succeed.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn kubectl(plane: &ControlPlane, arguments: &[&str]) -> String {
    said(plane.kubectl().unwrap().args(arguments))
}

/// What `kubectl auth whoami` says of somebody.
fn name(plane: &ControlPlane, file: &std::path::Path) -> String {
    let mut command = plane.kubectl().unwrap();
    command.arg("--kubeconfig").arg(file).args(["auth", "whoami", "--output", "jsonpath={.status.userInfo.username}"]);
    said(&mut command)
}

#[test]
fn kubernetes_knows_users_by_certificates_and_tokens() {
    let plane = ControlPlane::shared().unwrap();
    let namespace = plane.namespace().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubeconfig");
    plane.kubeconfig_for_user("alice", Some("people")).unwrap().write(&file).unwrap();
    assert_eq!(name(plane, &file), "alice");
    plane.kubeconfig_for_service_account(&namespace, "default").unwrap().write(&file).unwrap();
    assert_eq!(name(plane, &file), format!("system:serviceaccount:{namespace}:default"));
    plane.kubeconfig().in_namespace(&namespace).write(&file).unwrap();
    assert_eq!(name(plane, &file), "testbed");
}

#[test]
fn kubernetes_keeps_objects_over_outages_of_its_servers() {
    let plane = ControlPlane::start(Options::default()).unwrap();
    let namespace = plane.namespace().unwrap();
    plane.stop_api_server().unwrap();
    assert!(!plane.api().is_ready() && plane.stop_api_server().is_err());
    plane.start_api_server().unwrap();
    plane.restart_etcd().unwrap();
    assert!(plane.api().get(&format!("/api/v1/namespaces/{namespace}")).unwrap().is_some());
}

#[test]
fn kubernetes_pretends_nodes_and_helm_installs_on_them() {
    let plane = ControlPlane::start(Options { controllers: true, scheduler: true, ..Options::default() }).unwrap();
    let _nodes = PretendNodes::start(&plane, 3).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs_err::create_dir(folder.path().join("templates")).unwrap();
    fs_err::write(folder.path().join("Chart.yaml"), "apiVersion: v2\nname: pods\nversion: 1.0.0\n").unwrap();
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "{{ .Release.Name }}"},
        "spec": {"containers": [{"name": "main", "image": "nobody-pulls-this"}]},
    });
    fs_err::write(folder.path().join("templates/pod.yaml"), pod.to_string()).unwrap();
    plane.ensure_namespace("default").unwrap();
    said(plane.helm().unwrap().args(["install", "one"]).arg(folder.path()));
    kubectl(&plane, &["wait", "--for=jsonpath={.status.phase}=Running", "pod/one", "--timeout=60s"]);
    let node = kubectl(&plane, &["get", "pod", "one", "--output=jsonpath={.spec.nodeName}"]);
    assert!(node.starts_with("pretend"), "{node}");
}

fn pod(name: &str, node: &str, restricted: bool) -> serde_json::Value {
    let security = if restricted {
        json!({"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}})
    } else {
        json!({})
    };
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": node,
            "hostUsers": !restricted,
            "securityContext": security,
            "terminationGracePeriodSeconds": 5,
            "containers": [{"name": "main", "image": GUEST_IMAGE, "imagePullPolicy": "Never", "args": ["serve", ":8080"]}],
        },
    })
}

#[test]
fn kubernetes_node_runs_a_pod() {
    let mut cluster = Cluster::start(2).unwrap();
    let (plane, api) = (&cluster.plane, cluster.plane.api());
    let pods = "/api/v1/namespaces/default/pods";
    api.create(pods, &pod("near", "node0", false)).unwrap();
    // In a user namespace of its own, as the strictest of namespaces wants it.
    api.create(pods, &pod("far", "node1", true)).unwrap();
    let service = json!({"metadata": {"name": "near"}, "spec": {"selector": {"app": "near"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    let service = api.create("/api/v1/namespaces/default/services", &service).unwrap();
    let url = format!("http://{}/", service["spec"]["clusterIP"].as_str().unwrap());
    kubectl(plane, &["wait", "--for=condition=Ready", "pod/near", "pod/far", "--timeout=60s"]);
    // From another node, from its own, and from the pod itself, each as soon as kube-proxy knows.
    for from in ["far", "near"] {
        let get = || plane.kubectl().unwrap().args(["exec", from, "--", "/guest", "get", &url]).output();
        let answer = wait_for("the Service", Duration::from_secs(20), || {
            let output = get()?;
            Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
        });
        assert_eq!(answer.unwrap(), "near here\n", "from {from}");
    }
    assert_eq!(kubectl(plane, &["logs", "near"]), "serving at :8080\n");
    kubectl(plane, &["delete", "pod", "near", "far", "--timeout=60s"]);
    assert!(api.get(&format!("{pods}/near")).unwrap().is_none());
    node_goes_without_a_trace(&mut cluster);
}

fn node_goes_without_a_trace(cluster: &mut Cluster) {
    let mut node = cluster.nodes.remove(0);
    // The kubelet comes back to the same containers.
    node.stop_kubelet().unwrap();
    node.start_kubelet().unwrap();
    node.wait_until_ready(&cluster.plane).unwrap();
    // So it does after a power cut.
    node.power_off();
    node.power_on(&cluster.plane, &cluster.network).unwrap();
    let (process, folder) = (node.process(), node.folder().to_owned());
    let cgroups = |name: &str| said(Command::new("find").args(["/sys/fs/cgroup", "-maxdepth", "2", "-name", name]));
    let cgroup = node.cgroup().to_owned();
    assert!(folder.exists() && !cgroups(&cgroup).is_empty());
    drop(node);
    assert!(!std::path::Path::new(&format!("/proc/{process}/root")).exists() && !folder.exists());
    assert_eq!(cgroups(&cgroup), "");
    let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(folder.to_str().unwrap()));
}
