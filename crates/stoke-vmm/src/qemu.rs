//! QEMU's argument list for a machine: pure, so that it can be printed and compared.
//!
//! Everything is said: `-nodefaults -no-user-config` leave nothing to QEMU's taste or to files of the host. The guest
//! is started paused (`-S`), so that whoever connects to QMP first misses no event.

use std::ffi::OsString;
use std::fmt::Display;
use std::path::Path;

use stoke_api::names::{Bytes, MacAddr};
use stoke_api::workload::{FirmwareKind, TCG_OVERHEAD};

use crate::spec::{Accelerator, FirmwareFiles, Placement, SecureWay, Tap, VmSpec};

/// The program.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// The MTU of Ethernet, which a guest takes without being told.
const ETHERNET_MTU: u16 = 1500;

/// How long SeaBIOS waits until it tries all boot devices again, in milliseconds. Without it, a machine that was on
/// before its farm would wait forever (`boot_fail` in SeaBIOS' `boot.c`).
const BIOS_RETRY_MS: u32 = 3_000;

/// What OVMF is told by `fw_cfg` (`OvmfPkg/RUNTIME_CONFIG.md` in edk2): no PXE, so that HTTP boot is the first thing it
/// tries and not what is left after three timeouts; no IPv6, which would be a fourth one before it tries again.
const OVMF_SWITCHES: [&str; 3] =
    ["opt/org.tianocore/IPv4PXESupport", "opt/org.tianocore/IPv6PXESupport", "opt/org.tianocore/IPv6Support"];

/// The arguments after the program's name.
pub fn arguments(spec: &VmSpec, placement: &Placement) -> Vec<OsString> {
    let mut list = Arguments::default();
    list.flags(["-nodefaults", "-no-user-config", "-S"]);
    list.option("-name", format!("guest={},debug-threads=on", escaped(&spec.name)));
    list.option("-uuid", &spec.uuid);
    machine(&mut list, spec, placement);
    firmware(&mut list, spec, placement);
    for (index, (mac, tap)) in spec.macs.iter().zip(&placement.taps).enumerate() {
        interface(&mut list, spec.firmware, index, *mac, *tap);
    }
    for (index, disk) in spec.disks.iter().enumerate() {
        block_device(&mut list, placement, index, disk.name.as_str());
    }
    list.option("-device", "virtio-rng-pci");
    if spec.tpm {
        tpm(&mut list, placement);
    }
    sockets(&mut list, placement);
    // Children, new privileges and scheduling are nothing that a machine without helpers needs.
    list.option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    list.0
}

fn machine(list: &mut Arguments, spec: &VmSpec, placement: &Placement) {
    // Without graphics SeaBIOS, and with it iPXE, writes to the serial console.
    let secure = matches!(placement.firmware, FirmwareFiles::Uefi { secure: Some(_), .. });
    // In system management mode the firmware writes its variables, and nobody else can.
    list.option("-machine", if secure { "q35,graphics=off,smm=on" } else { "q35,graphics=off" });
    let (accelerator, cpu) = match placement.accelerator {
        Accelerator::Kvm => ("kvm".to_owned(), "host"),
        // Else it grows to 1 GiB (`DEFAULT_CODE_GEN_BUFFER_SIZE` in `tcg/region.c` of QEMU), and a pod has a limit.
        Accelerator::Tcg => (format!("tcg,tb-size={}", TCG_OVERHEAD.0 >> 20), "max"),
    };
    list.option("-accel", accelerator);
    list.option("-cpu", cpu);
    list.option("-smp", spec.cpus.to_string());
    list.option("-m", format!("size={}k", kibibytes(spec.memory)));
    list.option("-display", "none");
    list.option("-vga", "none");
}

/// Rounded down to what QEMU takes as a size; a page is the smallest unit that a machine can have anyway.
fn kibibytes(memory: Bytes) -> u64 {
    memory.0 / 4096 * 4
}

