//! A rolling update of nodes that have joined: what runs on them stays available.

use anyhow::{Context as _, Result, bail, ensure};
use cluster::{BOOT_LIMIT, Lab, POD_LIMIT, text, wire_of};
use serde_json::{Value, json};
use testbed::kubernetes::GUEST_IMAGE;
use testbed::machine::{Firmware, Foreign};
use testbed::wait_for;

const SERVERS: [(&str, &str, &str); 2] =
    [("rack1-07", "52:54:00:00:00:07", "10.10.0.27"), ("rack1-08", "52:54:00:00:00:08", "10.10.0.28")];
/// They go over to another version one at a time, and the next one as soon as one is ready.
const JOINS: &str = "  join: {labels: {pool: wire}, taints: [\"new=yes:NoSchedule\"]}\n  \
    update: {maxUnavailable: 1, canary: 0, healthGate: {minutes: 0}}\n";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments";

#[test]
fn a_workload_of_two_nodes_stays_available_while_both_go_over_to_another_version() -> Result<()> {
    let lab = Lab::start_with_workers(1, &["join.enabled=true", "agent.tolerations=null"])?;
    let wire = wire_of(lab.cluster.nodes.first().context("no node")?)?;
    let server = |(name, mac, address): (&str, &str, &str)| {
        format!(
            "---\napiVersion: stokehold.dev/v1alpha1\nkind: Server\nmetadata: {{name: {name}}}\nspec:\n  \
             farm: {{namespace: default, name: lab}}\n  macs: [\"{mac}\"]\n  address: {address}\n"
        )
    };
    lab.apply_workers(JOINS, &SERVERS.map(server).concat())?;
    lab.wait_condition("farm", "lab", "Ready", POD_LIMIT)?;
    // The other version is made of the first one without what UEFI boots.
    let power_on = |(_, mac, _): (&str, &str, &str)| Foreign::power_on_large(&wire, mac, Firmware::Bios, 2048);
    let _machines = SERVERS.into_iter().map(power_on).collect::<Result<Vec<_>>>()?;
    for (name, ..) in SERVERS {
        let ready = wait_for(&format!("{name} to join"), BOOT_LIMIT * 2, || lab.ready_node(name));
        ready.with_context(|| lab.kubelet(name))?;
    }
    run_workload(&lab)?;
    wait_for("both replicas", POD_LIMIT, || Ok((available(&lab)? == 2).then_some(())))?;

    let digest = e2e::publish_variant(&lab.store_images(), "default/worker", &["stokehold.test=other"])?;
    let all_updated = || {
        let servers = SERVERS.into_iter().map(|(name, ..)| lab.object("server", name)).collect::<Result<Vec<_>>>()?;
        anyhow::Ok(servers.iter().all(|server| text(server, "/status/node/image") == digest))
    };
    wait_for("both nodes with the other version, and both replicas", BOOT_LIMIT * 4, || {
        let available = available(&lab)?;
        ensure!(available >= 1, "the workload is not available: {}", lab.story());
        Ok((available == 2 && all_updated()?).then_some(()))
    })?;
    for (name, ..) in SERVERS {
        let node = lab.ready_node(name)?.with_context(|| format!("{name} is not ready"))?;
        if node.pointer("/spec/unschedulable").is_some_and(|value| value == &json!(true)) {
            bail!("{name} is still cordoned");
        }
    }
    lab.uninstall()
}

/// Two replicas, never on the same node, of which one must always be available.
fn run_workload(lab: &Lab) -> Result<()> {
    let selector = json!({"matchLabels": {"app": "web"}});
    let apart = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": selector}]);
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": selector, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "nodeSelector": {"pool": "wire"},
                "tolerations": [{"key": "new", "operator": "Exists"}],
                "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": apart}},
                "containers": [{"name": "web", "image": GUEST_IMAGE, "imagePullPolicy": "Never"}],
                "terminationGracePeriodSeconds": 5,
            },
        }},
    });
    let budget = json!({"metadata": {"name": "web"}, "spec": {"minAvailable": 1, "selector": selector}});
    lab.cluster.plane.api().create(DEPLOYMENT, &deployment)?;
    lab.cluster.plane.api().create("/apis/policy/v1/namespaces/default/poddisruptionbudgets", &budget)?;
    Ok(())
}

fn available(lab: &Lab) -> Result<u64> {
    let deployment = lab.cluster.plane.api().get(&format!("{DEPLOYMENT}/web"))?.unwrap_or_default();
    Ok(deployment.pointer("/status/availableReplicas").and_then(Value::as_u64).unwrap_or_default())
}
