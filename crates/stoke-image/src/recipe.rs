//! A Debian recipe as a plan: which archive, which arguments for mmdebstrap. Pure; `install` runs it.

use stoke_api::Digest;
use stoke_api::objects::DebianSource;

use sha2::{Digest as _, Sha256};

/// Version of what this module makes of a recipe: part of what a cached tree is known by.
const PLAN_VERSION: u32 = 1;

/// What apt and dpkg are told in every build: no translations, no manuals, no fsync for a tree that is thrown away
/// when the power fails.
pub(crate) const APT_OPTIONS: [&str; 3] =
    ["Acquire::Languages \"none\"", "Acquire::Retries \"3\"", "APT::Install-Recommends \"false\""];
const DPKG_OPTIONS: [&str; 8] = [
    "force-unsafe-io",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
];

/// One repository of the host: a stanza of a `.sources` file or a line of a `.list` file (`sources.list(5)`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct HostSource {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
    trusted: bool,
}

/// The `deb` lines for a suite.
///
/// The recipe's own mirror is the only source if it names one. Else what this host uses for the same suite, with its
/// updates and security: a host with a mirror of its own builds from that. Empty if the host knows nothing of the suite;
/// mmdebstrap then takes the distribution's default.
pub fn archive_lines(source: &DebianSource, host_lists: &[String], host_stanzas: &[String]) -> Vec<String> {
    let components = source.components.join(" ");
    if let Some(mirror) = &source.mirror {
        return vec![line(mirror, &source.suite, &components, source.keyring.as_deref(), false)];
    }
    let lists = host_lists.iter().flat_map(|text| text.lines().filter_map(one_line));
    let stanzas = host_stanzas.iter().flat_map(|text| text.split("\n\n").filter_map(stanza));
    let wanted = [source.suite.clone(), format!("{}-updates", source.suite), format!("{}-security", source.suite)];
    let mut lines = Vec::new();
    for host in lists.chain(stanzas).filter(is_of_the_distribution) {
        for suite in host.suites.iter().filter(|suite| wanted.contains(suite)) {
            let keyring = source.keyring.as_deref().or(host.signed_by.as_deref());
            lines.extend(host.uris.iter().map(|uri| line(uri, suite, &components, keyring, host.trusted)));
        }
    }
    lines.sort_by_key(|line| wanted.iter().position(|suite| line.contains(&format!(" {suite} "))));
    lines.dedup();
    // Updates without the suite itself are no archive.
    if lines.iter().any(|line| line.contains(&format!(" {} ", source.suite))) { lines } else { Vec::new() }
}

/// Third parties also name their suites after Debian's; the distribution's own archive has a component `main` and is
/// signed by its own key ring.
fn is_of_the_distribution(source: &HostSource) -> bool {
    let key = source.signed_by.as_deref();
    let own = key.is_none_or(|key| key.contains("debian-archive") || key.contains("ubuntu-archive"));
    own && source.components.iter().any(|component| component == "main")
}

fn line(uri: &str, suite: &str, components: &str, keyring: Option<&str>, trusted: bool) -> String {
    let signed = keyring.map(|keyring| format!("signed-by={keyring}"));
    let options: Vec<String> = signed.into_iter().chain(trusted.then(|| "trusted=yes".to_owned())).collect();
    let options = if options.is_empty() { String::new() } else { format!("[{}] ", options.join(" ")) };
    format!("deb {options}{uri} {suite} {components}")
}

/// `deb [option=value …] URI SUITE COMPONENT…`
fn one_line(text: &str) -> Option<HostSource> {
    let rest = text.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let option = |name: &str| options.split_whitespace().find_map(|o| o.strip_prefix(name)?.strip_prefix('='));
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(HostSource {
        uris: vec![words.next()?],
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by: option("signed-by").map(str::to_owned),
        trusted: option("trusted") == Some("yes"),
    })
}

