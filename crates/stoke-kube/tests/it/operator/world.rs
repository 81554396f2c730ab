//! A cluster of one node that is not there: what a kubelet and a node agent would do is done here, so that what the operator
//! makes of it can be seen.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use stoke_api::agent::{AgentConfig, AgentReport, DeviceVerdict, PodReport};
use stoke_api::objects::{Kind, Power};
use stoke_api::report::{
    BuiltImage, FarmNodeReport, FarmReport, LanReport, LeaseReport, Report, RouterReport, VmReport,
};
use stoke_kube::certificates::{self, Certificates};
use stoke_kube::client::{Access, Cluster};
use stoke_kube::operator::Operator;
use stoke_kube::settings::Settings;
use testbed::kubernetes::ControlPlane;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::cluster::{client, own};

pub(crate) const NAMESPACE: &str = "stokehold-system";
pub(crate) const NODE: &str = "worker-1";
/// What is shown of a test that fails: with STOKE_LOG=debug more.
static TRACED: std::sync::Once = std::sync::Once::new();

pub(crate) struct World {
    pub(crate) plane: ControlPlane,
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    pub(crate) agent: Arc<FakeAgent>,
    pub(crate) kubelet_works: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    state: tempfile::TempDir,
}

/// An operator, in a thread of its own as it has a process of its own.
pub(crate) struct Running {
    pub(crate) operator: Arc<Operator>,
    /// Ends it as SIGTERM would.
    pub(crate) shutdown: CancellationToken,
    killed: CancellationToken,
}

