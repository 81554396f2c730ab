//! Images of containers for clusters: `cargo xtask images`. Without a daemon, reproducible, for an ordinary user.
//!
//! ```text
//!  packages of Debian ─ mmdebstrap ─> tree ─ [tree]: sorted out, times bounded ─> lower layer (cached) ─┐
//!  our programs ─────────────────────────────────────────────────────────────> upper layer ────────────┤
//!                                                     packages and crates ─ [bill] ─> SPDX ────────────┴─> OCI layout, archive
//! ```
//!
//! What is in each is in [`recipes`]; where they lie afterwards in `images/README.md`.

mod bill;
mod recipes;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use fs_err::File;
use stoke_image::Store;
use stoke_image::store::{Container, Layer};

use crate::build::{self, Profile};
use crate::run::root;
use recipes::{Recipe, USER};

/// Options of `cargo xtask images`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// With optimisation, as they are shipped.
    #[arg(long)]
    release: bool,
    /// Fetch the packages of Debian again, for what was mended in them.
    #[arg(long)]
    fresh: bool,
    /// Tag of the images; the version of the programs if absent.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// Registry, and path there, that their names begin with.
    #[arg(long, default_value = "localhost")]
    registry: String,
    /// Take the programs of this folder, and build none.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Which of them: stoke, vm, builder; all if absent.
    images: Vec<String>,
}

/// What the tests call the version before this one: the same programs under another tag, which is in the image, too, so that
/// its digest is another.
const PREVIOUS: &str = "previous";

/// Makes the images, and prints name and digest of each.
pub(crate) fn run(options: &Options) -> Result<()> {
    make(options, &build::target().join("images"))
}

fn make(options: &Options, folder: &Path) -> Result<()> {
    let wanted = recipes::choose(&options.images)?;
    let bases = wanted.iter().map(|recipe| tree::base(recipe, options.fresh)).collect::<Result<Vec<_>>>()?;
    let programs = match &options.programs {
        Some(programs) => programs.clone(),
        None => build::build(if options.release { Profile::Release } else { Profile::Dev })?,
    };
    fs_err::create_dir_all(folder)?;
    let store = Store::open(folder.join("oci"))?;
    for (recipe, base) in wanted.into_iter().zip(bases) {
        let upper = tree::programs(recipe, &programs)?;
        let layers = [base.layer(&store)?, upper.layer(&store)?];
        let name = format!("{}/stokehold/{}:{}", options.registry, recipe.name, options.tag);
        let bill = bill::of(recipe, &name, &base)?;
        let digest = store.publish_container(&container(recipe, name.clone(), &options.tag, &layers, bill.clone()))?;
        fs_err::write(folder.join(format!("{}.spdx.json", recipe.name)), bill)?;
        archive(&store, &name, &folder.join(format!("{}.tar", recipe.name)))?;
        println!("{name} {digest}");
    }
    Ok(())
}

/// Makes all images of these programs; the folder of their archives.
pub(crate) fn make_for_demo(programs: &Path) -> Result<PathBuf> {
    let folder = build::target().join("images");
    make(&plain(programs, env!("CARGO_PKG_VERSION"), &[]), &folder)?;
    Ok(folder)
}

/// The same as the tests have them: in the folder `previous` are those that are upgraded from.
pub(crate) fn make_for_tests(programs: &Path) -> Result<PathBuf> {
    let folder = make_for_demo(programs)?;
    make(&plain(programs, PREVIOUS, &["stoke", "vm"]), &folder.join(PREVIOUS))?;
    Ok(folder)
}

fn plain(programs: &Path, tag: &str, images: &[&str]) -> Options {
    Options {
        release: false,
        fresh: false,
        tag: tag.to_owned(),
        registry: "localhost".to_owned(),
        programs: Some(programs.to_owned()),
        images: images.iter().map(ToString::to_string).collect(),
    }
}

fn container(recipe: &Recipe, name: String, tag: &str, layers: &[Layer], bill: Vec<u8>) -> Container {
    let label = |key: &str, value: &str| (format!("org.opencontainers.image.{key}"), value.to_owned());
    Container {
        name,
        architecture: "amd64".to_owned(),
        created: tree::CREATED.to_owned(),
        entrypoint: vec![format!("/usr/bin/{}", recipe.entrypoint)],
        user: format!("{USER}:{USER}"),
        environment: vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned(), "HOME=/tmp".to_owned()],
        labels: BTreeMap::from([
            label("title", &format!("stokehold/{}", recipe.name)),
            label("description", recipe.description),
            label("version", tag),
            label("licenses", "Apache-2.0"),
        ]),
        layers: layers.to_vec(),
        bill,
    }
}

/// Written beside the old one and renamed: whoever reads that goes on with it.
fn archive(store: &Store, name: &str, to: &Path) -> Result<()> {
    let staged = to.with_extension("tar.new");
    store.export_container(name, std::io::BufWriter::new(File::create(&staged)?))?;
    fs_err::rename(&staged, to)?;
    Ok(())
}

/// A file of the folder `images/files`, by its path in the image.
fn file(path: &str) -> Result<Vec<u8>> {
    fs_err::read(root().join("images/files").join(path)).with_context(|| format!("an image's {path}"))
}

/// Fails with the standard words of a command that went wrong.
fn check(program: &str, output: &std::process::Output) -> Result<()> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last: Vec<_> = said.lines().rev().take(12).collect();
        bail!("{program} failed: {}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    Ok(())
}
