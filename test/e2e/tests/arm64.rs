//! 64-bit Arm: UEFI firmware on an emulated machine boots Debian's kernel for that architecture by PXE and by HTTP, from our
//! router and our farm.
//!
//! There is no image build for Arm yet: the unified kernel image here is Debian's stub and kernel with an initramfs that
//! holds one static program.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sha2::Digest as _;
use stoke_api::Digest;
use stoke_image::uki::{self, Parts};
use testbed::machine::{Firmware, Foreign};
use testbed::{Process, World, cache, lock_cache, programs, wait_for};

const MAC: &str = "52:54:00:00:00:64";
/// An emulated Arm takes its time.
const LIMIT: Duration = Duration::from_mins(5);
const SOON: Duration = Duration::from_mins(1);

#[test]
fn arm64_uefi_boots_by_pxe() -> Result<()> {
    boots(Firmware::ArmPxe, "NBP filename is v1/blob/sha256/")
}

#[test]
fn arm64_uefi_boots_by_http() -> Result<()> {
    boots(Firmware::ArmHttp, "URI: http://10.10.0.1/v1/blob/sha256/")
}

fn boots(firmware: Firmware, loaded: &str) -> Result<()> {
    let world = World::new()?;
    lan(&world)?;
    let uki = unified_kernel_image(&world)?;
    let router = role(&world, "router", &router_config(&world, &uki))?;
    let farm = role(&world, "farm", &farm_config(&world, &uki)?)?;
    let foreign = Foreign::power_on(&world, MAC, firmware)?;
    let waited = wait_for("a program in the initramfs", LIMIT, || {
        let console = foreign.console();
        Ok((console.contains(loaded) && console.contains("initramfs of arm64 runs on aarch64")).then_some(()))
    });
    waited.with_context(|| format!("the console shows:\n{}", foreign.console()))?;
    ensure!(foreign.console().contains("Linux version 6.1."), "{}", foreign.console());
    drop((foreign, farm, router));
    Ok(())
}

/// A bridge that is LAN and switch in one.
fn lan(world: &World) -> Result<()> {
    world.run("ip", &["link", "add", "switch0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"])?;
    world.run("ip", &["addr", "add", "10.10.0.1/24", "dev", "switch0"])?;
    world.run("ip", &["link", "set", "switch0", "up"])?;
    Ok(())
}

/// Debian's kernel, stub and a static shell for arm64, unpacked once into the cache.
fn packages() -> Result<PathBuf> {
    let tree = cache().join("arm64-1");
    let _one_at_a_time = lock_cache()?;
    if !tree.exists() {
        let staged = cache().join(format!("arm64-1.{}", std::process::id()));
        let include = "--include=linux-image-arm64,systemd-boot-efi,busybox-static";
        let mut unpack = Command::new("mmdebstrap");
        unpack.args(["--variant=extract", "--architectures=arm64", include, "bookworm"]).arg(&staged);
        let output = unpack.stdin(Stdio::null()).output().context("cannot run mmdebstrap")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs_err::rename(&staged, &tree)?;
    }
    Ok(tree)
}

struct Uki {
    digest: Digest,
    size: u64,
}

/// Makes the image and puts it where the farm finds blobs.
fn unified_kernel_image(world: &World) -> Result<Uki> {
    let tree = packages()?;
    let boot = fs_err::read_dir(tree.join("boot"))?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let is_kernel = |path: &PathBuf| path.to_string_lossy().contains("/vmlinuz-");
    let kernel = boot.into_iter().find(is_kernel).context("the package has no kernel")?;
    let parts = Parts {
        os_release: b"ID=debian\n".to_vec(),
        arguments: "console=ttyAMA0".to_owned(),
        kernel_version: "6.1".to_owned(),
        initramfs: initramfs(&fs_err::read(tree.join("bin/busybox"))?)?,
        kernel: fs_err::read(kernel)?,
    };
    let stub = fs_err::read(tree.join("usr/lib/systemd/boot/efi/linuxaa64.efi.stub"))?;
    put(world, &uki::assemble(&stub, &parts)?)
}

