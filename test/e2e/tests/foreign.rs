//! A machine that nobody of ours started boots from the wire, if a `Server` names it.

use e2e::{BOOT_LIMIT, installation, object};
use serde_json::Value;
use testbed::machine::{Firmware, Foreign, wire};
use testbed::{User, wait_for};

#[test]
fn a_foreign_server_boots_by_uefi_pxe_over_an_uplink() -> anyhow::Result<()> {
    let mut farm = installation(User::Root, "  uplinks: [{interface: uplink0}]\n", "")?;
    wire(farm.world())?;
    let spec = "  farm: {namespace: default, name: lab}\n  macs: [\"52:54:00:00:00:07\"]\n  address: 10.10.0.27\n";
    farm.write("server.yaml", &object("Server", "rack1-07", spec))?;
    farm.up()?;
    farm.wait_condition("farm", "lab", "Ready", BOOT_LIMIT)?;
    let foreign = Foreign::power_on(farm.world(), "52:54:00:00:00:07", Firmware::UefiPxe)?;
    let server = farm.wait_condition("server", "rack1-07", "Ready", BOOT_LIMIT);
    let server = server.map_err(|error| error.context(foreign.console()))?;
    assert_eq!(server.pointer("/status/node/address"), Some(&"10.10.0.27".into()));
    assert_eq!(farm.check(&["ssh", "server/rack1-07", "--", "hostname"])?.trim(), "rack1-07");

    // Nobody has its power: its own agent carries the order out.
    let began = |server: &Value| server.pointer("/status/node/bootStarted").cloned();
    farm.check(&["reboot", "server/rack1-07"])?;
    wait_for("the server's next boot", BOOT_LIMIT, || {
        let now = farm.object("server", "rack1-07")?;
        Ok((began(&now) != began(&server)).then_some(()))
    })?;
    farm.wait_condition("server", "rack1-07", "Ready", BOOT_LIMIT)?;
    drop(foreign);
    farm.down()?;
    assert!(farm.world().links()?.contains(&"uplink0".to_owned()), "the uplink was not given back");
    Ok(())
}
