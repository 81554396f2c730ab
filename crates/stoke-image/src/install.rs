//! Stage `install packages`: mmdebstrap, whose tree is compressed into the cache while it arrives.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread;

use fs_err as fs;
use fs_err::File;
use rustix::process::geteuid;
use stoke_api::objects::DebianSource;

use crate::BuildError;
use crate::process::{self, Space, failure, mortal};
use crate::recipe::{HOOK_MARK, Plan, Privilege};
use crate::store::Workspace;

/// Fast before small: the cached tree is read twice by every build of a form.
pub(crate) const TREE_COMPRESSION: i32 = 1;
/// What is needed beside what the packages occupy, before apt has said how much that is.
pub(crate) const SMALLEST_TREE: u64 = 1 << 30;

/// How this process may install a tree.
pub(crate) fn privilege() -> Result<Privilege, BuildError> {
    if geteuid().is_root() {
        return Ok(Privilege::Root);
    }
    process::find(OsStr::new("newuidmap"))?;
    let (user, number) = (user_name(), geteuid().as_raw().to_string());
    let listed = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|line| line.split(':').next()).any(|name| name == user || name == number)
    };
    if listed("/etc/subuid") && listed("/etc/subgid") {
        Ok(Privilege::Unshare)
    } else {
        Err(BuildError::NoSubordinateIds { user })
    }
}

fn user_name() -> String {
    let number = geteuid().as_raw().to_string();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let own = lines.find(|fields| fields.get(2).is_some_and(|uid| **uid == number));
    own.and_then(|fields| fields.first().map(|name| (*name).to_owned())).unwrap_or(number)
}

/// The lists of this host's apt: texts of `.list` files, texts of `.sources` files.
pub(crate) fn host_sources() -> (Vec<String>, Vec<String>) {
    let folder = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<_> = std::iter::once("/etc/apt/sources.list".into()).chain(folder).collect();
    paths.sort();
    let texts = |ending: &str| {
        let of_kind = paths.iter().filter(|path| path.extension() == Some(OsStr::new(ending)));
        of_kind.filter_map(|path| fs::read_to_string(path).ok()).collect()
    };
    (texts("list"), texts("sources"))
}

/// The recipe's files as a tar archive. No directories in it: the tree's own stay what they are, links among them.
pub(crate) fn recipe_files(source: &DebianSource, tar: &Path, epoch: u64) -> Result<(), BuildError> {
    let mut archive = tar::Builder::new(File::create(tar)?.into_file());
    for file in &source.files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(u32::from_str_radix(&file.mode, 8).unwrap_or(0o644));
        header.set_size(file.content.len() as u64);
        header.set_mtime(epoch);
        archive.append_data(&mut header, file.path.trim_start_matches('/'), file.content.as_bytes())?;
    }
    archive.finish()?;
    Ok(())
}

/// Where an installation goes, and when it is.
pub(crate) struct Site<'a> {
    pub(crate) mmdebstrap: &'a OsStr,
    pub(crate) workspace: &'a Workspace,
    /// The compressed tree.
    pub(crate) output: &'a Path,
    /// Seconds since 1970 for all files that the installation itself writes.
    pub(crate) epoch: u64,
    pub(crate) privilege: Privilege,
}

/// Installs a tree.
pub(crate) fn install(
    site: &Site<'_>,
    plan: &Plan,
    source: &DebianSource,
    space: &mut Space,
    progress: &mut dyn FnMut(u8),
) -> Result<(), BuildError> {
    let mut command = contained(site)?;
    command.args(&plan.arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("SOURCE_DATE_EPOCH", site.epoch.to_string());
    // The initramfs is ours: without this the kernel's package makes one that is thrown away (kernel's postinst hook of
    // initramfs-tools).
    command.env("INITRD", "No");
    if let Some(folder) = temporary_folder(site) {
        command.env("TMPDIR", folder);
    }
    let mut child = command.spawn()?;
    let stdout = child.stdout.take();
    let output = File::create(site.output)?;
    let tree = thread::spawn(move || compress(stdout, output));
    let said = follow(&mut child, space, progress);
    let status = child.wait()?;
    let tree = tree.join().unwrap_or_else(|_| Err(io::Error::other("the tree was not written")));
    let (said, full) = said?;
    if let Some(full) = full {
        return Err(full);
    }
    // A failed write of ours closes the pipe, and then mmdebstrap fails too: ours is the reason.
    tree.map_err(|error| space.explain(error))?;
    if status.success() { Ok(()) } else { Err(explain(site.mmdebstrap, source, &said, status, space)) }
}

/// mmdebstrap, so that all that it starts and mounts goes when this process goes.
///
/// As root it mounts into its tree without a namespace of its own, and leaves that there when it is killed: it gets a
/// mount namespace, and a process namespace that ends with its first process. An ordinary user's has both anyway.
fn contained(site: &Site<'_>) -> Result<Command, BuildError> {
    let mmdebstrap = process::find(site.mmdebstrap)?;
    match site.privilege {
        Privilege::Unshare => Ok(mortal(mmdebstrap.as_os_str())),
        Privilege::Root => {
            let mut command = mortal(process::find(OsStr::new("unshare"))?.as_os_str());
            command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]).arg(mmdebstrap);
            Ok(command)
        }
    }
}

