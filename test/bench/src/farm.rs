//! A farm of ours for benchmarks of its services: made-up blobs in a made-up image, served in a world.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use testbed::{Process, World, wait_for};

/// Port of HTTP.
pub(crate) const HTTP: u16 = 80;
/// Port of HTTPS: the node API's, which serves blobs, too.
pub(crate) const HTTPS: u16 = 443;

/// Blobs by size in bytes. Their names are digests in form only: who serves does not verify.
pub(crate) struct Blobs {
    folder: PathBuf,
    blobs: Vec<(String, u64)>,
}

impl Blobs {
    /// Makes blobs of these sizes in a folder.
    pub(crate) fn make(folder: &Path, sizes: &[u64]) -> Result<Self> {
        let inner = folder.join("sha256");
        fs_err::create_dir_all(&inner)?;
        let mut blobs = Vec::new();
        for (number, size) in sizes.iter().enumerate() {
            let name = format!("{:064x}", number + 1);
            fill(&inner.join(&name), *size)?;
            blobs.push((name, *size));
        }
        Ok(Self { folder: folder.to_owned(), blobs })
    }

    /// The hexadecimal digits that name a blob.
    pub(crate) fn name(&self, number: usize) -> &str {
        self.blobs.get(number).map_or("", |(name, _)| name)
    }

    /// Its file.
    pub(crate) fn file(&self, number: usize) -> PathBuf {
        self.folder.join("sha256").join(self.name(number))
    }

    fn reference(&self, number: usize) -> serde_json::Value {
        let size = self.blobs.get(number).map_or(0, |(_, size)| *size);
        json!({ "digest": format!("sha256:{}", self.name(number)), "size": size })
    }
}

/// Writes a file that no file system can shorten, and leaves it in the page cache.
fn fill(path: &Path, size: u64) -> Result<()> {
    use std::io::Write as _;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ size;
    let mut block = vec![0; 1 << 20];
    let mut file = fs_err::File::create(path)?;
    let mut left = size;
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        file.write_all(block.get(..length).unwrap_or_default())?;
        left -= length as u64;
    }
    Ok(())
}

/// A certificate for an address and its key, in a folder: paths of both.
pub(crate) fn certificate(folder: &Path, address: &str) -> Result<(PathBuf, PathBuf)> {
    let made = rcgen::generate_simple_self_signed([address.to_owned()])?;
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    fs_err::write(&certificate, made.cert.pem())?;
    fs_err::write(&key, made.signing_key.serialize_pem())?;
    Ok((certificate, key))
}

/// A farm that runs. The first blob is the root of its image, the second one the kernel, the third one the rest.
pub(crate) struct OurFarm {
    /// The process.
    pub(crate) process: Process,
}

impl OurFarm {
    /// Starts it on an address of the world and waits until it is ready.
    pub(crate) fn start(world: &World, address: &str, blobs: &Blobs) -> Result<Self> {
        let folder = world.folder().join("farm");
        fs_err::create_dir_all(&folder)?;
        let config = folder.join("config.json");
        let socket = folder.join("admin.sock");
        fs_err::write(&config, serde_json::to_vec(&configuration(&folder, address, blobs)?)?)?;
        let mut command = world.command(testbed::programs()?.join("stoke"));
        command.args(["serve", "farm", "--config"]).arg(&config).arg("--socket").arg(&socket);
        command.env("STOKE_LOG", "warn").stdin(std::process::Stdio::null());
        let process = Process::start(&mut command)?;
        let socket = socket.to_str().context("a path that is no text")?;
        wait_for("the farm", Duration::from_secs(30), || {
            let ready = ["-sSf", "--unix-socket", socket, "http://farm/ready"];
            Ok(world.run("curl", &ready).ok())
        })?;
        Ok(Self { process })
    }
}

fn configuration(folder: &Path, address: &str, blobs: &Blobs) -> Result<serde_json::Value> {
    let (certificate, key) = certificate(folder, address)?;
    let root = blobs.reference(0);
    let verity = json!({ "rootHash": "00".repeat(32), "salt": "", "dataBlocks": 1, "hashOffset": 4096 });
    let image = json!({
        "digest": format!("sha256:{}", "f".repeat(64)),
        "kernel": blobs.reference(1),
        "initramfs": blobs.reference(2),
        "farmInitramfs": blobs.reference(2),
        "uki": null,
        "root": { "format": "Squashfs", "blob": root.get("digest"), "size": root.get("size"), "verity": verity },
        "kernelArguments": [],
    });
    Ok(json!({
        "farm": { "kind": "Farm", "namespace": "default", "name": "bench" },
        "address": address,
        "tftpPort": 69, "httpPort": HTTP, "nodePort": HTTPS, "nbdPort": 10809,
        "blobs": blobs.folder,
        "images": [image],
        "nodes": [], "unknownClients": "Boot", "root": "Auto", "config": {}, "domain": "bench.internal",
        "certificate": certificate, "key": key,
        "bootPrograms": {},
        "state": folder.join("state"),
    }))
}
