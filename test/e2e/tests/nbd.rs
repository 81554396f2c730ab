//! Roots over NBD: several servers of one, of which one may be lost, and what one boot teaches the next.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::{BOOT_LIMIT, installation, machine};
use testbed::{Installation, User, wait_for};

/// Reads past the page cache until all connections are to the first server, which the end of the second one must lead to.
const READ_ON: &str = "
now() { cut -d. -f1 /proc/uptime; }
end=$(($(now) + 240))
echo begun
while [ \"$(now)\" -lt $end ]; do
    dd if=/dev/nbd0 of=/dev/null bs=1M count=16 iflag=direct 2>/dev/null || exit 1
    gone=$(grep -c ' 02000A0A:2A39 01 ' /proc/net/tcp)
    left=$(grep -c ' 01000A0A:2A39 01 ' /proc/net/tcp)
    [ \"$gone\" = 0 ] && [ \"$left\" = 2 ] && exit 0
done
exit 2";

/// Established connections of the node to the NBD ports of both servers.
fn connections(farm: &Installation) -> anyhow::Result<[usize; 2]> {
    let table = farm.check(&["ssh", "node-1", "--", "cat /proc/net/tcp"])?;
    // proc(5): addresses in the machine's byte order, ports and states in hexadecimal.
    Ok(["01000A0A:2A39 01", "02000A0A:2A39 01"].map(|peer| table.matches(peer).count()))
}

#[test]
fn a_server_of_a_running_root_is_lost_for_good_and_another_time_it_is_back() -> anyhow::Result<()> {
    let mut farm = installation(User::Root, "", "  addresses: [10.10.0.1, 10.10.0.2]\n  boot: {root: Nbd}\n")?;
    farm.write("machine.yaml", &machine("node-1", "uefi", "10.10.0.21"))?;
    farm.up()?;
    farm.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT)?;
    ensure!(connections(&farm)? == [1, 1], "the connections are not spread: {:?}", connections(&farm)?);

    let mut reads = farm.stoke(&["ssh", "node-1", "--", READ_ON])?.stdout(Stdio::piped()).spawn()?;
    let mut output = reads.stdout.take().context("no output")?;
    std::io::Read::read_exact(&mut output, &mut [0; 6]).context("the reads do not begin")?;
    // Nobody is left to start it again.
    farm.kill_up();
    farm.kill("farm-default-lab.1")?;
    let ended = wait_for("the reads to end", Duration::from_mins(6), || Ok(reads.try_wait()?));
    if ended.is_err() {
        reads.kill()?;
        reads.wait()?;
    }
    ensure!(ended?.success(), "the node noticed; {}", farm.console("node-1"));

    farm.up()?;
    wait_for("connections to both servers", Duration::from_mins(6), || {
        Ok((connections(&farm).ok() == Some([1, 1])).then_some(()))
    })?;
    farm.down()
}

/// When the node was ready, in milliseconds since its kernel started.
fn ready_after(node: &serde_json::Value) -> Option<u64> {
    let timeline = node.pointer("/status/node/timeline")?.as_array()?;
    timeline.iter().find(|step| step.pointer("/0") == Some(&"Ready".into()))?.pointer("/1")?.as_u64()
}

#[test]
fn what_the_first_boot_has_read_is_fetched_ahead_by_the_second_one() -> anyhow::Result<()> {
    let mut farm = installation(User::Root, "", "  boot: {root: Nbd}\n")?;
    farm.write("machine.yaml", &machine("node-1", "uefi", "10.10.0.21"))?;
    farm.up()?;
    let first = farm.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT)?;
    farm.check(&["stop", "node-1"])?;
    wait_for("the guest's end", Duration::from_mins(2), || {
        let off = farm.object("machine", "node-1")?.pointer("/status/power") == Some(&"Off".into());
        Ok(off.then_some(()))
    })?;
    farm.check(&["start", "node-1"])?;
    let second = farm.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT)?;
    eprintln!("ready after {:?} ms, then after {:?} ms", ready_after(&first), ready_after(&second));
    let fetched = wait_for("the end of the fetching", Duration::from_mins(2), || {
        let log = farm.check(&["ssh", "node-1", "--", "dmesg"])?;
        Ok(log.lines().find(|line| line.contains("KiB ahead")).map(ToOwned::to_owned))
    })?;
    eprintln!("{fetched}");
    // Under dm-verity is now the page cache over the same device.
    let table = farm.check(&["ssh", "node-1", "--", "cat /sys/block/dm-0/slaves/*/loop/backing_file"])?;
    ensure!(table.trim() == "/dev/nbd0", "{table}");
    farm.down()
}