fn initramfs(busybox: &[u8]) -> Result<Vec<u8>> {
    let mut writer = stoke_image::cpio::Writer::new(Vec::new());
    for folder in ["bin", "dev", "proc"] {
        writer.directory(folder, 0o755)?;
    }
    writer.character_device("dev/console", 0o600, 5, 1)?;
    writer.file("bin/busybox", 0o755, busybox)?;
    let script = "#!/bin/busybox sh\n/bin/busybox echo \"initramfs of arm64 runs on $(/bin/busybox uname -m)\"\n\
                  exec /bin/busybox sleep 1000000\n";
    writer.file("init", 0o755, script.as_bytes())?;
    Ok(writer.finish()?)
}

fn put(world: &World, content: &[u8]) -> Result<Uki> {
    let folder = world.folder().join("blobs/sha256");
    fs_err::create_dir_all(&folder)?;
    let digest = Digest(sha2::Sha256::digest(content).into());
    fs_err::write(folder.join(digest.hex()), content)?;
    Ok(Uki { digest, size: content.len() as u64 })
}

fn object(kind: &str) -> serde_json::Value {
    json!({"kind": kind, "namespace": "default", "name": "lab"})
}

fn router_config(world: &World, uki: &Uki) -> serde_json::Value {
    let kernel = format!("/v1/blob/sha256/{}.efi", uki.digest.hex());
    json!({
        "lan": object("Lan"), "interface": "switch0", "mtu": 1500, "dhcp": "Authoritative", "domain": "lab.internal",
        "subnets": [{"cidr": "10.10.0.0/24", "gateway": "10.10.0.1", "defaultRoute": false,
                     "pools": ["10.10.0.100-10.10.0.199"]}],
        "upstreams": [], "hosts": [], "leases": world.folder().join("leases"),
        "farms": {"default/lab": {"addresses": ["10.10.0.1"], "httpPort": 80, "nodePort": 8443,
                                  "kernels": {"arm64": kernel}, "unknownClients": "Boot"}},
    })
}

fn farm_config(world: &World, uki: &Uki) -> Result<serde_json::Value> {
    let certified = rcgen::generate_simple_self_signed(["10.10.0.1".to_owned()])?;
    let (certificate, key) = (world.folder().join("certificate.pem"), world.folder().join("key.pem"));
    fs_err::write(&certificate, certified.cert.pem())?;
    fs_err::write(&key, certified.signing_key.serialize_pem())?;
    let root = put(world, &[0; 4096])?;
    let blob = |blob: &Uki| json!({"digest": blob.digest, "size": blob.size});
    let verity = json!({"rootHash": "00", "salt": "", "dataBlocks": 1, "hashOffset": 0});
    let image = json!({
        "digest": root.digest, "architecture": "arm64", "kernel": blob(uki), "initramfs": blob(&root),
        "farmInitramfs": blob(&root), "uki": blob(uki), "kernelArguments": [],
        "root": {"format": "Squashfs", "blob": root.digest, "size": root.size, "verity": verity},
    });
    Ok(json!({
        "farm": object("Farm"), "address": "10.10.0.1", "tftpPort": 69, "httpPort": 80, "nodePort": 8443,
        "nbdPort": 10809, "blobs": world.folder().join("blobs"), "images": [image], "nodes": [],
        "unknownClients": "Boot", "root": "Auto", "config": {}, "domain": "lab.internal", "certificate": certificate,
        "key": key, "bootPrograms": {}, "state": world.folder().join("sessions"),
    }))
}

/// Starts a role and waits until it is ready.
fn role(world: &World, role: &str, config: &serde_json::Value) -> Result<Process> {
    let file = |kind: &str| world.folder().join(format!("{role}.{kind}"));
    let (path, socket, log) = (file("json"), file("sock"), file("log"));
    fs_err::write(&path, serde_json::to_vec(config)?)?;
    let mut command = world.command(programs()?.join("stoke"));
    command.args(["serve", role, "--config"]).arg(&path).arg("--socket").arg(&socket);
    let output = fs_err::File::create(&log)?.into_file();
    let process = Process::start(command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output))?;
    let waited = wait_for(&format!("the {role} to be ready"), SOON, || Ok(is_ready(&socket)?.then_some(())));
    waited.with_context(|| fs_err::read_to_string(&log).unwrap_or_default())?;
    Ok(process)
}

fn is_ready(socket: &Path) -> Result<bool> {
    let mut ask = Command::new("curl");
    ask.args(["-sf", "-o", "/dev/null", "--unix-socket"]).arg(socket).arg("http://role/ready");
    Ok(ask.stdin(Stdio::null()).status().context("cannot run curl")?.success())
}
