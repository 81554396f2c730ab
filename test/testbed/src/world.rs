//! A host of its own: a network namespace and a folder.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// A network namespace and a folder, both gone when it is dropped.
pub struct World {
    name: String,
    folder: TempDir,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl World {
    /// A new host with a loopback interface and nothing else.
    ///
    /// # Errors
    /// If the caller is not root, or `ip` is missing.
    pub fn new() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("tests that make network namespaces need root");
        }
        let name = format!("stoketest-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // A short path: sockets below it must fit 107 bytes.
        let folder = tempfile::Builder::new().prefix("stk").tempdir().context("cannot make a folder")?;
        check(Command::new("ip").args(["netns", "add", &name]))?;
        let world = Self { name, folder };
        world.run("ip", &["link", "set", "lo", "up"])?;
        Ok(world)
    }

    /// The host's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A command that will run on this host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        command
    }

    /// Runs a command on this host that must succeed; returns what it printed.
    ///
    /// # Errors
    /// If it fails, with what it printed as errors.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        check(self.command(program).args(arguments))
    }

    /// Names of the links on this host.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn links(&self) -> Result<Vec<String>> {
        let text = self.run("ip", &["-brief", "link", "show"])?;
        let name = |line: &str| Some(line.split_whitespace().next()?.split('@').next()?.to_owned());
        Ok(text.lines().filter_map(name).collect())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = check(Command::new("ip").args(["netns", "delete", &self.name])) {
            eprintln!("could not remove network namespace {}: {error:#}", self.name);
        }
    }
}

/// Runs a command that must succeed; returns what it printed.
pub(crate) fn check(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.stdin(std::process::Stdio::null()).output().with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{shown} failed ({}): {}{}", output.status, errors, String::from_utf8_lossy(&output.stdout));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
