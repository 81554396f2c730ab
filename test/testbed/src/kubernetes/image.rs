//! Images for the nodes of a cluster: a few files, packed as `docker save` does.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::tools::{GUEST, go_tool};

/// An image of one layer.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its name, as pods write it: `localhost/…:1`, which nobody looks for elsewhere.
    pub name: String,
    /// Its files: where they are in the image, and on this host. All are executable.
    pub files: Vec<(String, PathBuf)>,
    /// What is started, and what that is told.
    pub entrypoint: Vec<String>,
    /// What it is told unless a pod says something else.
    pub arguments: Vec<String>,
}

/// The image of the test bed's own program: it waits (the default), serves or gets. A pod's sandbox runs it too.
pub const GUEST_IMAGE: &str = "localhost/stokehold-testbed/guest:1";

impl Image {
    /// See [`GUEST_IMAGE`].
    pub(super) fn guest() -> Result<Self> {
        let files = vec![("guest".to_owned(), go_tool(GUEST)?)];
        let (entrypoint, arguments) = (vec!["/guest".to_owned()], vec!["wait".to_owned()]);
        Ok(Self { name: GUEST_IMAGE.to_owned(), files, entrypoint, arguments })
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// If a file cannot be read, or the archive not written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let layer = self.layer()?;
        let config = serde_json::to_vec(&self.config(&layer))?;
        let manifest = json!([{"Config": "config.json", "RepoTags": [self.name], "Layers": ["layer.tar"]}]);
        let mut archive = tar::Builder::new(fs_err::File::create(path)?);
        append(&mut archive, "config.json", &config)?;
        append(&mut archive, "layer.tar", &layer)?;
        append(&mut archive, "manifest.json", &serde_json::to_vec(&manifest)?)?;
        Ok(archive.finish()?)
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut layer = tar::Builder::new(Vec::new());
        for (name, file) in &self.files {
            append(&mut layer, name, &fs_err::read(file)?)?;
        }
        Ok(layer.into_inner()?)
    }

    fn config(&self, layer: &[u8]) -> Value {
        let digest = Sha256::digest(layer).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Cmd": self.arguments, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        })
    }
}

fn append<W: std::io::Write>(archive: &mut tar::Builder<W>, name: &str, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(content.len().try_into()?);
    Ok(archive.append_data(&mut header, name, content)?)
}
