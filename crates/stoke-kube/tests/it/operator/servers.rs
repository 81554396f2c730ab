//! Servers that are switched by their management controllers: OpenIPMI's simulator, whose password is in a `Secret`.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use stoke_api::control::PowerAction;
use stoke_api::{Kind, ObjectRef};
use testbed::bmc::{IpmiServer, PASSWORD, USER};

use super::{farm, lan};
use crate::operator::world::{NAMESPACE, World};

const NAME: &str = "rack1-07";
/// Failures of a controller on a busy host are followed by pauses.
const LIMIT: Duration = Duration::from_mins(3);

fn servers(world: &World) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("stokehold.dev", "v1alpha1", "Server");
    Api::all_with(world.client.clone(), &ApiResource::from_gvk_with_plural(&kind, "servers"))
}

/// Waits until the server's status is so.
async fn until(world: &World, what: &str, is_so: impl Fn(&Value) -> bool) {
    let waits = async {
        loop {
            let server = servers(world).get(NAME).await.expect("it is there");
            if is_so(&server.data["status"]) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(LIMIT, waits).await.is_ok();
    let server = servers(world).get(NAME).await.expect("it is there");
    assert!(in_time, "{what}: {}", server.data["status"]);
}

fn bmc_says(status: &Value, words: &str) -> bool {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let said = conditions.iter().find(|one| one["type"] == "Bmc").and_then(|one| one["message"].as_str());
    said.is_some_and(|said| said.contains(words))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_switched_with_the_password_of_a_secret_and_by_the_next_operator_not_again() {
    let machine = tokio::task::spawn_blocking(IpmiServer::start).await.expect("it ends").expect("a controller");
    let world = World::new().await;
    let first = world.operator().await;
    world.apply(&farm("lab")).await;
    world.apply(&[lan("lab")]).await;
    let password = json!({"secret": NAME, "key": "password"});
    let ipmi = json!({"address": machine.address, "port": machine.port(), "user": USER, "password": password, "cipherSuite": 3});
    let server = json!({"apiVersion": "stokehold.dev/v1alpha1", "kind": "Server", "metadata": {"name": NAME}, "spec": {
        "farm": {"namespace": "default", "name": "lab"}, "macs": ["52:54:00:00:00:07"],
        "bmc": {"ipmi": ipmi, "networkBoot": "Bios"},
    }});
    let parameters = PatchParams::apply("people").force();
    servers(&world).patch(NAME, &parameters, &Patch::Apply(&server)).await.expect("an administrator may");
    let missing = format!("there is no Secret {NAME} in namespace {NAMESPACE}");
    until(&world, "the missing Secret", |status| bmc_says(status, &missing)).await;

    let secret: Secret =
        serde_json::from_value(json!({"metadata": {"name": NAME}, "stringData": {"password": PASSWORD}})).expect("one");
    let secrets = Api::<Secret>::namespaced(world.client.clone(), NAMESPACE);
    secrets.create(&PostParams::default(), &secret).await.expect("it is new");
    until(&world, "it is off", |status| status["bmc"]["power"] == "Off").await;

    let cluster = world.cluster().await;
    let reference = ObjectRef { kind: Kind::Server, namespace: None, name: NAME.parse().expect("a name") };
    cluster.power(&reference, PowerAction::Start).await.expect("it may be started");
    let on = |status: &Value| status["bmc"]["power"] == "On" && status["bmc"]["requestsDone"] == 1;
    until(&world, "it is on", on).await;
    let guest = machine.guest().expect("a QEMU");
    assert_eq!(machine.next_boot().as_deref(), Some("pxe"));

    // Who comes after knows what was done: it looks, and finds nothing to switch.
    first.kill();
    let second = world.operator().await;
    crate::cluster::until("the next one leads", async || second.leads()).await;
    cluster.power(&reference, PowerAction::Start).await.expect("it may be started again");
    let still_on = |status: &Value| status["bmc"]["power"] == "On" && status["bmc"]["requestsDone"] == 2;
    until(&world, "it has looked", |status| bmc_says(status, "answers") && still_on(status)).await;
    assert_eq!(machine.guest(), Some(guest));
    let events = cluster.events(&reference).await.expect("events");
    assert!(
        events.iter().any(|event| event.message.contains("switched on by its management controller")),
        "{events:?}"
    );

    // No password stays where none is needed.
    let folder = world.settings.run.join("bmc");
    assert!(folder.join(format!("{NAME}.ipmi")).exists());
    let without = json!({"apiVersion": "stokehold.dev/v1alpha1", "kind": "Server", "metadata": {"name": NAME},
        "spec": {"farm": {"namespace": "default", "name": "lab"}, "macs": ["52:54:00:00:00:07"]}});
    servers(&world).patch(NAME, &parameters, &Patch::Apply(&without)).await.expect("an administrator may");
    let gone = async || std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_none());
    crate::cluster::until("the password is forgotten", gone).await;
}
