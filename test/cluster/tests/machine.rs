//! The main job in a cluster: a machine without a disk boots over the network from its farm's pod.

use std::io::Read as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use cluster::{BOOT_LIMIT, Lab, POD_LIMIT, SYSTEM, Victim, victims};
use serde_json::Value;
use testbed::wait_for;

use crate::memory;

/// The roles of the cluster's own pods, by label.
const ROLES: [&str; 4] = [
    "app.kubernetes.io/component=operator",
    "app.kubernetes.io/component=agent",
    "stokehold.dev/role=router",
    "stokehold.dev/role=farm",
];

/// What the example's machine has beside.
const PORTS: &str = "  ports: [{name: ssh, port: 22, servicePort: 2222}]\n  serviceType: NodePort\n";

#[test]
fn the_chart_runs_a_machine_that_boots_from_its_farm() -> Result<()> {
    let lab = Lab::start_previous()?;
    let machine = include_str!("../../../examples/netboot/machines.yaml");
    ensure!(machine.contains("  farm: lab\n"), "the example's machine has another form");
    lab.apply_example("", &machine.replace("  farm: lab\n", &format!("  farm: lab\n{PORTS}")))?;
    lab.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT)?;
    people_reach_it(&lab)?;
    a_service_reaches_it(&lab)?;
    memory::beside_the_guests_is_what_its_pod_asks_for(&lab, &guest(&lab)?)?;
    the_version_changes_and_it_runs_on(&lab, "upgrade", Lab::upgrade)?;
    the_version_changes_and_it_runs_on(&lab, "rollback", Lab::roll_back)?;
    everything_else_is_killed_and_it_runs_on(&lab)?;
    lab.uninstall()?;
    nothing_is_left_but_what_people_wrote(&lab)
}

/// By the plugin: list, console, ssh.
fn people_reach_it(lab: &Lab) -> Result<()> {
    let listed = cluster::check(lab.stoke()?.args(["get", "machines"]))?;
    let line = listed.lines().find(|line| line.starts_with("node-1")).context("it is not listed")?;
    ensure!(line.contains("True") && line.contains("10.10.0.21"), "{listed}");
    prompt(lab)?;
    let said = lab.ssh("node-1", "cat /proc/cmdline; findmnt --noheadings --output FSTYPE /")?;
    ensure!(said.contains("overlay"), "{said}");
    Ok(())
}

/// By its Service: at the cluster's own address, and at a port of the node.
fn a_service_reaches_it(lab: &Lab) -> Result<()> {
    lab.wait_condition("machine", "node-1", "Exposed", POD_LIMIT)?;
    let service: Value = serde_json::from_str(&lab.kubectl(&["get", "service", "node-1", "--output", "json"])?)?;
    let text = |pointer: &str| {
        let value = service.pointer(pointer).context("the Service has no address")?;
        anyhow::Ok(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    let node = lab.cluster.nodes.first().context("no node")?.address().to_string();
    for (address, port) in [(text("/spec/clusterIP")?, "2222".to_owned()), (node, text("/spec/ports/0/nodePort")?)] {
        let said =
            wait_for("ssh by the Service", POD_LIMIT, || Ok(lab.ssh_from_node(&address, &port, "hostname").ok()));
        let said = said.with_context(|| format!("{:?}", lab.ssh_from_node(&address, &port, "hostname")))?;
        ensure!(said.trim() == "node-1", "{address} {port}: {said}");
    }
    Ok(())
}

/// Another version of the chart: all pods are of it but the machine's, which is the same, as is its guest.
fn the_version_changes_and_it_runs_on(lab: &Lab, what: &str, change: fn(&Lab) -> Result<()>) -> Result<()> {
    let state = "cat /proc/sys/kernel/random/boot_id";
    let (boot, guest, pod) = (lab.ssh("node-1", state)?, guest(lab)?, pod_of_machine(lab)?);
    let old = images(lab)?;
    change(lab)?;
    wait_for(&format!("all pods to be of the version of the {what}"), POD_LIMIT, || {
        let new = images(lab)?;
        Ok((new.len() == ROLES.len() && new.iter().all(|image| !old.contains(image))).then_some(()))
    })
    .with_context(|| lab.story())?;
    for (kind, name) in [("lan", "lab"), ("farm", "lab"), ("machine", "node-1")] {
        lab.wait_condition(kind, name, "Ready", POD_LIMIT)?;
    }
    let after = wait_for("the machine's door", POD_LIMIT, || Ok(lab.ssh("node-1", state).ok()));
    let after = after.with_context(|| lab.story())?;
    ensure!(after == boot, "the guest is another after the {what}: {boot:?} {after:?}");
    ensure!(self::guest(lab)? == guest && guest.lives(), "the guest was started a second time by the {what}");
    ensure!(pod_of_machine(lab)? == pod, "the machine's pod is another after the {what}");
    a_service_reaches_it(lab)
}

/// What the pods run that are not machines.
fn images(lab: &Lab) -> Result<Vec<String>> {
    let all = "jsonpath={range .items[*]}{.metadata.labels.app\\.kubernetes\\.io/component}={.spec.containers[0].image}{'\\n'}{end}";
    let said = lab.kubectl(&["--namespace", SYSTEM, "get", "pods", "--output", all])?;
    let roles = ["operator=", "agent=", "router=", "farm="];
    let of_role = |line: &&str| roles.iter().any(|role| line.starts_with(role));
    Ok(said.lines().filter(of_role).map(str::to_owned).collect())
}

/// The machine's pod and its container.
fn pod_of_machine(lab: &Lab) -> Result<String> {
    let which = "jsonpath={.metadata.uid} {.status.containerStatuses[0].containerID}";
    lab.kubectl(&["get", "pod", "vm-default-node-1", "--output", which])
}

/// The console answers who presses Enter.
fn prompt(lab: &Lab) -> Result<()> {
    let mut console = lab.stoke()?;
    console.args(["console", "node-1"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = console.spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    let mut output = child.stdout.take().context("no output")?;
    let (sender, shown) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 1024];
        while let Ok(count @ 1..) = output.read(&mut bytes) {
            if sender.send(String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()).into_owned()).is_err() {
                return;
            }
        }
    });
    let mut text = String::new();
    let answered = wait_for("a prompt on the console", Duration::from_mins(1), || {
        std::io::Write::write_all(&mut input, b"\r")?;
        while let Ok(more) = shown.recv_timeout(Duration::from_secs(2)) {
            text.push_str(&more);
        }
        Ok(text.contains("root@node-1").then_some(()))
    });
    child.kill()?;
    child.wait()?;
    answered.with_context(|| format!("the console shows {text:?}"))
}

