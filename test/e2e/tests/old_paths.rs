//! A farm takes the place of an older one: the DHCP server stays as it is and goes on naming the old files.

use e2e::{BOOT_LIMIT, cache, installation, object};
use testbed::machine::{Firmware, Foreign, wire};
use testbed::peers::Peers;
use testbed::{Installation, Process, User, World};

const MAC: &str = "52:54:00:00:00:07";

/// dnsmasq as it was set up for LTSP, on a host of its own on the same switch. Its range tells its leases from ours.
fn foreign_dhcp(peers: &Peers, host: &World, farm: &Installation) -> anyhow::Result<Process> {
    let world = farm.world();
    world.run("ip", &["link", "add", "dhcp0", "type", "veth", "peer", "name", "eth0", "netns", host.name()])?;
    world.run("ip", &["link", "set", "dhcp0", "master", "switch0", "up"])?;
    host.run("ip", &["address", "add", "10.10.0.2/24", "dev", "eth0"])?;
    host.run("ip", &["link", "set", "eth0", "up"])?;
    let mut command = peers.command(host, "/usr/sbin/dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--no-ping"]);
    command.args(["--interface=eth0", "--dhcp-authoritative", "--dhcp-range=10.10.0.50,10.10.0.59,255.255.255.0,1h"]);
    command.arg("--dhcp-match=set:efi,option:client-arch,7");
    command.arg("--dhcp-boot=tag:efi,/ltsp/amd64/grub/x86_64-efi/core.efi,,10.10.0.1");
    command.arg("--dhcp-boot=tag:!efi,/ltsp/amd64/pxelinux.0,,10.10.0.1");
    // What LTSP's configuration says of the root; it means nothing to us.
    command.arg("--dhcp-option=17,/opt/ltsp/amd64");
    command.arg(format!("--dhcp-leasefile={}", host.folder().join("leases").display()));
    command.arg(format!("--pid-file={}", host.folder().join("pid").display()));
    Process::start(&mut command)
}

fn boots(firmware: Firmware) -> anyhow::Result<()> {
    let peers = Peers::in_cache(&cache())?;
    let mut farm = installation(User::Root, "  uplinks: [{interface: uplink0}]\n  dhcp: {mode: Off}\n", "")?;
    wire(farm.world())?;
    let spec = format!("  farm: {{namespace: default, name: lab}}\n  macs: [\"{MAC}\"]\n");
    farm.write("server.yaml", &object("Server", "rack1-07", &spec))?;
    farm.up()?;
    farm.wait_condition("farm", "lab", "Ready", BOOT_LIMIT)?;
    let host = World::new()?;
    let dhcp = foreign_dhcp(&peers, &host, &farm)?;
    let machine = Foreign::power_on(farm.world(), MAC, firmware)?;
    let server = farm.wait_condition("server", "rack1-07", "Ready", BOOT_LIMIT);
    let server = server.map_err(|error| error.context(machine.console()))?;
    let address = server.pointer("/status/node/address").and_then(|address| address.as_str().map(str::to_owned));
    assert!(address.as_deref().is_some_and(|address| address.starts_with("10.10.0.5")), "{address:?} is not its lease");
    drop((machine, dhcp));
    farm.down()
}

#[test]
fn a_bios_that_is_sent_to_pxelinux_boots_a_node() -> anyhow::Result<()> {
    boots(Firmware::Bios)
}

#[test]
fn uefi_that_is_sent_to_a_core_of_grub_boots_a_node() -> anyhow::Result<()> {
    boots(Firmware::UefiPxe)
}
