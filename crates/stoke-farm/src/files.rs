//! What TFTP and NBD serve of a configuration.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;

use stoke_api::Digest;
use stoke_nbd::server::Handle;
use stoke_nbd::{Export, Exports};
use stoke_tftp::server::{Content, Files};

use crate::run::Farm;
use crate::trace::Noted;

/// Block that reads of a root are best aligned to: the page, and the block of its dm-verity tree.
const BLOCK: u32 = 4096;

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

/// The roots as NBD exports, named by digest.
#[derive(Debug)]
pub(crate) struct Roots(pub(crate) Arc<Farm>);

impl Exports for Roots {
    type Handle = Handle;

    fn find(&self, name: &str) -> Option<Export<Handle>> {
        let serving = self.0.serving();
        let digest: Digest = name.parse().ok()?;
        let root = serving.roots().find(|root| root.blob == digest)?;
        let (path, size) = serving.blob(&root.blob)?;
        match open_sized(&path, size) {
            Ok(file) => Some(Export { handle: Arc::new(file), size, preferred_block: BLOCK }),
            Err(error) => {
                tracing::error!(%digest, %error, "NBD: cannot export");
                None
            }
        }
    }

    fn names(&self) -> Vec<String> {
        self.0.serving().roots().map(|root| root.blob.to_string()).collect()
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
