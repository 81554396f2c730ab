//! An ordinary user needs no root, and the host's network is not touched.

use e2e::{BOOT_LIMIT, installation, machine};
use testbed::User;

#[test]
fn an_ordinary_user_boots_a_machine() -> anyhow::Result<()> {
    let mut farm = installation(User::Ordinary, "", "")?;
    farm.write("machine.yaml", &machine("node-1", "bios", "10.10.0.21"))?;
    let before = farm.world().links()?;
    farm.up()?;
    farm.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT)?;
    assert_eq!(farm.check(&["ssh", "node-1", "--", "hostname"])?.trim(), "node-1");
    assert_eq!(farm.world().links()?, before, "links of the host changed");
    farm.down()
}
