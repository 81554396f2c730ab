//! Each kind of firmware boots by each loader that a farm can be told to use.

use anyhow::{Context as _, ensure};
use e2e::{BOOT_LIMIT, installation, object};
use testbed::machine::{Firmware, Foreign, wire};
use testbed::{Installation, User, wait_for};

const MAC: &str = "52:54:00:00:00:07";
/// The first words of what every boot here loads.
const FIRST_LINE: &str = "stoke-init";

/// An installation whose farm boots a server on the wire with these loaders.
fn farm_with(boot: &str) -> anyhow::Result<Installation> {
    let farm = installation(User::Root, "  uplinks: [{interface: uplink0}]\n", &format!("  boot: {{{boot}}}\n"))?;
    wire(farm.world())?;
    let spec = format!("  farm: {{namespace: default, name: lab}}\n  macs: [\"{MAC}\"]\n  address: 10.10.0.27\n");
    farm.write("server.yaml", &object("Server", "rack1-07", &spec))?;
    Ok(farm)
}

fn up(farm: &mut Installation) -> anyhow::Result<()> {
    farm.up()?;
    let ready = farm.wait_condition("farm", "lab", "Ready", BOOT_LIMIT)?;
    let conditions = ready.pointer("/status/conditions").map(ToString::to_string).unwrap_or_default();
    ensure!(!conditions.contains("BootPrograms"), "a boot program is missing: {conditions}");
    Ok(())
}

/// Waits for words on a machine's console, all of which must have come in this order.
fn console_shows(foreign: &Foreign, parts: &[&str]) -> anyhow::Result<()> {
    let shown = || {
        let console = foreign.console();
        let mut rest = console.as_str();
        parts.iter().all(|part| rest.split_once(part).map(|(_, behind)| rest = behind).is_some())
    };
    let waited = wait_for(&format!("{parts:?} on the console"), BOOT_LIMIT, || Ok(shown().then_some(())));
    waited.with_context(|| format!("the console shows:\n{}", foreign.console()))
}

/// A machine with this firmware comes to the first line of `stoke-init`, by what `parts` say.
fn boots(boot: &str, firmware: Firmware, parts: &[&str]) -> anyhow::Result<()> {
    let mut farm = farm_with(boot)?;
    up(&mut farm)?;
    let foreign = Foreign::power_on(farm.world(), MAC, firmware)?;
    console_shows(&foreign, &[parts, &[FIRST_LINE]].concat())?;
    // GRUB goes back to TFTP after half a minute if it cannot make out an answer by HTTP.
    ensure!(!foreign.console().contains("timeout reading"), "{}", foreign.console());
    drop(foreign);
    farm.down()
}

#[test]
fn pxelinux_on_a_bios() -> anyhow::Result<()> {
    let parts = ["PXELINUX", "Stokehold: rack1-07 boots image"];
    boots("loader: {bios: Pxelinux}", Firmware::Bios, &parts)
}

#[test]
fn grub_on_a_bios() -> anyhow::Result<()> {
    let parts = ["grub/i386-pc/core.0", "Stokehold: rack1-07 boots image"];
    boots("loader: {bios: Grub}", Firmware::Bios, &parts)
}

#[test]
fn grub_on_uefi() -> anyhow::Result<()> {
    let parts = ["grub/x86_64-efi/core.efi", "Stokehold: rack1-07 boots image"];
    boots("loader: {uefi: Grub}", Firmware::UefiPxe, &parts)
}

#[test]
fn the_kernel_itself_by_uefi_pxe() -> anyhow::Result<()> {
    boots("loader: {uefi: Kernel}", Firmware::UefiPxe, &["NBP filename is v1/blob/sha256/"])
}

