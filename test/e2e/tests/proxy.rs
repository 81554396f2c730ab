//! Machines boot from the farm although another DHCP server gives the addresses and knows nothing of it (ProxyDHCP).

use e2e::{BOOT_LIMIT, installation, object};
use testbed::machine::{Firmware, Foreign, wire};
use testbed::{Installation, Process, User, World, wait_for};

const MAC: &str = "52:54:00:00:00:08";

/// A DHCP server at the far end of the wire: addresses, a router, no boot.
fn foreign_server(world: &World) -> anyhow::Result<Process> {
    world.run("ip", &["address", "add", "10.10.0.254/24", "dev", "switch0"])?;
    let mut dnsmasq = world.command("dnsmasq");
    dnsmasq.args(["--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--port=0", "--no-ping"]);
    dnsmasq.args(["--interface=switch0", "--bind-interfaces", "--dhcp-authoritative"]);
    dnsmasq
        .args(["--dhcp-range=10.10.0.150,10.10.0.159,255.255.255.0,10m", "--dhcp-option=option:dns-server,10.10.0.1"]);
    for (flag, name) in [("--dhcp-leasefile", "foreign.leases"), ("--pid-file", "foreign.pid")] {
        dnsmasq.arg(format!("{flag}={}", world.folder().join(name).display()));
    }
    Process::start(&mut dnsmasq)
}

/// A farm on an uplink, whose DHCP is the default there: a proxy.
fn beside_a_foreign_server() -> anyhow::Result<(Installation, Process)> {
    let mut farm = installation(User::Root, "  uplinks: [{interface: uplink0}]\n  dhcp: {mode: Proxy}\n", "")?;
    wire(farm.world())?;
    let server = foreign_server(farm.world())?;
    let spec = format!("  farm: {{namespace: default, name: lab}}\n  macs: [\"{MAC}\"]\n");
    farm.write("server.yaml", &object("Server", "rack1-08", &spec))?;
    farm.up()?;
    farm.wait_condition("farm", "lab", "Ready", BOOT_LIMIT)?;
    Ok((farm, server))
}

#[test]
fn uefi_boots_beside_a_foreign_dhcp_server_to_its_system() -> anyhow::Result<()> {
    let (mut farm, _server) = beside_a_foreign_server()?;
    let foreign = Foreign::power_on(farm.world(), MAC, Firmware::UefiPxe)?;
    let server = farm.wait_condition("server", "rack1-08", "Ready", BOOT_LIMIT);
    let server = server.map_err(|error| error.context(foreign.console()))?;
    let address = server.pointer("/status/node/address").and_then(|address| address.as_str()).unwrap_or_default();
    assert!(address.starts_with("10.10.0.15"), "not an address of the foreign server: {address}");
    drop(foreign);
    farm.down()?;
    Ok(())
}

/// Boots until `stoke-init` has asked the farm, which is when all of DHCP is over.
fn comes_to_the_farm(firmware: Firmware) -> anyhow::Result<()> {
    let (mut farm, _server) = beside_a_foreign_server()?;
    let foreign = Foreign::power_on(farm.world(), MAC, firmware)?;
    let node = wait_for("the node's greeting", BOOT_LIMIT, || {
        let server = farm.object("server", "rack1-08")?;
        Ok(server.pointer("/status/node/address").and_then(|address| address.as_str()).map(str::to_owned))
    });
    let address = node.map_err(|error| error.context(foreign.console()))?;
    assert!(address.starts_with("10.10.0.15"), "not an address of the foreign server: {address}");
    drop(foreign);
    farm.down()?;
    Ok(())
}

#[test]
fn a_bios_comes_to_the_farm_beside_a_foreign_dhcp_server() -> anyhow::Result<()> {
    comes_to_the_farm(Firmware::Bios)
}

#[test]
fn uefi_http_comes_to_the_farm_beside_a_foreign_dhcp_server() -> anyhow::Result<()> {
    comes_to_the_farm(Firmware::UefiHttp)
}
