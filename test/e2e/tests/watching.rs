//! A machine that nobody knows is seen, becomes a `Server` by the command that is shown, and its boot is told as it was.

use anyhow::Context as _;
use e2e::{BOOT_LIMIT, installation};
use serde_json::Value;
use testbed::machine::{Firmware, Foreign, wire};
use testbed::{User, wait_for};

const MAC: &str = "52:54:00:00:00:09";
const NAME: &str = "server-525400000009";

#[test]
fn an_unknown_machine_becomes_a_server_whose_boot_is_traced() -> anyhow::Result<()> {
    let mut farm = installation(User::Root, "  uplinks: [{interface: uplink0}]\n", "")?;
    wire(farm.world())?;
    farm.up()?;
    farm.wait_condition("farm", "lab", "Ready", BOOT_LIMIT)?;
    let stranger = Foreign::power_on(farm.world(), MAC, Firmware::UefiPxe)?;
    let status = wait_for("the machine to be seen", BOOT_LIMIT, || {
        let status = farm.check(&["farm", "status"])?;
        Ok(status.contains(MAC).then_some(status))
    })?;
    drop(stranger);
    assert!(
        farm.check(&["describe", "farm/lab"])?.contains(MAC) && farm.check(&["describe", "lan/lab"])?.contains(MAC)
    );

    // What stands between the quotes of the command that is shown.
    let object = status.lines().find_map(|line| line.trim().strip_prefix("echo '")).context(status.clone())?;
    let object = object.split('\'').next().unwrap_or_default();
    farm.write("server.yaml", object)?;
    wait_for("the server to be no longer unknown", BOOT_LIMIT, || {
        let known = farm.object("server", NAME).is_ok() && !farm.check(&["farm", "status"])?.contains(MAC);
        Ok(known.then_some(()))
    })?;
    let server = Foreign::power_on(farm.world(), MAC, Firmware::UefiPxe)?;
    let ready = farm.wait_condition("server", NAME, "Ready", BOOT_LIMIT);
    ready.map_err(|error| error.context(server.console()))?;

    let trace = format!("server/{NAME}");
    let told: Value = serde_json::from_str(&farm.check(&["farm", "trace", &trace, "--output", "json"])?)?;
    let boot = told.pointer("/boots/0").with_context(|| told.to_string())?;
    let words = |list: &str, field: &str| -> Vec<String> {
        let all = boot.get(list).and_then(Value::as_array).into_iter().flatten();
        all.filter_map(|one| Some(one.get(field)?.as_str()?.to_owned())).collect()
    };
    for stage in ["Firmware", "Loading", "Kernel", "Network", "Root", "Ready"] {
        assert!(words("stages", "name").iter().any(|name| name == stage), "no {stage}: {told:#}");
    }
    for way in ["dhcp", "tftp", "http", "node"] {
        assert!(words("events", "way").iter().any(|name| name == way), "nothing by {way}: {told:#}");
    }
    let picture = farm.check(&["farm", "trace", MAC, "--ascii"])?;
    assert!(picture.contains("snponly.efi") && picture.contains('#'), "{picture}");
    println!("{picture}");
    let storm: Value = serde_json::from_str(farm.check(&["farm", "storm", "--output", "json"])?.trim())?;
    assert!(storm.pointer("/storm/boots").and_then(Value::as_u64) >= Some(1), "{storm:#}");
    farm.down()
}
