//! Test servers that are written in Go: built once from the module in `test/tools`, which pins their versions, and kept in
//! the cache.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::cache;

/// An OCI registry: distribution's.
pub const REGISTRY: &str = "github.com/distribution/distribution/v3/cmd/registry";

/// The program of a package of the module, built now if it is not in the cache: that takes minutes, and is shown.
///
/// # Errors
/// If Go is missing, or the package cannot be had or built.
pub fn go_tool(package: &str) -> Result<PathBuf> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools");
    let folder = cache().join("go-tools").join(key(&module)?);
    let name = package.rsplit('/').next().unwrap_or(package);
    let program = folder.join(name);
    fs_err::create_dir_all(&folder)?;
    let lock = fs_err::File::create(folder.join(format!("{name}.lock")))?.into_file();
    lock.lock().context("cannot wait for another build")?;
    if program.exists() {
        return Ok(program);
    }
    eprintln!("building {package} once, for all checkouts; this takes minutes");
    let staged = folder.join(format!("{name}.new"));
    let mut build = Command::new("go");
    build.args(["build", "-v", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(&staged).arg(package);
    build.current_dir(module).env("CGO_ENABLED", "0").stdin(Stdio::null());
    if !build.status().context("cannot run go, which must be installed: 1.26 or newer")?.success() {
        bail!("cannot build {package}");
    }
    fs_err::rename(&staged, &program)?;
    Ok(program)
}

/// What the programs are made of: the pinned versions, and the compiler.
fn key(module: &Path) -> Result<String> {
    let mut hash = DefaultHasher::new();
    for file in ["go.mod", "go.sum"] {
        fs_err::read(module.join(file))?.hash(&mut hash);
    }
    let version = Command::new("go").arg("version").stdin(Stdio::null()).output();
    version.context("cannot run go, which must be installed: 1.26 or newer")?.stdout.hash(&mut hash);
    Ok(format!("{:016x}", hash.finish()))
}
