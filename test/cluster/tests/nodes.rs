//! Several nodes: a LAN is one LAN wherever its machines are.

use anyhow::{Context as _, Result, ensure};
use cluster::{BOOT_LIMIT, Lab};
use serde_json::Value;

/// Router and farm on the first node.
const VALUES: [&str; 2] =
    ["router.nodeSelector.kubernetes\\.io/hostname=node0", "farm.nodeSelector.kubernetes\\.io/hostname=node0"];

#[test]
fn a_machine_boots_from_a_farm_on_another_node() -> Result<()> {
    let lab = Lab::start(2, &VALUES)?;
    let machines = include_str!("../../../examples/netboot/machines.yaml");
    let elsewhere = "  scheduling: {nodeSelector: {kubernetes.io/hostname: node1}}\n";
    ensure!(machines.contains("  farm: lab\n"), "the example's machine has another form");
    lab.apply_example("", &machines.replace("  farm: lab\n", &format!("  farm: lab\n{elsewhere}")))?;
    lab.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT)?;
    let pods = lab.kubectl(&["get", "pods", "--all-namespaces", "--output", "json"])?;
    let pods: Value = serde_json::from_str(&pods)?;
    for (name, node) in [("farm-default-lab", "node0"), ("router-default-lab", "node0"), ("vm-default-node-1", "node1")]
    {
        let items = pods.get("items").and_then(Value::as_array).into_iter().flatten();
        let mut found = items.filter(|pod| pod.pointer("/metadata/name") == Some(&name.into()));
        let pod = found.next().with_context(|| format!("no pod {name}"))?;
        ensure!(pod.pointer("/spec/nodeName") == Some(&node.into()), "{name} is elsewhere: {pod}");
    }
    // Frames as large as the LAN says go through the overlay, too.
    let said = lab.ssh("node-1", "ping -c 2 -W 3 -M do -s 1400 10.10.0.2 && ping -c 2 -W 3 10.10.0.1")?;
    ensure!(said.matches(" 0% packet loss").count() == 2, "{said}");
    lab.uninstall()
}
