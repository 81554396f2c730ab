//! Stage `root`: the clean tree as a read-only file system, written by the file system's own tool.
//!
//! mksquashfs reads a tar archive, so owners and attributes pass through as an ordinary user. mkfs.erofs of Debian 12
//! reads a folder only: the tree is unpacked for it, by an ordinary user in a user namespace, where it has its owners.

use std::ffi::OsStr;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use fs_err as fs;
use stoke_api::objects::{Compression, RootForm, RootFormat};

use crate::process::{self, MORTAL, Space, failure, mortal};
use crate::recipe::Privilege;
use crate::store::Workspace;
use crate::{BuildError, Tools};

/// zstd level of squashfs. Measured with a tree of 600 MB: level 3 takes 2.4 s of processor time and makes 173 MB, level 9
/// takes 9 s and makes 158 MB.
const SQUASHFS_LEVEL: &str = "9";
/// The file system's own identifier; it names the content no better than the digest does, and must not differ.
const EROFS_UUID: &str = "00000000-0000-4000-8000-000000000000";

/// What a root is made with.
pub(crate) struct Workshop<'a> {
    pub(crate) tools: &'a Tools,
    pub(crate) workspace: &'a Workspace,
    pub(crate) privilege: Privilege,
    pub(crate) space: &'a Space,
    /// The time of the file system itself.
    pub(crate) time: u64,
}

/// Makes the file system of a tree that `write_tree` writes as a tar archive.
pub(crate) fn make<T>(
    workshop: &Workshop<'_>,
    form: &RootForm,
    image: &Path,
    write_tree: impl FnOnce(&mut dyn Write) -> io::Result<T>,
) -> Result<T, BuildError> {
    let (tool, mut command) = match form.format {
        RootFormat::Squashfs => squashfs(workshop, form.compression(), image)?,
        RootFormat::Erofs => erofs(workshop, form.compression(), image)?,
    };
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let listener = thread::spawn(move || {
        let mut said = Vec::new();
        stderr.map_or(Ok(0), |mut stderr| stderr.read_to_end(&mut said)).map(|_| said)
    });
    let written = match stdin {
        Some(stdin) => write_tree(&mut BufWriter::with_capacity(1 << 18, stdin)),
        None => Err(io::Error::other("no pipe")),
    };
    let status = child.wait()?;
    let said = listener.join().unwrap_or_else(|_| Ok(Vec::new()))?;
    if !status.success() {
        return Err(failure(tool, status, &String::from_utf8_lossy(&said), workshop.space));
    }
    written.map_err(|error| workshop.space.explain(error))
}

/// A command that is root, at least in a user namespace of its own: the top folder of a squashfs from a tar archive
/// belongs to whoever makes it. `ids` is what of the user's ids is there beside root.
pub(crate) fn as_root(privilege: Privilege, ids: &str, program: &OsStr) -> Command {
    match privilege {
        Privilege::Root => mortal(program),
        // The signal is set inside: the kernel forgets it when a process gets capabilities (`commit_creds`).
        Privilege::Unshare => {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", ids, "--"]).arg("setpriv").args(MORTAL).arg(program);
            command
        }
    }
}

fn squashfs<'a>(
    workshop: &Workshop<'a>,
    compression: Compression,
    image: &Path,
) -> Result<(&'a OsStr, Command), BuildError> {
    let tool = workshop.tools.mksquashfs.as_os_str();
    let mut command = as_root(workshop.privilege, "--map-root-user", process::find(tool)?.as_os_str());
    // By the variable, not by options: it also bounds the time of the top folder, which `-root-time` leaves at the time
    // of the build when a tar archive is read.
    command.env("SOURCE_DATE_EPOCH", workshop.time.to_string());
    command.arg("-").arg(image).args(["-tar", "-noappend", "-quiet", "-no-progress"]);
    command.args(["-root-mode", "755"]);
    command.args(match compression {
        Compression::Zstd => &["-comp", "zstd", "-Xcompression-level", SQUASHFS_LEVEL][..],
        Compression::Lz4 => &["-comp", "lz4"],
        Compression::Lz4hc => &["-comp", "lz4", "-Xhc"],
    });
    Ok((tool, command))
}

fn erofs<'a>(
    workshop: &Workshop<'a>,
    compression: Compression,
    image: &Path,
) -> Result<(&'a OsStr, Command), BuildError> {
    let tool = workshop.tools.mkfs_erofs.as_os_str();
    let program = process::find(tool)?;
    let folder = workshop.workspace.path().join("tree");
    fs::create_dir(&folder)?;
    // In one namespace: what tar unpacks as root there, mkfs.erofs must read as root there.
    let script = "tar --extract --directory \"$1\" --preserve-permissions --same-owner --numeric-owner --xattrs \
                  --xattrs-include='*' --delay-directory-restore && chmod 755 \"$1\" && \
                  \"$2\" \"-z$6\" -T \"$3\" -U \"$4\" \"$5\" \"$1\" >/dev/null && rm -rf \"$1\"";
    let mut command = as_root(workshop.privilege, "--map-auto", OsStr::new("sh"));
    command.args(["-c", script, "erofs"]).arg(&folder).arg(program).arg(workshop.time.to_string());
    command.arg(EROFS_UUID).arg(image);
    command.arg(if compression == Compression::Lz4 { "lz4" } else { "lz4hc" });
    Ok((tool, command))
}