#[test]
fn shim_grub_and_the_signed_kernel_under_secure_boot_with_the_keys_that_machines_are_sold_with() -> anyhow::Result<()> {
    let mut farm = farm_with("root: Nbd, loader: {uefi: Shim}")?;
    up(&mut farm)?;
    let foreign = Foreign::power_on(farm.world(), MAC, Firmware::SecurePxe)?;
    let server = farm.wait_condition("server", "rack1-07", "Ready", BOOT_LIMIT);
    server.map_err(|error| error.context(foreign.console()))?;
    secure_boot_is_on(&farm, "server/rack1-07")?;
    drop(foreign);
    farm.down()
}

#[test]
fn a_farms_own_keys_boot_its_virtual_machine_by_http_under_secure_boot() -> anyhow::Result<()> {
    let mut farm = installation(User::Root, "", "  boot: {root: Nbd}\n")?;
    let vm = "  vm: {cpus: 1, memory: 1Gi, firmware: {uefi: {secureBoot: true}}, boot: {from: Network}}\n";
    let nics = "  nics: [{name: lab, lan: lab, address: 10.10.0.21}]\n";
    farm.write("machine.yaml", &object("Machine", "node-1", &format!("{vm}  farm: lab\n{nics}")))?;
    farm.up()?;
    // Nothing of the farm is signed: the machine waits and says for what.
    farm.wait_message("machine", "node-1", BOOT_LIMIT, |message| message.contains("stoke farm keys create lab"))?;
    let made = farm.check(&["farm", "keys", "create", "lab"])?;
    ensure!(made.contains("db") && !made.contains("PRIVATE"), "{made}");
    let ready = farm.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT);
    ready.map_err(|error| error.context(farm.console("node-1")))?;
    secure_boot_is_on(&farm, "node-1")?;
    let again = farm.output(&["farm", "keys", "create", "lab"])?;
    ensure!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("has keys already"));
    farm.down()
}

#[test]
fn a_server_boots_what_its_own_keys_have_signed_by_pxe_and_nothing_else() -> anyhow::Result<()> {
    let mut farm = farm_with("loader: {uefi: Kernel}")?;
    farm.check(&["farm", "keys", "create", "lab"])?;
    let variables = farm.world().folder().join("own-keys.fd");
    fs_err::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &variables)?;
    farm.check(&["farm", "keys", "enroll", "lab", "--variables", &variables.to_string_lossy()])?;
    up(&mut farm)?;
    // Keys that a farm had before its first kernel sign that one, too.
    let foreign = Foreign::power_on_with(farm.world(), MAC, Firmware::SecurePxe, Some(&variables))?;
    console_shows(&foreign, &["NBP filename is v1/blob/sha256/", FIRST_LINE])?;
    drop(foreign);
    // Who trusts others refuses what is signed by these keys.
    let foreign = Foreign::power_on(farm.world(), MAC, Firmware::SecurePxe)?;
    refuses(&foreign)?;
    drop(foreign);
    // Who trusts these keys refuses what nobody has signed.
    farm.write("farm.yaml", &object("Farm", "lab", "  lan: lab\n  image: node\n"))?;
    let foreign = wait_for("the other loader", BOOT_LIMIT, || {
        let farm = farm.object("farm", "lab")?;
        Ok((farm.pointer("/spec/boot/loader/uefi") == Some(&"Ipxe".into())).then_some(()))
    })
    .and_then(|()| Foreign::power_on_with(farm.world(), MAC, Firmware::SecurePxe, Some(&variables)))?;
    refuses(&foreign)?;
    drop(foreign);
    farm.down()
}

/// The firmware does not start what it loaded, and says so.
fn refuses(foreign: &Foreign) -> anyhow::Result<()> {
    console_shows(foreign, &["NBP file downloaded successfully", "Access Denied"])?;
    ensure!(!foreign.console().contains(FIRST_LINE), "{}", foreign.console());
    Ok(())
}

/// The kernel says whether the firmware verified it.
fn secure_boot_is_on(farm: &Installation, node: &str) -> anyhow::Result<()> {
    let log = farm.check(&["ssh", node, "--", "dmesg | grep -i 'secure boot'"])?;
    ensure!(log.contains("Secure boot enabled"), "the kernel says: {log}");
    Ok(())
}
