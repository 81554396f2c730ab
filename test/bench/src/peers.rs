//! The best set-up of others, and the one that people install: dnsmasq, nginx, nbdkit, nbd-server, Debian's initramfs.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use testbed::peers::Peers;
use testbed::{Process, World, wait_for};

/// What a peer serves.
pub(crate) struct Content {
    /// The kernel.
    pub(crate) kernel: PathBuf,
    /// The initramfs for BIOS boots.
    pub(crate) initramfs: PathBuf,
    /// The unified kernel image for UEFI boots.
    pub(crate) uki: Option<PathBuf>,
    /// The root.
    pub(crate) root: PathBuf,
    /// Kernel arguments.
    pub(crate) arguments: String,
}

/// Which servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Servers {
    /// Tuned: no ping before an offer, router advertisements, no PXE discovery; nginx; nbdkit.
    Best,
    /// As they are installed: dnsmasq with its TFTP, nbd-server.
    Usual,
}

/// Servers that run on the far side of the wire, in a world without any of ours.
pub(crate) struct Rival {
    pub(crate) world: World,
    _processes: Vec<Process>,
}

const ADDRESS: &str = "10.10.0.1";
const EXPORT: &str = "root";

impl Rival {
    /// Starts them and waits until they answer.
    pub(crate) fn start(peers: &Peers, servers: Servers, content: &Content) -> Result<Self> {
        let world = World::new()?;
        testbed::machine::wire(&world)?;
        // The switch has a carrier before the machine is there; nobody is on the other end.
        world.run("ip", &["link", "set", "uplink0", "addrgenmode", "none", "arp", "off", "up"])?;
        world.run("ip", &["address", "add", &format!("{ADDRESS}/24"), "dev", "switch0"])?;
        let folder = world.folder().join("www");
        publish(&folder, servers, content)?;
        let mut processes = vec![dnsmasq(peers, &world, servers, content.uki.is_some())?];
        match servers {
            Servers::Best => {
                processes.push(nginx(peers, &world)?);
                processes.push(nbdkit(peers, &world, &content.root)?);
            }
            Servers::Usual => processes.push(nbd_server(peers, &world, &content.root)?),
        }
        wait_for("the peers' NBD server", std::time::Duration::from_secs(20), || {
            Ok(world.run("nbdinfo", &["--size", &format!("nbd://{ADDRESS}/{EXPORT}")]).ok())
        })?;
        Ok(Self { world, _processes: processes })
    }
}

/// What the firmware fetches, by name.
fn publish(folder: &Path, servers: Servers, content: &Content) -> Result<()> {
    fs_err::create_dir_all(folder)?;
    link(&content.kernel, &folder.join("vmlinuz"))?;
    link(&content.initramfs, &folder.join("initrd.img"))?;
    if let Some(uki) = &content.uki {
        link(uki, &folder.join("linux.efi"))?;
    }
    let base = if servers == Servers::Best { format!("http://{ADDRESS}") } else { format!("tftp://{ADDRESS}") };
    let lines = [
        "#!ipxe".to_owned(),
        format!("kernel {base}/vmlinuz {}", content.arguments),
        format!("initrd {base}/initrd.img"),
        "boot".to_owned(),
    ];
    Ok(fs_err::write(folder.join("boot.ipxe"), lines.join("\n"))?)
}

fn link(from: &Path, to: &Path) -> Result<()> {
    if fs_err::hard_link(from, to).is_err() {
        fs_err::copy(from, to)?;
    }
    Ok(())
}

fn dnsmasq(peers: &Peers, world: &World, servers: Servers, uefi: bool) -> Result<Process> {
    let folder = world.folder().join("www");
    let mut command = peers.command(world, "/usr/sbin/dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=switch0", "--user=root"]);
    command.args(["--dhcp-authoritative", "--dhcp-range=10.10.0.100,10.10.0.199,255.255.255.0,1h", "--enable-tftp"]);
    command.arg(format!("--tftp-root={}", folder.display()));
    command.arg(format!("--dhcp-leasefile={}", world.folder().join("leases").display()));
    command.arg("--dhcp-match=set:ipxe,175");
    let root_path = format!("--dhcp-option-force=17,nbd://{ADDRESS}:10809/{EXPORT}");
    command.arg(root_path);
    if uefi {
        command.arg("--dhcp-vendorclass=set:http,HTTPClient");
        command.arg("--dhcp-option-force=tag:http,60,HTTPClient");
        command.arg(format!("--dhcp-boot=tag:http,http://{ADDRESS}/linux.efi"));
    }
    match servers {
        Servers::Best => {
            command.args(["--no-ping", "--enable-ra", "--dhcp-range=fd00:10::,ra-stateless,slaac"]);
            command.arg("--dhcp-option-force=43,06:01:08");
            // iPXE's `no-pxedhcp`: it does not wait for a second DHCP server.
            command.arg("--dhcp-option-force=encap:175,176,1b");
            command.arg(format!("--dhcp-boot=tag:ipxe,http://{ADDRESS}/boot.ipxe"));
            world.run("ip", &["address", "add", "fd00:10::1/64", "dev", "switch0", "nodad"])?;
            settled(world)?;
        }
        Servers::Usual => {
            command.arg("--dhcp-boot=tag:ipxe,boot.ipxe");
        }
    }
    Process::start(&mut command)
}

