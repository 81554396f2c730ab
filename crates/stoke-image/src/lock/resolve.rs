//! What a recipe stands for now: apt is asked as mmdebstrap asks it, in folders of its own, and installs nothing.
//!
//! In two steps, as mmdebstrap does it: the essential packages first, then everything else beside them. A choice between
//! alternatives (`a | b`) comes out the same only if the same is there already.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

use fs_err as fs;
use stoke_api::Digest;
use stoke_api::objects::DebianSource;

use super::{FORMAT, Lock, LockedPackage};
use crate::debian::{archive_lines, now};
use crate::process::{self, Space, mortal};
use crate::store::{Store, Workspace};
use crate::{BuildError, install};

/// The package that says that /usr is merged, which the installation does itself (`recipe::fixed_arguments`): installed
/// before anything else, so that nothing asks for the package that merges afterwards.
const MERGED: &str = "usr-is-merged";

impl Lock {
    /// Finds out what the archive has for a recipe today. Nothing is installed and no package is downloaded.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn resolve(source: &DebianSource, architecture: &str, store: &Store) -> Result<Self, BuildError> {
        let sources = archive_lines(source);
        if sources.is_empty() {
            let message = format!("this host knows no archive of {}; name one", source.suite);
            return Err(BuildError::Recipe { field: "spec.source.debian.mirror".to_owned(), message });
        }
        let workspace = store.workspace()?;
        let apt = Apt::new(&workspace, architecture, &sources)?;
        let space = Space { path: store.path().to_owned(), needed: 0 };
        let ask = Question { apt: &apt, source, space: &space };
        ask.run("apt-get", &["-q", "--error-on=any", "update"])?;
        let mut packages = ask.all()?;
        packages.sort();
        let mut wanted = source.packages.clone();
        wanted.sort();
        wanted.dedup();
        let (suite, architecture) = (source.suite.clone(), architecture.to_owned());
        Ok(Self { format: FORMAT, suite, architecture, created: now(), sources, wanted, packages })
    }
}

/// apt with a state of its own.
struct Apt<'a> {
    root: &'a Path,
    architecture: &'a str,
}

impl<'a> Apt<'a> {
    fn new(workspace: &'a Workspace, architecture: &'a str, sources: &[String]) -> Result<Self, BuildError> {
        let root = workspace.path();
        let folders = ["etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/sources.list.d", "var/lib/dpkg"];
        for folder in folders.into_iter().chain(["var/lib/apt/lists/partial", "var/cache/apt/archives/partial"]) {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::write(root.join("etc/apt/sources.list"), sources.join("\n") + "\n")?;
        fs::write(root.join("apt.conf"), configuration(root, architecture))?;
        fs::write(root.join("var/lib/dpkg/status"), "")?;
        Ok(Self { root, architecture })
    }

    fn command(&self, program: &str) -> Result<Command, BuildError> {
        let mut command = mortal(process::find(OsStr::new(program))?.as_os_str());
        command.env("APT_CONFIG", self.root.join("apt.conf"));
        Ok(command)
    }

    /// Makes packages installed, by their stanzas in the archive's index.
    fn install<'b>(&self, stanzas: impl Iterator<Item = &'b str>) -> Result<(), BuildError> {
        let installed = |stanza: &str| format!("{}\nStatus: install ok installed\n\n", stanza.trim_end());
        let status: Vec<_> = stanzas.map(installed).collect();
        Ok(fs::write(self.root.join("var/lib/dpkg/status"), status.concat())?)
    }
}

