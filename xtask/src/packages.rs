//! The Debian packages that the project's commands need, and their installation.

use std::process::Command;

use anyhow::{Result, bail};

use crate::run::{has_program, run};

/// What the packages are for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Building and running Stokehold itself.
    Demo,
    /// The same, and the real clients that the tests run.
    Test,
}

/// A Debian package, and the file by which it is recognised on any distribution.
struct Package {
    name: &'static str,
    file: &'static str,
    needed_for: &'static str,
}

const fn package(name: &'static str, file: &'static str, needed_for: &'static str) -> Package {
    Package { name, file, needed_for }
}

const DEMO: &[Package] = &[
    package("gcc", "/usr/bin/cc", "linking, and the C parts of two libraries"),
    package("libc6-dev", "/usr/include/stdlib.h", "the same"),
    package("qemu-system-x86", "/usr/bin/qemu-system-x86_64", "virtual machines"),
    package("ovmf", "/usr/share/OVMF/OVMF_CODE_4M.fd", "UEFI firmware of virtual machines"),
    package("ipxe-qemu", "/usr/lib/ipxe/qemu/pxe-virtio.rom", "network boot of virtual machines with a BIOS"),
    package("ipxe", "/usr/lib/ipxe/undionly.kpxe", "the boot programs that servers load first"),
    package("mmdebstrap", "/usr/bin/mmdebstrap", "image builds"),
    package("squashfs-tools", "/usr/bin/mksquashfs", "image builds"),
    package("erofs-utils", "/usr/bin/mkfs.erofs", "image builds with EROFS roots"),
    package("systemd-boot-efi", "/usr/lib/systemd/boot/efi/linuxx64.efi.stub", "unified kernel images"),
    package("zstd", "/usr/bin/zstd", "image builds"),
    package("passt", "/usr/bin/pasta", "the way out of the namespace"),
    package("nftables", "/usr/sbin/nft", "the LANs' packet filter"),
    package("iproute2", "/usr/sbin/ip", "looking at links"),
    package("uidmap", "/usr/bin/newuidmap", "image builds as an ordinary user"),
    package("buildah", "/usr/bin/buildah", "images of Containerfiles"),
    package("skopeo", "/usr/bin/skopeo", "images of container images from registries"),
    package("openssh-client", "/usr/bin/ssh", "stoke ssh"),
    package("ipmitool", "/usr/bin/ipmitool", "power and consoles of servers by IPMI"),
    package("swtpm", "/usr/bin/swtpm", "TPMs of virtual machines"),
    package("liblxc1", "/usr/lib/x86_64-linux-gnu/liblxc.so.1", "pods that are system containers"),
    package("libseccomp2", "/usr/lib/x86_64-linux-gnu/libseccomp.so.2", "filters of system calls in them"),
];

