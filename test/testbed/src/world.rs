//! A host of its own: a network namespace and a folder.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::wait::{Process, wait_for};

/// A network namespace and a folder, both gone when it is dropped.
pub struct World {
    name: String,
    /// Keeps mounts that only this host has.
    mounts: Option<Process>,
    /// The way to other hosts.
    way_out: Option<Process>,
    folder: TempDir,
}

/// Mounts a file system of a size, says so, and keeps the mount for as long as it runs.
const KEEP_DISK: &str = "mount -t tmpfs -o size=\"$2\" disk \"$1\" && touch \"$1\" && exec tail --follow /dev/null";

/// How long what the kernel does may take.
const LIMIT: Duration = Duration::from_secs(20);

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
        let world = Self { name, mounts: None, way_out: None, folder };
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
        command.arg(format!("--net=/run/netns/{}", self.name));
        command.args(self.mounts.as_ref().map(|keeper| format!("--mount=/proc/{}/ns/mnt", keeper.id())));
        command.arg("--").arg(program);
        command
    }

    /// A disk of its own for a folder in the host's folder, of so many mebibytes. Only commands on this host see it.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn add_disk(&mut self, folder: &str, mebibytes: u32) -> Result<()> {
        let path = self.folder().join(folder);
        fs_err::create_dir_all(&path)?;
        let mut keeper = self.command("unshare");
        keeper.args(["--mount", "--propagation", "private", "sh", "-c", KEEP_DISK, "disk"]);
        keeper.arg(&path).arg(format!("{mebibytes}M")).stdin(std::process::Stdio::null());
        let keeper = Process::start(&mut keeper)?;
        let mounts = format!("/proc/{}/mountinfo", keeper.id());
        let place = format!(" {} ", path.display());
        wait_for("the disk", LIMIT, || Ok(fs_err::read_to_string(&mounts)?.contains(&place).then_some(())))?;
        self.mounts = Some(keeper);
        Ok(())
    }

    /// Makes this host reach what the host that the tests run on reaches.
    ///
    /// # Errors
    /// If `pasta` is not there.
    pub fn open_way_out(&mut self) -> Result<()> {
        let mut pasta = Command::new("pasta");
        pasta.args(["--netns", &format!("/run/netns/{}", self.name), "--config-net", "--foreground", "--quiet"]);
        pasta.args(["--runas", "0:0", "-t", "none", "-u", "none", "-T", "none", "-U", "none"]);
        self.way_out = Some(Process::start(pasta.stdin(std::process::Stdio::null()))?);
        wait_for(
            "the way out",
            LIMIT,
            || Ok((!self.run("ip", &["route", "show", "default"])?.is_empty()).then_some(())),
        )
    }

    /// Runs a command on this host that must succeed; returns what it printed.
    ///
    /// # Errors
    /// If it fails, with what it printed as errors.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        check(self.command(program).args(arguments))
    }

    /// Its name among the network namespaces: `ip netns exec NAME`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A wire to another host. Each end is called `wire0` and has an address with its prefix's length: ours, then the other's.
    ///
    /// # Errors
    /// If there is such a link on one of them already.
    pub fn connect(&self, other: &Self, addresses: [&str; 2]) -> Result<()> {
        let [near, far] = addresses;
        self.run("ip", &["link", "add", "wire0", "type", "veth", "peer", "name", "wire0", "netns", &other.name])?;
        for (world, address) in [(self, near), (other, far)] {
            world.run("ip", &["address", "add", address, "dev", "wire0"])?;
            world.run("ip", &["link", "set", "wire0", "up"])?;
        }
        Ok(())
    }

    /// Moves the calling thread, and the threads that it starts from now on, to this host: their sockets are this host's.
    ///
    /// # Errors
    /// If the caller is not root.
    pub fn enter(&self) -> Result<()> {
        let namespace = fs_err::File::open(format!("/run/netns/{}", self.name))?;
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(namespace.file().as_fd(), kind)
            .with_context(|| format!("cannot enter network namespace {}", self.name))
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
        (self.way_out, self.mounts) = (None, None);
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
