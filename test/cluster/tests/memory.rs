//! What a machine's pod needs beside its guest's memory, as the kubelet counts it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cluster::{Lab, Victim};
use serde_json::Value;
use testbed::wait_for;

/// The kubelet counts every ten seconds or so.
const COUNTED: Duration = Duration::from_mins(1);
/// Memory of the example's machine.
const GUEST: u64 = 1 << 30;

/// The pod's working set without the guest's pages is within what it asks for beside the guest's memory: so it is, too, when
/// the guest has touched all of that.
pub(crate) fn beside_the_guests_is_what_its_pod_asks_for(lab: &Lab, guest: &Victim) -> Result<()> {
    let node = lab.cluster.nodes.first().context("no node")?.name();
    let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    let touched = guest_pages(guest)?;
    let count = || anyhow::Ok(working_set(&serde_json::from_str(&lab.kubectl(&["get", "--raw", &path])?)?));
    // What was counted before the guest's pages were, is of no use: they are more now.
    let before = count()?.map(|(at, _)| at);
    let counted = wait_for("the kubelet to count the machine's pod", COUNTED, || {
        Ok(count()?.filter(|(at, _)| Some(at) != before.as_ref()).map(|(_, bytes)| bytes))
    });
    let counted = counted.with_context(|| lab.kubectl(&["get", "--raw", &path]).unwrap_or_default())?;
    let asked = "jsonpath={.spec.containers[0].resources.requests.memory}";
    let asked = lab.kubectl(&["get", "pod", "vm-default-node-1", "--output", asked])?;
    let asked =
        asked.trim().strip_suffix("Mi").and_then(|number| number.parse::<u64>().ok()).context(asked.clone())? << 20;
    let (beside, room) = (counted.saturating_sub(touched), asked.saturating_sub(GUEST));
    let mebibytes = |bytes: u64| bytes >> 20;
    println!(
        "memory of the machine's pod: {} MiB, of that {} of its guest's 1024; beside it {}, of {} that it asks for",
        mebibytes(counted),
        mebibytes(touched),
        mebibytes(beside),
        mebibytes(room)
    );
    ensure!(beside <= room, "the pod needs {beside} bytes beside its guest, and asks for {room}");
    Ok(())
}

/// When the machine's pod was counted, and its bytes.
fn working_set(summary: &Value) -> Option<(String, u64)> {
    let pods = summary.get("pods")?.as_array()?;
    let pod = pods.iter().find(|pod| pod.pointer("/podRef/name") == Some(&"vm-default-node-1".into()))?;
    let bytes = pod.pointer("/memory/workingSetBytes")?.as_u64().filter(|bytes| *bytes > 0)?;
    Some((pod.pointer("/memory/time")?.as_str()?.to_owned(), bytes))
}

/// Bytes of the guest's memory that are there: the largest mapping of its hypervisor (proc_pid_smaps(5)), but for that of the
/// code that QEMU translates to, which is executable.
fn guest_pages(guest: &Victim) -> Result<u64> {
    let text = fs_err::read_to_string(format!("/proc/{}/smaps", guest.process))?;
    let number = |line: &str, field: &str| {
        let value = line.strip_prefix(field)?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
        Some(value << 10)
    };
    let (mut size, mut executable, mut largest, mut pages) = (0, false, 0, 0);
    for line in text.lines() {
        // The head of a mapping: ADDRESS-ADDRESS rw-p …
        if let Some(mode) = line.split(' ').nth(1).filter(|mode| mode.len() == 4 && mode.ends_with(['p', 's'])) {
            executable = mode.contains('x');
        }
        size = number(line, "Size:").unwrap_or(size);
        if let Some(there) = number(line, "Rss:").filter(|_| size > largest && !executable) {
            (largest, pages) = (size, there);
        }
    }
    ensure!(largest >= GUEST, "no mapping is as large as the guest's memory");
    Ok(pages)
}