/// As mmdebstrap sets apt up, for the same answers.
fn configuration(root: &Path, architecture: &str) -> String {
    let root = root.display();
    let own = [
        format!("Dir \"{root}\";"),
        format!("Dir::State::Status \"{root}/var/lib/dpkg/status\";"),
        // Archives without a key ring of their own are trusted by the host's.
        "Dir::Etc::Trusted \"/etc/apt/trusted.gpg\";".to_owned(),
        "Dir::Etc::TrustedParts \"/etc/apt/trusted.gpg.d\";".to_owned(),
        format!("Apt::Architecture \"{architecture}\";"),
        format!("Apt::Architectures \"{architecture}\";"),
        // A folder of ours may be closed to apt's own user.
        "APT::Sandbox::User \"root\";".to_owned(),
        "pkgCacheGen::ForceEssential \",\";".to_owned(),
    ];
    let shared = crate::recipe::APT_OPTIONS.iter().map(|option| format!("{option};"));
    own.into_iter().chain(shared).map(|line| line + "\n").collect()
}

/// A recipe before an archive.
struct Question<'a> {
    apt: &'a Apt<'a>,
    source: &'a DebianSource,
    space: &'a Space,
}

impl Question<'_> {
    /// Every package, with its hash.
    fn all(&self) -> Result<Vec<LockedPackage>, BuildError> {
        let merged = self.stanzas(&[MERGED.to_owned()]).unwrap_or_default().into_iter().next();
        let mut found = Found::new();
        self.beside(merged.as_ref(), &found)?;
        self.learn(&self.planned(&[self.every("?essential")])?, &mut found)?;
        self.beside(merged.as_ref(), &found)?;
        let mut words = self.source.packages.clone();
        words.push(self.every("?and(?priority(required),?not(?essential))"));
        self.learn(&self.planned(&words)?, &mut found)?;
        if merged.is_some() {
            // It is there already for apt, so that it plans nothing else of it.
            let mut planned = self.planned(&["--reinstall".to_owned(), MERGED.to_owned()])?;
            planned.retain(|((name, ..), _)| name == MERGED);
            self.learn(&planned, &mut found)?;
        }
        Ok(found.into_values().map(|(package, _)| package).collect())
    }

    /// Makes what was found installed, and the package that says that /usr is merged.
    fn beside(&self, merged: Option<&String>, found: &Found) -> Result<(), BuildError> {
        let found = found.values().map(|(_, stanza)| stanza);
        self.apt.install(merged.into_iter().chain(found).map(String::as_str))
    }

    fn every(&self, what: &str) -> String {
        let (suite, architecture) = (&self.source.suite, self.apt.architecture);
        format!("?narrow(?or(?archive(^{suite}$),?codename(^{suite}$)),?architecture({architecture}),{what})")
    }

    /// What an installation of these would bring, and from where.
    fn planned(&self, words: &[String]) -> Result<Vec<(Planned, String)>, BuildError> {
        let mut arguments = vec!["-q", "--yes", "--print-uris", "install"];
        arguments.extend(words.iter().map(String::as_str));
        let said = self.run("apt-get", &arguments)?;
        Ok(said.lines().filter_map(planned_uri).collect())
    }

    /// Hashes of what is planned, from the index.
    fn learn(&self, planned: &[(Planned, String)], found: &mut Found) -> Result<(), BuildError> {
        let words: Vec<_> = planned.iter().map(|((name, version, _), _)| format!("{name}={version}")).collect();
        let stanzas = if words.is_empty() { Vec::new() } else { self.stanzas(&words)? };
        let mut by_name = BTreeMap::new();
        for stanza in stanzas {
            if let Some(key) = key(&stanza) {
                by_name.entry(key).or_insert(stanza);
            }
        }
        for (key, uri) in planned {
            let lacks = || self.odd(&format!("no SHA-256 of {} {}", key.0, key.1));
            let stanza = by_name.get(key).ok_or_else(lacks)?;
            let package = locked(key, uri, stanza).ok_or_else(lacks)?;
            found.insert(key.clone(), (package, stanza.clone()));
        }
        Ok(())
    }

    fn stanzas(&self, words: &[String]) -> Result<Vec<String>, BuildError> {
        let mut arguments = vec!["show"];
        arguments.extend(words.iter().map(String::as_str));
        let said = self.run("apt-cache", &arguments)?;
        Ok(said.split("\n\n").filter(|stanza| !stanza.trim().is_empty()).map(str::to_owned).collect())
    }

    fn odd(&self, message: &str) -> BuildError {
        BuildError::Archive { suite: self.source.suite.clone(), message: message.to_owned() }
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, BuildError> {
        let Output { status, stdout, stderr } = self.apt.command(program)?.args(arguments).output()?;
        if status.success() {
            return Ok(String::from_utf8_lossy(&stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&stderr);
        Err(install::explain(OsStr::new(program), self.source, &said, status, self.space))
    }
}

/// Name, version, architecture.
type Planned = (String, String, String);
/// Packages with their stanzas in the index.
type Found = BTreeMap<Planned, (LockedPackage, String)>;

/// `'http://…/bash_5.2_amd64.deb' bash_5.2_amd64.deb 123 MD5Sum:…`: the name of the file says what it is
/// (`pkgAcqArchive` in apt writes it so: `QuoteString` of name, version and architecture).
fn planned_uri(line: &str) -> Option<(Planned, String)> {
    let (uri, rest) = line.strip_prefix('\'')?.split_once("' ")?;
    let file = rest.split(' ').next()?.strip_suffix(".deb")?;
    let mut parts = file.split('_').map(decode);
    let planned = (parts.next()?, parts.next()?, parts.next()?);
    Some((planned, uri.to_owned()))
}

/// Undoes `%3a`.
fn decode(text: &str) -> String {
    let mut pieces = text.split('%');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let code = piece.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok());
        match code {
            Some(code) if code.is_ascii() => {
                plain.push(char::from(code));
                plain.push_str(piece.get(2..).unwrap_or_default());
            }
            _ => {
                plain.push('%');
                plain.push_str(piece);
            }
        }
    }
    plain
}

