//! The installed tree as a stream: what is in it, and the clean tree that ships.
//!
//! Times: what packages shipped keeps its time; what the installation itself wrote carries the installation's epoch
//! (`SOURCE_DATE_EPOCH`), which becomes the newest time that a package shipped. So the same packages make the same tree
//! on any day.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::path::Path;

use fs_err::File;
use tar::{Archive, Builder, Entry, EntryType, Header};

use crate::clean::accounts::{AccountFile, People, shadow_of_day};
use crate::clean::{EntryKind, Fate, Rules};
use crate::modules::{Indexes, plain};
use crate::sbom::{Described, installed};

const SECONDS_A_DAY: u64 = 86_400;

/// What a tree says of itself.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// The newest time that a package shipped.
    pub(crate) newest: u64,
    /// Bytes of all files.
    pub(crate) size: u64,
    /// Whether there is something to hand over to.
    pub(crate) has_init: bool,
    pub(crate) os_release: Vec<u8>,
    pub(crate) packages: Vec<Described>,
    pub(crate) people: People,
    /// Files that have other names as well: the names by the one that has the content.
    pub(crate) links: BTreeMap<String, Vec<String>>,
    /// By version.
    kernels: BTreeMap<Version, Kernel>,
}

/// A kernel and the index files of its modules.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) version: String,
    pub(crate) image: Vec<u8>,
    pub(crate) indexes: Indexes,
}

impl Scan {
    /// The newest kernel that has its modules.
    pub(crate) fn kernel(&self) -> Option<&Kernel> {
        let whole = |kernel: &&Kernel| !kernel.image.is_empty() && !kernel.indexes.dep.is_empty();
        self.kernels.values().rev().find(whole)
    }

    /// Whether there is a kernel, whole or not.
    pub(crate) fn has_kernel_image(&self) -> bool {
        self.kernels.values().any(|kernel| !kernel.image.is_empty())
    }

    fn kernel_of(&mut self, version: &str) -> &mut Kernel {
        let kernel = self.kernels.entry(Version::parse(version)).or_default();
        version.clone_into(&mut kernel.version);
        kernel
    }
}

/// A kernel's version, in the order of people: 6.10 comes behind 6.9.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(Vec<(u64, String)>);

impl Version {
    fn parse(text: &str) -> Self {
        let parts = text.split(['.', '-', '+', '~']).map(|part| {
            let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, rest) = part.split_at(digits);
            (number.parse().unwrap_or_default(), rest.to_owned())
        });
        Self(parts.collect())
    }
}

type Stream = Archive<zstd::Decoder<'static, io::BufReader<std::fs::File>>>;

fn open(tree: &Path) -> io::Result<Stream> {
    Ok(Archive::new(zstd::Decoder::new(File::open(tree)?.into_file())?))
}

/// The path of an entry, without leading `./` and trailing `/`; empty for the top of the tree.
fn path_of(entry: &Entry<'_, impl Read>) -> io::Result<String> {
    let bytes = entry.path_bytes();
    let path = std::str::from_utf8(&bytes).map_err(|_| {
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        io::Error::new(io::ErrorKind::InvalidData, format!("the name of {shown} in the tree is not UTF-8"))
    })?;
    Ok(path.trim_start_matches("./").trim_matches('/').to_owned())
}

/// What a link points at. A hard link names an entry of its archive, here without `./`.
fn target_of(entry: &Entry<'_, impl Read>) -> String {
    let target = entry.link_name_bytes().unwrap_or_default().into_owned();
    let target = String::from_utf8_lossy(&target).into_owned();
    let hard = entry.header().entry_type() == EntryType::Link;
    if hard { target.trim_start_matches("./").trim_start_matches('/').to_owned() } else { target }
}

fn read_all(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    entry.read_to_end(&mut content)?;
    Ok(content)
}

fn read_text(entry: &mut impl Read) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&read_all(entry)?).into_owned())
}

/// Reads what a tree says of itself. `epoch` is the time of what the installation wrote.
pub(crate) fn scan(tree: &Path, epoch: u64) -> io::Result<Scan> {
    let mut scan = Scan::default();
    for entry in open(tree)?.entries()? {
        let mut entry = entry?;
        let path = path_of(&entry)?;
        let time = entry.header().mtime()?;
        if time < epoch {
            scan.newest = scan.newest.max(time);
        }
        scan.size += entry.size();
        look(&mut scan, &path, &mut entry)?;
    }
    Ok(scan)
}

