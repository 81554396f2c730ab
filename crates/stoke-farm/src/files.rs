//! What TFTP serves of a configuration.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;

use stoke_api::Digest;
use stoke_tftp::server::{Content, Files};

use crate::run::Farm;
use crate::trace::Noted;

impl Files for Farm {
    /// A boot program by its name; firmware that was given a path by an older set-up asks for one in a folder.
    fn open(&self, name: &str, client: SocketAddr) -> Option<Arc<dyn Content>> {
        let serving = self.serving();
        let last = name.rsplit('/').next().unwrap_or(name);
        let Some(program) = serving.programs.get(name).or_else(|| serving.programs.get(last)) else {
            tracing::info!(%client, name, "TFTP: no such boot program");
            self.trace.client(client.ip(), Noted::now("tftp", name, "no such file"));
            return None;
        };
        Some(program.clone())
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
