//! Tenants of one cluster: people with the chart's roles, each in a namespace of their own, against a real API server with its
//! controllers, which put the chart's roles into the cluster's.

use std::process::Output;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, RoleBinding};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Client, Error, ResourceExt as _};
use serde_json::{Value, json};
use stoke_kube::claims;
use testbed::kubernetes::{ControlPlane, Options};

use crate::cluster::{client, own_with, until};
use crate::operator::world::{Running, World};

const MINE: &str = "team-a";
const THEIRS: &str = "team-b";
/// Kinds of tenants.
const KINDS: [&str; 5] = ["Lan", "Image", "Farm", "Machine", "MachineSet"];

/// Somebody who may edit in a namespace.
struct Tenant {
    client: Client,
    namespace: &'static str,
}

impl Tenant {
    /// With a certificate.
    async fn with_certificate(plane: &ControlPlane, admin: &Client, namespace: &'static str) -> Self {
        let user = format!("user-of-{namespace}");
        let kubeconfig = plane.kubeconfig_for_user(&user, None).expect("a certificate").text();
        let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user});
        Self::bound(plane, admin, namespace, &subject, &kubeconfig).await
    }

    /// With a token.
    async fn with_token(plane: &ControlPlane, admin: &Client, namespace: &'static str) -> Self {
        plane.ensure_namespace(namespace).expect("a namespace");
        let kubeconfig = plane.kubeconfig_for_service_account(namespace, "default").expect("a token").text();
        let subject = json!({"kind": "ServiceAccount", "namespace": namespace, "name": "default"});
        Self::bound(plane, admin, namespace, &subject, &kubeconfig).await
    }

    async fn bound(
        plane: &ControlPlane,
        admin: &Client,
        namespace: &'static str,
        subject: &Value,
        kubeconfig: &str,
    ) -> Self {
        plane.ensure_namespace(namespace).expect("a namespace");
        let binding = json!({"metadata": {"name": "tenant"}, "subjects": [subject],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}});
        let binding = serde_json::from_value(binding).expect("a binding");
        let bindings = Api::<RoleBinding>::namespaced(admin.clone(), namespace);
        bindings.create(&PostParams::default(), &binding).await.expect("it is new");
        let tenant = Self { client: client(kubeconfig).await, namespace };
        // The controllers put our role into `edit`, and the API server takes note, in a while.
        until("the tenant's rights", async || {
            tenant.kind("MachineSet", namespace).list(&ListParams::default()).await.is_ok()
        })
        .await;
        tenant
    }

    fn kind(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &resource(kind))
    }

    async fn apply(&self, kind: &str, name: &str, spec: &Value) -> Result<DynamicObject, Error> {
        apply(&self.kind(kind, self.namespace), kind, name, spec).await
    }
}

fn resource(kind: &str) -> ApiResource {
    let plural = format!("{}s", kind.to_lowercase());
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("stokehold.dev", "v1alpha1", kind), &plural)
}

