//! What the tests with real guests have in common: the example's image, built once, and objects in short form.
//!
//! The tests are in `tests/`, one file for each promise. `cargo xtask test` runs them.

mod versions;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
pub use testbed::cache;
use testbed::{Installation, User, World, lock_cache, programs};
pub use versions::{publish, publish_variant, withdraw_newest};

/// How long a guest may take from power-on to ready: emulated, on a machine that does other things too.
pub const BOOT_LIMIT: Duration = Duration::from_mins(10);

/// The example's image store, built on first use and kept in the cache.
///
/// # Errors
/// If the image cannot be built.
pub fn images() -> Result<PathBuf> {
    let state = cache().join("e2e");
    let _one_at_a_time = lock_cache()?;
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/netboot/image.yaml");
    let mut build = Command::new(programs()?.join("stoke"));
    build.arg("--state").arg(&state).args(["image", "build"]).arg(recipe);
    let status = build.status().context("cannot run stoke")?;
    if !status.success() {
        bail!("the example's image cannot be built");
    }
    Ok(state.join("images"))
}

/// A store with the example's image and those of these files, which buildah makes of it, built on first use. Not the one that
/// other tests link: buildah's storage beside it has owners of its own.
///
/// # Errors
/// If an image cannot be built.
pub fn container_images(files: &[PathBuf]) -> Result<PathBuf> {
    let (base, state) = (images()?, cache().join("containerfile"));
    let _one_at_a_time = lock_cache()?;
    if !state.join("images").exists() {
        fs_err::create_dir_all(&state)?;
        let copied = Command::new("cp").arg("-al").arg(base).arg(state.join("images")).status()?;
        ensure!(copied.success(), "the base cannot be linked");
    }
    let mut build = Command::new(programs()?.join("stoke"));
    build.arg("--state").arg(&state).args(["image", "build"]).args(files);
    ensure!(build.status().context("cannot run stoke")?.success(), "the images cannot be built");
    Ok(state.join("images"))
}

/// A LAN `lab` whose only DHCP server is ours unless `lan` says so, a farm `lab` on it and the image `node`, ready to be brought up.
///
/// # Errors
/// If the image cannot be built or a folder not be made.
pub fn installation(user: User, lan: &str, farm: &str) -> Result<Installation> {
    let installation = Installation::new(World::new()?, user, Some(&images()?))?;
    let recipe = include_str!("../../../examples/netboot/image.yaml");
    installation.write("image.yaml", recipe)?;
    let dhcp = if lan.contains("dhcp:") { "" } else { "  dhcp: {mode: Authoritative}\n" };
    installation.write("lan.yaml", &object("Lan", "lab", &format!("{LAN}{dhcp}{lan}")))?;
    installation.write("farm.yaml", &object("Farm", "lab", &format!("  lan: lab\n  image: node\n{farm}")))?;
    Ok(installation)
}

const LAN: &str =
    "  subnets: [{name: v4, cidr: 10.10.0.0/24, pools: [10.10.0.100-10.10.0.199]}]\n  dns: {domain: lab.internal}\n";

/// An object in YAML; `spec` is indented by two.
pub fn object(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: stokehold.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}")
}

/// A virtual machine on the LAN `lab`, fed by the farm `lab`.
pub fn machine(name: &str, firmware: &str, address: &str) -> String {
    let vm = format!("  vm: {{cpus: 1, memory: 1Gi, firmware: {{{firmware}: {{}}}}, boot: {{from: Network}}}}\n");
    let nics = format!("  nics: [{{name: lab, lan: lab, address: {address}}}]\n");
    object("Machine", name, &format!("{vm}  farm: lab\n{nics}"))
}
