//! A foreign machine: a QEMU that nobody of ours started, on a wire to an installation's uplink.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::wait::Process;
use crate::world::World;

/// Firmware of a foreign machine, and how it boots from the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// A PC BIOS; the interface's ROM is iPXE.
    Bios,
    /// UEFI with its own PXE.
    UefiPxe,
    /// UEFI that boots by HTTP.
    UefiHttp,
    /// UEFI with its own PXE, over IPv6 alone.
    UefiPxe6,
    /// UEFI that boots by HTTP, over IPv6 alone.
    UefiHttp6,
    /// The same two with Secure Boot on: whose keys it trusts is in its variables.
    SecurePxe,
    /// See [`Self::SecurePxe`].
    SecureHttp,
    /// UEFI on 64-bit Arm, with its own PXE.
    ArmPxe,
    /// UEFI on 64-bit Arm that boots by HTTP.
    ArmHttp,
}

/// Variables of OVMF with the keys that machines are sold with: Microsoft's.
pub const MICROSOFT_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd";

impl Firmware {
    fn is_arm(self) -> bool {
        matches!(self, Self::ArmPxe | Self::ArmHttp)
    }

    fn is_http(self) -> bool {
        matches!(self, Self::UefiHttp | Self::UefiHttp6 | Self::SecureHttp | Self::ArmHttp)
    }

    /// Code, and the template of the variables.
    fn files(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Bios => None,
            Self::UefiPxe | Self::UefiHttp | Self::UefiPxe6 | Self::UefiHttp6 => {
                Some(("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"))
            }
            Self::SecurePxe | Self::SecureHttp => {
                Some(("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", MICROSOFT_VARIABLES))
            }
            Self::ArmPxe | Self::ArmHttp => Some(("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd")),
        }
    }

    /// The hypervisor and the machine that it emulates.
    fn machine(self) -> (&'static str, [&'static str; 2]) {
        match self {
            // Without graphics, a BIOS writes to the serial console.
            Self::Bios => ("qemu-system-x86_64", ["q35,accel=tcg,graphics=off", "max"]),
            Self::UefiPxe | Self::UefiHttp | Self::UefiPxe6 | Self::UefiHttp6 => {
                ("qemu-system-x86_64", ["q35,accel=tcg", "max"])
            }
            // Only the firmware itself, in system management mode, may write its variables.
            Self::SecurePxe | Self::SecureHttp => ("qemu-system-x86_64", ["q35,accel=tcg,smm=on", "max"]),
            Self::ArmPxe | Self::ArmHttp => ("qemu-system-aarch64", ["virt,accel=tcg", "cortex-a57"]),
        }
    }
}

/// The wire: a veth pair whose near end `uplink0` is for the installation, the far end on a switch.
///
/// # Errors
/// If a link cannot be made.
pub fn wire(world: &World) -> Result<()> {
    world.run("ip", &["link", "add", "uplink0", "type", "veth", "peer", "name", "far0"])?;
    world.run("ip", &["link", "add", "switch0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"])?;
    world.run("ip", &["link", "set", "far0", "master", "switch0", "up"])?;
    world.run("ip", &["link", "set", "switch0", "up"])?;
    Ok(())
}

/// Lets nothing of IPv4 through the wire any more.
///
/// # Errors
/// If the rule cannot be made.
pub fn without_ipv4(world: &World) -> Result<()> {
    world.run("nft", &["add", "table", "bridge", "wire"])?;
    world.run("nft", &["add", "chain", "bridge", "wire", "in", "{ type filter hook prerouting priority 0; }"])?;
    world.run("nft", &["add", "rule", "bridge", "wire", "in", "ether", "type", "{ ip, arp }", "drop"])?;
    Ok(())
}