/// Where mmdebstrap builds: in our workspace, unless the ids of an ordinary user's namespace cannot reach it.
fn temporary_folder<'a>(site: &Site<'a>) -> Option<&'a Path> {
    use std::os::unix::fs::PermissionsExt;
    let path = site.workspace.path();
    let open_to = |folder: &Path, bits: u32| {
        fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().mode() & bits == bits)
    };
    // Other ids than ours make files there.
    let usable = fs::set_permissions(path, PermissionsExt::from_mode(0o1777)).is_ok();
    let reachable = path.ancestors().all(|folder| open_to(folder, 0o001));
    (usable && (site.privilege == Privilege::Root || reachable)).then_some(path)
}

fn compress(from: Option<impl Read>, to: File) -> io::Result<()> {
    let mut encoder = zstd::Encoder::new(to, TREE_COMPRESSION)?;
    if let Some(mut from) = from {
        io::copy(&mut from, &mut encoder)?;
    }
    encoder.finish()?.sync_all()
}

/// Reads what mmdebstrap says until it ends. Stops it when it says that it needs more than there is.
fn follow(
    child: &mut Child,
    space: &mut Space,
    progress: &mut dyn FnMut(u8),
) -> Result<(String, Option<BuildError>), BuildError> {
    let Some(stderr) = child.stderr.take() else { return Ok((String::new(), None)) };
    let (mut said, mut meter, mut announced, mut full) = (String::new(), Meter::default(), 0, None);
    for line in lines(stderr) {
        let line = line?;
        meter.hear(&line);
        progress(meter.percent());
        said.push_str(&line);
        said.push('\n');
        if let Some(size) = occupied(&line) {
            // Once unpacked, and once as archives, compressed tree and root together.
            let now = size.saturating_mul(2);
            announced += now;
            space.needed = space.needed.max(announced);
            if space.free()? < now {
                full = Some(space.exhausted());
                // Whatever is left of the tree goes with the workspace. That it has ended already is as good.
                let _ = child.kill();
            }
        }
    }
    Ok((said, full))
}

fn lines(stderr: ChildStderr) -> impl Iterator<Item = io::Result<String>> {
    let lossy = |line: io::Result<Vec<u8>>| line.map(|line| String::from_utf8_lossy(&line).into_owned());
    BufReader::new(stderr).split(b'\n').map(lossy)
}

/// `After this operation, 583 MB of additional disk space will be used.` in bytes.
fn occupied(line: &str) -> Option<u64> {
    let rest = line.strip_prefix("After this operation, ")?;
    let mut words = rest.split_whitespace();
    let number: f64 = words.next()?.replace(',', "").parse().ok()?;
    let unit = match words.next()? {
        "GB" => 1_000_000_000.0,
        "MB" => 1_000_000.0,
        "kB" => 1_000.0,
        _ => 1.0,
    };
    rest.contains("additional").then_some(())?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sizes of packages, rounded by apt")]
    Some((number * unit) as u64)
}

/// How far an installation is, by what mmdebstrap and apt say.
#[derive(Debug, Default)]
struct Meter {
    packages: u32,
    fetched: u32,
    unpacked: u32,
    configured: u32,
    percent: u8,
}

impl Meter {
    fn hear(&mut self, line: &str) {
        if let Some(count) = newly_installed(line) {
            self.packages += count;
        } else if line.starts_with("Get:") {
            self.fetched += 1;
        } else if line.starts_with("Unpacking ") {
            self.unpacked += 1;
        } else if line.starts_with("Setting up ") {
            self.configured += 1;
        } else if line.starts_with("I: creating tarball") {
            self.percent = 90;
        }
    }

