//! A rolling update of two servers that are nodes of the cluster, against a real API server with its scheduler and controllers.
//! The nodes are pretended; what a server would do when it is told to reboot is done here.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use stoke_api::node::Phase;
use stoke_api::objects::{NodeState, RolloutPhase, RolloutStatus, UpdatePhase};
use stoke_api::report::FarmNodeReport;
use stoke_api::workload::{FarmConfig, FarmNode};
use stoke_api::{Digest, Kind, ObjectRef};
use stoke_kube::drain::{CORDONED_BY, IMAGE};
use testbed::kubernetes::{Options, PretendNodes};

use crate::cluster::own_with;
use crate::operator::world::{FakeAgent, NAMESPACE, NODE, World};
use crate::operator::{farm, lan};

/// Pods of the workload, and how many of them must be there.
const PODS: usize = 4;

/// A server that boots what its farm gives it.
struct Machine {
    name: &'static str,
    address: &'static str,
    boots: u32,
    reboots_done: u64,
    state: NodeState,
}

impl Machine {
    fn new(name: &'static str, address: &'static str) -> Self {
        Self { name, address, boots: 0, reboots_done: 0, state: NodeState::default() }
    }

    /// Its system and its kubelet are up; or neither, with a version that is broken.
    async fn boot(&mut self, nodes: &Api<Node>, image: Digest, broken: bool) {
        let before = std::mem::take(&mut self.state);
        self.boots += 1;
        self.state = NodeState {
            phase: if broken { Phase::Init } else { Phase::Ready },
            ready: !broken,
            address: self.address.parse().ok(),
            image: Some(image),
            boots: Some(image),
            good_image: if broken { before.good_image } else { Some(image) },
            failed_boots: u32::from(broken),
            boot_started: jiff::Timestamp::now().to_string(),
            ..NodeState::default()
        };
        if !broken {
            let status = json!({"status": {
                "addresses": [{"type": "InternalIP", "address": self.address}],
                "nodeInfo": {"bootID": format!("boot-{}", self.boots)},
            }});
            nodes.patch_status(self.name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        }
    }

    fn report(&self) -> FarmNodeReport {
        let owner = ObjectRef { kind: Kind::Server, namespace: None, name: self.name.parse().unwrap() };
        FarmNodeReport { owner: Some(owner), mac: mac(self.name).parse().unwrap(), state: self.state.clone() }
    }
}

fn mac(name: &str) -> String {
    format!("52:54:00:00:01:0{}", &name["pretend".len()..])
}

/// Boots machines as their farm's configuration says, without end.
async fn power(client: Client, agent: Arc<FakeAgent>, first: Digest, broken: Arc<Mutex<Option<Digest>>>) {
    let nodes = Api::<Node>::all(client.clone());
    let mut machines = [Machine::new("pretend0", "10.10.0.50"), Machine::new("pretend1", "10.10.0.51")];
    for machine in &mut machines {
        machine.boot(&nodes, first, false).await;
    }
    let maps = Api::<ConfigMap>::namespaced(client, NAMESPACE);
    loop {
        let known = machines.iter().map(Machine::report).collect();
        *agent.nodes.lock().unwrap() = known;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let map = maps.get_opt("farm-default-lab").await.ok().flatten();
        let Some(text) = map.and_then(|map| map.data?.remove("config.json")) else { continue };
        let config: FarmConfig = serde_json::from_str(&text).unwrap();
        for machine in &mut machines {
            let is_it = |node: &&FarmNode| node.owner.name.as_str() == machine.name;
            let Some(node) = config.nodes.iter().find(is_it) else { continue };
            let Some(image) = node.image.or(config.images.first().map(|image| image.digest)) else { continue };
            let told = node.reboots_requested > machine.reboots_done;
            let again = !machine.state.ready && machine.state.image != Some(image);
            if told || again {
                machine.reboots_done = node.reboots_requested;
                let broken = *broken.lock().unwrap() == Some(image);
                machine.boot(&nodes, image, broken).await;
            }
        }
    }
}

/// The node that is no machine is heard of, as the controllers want it.
async fn hear_of_worker(client: Client) {
    let leases = Api::<DynamicObject>::namespaced_with(
        client,
        "kube-node-lease",
        &kube::api::ApiResource::erase::<k8s_openapi::api::coordination::v1::Lease>(&()),
    );
    loop {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string();
        let spec = json!({"holderIdentity": NODE, "leaseDurationSeconds": 40, "renewTime": now});
        let lease =
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NODE}, "spec": spec});
        drop(leases.patch(NODE, &PatchParams::apply("tests").force(), &Patch::Apply(lease)).await);
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