/// What makes UEFI boot in this way.
fn uefi(command: &mut Command, firmware: Firmware) {
    let (pxe, ip4, ip6) = (["IPv4PXESupport", "IPv6PXESupport"], "IPv4Support", "IPv6Support");
    let off: &[&str] = match (firmware.is_http(), firmware.is_arm()) {
        _ if firmware == Firmware::UefiPxe6 => &[pxe[0], ip4],
        _ if firmware == Firmware::UefiHttp6 => &[pxe[0], pxe[1], ip4],
        // It would try PXE first, for tens of seconds.
        (true, _) => &[pxe[0], pxe[1], ip6],
        // Half a minute in which it would ask for an IPv6 router that is not there.
        (false, true) => &[pxe[1], ip6],
        (false, false) => &[],
    };
    for switch in off {
        command.args(["-fw_cfg", &format!("name=opt/org.tianocore/{switch},string=n")]);
    }
    if firmware == Firmware::UefiHttp6 {
        // At once, OVMF 2022.11 would give up: HTTP does not wait, as PXE does, until its link-local address is probed.
        command.args(["-boot", "menu=on,splash-time=10000"]);
    }
    if matches!(firmware, Firmware::SecurePxe | Firmware::SecureHttp) {
        command.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
    }
}

/// A machine on the wire.
pub struct Foreign {
    /// The hypervisor.
    pub process: Process,
    console: std::path::PathBuf,
}

impl Foreign {
    /// Powers a machine on whose only way to a system is the wire.
    ///
    /// # Errors
    /// If QEMU cannot be started.
    pub fn power_on(world: &World, mac: &str, firmware: Firmware) -> Result<Self> {
        Self::power_on_with(world, mac, firmware, None)
    }

    /// The same with a copy of these firmware variables instead of fresh ones.
    ///
    /// # Errors
    /// If QEMU cannot be started.
    pub fn power_on_with(world: &World, mac: &str, firmware: Firmware, variables: Option<&Path>) -> Result<Self> {
        Self::power_on_sized(world, mac, firmware, variables, 1024)
    }

    /// A machine of so many MiB.
    ///
    /// # Errors
    /// If QEMU cannot be started.
    pub fn power_on_large(world: &World, mac: &str, firmware: Firmware, memory: u32) -> Result<Self> {
        Self::power_on_sized(world, mac, firmware, None, memory)
    }

    fn power_on_sized(
        world: &World,
        mac: &str,
        firmware: Firmware,
        variables: Option<&Path>,
        memory: u32,
    ) -> Result<Self> {
        // Several machines may be on one wire.
        let number = mac.rsplit(':').next().unwrap_or_default();
        let tap = &format!("tap{number}");
        if !world.links()?.iter().any(|link| link == tap) {
            world.run("ip", &["tuntap", "add", "dev", tap, "mode", "tap"])?;
            world.run("ip", &["link", "set", tap, "master", "switch0", "up"])?;
        }
        let console = world.folder().join(format!("foreign-{number}.log"));
        let (hypervisor, [machine, cpu]) = firmware.machine();
        let mut command = world.command(hypervisor);
        command.args(["-machine", machine, "-cpu", cpu, "-m", &memory.to_string(), "-nodefaults", "-display", "none"]);
        command.args(["-netdev", &format!("tap,id=net,ifname={tap},script=no,downscript=no")]);
        command.args(["-serial", &format!("file:{}", console.display())]);
        let device = format!("virtio-net-pci,netdev=net,mac={mac},bootindex=1");
        if let Some((code, template)) = firmware.files() {
            let own = world.folder().join(format!("foreign-vars-{number}.fd"));
            fs_err::copy(variables.unwrap_or(Path::new(template)), &own)?;
            command.args(["-drive", &format!("if=pflash,format=raw,readonly=on,file={code}")]);
            command.args(["-drive", &format!("if=pflash,format=raw,file={}", own.display())]);
            uefi(&mut command, firmware);
            command.args(["-device", "virtio-rng-pci", "-device", &format!("{device},romfile=")]);
        } else {
            command.args(["-device", &device]);
        }
        command.stdin(Stdio::null());
        Ok(Self { process: Process::start(&mut command)?, console })
    }

    /// What its console has printed so far.
    pub fn console(&self) -> String {
        crate::console::read(&self.console)
    }

    /// Seconds of processor time that the hypervisor has used: a figure that hardly depends on what else the host does.
    ///
    /// # Errors
    /// If it is gone.
    pub fn processor_time(&self) -> Result<f64> {
        let text = fs_err::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        // proc_pid_stat(5): behind the name, which may contain anything, utime is the 12th field and stime the 13th.
        let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
        let ticks = ticks.into_iter().reduce(std::ops::Add::add).context("the hypervisor's processor time")?;
        #[expect(clippy::cast_precision_loss, reason = "a hundred or so")]
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        Ok(ticks / per_second)
    }
}