fn key(stanza: &str) -> Option<Planned> {
    let of = |name: &str| field(stanza, name).map(str::to_owned);
    Some((of("Package")?, of("Version")?, of("Architecture")?))
}

fn locked(key: &Planned, uri: &str, stanza: &str) -> Option<LockedPackage> {
    let (name, version, architecture) = key.clone();
    let digest: Digest = format!("sha256:{}", field(stanza, "SHA256")?).parse().ok()?;
    let size = field(stanza, "Size")?.parse().ok()?;
    // Not what is essential: that is in the package itself.
    let required = field(stanza, "Priority") == Some("required");
    Some(LockedPackage { name, version, architecture, digest, size, uri: uri.to_owned(), required })
}

/// A field of a stanza, if it is of one line.
pub(super) fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_would_fetch_is_named_by_its_file() {
        let line = "'http://m/pool/a/apt/apt_1%3a2.6%7ex_amd64.deb' apt_1%3a2.6~x_amd64.deb 12 MD5Sum:00";
        let (planned, uri) = planned_uri(line).unwrap();
        assert_eq!(planned, ("apt".to_owned(), "1:2.6~x".to_owned(), "amd64".to_owned()));
        assert_eq!(uri, "http://m/pool/a/apt/apt_1%3a2.6%7ex_amd64.deb");
        assert_eq!(planned_uri("Reading package lists..."), None);
        assert_eq!(decode("100%"), "100%");
    }

    #[test]
    fn a_stanza_has_the_hash() {
        let hash = "ab".repeat(32);
        let stanza =
            format!("Package: a\nVersion: 1\nArchitecture: all\nPriority: required\nSize: 7\nSHA256: {hash}\n");
        let package = locked(&key(&stanza).unwrap(), "http://m/a.deb", &stanza).unwrap();
        assert_eq!((package.size, package.required, package.digest.hex()), (7, true, hash));
        assert_eq!(locked(&key(&stanza).unwrap(), "u", "Package: a\n"), None);
    }
}
