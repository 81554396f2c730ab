//! Settings and modules of the kernel.

use std::fmt::Write as _;

use anyhow::Result;
use stoke_api::objects::NodeConfig;

use super::root::Root;

/// Writes what systemd-sysctl, systemd-modules-load and modprobe read.
pub(super) fn write(root: Root<'_>, config: &NodeConfig) -> Result<()> {
    if !config.sysctls.is_empty() {
        let mut text = String::new();
        for (name, value) in &config.sysctls {
            let _ = writeln!(text, "{name} = {value}");
        }
        // After what distributions bring, the last of which is 99-sysctl.conf: a link to the image's own sysctl.conf.
        root.write("etc/sysctl.d/99-zz-stokehold.conf", text, 0o644)?;
    }
    if !config.modules.is_empty() {
        let mut names = String::new();
        let mut options = String::new();
        for module in &config.modules {
            let _ = writeln!(names, "{}", module.name);
            if !module.options.is_empty() {
                let _ = writeln!(options, "options {} {}", module.name, module.options.join(" "));
            }
        }
        root.write("etc/modules-load.d/stokehold.conf", names, 0o644)?;
        if !options.is_empty() {
            // After systemd's own systemd.conf, which sets the number of dummy and bonding interfaces to none: the last word counts.
            root.write("etc/modprobe.d/zz-stokehold.conf", options, 0o644)?;
        }
    }
    Ok(())
}