impl Running {
    fn start(settings: Settings, kubeconfig: String) -> Self {
        let (shutdown, killed) = (CancellationToken::new(), CancellationToken::new());
        let (send, receive) = std::sync::mpsc::channel();
        let (shut, kill) = (shutdown.clone(), killed.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                let operator = Arc::new(Operator::new(settings, client(&kubeconfig).await));
                operator.prepare().await.unwrap();
                send.send(operator.clone()).unwrap();
                tokio::select! {
                    () = operator.stand(shut) => {}
                    () = kill.cancelled() => {}
                }
            });
        });
        Self { operator: receive.recv().unwrap(), shutdown, killed }
    }

    /// Ends it as `kill -9` would: it says nothing to anybody.
    pub(crate) fn kill(&self) {
        self.killed.cancel();
    }

    pub(crate) fn leads(&self) -> bool {
        self.operator.metrics.leads.get() == 1
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::in_cluster(own().await).await
    }

    /// In a cluster of its own that has our kinds.
    pub(crate) async fn in_cluster((plane, client): (ControlPlane, Client)) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        TRACED.call_once(stoke_daemon::init_tracing);
        for namespace in [NAMESPACE, "default"] {
            plane.ensure_namespace(namespace).unwrap();
        }
        let account: ServiceAccount = object(json!({"metadata": {"name": "stokehold-role"}}));
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), NAMESPACE);
        accounts.create(&PostParams::default(), &account).await.unwrap();
        Certificates::ensure(&client, NAMESPACE, "stokehold-webhook").await.unwrap();
        let agent = FakeAgent::begin(&client).await;
        let state = tempfile::tempdir().unwrap();
        publish(state.path(), 1);
        let settings = json!({
            "namespace": NAMESPACE,
            "images": {"stoke": "localhost/stoke:1", "vm": "localhost/vm:1", "builder": "localhost/builder:1", "pullPolicy": "Never"},
            "state": state.path(), "run": state.path().join("run"), "leaseSeconds": 3, "agent": {"port": agent.address.port()},
        });
        let settings = serde_json::from_value(settings).unwrap();
        make_node(&client).await;
        let kubelet_works = Arc::new(AtomicBool::new(true));
        let kubelet = tokio::spawn(kubelet(client.clone(), kubelet_works.clone()));
        let tasks = vec![kubelet, tokio::spawn(agent.clone().serve_forever())];
        Self { plane, client, settings, agent, kubelet_works, tasks, state }
    }

    /// Publishes another version of the image `default/node`.
    pub(crate) fn publish(&self, seed: u8) -> stoke_api::Digest {
        publish(self.state.path(), seed).digest
    }

    /// Starts an operator.
    pub(crate) async fn operator(&self) -> Running {
        self.operator_as(self.plane.kubeconfig().text()).await
    }

    /// Starts one that is somebody else at the API server.
    pub(crate) async fn operator_as(&self, kubeconfig: String) -> Running {
        let settings = self.settings.clone();
        tokio::task::spawn_blocking(|| Running::start(settings, kubeconfig)).await.unwrap()
    }

    pub(crate) async fn apply(&self, objects: &[Value]) {
        for object in objects {
            self.api(object)
                .patch(
                    object["metadata"]["name"].as_str().unwrap(),
                    &PatchParams::apply("people").force(),
                    &Patch::Apply(object),
                )
                .await
                .unwrap();
        }
    }

    /// The cluster as an administrator with `stoke` reaches it.
    pub(crate) async fn cluster(&self) -> Cluster {
        let access = Access {
            kubeconfig: Some(self.plane.kubeconfig_file()),
            system: NAMESPACE.to_owned(),
            ..Access::default()
        };
        Cluster::connect(&access).await.unwrap()
    }

    fn api(&self, object: &Value) -> Api<kube::api::DynamicObject> {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        self.kind(object["kind"].as_str().unwrap(), namespace)
    }

    pub(crate) fn kind(&self, kind: &str, namespace: &str) -> Api<kube::api::DynamicObject> {
        let plural = format!("{}s", kind.to_lowercase());
        let group = kube::core::GroupVersionKind::gvk("stokehold.dev", "v1alpha1", kind);
        let resource = kube::api::ApiResource::from_gvk_with_plural(&group, &plural);
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    /// What only one may have.
    pub(crate) fn claims(&self) -> Api<kube::api::DynamicObject> {
        Api::all_with(self.client.clone(), &stoke_kube::claims::resource())
    }

    /// Status, reason and message of an object's `Ready` condition.
    pub(crate) async fn condition(&self, kind: &str, name: &str) -> Option<(String, String, String)> {
        self.condition_of(kind, name, "Ready").await
    }

    /// The same of another one.
    pub(crate) async fn condition_of(&self, kind: &str, name: &str, of: &str) -> Option<(String, String, String)> {
        let object = self.kind(kind, "default").get_opt(name).await.ok()??;
        let found = object.data["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == of)?.clone();
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        Some((text("status"), text("reason"), text("message")))
    }

    pub(crate) fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) async fn pod(&self, namespace: &str, name: &str) -> Option<Pod> {
        self.pods(namespace).get_opt(name).await.ok()?
    }

    /// What a role was told last.
    pub(crate) async fn pod_config(&self, name: &str) -> Value {
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), NAMESPACE);
        let map = maps.get(name).await.unwrap();
        serde_json::from_str(&map.data.unwrap()["config.json"]).unwrap()
    }

    /// Waits until a machine's guest starts.
    pub(crate) async fn runs(&self, name: &str) {
        self.says("Machine", name, "Booting", "").await;
    }

    /// Waits until an object's `Ready` condition says something.
    pub(crate) async fn says(&self, kind: &str, name: &str, reason: &str, words: &str) {
        let begun = std::time::Instant::now();
        loop {
            let condition = self.condition(kind, name).await;
            if condition
                .as_ref()
                .is_some_and(|(_, is, message)| (reason.is_empty() || is == reason) && message.contains(words))
            {
                return;
            }
            assert!(
                begun.elapsed() < crate::cluster::LIMIT,
                "{kind} {name} says {condition:?}, not {reason:?} {words:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn is_ready(&self, kind: &str, name: &str) -> bool {
        self.condition(kind, name).await.is_some_and(|(status, _, _)| status == "True")
    }

    /// The resource versions of all that the operator writes.
    pub(crate) async fn versions(&self) -> BTreeMap<String, String> {
        let mut versions = BTreeMap::new();
        let all = ListParams::default();
        let ours = ListParams::default().labels("app.kubernetes.io/managed-by=stokehold");
        for pod in Api::<Pod>::all(self.client.clone()).list(&ours).await.unwrap() {
            versions.insert(format!("pod {}", pod.name_any()), pod.resource_version().unwrap());
        }
        for map in Api::<ConfigMap>::all(self.client.clone()).list(&ours).await.unwrap() {
            versions.insert(format!("map {}", map.name_any()), map.resource_version().unwrap());
        }
        for secret in Api::<Secret>::all(self.client.clone()).list(&all).await.unwrap() {
            versions.insert(format!("secret {}", secret.name_any()), secret.resource_version().unwrap());
        }
        for claim in self.claims().list(&all).await.unwrap() {
            versions.insert(format!("claim {}", claim.name_any()), claim.resource_version().unwrap());
        }
        for kind in ["Lan", "Farm", "Image", "Machine"] {
            for object in self.kind(kind, "default").list(&all).await.unwrap() {
                versions.insert(format!("{kind} {}", object.name_any()), object.resource_version().unwrap());
            }
        }
        versions
    }
}

fn digest(content: &[u8]) -> stoke_api::Digest {
    use sha2::Digest as _;
    stoke_api::Digest(sha2::Sha256::digest(content).into())
}

/// Publishes a small version of the image `default/node`; others have another root.
pub(crate) fn publish(state: &Path, content: u8) -> BuiltImage {
    let store = stoke_image::Store::open(state.join("images")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::write(&root, [content; 5000]).unwrap();
    let verity = stoke_image::verity::append(&root).unwrap();
    let root = std::fs::read(root).unwrap();
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
    let mut incoming = stoke_image::store::Incoming::begin(&store).unwrap();
    for content in [&manifest, &config, &kernel, &initramfs, &root] {
        incoming.add(&digest(content), content.as_slice()).unwrap();
    }
    incoming.publish("default/node", &digest(&manifest)).unwrap();
    let versions = store.versions("default/node").unwrap();
    versions.into_iter().find(|version| version.image.digest == digest(&manifest)).unwrap().image
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

async fn make_node(client: &Client) {
    let nodes = Api::<Node>::all(client.clone());
    nodes.create(&PostParams::default(), &object(json!({"metadata": {"name": NODE}}))).await.unwrap();
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
    }});
    nodes.patch_status(NODE, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    let agent = json!({
        "metadata": {"name": "stokehold-agent-x", "labels": {"app.kubernetes.io/component": "agent"}},
        "spec": {"nodeName": NODE, "serviceAccountName": "stokehold-role", "automountServiceAccountToken": false,
            "containers": [{"name": "agent", "image": "localhost/stoke:1"}]},
    });
    pods.create(&PostParams::default(), &object(agent)).await.unwrap();
    let status = json!({"status": {"phase": "Running", "hostIP": "127.0.0.1", "hostIPs": [{"ip": "127.0.0.1"}]}});
    pods.patch_status("stokehold-agent-x", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

/// Scheduler and kubelet: what is there runs at once, what is to go is gone.
async fn kubelet(client: Client, works: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if !works.load(Ordering::Relaxed) {
            continue;
        }
        let ours = ListParams::default().labels("app.kubernetes.io/managed-by=stokehold");
        let Ok(pods) = Api::<Pod>::all(client.clone()).list(&ours).await else { continue };
        for pod in pods {
            let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
            // The test may have removed it in the meantime.
            drop(keep(&api, &pod).await);
        }
    }
}

pub(crate) async fn keep(api: &Api<Pod>, pod: &Pod) -> Result<(), kube::Error> {
    let name = pod.name_any();
    if pod.metadata.deletion_timestamp.is_some() {
        return api.delete(&name, &DeleteParams::default().grace_period(0)).await.map(drop);
    }
    if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none()) {
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": NODE}});
        return api
            .create_subresource::<Value, Value>("binding", &name, &PostParams::default(), &binding)
            .await
            .map(drop);
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if phase == Some("Pending") {
        let status = json!({"status": {"phase": "Running", "containerStatuses": [{
            "name": "stoke", "image": "i", "imageID": "i", "ready": true, "restartCount": 0,
            "containerID": format!("containerd://{name}"), "state": {"running": {"startedAt": "2026-11-21T10:00:00Z"}},
        }]}});
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
    }
    Ok(())
}

/// A node agent whose roles are all well.
pub(crate) struct FakeAgent {
    pub(crate) address: SocketAddr,
    listener: TcpListener,
    tls: TlsAcceptor,
    /// What it was told.
    pub(crate) config: Mutex<Option<AgentConfig>>,
    /// What was passed on: pod, path, body.
    pub(crate) passed: Mutex<Vec<(String, String, String)>>,
    /// Whether it says no to configurations of pods.
    pub(crate) refuses: AtomicBool,
    /// Whether its node has no TUN.
    pub(crate) without_tun: AtomicBool,
    /// Whether it was told to clear away.
    pub(crate) cleared: AtomicBool,
    /// What farms know of nodes.
    pub(crate) nodes: Mutex<Vec<FarmNodeReport>>,
    /// What its routers have given out.
    pub(crate) leases: Mutex<Vec<LeaseReport>>,
}

impl FakeAgent {
    async fn begin(client: &Client) -> Arc<Self> {
        let secret = Api::<Secret>::namespaced(client.clone(), NAMESPACE).get("stokehold-agent-tls").await.unwrap();
        let text = |key: &str| String::from_utf8(secret.data.as_ref().unwrap()[key].0.clone()).unwrap();
        let tls = certificates::agent_server(&text("tls.crt"), &text("tls.key"), &text("ca.crt")).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        Arc::new(Self {
            address,
            listener,
            tls: TlsAcceptor::from(Arc::new(tls)),
            config: Mutex::default(),
            passed: Mutex::default(),
            refuses: AtomicBool::default(),
            without_tun: AtomicBool::default(),
            cleared: AtomicBool::default(),
            nodes: Mutex::default(),
            leases: Mutex::default(),
        })
    }

    async fn serve_forever(self: Arc<Self>) {
        loop {
            let (stream, _) = self.listener.accept().await.unwrap();
            let agent = self.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = agent.tls.accept(stream).await else { return };
                while let Some((head, body)) = request(&mut stream).await {
                    let (status, answer) = agent.answer(&head, body);
                    let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    }

    fn answer(&self, head: &str, body: String) -> (u16, String) {
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match (method, path) {
            ("PUT", "/v1/config") => {
                *self.config.lock().unwrap() = Some(serde_json::from_str(&body).unwrap());
                (200, String::new())
            }
            ("GET", "/v1/report") => (200, serde_json::to_string(&self.report()).unwrap()),
            ("POST", "/v1/teardown") => {
                self.cleared.store(true, Ordering::Relaxed);
                (200, String::new())
            }
            (_, path) => {
                let mut parts = path.trim_start_matches("/v1/pods/").splitn(2, "/admin");
                let (pod, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                self.passed.lock().unwrap().push((pod.to_owned(), path.to_owned(), body));
                if self.refuses.load(Ordering::Relaxed) {
                    (422, "it is no good".to_owned())
                } else {
                    (204, String::new())
                }
            }
        }
    }

    fn report(&self) -> AgentReport {
        let (config, leases) = (self.config.lock().unwrap().clone(), self.leases.lock().unwrap().clone());
        let configured = config.is_some();
        let config = config.unwrap_or_default();
        let lan =
            |lan: stoke_api::agent::AgentLan| LanReport { lan: lan.plan.lan, bridge: lan.plan.bridge, failure: None };
        let pod = |pod: stoke_api::agent::PodGrant| {
            let report = match pod.owner.kind {
                Kind::Lan => {
                    Report::Router(RouterReport { ready: true, leases: leases.clone(), ..RouterReport::default() })
                }
                Kind::Farm => {
                    let nodes = self.nodes.lock().unwrap().clone();
                    Report::Farm(FarmReport { ready: true, nodes, ..FarmReport::default() })
                }
                _ => Report::Vm(VmReport {
                    power: Power::On,
                    state: "running".to_owned(),
                    accelerator: "tcg".to_owned(),
                    ..VmReport::default()
                }),
            };
            PodReport { pod: pod.pod, report: Some(report), failure: None, links: Vec::new() }
        };
        AgentReport {
            node: NODE.to_owned(),
            configured,
            tun: if self.without_tun.load(Ordering::Relaxed) {
                DeviceVerdict { message: "load the module tun".to_owned(), ..DeviceVerdict::default() }
            } else {
                DeviceVerdict { usable: true, reason: "usable".to_owned(), ..DeviceVerdict::default() }
            },
            lans: config.lans.into_iter().map(lan).collect(),
            pods: config.pods.into_iter().map(pod).collect(),
            ..AgentReport::default()
        }
    }
}

async fn request(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<(String, String)> {
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        read.extend_from_slice(&buffer[..count]);
    };
    let head = String::from_utf8_lossy(&read[..end]).into_owned();
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = read.split_off(end + 4);
    let length: usize = length.unwrap_or_default();
    while body.len() < length {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        body.extend_from_slice(&buffer[..count]);
    }
    Some((head, String::from_utf8_lossy(&body).into_owned()))
}
