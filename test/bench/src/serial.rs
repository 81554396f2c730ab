//! When a machine came to each phase of its boot, from its serial console.
//!
//! All sides print the same marks. The first line of an initramfs and its last one before it starts the root's init carry
//! the kernel's uptime: `stoke-init` prints them of itself, Debian's initramfs by two short scripts that are added to it. So
//! the kernel's own start is known although `quiet` keeps its first lines off the line. The login prompt is the root's own.
//!
//! Beside the time of the wall stands the processor time of the hypervisor: it hardly depends on what else the host does,
//! and what the wall has more is waiting.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use testbed::machine::Foreign;

/// A moment of a boot, in seconds from power-on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    pub(crate) wall: f64,
    /// Processor time of the hypervisor.
    pub(crate) processor: f64,
}

/// A machine's boot.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Phases {
    /// The kernel's clock starts: firmware and boot programs are done, the kernel is unpacked.
    pub(crate) kernel: f64,
    /// The first line of the initramfs.
    pub(crate) initramfs: Moment,
    /// Its last one: the root's init is started.
    pub(crate) switched: Moment,
    /// A login prompt: systemd's multi-user target.
    pub(crate) multi_user: Moment,
}

/// How long a boot may take.
const LIMIT: Duration = Duration::from_mins(4);
/// How often the line is looked at, which is how exact the figures are.
const INTERVAL: Duration = Duration::from_millis(20);

/// Follows a machine from power-on to its login prompt.
pub(crate) fn follow(machine: &mut Foreign, begin: Instant) -> Result<Phases> {
    let mut line = Line { machine, begin };
    let initramfs = line.reached("the initramfs", |text| mark(text, "init"))?;
    let uptime = mark(&line.machine.console(), "init").unwrap_or_default();
    let switched = line.reached("the switched root", |text| mark(text, "switched"))?;
    let multi_user = line.reached("a login prompt", |text| text.contains("login:").then_some(0.0))?;
    Ok(Phases { kernel: initramfs.wall - uptime, initramfs, switched, multi_user })
}

struct Line<'a> {
    machine: &'a mut Foreign,
    begin: Instant,
}

impl Line<'_> {
    fn reached(&mut self, what: &str, found: impl Fn(&str) -> Option<f64>) -> Result<Moment> {
        loop {
            let text = self.machine.console();
            if found(&text).is_some() {
                let processor = self.machine.processor_time()?;
                return Ok(Moment { wall: self.begin.elapsed().as_secs_f64(), processor });
            }
            if self.begin.elapsed() > LIMIT {
                bail!("{what} did not come within {} s; the console:\n{text}", LIMIT.as_secs());
            }
            if !self.machine.process.is_running().context("the hypervisor")? {
                bail!("the machine ended before {what}; the console:\n{text}");
            }
            std::thread::sleep(INTERVAL);
        }
    }
}

/// The kernel's uptime at a mark: `NAME: [SECONDS] PHASE …`.
fn mark(console: &str, phase: &str) -> Option<f64> {
    console.lines().find_map(|line| {
        let (name, rest) = line.split_once(": [")?;
        let (seconds, reached) = rest.split_once("] ")?;
        let is_mark = name.ends_with("stoke-init") || name.ends_with("initramfs");
        let phase = is_mark && reached.split_whitespace().next() == Some(phase);
        seconds.trim().parse().ok().filter(|_| phase)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_both_initramfs() {
        let console =
            "\u{1b}[2Jstoke-init: [   3.42] init image a\ninitramfs: [12.10] switched\nstoke-init: [x] root\n";
        assert_eq!(mark(console, "init"), Some(3.42));
        assert_eq!(mark(console, "switched"), Some(12.1));
        assert_eq!(mark(console, "root"), None);
    }
}