fn firmware(list: &mut Arguments, spec: &VmSpec, placement: &Placement) {
    match &placement.firmware {
        FirmwareFiles::Bios => list.option("-boot", format!("strict=on,reboot-timeout={BIOS_RETRY_MS}")),
        FirmwareFiles::Uefi { code, vars, secure } => {
            list.option("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={}", path(code)));
            list.option("-drive", format!("if=pflash,unit=1,format=raw,file={}", path(vars)));
            if secure.is_some() {
                list.option("-global", "driver=cfi.pflash01,property=secure,value=on");
            }
            let by_pxe = *secure == Some(SecureWay::Pxe);
            for switch in OVMF_SWITCHES.into_iter().filter(|switch| !(by_pxe && *switch == OVMF_SWITCHES[0])) {
                list.option("-fw_cfg", format!("name={switch},string=n"));
            }
        }
    }
    let serial = spec.uuid.as_str();
    list.option("-smbios", format!("type=1,manufacturer=Stokehold,product=Machine,serial={serial},uuid={serial}"));
}

fn interface(list: &mut Arguments, firmware: FirmwareKind, index: usize, mac: MacAddr, tap: Tap) {
    list.option("-netdev", format!("tap,id=net{index},fd={},vhost=off", tap.fd));
    let mut device = format!("virtio-net-pci,id=nic{index},netdev=net{index},mac={mac}");
    if index == 0 {
        device += ",bootindex=1";
    }
    // UEFI brings a driver of its own, which knows HTTP boot; iPXE's option ROM would take its place.
    if firmware == FirmwareKind::Uefi || index > 0 {
        device += ",romfile=";
    }
    if tap.mtu != ETHERNET_MTU {
        device = format!("{device},host_mtu={}", tap.mtu);
    }
    list.option("-device", device);
}

/// What the guest writes to the disk and flushes is on the host's disk; what it discards takes no room any more.
fn block_device(list: &mut Arguments, placement: &Placement, index: usize, name: &str) {
    let file = path(&placement.files.disk(name));
    let common = "cache.direct=off,cache.no-flush=off,discard=unmap";
    list.option("-blockdev", format!("driver=file,node-name=file{index},filename={file},{common}"));
    list.option("-blockdev", format!("driver=raw,node-name=disk{index},file=file{index},{common}"));
    list.option("-device", format!("virtio-blk-pci,id=blk{index},drive=disk{index},serial={name}"));
}

/// The interface of TPM 2.0 that current machines have; the TPM itself is a process beside this one.
fn tpm(list: &mut Arguments, placement: &Placement) {
    list.option("-chardev", format!("socket,id=tpm,path={}", path(&placement.files.tpm_socket())));
    list.option("-tpmdev", "emulator,id=tpm0,chardev=tpm");
    list.option("-device", "tpm-crb,tpmdev=tpm0");
}

fn sockets(list: &mut Arguments, placement: &Placement) {
    let files = &placement.files;
    let server = |id: &str, socket: &Path| format!("socket,id={id},path={},server=on,wait=off", path(socket));
    list.option("-chardev", server("qmp", &files.qmp()));
    list.option("-mon", "chardev=qmp,mode=control");
    let log = format!("logfile={},logappend=on", path(&files.console_log()));
    list.option("-chardev", format!("{},{log}", server("serial", &files.serial())));
    list.option("-serial", "chardev:serial");
    list.0.extend(["-pidfile".into(), files.pid().into_os_string()]);
}

/// A value inside of a comma-separated list: QEMU takes a doubled comma for a comma.
fn escaped(text: &str) -> String {
    text.replace(',', ",,")
}