/// The addresses in `deb` lines, each once.
pub(crate) fn addresses(lines: &[String]) -> Vec<String> {
    let mut addresses: Vec<_> = lines.iter().filter_map(|line| one_line(line)).flat_map(|source| source.uris).collect();
    addresses.dedup();
    addresses
}

/// A stanza of `Field: value` lines.
fn stanza(text: &str) -> Option<HostSource> {
    let field = |name: &str| {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let words = |name: &str| field(name).map(|v| v.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let enabled = field("Enabled").is_none_or(|value| value != "no");
    let binary = words("Types")?.iter().any(|kind| kind == "deb");
    (enabled && binary).then_some(())?;
    Some(HostSource {
        uris: words("URIs")?,
        suites: words("Suites")?,
        components: words("Components").unwrap_or_default(),
        // A key that is written out inside the stanza is no file to point at.
        signed_by: field("Signed-By").filter(|value| value.starts_with('/')),
        trusted: field("Trusted").is_some_and(|value| value == "yes"),
    })
}

/// How a build enters its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// As root.
    Root,
    /// As an ordinary user, in a user namespace with the user's subordinate ids.
    Unshare,
}

/// What mmdebstrap is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its arguments. The tree goes to standard output, as a tar archive.
    pub arguments: Vec<String>,
    /// Knows the tree: equal digests install equal trees from an equal archive.
    pub digest: Digest,
}

/// What a recipe is read as: where its packages come from.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'a> {
    /// The recipe.
    pub source: &'a DebianSource,
    /// Debian's name of the architecture.
    pub architecture: &'a str,
    /// The `deb` lines of the image.
    pub lines: &'a [String],
    /// Digest of the lock file, if there is one.
    pub lock: Option<Digest>,
}

/// What of an installation lies in files of this host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ingredients<'a> {
    /// A tar archive of the recipe's files.
    pub files: Option<&'a str>,
    /// A folder with the locked packages, and their index: the only archive that is asked then.
    pub packages: Option<&'a str>,
}

/// Plans the installation of a recipe. Where its ingredients lie is not part of the digest, their content is.
pub fn plan(recipe: &Recipe<'_>, ingredients: &Ingredients<'_>, by: Privilege) -> Plan {
    let Recipe { source, architecture, lines, lock } = *recipe;
    // Before all others: the hook that merges /usr asks the archive, too.
    let mut setup: Vec<String> = ingredients.packages.map(bring_packages).into_iter().flatten().collect();
    let packages = names(&source.packages, lock.is_some());
    let mut arguments = fixed_arguments(source, architecture, &packages);
    if let (Some(keyring), None) = (&source.keyring, &source.mirror) {
        arguments.push(format!("--keyring={keyring}"));
    }
    let check = check_packages(&packages);
    arguments.extend(check.map(|check| format!("--extract-hook={check}")));
    // Where the lock file lies is nothing to the tree.
    let known = serde_json::to_string(&DebianSource { lock: None, ..source.clone() }).unwrap_or_default();
    let lock = lock.map(|lock| lock.to_string()).unwrap_or_default();
    let known_by = [format!("{PLAN_VERSION}"), known, arguments.join("\n"), lines.join("\n"), lock].join("\0");
    let digest = Digest(Sha256::digest(known_by).into());
    arguments.splice(0..0, setup.drain(..));
    arguments.push(match by {
        Privilege::Root => "--mode=root".to_owned(),
        Privilege::Unshare => "--mode=unshare".to_owned(),
    });
    arguments.extend(ingredients.packages.map(|_| format!("--customize-hook={REMOVE_PACKAGES}")));
    arguments.extend(ingredients.files.map(|tar| format!("--customize-hook=tar-in {} /", quote(tar))));
    arguments.extend(source.hooks.customize.iter().enumerate().map(|(index, hook)| customize(index, hook)));
    arguments.extend([source.suite.clone(), "-".to_owned()]);
    arguments.extend(lines.iter().cloned());
    Plan { arguments, digest }
}

/// Where locked packages lie in a tree while it is installed.
pub(crate) const PACKAGES_FOLDER: &str = "stokehold-packages";