struct Lab {
    world: World,
    _nodes: PretendNodes,
    broken: Arc<Mutex<Option<Digest>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Lab {
    async fn new() -> Self {
        let options = Options { controllers: true, scheduler: true, ..Options::default() };
        let mut world = World::in_cluster(own_with(options).await).await;
        // Its pods are for the node whose kubelet is imitated.
        let here = ("kubernetes.io/hostname".to_owned(), NODE.to_owned());
        world.settings.build.node_selector.insert(here.0, here.1);
        let nodes = PretendNodes::start(&world.plane, 3).unwrap();
        let (first, broken) = (world.publish(1), Arc::default());
        let power = power(world.client.clone(), world.agent.clone(), first, Arc::clone(&broken));
        let tasks = vec![tokio::spawn(power), tokio::spawn(hear_of_worker(world.client.clone()))];
        Self { world, _nodes: nodes, broken, tasks }
    }

    async fn apply_all(&self, update: Value) {
        let [image, mut farm] = farm("lab");
        farm["spec"]["join"] = json!({"server": "https://192.0.2.1:6443"});
        farm["spec"]["update"] = update;
        self.world.apply(&[lan("lab"), image, farm]).await;
        let group = kube::core::GroupVersionKind::gvk("stokehold.dev", "v1alpha1", "Server");
        let kind = kube::api::ApiResource::from_gvk_with_plural(&group, "servers");
        let servers = Api::<DynamicObject>::all_with(self.world.client.clone(), &kind);
        for (name, address) in [("pretend0", "10.10.0.50"), ("pretend1", "10.10.0.51")] {
            let spec =
                json!({"farm": {"namespace": "default", "name": "lab"}, "macs": [mac(name)], "address": address});
            let server = json!({"apiVersion": "stokehold.dev/v1alpha1", "kind": "Server", "metadata": {"name": name}, "spec": spec});
            servers.patch(name, &PatchParams::apply("people").force(), &Patch::Apply(server)).await.unwrap();
        }
    }

    /// A workload of which so many pods must be there at any time.
    async fn web(&self, needed: usize) {
        let labels = json!({"app": "web"});
        let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "localhost/web:1"}],
            "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1}});
        let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"replicas": PODS, "selector": {"matchLabels": labels}, "template": template}});
        let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"minAvailable": needed, "selector": {"matchLabels": labels}}});
        for (object, plural) in [(set, "replicasets"), (budget, "poddisruptionbudgets")] {
            let (group, version) = object["apiVersion"].as_str().unwrap().split_once('/').unwrap();
            let kind = kube::core::GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap());
            let kind = kube::api::ApiResource::from_gvk_with_plural(&kind, plural);
            let api = Api::<DynamicObject>::namespaced_with(self.world.client.clone(), "default", &kind);
            api.patch("web", &PatchParams::apply("people").force(), &Patch::Apply(object)).await.unwrap();
        }
    }

    /// Where its pods run.
    async fn pods(&self) -> Vec<String> {
        let web = ListParams::default().labels("app=web");
        let pods = Api::<Pod>::namespaced(self.world.client.clone(), "default").list(&web).await.unwrap();
        let runs = |pod: &Pod| {
            let phase = pod.status.as_ref()?.phase.as_deref()?;
            (phase == "Running" && pod.metadata.deletion_timestamp.is_none()).then(|| pod.spec.clone()?.node_name)?
        };
        pods.iter().filter_map(runs).collect()
    }

    async fn node(&self, name: &str) -> Node {
        Api::<Node>::all(self.world.client.clone()).get(name).await.unwrap()
    }

    /// Whether no pods are placed there, who has cordoned it, what it says that it runs.
    async fn cordoned(&self, name: &str) -> (bool, bool, Option<String>) {
        let node = self.node(name).await;
        let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default();
        (unschedulable, node.annotations().contains_key(CORDONED_BY), node.labels().get(IMAGE).cloned())
    }

    async fn rollout(&self) -> Option<RolloutStatus> {
        let farm = self.world.kind("Farm", "default").get_opt("lab").await.unwrap()?;
        serde_json::from_value(farm.data["status"]["rollout"].clone()).ok()
    }

    /// Waits for the rollout to become so, while enough pods run.
    async fn until(&self, what: &str, enough: usize, is_so: impl Fn(&RolloutStatus) -> bool) -> RolloutStatus {
        let begun = Instant::now();
        loop {
            let rollout = self.rollout().await;
            if let Some(rollout) = rollout.clone().filter(&is_so) {
                return rollout;
            }
            let pods = self.pods().await;
            assert!(pods.len() >= enough, "{what}: {} pods run", pods.len());
            assert!(begun.elapsed() < Duration::from_secs(150), "{what}: {rollout:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn until_marked(&self, version: Digest) {
        crate::cluster::until("the nodes say what they run", async || {
            let marks = [self.cordoned("pretend0").await.2, self.cordoned("pretend1").await.2];
            marks.iter().all(|mark| *mark == Some(version.short()))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_drained_rebooted_and_used_again_and_a_version_that_fails_is_taken_back() {
    let lab = Lab::new().await;
    lab.web(PODS).await;
    let first = lab.world.operator().await;
    lab.apply_all(json!({"failedBoots": 1, "healthGate": {"minutes": 0}})).await;
    lab.until("all have the first version", 0, |rollout| rollout.phase == RolloutPhase::Complete).await;
    lab.until_marked(lab.world.publish(1)).await;
    crate::cluster::until("the workload runs", async || lab.pods().await.len() == PODS).await;
    assert!(lab.pods().await.contains(&"pretend0".to_owned()));

    // The budget leaves no room: the first node is cordoned, and waits.
    let new = lab.world.publish(2);
    let says =
        |rollout: &RolloutStatus| rollout.nodes.iter().any(|node| node.message.contains("disruption budget web"));
    let rollout = lab.until("the budget is named", PODS, says).await;
    let (node, other) = (&rollout.nodes[0], &rollout.nodes[1]);
    assert_eq!((node.phase, node.reboots.len(), other.drain.is_none()), (UpdatePhase::Draining, 0, true));
    assert!(node.message.contains("default/web-"), "{}", node.message);
    assert_eq!(lab.cordoned("pretend0").await, (true, true, rollout.stable.map(|old| old.short())));
    let farm = lab.world.kind("Farm", "default").get("lab").await.unwrap();
    let told = farm.data["status"]["conditions"].to_string();
    assert!(told.contains("disruption budget web"), "{told}");

    // Another operator goes on, when there is room; people have cordoned the second node meanwhile.
    let people = json!({"spec": {"unschedulable": true}});
    let nodes = Api::<Node>::all(lab.world.client.clone());
    nodes.patch("pretend1", &PatchParams::default(), &Patch::Merge(people)).await.unwrap();
    first.kill();
    let _second = lab.world.operator().await;
    lab.web(PODS - 1).await;
    let is_done = |rollout: &RolloutStatus| rollout.phase == RolloutPhase::Complete && rollout.stable == Some(new);
    let rollout = lab.until("all have the new version", PODS - 1, is_done).await;
    assert!(rollout.nodes.iter().all(|node| node.drain.is_none() && node.image == new), "{rollout:#?}");
    lab.until_marked(new).await;
    assert_eq!(lab.cordoned("pretend0").await, (false, false, Some(new.short())));
    assert_eq!(lab.cordoned("pretend1").await, (true, false, Some(new.short())));

    // A version that does not come up: its node gets the one before, and is used again.
    *lab.broken.lock().unwrap() = Some(lab.world.publish(3));
    let is_back = |rollout: &RolloutStatus| {
        let back = |node: &stoke_api::objects::NodeUpdate| node.image == new && node.drain.is_none();
        rollout.phase == RolloutPhase::Stopped && rollout.nodes.iter().all(back)
    };
    let rollout = lab.until("it is taken back", PODS - 1, is_back).await;
    assert!(rollout.message.starts_with("server/pretend0: 1 boots with"), "{}", rollout.message);
    lab.until_marked(new).await;
    crate::cluster::until("it is used again", async || !lab.cordoned("pretend0").await.0).await;
    assert_eq!(lab.cordoned("pretend1").await, (true, false, Some(new.short())));
}
