//! Real machines: what is on a node's wire boots from the farm's pod, as it would from a farm on a host, and joins the cluster that
//! the farm runs in.

use anyhow::{Context as _, Result, ensure};
use cluster::{BOOT_LIMIT, Lab, POD_LIMIT, text, wire_of};
use serde_json::{Value, json};
use testbed::kubernetes::GUEST_IMAGE;
use testbed::machine::{Firmware, Foreign};
use testbed::wait_for;

const SERVER: &str = "apiVersion: stokehold.dev/v1alpha1\nkind: Server\nmetadata: {name: rack1-07, labels: {role: worker}}\nspec:\n  \
    farm: {namespace: default, name: lab}\n  macs: [\"52:54:00:00:00:07\"]\n  address: 10.10.0.27\n";
/// How its nodes join, and what an old farm's file says of that: with a token of its own, which nobody knows here.
const JOINS: &str = r#"  join: {labels: {made-by: stokehold}, tokenSeconds: 900}
  classes:
  - name: workers
    selector: {matchLabels: {role: worker}}
    config: {kubelet: {labels: {pool: wire}, taints: ["new=yes:NoSchedule"]}}
  ltsConf:
    content: |
      [default]
      RCFILE_07_JOIN="kubeadm join 10.9.0.10:6443 --token abcdef.0123456789abcdef --discovery-token-unsafe-skip-ca-verification"
      RCFILE_08_LABEL="kubectl --kubeconfig /etc/kubernetes/kubelet.conf get node rack1-07 --output name >/run/joining && mv /run/joining /run/joined"
"#;
const TOKENS: &str = "/api/v1/namespaces/kube-system/secrets?fieldSelector=type%3Dbootstrap.kubernetes.io/token";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

#[test]
fn a_server_on_the_wire_of_a_node_boots_by_uefi_pxe_from_the_farms_pod_and_joins_the_cluster() -> Result<()> {
    // Where the new node's taint is not tolerated, no agent is started: there is no registry to fetch it from.
    let lab = Lab::start_with_workers(1, &["join.enabled=true", "agent.tolerations=null"])?;
    let node = lab.cluster.nodes.first().context("no node")?;
    let wire = wire_of(node)?;
    lab.apply_workers(JOINS, SERVER)?;
    lab.wait_condition("farm", "lab", "Ready", POD_LIMIT)?;
    ensure!(tokens(&lab)?.is_empty(), "there is a token before anything boots");
    let foreign = Foreign::power_on_large(&wire, "52:54:00:00:00:07", Firmware::UefiPxe, 2048)?;
    let told = || foreign.console();
    let token = wait_for("a token for this boot", BOOT_LIMIT, || Ok(tokens(&lab)?.into_iter().next()));
    check_token(&token.with_context(told)?)?;
    lab.wait_condition("server", "rack1-07", "Ready", BOOT_LIMIT).with_context(told)?;
    tokens(&lab)?.iter().try_for_each(check_token)?;
    ensure!(lab.ssh("server/rack1-07", "hostname")?.trim() == "rack1-07");

    let joined = wait_for("rack1-07 to be ready in the cluster", BOOT_LIMIT, || lab.ready_node("rack1-07"));
    check_node(&joined.with_context(|| lab.kubelet("rack1-07"))?)?;
    wait_for("the token to be deleted", POD_LIMIT, || Ok(tokens(&lab)?.is_empty().then_some(())))?;
    wait_for("all requests of the node to be approved", POD_LIMIT, || Ok(all_approved(&lab)?.then_some(())))?;
    run_pod(&lab, "rack1-07").with_context(|| lab.kubelet("rack1-07"))?;
    let line =
        wait_for("the lines behind the old one", POD_LIMIT, || Ok(lab.ssh("server/rack1-07", "cat /run/joined").ok()));
    ensure!(line.with_context(|| lab.kubelet("rack1-07"))?.trim() == "node/rack1-07");
    drop(foreign);
    lab.uninstall()?;
    let has_uplink = || anyhow::Ok(node.run("ip", &["link", "show"])?.contains("uplink0"));
    wait_for("the uplink to be given back", POD_LIMIT, || Ok(has_uplink()?.then_some(())))
}

fn tokens(lab: &Lab) -> Result<Vec<Value>> {
    lab.items(TOKENS)
}

/// It is for one node, and for minutes.
fn check_token(token: &Value) -> Result<()> {
    ensure!(text(token, "/metadata/annotations/stokehold.dev~1node-name") == "rack1-07", "{token}");
    let script = "echo $(($(date +%s -d \"$(echo $1 | base64 -d)\") - $(date +%s -d $2)))";
    let mut seconds = std::process::Command::new("sh");
    seconds.args(["-c", script, "sh", text(token, "/data/expiration"), text(token, "/metadata/creationTimestamp")]);
    let life: i64 = String::from_utf8(seconds.output()?.stdout)?.trim().parse()?;
    ensure!((890..=901).contains(&life), "it lives for {life} s");
    Ok(())
}

/// Labels of the farm and of its class, and the class's taint.
fn check_node(node: &Value) -> Result<()> {
    let label = |name: &str| text(node, &format!("/metadata/labels/{name}")).to_owned();
    ensure!((label("made-by").as_str(), label("pool").as_str()) == ("stokehold", "wire"), "{node}");
    let taints = node.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
    let ours = json!({"key": "new", "value": "yes", "effect": "NoSchedule"});
    ensure!(taints.contains(&ours), "{taints:?}");
    Ok(())
}

/// What it asked for with the token, and then what it serves with.
fn all_approved(lab: &Lab) -> Result<bool> {
    let requests = lab.items(REQUESTS)?;
    let approved = |request: &Value| {
        let ours = text(request, "/status/conditions/0/reason") == "StokeholdNode";
        ours && request.pointer("/status/certificate").is_some()
    };
    let of = |signer: &str| {
        let signer = format!("kubernetes.io/{signer}");
        requests.iter().any(|request| text(request, "/spec/signerName") == signer && approved(request))
    };
    Ok(of("kube-apiserver-client-kubelet") && of("kubelet-serving"))
}

/// A pod that is nowhere else.
fn run_pod(lab: &Lab, node: &str) -> Result<()> {
    let pod = json!({
        "metadata": {"name": "on-metal"},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "guest", "image": GUEST_IMAGE, "imagePullPolicy": "Never"}],
        },
    });
    lab.cluster.plane.api().create("/api/v1/namespaces/default/pods", &pod)?;
    wait_for("a pod on it", BOOT_LIMIT, || {
        let pod = lab.cluster.plane.api().get("/api/v1/namespaces/default/pods/on-metal")?.unwrap_or_default();
        Ok((text(&pod, "/status/phase") == "Running").then_some(()))
    })
}