fn everything_else_is_killed_and_it_runs_on(lab: &Lab) -> Result<()> {
    let guest = guest(lab)?;
    let state = "cat /proc/sys/kernel/random/boot_id /run/marked";
    lab.ssh("node-1", "echo kept > /run/marked")?;
    let before = lab.ssh("node-1", state)?;
    ensure!(before.contains("kept"), "{before}");
    let old = roles(lab)?;
    old.iter().try_for_each(Victim::kill)?;
    wait_for("all that was killed to be started again", POD_LIMIT, || {
        let Ok(new) = roles(lab) else { return Ok(None) };
        Ok(new.iter().all(|one| !old.contains(one)).then_some(()))
    })
    .with_context(|| lab.story())?;
    let after = wait_for("the machine's door after all was killed", POD_LIMIT, || Ok(lab.ssh("node-1", state).ok()))
        .with_context(|| lab.story())?;
    ensure!(after == before, "the guest is another: {before:?} {after:?}");
    ensure!(self::guest(lab)? == guest && guest.lives(), "the guest was started a second time");
    for (kind, name) in [("lan", "lab"), ("farm", "lab"), ("machine", "node-1")] {
        lab.wait_condition(kind, name, "Ready", POD_LIMIT)?;
    }
    Ok(())
}

fn roles(lab: &Lab) -> Result<Vec<Victim>> {
    let found = ROLES.iter().map(|labels| victims(lab, SYSTEM, labels, "stoke serve")).collect::<Result<Vec<_>>>()?;
    Ok(found.concat())
}

fn guest(lab: &Lab) -> Result<Victim> {
    let found = victims(lab, "default", "stokehold.dev/role=vm", "qemu-system-x86_64")?;
    found.into_iter().next().context("no guest")
}

/// No pods, no hold on objects, nothing of ours on the node. Objects stay, and a machine's volume with its machine.
fn nothing_is_left_but_what_people_wrote(lab: &Lab) -> Result<()> {
    let pods = ["get", "pods", "--all-namespaces", "--output", "name"];
    wait_for("all pods to be gone", POD_LIMIT, || Ok(lab.kubectl(&pods)?.trim().is_empty().then_some(())))
        .with_context(|| lab.story())?;
    let held = "jsonpath={.items[*].metadata.finalizers}";
    let held = lab.kubectl(&["get", "stokehold", "--all-namespaces", "--output", held])?;
    ensure!(held.trim().is_empty(), "objects are held: {held}");
    lab.kubectl(&["delete", "images,lans,farms,machines", "--all", "--timeout", "30s"])?;
    wait_for("all of ours to be gone", POD_LIMIT, || Ok(ours(lab)?.is_empty().then_some(())))
        .with_context(|| format!("left in the cluster: {:?}", ours(lab)))?;
    for node in &lab.cluster.nodes {
        let left = traces(node)?;
        if !left.is_empty() {
            bail!("left on {}: {left:#?}", node.name());
        }
    }
    Ok(())
}

/// What is in the cluster of ours beside objects and their definitions.
fn ours(lab: &Lab) -> Result<Vec<String>> {
    let kinds = "configmaps,secrets,persistentvolumeclaims,jobs,poddisruptionbudgets,leases,services,endpointslices";
    let all: Value = serde_json::from_str(&lab.kubectl(&["get", kinds, "--all-namespaces", "--output", "json"])?)?;
    let names = all.get("items").and_then(Value::as_array).into_iter().flatten().filter_map(|one| {
        let name = one.pointer("/metadata/name")?.as_str()?;
        let labels = one.pointer("/metadata/labels").map(ToString::to_string).unwrap_or_default();
        (labels.contains("stokehold") || name.starts_with("stokehold")).then(|| name.to_owned())
    });
    Ok(names.collect())
}

/// Links, mounts, packet filters and files of ours on a node. /run/stokehold itself is the kubelet's, which makes it for the
/// agent's pod.
fn traces(node: &testbed::kubernetes::Node) -> Result<Vec<String>> {
    let asked: [(&str, &[&str]); 5] = [
        ("ip", &["link", "show"]),
        ("cat", &["/proc/self/mountinfo"]),
        ("nft", &["list", "tables"]),
        ("ls", &["/run/netns"]),
        ("find", &["/run/stokehold", "/var/lib/kubelet/device-plugins", "-mindepth", "1"]),
    ];
    let mut left = Vec::new();
    for (program, arguments) in asked {
        // A folder that is not there is what we want.
        let said = node.command(program).args(arguments).output()?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        left.extend(said.lines().filter(|line| line.contains("stokehold")).map(str::to_owned));
    }
    Ok(left)
}
