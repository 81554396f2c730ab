//! A tree as an image of containers: what `FROM` of another image of ours starts from.

use std::io;
use std::path::Path;

use fs_err as fs;
use fs_err::File;
use serde_json::{Value, json};
use stoke_api::Digest;

use super::digest_of;
use crate::BuildError;
use crate::layers::Hashing;
use crate::store::measure;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Keeps packages from starting what they bring while an image is built (`invoke-rc.d(8)`): nothing runs there, and what
/// starts on this host is none of their business. Container images of Debian have the same file; it does not ship.
const POLICY: &str = "#!/bin/sh\nexit 101\n";
const POLICY_PATH: &str = "usr/sbin/policy-rc.d";

/// Lays out an image of one tree in a folder, which is made. The tree is linked, not copied. Says what its layers are known by.
pub(super) fn layout(tree: &Path, folder: &Path) -> Result<[Digest; 2], BuildError> {
    let blobs = folder.join("blobs/sha256");
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(&blobs)?;
    let mut plain = Hashing::new(zstd::Decoder::new(File::open(tree)?)?);
    io::copy(&mut plain, &mut io::sink())?;
    let stored = measure(tree)?;
    fs::hard_link(tree, blobs.join(stored.digest.hex()))?;
    let policy = policy()?;
    let layers = [plain.digest(), digest_of(&policy)];
    let put = |kind: &str, content: &[u8]| -> Result<Value, BuildError> {
        let digest = digest_of(content);
        fs::write(blobs.join(digest.hex()), content)?;
        Ok(json!({"mediaType": kind, "digest": digest, "size": content.len()}))
    };
    let tree = json!({"mediaType": format!("{LAYER}+zstd"), "digest": stored.digest, "size": stored.size});
    let config = json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": layers}, "config": {},
        "history": [{"created_by": "tree"}, {"created_by": "no services"}],
    });
    let config = put(CONFIG, config.to_string().as_bytes())?;
    let layers_of = [tree, put(LAYER, &policy)?];
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers_of}).to_string();
    put(MANIFEST, manifest.as_bytes())?;
    let named = json!({
        "mediaType": MANIFEST, "digest": digest_of(manifest.as_bytes()), "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "base"},
    });
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    fs::write(folder.join("index.json"), json!({"schemaVersion": 2, "manifests": [named]}).to_string())?;
    Ok(layers)
}

fn policy() -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(POLICY.len() as u64);
    archive.append_data(&mut header, POLICY_PATH, POLICY.as_bytes())?;
    archive.into_inner()
}
