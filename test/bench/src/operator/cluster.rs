//! A cluster for the operator: a real control plane, nodes that are not there, agents that are played, an image.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use serde_json::{Value, json};
use sha2::Digest as _;
use stoke_api::Digest;
use stoke_api::report::ImageBuildReport;
use testbed::kubernetes::{ControlPlane, Options, PretendNodes};
use testbed::wait_for;

use super::agents::Agents;
use super::audit::{Audit, USER};

/// The operator's namespace.
pub(crate) const SYSTEM: &str = "stokehold-system";
const KINDS: &str = "/apis/stokehold.dev/v1alpha1/namespaces";
const LIMIT: Duration = Duration::from_mins(3);

pub(crate) struct Cluster {
    pub(crate) plane: ControlPlane,
    pub(crate) audit: Audit,
    /// Where agents are asked, on each node's address.
    pub(crate) agents: SocketAddr,
    pub(crate) folder: tempfile::TempDir,
    listener: Option<TcpListener>,
    _nodes: PretendNodes,
}

impl Cluster {
    pub(crate) fn start(nodes: u32) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (audit, api_server) = Audit::new(folder.path())?;
        let options = Options { controllers: true, scheduler: true, api_server, ..Options::default() };
        let plane = ControlPlane::start(options)?;
        let nodes_there = PretendNodes::start(&plane, nodes)?;
        // One for all nodes' addresses: who asks shows a certificate.
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let agents = listener.local_addr()?;
        let account = json!({"metadata": {"name": "stokehold-role"}});
        plane.ensure_namespace(SYSTEM)?;
        plane.api().create(&format!("/api/v1/namespaces/{SYSTEM}/serviceaccounts"), &account)?;
        make_store(&plane, folder.path())?;
        (0..nodes).try_for_each(|number| furnish(&plane, number))?;
        publish(&folder.path().join("state"))?;
        plane.kubeconfig_for_user(USER, Some("system:masters"))?.write(&folder.path().join("kubeconfig"))?;
        Ok(Self { plane, audit, agents, folder, listener: Some(listener), _nodes: nodes_there })
    }

    /// Plays the agents, as soon as the operator has made their certificate.
    pub(crate) fn play_agents(&mut self) -> Result<()> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let path = format!("/api/v1/namespaces/{SYSTEM}/secrets/stokehold-agent-tls");
        let secret = wait_for("the agents' certificate", LIMIT, || self.plane.api().get(&path))?;
        let part = |name: &str| {
            let text = secret.pointer(&format!("/data/{name}")).and_then(Value::as_str).context("a part is missing")?;
            anyhow::Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
        };
        Agents::serve(listener, &part("tls.crt")?, &part("tls.key")?, &part("ca.crt")?)
    }

    /// Makes an object of ours.
    pub(crate) fn make(&self, namespace: &str, kind: &str, name: &str, spec: &Value) -> Result<()> {
        let object =
            json!({"apiVersion": "stokehold.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        self.plane.api().create(&path(namespace, kind), &object).map(drop)
    }

    /// Changes an object of ours.
    pub(crate) fn change(&self, namespace: &str, kind: &str, name: &str, fields: &Value) -> Result<()> {
        self.plane.api().patch(&format!("{}/{name}", path(namespace, kind)), fields).map(drop)
    }
}

fn path(namespace: &str, kind: &str) -> String {
    format!("{KINDS}/{namespace}/{}s", kind.to_lowercase())
}

/// The address of a node, on the loopback interface.
fn address(number: u32) -> IpAddr {
    let [_, _, high, low] = number.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 100 + high, low, 10))
}

/// The claim that farms and builds mount; nothing is mounted.
fn make_store(plane: &ControlPlane, folder: &Path) -> Result<()> {
    let (size, modes) = (json!({"storage": "5Gi"}), json!(["ReadWriteMany"]));
    let spec = json!({"capacity": size, "accessModes": modes, "hostPath": {"path": folder}, "storageClassName": ""});
    let volume = json!({"metadata": {"name": "store"}, "spec": spec});
    plane.api().create("/api/v1/persistentvolumes", &volume)?;
    let spec =
        json!({"accessModes": modes, "resources": {"requests": size}, "storageClassName": "", "volumeName": "store"});
    let claim = json!({"metadata": {"name": "stokehold-store"}, "spec": spec});
    plane.api().create(&format!("/api/v1/namespaces/{SYSTEM}/persistentvolumeclaims"), &claim).map(drop)
}

/// Gives a node an address and LANs, and puts an agent's pod on it.
fn furnish(plane: &ControlPlane, number: u32) -> Result<()> {
    let (node, address) = (format!("pretend{number}"), address(number));
    let resources = json!({"stokehold.dev/lan": "1000"});
    let status = json!({"addresses": [{"type": "InternalIP", "address": address}], "capacity": resources, "allocatable": resources});
    plane.api().patch(&format!("/api/v1/nodes/{node}/status"), &json!({"status": status}))?;
    let pods = format!("/api/v1/namespaces/{SYSTEM}/pods");
    let name = format!("stokehold-agent-{number}");
    let pod = json!({
        "metadata": {"name": name, "labels": {"app.kubernetes.io/component": "agent"}},
        "spec": {"nodeName": node, "serviceAccountName": "stokehold-role", "automountServiceAccountToken": false,
            "containers": [{"name": "agent", "image": "localhost/stoke:1"}]},
    });
    plane.api().create(&pods, &pod)?;
    let status = json!({"status": {"phase": "Running", "hostIP": address, "hostIPs": [{"ip": address}]}});
    plane.api().patch(&format!("{pods}/{name}/status"), &status).map(drop)
}

fn digest(content: &[u8]) -> Digest {
    Digest(sha2::Sha256::digest(content).into())
}

/// Publishes a small version of the image `infra/node`.
fn publish(state: &Path) -> Result<()> {
    fs_err::create_dir_all(state)?;
    let store = stoke_image::Store::open(state.join("images"))?;
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("root");
    fs_err::write(&root, [1; 5000])?;
    let verity = stoke_image::verity::append(&root)?;
    let root = fs_err::read(root)?;
    let info = json!({"format": "Squashfs", "blob": digest(&root), "size": root.len(), "verity": verity});
    let config = json!({"architecture": "amd64", "kernelVersion": "6.1", "kernelArguments": [], "root": info});
    let (config, kernel, initramfs) = (config.to_string().into_bytes(), b"kernel".to_vec(), b"initramfs".to_vec());
    let layer = |media: &str, content: &[u8]| -> Value {
        let media = format!("application/vnd.stokehold.{media}");
        json!({"mediaType": media, "digest": digest(content), "size": content.len()})
    };
    let layers = [layer("kernel", &kernel), layer("initramfs", &initramfs), layer("root.verity", &root)];
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": layers,
        "artifactType": "application/vnd.stokehold.netboot.v1", "config": layer("netboot.config.v1+json", &config),
    });
    let manifest = manifest.to_string().into_bytes();
    let mut incoming = stoke_image::store::Incoming::begin(&store)?;
    for content in [&manifest, &config, &kernel, &initramfs, &root] {
        incoming.add(&digest(content), content.as_slice())?;
    }
    let built = incoming.publish("infra/node", &digest(&manifest))?;
    // Its build, which nobody carries out, says that this is what it made.
    let report = ImageBuildReport { image: Some(built), ..ImageBuildReport::default() };
    fs_err::create_dir_all(state.join("builds"))?;
    Ok(fs_err::write(state.join("builds/build-infra-node.json"), serde_json::to_vec(&report)?)?)
}
