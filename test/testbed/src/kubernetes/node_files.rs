//! What the programs of a node read, and where they are.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::control_plane::ControlPlane;
use super::image::{GUEST_IMAGE, Image};
use crate::tools::{CNI, CONTAINERD, GUEST, GoTool, RUNC, go_tool, kubernetes_program, oldest_kubernetes};

/// The addresses of pods: a node has a /24 of them.
pub(super) const PODS: &str = "10.244.0.0/16";

/// The addresses of pods on a node.
pub(super) fn pods_of(last: u8) -> String {
    format!("10.244.{last}.0/24")
}

/// Programs that nodes need, built if they are not in the cache.
pub(super) struct Programs {
    pub(super) guest: PathBuf,
    /// The folder of containerd, its shim and its client.
    pub(super) containerd: PathBuf,
    runc: PathBuf,
    cni: PathBuf,
}

impl Programs {
    pub(super) fn new() -> Result<Self> {
        let (containerd, cni) = (folder(&CONTAINERD)?, folder(&CNI)?);
        Ok(Self { guest: go_tool(GUEST)?, containerd, runc: go_tool(RUNC)?, cni })
    }
}

/// Puts a node's programs into a folder, for an image of nodes that are machines: `kubernetes` (which is whatever it is called
/// as), those of containerd, `runc`, those of CNI below `cni`, and [`GUEST_IMAGE`](super::GUEST_IMAGE) as `guest.tar`.
///
/// # Errors
/// If a program cannot be built or copied.
pub fn copy_programs(to: &Path) -> Result<()> {
    fs_err::create_dir_all(to.join("cni"))?;
    fs_err::copy(kubernetes_program("kubelet")?, to.join("kubernetes"))?;
    for tool in CONTAINERD.into_iter().chain([RUNC]) {
        copy_into(&go_tool(tool)?, to)?;
    }
    // Not portmap: it needs a program that the image does not have.
    for tool in CNI.iter().filter(|tool| tool.name() != "portmap") {
        copy_into(&go_tool(*tool)?, &to.join("cni"))?;
    }
    Image::guest()?.write(&to.join("guest.tar"))
}

fn copy_into(program: &Path, folder: &Path) -> Result<()> {
    let name = program.file_name().context("a program without a name")?;
    fs_err::copy(program, folder.join(name))?;
    Ok(())
}

/// The folder of programs that are from one module.
fn folder(tools: &[GoTool]) -> Result<PathBuf> {
    let programs = tools.iter().map(|tool| go_tool(*tool)).collect::<Result<Vec<_>>>()?;
    let first = programs.first().context("no programs")?;
    first.parent().map(Path::to_owned).context("no folder")
}

/// What makes a node this one.
pub(super) struct Identity<'a> {
    pub(super) name: &'a str,
    /// The last number of its address, and the third of its pods'.
    pub(super) last: u8,
    pub(super) address: Ipv4Addr,
    pub(super) cgroup: &'a str,
}

/// Writes all files of a node.
pub(super) fn write(folder: &Path, plane: &ControlPlane, node: &Identity<'_>, programs: &Programs) -> Result<()> {
    let write = |name: &str, text: &str| fs_err::write(folder.join(name), text);
    let name = node.name;
    let kubelet = plane.kubeconfig_for_user(&format!("system:node:{name}"), Some("system:nodes"))?;
    kubelet.write(&folder.join("kubelet.kubeconfig"))?;
    plane.kubeconfig_for_user("system:kube-proxy", None)?.write(&folder.join("proxy.kubeconfig"))?;
    let serving = plane.authority().server(&format!("system:node:{name}"), &[node.address.into()], &[name])?;
    write("kubelet.crt", &serving.certificate)?;
    write("kubelet.key", &serving.key)?;
    fs_err::copy(plane.authority_file(), folder.join("ca.crt"))?;
    let (mut kubelet, mut proxy) = (kubelet_config(folder, node), proxy_config(folder, node));
    if oldest_kubernetes()? {
        as_older_ones_have_it(&mut kubelet, &mut proxy);
    }
    write("kubelet.yaml", &kubelet.to_string())?;
    write("proxy.yaml", &proxy.to_string())?;
    write("containerd.toml", &containerd_config(folder, programs))?;
    // There is no DNS: Services are reached by address.
    write("resolv.conf", "nameserver 192.0.2.53\n")?;
    fs_err::create_dir_all(folder.join("cni"))?;
    Ok(write("cni/testbed.conflist", &cni_config(node).to_string())?)
}

fn kubelet_config(folder: &Path, node: &Identity<'_>) -> Value {
    let at = |name: &str| folder.join(name).display().to_string();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": false}, "x509": {"clientCAFile": at("ca.crt")}},
        "tlsCertFile": at("kubelet.crt"),
        "tlsPrivateKeyFile": at("kubelet.key"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", node.cgroup),
        "failCgroupV1": false,
        "failSwapOn": false,
        // Nothing of the host's is reserved, limited or cleared away for the sake of a test.
        "enforceNodeAllocatable": [],
        "protectKernelDefaults": true,
        "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "oomScoreAdj": 0,
        "maxOpenFiles": 1024,
        "resolvConf": at("resolv.conf"),
        "volumePluginDir": "/var/lib/kubelet/plugins-of-volumes",
        "shutdownGracePeriod": "0s",
        "serializeImagePulls": false,
    })
}

fn proxy_config(folder: &Path, node: &Identity<'_>) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node.name,
        "clusterCIDR": PODS,
        "clientConnection": {"kubeconfig": folder.join("proxy.kubeconfig")},
        // Settings of the whole host, which it would write.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "oomScoreAdj": 0,
        "nftables": {"syncPeriod": "5s", "minSyncPeriod": "100ms"},
    })
}

/// What was not there yet in 1.30, or was there on request only.
fn as_older_ones_have_it(kubelet: &mut Value, proxy: &mut Value) {
    if let Some(fields) = kubelet.as_object_mut() {
        fields.remove("failCgroupV1");
        fields.insert("featureGates".to_owned(), json!({"UserNamespacesSupport": true}));
    }
    if let Some(fields) = proxy.as_object_mut() {
        fields.insert("featureGates".to_owned(), json!({"NFTablesProxyMode": true}));
    }
}

fn cni_config(node: &Identity<'_>) -> Value {
    let ranges = json!([[{"subnet": pods_of(node.last)}]]);
    let addresses =
        json!({"type": "host-local", "dataDir": "/var/lib/cni", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]});
    // Not a bridge: what pods of one node say to each other by way of a Service would go around the node's netfilter on the way
    // back, unless br_netfilter is there.
    json!({
        "cniVersion": "1.0.0",
        "name": "testbed",
        "plugins": [
            {"type": "ptp", "ipam": addresses},
            {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}},
        ],
    })
}

fn containerd_config(folder: &Path, programs: &Programs) -> String {
    let (root, conf) = (folder.join("containerd"), folder.join("cni"));
    let [root, conf, runc, cni] = [&root, &conf, &programs.runc, &programs.cni].map(|path| path.display());
    format!(
        r#"version = 3
root = "{root}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]

[grpc]
address = "/run/containerd/containerd.sock"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{GUEST_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
disable_apparmor = true
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{cni}"]
conf_dir = "{conf}"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
"#
    )
}