/// Copies the locked packages into the tree and makes them the only archive. The image's own list of archives waits
/// beside. By path from outside: apt runs there, and mmdebstrap knows packages below the tree as such.
fn bring_packages(folder: &str) -> [String; 2] {
    let only = format!(
        "set -e; cd \"$1\"; mkdir -p {PACKAGES_FOLDER}/lists etc/apt/sources.list.d; \
         mv etc/apt/sources.list.d {PACKAGES_FOLDER}/lists; mkdir etc/apt/sources.list.d; \
         test ! -e etc/apt/sources.list || mv etc/apt/sources.list {PACKAGES_FOLDER}/lists; \
         printf 'deb [trusted=yes] file:%s ./\\n' \"$(printf %s \"$1/{PACKAGES_FOLDER}\" | sed 's/ /%20/g')\" \
         > etc/apt/sources.list"
    );
    [format!("--setup-hook=copy-in {} /", quote(folder)), format!("--setup-hook={only}")]
}

/// Undoes [`bring_packages`], before anything of the recipe runs.
const REMOVE_PACKAGES: &str = "set -e; cd \"$1\"; rm -r etc/apt/sources.list etc/apt/sources.list.d; \
     mv stokehold-packages/lists/* etc/apt/; rm -r stokehold-packages";

/// The packages as apt is asked for them. Of locked ones there is one version only, from no suite.
fn names(packages: &[String], locked: bool) -> Vec<String> {
    let bare = |package: &String| package.split('/').next().unwrap_or_default().to_owned();
    packages.iter().map(|package| if locked { bare(package) } else { package.clone() }).collect()
}

fn fixed_arguments(source: &DebianSource, architecture: &str, packages: &[String]) -> Vec<String> {
    let mut arguments: Vec<String> = ["--verbose", "--variant=minbase", "--format=tar"].map(str::to_owned).into();
    arguments.push(format!("--architectures={architecture}"));
    arguments.push(format!("--components={}", source.components.join(",")));
    arguments.extend(APT_OPTIONS.iter().map(|option| format!("--aptopt={option}")));
    arguments.extend(DPKG_OPTIONS.iter().map(|option| format!("--dpkgopt={option}")));
    // Merged by links from the start, instead of by the package usrmerge, which brings all of Perl.
    arguments.push("--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr".to_owned());
    if !packages.is_empty() {
        arguments.push(format!("--include={}", packages.join(",")));
    }
    arguments
}

/// Asks apt for the packages before anything is unpacked: a wrong name is told after seconds, not minutes. Only names
/// are judged here; what else is wrong is told by the installation itself.
fn check_packages(packages: &[String]) -> Option<String> {
    let names: Vec<String> = packages.iter().map(|package| quote(package)).collect();
    (!names.is_empty()).then(|| {
        let ask = format!("APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\" apt-get --simulate install {}", names.join(" "));
        let judge = "grep -E '^E: (Unable to locate package|Package .* has no installation candidate)' >&2";
        format!("if {ask} 2>&1 | {judge}; then exit 1; fi")
    })
}

/// What a customize hook says before it runs; how a failure is traced to it.
pub(crate) const HOOK_MARK: &str = "stokehold: hook ";

fn customize(index: usize, hook: &str) -> String {
    format!("--customize-hook=echo '{HOOK_MARK}{index}' >&2; chroot \"$1\" /bin/sh -e -c {}", quote(hook))
}

