//! What a virtual machine needs ([`VmSpec`]), and where this host puts it ([`Placement`]).
//!
//! The spec is what a guest can notice: it is remembered with a running machine, and compared with what is wanted. The
//! placement is this host's side of one start: descriptors, sockets, files.

use std::fmt;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stoke_api::names::{Bytes, MacAddr};
use stoke_api::objects::VmDisk;
use stoke_api::workload::{FirmwareKind, VmConfig};

/// What a guest can notice of its machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmSpec {
    /// Name, shown in process lists.
    pub name: String,
    /// SMBIOS UUID.
    pub uuid: String,
    /// Number of virtual processors.
    pub cpus: u32,
    /// Memory.
    pub memory: Bytes,
    /// What starts first.
    pub firmware: FirmwareKind,
    /// Whether only signed programs start.
    #[serde(default)]
    pub secure_boot: bool,
    /// Whether it has a TPM.
    #[serde(default)]
    pub tpm: bool,
    /// Link-layer addresses of the interfaces; the first boots.
    pub macs: Vec<MacAddr>,
    /// Disks.
    #[serde(default)]
    pub disks: Vec<VmDisk>,
}

impl VmSpec {
    /// The spec in a configuration.
    pub fn of(config: &VmConfig) -> Self {
        Self {
            name: config.machine.name.to_string(),
            uuid: config.uuid.clone(),
            cpus: config.cpus,
            memory: config.memory,
            firmware: config.firmware,
            secure_boot: config.secure_boot.is_some(),
            tpm: config.tpm,
            macs: config.nics.iter().map(|nic| nic.mac).collect(),
            disks: config.disks.clone(),
        }
    }

    /// What a machine that runs with `self` would get only by a new start, in words: `memory, cpus`. Empty if nothing.
    pub fn differences(&self, wanted: &Self) -> Vec<&'static str> {
        let fields = [
            ("cpus", self.cpus != wanted.cpus),
            ("memory", self.memory != wanted.memory),
            ("firmware", self.firmware != wanted.firmware),
            ("Secure Boot", self.secure_boot != wanted.secure_boot),
            ("TPM", self.tpm != wanted.tpm),
            ("interfaces", self.macs != wanted.macs),
            ("disks", self.disks != wanted.disks),
        ];
        fields.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }
}

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor, by Linux' KVM.
    Kvm,
    /// QEMU's translator: anywhere, and slow.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// Firmware of one machine on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirmwareFiles {
    /// QEMU's own: SeaBIOS.
    Bios,
    /// OVMF.
    Uefi {
        /// Its code, read-only and shared by all machines.
        code: PathBuf,
        /// This machine's variables.
        vars: PathBuf,
        /// Whether only signed programs start, and how the machine then boots.
        secure: Option<SecureWay>,
    },
}

/// How a machine that starts only signed programs boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecureWay {
    /// By HTTP, as other machines: its farm signs what it loads.
    Http,
    /// By PXE: the distribution's signed GRUB knows its server only if it came that way.
    Pxe,
}

/// This host's end of an interface: a TAP that QEMU inherits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tap {
    /// Number of the descriptor in the new process.
    pub fd: RawFd,
    /// MTU of the LAN in bytes.
    pub mtu: u16,
}

/// Where this host puts a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// What executes it.
    pub accelerator: Accelerator,
    /// Its firmware.
    pub firmware: FirmwareFiles,
    /// One TAP for each interface, in order.
    pub taps: Vec<Tap>,
    /// Its files.
    pub files: VmFiles,
}

/// Files and sockets of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmFiles {
    state: PathBuf,
    run: PathBuf,
}

impl VmFiles {
    /// In these two folders: `state` outlasts a restart of the host, `run` need not.
    pub fn new(state: &Path, run: &Path) -> Self {
        Self { state: state.to_owned(), run: run.to_owned() }
    }

    /// QEMU's control socket.
    pub fn qmp(&self) -> PathBuf {
        self.run.join("qmp.sock")
    }

    /// QEMU's end of the serial console.
    pub fn serial(&self) -> PathBuf {
        self.run.join("serial.sock")
    }

    /// Where people attach to the console.
    pub fn console(&self) -> PathBuf {
        self.run.join("console.sock")
    }

    /// Everything that the console ever showed.
    pub fn console_log(&self) -> PathBuf {
        self.state.join("console.log")
    }

    /// What QEMU says about itself.
    pub fn messages(&self) -> PathBuf {
        self.state.join("qemu.log")
    }

    /// QEMU's process id. QEMU keeps it locked, so no second one starts on the same state.
    pub fn pid(&self) -> PathBuf {
        self.state.join("qemu.pid")
    }

    /// Firmware variables.
    pub fn firmware_variables(&self) -> PathBuf {
        self.state.join("uefi-vars.fd")
    }

    /// What is behind a disk.
    pub fn disk(&self, name: &str) -> PathBuf {
        self.state.join(format!("disk-{name}.raw"))
    }

    /// What its TPM keeps.
    pub fn tpm_state(&self) -> PathBuf {
        self.state.join("tpm")
    }

    /// Where its TPM is commanded.
    pub fn tpm_socket(&self) -> PathBuf {
        self.run.join("tpm.sock")
    }

    /// Process id of the program that is the TPM.
    pub fn tpm_pid(&self) -> PathBuf {
        self.run.join("tpm.pid")
    }

    /// What its TPM says about itself.
    pub fn tpm_messages(&self) -> PathBuf {
        self.state.join("swtpm.log")
    }

    /// What is remembered of the machine.
    pub fn record(&self) -> PathBuf {
        self.state.join("machine.json")
    }
}
