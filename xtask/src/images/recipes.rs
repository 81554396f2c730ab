//! What is in each image: data only.

use anyhow::{Result, bail};

/// User and group of everything in a pod that needs no rights.
pub(super) const USER: u32 = 65532;

/// The archives that packages come from.
pub(super) const ARCHIVES: [&str; 3] = [
    "deb http://deb.debian.org/debian bookworm main",
    "deb http://deb.debian.org/debian bookworm-updates main",
    "deb http://deb.debian.org/debian-security bookworm-security main",
];

/// An image.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    /// The program that a container runs.
    pub(super) entrypoint: &'static str,
    /// Our programs.
    pub(super) programs: &'static [&'static str],
    /// Packages of Debian. What they need comes with them.
    pub(super) packages: &'static [&'static str],
    /// How they are there.
    pub(super) packing: Packing,
    /// All that is kept of them, by the beginnings of paths; everything if empty.
    pub(super) keep: &'static [&'static str],
    /// What is dropped, by the beginnings of paths.
    pub(super) drop: &'static [&'static str],
    /// Files of the folder `images/files`.
    pub(super) files: &'static [&'static str],
}

/// How packages are in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Only their files: no shell, no package manager, nothing was run.
    Extracted,
    /// Installed, with apt and the essential system around.
    Installed,
}

/// Never needed in an image. Copyright files stay where packages have put them.
pub(super) const NEVER: &[&str] = &[
    "dev/",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/fstab",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "usr/share/bug/",
    "usr/share/info/",
    "usr/share/lintian/",
    "usr/share/locale/",
    "usr/share/man/",
    "usr/share/pixmaps/",
    "usr/share/icons/",
    "usr/share/bash-completion/",
    "var/cache/",
    "var/lib/apt/lists/",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/available",
    "var/log/",
];

/// Who a container without a package manager's database of people knows.
const PEOPLE: &[&str] = &["etc/passwd", "etc/group", "etc/nsswitch.conf"];

const ALL: &[Recipe] = &[
    Recipe {
        name: "stoke",
        description: "Operator, node agent, router and farm of Stokehold",
        entrypoint: "stoke",
        programs: &["stoke"],
        packages: &["libc6", "libgcc-s1", "ipxe", "ca-certificates", "nftables", "ipmitool", "openssh-client"],
        packing: Packing::Extracted,
        // Our programs' shared libraries (resolving names is in libc since glibc 2.34), then what the agent lays LANs'
        // packet filters with, what switches servers by IPMI, and what reboots them by SSH, with theirs.
        keep: &[
            "lib64/ld-linux-x86-64.so.2",
            "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
            "lib/x86_64-linux-gnu/libc.so.6",
            "lib/x86_64-linux-gnu/libm.so.6",
            "lib/x86_64-linux-gnu/libgcc_s.so.1",
            "usr/sbin/nft",
            "usr/lib/x86_64-linux-gnu/libnftables.so",
            "usr/lib/x86_64-linux-gnu/libnftnl.so",
            "usr/lib/x86_64-linux-gnu/libmnl.so",
            "usr/lib/x86_64-linux-gnu/libjansson.so",
            "usr/lib/x86_64-linux-gnu/libxtables.so",
            "usr/lib/x86_64-linux-gnu/libgmp.so",
            "usr/lib/x86_64-linux-gnu/libedit.so",
            "usr/lib/x86_64-linux-gnu/libbsd.so",
            "usr/lib/x86_64-linux-gnu/libmd.so",
            "usr/bin/ipmitool",
            "usr/lib/x86_64-linux-gnu/libcrypto.so",
            "usr/lib/x86_64-linux-gnu/libfreeipmi.so",
            "usr/lib/x86_64-linux-gnu/libgcrypt.so",
            "lib/x86_64-linux-gnu/libgpg-error.so",
            "lib/x86_64-linux-gnu/libreadline.so",
            "lib/x86_64-linux-gnu/libtinfo.so",
            "usr/bin/ssh",
            "lib/x86_64-linux-gnu/libselinux.so",
            "lib/x86_64-linux-gnu/libz.so",
            "lib/x86_64-linux-gnu/libcom_err.so",
            "lib/x86_64-linux-gnu/libkeyutils.so",
            "lib/x86_64-linux-gnu/libresolv.so",
            "usr/lib/x86_64-linux-gnu/libgssapi_krb5.so",
            "usr/lib/x86_64-linux-gnu/libkrb5.so",
            "usr/lib/x86_64-linux-gnu/libk5crypto.so",
            "usr/lib/x86_64-linux-gnu/libkrb5support.so",
            "usr/lib/x86_64-linux-gnu/libpcre2-8.so",
            "usr/lib/ipxe/undionly.kpxe",
            "usr/lib/ipxe/snponly.efi",
            "usr/share/ca-certificates/mozilla/",
            "usr/share/doc/",
            "var/lib/dpkg/status",
        ],
        drop: &[],
        files: PEOPLE,
    },
    Recipe {
        name: "vm",
        description: "A virtual machine of Stokehold in a pod: stoke-vm, QEMU, firmware, TPM",
        entrypoint: "stoke-vm",
        programs: &["stoke-vm"],
        packages: &["qemu-system-x86", "seabios", "ovmf", "ipxe-qemu", "swtpm", "swtpm-tools"],
        packing: Packing::Extracted,
        keep: &[],
        // Other machines than a PC, other programs than the emulator, and lists of languages that come with them.
        drop: &[
            "usr/bin/qemu-system-x86_64-microvm",
            "usr/bin/qemu-storage-daemon",
            "usr/lib/qemu/",
            "usr/libexec/qemu-system-i386",
            "usr/bin/qemu-system-i386",
            "usr/share/iso-codes/",
            "usr/share/xml/",
            "usr/share/qemu/openbios-",
            "usr/share/qemu/skiboot.lid",
            "usr/share/qemu/slof.bin",
            "usr/share/qemu/opensbi-",
            "usr/share/qemu/u-boot",
            "usr/share/qemu/hppa-",
            "usr/share/qemu/s390-",
            "usr/share/qemu/palcode-",
        ],
        files: PEOPLE,
    },
    Recipe {
        name: "builder",
        description: "Builds images of nodes: stoke with mmdebstrap, buildah and makers of file systems",
        entrypoint: "stoke",
        programs: &["stoke", "stoke-init"],
        packages: &[
            "mmdebstrap",
            "squashfs-tools",
            "erofs-utils",
            "systemd-boot-efi",
            "zstd",
            "xz-utils",
            "uidmap",
            "buildah",
            "crun",
            "skopeo",
            "ca-certificates",
            "debian-archive-keyring",
        ],
        packing: Packing::Installed,
        keep: &[],
        drop: &[],
        files: &[],
    },
];

/// The images of these names; all if there are none.
pub(super) fn choose(names: &[String]) -> Result<Vec<&'static Recipe>> {
    if let Some(unknown) = names.iter().find(|name| !ALL.iter().any(|recipe| recipe.name == **name)) {
        let known: Vec<_> = ALL.iter().map(|recipe| recipe.name).collect();
        bail!("there is no image {unknown}; there are {}", known.join(", "));
    }
    Ok(ALL.iter().filter(|recipe| names.is_empty() || names.iter().any(|name| name == recipe.name)).collect())
}