fn look(scan: &mut Scan, path: &str, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
    let kind = entry.header().entry_type();
    if ["sbin/init", "usr/sbin/init", "usr/lib/systemd/systemd", "lib/systemd/systemd"].contains(&path) {
        scan.has_init = true;
    }
    if kind == EntryType::Link {
        scan.links.entry(target_of(entry)).or_default().push(path.to_owned());
    }
    if kind != EntryType::Regular {
        return Ok(());
    }
    if let Some(file) = AccountFile::at(path) {
        scan.people.learn(file, &read_text(entry)?);
    } else if let Some(version) = path.strip_prefix("boot/vmlinuz-") {
        let image = read_all(entry)?;
        scan.kernel_of(version).image = image;
    } else if let Some((version, name)) = in_modules(path) {
        // Where images without a /boot have their kernel, bootc's among them; the one in /boot is the same or nearer.
        if name == "vmlinuz" {
            let image = read_all(entry)?;
            let kernel = scan.kernel_of(version);
            if kernel.image.is_empty() {
                kernel.image = image;
            }
            return Ok(());
        }
        let indexes = &mut scan.kernel_of(version).indexes;
        match name {
            "modules.dep" => indexes.dep = read_text(entry)?,
            "modules.alias" => indexes.alias = read_text(entry)?,
            "modules.softdep" => indexes.softdep = read_text(entry)?,
            "modules.builtin" => indexes.builtin = read_text(entry)?,
            _ => {}
        }
    } else if path == "var/lib/dpkg/status" {
        scan.packages = installed(&read_text(entry)?);
    } else if path == "usr/lib/os-release" || (path == "etc/os-release" && scan.os_release.is_empty()) {
        scan.os_release = read_all(entry)?;
    }
    Ok(())
}

/// Splits `usr/lib/modules/VERSION/NAME`, or the same without `usr`.
fn in_modules(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("usr/lib/modules/").or_else(|| path.strip_prefix("lib/modules/"))?;
    rest.split_once('/')
}

/// What is made of a tree.
pub(crate) struct Cleaning<'a> {
    pub(crate) rules: &'a Rules,
    /// The time of what the installation wrote.
    pub(crate) epoch: u64,
    /// The time that it ships with.
    pub(crate) newest: u64,
    /// Version of the kernel that ships, and the modules of it that are wanted, by path below its folder.
    pub(crate) kernel: &'a str,
    pub(crate) wanted: &'a BTreeSet<String>,
    pub(crate) people: &'a People,
    /// As in [`Scan::links`].
    pub(crate) links: &'a BTreeMap<String, Vec<String>>,
}

/// Writes the clean tree, and returns the wanted modules, uncompressed, by their uncompressed paths.
pub(crate) fn clean(
    tree: &Path,
    cleaning: &Cleaning<'_>,
    out: impl Write,
    mut read: impl FnMut(u64),
) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let (mut builder, mut modules) = (Builder::new(out), BTreeMap::new());
    for entry in open(tree)?.entries()? {
        let mut entry = entry?;
        read(entry.size());
        let path = path_of(&entry)?;
        // The top has no name that a file system writer could use; it gets its owner and mode there.
        if path.is_empty() {
            continue;
        }
        let Some((path, fate)) = cleaning.place(path, &entry) else { continue };
        let content = match fate {
            Fate::Drop => continue,
            Fate::Empty => Some(Vec::new()),
            Fate::Accounts(file) => Some(cleaning.accounts(file, &read_text(&mut entry)?).into_bytes()),
            Fate::Keep => match in_modules(&path).filter(|(version, name)| cleaning.wants(version, name)) {
                None => None,
                Some((_, name)) => {
                    let content = read_all(&mut entry)?;
                    modules.insert(plain(name).to_owned(), decompress(name, &content)?);
                    Some(content)
                }
            },
        };
        ship(&mut builder, cleaning, &path, &mut entry, content)?;
    }
    up_to_date(&mut builder, cleaning)?;
    builder.into_inner()?.flush()?;
    Ok(modules)
}

/// Says that `/etc` and `/var` belong to this `/usr`: else systemd rebuilds catalogues and databases at every boot
/// (systemd-update-done.service(8), `condition_test_needs_update` in systemd).
fn up_to_date(builder: &mut Builder<impl Write>, cleaning: &Cleaning<'_>) -> io::Result<()> {
    let stamp = format!("TIMESTAMP_NSEC={}000000000\n", cleaning.newest);
    for path in ["etc/.updated", "var/.updated"] {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(cleaning.newest);
        header.set_size(stamp.len() as u64);
        builder.append_data(&mut header, path, stamp.as_bytes())?;
    }
    Ok(())
}

