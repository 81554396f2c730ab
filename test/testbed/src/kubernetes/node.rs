//! A node: containerd, kubelet and kube-proxy in namespaces of their own (network, mounts, processes), below cgroups of their own.
//! Its process 1 is ours. With it everything on the node ends: servers, shims, containers, mounts.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::control_plane::ControlPlane;
use super::folder::Folder;
use super::image::Image;
use super::network::Network;
use super::node_files::{self, Identity, PODS, Programs, pods_of};
use super::server::{Server, children};
use crate::tools::kubernetes_program;
use crate::wait::wait_for;
use crate::world::{World, check};

/// Makes the inside of a node.
const MAKE: &str = include_str!("node.sh");
/// How long a busy machine may take until a server is ready.
const LIMIT: Duration = Duration::from_mins(2);
/// The last number of the first node's address.
const FIRST: u8 = 10;
/// How many nodes a cluster can have.
const NODES: u8 = 8;

/// A node of a cluster. It ends when it is dropped, or with the process.
pub struct Node {
    name: String,
    /// The last number of its address.
    last: u8,
    address: Ipv4Addr,
    /// Its process 1, as the host sees it.
    init: u32,
    kubelet: Option<Server>,
    proxy: Option<Server>,
    containerd: Option<Server>,
    holder: Option<Server>,
    programs: Programs,
    cgroup: String,
    folder: Folder,
}

impl Node {
    /// Starts the node of this number, from 0 on; returns when Kubernetes says that it is ready.
    ///
    /// # Errors
    /// If the caller is not root, a program cannot be built, or a server does not become ready.
    pub fn start(plane: &ControlPlane, network: &Network, number: u8) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let cgroup = format!("stoketest-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (programs, folder) = (Programs::new()?, Folder::with_cgroup(&cgroup)?);
        let (name, last) = (format!("node{number}"), FIRST + number);
        let address = network.address(last);
        node_files::write(folder.path(), plane, &Identity { name: &name, last, address, cgroup: &cgroup }, &programs)?;
        let (kubelet, proxy, containerd, holder) = (None, None, None, None);
        let mut node =
            Self { name, last, address, init: 0, kubelet, proxy, containerd, holder, programs, cgroup, folder };
        node.power_on(plane, network)?;
        Ok(node)
    }

    /// Starts a node whose power was cut, with its disk as it was; returns when Kubernetes says that it is ready.
    ///
    /// # Errors
    /// If it is on, or a server does not become ready.
    pub fn power_on(&mut self, plane: &ControlPlane, network: &Network) -> Result<()> {
        ensure!(self.holder.is_none(), "{} is on already", self.name);
        let made = self.folder.path().join("made");
        if made.exists() {
            fs_err::remove_file(&made)?;
        }
        let holder = self.holder.insert(hold(self.folder.path(), &self.cgroup, &self.name, &self.programs)?);
        let waited = wait_for(&format!("{}'s inside", self.name), LIMIT, || {
            holder.check()?;
            Ok(made.exists().then_some(()))
        });
        waited.with_context(|| holder.last_lines())?;
        let init = children(holder.id())?.into_iter().next().context("the node has no process 1")?;
        self.init = init.as_raw_nonzero().get().unsigned_abs();
        self.join(network)?;
        self.start_containerd()?;
        self.start_kubelet()?;
        self.start_proxy()?;
        self.wait_until_ready(plane)
    }

    /// Its name in the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its process 1, as the host sees it: `/proc/PID/root`, `/proc/PID/ns/net`.
    pub fn process(&self) -> u32 {
        self.init
    }

    /// The last number of its address.
    pub(super) fn last(&self) -> u8 {
        self.last
    }