fn path(path: &Path) -> String {
    escaped(&path.to_string_lossy())
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn flags<const N: usize>(&mut self, flags: [&str; N]) {
        self.0.extend(flags.map(OsString::from));
    }

    fn option(&mut self, name: &str, value: impl Display) {
        self.0.extend([name.into(), value.to_string().into()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::VmFiles;
    use std::os::fd::RawFd;
    use stoke_api::objects::VmDisk;

    fn spec(firmware: FirmwareKind, macs: &[&str]) -> VmSpec {
        VmSpec {
            name: "node-1".into(),
            uuid: "6f1c1d5e-0000-4000-8000-000000000001".into(),
            cpus: 2,
            memory: Bytes(1 << 30),
            firmware,
            secure_boot: false,
            tpm: false,
            macs: macs.iter().map(|mac| mac.parse().unwrap()).collect(),
            disks: Vec::new(),
        }
    }

    fn placement(accelerator: Accelerator, firmware: FirmwareFiles, taps: &[(RawFd, u16)]) -> Placement {
        let taps = taps.iter().map(|&(fd, mtu)| Tap { fd, mtu }).collect();
        let files = VmFiles::new(Path::new("/state/node-1"), Path::new("/run/node-1"));
        Placement { accelerator, firmware, taps, files }
    }

    /// One line for each option, as people write it.
    fn lines(spec: &VmSpec, placement: &Placement) -> String {
        let mut text = String::new();
        for argument in arguments(spec, placement) {
            let argument = argument.into_string().unwrap();
            text += if argument.starts_with('-') { "\n" } else { " " };
            text += &argument;
        }
        text.trim_start().to_owned()
    }

    #[test]
    fn a_bios_machine_under_tcg_boots_by_the_option_rom_of_its_interface() {
        let spec = spec(FirmwareKind::Bios, &["52:54:00:00:00:01"]);
        insta::assert_snapshot!(lines(&spec, &placement(Accelerator::Tcg, FirmwareFiles::Bios, &[(7, 1500)])), @r"
        -nodefaults
        -no-user-config
        -S
        -name guest=node-1,debug-threads=on
        -uuid 6f1c1d5e-0000-4000-8000-000000000001
        -machine q35,graphics=off
        -accel tcg,tb-size=512
        -cpu max
        -smp 2
        -m size=1048576k
        -display none
        -vga none
        -boot strict=on,reboot-timeout=3000
        -smbios type=1,manufacturer=Stokehold,product=Machine,serial=6f1c1d5e-0000-4000-8000-000000000001,uuid=6f1c1d5e-0000-4000-8000-000000000001
        -netdev tap,id=net0,fd=7,vhost=off
        -device virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:00:00:01,bootindex=1
        -device virtio-rng-pci
        -chardev socket,id=qmp,path=/run/node-1/qmp.sock,server=on,wait=off
        -mon chardev=qmp,mode=control
        -chardev socket,id=serial,path=/run/node-1/serial.sock,server=on,wait=off,logfile=/state/node-1/console.log,logappend=on
        -serial chardev:serial
        -pidfile /state/node-1/qemu.pid
        -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
        ");
    }

    #[test]
    fn a_uefi_machine_under_kvm_goes_straight_to_http_boot() {
        let spec = spec(FirmwareKind::Uefi, &["52:54:00:00:00:01", "52:54:00:00:00:02"]);
        let files =
            FirmwareFiles::Uefi { code: "/usr/share/OVMF/CODE,4M.fd".into(), vars: "/state/v.fd".into(), secure: None };
        let placement = placement(Accelerator::Kvm, files, &[(7, 1450), (8, 1500)]);
        insta::assert_snapshot!(lines(&spec, &placement), @r"
        -nodefaults
        -no-user-config
        -S
        -name guest=node-1,debug-threads=on
        -uuid 6f1c1d5e-0000-4000-8000-000000000001
        -machine q35,graphics=off
        -accel kvm
        -cpu host
        -smp 2
        -m size=1048576k
        -display none
        -vga none
        -drive if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/CODE,,4M.fd
        -drive if=pflash,unit=1,format=raw,file=/state/v.fd
        -fw_cfg name=opt/org.tianocore/IPv4PXESupport,string=n
        -fw_cfg name=opt/org.tianocore/IPv6PXESupport,string=n
        -fw_cfg name=opt/org.tianocore/IPv6Support,string=n
        -smbios type=1,manufacturer=Stokehold,product=Machine,serial=6f1c1d5e-0000-4000-8000-000000000001,uuid=6f1c1d5e-0000-4000-8000-000000000001
        -netdev tap,id=net0,fd=7,vhost=off
        -device virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:00:00:01,bootindex=1,romfile=,host_mtu=1450
        -netdev tap,id=net1,fd=8,vhost=off
        -device virtio-net-pci,id=nic1,netdev=net1,mac=52:54:00:00:00:02,romfile=
        -device virtio-rng-pci
        -chardev socket,id=qmp,path=/run/node-1/qmp.sock,server=on,wait=off
        -mon chardev=qmp,mode=control
        -chardev socket,id=serial,path=/run/node-1/serial.sock,server=on,wait=off,logfile=/state/node-1/console.log,logappend=on
        -serial chardev:serial
        -pidfile /state/node-1/qemu.pid
        -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
        ");
    }

    #[test]
    fn secure_boot_protects_its_variables_and_boots_as_its_keys_allow() {
        let lines = |secure| {
            let files = FirmwareFiles::Uefi { code: "/code.fd".into(), vars: "/v.fd".into(), secure };
            lines(&spec(FirmwareKind::Uefi, &["52:54:00:00:00:01"]), &placement(Accelerator::Tcg, files, &[(7, 1500)]))
        };
        let (plain, http, pxe) = (lines(None), lines(Some(SecureWay::Http)), lines(Some(SecureWay::Pxe)));
        assert!(!plain.contains("smm=on") && !plain.contains("-global"));
        for secure in [&http, &pxe] {
            assert!(secure.contains("-machine q35,graphics=off,smm=on"), "{secure}");
            assert!(secure.contains("-global driver=cfi.pflash01,property=secure,value=on"), "{secure}");
            assert!(secure.contains("opt/org.tianocore/IPv6PXESupport,string=n"), "{secure}");
        }
        let no_pxe = "opt/org.tianocore/IPv4PXESupport,string=n";
        assert!(http.contains(no_pxe) && !pxe.contains(no_pxe));
    }

    #[test]
    fn a_disk_is_known_by_its_name() {
        let disk = VmDisk { name: "data".parse().unwrap(), size: Bytes(1 << 30) };
        let spec = VmSpec { disks: vec![disk], ..spec(FirmwareKind::Bios, &["52:54:00:00:00:01"]) };
        let lines = lines(&spec, &placement(Accelerator::Tcg, FirmwareFiles::Bios, &[(7, 1500)]));
        assert!(lines.contains("node-name=file0,filename=/state/node-1/disk-data.raw,"), "{lines}");
        assert!(lines.contains("-device virtio-blk-pci,id=blk0,drive=disk0,serial=data\n"), "{lines}");
        assert!(!lines.contains("bootindex=2"), "nothing boots from it: {lines}");
    }

    #[test]
    fn a_tpm_is_reached_by_its_own_socket() {
        let with = |tpm| {
            let spec = VmSpec { tpm, ..spec(FirmwareKind::Uefi, &["52:54:00:00:00:01"]) };
            let files = FirmwareFiles::Uefi { code: "/code.fd".into(), vars: "/v.fd".into(), secure: None };
            lines(&spec, &placement(Accelerator::Tcg, files, &[(7, 1500)]))
        };
        let (without, with) = (with(false), with(true));
        let added: Vec<_> = with.lines().filter(|line| !without.contains(line)).collect();
        let expected = [
            "-chardev socket,id=tpm,path=/run/node-1/tpm.sock",
            "-tpmdev emulator,id=tpm0,chardev=tpm",
            "-device tpm-crb,tpmdev=tpm0",
        ];
        assert_eq!(added, expected);
    }

    #[test]
    fn a_comma_in_a_path_ends_no_option() {
        assert_eq!(path(Path::new("/a,b/c")), "/a,,b/c");
    }
}
