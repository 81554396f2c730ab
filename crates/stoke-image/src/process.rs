//! Programs that a build runs: they end when the build ends, however it ends.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use stoke_api::Bytes;

use crate::BuildError;

/// How many lines of a program's output an error quotes.
const QUOTED_LINES: usize = 12;

/// Arguments of `setpriv` for a program that ends with its parent.
pub(crate) const MORTAL: [&str; 3] = ["--pdeathsig", "KILL", "--"];

/// A command that is killed when this process dies, so that a killed build leaves no installation running.
/// `setpriv` sets the signal and then becomes the program.
pub(crate) fn mortal(program: &OsStr) -> Command {
    let mut command = Command::new("setpriv");
    command.args(MORTAL).arg(program).stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
    command
}

/// The Debian package that has a program.
fn package_of(tool: &str) -> &str {
    match tool {
        "mksquashfs" => "squashfs-tools",
        "mkfs.erofs" => "erofs-utils",
        "setpriv" | "unshare" => "util-linux",
        "newuidmap" => "uidmap",
        "xz" => "xz-utils",
        other => other,
    }
}

/// Names a program as people do.
pub(crate) fn short_name(program: &OsStr) -> String {
    Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned()
}

/// Finds a program as a shell would, so that a missing one is an error that names its package.
pub(crate) fn find(program: &OsStr) -> Result<PathBuf, BuildError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Programs of administrators are not on an ordinary user's path in Debian, and needed all the same.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let mut candidates = folders.map(|folder: PathBuf| folder.join(program));
    candidates.find(|candidate| candidate.is_file()).ok_or_else(|| {
        let tool = short_name(program);
        BuildError::ToolMissing { package: package_of(&tool).to_owned(), tool }
    })
}

/// The first line of what a program says of its version.
pub(crate) fn version(program: &OsStr, flag: &str) -> Result<String, BuildError> {
    let path = find(program)?;
    let Output { stdout, stderr, .. } = Command::new(path).arg(flag).stdin(Stdio::null()).output()?;
    let said = if stdout.is_empty() { stderr } else { stdout };
    Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned())
}

/// The error of a program that failed; a full disk is told by its own name.
pub(crate) fn failure(program: &OsStr, status: ExitStatus, output: &str, space: &Space) -> BuildError {
    if output.contains("No space left on device") || output.contains("Disk quota exceeded") {
        return space.exhausted();
    }
    BuildError::Tool { tool: short_name(program), status: status.to_string(), output: last_lines(output) }
}

/// The last lines of an output, in one line.
pub(crate) fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let first = lines.len().saturating_sub(QUOTED_LINES);
    lines.get(first..).unwrap_or_default().join(" | ")
}

/// The disk that a build writes to.
#[derive(Debug)]
pub(crate) struct Space {
    /// A folder on it.
    pub(crate) path: PathBuf,
    /// What the build needs, as far as is known.
    pub(crate) needed: u64,
}

impl Space {
    /// What is free for us.
    pub(crate) fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Fails if there is not enough.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        if self.free()? < self.needed { Err(self.exhausted()) } else { Ok(()) }
    }

    /// The error of a full disk, in whole mebibytes.
    pub(crate) fn exhausted(&self) -> BuildError {
        const MEBIBYTE: u64 = 1 << 20;
        let free = Bytes(self.free().unwrap_or_default() / MEBIBYTE * MEBIBYTE);
        // What ran out was not enough, whatever was reckoned before.
        let needed = self.needed.max(free.0 + MEBIBYTE).next_multiple_of(MEBIBYTE);
        BuildError::DiskFull { path: self.path.clone(), free, needed: Bytes(needed) }
    }

    /// Tells a full disk from other failures of a file.
    pub(crate) fn explain(&self, error: io::Error) -> BuildError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => self.exhausted(),
            _ => BuildError::File(error),
        }
    }
}