    /// The folder of its files on this host: its disk, what its servers read, and their logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the cgroups are called that all its pods are in.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// A command that will run on the node, in all of its namespaces.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init.to_string(), "--mount", "--net", "--pid", "--ipc", "--uts", "--"])
            .arg(program);
        command
    }

    /// Gives the node a link to a machine of a world; both ends get a name, the world's first.
    ///
    /// # Errors
    /// If there is such a link on one of them already.
    pub fn connect(&self, world: &World, names: [&str; 2]) -> Result<()> {
        let [far, near] = names;
        let process = self.init.to_string();
        world.run("ip", &["link", "add", far, "type", "veth", "peer", "name", near, "netns", &process])?;
        world.run("ip", &["link", "set", far, "up"])?;
        self.run("ip", &["link", "set", near, "up"]).map(drop)
    }

    /// Runs a command on the node that must succeed; returns what it printed.
    ///
    /// # Errors
    /// If it fails, with what it printed as errors.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        check(self.command(program).args(arguments))
    }

    /// Gives the node an image, of an archive as `docker save` or an OCI layout has it.
    ///
    /// # Errors
    /// If containerd does not take it.
    pub fn import_image(&self, archive: &Path) -> Result<()> {
        let mut import = self.command(self.programs.containerd.join("ctr"));
        import.args(["--namespace", "k8s.io", "images", "import", "-"]);
        // The node does not see all files of the host.
        let output = import.stdin(fs_err::File::open(archive)?.into_file()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cannot import {} on {}: {said}", archive.display(), self.name);
        Ok(())
    }

    /// Gives the node an image.
    ///
    /// # Errors
    /// If its files cannot be read, or containerd does not take it.
    pub fn add_image(&self, image: &Image) -> Result<()> {
        let archive = tempfile::NamedTempFile::new()?;
        image.write(archive.path())?;
        self.import_image(archive.path())
    }

    /// Kills the kubelet: pods go on.
    ///
    /// # Errors
    /// If it does not run.
    pub fn stop_kubelet(&mut self) -> Result<()> {
        self.kubelet.take().context("the kubelet does not run")?.kill_with_children()
    }

    /// Starts the kubelet.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_kubelet(&mut self) -> Result<()> {
        let folder = self.folder.path();
        let mut kubelet = self.command(kubernetes_program("kubelet")?);
        kubelet.arg("--config").arg(folder.join("kubelet.yaml"));
        kubelet.arg("--kubeconfig").arg(folder.join("kubelet.kubeconfig"));
        kubelet.args(["--node-ip", &self.address.to_string(), "--hostname-override", &self.name]);
        self.kubelet = Some(Server::start("kubelet", folder, &kubelet)?);
        Ok(())
    }

    /// Waits until the kubelet is well, and Kubernetes says that the node is ready.
    ///
    /// # Errors
    /// If a server of the node has ended, or it takes too long.
    pub fn wait_until_ready(&mut self, plane: &ControlPlane) -> Result<()> {
        let mut healthy = self.command(&self.programs.guest);
        healthy.args(["get", "http://127.0.0.1:10248/healthz"]).stdin(Stdio::null());
        healthy.stdout(Stdio::null()).stderr(Stdio::null());
        // What Kubernetes says may be from before.
        let waited = wait_for(&format!("{}'s kubelet", self.name), LIMIT, || {
            self.kubelet.iter_mut().try_for_each(Server::check)?;
            Ok(healthy.status()?.success().then_some(()))
        });
        waited.with_context(|| self.kubelet.as_ref().map(Server::last_lines).unwrap_or_default())?;
        let waited = plane.wait_for_node(&self.name, || {
            let mut servers = [&mut self.containerd, &mut self.kubelet, &mut self.proxy].into_iter().flatten();
            servers.try_for_each(Server::check)
        });
        waited.with_context(|| self.kubelet.as_ref().map(Server::last_lines).unwrap_or_default())
    }

    /// Cuts the power: everything on the node ends at once, and its disk stays.
    pub fn power_off(&mut self) {
        // What went to the node's namespaces waits for what it started there, which ends with process 1.
        self.holder = None;
        (self.kubelet, self.proxy, self.containerd) = (None, None, None);
        let gone = || Ok((!Path::new(&format!("/proc/{}", self.init)).exists()).then_some(()));
        if let Err(error) = wait_for(&format!("the end of {}", self.name), LIMIT, gone) {
            eprintln!("{error:#}");
        }
    }

    fn join(&self, network: &Network) -> Result<()> {
        let last = self.last;
        network.join(self.init, last)?;
        self.run("ip", &["address", "add", &format!("{}/24", self.address), "dev", "eth0"])?;
        self.run("ip", &["link", "set", "eth0", "up"])?;
        self.run("ip", &["route", "add", "default", "via", &network.host().to_string()])?;
        // Pods of other nodes are there, whether these nodes are or not.
        for other in (FIRST..FIRST + NODES).filter(|other| *other != last) {
            self.run("ip", &["route", "add", &pods_of(other), "via", &network.address(other).to_string()])?;
        }
        // What is no pod does not know where pods are.
        let rule = format!("ip saddr {} ip daddr != {PODS} oifname eth0 masquerade", pods_of(last));
        let chain = "type nat hook postrouting priority srcnat;";
        self.run("nft", &[&format!("table ip testbed {{\nchain postrouting {{ {chain}\n{rule}\n}}\n}}")]).map(drop)
    }

    fn start_containerd(&mut self) -> Result<()> {
        let folder = self.folder.path();
        let programs = &self.programs.containerd;
        let mut containerd = self.command(programs.join("containerd"));
        containerd.arg("--config").arg(folder.join("containerd.toml"));
        let path = std::env::var("PATH").unwrap_or_default();
        containerd.env("PATH", format!("{}:{path}", programs.display()));
        let server = self.containerd.insert(Server::start("containerd", folder, &containerd)?);
        let mut answers = Command::new("nsenter");
        answers.args(["--target", &self.init.to_string(), "--mount", "--"]).arg(programs.join("ctr")).arg("version");
        answers.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let waited = wait_for("containerd", LIMIT, || {
            server.check()?;
            Ok(answers.status()?.success().then_some(()))
        });
        waited.with_context(|| server.last_lines())?;
        self.add_image(&Image::guest()?)
    }

    fn start_proxy(&mut self) -> Result<()> {
        let mut proxy = self.command(kubernetes_program("kube-proxy")?);
        proxy.arg("--config").arg(self.folder.path().join("proxy.yaml"));
        self.proxy = Some(Server::start("kube-proxy", self.folder.path(), &proxy)?);
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.power_off();
    }
}

/// Starts the process that holds a node: with it, process 1 of the node ends.
fn hold(folder: &Path, cgroup: &str, name: &str, programs: &Programs) -> Result<Server> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "slave", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]);
    command.args(["sh", "-euc", MAKE, "node.sh"]).arg(folder).args([cgroup, name]).arg(&programs.guest);
    Server::start("node", folder, &command)
}
