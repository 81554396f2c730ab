//! Who is recorded, and how it comes to speak.

use testbed::machine::Firmware;

/// Somebody whose conversation is kept.
pub(crate) struct Peer {
    /// Name of the file.
    pub(crate) name: &'static str,
    /// What it is, with its version.
    pub(crate) about: &'static str,
    /// What else the LAN's `spec` says.
    pub(crate) lan: &'static str,
    /// What else the farm's `spec` says.
    pub(crate) farm: &'static str,
    /// Arguments of dnsmasq, if that and not our router gives the addresses.
    pub(crate) foreign: &'static [&'static str],
    /// What speaks.
    pub(crate) who: Who,
    /// When enough was said.
    pub(crate) end: End,
}

/// What speaks.
pub(crate) enum Who {
    /// An emulated machine.
    Machine(Firmware),
    /// A program on the interface `lan0`, run by a shell in the recording's folder.
    Program(&'static str),
}

/// What is waited for.
#[derive(Clone, Copy)]
pub(crate) enum End {
    /// `stoke-init` has its address.
    Init,
    /// The client has been given an address so many times: what it loads asks for one, too.
    Addresses(usize),
    /// The same over IPv6.
    Address6,
    /// So many requests came by TFTP.
    Files(usize),
    /// So many requests came by HTTP.
    Pages(usize),
}

/// Who asks for IPv6 gets it.
const IPV6: &str = "  ipv6: {prefix: \"fd00:10::/64\"}\n";
/// Our router gives no address.
const NO_DHCP: &str = "  dhcp: {mode: Off}\n";
/// iPXE in a card's ROM can do all that we need: only another server sends it to this one, which is then sent to itself.
const UNDIONLY: &[&str] = &["--dhcp-boot=undionly.kpxe,,10.10.0.1"];
/// What an older farm's DHCP server says to a BIOS.
const OLD_BIOS: &[&str] = &["--dhcp-boot=/ltsp/amd64/pxelinux.0,,10.10.0.1"];
/// A boot program, though one for another processor: enough to see how firmware loads it.
const ARM_PXE: &[&str] = &["--dhcp-boot=snponly.efi,,10.10.0.1"];
/// The same by HTTP.
const ARM_HTTP: &[&str] =
    &["--dhcp-boot=http://10.10.0.1/v1/boot/shimx64.efi", "--dhcp-option-force=option:vendor-class,HTTPClient"];

const UDHCPC: &str = "exec udhcpc -i lan0 -f -q -n -s /bin/true";
const DHCLIENT: &str = "exec dhclient -4 -d -1 -sf /bin/true -cf /dev/null -lf \"$PWD/leases\" -pf \"$PWD/pid\" lan0";
const DHCLIENT6: &str =
    "exec dhclient -6 -D LL -d -1 -sf /bin/true -cf /dev/null -lf \"$PWD/leases\" -pf \"$PWD/pid\" lan0";
/// Its own configuration: it would tell the identifier, the kernel and the processor of the host that it runs on. Its
/// leases are kept where no other program sees them, and where none are from before.
const DHCPCD: &str = "mount -t tmpfs leases /var/lib/dhcpcd\n\
    printf 'clientid\\nvendorclassid dhcpcd-9.4.1\\noption domain_name_servers, domain_name, interface_mtu\\n' >conf\n\
    exec dhcpcd -4 -f \"$PWD/conf\" -c /bin/true -B -1 -t 60 --noarp lan0";
/// As in a container: without udev, whose absence it sees by a `/sys` that nobody can write, and with an identifier of the
/// machine that is nobody's.
const NETWORKD: &str = "mount -t tmpfs run /run\n\
    mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp\n\
    chown -R systemd-network:systemd-network /run/systemd/netif\n\
    printf '[Match]\\nName=lan0\\n[Network]\\nDHCP=yes\\n' >/run/systemd/network/lan.network\n\
    echo 00000000000000000000000000000007 >/run/machine-id\n\
    mount --bind /run/machine-id /etc/machine-id\n\
    mount -t sysfs -o ro sys /sys\n\
    exec /lib/systemd/systemd-networkd";

fn machine(name: &'static str, about: &'static str, firmware: Firmware) -> Peer {
    Peer { name, about, lan: "", farm: "", foreign: &[], who: Who::Machine(firmware), end: End::Init }
}

fn program(name: &'static str, about: &'static str, script: &'static str) -> Peer {
    Peer { who: Who::Program(script), end: End::Addresses(1), ..machine(name, about, Firmware::Bios) }
}

/// Everybody.
pub(crate) fn peers() -> Vec<Peer> {
    let mut all = programs();
    all.extend(bios());
    all.extend(uefi());
    all.extend(arm());
    all
}

fn programs() -> Vec<Peer> {
    let dhclient6 = program("dhclient6", "ISC dhclient 4.4.3-P1 over IPv6", DHCLIENT6);
    vec![
        program("udhcpc", "udhcpc of busybox 1.35.0", UDHCPC),
        program("dhclient", "ISC dhclient 4.4.3-P1", DHCLIENT),
        program("dhcpcd", "dhcpcd 9.4.1", DHCPCD),
        Peer { lan: IPV6, end: End::Address6, ..dhclient6 },
        program("networkd", "systemd-networkd 252", NETWORKD),
        Peer { lan: IPV6, end: End::Address6, ..program("networkd6", "systemd-networkd 252 over IPv6", NETWORKD) },
    ]
}

fn bios() -> Vec<Peer> {
    let old = "SeaBIOS and iPXE's ROM of 2019, sent to an older farm's PXELINUX, then stoke-init";
    let undionly = "SeaBIOS and iPXE's ROM of 2019, then undionly.kpxe of the same version";
    let (pxelinux, grub) =
        ("SeaBIOS and iPXE's ROM of 2019, then PXELINUX 6.04", "SeaBIOS and iPXE's ROM of 2019, then GRUB 2.06");
    let bios = Firmware::Bios;
    vec![
        machine("bios-ipxe", "SeaBIOS and iPXE's ROM of 2019, then stoke-init", bios),
        Peer { lan: NO_DHCP, foreign: OLD_BIOS, ..machine("bios-old-path", old, bios) },
        Peer { lan: NO_DHCP, foreign: UNDIONLY, end: End::Addresses(2), ..machine("bios-undionly", undionly, bios) },
        Peer { farm: "  boot: {loader: {bios: Pxelinux}}\n", ..machine("bios-pxelinux", pxelinux, bios) },
        Peer { farm: "  boot: {loader: {bios: Grub}}\n", ..machine("bios-grub", grub, bios) },
    ]
}

fn uefi() -> Vec<Peer> {
    let (pxe6, http6) = (Firmware::UefiPxe6, Firmware::UefiHttp6);
    let grub = machine("ovmf-grub", "OVMF 2022.11, UEFI PXEv4, then GRUB 2.06", Firmware::UefiPxe);
    let shim =
        machine("ovmf-shim", "OVMF 2022.11, UEFI PXEv4, then shim 16.1 and Debian's signed GRUB", Firmware::SecurePxe);
    vec![
        machine(
            "ovmf-pxe4",
            "OVMF 2022.11, UEFI PXEv4, then snponly.efi of iPXE 1.0.0+git-20190125",
            Firmware::UefiPxe,
        ),
        machine("ovmf-http4", "OVMF 2022.11, UEFI HTTPv4, then stoke-init", Firmware::UefiHttp),
        Peer { farm: "  boot: {loader: {uefi: Grub}}\n", ..grub },
        Peer { farm: "  boot: {root: Nbd, loader: {uefi: Shim}}\n", ..shim },
        Peer { lan: IPV6, ..machine("ovmf-http6", "OVMF 2022.11, UEFI HTTPv6, then stoke-init", http6) },
        Peer {
            lan: IPV6,
            ..machine("ovmf-pxe6", "OVMF 2022.11, UEFI PXEv6, then snponly.efi of iPXE 1.0.0+git-20190125", pxe6)
        },
    ]
}

fn arm() -> Vec<Peer> {
    vec![
        Peer {
            lan: NO_DHCP,
            foreign: ARM_PXE,
            end: End::Files(2),
            ..machine("aavmf-pxe4", "AAVMF 2022.11, UEFI PXEv4 on 64-bit Arm", Firmware::ArmPxe)
        },
        Peer {
            lan: NO_DHCP,
            farm: "  boot: {loader: {http: Shim}}\n",
            foreign: ARM_HTTP,
            end: End::Pages(2),
            ..machine("aavmf-http4", "AAVMF 2022.11, UEFI HTTPv4 on 64-bit Arm", Firmware::ArmHttp)
        },
    ]
}