const TEST: &[Package] = &[
    package("udhcpc", "/usr/sbin/udhcpc", "tests: a DHCP client"),
    package("isc-dhcp-client", "/usr/sbin/dhclient", "tests: a DHCP client"),
    package("dhcpcd-base", "/usr/sbin/dhcpcd", "tests: a DHCP client"),
    package("dnsmasq-base", "/usr/sbin/dnsmasq", "tests: another DHCP server, and a DHCP relay"),
    package("tftp-hpa", "/usr/bin/tftp", "tests: a TFTP client"),
    package("atftp", "/usr/bin/atftp", "tests: a TFTP client"),
    package("curl", "/usr/bin/curl", "tests: an HTTP and TFTP client"),
    package("bind9-dnsutils", "/usr/bin/dig", "tests: a DNS client"),
    package("libnbd-bin", "/usr/bin/nbdinfo", "tests: an NBD client"),
    package("qemu-utils", "/usr/bin/qemu-img", "tests: an NBD client"),
    package("ndisc6", "/usr/bin/rdisc6", "tests: asks for IPv6 routers"),
    package("python3-venv", "/usr/bin/python3", "tests: gets a Go that builds test servers, and a Redfish emulator"),
    package("pkg-config", "/usr/bin/pkg-config", "tests: builds a container runtime"),
    package("tinyproxy-bin", "/usr/bin/tinyproxy", "tests: the way out of a cluster's nodes"),
    package("procps", "/usr/bin/pgrep", "tests: looking at processes"),
    package("cryptsetup-bin", "/usr/sbin/veritysetup", "tests: a second opinion on verified roots"),
    package("binutils", "/usr/bin/objcopy", "tests: a second opinion on unified kernel images"),
    package("busybox", "/bin/busybox", "tests: the smallest base of a Containerfile"),
    package("cpio", "/usr/bin/cpio", "tests: a second opinion on archives"),
    package("util-linux", "/usr/bin/setpriv", "tests: running as an ordinary user"),
    package("pxelinux", "/usr/lib/PXELINUX/lpxelinux.0", "tests: a boot loader"),
    package("syslinux-common", "/usr/lib/syslinux/modules/bios/ldlinux.c32", "tests: the same"),
    package("grub-common", "/usr/bin/grub-mkimage", "tests: a boot loader"),
    package("grub-pc-bin", "/usr/lib/grub/i386-pc/kernel.img", "tests: the same, for a BIOS"),
    package("grub-efi-amd64-bin", "/usr/lib/grub/x86_64-efi/kernel.img", "tests: the same, for UEFI"),
    package("grub-efi-amd64-signed", "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed", "tests: Secure Boot"),
    package("shim-signed", "/usr/lib/shim/shimx64.efi.signed", "tests: Secure Boot"),
    package("sbsigntool", "/usr/bin/sbverify", "tests: a second opinion on signatures"),
    package("efitools", "/usr/bin/cert-to-efi-sig-list", "tests: a second opinion on signature lists"),
    package("openssl", "/usr/bin/openssl", "tests: the same on signed updates, and on signatures of images"),
    package("systemd", "/lib/systemd/systemd-measure", "tests: a second opinion on what is measured"),
    package("openipmi", "/usr/bin/ipmi_sim", "tests: a server's management controller"),
    package("qemu-system-arm", "/usr/bin/qemu-system-aarch64", "tests: machines of 64-bit Arm"),
    package("qemu-efi-aarch64", "/usr/share/AAVMF/AAVMF_CODE.fd", "tests: their firmware"),
    package("conmon", "/usr/bin/conmon", "tests: calls our container runtime as CRI-O does"),
    package("podman", "/usr/bin/podman", "tests: the same, as podman does"),
    package("crun", "/usr/bin/crun", "tests: a second opinion on containers"),
    package("runc", "/usr/sbin/runc", "tests: the same"),
];

/// Installs what is missing, as root on Debian; otherwise fails with what to do.
pub(crate) fn ensure(purpose: Purpose) -> Result<()> {
    let tests = if purpose == Purpose::Test { TEST } else { &[] };
    let is_missing = |package: &&Package| !std::path::Path::new(package.file).exists();
    let missing: Vec<_> = DEMO.iter().chain(tests).filter(is_missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("This host lacks:");
    for package in &missing {
        eprintln!("  {:<18} {}", package.name, package.needed_for);
    }
    let names: Vec<_> = missing.iter().map(|package| package.name).collect();
    let line = format!("apt-get install --no-install-recommends {}", names.join(" "));
    if !has_program("apt-get") {
        bail!("this is no Debian: install what your distribution calls these packages, then run this again");
    }
    if !rustix::process::geteuid().is_root() {
        bail!("run this as root, then this command again:\n  sudo {line}");
    }
    install(&names)
}

fn install(names: &[&str]) -> Result<()> {
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-y", "-q"]);
        command
    };
    run("apt-get update", apt().arg("update"))?;
    run("apt-get install", apt().args(["install", "--no-install-recommends"]).args(names))
}
