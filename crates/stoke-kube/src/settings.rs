//! What the operator is told when it is installed: one file, written by the chart.
//!
//! JSON. Every key but `namespace` and `images` has a default; an unknown key is an error, so that a value that the chart
//! misspells is not a value that nobody reads.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Toleration;
use serde::{Deserialize, Serialize};
use stoke_api::Bytes;

/// Configuration of `stoke serve operator`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// The namespace of the operator, of routers, farms and builds.
    pub namespace: String,
    /// The images of what it starts.
    pub images: Images,
    /// The volume on which images, keys and the farms' sessions are.
    #[serde(default)]
    pub store: StoreVolume,
    /// Folder of what must outlast a restart, in the operator's own pod: a mount of that volume.
    #[serde(default = "state")]
    pub state: PathBuf,
    /// Folder of sockets there.
    #[serde(default = "run")]
    pub run: PathBuf,
    /// The service account of routers, farms and builds. It needs no right; its token is not mounted.
    #[serde(default = "service_account")]
    pub service_account: String,
    /// The volumes that are made for routers and machines.
    #[serde(default)]
    pub storage: Storage,
    /// How routers run.
    #[serde(default)]
    pub router: Role,
    /// How farms run.
    #[serde(default)]
    pub farm: Role,
    /// How builds run.
    #[serde(default)]
    pub build: Build,
    /// Where built images may be published.
    #[serde(default)]
    pub registries: Registries,
    /// How machines run.
    #[serde(default)]
    pub vm: Vm,
    /// How the node agents are found.
    #[serde(default)]
    pub agent: Agent,
    /// How LANs are joined over nodes.
    #[serde(default)]
    pub overlay: OverlaySettings,
    /// The `Lease` by which one of several operators leads.
    #[serde(default = "lease")]
    pub lease: String,
    /// Seconds after which a leader that is not heard of is no leader.
    #[serde(default = "lease_seconds")]
    pub lease_seconds: u32,
    /// Where objects are checked before the API server takes them; nowhere if absent.
    #[serde(default)]
    pub webhook: Option<Webhook>,
    /// Where `/live`, `/ready` and `/metrics` are served by HTTP.
    #[serde(default = "listen")]
    pub listen: SocketAddr,
    /// What roles log: `info`, `debug`, or a filter by crate.
    #[serde(default = "info")]
    pub log: String,
    /// Whether roles log JSON.
    #[serde(default)]
    pub log_json: bool,
}

/// Images of containers, and when they are pulled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Images {
    /// `stoke` and boot programs: routers and farms.
    pub stoke: String,
    /// `stoke-vm`, QEMU and firmware.
    pub vm: String,
    /// `stoke` and what builds images.
    pub builder: String,
    /// `Always`, `IfNotPresent` or `Never`.
    #[serde(default = "if_not_present")]
    pub pull_policy: String,
    /// Secrets for pulling them: of the operator's namespace, and of the same names in those of machines.
    #[serde(default)]
    pub pull_secrets: Vec<String>,
}

/// The volume that operator, farms and builds share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StoreVolume {
    /// Its claim.
    pub claim: String,
    /// Where it is mounted, in farms and builds too.
    pub path: PathBuf,
}

/// Where objects are checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Webhook {
    /// Address of HTTPS.
    pub listen: SocketAddr,
    /// The `Service` in front of it.
    pub service: String,
}

/// Volumes that are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Storage {
    /// Their class; the cluster's default one if absent.
    #[serde(default)]
    pub class: Option<String>,
    /// Size of a router's volume, on which its leases are.
    #[serde(default = "router_size")]
    pub router_size: Bytes,
    /// Whether routers and machines have volumes at all. Without, leases, firmware variables and disks go with their pod:
    /// only for trying it out.
    #[serde(default = "yes")]
    pub persistent: bool,
}

/// How a router or a farm runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Role {
    /// What it asks for and may use.
    pub resources: Resources,
    /// Labels of nodes that may run it.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that it bears.
    pub tolerations: Vec<Toleration>,
    /// Its priority class.
    pub priority_class: Option<String>,
}

/// Requests and limits of a container, as quantities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resources {
    /// What the scheduler sets aside.
    pub requests: BTreeMap<String, String>,
    /// What it may not exceed.
    pub limits: BTreeMap<String, String>,
}

/// How builds run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Build {
    /// What a build asks for and may use.
    pub resources: Resources,
    /// Labels of nodes that may run it.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that it bears.
    pub tolerations: Vec<Toleration>,
    /// Whether it is root in a user namespace of its own (`hostUsers: false`). A cluster whose nodes cannot do that must
    /// say `false`: a build is then root in its container, without any right on the node but that.
    pub user_namespace: bool,
    /// Room for what is being built.
    pub scratch: Bytes,
    /// The way to packages and images.
    pub proxy: Proxy,
}

