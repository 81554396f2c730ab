//! What the tests in real clusters have in common: a cluster with the chart in it, installed by the real helm, and objects
//! given and read by the real kubectl.
//!
//! The tests are in `tests/`, one file for each promise. `cargo xtask test` runs them.

mod metal;
mod processes;
mod seed;
mod worker;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
pub use metal::{text, wire_of};
pub use processes::{Victim, victims};
use serde_json::Value;
use testbed::kubernetes::{Cluster, Proxy};
use testbed::{programs, wait_for};

/// Where the chart is installed.
pub const SYSTEM: &str = "stokehold-system";
/// How long a guest may take from its object to ready: emulated, on a machine that does other things too.
pub const BOOT_LIMIT: Duration = Duration::from_mins(10);
/// How long pods may take.
pub const POD_LIMIT: Duration = Duration::from_mins(2);

/// A cluster in which Stokehold is installed.
pub struct Lab {
    /// The cluster.
    pub cluster: Cluster,
    store: PathBuf,
    folder: tempfile::TempDir,
    ssh_key: String,
    /// The way to packages, of builds.
    proxy: Option<Proxy>,
}

impl Lab {
    /// Starts a cluster of so many nodes, gives them the images, and installs the chart with these values. The store has the
    /// example's image already, as it was built for the tests with guests.
    ///
    /// # Errors
    /// If something of that fails.
    pub fn start(nodes: u8, values: &[&str]) -> Result<Self> {
        // Not the image that builds: what is in the store is booted, and no other is built beside the guest.
        let lab = Self::begin(nodes, &["stoke", "vm"], |store| seed::fill(store, &e2e::images()?, "node"))?;
        lab.install(values)?;
        Ok(lab)
    }

    /// The same with the image `worker` in the store: the example's with what a node of a cluster needs.
    ///
    /// # Errors
    /// If something of that fails.
    pub fn start_with_workers(nodes: u8, values: &[&str]) -> Result<Self> {
        let lab = Self::begin(nodes, &["stoke"], |store| seed::fill(store, &worker::images()?, "worker"))?;
        lab.install(values)?;
        Ok(lab)
    }

    /// The same of one node with the version before this one: its chart, and images under its tag.
    ///
    /// # Errors
    /// If something of that fails.
    pub fn start_previous() -> Result<Self> {
        let images = ["stoke", "vm", "previous/stoke", "previous/vm"];
        let lab = Self::begin(1, &images, |store| seed::fill(store, &e2e::images()?, "node"))?;
        let chart = lab.folder.path().join("previous");
        check(Command::new("cp").arg("-r").arg(chart_folder()).arg(&chart))?;
        let file = chart.join("Chart.yaml");
        let mut text = fs_err::read_to_string(&file)?;
        for (field, version) in [("version: ", "0.0.1"), ("appVersion: ", "previous")] {
            let line =
                text.lines().find(|line| line.starts_with(field)).context("a chart without a version")?.to_owned();
            text = text.replace(&format!("\n{line}\n"), &format!("\n{field}{version}\n"));
        }
        fs_err::write(file, text)?;
        lab.install_from(&chart, &[])?;
        Ok(lab)
    }

    /// Upgrades to the chart of this version.
    ///
    /// # Errors
    /// If helm fails.
    pub fn upgrade(&self) -> Result<()> {
        self.helm("upgrade", &chart_folder(), &[])
    }

    /// Goes back to the version that was installed first.
    ///
    /// # Errors
    /// If helm fails.
    pub fn roll_back(&self) -> Result<()> {
        let mut rollback = self.cluster.plane.helm()?;
        rollback.args(["rollback", "stokehold", "1", "--namespace", SYSTEM, "--wait", "--timeout", "5m"]);
        check(&mut rollback).with_context(|| self.story()).map(drop)
    }

    /// Starts a cluster of one node as people have it: with all images, and nothing in the store.
    ///
    /// # Errors
    /// If something of that fails.
    pub fn bare() -> Result<Self> {
        let mut lab = Self::begin(1, &["stoke", "vm", "builder"], seed::give)?;
        let proxy = Proxy::start(&lab.cluster.network)?;
        lab.install(&[&format!("build.proxy.http={}", proxy.url())])?;
        lab.proxy = Some(proxy);
        Ok(lab)
    }