impl Cleaning<'_> {
    fn wants(&self, version: &str, name: &str) -> bool {
        version == self.kernel && self.wanted.contains(name)
    }

    fn fate(&self, path: &str, entry: &Entry<'_, impl Read>) -> Fate {
        let kind = if entry.header().entry_type().is_dir() { EntryKind::Directory } else { EntryKind::Other };
        self.rules.fate(path, kind)
    }

    /// Under which name an entry ships, and how; `None` if it is there under another one already.
    ///
    /// A file that goes may have other names that stay: the first of these gets the content.
    fn place(&self, path: String, entry: &Entry<'_, impl Read>) -> Option<(String, Fate)> {
        let fate = self.fate(&path, entry);
        match entry.header().entry_type() {
            EntryType::Link if self.heir(&target_of(entry)) == Some(&path) => None,
            EntryType::Regular if fate == Fate::Drop => self.heir(&path).map(|heir| (heir.clone(), Fate::Keep)),
            _ => Some((path, fate)),
        }
    }

    /// The name that stays of a file whose first name goes.
    fn heir(&self, path: &str) -> Option<&String> {
        let gone = |path: &str| self.rules.fate(path, EntryKind::Other) == Fate::Drop;
        let names = self.links.get(path).filter(|_| gone(path))?;
        names.iter().find(|name| !gone(name))
    }

    fn accounts(&self, file: AccountFile, text: &str) -> String {
        let own = if self.rules.without_people() { self.people.removed_from(file, text) } else { text.to_owned() };
        if file == AccountFile::Shadow { shadow_of_day(&own, self.newest / SECONDS_A_DAY) } else { own }
    }
}

