//! What TFTP serves of a configuration.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;

use stoke_api::Digest;
use stoke_tftp::server::{Content, Files, OnDisk};

use crate::boot_files;
use crate::config::Serving;
use crate::run::Farm;
use crate::trace::Noted;

impl Files for Farm {
    /// A boot program by its name (firmware that was given a path by an older set-up asks for one in a folder), a blob by
    /// its path, or a loader's configuration.
    fn open(&self, name: &str, client: SocketAddr) -> Option<Arc<dyn Content>> {
        let serving = self.serving();
        let last = name.rsplit('/').next().unwrap_or(name);
        if let Some(program) = serving.programs.get(name).or_else(|| serving.programs.get(last)) {
            return Some(program.clone());
        }
        let blob = || blob_by_name(&serving, name).map(|blob| Arc::new(blob) as Arc<dyn Content>);
        let config =
            || Some(Arc::new(boot_files::config(self, name, Some(client.ip()))?.into_bytes()) as Arc<dyn Content>);
        let found = blob().or_else(config);
        if found.is_none() {
            tracing::info!(%client, name, "TFTP: no such file");
            self.trace.client(client.ip(), Noted::now("tftp", name, "no such file"));
        }
        found
    }
}

/// A blob by its path on the HTTP server: loaders that cannot load by HTTP, and firmware that loads the kernel itself, get
/// it here.
fn blob_by_name(serving: &Serving, name: &str) -> Option<OnDisk> {
    let name = name.strip_prefix("v1/blob/sha256/")?;
    let digest = Digest::from_hex(name.strip_suffix(".efi").unwrap_or(name)).ok()?;
    let (path, size) = serving.blob(&digest)?;
    match open_sized(&path, size).and_then(OnDisk::new) {
        Ok(file) => Some(file),
        Err(error) => {
            tracing::error!(%digest, %error, "TFTP: cannot serve a blob");
            None
        }
    }
}

/// Opens a file that must have this size.
pub(crate) fn open_sized(path: &std::path::Path, size: u64) -> std::io::Result<File> {
    let file: File = fs_err::File::open(path)?.into();
    let found = file.metadata()?.len();
    if found == size {
        return Ok(file);
    }
    let message = format!("{} has {found} bytes instead of {size}; build the image again", path.display());
    Err(std::io::Error::other(message))
}
