//! What firmware says on the serial console while it looks for something to boot, and what to answer. No I/O.
//!
//! Two things are worth listening for. iPXE's option ROM waits two seconds for Ctrl-B (`BANNER_TIMEOUT` in iPXE's
//! `config/general.h`); any other key ends the wait (`prompt` in its `usr/prompt.c`). And OVMF that found nothing to boot
//! from ends in its shell, where it would stay until somebody resets it.
//!
//! ```text
//!   Listening ----- "Press Ctrl-B" once ------> (type a key, go on)
//!       |   `------ "No bootable device" -----> (nothing to boot; SeaBIOS tries again by itself)
//!       |   `------ shell started ------------> Over (nothing to boot)
//!       `---------- boot option started ------> Over: from now on an operating system talks
//! ```
//!
//! After a reset there is a new [`Dialog`]: what an operating system prints must never be taken for firmware.

use stoke_api::workload::FirmwareKind;

/// iPXE's offer of a command line, as SeaBIOS sends it through its serial console.
const IPXE_BANNER: &[u8] = b"Press Ctrl-B for the iPXE command line";

/// SeaBIOS found nothing (`boot_fail` in SeaBIOS' `boot.c`).
const BIOS_FAILED: &[u8] = b"No bootable device.";

/// OVMF starts a boot option (`BmBoot.c` in edk2's `UefiBootManagerLib`).
const UEFI_STARTING: &[u8] = b"BdsDxe: starting Boot";

/// The boot option that is left when all others failed.
const UEFI_SHELL: &[u8] = b"\"EFI Internal Shell\"";

/// The longest line that means anything.
const LINE: usize = 512;

/// What to do about what was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Type this.
    Type(&'static [u8]),
    /// The firmware found nothing to boot from.
    NothingToBoot,
}

/// What the firmware of one boot says.
#[derive(Debug)]
pub struct Dialog {
    firmware: FirmwareKind,
    line: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Listening { greeted: bool },
    Over,
}

impl Dialog {
    /// The dialog of a machine that was just switched on or reset.
    pub fn new(firmware: FirmwareKind) -> Self {
        Self { firmware, line: Vec::new(), state: State::Listening { greeted: false } }
    }

    /// The dialog of a machine that runs already, from the end of what it said so far.
    pub fn resume(firmware: FirmwareKind, history: &[u8]) -> (Self, Option<Reaction>) {
        let mut dialog = Self::new(firmware);
        let last = history.windows(UEFI_STARTING.len()).rposition(|window| window == UEFI_STARTING);
        let started = last.and_then(|at| history.get(at..)).unwrap_or_default();
        let reaction = dialog.feed(started).into_iter().next_back();
        if firmware == FirmwareKind::Bios {
            // The key was typed long ago.
            dialog.state = State::Listening { greeted: true };
        }
        (dialog, reaction.filter(|reaction| *reaction == Reaction::NothingToBoot))
    }

    /// Takes what the console says, in pieces of any size.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Reaction> {
        bytes.iter().filter_map(|byte| self.hear(*byte)).collect()
    }

    fn hear(&mut self, byte: u8) -> Option<Reaction> {
        let State::Listening { greeted } = self.state else { return None };
        if matches!(byte, b'\r' | b'\n') || self.line.len() >= LINE {
            self.line.clear();
            return None;
        }
        self.line.push(byte);
        match self.firmware {
            FirmwareKind::Bios if !greeted && self.line.ends_with(IPXE_BANNER) => {
                self.state = State::Listening { greeted: true };
                Some(Reaction::Type(b"\r"))
            }
            FirmwareKind::Bios => self.line.ends_with(BIOS_FAILED).then_some(Reaction::NothingToBoot),
            FirmwareKind::Uefi => self.option_started(byte),
        }
    }

    /// The name of a boot option ends with a quotation mark: then it is known which one was started.
    fn option_started(&mut self, byte: u8) -> Option<Reaction> {
        let at = self.line.windows(UEFI_STARTING.len()).position(|window| window == UEFI_STARTING)?;
        let named = self.line.get(at..)?.split(|byte| *byte == b'"').count() == 3;
        if byte != b'"' || !named {
            return None;
        }
        self.state = State::Over;
        self.line.ends_with(UEFI_SHELL).then_some(Reaction::NothingToBoot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHELL: &str = "BdsDxe: failed to load Boot0001 \"UEFI HTTPv4 (MAC:525400000099)\" from PciRoot: Not Found\r\n\
        BdsDxe: loading Boot0002 \"EFI Internal Shell\" from Fv()\r\n\
        BdsDxe: starting Boot0002 \"EFI Internal Shell\" from Fv()\r\nUEFI Interactive Shell v2.2\r\n";
    const SYSTEM: &str = "BdsDxe: loading Boot0001 \"UEFI HTTPv4 (MAC:525400000099)\" from PciRoot\r\n\
        BdsDxe: starting Boot0001 \"UEFI HTTPv4 (MAC:525400000099)\" from PciRoot\r\n";

    #[test]
    fn ipxe_is_not_waited_for() {
        let mut dialog = Dialog::new(FirmwareKind::Bios);
        let text = "\r\nPress Ctrl-B to configure iPXE\r\n\r\nPress Ctrl-B for the iPXE command line...\r\n";
        assert_eq!(dialog.feed(text.as_bytes()), [Reaction::Type(b"\r")]);
        assert_eq!(dialog.feed(text.as_bytes()), [], "once for each boot");
    }

    #[test]
    fn the_shell_means_that_nothing_could_be_booted() {
        assert_eq!(Dialog::new(FirmwareKind::Uefi).feed(SHELL.as_bytes()), [Reaction::NothingToBoot]);
        assert_eq!(Dialog::new(FirmwareKind::Bios).feed(b"No bootable device.  Retrying"), [Reaction::NothingToBoot]);
    }

    #[test]
    fn an_operating_system_that_quotes_firmware_is_not_believed() {
        let mut dialog = Dialog::new(FirmwareKind::Uefi);
        assert_eq!(dialog.feed(SYSTEM.as_bytes()), []);
        assert_eq!(dialog.feed(SHELL.as_bytes()), []);
    }

    #[test]
    fn the_last_boot_option_counts_for_a_machine_that_runs_already() {
        let history = [SHELL, SYSTEM, "login: "].concat();
        assert_eq!(Dialog::resume(FirmwareKind::Uefi, history.as_bytes()).1, None);
        let history = [SYSTEM, SHELL, "Shell> "].concat();
        assert_eq!(Dialog::resume(FirmwareKind::Uefi, history.as_bytes()).1, Some(Reaction::NothingToBoot));
    }

    proptest! {
        #[test]
        fn nothing_that_is_said_panics_or_fills_memory(pieces in proptest::collection::vec(any::<Vec<u8>>(), 0..20)) {
            for firmware in [FirmwareKind::Bios, FirmwareKind::Uefi] {
                let mut dialog = Dialog::new(firmware);
                for piece in &pieces {
                    dialog.feed(piece);
                }
                prop_assert!(dialog.line.len() <= LINE);
            }
        }
    }
}