/// Writes one entry, with its own content or another one.
fn ship(
    builder: &mut Builder<impl Write>,
    cleaning: &Cleaning<'_>,
    path: &str,
    entry: &mut Entry<'_, impl Read>,
    content: Option<Vec<u8>>,
) -> io::Result<()> {
    let mut header = entry.header().clone();
    if header.mtime()? >= cleaning.epoch {
        header.set_mtime(cleaning.newest);
    }
    let attributes = kept_attributes(entry)?;
    builder.append_pax_extensions(attributes.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
    if matches!(header.entry_type(), EntryType::Link | EntryType::Symlink) && content.is_none() {
        let target = target_of(entry);
        let hard = header.entry_type() == EntryType::Link;
        let target = cleaning.heir(&target).filter(|_| hard).cloned().unwrap_or(target);
        return builder.append_link(&mut header, path, target);
    }
    match content {
        None => builder.append_data(&mut header, path, entry),
        Some(content) => {
            // What is empty now may have been a link or a copy of the host's file: their modes mean nothing.
            let mode = if content.is_empty() { 0o644 } else { header.mode()? & 0o7777 };
            let mut fresh = Header::new_gnu();
            fresh.set_mode(mode);
            fresh.set_uid(header.uid()?);
            fresh.set_gid(header.gid()?);
            fresh.set_mtime(header.mtime()?);
            fresh.set_size(content.len() as u64);
            builder.append_data(&mut fresh, path, content.as_slice())
        }
    }
}

/// Extended attributes, in one order. Names, times and sizes are in the header that is written anew.
fn kept_attributes(entry: &mut Entry<'_, impl Read>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(Vec::new()) };
    let mut attributes = Vec::new();
    for extension in extensions {
        let extension = extension?;
        let Ok(key) = extension.key() else { continue };
        if key.starts_with("SCHILY.xattr.") {
            attributes.push((key.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    attributes.sort();
    Ok(attributes)
}

/// A module as the kernel loads it without help from user space.
fn decompress(name: &str, content: &[u8]) -> io::Result<Vec<u8>> {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("zst") => zstd::decode_all(content),
        Some("xz") => unxz(content),
        _ => Ok(content.to_vec()),
    }
}

fn unxz(content: &[u8]) -> io::Result<Vec<u8>> {
    use std::process::{Command, Stdio};
    let mut xz = Command::new("xz").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (stdin, content) = (xz.stdin.take(), content.to_vec());
    let writer = std::thread::spawn(move || stdin.map_or(Ok(()), |mut stdin| stdin.write_all(&content)));
    let output = xz.wait_with_output()?;
    let written = writer.join().unwrap_or_else(|_| Err(io::Error::other("xz was not fed")));
    written?;
    if output.status.success() { Ok(output.stdout) } else { Err(io::Error::other("a kernel module is not valid xz")) }
}

#[cfg(test)]
mod tests {
    use stoke_api::objects::RootForm;

    use super::*;

    #[test]
    fn ten_comes_behind_nine() {
        assert!(Version::parse("6.10.1-amd64") > Version::parse("6.9.12-amd64"));
        assert!(Version::parse("6.1.0-56-amd64") > Version::parse("6.1.0-9-amd64"));
    }

    /// A tree of files, and of hard links to them, all of them written by the installation.
    fn tree(folder: &Path, entries: &[(&str, Result<&str, &str>)]) -> std::path::PathBuf {
        let mut builder = Builder::new(Vec::new());
        for (path, what) in entries {
            let mut header = Header::new_gnu();
            header.set_mode(0o644);
            header.set_mtime(100);
            header.set_uid(0);
            header.set_gid(0);
            match what {
                Ok(content) => {
                    header.set_size(content.len() as u64);
                    builder.append_data(&mut header, format!("./{path}"), content.as_bytes()).unwrap();
                }
                Err(target) => {
                    header.set_entry_type(EntryType::Link);
                    header.set_size(0);
                    builder.append_link(&mut header, format!("./{path}"), format!("./{target}")).unwrap();
                }
            }
        }
        let path = folder.join("tree.tar.zst");
        std::fs::write(&path, zstd::encode_all(builder.into_inner().unwrap().as_slice(), 1).unwrap()).unwrap();
        path
    }

    /// What ships of a tree: content, or what it is a link to.
    fn shipped(entries: &[(&str, Result<&str, &str>)], form: &RootForm) -> BTreeMap<String, String> {
        let dir = tempfile::TempDir::new().unwrap();
        let (tree, rules) = (tree(dir.path(), entries), Rules::of(form, []));
        let scan = scan(&tree, 100).unwrap();
        let (people, links, wanted) = (&scan.people, &scan.links, &BTreeSet::new());
        let cleaning = Cleaning { rules: &rules, epoch: 100, newest: 7, kernel: "6.1", wanted, people, links };
        let mut out = Vec::new();
        clean(&tree, &cleaning, &mut out, |_| ()).unwrap();
        let mut found = BTreeMap::new();
        for entry in Archive::new(out.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = path_of(&entry).unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 7, "{path}");
            let link = entry.header().entry_type() == EntryType::Link;
            let said = if link { format!("-> {}", target_of(&entry)) } else { read_text(&mut entry).unwrap() };
            found.insert(path, said);
        }
        found
    }

    #[test]
    fn a_name_that_goes_leaves_its_content_to_the_next_one() {
        let entries = [("usr/bin/a", Ok("x")), ("usr/bin/b", Err("usr/bin/a")), ("usr/bin/c", Err("usr/bin/a"))];
        let all = shipped(&entries, &RootForm::default());
        assert_eq!((&*all["usr/bin/a"], &*all["usr/bin/b"]), ("x", "-> usr/bin/a"));
        let form = RootForm { exclude: vec!["/usr/bin/a".to_owned()], ..RootForm::default() };
        let rest = shipped(&entries, &form);
        assert_eq!((rest.get("usr/bin/a"), &*rest["usr/bin/b"], &*rest["usr/bin/c"]), (None, "x", "-> usr/bin/b"));
        let form = RootForm { exclude: vec!["/usr/bin".to_owned()], ..RootForm::default() };
        assert!(shipped(&entries, &form).keys().all(|path| !path.starts_with("usr/bin")));
    }

    #[test]
    fn people_of_a_machine_stay_behind_wherever_their_names_stand_in_the_archive() {
        let entries = [
            ("etc/group", Ok("sudo:x:27:ann\nann:x:1000:\n")),
            ("etc/shadow", Ok("root:*:20000:0\nann:y:20000:0\n")),
            ("home/ann/secret", Ok("s")),
            ("etc/passwd", Ok("root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n")),
        ];
        let form = RootForm { cleanup: stoke_api::objects::Cleanup::Machine, ..RootForm::default() };
        let ships = shipped(&entries, &form);
        assert_eq!(&*ships["etc/passwd"], "root:x:0:0::/root:/bin/sh\n");
        assert_eq!((&*ships["etc/group"], &*ships["etc/shadow"]), ("sudo:x:27:\n", "root:*:0:0\n"));
        assert_eq!(ships.get("home/ann/secret"), None);
        let ships = shipped(&entries, &RootForm::default());
        assert_eq!((&*ships["etc/shadow"], &*ships["home/ann/secret"]), ("root:*:0:0\nann:y:0:0\n", "s"));
    }
}