/// Waits until the switch may use its addresses: a router that has just been plugged in would not answer yet, and these have
/// been there for days.
fn settled(world: &World) -> Result<()> {
    wait_for("the peers' IPv6 address", std::time::Duration::from_secs(20), || {
        let local = |flag: &[&str]| {
            world.run("ip", &[&["-6", "address", "show", "dev", "switch0", "scope", "link"], flag].concat())
        };
        Ok((!local(&[])?.trim().is_empty() && local(&["tentative"])?.trim().is_empty()).then_some(()))
    })
}

fn nginx(peers: &Peers, world: &World) -> Result<Process> {
    let folder = world.folder();
    let text = format!(
        "daemon off; user root; pid {0}/nginx.pid; error_log {0}/nginx.log; events {{}}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; client_body_temp_path {0}/t1; proxy_temp_path {0}/t2;\n\
         fastcgi_temp_path {0}/t3; uwsgi_temp_path {0}/t4; scgi_temp_path {0}/t5;\n\
         types {{ application/efi efi; }} default_type application/octet-stream;\n\
         server {{ listen {ADDRESS}:80; root {0}/www; }} }}\n",
        folder.display()
    );
    let file = folder.join("nginx.conf");
    fs_err::write(&file, text)?;
    let mut command = peers.command(world, "/usr/sbin/nginx");
    command.arg("-c").arg(file).arg("-p").arg(folder);
    Process::start(&mut command)
}

fn nbdkit(peers: &Peers, world: &World, root: &Path) -> Result<Process> {
    let mut command = peers.command(world, "/usr/bin/nbdkit");
    command.args(["--foreground", "--readonly", "--ipaddr", ADDRESS, "--port", "10809"]);
    command.arg(peers.file("/usr/lib/x86_64-linux-gnu/nbdkit/plugins/nbdkit-file-plugin.so"));
    command.arg(format!("file={}", root.display()));
    Process::start(&mut command)
}

fn nbd_server(peers: &Peers, world: &World, root: &Path) -> Result<Process> {
    let text = format!(
        "[generic]\nuser = root\ngroup = root\nallowlist = true\n[{EXPORT}]\nexportname = {}\nreadonly = true\n",
        root.display()
    );
    let file = world.folder().join("nbd.conf");
    fs_err::write(&file, text)?;
    // It goes into the background, or ends after its first client: a process namespace of its own ends with us.
    let server = peers.command(world, "/bin/nbd-server");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "sh", "-ec", "\"$@\"; exec sleep infinity", "nbd-server"]);
    command.arg(server.get_program()).args(server.get_args());
    command.arg("-C").arg(file).arg("-p").arg(world.folder().join("nbd-server.pid"));
    Process::start(&mut command)
}

/// What is added to Debian's initramfs, below `/etc/initramfs-tools`: the two marks, a writable layer over the read-only root,
/// as a diskless node needs it, and the modules for both.
const ADDITIONS: [(&str, &str); 4] = [
    (
        "scripts/init-top/a-mark",
        "read -r uptime rest </proc/uptime\necho \"initramfs: [$uptime] init\" >/dev/console\n",
    ),
    (
        "scripts/local-bottom/overlay",
        "mkdir /lower /upper\nmount -o move \"$rootmnt\" /lower\nmount -t tmpfs tmpfs /upper\nmkdir /upper/u /upper/w\n\
         mount -t overlay -o lowerdir=/lower,upperdir=/upper/u,workdir=/upper/w overlay \"$rootmnt\"\n",
    ),
    (
        "scripts/init-bottom/z-mark",
        "read -r uptime rest </proc/uptime\necho \"initramfs: [$uptime] switched\" >/dev/console\n",
    ),
    ("modules", "squashfs\noverlay\n"),
];

/// Debian's own initramfs with nbd-client, for the kernel of the same suite. Made once, in the cache.
pub(crate) fn debian_initramfs(cache: &Path, kernel: &str) -> Result<PathBuf> {
    let made = cache.join(format!("initramfs-tools-2-{kernel}.img"));
    if !made.exists() {
        let folder = cache.join(format!("initramfs-tools.{}", std::process::id()));
        let (additions, tree) = (folder.join("additions"), folder.join("tree"));
        add_to_initramfs(&additions)?;
        let mut build = Command::new("mmdebstrap");
        build.args(["--variant=minbase", "--include=linux-image-amd64,initramfs-tools,nbd-client,busybox,zstd"]);
        let copy = format!("mkdir -p \"$1\"/etc && cp -r {} \"$1\"/etc/initramfs-tools", additions.display());
        build.arg(format!("--essential-hook={copy}"));
        let status = build.arg("bookworm").arg(&tree).status().context("cannot run mmdebstrap")?;
        if !status.success() {
            bail!("the peer's initramfs cannot be built");
        }
        fs_err::copy(tree.join(format!("boot/initrd.img-{kernel}")), &made)?;
        fs_err::remove_dir_all(&folder)?;
    }
    Ok(made)
}

/// Writes [`ADDITIONS`] as initramfs-tools(7) wants its scripts.
fn add_to_initramfs(folder: &Path) -> Result<()> {
    for (name, body) in ADDITIONS {
        let path = folder.join(name);
        fs_err::create_dir_all(path.parent().unwrap_or(folder))?;
        let after = if name.starts_with("scripts/init-bottom") { "udev" } else { "" };
        let script = format!("#!/bin/sh\n[ \"$1\" = prereqs ] && {{ echo {after}; exit 0; }}\n{body}");
        let is_script = name.starts_with("scripts/");
        fs_err::write(&path, if is_script { script } else { body.to_owned() })?;
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(if is_script { 0o755 } else { 0o644 }))?;
    }
    Ok(())
}
