//! Firmware boots over IPv6 alone; from stoke-init on a node speaks IPv4, too.

use e2e::{BOOT_LIMIT, installation, object};
use testbed::User;
use testbed::machine::{Firmware, Foreign, wire};

const MAC: &str = "52:54:00:00:00:06";
const LAN: &str = "  uplinks: [{interface: uplink0}]\n  ipv6: {prefix: \"fd00:10::/64\"}\n";

/// Boots a machine until it is ready; its console must have said all of this.
fn boots(firmware: Firmware, said: &[&str]) -> anyhow::Result<()> {
    let mut farm = installation(User::Root, LAN, "")?;
    wire(farm.world())?;
    let spec = format!("  farm: {{namespace: default, name: lab}}\n  macs: [\"{MAC}\"]\n  address: 10.10.0.26\n");
    farm.write("server.yaml", &object("Server", "six", &spec))?;
    farm.up()?;
    farm.wait_condition("farm", "lab", "Ready", BOOT_LIMIT)?;
    let foreign = Foreign::power_on(farm.world(), MAC, firmware)?;
    let server = farm.wait_condition("server", "six", "Ready", BOOT_LIMIT);
    let server = server.map_err(|error| error.context(foreign.console()))?;
    assert_eq!(server.pointer("/status/node/address"), Some(&"10.10.0.26".into()));
    let console = foreign.console();
    for words in said {
        assert!(console.contains(words), "the console does not say {words:?}:\n{console}");
    }
    // The node has an address of the LAN's prefix, and no way out by IPv6.
    let show = "ip -6 -oneline address show scope global; ip -6 route show default";
    let shown = farm.check(&["ssh", "server/six", "--", show])?;
    assert!(shown.contains("inet6 fd00:10:"), "{shown}");
    assert!(!shown.contains("default"), "{shown}");
    drop(foreign);
    farm.down()
}

#[test]
fn uefi_boots_by_http_over_ipv6() -> anyhow::Result<()> {
    boots(Firmware::UefiHttp6, &["HTTP Boot over IPv6", "http://[fd00:10::1]/v1/blob/sha256/"])
}

#[test]
fn uefi_boots_by_pxe_over_ipv6() -> anyhow::Result<()> {
    boots(Firmware::UefiPxe6, &["PXE over IPv6", "snponly.efi"])
}
