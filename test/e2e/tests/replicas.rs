//! A farm with two servers: one is lost for good, and nobody notices.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{BOOT_LIMIT, installation, machine, object};
use serde_json::Value;
use testbed::{Installation, User, wait_for};

const REPLICAS: [(&str, &str); 2] = [("farm-default-lab", "10.10.0.1"), ("farm-default-lab.1", "10.10.0.2")];

/// Ends a workload whenever it is started again, until told otherwise.
fn keep_down(farm: &Installation, workload: &str, over: &AtomicBool) {
    while !over.load(Ordering::Acquire) {
        // Not running is what is wanted.
        let _ = farm.kill(workload);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// When the session of a machine began.
fn session_of(farm: &Installation, name: &str) -> Result<Value> {
    Ok(farm.object("machine", name)?.pointer("/status/node/bootStarted").cloned().unwrap_or_default())
}

fn messages(farm: &Installation, name: &str) -> String {
    farm.check(&["ssh", name, "--", "dmesg | grep stoke-init"]).unwrap_or_default()
}

#[test]
fn one_of_two_replicas_is_lost_while_a_node_runs_and_another_boots() -> Result<()> {
    let mut farm = installation(User::Root, "", "  addresses: [10.10.0.1, 10.10.0.2]\n  boot: {root: Nbd}\n")?;
    farm.write("one.yaml", &machine("node-1", "bios", "10.10.0.21"))?;
    farm.up()?;
    farm.wait_condition("farm", "lab", "Ready", BOOT_LIMIT)?;
    farm.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT)?;
    let served_by = |farm: &Installation| -> Result<String> {
        let text = farm.check(&["ssh", "node-1", "--", "cat /run/stokehold/boot.json"])?;
        let record: Value = serde_json::from_str(&text)?;
        Ok(record.pointer("/farm").and_then(Value::as_str).unwrap_or_default().to_owned())
    };
    let url = served_by(&farm)?;
    let lost = REPLICAS.iter().find(|(_, address)| url.contains(&format!("//{address}:"))).map(|(name, _)| *name);
    let Some(lost) = lost else { anyhow::bail!("node-1 was served by {url}") };
    let session = session_of(&farm, "node-1")?;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| keep_down(&farm, lost, &over));
        let result = lives_on(&farm, &session);
        over.store(true, Ordering::Release);
        result
    })?;
    farm.down()
}

/// The node that runs finds the other replica, its root goes on, and another node boots.
fn lives_on(farm: &Installation, session: &Value) -> Result<()> {
    farm.write("two.yaml", &machine("node-2", "bios", "10.10.0.22"))?;
    let moved = wait_for("a session at the other replica", BOOT_LIMIT, || {
        let Ok(node) = farm.object("machine", "node-1") else { return Ok(None) };
        let ready = node.pointer("/status/node/ready") == Some(&true.into());
        Ok((ready && node.pointer("/status/node/bootStarted") != Some(session)).then_some(()))
    });
    moved.map_err(|error| error.context(messages(farm, "node-1")))?;
    let read = "dd if=/dev/nbd0 of=/dev/null bs=1M count=8 iflag=direct 2>&1 && cat /proc/sys/kernel/random/boot_id";
    let text = farm.check(&["ssh", "node-1", "--", read])?;
    ensure!(text.contains("8+0 records in"), "{text}");
    wait_for("node-2", BOOT_LIMIT, || {
        let Ok(node) = farm.object("machine", "node-2") else { return Ok(None) };
        Ok((node.pointer("/status/node/ready") == Some(&true.into())).then_some(()))
    })?;
    let console = farm.console("node-1");
    ensure!(console.matches("boots image").count() == 1, "node-1 booted again:\n{console}");
    Ok(())
}

#[test]
fn a_farm_moves_to_another_address_under_a_running_node() -> Result<()> {
    let farm_at = |address: &str| {
        object("Farm", "lab", &format!("  lan: lab\n  image: node\n  addresses: [{address}]\n  boot: {{root: Nbd}}\n"))
    };
    let mut farm = installation(User::Root, "", "")?;
    farm.write("farm.yaml", &farm_at("10.10.0.2"))?;
    farm.write("one.yaml", &machine("node-1", "bios", "10.10.0.21"))?;
    farm.up()?;
    farm.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT)?;
    let session = session_of(&farm, "node-1")?;
    farm.write("farm.yaml", &farm_at("10.10.0.3"))?;
    wait_for("a session at the new address", BOOT_LIMIT, || {
        let Ok(node) = farm.object("machine", "node-1") else { return Ok(None) };
        let ready = node.pointer("/status/node/ready") == Some(&true.into());
        Ok((ready && node.pointer("/status/node/bootStarted") != Some(&session)).then_some(()))
    })?;
    let read = "dd if=/dev/nbd0 of=/dev/null bs=1M count=8 iflag=direct 2>&1";
    let text = wait_for("a read of the root", BOOT_LIMIT, || Ok(farm.check(&["ssh", "node-1", "--", read]).ok()))?;
    ensure!(text.contains("8+0 records in"), "{text}");
    ensure!(farm.console("node-1").matches("boots image").count() == 1, "node-1 booted again");
    farm.down()
}

#[test]
fn a_node_gets_its_root_from_one_that_has_it() -> Result<()> {
    let mut farm = installation(User::Root, "", "  boot: {root: Ram, peers: true}\n")?;
    farm.write("one.yaml", &machine("node-1", "bios", "10.10.0.21"))?;
    farm.up()?;
    farm.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT)?;
    farm.write("two.yaml", &machine("node-2", "bios", "10.10.0.22"))?;
    let node = farm.wait_condition("machine", "node-2", "Ready", BOOT_LIMIT)?;
    ensure!(node.pointer("/status/node/root") == Some(&"ram".into()), "{node}");
    let console = farm.console("node-2");
    ensure!(console.contains("MiB from http://10.10.0.21:"), "{console}");
    farm.down()
}
