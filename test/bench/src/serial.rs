//! When a machine's console came to each phase of its boot.

use std::time::{Duration, Instant};

use anyhow::Result;
use testbed::machine::Foreign;
use testbed::wait_for;

/// Seconds from power-on to each phase.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Phases {
    /// The kernel's first line.
    pub(crate) kernel: f64,
    /// The first line of the initramfs.
    pub(crate) initramfs: f64,
    /// The image's init system runs: the root is switched.
    pub(crate) switched: f64,
    /// A login prompt: systemd's multi-user target.
    pub(crate) multi_user: f64,
}

/// How long a boot may take.
const LIMIT: Duration = Duration::from_mins(4);

/// Follows a machine from power-on to its login prompt. `initramfs` is what the initramfs prints first.
pub(crate) fn follow(machine: &Foreign, begin: Instant, initramfs: &[&str]) -> Result<Phases> {
    let reached = |what: &str, texts: &[&str]| -> Result<f64> {
        let found = wait_for(what, LIMIT, || {
            let console = machine.console();
            Ok(texts.iter().any(|text| console.contains(text)).then_some(()))
        });
        found.map_err(|error| error.context(machine.console()))?;
        Ok(begin.elapsed().as_secs_f64())
    };
    Ok(Phases {
        kernel: reached("the kernel's first line", &["Linux version"])?,
        initramfs: reached("the initramfs", initramfs)?,
        switched: reached("the switched root", &["systemd[1]: ", "Welcome to "])?,
        multi_user: reached("a login prompt", &["login:"])?,
    })
}