    /// Never goes back: the essential packages are counted before the number of all is known.
    fn percent(&mut self) -> u8 {
        // The essential packages are announced first and are about a third of a small tree.
        let all = f64::from((self.packages.max(60) + 30) * 3);
        let done = f64::from(self.fetched + self.unpacked + self.configured);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 89")]
        let now = (done / all * 90.0).clamp(0.0, 89.0) as u8;
        self.percent = self.percent.max(now);
        self.percent
    }
}

/// `0 upgraded, 89 newly installed, 0 to remove …`
fn newly_installed(line: &str) -> Option<u32> {
    let (before, _) = line.split_once(" newly installed")?;
    before.rsplit(' ').next()?.parse().ok()
}

/// The error of an installation, by what was said.
pub(crate) fn explain(
    tool: &OsStr,
    source: &DebianSource,
    said: &str,
    status: ExitStatus,
    space: &Space,
) -> BuildError {
    let archive = format!("{} {}", source.suite, source.components.join(" "));
    let unknown = said.lines().find_map(unknown_package);
    if let Some(package) = unknown {
        let index = source.packages.iter().position(|named| named.split(['=', '/', ':']).next() == Some(&package));
        let field = match index {
            Some(index) => format!("spec.source.debian.packages[{index}]"),
            None => "spec.source.debian.packages".to_owned(),
        };
        return BuildError::UnknownPackage { field, package, archive };
    }
    let full = said.contains("No space left on device") || said.contains("don't have enough free space");
    if full {
        return space.exhausted();
    }
    if let Some(error) = failed_hook(said) {
        return error;
    }
    let archive = ["does not have a Release file", "Failed to fetch", "The following signatures", "is not signed"];
    let about_archive = said.lines().find(|line| {
        (line.starts_with("E: ") || line.starts_with("W: ")) && archive.iter().any(|part| line.contains(part))
    });
    match about_archive {
        Some(line) => {
            let message = line.get(3..).unwrap_or_default().trim().to_owned();
            BuildError::Archive { suite: source.suite.clone(), message }
        }
        None => failure(tool, status, said, space),
    }
}

/// The hook that was started last, if the installation came so far, and what it said. mmdebstrap's own lines quote the
/// hook's text; only the mark at the beginning of a line was said by the hook.
fn failed_hook(said: &str) -> Option<BuildError> {
    let lines: Vec<&str> = said.lines().collect();
    let started = lines.iter().rposition(|line| line.starts_with(HOOK_MARK))?;
    let (mark, rest) = lines.get(started..)?.split_first()?;
    let field = format!("spec.source.debian.hooks.customize[{}]", mark.strip_prefix(HOOK_MARK)?);
    let own: Vec<&str> =
        rest.iter().take_while(|line| !line.starts_with("E: ") && !line.starts_with("I: ")).copied().collect();
    let message = process::last_lines(&own.join("\n"));
    let message = if message.is_empty() { "it said nothing".to_owned() } else { message };
    Some(BuildError::Hook { field, message })
}

fn unknown_package(line: &str) -> Option<String> {
    let name = line.strip_prefix("E: Unable to locate package ").map(str::trim);
    let name = name.or_else(|| line.strip_prefix("E: Package '")?.strip_suffix("' has no installation candidate"));
    name.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_apt() {
        assert_eq!(
            occupied("After this operation, 1,583 MB of additional disk space will be used."),
            Some(1_583_000_000)
        );
        assert_eq!(occupied("After this operation, 12 kB disk space will be freed."), None);
    }

    #[test]
    fn the_hook_that_failed_is_told_by_what_it_said() {
        let said = "I: running --customize-hook: echo 'stokehold: hook 0'\nstokehold: hook 0\nfine\n\
                    I: running --customize-hook: echo 'stokehold: hook 1'\nstokehold: hook 1\nno such user\n\
                    E: command failed: echo 'stokehold: hook 1' >&2; chroot\n";
        let error = failed_hook(said).unwrap();
        assert_eq!(error.field(), Some("spec.source.debian.hooks.customize[1]"));
        assert_eq!(error.to_string(), "hook failed: no such user");
    }

    #[test]
    fn progress_never_goes_back() {
        let mut meter = Meter::default();
        let mut last = 0;
        let said =
            (0..80).map(|n| format!("Get:{n} x")).chain(["0 upgraded, 200 newly installed, 0 to remove".to_owned()]);
        for line in
            said.chain((0..300).map(|n| format!("Setting up p{n} ..."))).chain(["I: creating tarball...".into()])
        {
            meter.hear(&line);
            assert!(meter.percent() >= last);
            last = meter.percent();
        }
        assert_eq!(last, 90);
    }
}