/// Proxies, as the variables of the environment name them; empty for none. They have no login: pods are no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Proxy {
    /// `http_proxy`.
    pub http: String,
    /// `https_proxy`.
    pub https: String,
    /// `no_proxy`: hosts and domains that are reached without, with commas between.
    pub no_proxy: String,
}

/// Registries to which images are published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Registries {
    /// Places that images may go to: a repository and those below it. `{namespace}` stands for the image's.
    pub allowed: Vec<String>,
    /// Where the Secret with the logins is mounted, in the operator's own pod.
    pub folder: PathBuf,
}

/// How machines run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Vm {
    /// Memory for each machine beside what guest and hypervisor are known to need.
    pub extra_memory: Bytes,
    /// Thousandths of a processor that are set aside for each virtual one.
    pub cpu_request_millis: u32,
    /// Labels of nodes that may run them.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that they bear.
    pub tolerations: Vec<Toleration>,
    /// Their priority class.
    pub priority_class: Option<String>,
    /// Whether an eviction may take them: without, a machine keeps its node from being drained until it is stopped.
    pub evictable: bool,
}

/// Where node agents are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Agent {
    /// Selector of their pods in this namespace.
    pub selector: String,
    /// Their TCP port.
    pub port: u16,
    /// Whether what they find out about devices is written on nodes as labels. That needs the right to change nodes.
    pub node_labels: bool,
}

/// The overlay between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OverlaySettings {
    /// UDP port of VXLAN.
    pub port: u16,
}

fn state() -> PathBuf {
    PathBuf::from("/var/lib/stokehold")
}

fn run() -> PathBuf {
    PathBuf::from("/run/stokehold")
}

fn service_account() -> String {
    "stokehold-role".to_owned()
}

fn lease() -> String {
    "stokehold-operator".to_owned()
}

fn lease_seconds() -> u32 {
    15
}

fn listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 8080))
}

fn info() -> String {
    "info".to_owned()
}

fn if_not_present() -> String {
    "IfNotPresent".to_owned()
}

fn router_size() -> Bytes {
    Bytes(256 << 20)
}

fn yes() -> bool {
    true
}

impl Default for Storage {
    fn default() -> Self {
        Self { class: None, router_size: router_size(), persistent: true }
    }
}

fn quantities<const N: usize>(of: [(&str, &str); N]) -> BTreeMap<String, String> {
    of.into_iter().map(|(name, quantity)| (name.to_owned(), quantity.to_owned())).collect()
}

impl Default for Role {
    fn default() -> Self {
        let resources = Resources {
            requests: quantities([("cpu", "20m"), ("memory", "32Mi")]),
            limits: quantities([("memory", "512Mi")]),
        };
        Self { resources, node_selector: BTreeMap::new(), tolerations: Vec::new(), priority_class: None }
    }
}

impl Default for Build {
    fn default() -> Self {
        let resources = Resources {
            requests: quantities([("cpu", "500m"), ("memory", "1Gi")]),
            limits: quantities([("memory", "4Gi")]),
        };
        Self {
            resources,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            user_namespace: true,
            scratch: Bytes(20 << 30),
            proxy: Proxy::default(),
        }
    }
}

impl Default for Registries {
    fn default() -> Self {
        Self { allowed: Vec::new(), folder: "/etc/stokehold-registries".into() }
    }
}

impl Default for Vm {
    fn default() -> Self {
        Self {
            extra_memory: Bytes(0),
            cpu_request_millis: 100,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            priority_class: None,
            evictable: true,
        }
    }
}

impl Default for StoreVolume {
    fn default() -> Self {
        Self { claim: "stokehold-store".to_owned(), path: state() }
    }
}

impl Default for Agent {
    fn default() -> Self {
        let selector = "app.kubernetes.io/component=agent".to_owned();
        Self { selector, port: stoke_api::agent::AGENT_PORT, node_labels: true }
    }
}

impl Default for OverlaySettings {
    fn default() -> Self {
        Self { port: stoke_reconcile::agents::OVERLAY_PORT }
    }
}

impl Settings {
    /// Reads the file.
    ///
    /// # Errors
    /// Naming the file, and the place in it.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs_err::read_to_string(path)?;
        serde_json::from_str(&text).with_context(|| format!("{} is no configuration of an operator", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: &str = r#"{"namespace": "stokehold-system", "images": {"stoke": "s", "vm": "v", "builder": "b"}"#;

    #[test]
    fn the_short_form_is_enough_and_a_misspelled_key_is_told() {
        let settings: Settings = serde_json::from_str(&format!("{SHORT}}}")).unwrap();
        assert_eq!((settings.store.claim.as_str(), settings.lease_seconds), ("stokehold-store", 15));
        assert!(settings.storage.persistent && settings.build.user_namespace);
        let wrong = serde_json::from_str::<Settings>(&format!("{SHORT}, \"storeclaim\": 1}}")).unwrap_err();
        assert!(wrong.to_string().contains("storeclaim"), "{wrong}");
    }
}