/// A word of a shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> DebianSource {
        DebianSource {
            suite: "bookworm".to_owned(),
            mirror: None,
            components: vec!["main".to_owned()],
            keyring: None,
            packages: vec!["systemd-sysv".to_owned()],
            lock: None,
            files: Vec::new(),
            hooks: stoke_api::objects::Hooks::default(),
        }
    }

    const STANZAS: &str = "Types: deb\n# a snapshot\nURIs: http://mirror.lan/debian\nSuites: bookworm bookworm-updates\n\
                           Components: main contrib\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
                           Types: deb\nURIs: http://mirror.lan/security\nSuites: bookworm-security\nComponents: main\n\n\
                           Types: deb\nURIs: https://third.example\nSuites: bookworm\nComponents: stable\n\n\
                           Types: deb-src\nURIs: http://mirror.lan/debian\nSuites: bookworm\nComponents: main\n";

    #[test]
    fn the_hosts_own_mirror_is_used_and_third_parties_are_not() {
        let expected = [
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.lan/debian bookworm main",
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.lan/debian bookworm-updates main",
            "deb http://mirror.lan/security bookworm-security main",
        ];
        assert_eq!(archive_lines(&recipe(), &[], &[STANZAS.to_owned()]), expected);
    }

    #[test]
    fn one_line_sources_keep_their_trust() {
        let list = "# x\ndeb [arch=amd64 trusted=yes] file:/srv/debian bookworm main\ndeb-src http://x bookworm main\n";
        let expected = ["deb [trusted=yes] file:/srv/debian bookworm main"];
        assert_eq!(archive_lines(&recipe(), &[list.to_owned()], &[]), expected);
    }

    #[test]
    fn the_recipes_mirror_is_the_only_one() {
        let mirrored = DebianSource { mirror: Some("http://m".into()), keyring: Some("/k.gpg".into()), ..recipe() };
        let lines = archive_lines(&mirrored, &[], &[STANZAS.to_owned()]);
        assert_eq!(lines, ["deb [signed-by=/k.gpg] http://m bookworm main"]);
    }

    #[test]
    fn a_host_that_knows_only_the_updates_of_a_suite_knows_nothing() {
        let list = "deb http://m bookworm-updates main\n";
        assert_eq!(archive_lines(&recipe(), &[list.to_owned()], &[]), [""; 0]);
    }

    #[test]
    fn the_place_of_the_files_does_not_change_what_is_built() {
        let digest = |source: &DebianSource, files, by| {
            let recipe = Recipe { source, architecture: "amd64", lines: &[], lock: None };
            plan(&recipe, &Ingredients { files, packages: files }, by).digest
        };
        let locked = DebianSource { lock: Some("/tmp/lock".to_owned()), ..recipe() };
        let first = digest(&recipe(), Some("/tmp/a"), Privilege::Root);
        assert_eq!(first, digest(&locked, Some("/tmp/b"), Privilege::Unshare));
        let other = DebianSource { packages: vec!["udev".to_owned()], ..recipe() };
        assert_ne!(first, digest(&other, None, Privilege::Root));
    }

    #[test]
    fn hooks_are_words_for_the_shell() {
        assert!(customize(1, "echo 'a'").ends_with(r#"chroot "$1" /bin/sh -e -c 'echo '\''a'\'''"#));
    }

    #[test]
    fn an_archive_of_ubuntu_is_found_by_its_key_ring() {
        let ubuntu = DebianSource {
            suite: "noble".to_owned(),
            components: vec!["main".to_owned(), "universe".to_owned()],
            ..recipe()
        };
        let list = "deb [signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg] http://u/ubuntu noble main universe\n\
                    deb http://u/ubuntu noble-security main\ndeb http://d/debian bookworm main\n";
        let expected = [
            "deb [signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg] http://u/ubuntu noble main universe",
            "deb http://u/ubuntu noble-security main universe",
        ];
        let lines = archive_lines(&ubuntu, &[list.to_owned()], &[]);
        assert_eq!(lines, expected);
        assert_eq!(addresses(&lines), ["http://u/ubuntu"]);
        let (mirror, keyring) = (Some("http://mirror.lan/ubuntu".to_owned()), Some("/k.gpg".to_owned()));
        let lines = archive_lines(&DebianSource { mirror, keyring, ..ubuntu }, &[], &[]);
        assert_eq!(lines, ["deb [signed-by=/k.gpg] http://mirror.lan/ubuntu noble main universe"]);
    }
}
