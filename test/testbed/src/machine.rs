//! A foreign machine: a QEMU that nobody of ours started, on a wire to an installation's uplink.

use std::process::Stdio;

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
        let tap = "tap0";
        world.run("ip", &["tuntap", "add", "dev", tap, "mode", "tap"])?;
        world.run("ip", &["link", "set", tap, "master", "switch0", "up"])?;
        let console = world.folder().join("foreign.log");
        let mut command = world.command("qemu-system-x86_64");
        command.args(["-machine", "q35,accel=tcg", "-cpu", "max", "-m", "1024", "-nodefaults", "-display", "none"]);
        command.args(["-netdev", &format!("tap,id=net,ifname={tap},script=no,downscript=no")]);
        command.args(["-serial", &format!("file:{}", console.display())]);
        let device = format!("virtio-net-pci,netdev=net,mac={mac},bootindex=1");
        match firmware {
            Firmware::Bios => command.args(["-device", &device]),
            Firmware::UefiPxe | Firmware::UefiHttp => {
                let variables = world.folder().join("foreign-vars.fd");
                fs_err::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &variables)?;
                let code = "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd";
                command.args(["-drive", code]);
                command.args(["-drive", &format!("if=pflash,format=raw,file={}", variables.display())]);
                if firmware == Firmware::UefiHttp {
                    // OVMF would try PXE first, for tens of seconds.
                    for switch in ["IPv4PXESupport", "IPv6PXESupport", "IPv6Support"] {
                        command.args(["-fw_cfg", &format!("name=opt/org.tianocore/{switch},string=n")]);
                    }
                }
                command.args(["-device", "virtio-rng-pci", "-device", &format!("{device},romfile=")])
            }
        };
        command.stdin(Stdio::null());
        Ok(Self { process: Process::start(&mut command)?, console })
    }

    /// What its console has printed so far.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs_err::read(&self.console).unwrap_or_default()).into_owned()
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