    fn begin(nodes: u8, images: &[&str], fill: impl Fn(&Path) -> Result<()>) -> Result<Self> {
        let cluster = Cluster::start(nodes)?;
        for image in images {
            let archive = container_image(image)?;
            cluster.nodes.iter().try_for_each(|node| node.import_image(&archive))?;
        }
        let store = cluster.add_volume("store", "50Gi")?;
        fill(&store)?;
        for number in 0..6 {
            cluster.add_volume(&format!("volume{number}"), "5Gi")?;
        }
        let folder = tempfile::tempdir()?;
        let key = folder.path().join("key");
        check(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key))?;
        let ssh_key = fs_err::read_to_string(folder.path().join("key.pub"))?.trim().to_owned();
        Ok(Self { cluster, store, folder, ssh_key, proxy: None })
    }

    fn install(&self, values: &[&str]) -> Result<()> {
        self.install_from(&chart_folder(), values)
    }

    fn install_from(&self, chart: &Path, values: &[&str]) -> Result<()> {
        self.kubectl(&["create", "namespace", SYSTEM])?;
        let allowed = "pod-security.kubernetes.io/enforce=privileged";
        self.kubectl(&["label", "namespace", SYSTEM, allowed])?;
        self.helm("install", chart, values)
    }

    fn helm(&self, verb: &str, chart: &Path, values: &[&str]) -> Result<()> {
        let mut helm = self.cluster.plane.helm()?;
        helm.args([verb, "stokehold"]).arg(chart).args(["--namespace", SYSTEM]);
        helm.args(["--set", "images.registry=localhost", "--set", "images.pullPolicy=Never"]);
        helm.args(values.iter().flat_map(|value| ["--set", value]));
        check(helm.args(["--wait", "--timeout", "5m"])).with_context(|| self.story()).map(drop)
    }

    /// The image store, as this host sees it.
    pub fn store_images(&self) -> PathBuf {
        self.store.join("images")
    }

    /// Takes the chart out again.
    ///
    /// # Errors
    /// If helm fails.
    pub fn uninstall(&self) -> Result<()> {
        let mut uninstall = self.cluster.plane.helm()?;
        uninstall.args(["uninstall", "stokehold", "--namespace", SYSTEM, "--wait", "--timeout", "5m"]);
        check(&mut uninstall).with_context(|| self.story()).map(drop)
    }

    /// Runs kubectl, which must succeed; what it printed.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        check(self.cluster.plane.kubectl()?.args(arguments))
    }

    /// Applies objects.
    ///
    /// # Errors
    /// If they are refused.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let mut apply = self.cluster.plane.kubectl()?;
        apply.args(["apply", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = apply.spawn()?;
        child.stdin.take().context("no input")?.write_all(yaml.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "kubectl apply: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Applies the example's image, its LAN with these lines more, its farm, whose nodes know our key, and these clients.
    ///
    /// # Errors
    /// If they are refused.
    pub fn apply_example(&self, lan: &str, clients: &str) -> Result<()> {
        self.apply(include_str!("../../../examples/netboot/image.yaml"))?;
        self.apply_farm(lan, str::to_owned, clients)
    }

    /// Applies the example's LAN with these lines more, its farm as `changed` and with our key, and these clients.
    ///
    /// # Errors
    /// If they are refused.
    pub fn apply_farm(&self, lan: &str, changed: impl Fn(&str) -> String, clients: &str) -> Result<()> {
        self.apply(&format!("{}{lan}", include_str!("../../../examples/netboot/lan.yaml")))?;
        let farm = changed(include_str!("../../../examples/netboot/farm.yaml"));
        let key = format!("    users: [{{name: root, sshAuthorizedKeys: [\"{}\"]}}]\n", self.ssh_key);
        ensure!(farm.contains("  config:\n"), "the example's farm has another form");
        self.apply(&farm.replace("  config:\n", &format!("  config:\n{key}")))?;
        self.apply(clients)
    }

    /// `stoke` as kubectl's plugin, of the administrator.
    ///
    /// # Errors
    /// If the programs were not built.
    pub fn stoke(&self) -> Result<Command> {
        let mut command = Command::new(programs()?.join("stoke"));
        command.args(["--target", "cluster", "--kubeconfig"]).arg(self.cluster.plane.kubeconfig_file());
        command.env("HOME", self.folder.path()).env("XDG_RUNTIME_DIR", self.folder.path()).env_remove("KUBECONFIG");
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a command on a machine, by the way of its router; what it printed.
    ///
    /// # Errors
    /// If it fails.
    pub fn ssh(&self, machine: &str, command: &str) -> Result<String> {
        let mut stoke = self.stoke()?;
        // ssh looks for keys where the account database says, not where HOME does.
        let agent = Agent::with_key(&self.folder.path().join("key"))?;
        stoke.env("SSH_AUTH_SOCK", &agent.socket);
        check(stoke.args(["ssh", machine, "--", command]))
    }

    /// The same by a Service, as a program on a node reaches it.
    ///
    /// # Errors
    /// If it fails.
    pub fn ssh_from_node(&self, address: &str, port: &str, command: &str) -> Result<String> {
        let agent = Agent::with_key(&self.folder.path().join("key"))?;
        let mut ssh = self.cluster.nodes.first().context("no node")?.command("ssh");
        ssh.env("SSH_AUTH_SOCK", &agent.socket).args(["-p", port]);
        let known = ["UserKnownHostsFile=/dev/null", "GlobalKnownHostsFile=/dev/null", "StrictHostKeyChecking=no"];
        let options = known.iter().chain(&["BatchMode=yes", "LogLevel=ERROR", "ConnectTimeout=10"]);
        ssh.args(options.flat_map(|option| ["-o", option]));
        check(ssh.arg(format!("root@{address}")).arg(command))
    }

    /// An object of ours: a server, or one of the namespace `default`.
    ///
    /// # Errors
    /// If there is none.
    pub fn object(&self, kind: &str, name: &str) -> Result<Value> {
        let namespace = if kind == "server" { "" } else { "namespaces/default/" };
        let path = format!("/apis/stokehold.dev/v1alpha1/{namespace}{kind}s/{name}");
        self.cluster.plane.api().get(&path)?.with_context(|| format!("there is no {kind} {name}"))
    }

    /// Waits for an object's condition to be true.
    ///
    /// # Errors
    /// With what the cluster says if it takes too long.
    pub fn wait_condition(&self, kind: &str, name: &str, condition: &str, limit: Duration) -> Result<()> {
        let holds = |object: &Value| {
            let all = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
            all.iter()
                .any(|one| one.get("type") == Some(&condition.into()) && one.get("status") == Some(&"True".into()))
        };
        let waited = wait_for(&format!("{kind}/{name} to be {condition}"), limit, || {
            Ok(holds(&self.object(kind, name)?).then_some(()))
        });
        waited.with_context(|| self.story())
    }

    /// What the cluster has to say, for a test that fails.
    pub fn story(&self) -> String {
        let asked: [&[&str]; 6] = [
            &["get", "pods,jobs,pvc", "--all-namespaces", "-o", "wide"],
            &["get", "stokehold", "--all-namespaces"],
            &[
                "get",
                "images,lans,farms,machines",
                "--all-namespaces",
                "-o",
                "jsonpath={range .items[*]}{.kind}/{.metadata.name}: {.status.conditions}{'\\n'}{end}",
            ],
            &["--namespace", SYSTEM, "logs", "deployment/stokehold-operator", "--tail=25"],
            &["--namespace", SYSTEM, "logs", "daemonset/stokehold-agent", "--tail=25"],
            &["get", "events", "--all-namespaces", "--field-selector=type=Warning"],
        ];
        let said = |arguments: &&[&str]| match self.kubectl(arguments) {
            Ok(said) => said,
            Err(error) => format!("{error:#}"),
        };
        format!("the cluster:\n{}", asked.iter().map(said).collect::<Vec<_>>().join("\n"))
    }
}

/// A key in the hands of ssh-agent: ssh finds its user's keys by the account database, which a test must not touch.
struct Agent {
    socket: PathBuf,
    _folder: tempfile::TempDir,
    _process: testbed::Process,
}

impl Agent {
    fn with_key(key: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("agent");
        let mut agent = Command::new("ssh-agent");
        agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null());
        let process = testbed::Process::start(&mut agent)?;
        wait_for("ssh-agent", Duration::from_secs(10), || Ok(socket.exists().then_some(())))?;
        check(Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &socket))?;
        Ok(Self { socket, _folder: folder, _process: process })
    }
}

fn chart_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/stokehold")
}

/// Archive of an image of ours, as `cargo xtask images` makes it.
fn container_image(name: &str) -> Result<PathBuf> {
    let folder = std::env::var_os("STOKE_IMAGES").map(PathBuf::from);
    let folder = folder.context("STOKE_IMAGES is not set: run these tests by cargo xtask test")?;
    Ok(folder.join(format!("{name}.tar")))
}

/// Runs a command that must succeed; what it printed.
///
/// # Errors
/// If it fails, with what it said.
pub fn check(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{command:?}: {}: {printed}{said}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
