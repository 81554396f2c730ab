//! Puts the programs together in one folder, as they would be installed: `stoke`, `stoke-vm`, `stoke-lxc`, and a static `stoke-init`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::run::{cargo, root, run};

/// Options of `cargo xtask build`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// With optimisation.
    #[arg(long)]
    release: bool,
}

impl Options {
    pub(crate) fn profile(&self) -> Profile {
        if self.release { Profile::Release } else { Profile::Dev }
    }
}

/// How all but `stoke-init` are compiled. `stoke-init` is always small: see the profile `init`.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    Dev,
    Release,
}

const INIT_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the programs and returns their folder.
pub(crate) fn build(profile: Profile) -> Result<PathBuf> {
    let (name, folder) = match profile {
        Profile::Dev => ("dev", "debug"),
        Profile::Release => ("release", "release"),
    };
    let programs =
        ["build", "--package", "stoke", "--package", "stoke-vm", "--package", "stoke-lxc", "--profile", name];
    run("build stoke, stoke-vm and stoke-lxc", &mut cargo(&programs))?;
    let init = ["build", "--package", "stoke-init", "--profile", "init", "--target", INIT_TARGET];
    // Jitter entropy costs an emulated machine a second of each boot; the kernel's random numbers are ready by then.
    let environment = [("RUSTFLAGS", "-C target-feature=+crt-static"), ("AWS_LC_SYS_NO_JITTER_ENTROPY", "1")];
    run("build stoke-init", cargo(&init).envs(environment))?;
    let target = target();
    let together = target.join("stokehold").join(folder);
    fs_err::create_dir_all(&together)?;
    for program in ["stoke", "stoke-vm", "stoke-lxc"] {
        place(&target.join(folder).join(program), &together.join(program))?;
    }
    place(&target.join(INIT_TARGET).join("init/stoke-init"), &together.join("stoke-init"))?;
    Ok(together)
}

/// Where cargo puts what it makes.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Replaces the file by rename: a program that runs keeps its own. A file with the same content stays, with its time.
fn place(from: &Path, to: &Path) -> Result<()> {
    let content = fs_err::read(from)?;
    if fs_err::read(to).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let staged = to.with_extension("new");
    fs_err::copy(from, &staged)?;
    fs_err::rename(&staged, to).with_context(|| format!("cannot place {}", to.display()))
}
