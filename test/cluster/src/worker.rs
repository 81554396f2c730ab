//! The image of nodes that are machines: the example's with a container runtime and a kubelet, of the Containerfile in `worker`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use testbed::kubernetes::copy_programs;

/// The store that has it, built on first use.
pub(crate) fn images() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Beside the Containerfile go programs of hundreds of MB, which have no place in a checkout.
    let context = tempfile::tempdir()?;
    let copied = Command::new("cp").arg("-r").arg(here.join("worker/.")).arg(context.path()).status()?;
    ensure!(copied.success(), "the image's files cannot be copied");
    copy_programs(&context.path().join("programs"))?;
    e2e::container_images(&[here.join("../../examples/netboot/image.yaml"), context.path().join("image.yaml")])
}