async fn apply(api: &Api<DynamicObject>, kind: &str, name: &str, spec: &Value) -> Result<DynamicObject, Error> {
    let object =
        json!({"apiVersion": "stokehold.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    api.patch(name, &PatchParams::apply("people").force(), &Patch::Apply(&object)).await
}

fn lan(subnet: u8) -> Value {
    let (cidr, gateway) = (format!("10.{subnet}.0.0/24"), format!("10.{subnet}.0.1"));
    json!({"subnets": [{"name": "v4", "cidr": cidr, "gateway": gateway}]})
}

fn open(mut spec: Value) -> Value {
    spec["access"] = json!({"namespaces": "All"});
    spec
}

/// A machine of the shared farm, with other fields of its first interface.
fn machine(nic: &Value, more: &[Value]) -> Value {
    let mut first = json!({"name": "lan", "lan": {"namespace": "default", "name": "lab"}});
    if let (Some(first), Some(nic)) = (first.as_object_mut(), nic.as_object()) {
        first.extend(nic.clone());
    }
    let nics: Vec<Value> = [first].into_iter().chain(more.iter().cloned()).collect();
    json!({"vm": {"memory": "256Mi"}, "farm": {"namespace": "default", "name": "lab"}, "nics": nics})
}

fn spec_of(kind: &str) -> Value {
    let image = json!({"source": {"debian": {"suite": "bookworm", "packages": ["linux-image-amd64"]}}, "forms": {"netboot": {}}});
    match kind {
        "Lan" => lan(20),
        "Image" => image,
        "Farm" => json!({"lan": "own", "image": "own"}),
        "Machine" => machine(&json!({}), &[]),
        "MachineSet" => json!({"replicas": 0, "template": {"spec": machine(&json!({}), &[])}}),
        _ => json!({"farm": {"namespace": "default", "name": "lab"}, "macs": ["52:54:00:00:00:01"]}),
    }
}

/// Gives the cluster the chart's roles for people.
async fn install_roles(plane: &ControlPlane, admin: &Client) {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/stokehold");
    let mut helm = plane.helm().expect("helm");
    helm.args(["template", "stokehold", chart, "--show-only", "templates/rbac-people.yaml"]);
    let Output { status, stdout, stderr } =
        helm.args(["--set", "images.registry=localhost"]).output().expect("helm starts");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let text = String::from_utf8(stdout).expect("text");
    let roles = Api::<ClusterRole>::all(admin.clone());
    for document in text.split("\n---").map(|document| document.trim_start_matches("---")) {
        if !document.contains("kind: ClusterRole") {
            continue;
        }
        let role: ClusterRole = serde_saphyr::from_str(document).expect("a role");
        roles.create(&PostParams::default(), &role).await.expect("it is new");
    }
}

fn with_controllers() -> Options {
    Options { controllers: true, ..Options::default() }
}

/// A cluster with an operator's world, a farm that everybody may use, and two tenants.
async fn shared_cluster() -> (World, Tenant, Tenant) {
    let world = World::in_cluster(own_with(with_controllers()).await).await;
    install_roles(&world.plane, &world.client).await;
    let mine = Tenant::with_certificate(&world.plane, &world.client, MINE).await;
    let theirs = Tenant::with_token(&world.plane, &world.client, THEIRS).await;
    let infra = |kind: &str| Api::namespaced_with(world.client.clone(), "default", &resource(kind));
    let farm = open(json!({"lan": "lab", "image": "node"}));
    for (kind, name, spec) in
        [("Lan", "lab", open(lan(10))), ("Image", "node", spec_of("Image")), ("Farm", "lab", farm)]
    {
        apply(&infra(kind), kind, name, &spec).await.expect("an administrator may");
    }
    (world, mine, theirs)
}

fn is_forbidden<T>(answer: Result<T, Error>) -> bool {
    matches!(answer, Err(Error::Api(status)) if status.code == 403)
}

/// What an object's `Ready` condition says: its reason and its words.
async fn ready(api: &Api<DynamicObject>, name: &str) -> Option<(String, String)> {
    let object = api.get_opt(name).await.expect("it may be read")?;
    let ready = object.data["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == "Ready")?.clone();
    let text = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
    Some((text("reason"), text("message")))
}

/// Waits until an object's `Ready` condition has a reason and words.
async fn says(tenant: &Tenant, kind: &str, name: &str, reason: &str, words: &str) -> String {
    let api = tenant.kind(kind, tenant.namespace);
    let mut message = String::new();
    until(&format!("{kind} {name} says {reason}: {words}"), async || {
        let Some((is, said)) = ready(&api, name).await else { return false };
        message = said;
        is == reason && message.contains(words)
    })
    .await;
    message
}

/// Ages of objects are whole seconds.
async fn a_second_after(object: &DynamicObject) {
    let made = object.metadata.creation_timestamp.as_ref().expect("it was made").0.as_second();
    until("the next second", async || jiff::Timestamp::now().as_second() > made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_neither_sees_nor_changes_what_is_anothers() {
    let (plane, admin) = own_with(with_controllers()).await;
    install_roles(&plane, &admin).await;
    let mine = Tenant::with_certificate(&plane, &admin, MINE).await;
    let theirs = Tenant::with_token(&plane, &admin, THEIRS).await;
    for kind in KINDS {
        mine.apply(kind, "own", &spec_of(kind)).await.expect("they may in their own namespace");
        mine.kind(kind, MINE).get("own").await.expect("they may look at it");
        let there = theirs.kind(kind, MINE);
        let merge = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
        assert!(is_forbidden(there.get("own").await), "{kind}");
        assert!(is_forbidden(there.list(&ListParams::default()).await), "{kind}");
        assert!(is_forbidden(there.watch(&kube::api::WatchParams::default(), "0").await), "{kind}");
        assert!(is_forbidden(apply(&there, kind, "new", &spec_of(kind)).await), "{kind}");
        assert!(is_forbidden(there.patch("own", &PatchParams::default(), &merge).await), "{kind}");
        assert!(is_forbidden(there.patch_status("own", &PatchParams::default(), &merge).await), "{kind}");
        assert!(is_forbidden(there.delete("own", &DeleteParams::default()).await), "{kind}");
        let everywhere = Api::<DynamicObject>::all_with(theirs.client.clone(), &resource(kind));
        assert!(is_forbidden(everywhere.list(&ListParams::default()).await), "{kind}");
        // What the operator has found out is not for people to write, but for requests of power and of updates.
        let status = mine.kind(kind, MINE).patch_status("own", &PatchParams::default(), &merge).await;
        assert_eq!(is_forbidden(status), !["Farm", "Machine"].contains(&kind), "{kind}");
    }
    assert!(is_forbidden(theirs.kind("MachineSet", MINE).get_scale("own").await));
    mine.kind("MachineSet", MINE).get_scale("own").await.expect("they may in their own namespace");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_and_claims_are_not_for_tenants() {
    let (plane, admin) = own_with(with_controllers()).await;
    install_roles(&plane, &admin).await;
    let tenant = Tenant::with_certificate(&plane, &admin, MINE).await;
    let with_token = Tenant::with_token(&plane, &admin, THEIRS).await;
    let servers = |client: &Client| Api::<DynamicObject>::all_with(client.clone(), &resource("Server"));
    let claims = |client: &Client| Api::<DynamicObject>::all_with(client.clone(), &claims::resource());
    let claim = json!({"value": "77", "holder": {"kind": "Lan", "namespace": THEIRS, "name": "a"}});
    apply(&servers(&admin), "Server", "metal", &spec_of("Server")).await.expect("an administrator may");
    apply(&claims(&admin), "Claim", "vni-77", &claim).await.expect("who may do everything may do that");
    let merge = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    for somebody in [&tenant.client, &with_token.client] {
        let all = [
            ("Server", "metal", servers(somebody), spec_of("Server")),
            ("Claim", "vni-77", claims(somebody), claim.clone()),
        ];
        for (kind, name, theirs, spec) in all {
            assert!(is_forbidden(theirs.get(name).await), "{kind}");
            assert!(is_forbidden(theirs.list(&ListParams::default()).await), "{kind}");
            assert!(is_forbidden(theirs.watch(&kube::api::WatchParams::default(), "0").await), "{kind}");
            assert!(is_forbidden(apply(&theirs, kind, "new", &spec).await), "{kind}");
            assert!(is_forbidden(theirs.patch(name, &PatchParams::default(), &merge).await), "{kind}");
            assert!(is_forbidden(theirs.patch_status(name, &PatchParams::default(), &merge).await), "{kind}");
            assert!(is_forbidden(theirs.delete(name, &DeleteParams::default()).await), "{kind}");
        }
    }

    // Who administers servers looks at claims, too, and no more.
    let kubeconfig = plane.kubeconfig_for_user("keeper-of-servers", None).expect("a certificate").text();
    let keeper = claims(&client(&kubeconfig).await);
    let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "keeper-of-servers"});
    let binding = json!({"metadata": {"name": "keeper"}, "subjects": [subject],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "stokehold-servers"}});
    let binding: ClusterRoleBinding = serde_json::from_value(binding).expect("a binding");
    let bindings = Api::<ClusterRoleBinding>::all(admin.clone());
    bindings.create(&PostParams::default(), &binding).await.expect("it is new");
    until("the keeper's rights", async || keeper.list(&ListParams::default()).await.is_ok()).await;
    assert!(is_forbidden(apply(&keeper, "Claim", "new", &claim).await));
    assert!(is_forbidden(keeper.delete("vni-77", &DeleteParams::default()).await));

    // A claim never changes hands, whoever writes it.
    let mut other = claim.clone();
    other["holder"]["namespace"] = MINE.into();
    let refused = apply(&claims(&admin), "Claim", "vni-77", &other).await.expect_err("it is not changed");
    assert!(refused.to_string().contains("a claim never changes hands"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn anothers_lan_is_used_only_if_its_access_says_so() {
    let (world, mine, theirs) = shared_cluster().await;
    let _running = world.operator().await;
    mine.apply("Lan", "wire", &lan(30)).await.expect("they may");
    let on = |lan: &str| machine(&json!({}), &[json!({"name": "wire", "lan": {"namespace": MINE, "name": lan}})]);
    theirs.apply("Machine", "spy", &on("wire")).await.expect("they may ask");
    theirs.apply("Machine", "guess", &on("nothing")).await.expect("they may ask");
    let words = "whose spec.access allows namespace team-b";
    let there = says(&theirs, "Machine", "spy", "Invalid", words).await;
    let not_there = says(&theirs, "Machine", "guess", "Invalid", words).await;
    // Nobody learns by it which names there are.
    assert_eq!(there, not_there.replace("\"nothing\"", "\"wire\""));
    assert!(world.pod(THEIRS, "vm-team-b-spy").await.is_none());

    mine.apply("Lan", "wire", &open(lan(30))).await.expect("they may");
    says(&theirs, "Machine", "spy", "Booting", "").await;
    assert!(world.pod(THEIRS, "vm-team-b-spy").await.is_some());
    let (reason, _) = ready(&theirs.kind("Machine", THEIRS), "guess").await.expect("a condition");
    assert_eq!(reason, "Invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_later_is_told_that_it_is_taken_and_not_by_whom() {
    let (world, mine, theirs) = shared_cluster().await;
    let _running = world.operator().await;
    let mac = machine(&json!({"mac": "52:54:00:12:34:56"}), &[]);
    let address = machine(&json!({"address": "10.10.0.50"}), &[]);
    let vni = |subnet| {
        let mut lan = lan(subnet);
        lan["overlay"] = json!({"vni": 77});
        lan
    };
    // By name the later ones would come first.
    let claims = [
        ("Machine", "z-mac", "a-mac", mac.clone(), mac, "52:54:00:12:34:56 is already an address of"),
        ("Machine", "z-address", "a-address", address.clone(), address, "10.10.0.50 is already the address of"),
        ("Lan", "z-vni", "a-vni", vni(40), vni(41), "has this network identifier"),
    ];
    let mut last = None;
    for (kind, name, _, spec, ..) in &claims {
        last = Some(theirs.apply(kind, name, spec).await.expect("they may"));
    }
    a_second_after(&last.expect("there are some")).await;
    for (kind, _, name, _, spec, _) in &claims {
        mine.apply(kind, name, spec).await.expect("they may ask");
    }
    for (kind, older, younger, _, _, words) in &claims {
        let said = says(&mine, kind, younger, "Invalid", words).await;
        assert!(said.contains("an object that is not in this namespace"), "{said}");
        assert!(!said.contains(THEIRS) && !said.contains(older), "{said}");
        let (reason, message) = ready(&theirs.kind(kind, THEIRS), older).await.expect("a condition");
        assert_ne!(reason, "Invalid", "{kind} {older}: {message}");
    }
}

/// Who has a claim.
async fn holder(world: &World, claim: &str) -> Option<String> {
    let found = world.claims().get_opt(claim).await.expect("it may be read")?;
    found.data["spec"]["holder"]["name"].as_str().map(str::to_owned)
}

/// Waits until somebody has the address and the link-layer address that are fought for.
async fn has_both(world: &World, name: &str) {
    for claim in ["mac-52-54-00-12-34-56", "address-default.lab.10-10-0-50"] {
        until(&format!("{name} has {claim}"), async || holder(world, claim).await.as_deref() == Some(name)).await;
    }
}

/// Waits until an operator has looked at everything a few times.
async fn has_looked(running: &Running) {
    until("it leads", async || running.leads()).await;
    let rounds = running.operator.metrics.rounds.get();
    until("it has looked around", async || running.operator.metrics.rounds.get() > rounds + 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_older_and_changed_later_takes_nothing_from_who_has_it() {
    let (world, mine, theirs) = shared_cluster().await;
    let first = world.operator().await;
    let with = |mac: &str, address: &str| machine(&json!({"mac": mac, "address": address}), &[]);
    let wanted = with("52:54:00:12:34:56", "10.10.0.50");
    let oldest = mine.apply("Machine", "oldest", &with("52:54:00:12:34:57", "10.10.0.51")).await.expect("they may");
    a_second_after(&oldest).await;
    let older = mine.apply("Machine", "older", &with("52:54:00:12:34:58", "10.10.0.52")).await.expect("they may");
    a_second_after(&older).await;
    theirs.apply("Machine", "younger", &wanted).await.expect("they may");
    says(&theirs, "Machine", "younger", "Booting", "").await;
    says(&mine, "Machine", "older", "Booting", "").await;
    has_both(&world, "younger").await;

    // No webhook is there that would refuse this.
    mine.apply("Machine", "older", &wanted).await.expect("the API server takes it");
    let words = "52:54:00:12:34:56 is already an address of an object that is not in this namespace";
    let said = says(&mine, "Machine", "older", "Invalid", words).await;
    assert!(said.contains("10.10.0.50 is already the address of an object that is not in this namespace"), "{said}");
    assert!(!said.contains(THEIRS) && !said.contains("younger"), "{said}");
    has_looked(&first).await;
    let claims = || async {
        let all = world.claims().list(&ListParams::default()).await.expect("they may be read");
        all.iter().map(|claim| (claim.name_any(), claim.resource_version())).collect::<Vec<_>>()
    };
    let before = claims().await;
    let is_as_it_was = async || {
        let (reason, message) = ready(&theirs.kind("Machine", THEIRS), "younger").await.expect("a condition");
        assert_eq!(reason, "Booting", "{message}");
    };
    is_as_it_was().await;

    // Nor is it another one's after a restart, or if nobody was there when it was asked for.
    first.kill();
    mine.apply("Machine", "oldest", &wanted).await.expect("the API server takes it");
    let second = world.operator().await;
    says(&mine, "Machine", "oldest", "Invalid", words).await;
    has_looked(&second).await;
    is_as_it_was().await;
    says(&mine, "Machine", "older", "Invalid", words).await;
    has_both(&world, "younger").await;
    let kept: Vec<_> =
        before.into_iter().filter(|(name, _)| !name.contains("34-57") && !name.contains("0-51")).collect();
    assert_eq!(claims().await, kept, "what nobody wants any more is gone, and nothing else was written");

    // When it is free the oldest gets it.
    theirs.kind("Machine", THEIRS).delete("younger", &DeleteParams::default()).await.expect("they may");
    has_both(&world, "oldest").await;
    says(&mine, "Machine", "oldest", "Booting", "").await;
    says(&mine, "Machine", "older", "Invalid", "52:54:00:12:34:56 is already an address of machine/team-a/oldest")
        .await;

    for name in ["oldest", "older"] {
        mine.kind("Machine", MINE).delete(name, &DeleteParams::default()).await.expect("they may");
    }
    until("the claims of machines are gone", async || {
        claims().await.iter().all(|(name, _)| name.starts_with("farm-") || name.starts_with("vni-") || name == FARMS)
    })
    .await;
    assert_eq!(claims().await.len(), 3);
}

/// The shared farm's own address.
const FARMS: &str = "address-default.lab.10-10-0-2";
