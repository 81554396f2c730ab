//! What is in no object, from one cluster to another: keys and leases.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams};
use stoke_api::report::LeaseReport;
use stoke_host::Folders;
use stoke_host::export::{self, Files};

use super::{farm, lan, machine};
use crate::cluster::until;
use crate::operator::world::{NAMESPACE, World};

const IMPORTED: &str = "stokehold.dev/imported";
const COPY: &str = "leases-default.lab";

fn lease(last: u8) -> LeaseReport {
    let expires = u64::try_from(jiff::Timestamp::now().as_second()).expect("after 1970") + 3600;
    let mac = format!("52:54:00:00:00:{last:02x}").parse().expect("an address");
    LeaseReport { mac, address: [10, 10, 0, last].into(), hostname: Some("node".to_owned()), expires }
}

fn keys(world: &World) -> Files {
    let (state, run) = (world.settings.state.clone(), world.settings.run.clone());
    export::keys(&Folders { state, run }).expect("keys")
}

fn put(world: &World, path: &str) {
    let path = world.settings.state.join(path);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("the store's volume");
    std::fs::write(&path, format!("secret of {}", path.display())).expect("the store's volume");
}

/// The journal in the copy of the LAN's leases.
async fn copied(world: &World) -> Option<Vec<u8>> {
    let maps = Api::<ConfigMap>::namespaced(world.client.clone(), NAMESPACE);
    Some(maps.get_opt(COPY).await.expect("an answer")?.binary_data?.remove("leases.journal")?.0)
}

fn has(journal: &[u8], lease: &LeaseReport) -> bool {
    let wanted = [lease.address.octets().as_slice(), &lease.mac.0].concat();
    journal.windows(wanted.len()).any(|window| window == wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_leases_go_from_one_cluster_to_another() {
    let (old, new) = tokio::join!(World::new(), World::new());
    for path in ["farms/default.lab/host-keys/machine.default.node-1", "keys/images/main.key"] {
        put(&old, path);
    }
    let (first, second) = (lease(101), lease(102));
    *old.agent.leases.lock().expect("the agent") = vec![first.clone()];
    let running = old.operator().await;
    old.apply(&farm("lab")).await;
    old.apply(&[lan("lab"), machine("node-1", "lab")]).await;
    until("the first lease is copied", async || copied(&old).await.is_some_and(|copy| has(&copy, &first))).await;
    *old.agent.leases.lock().expect("the agent") = vec![first.clone(), second.clone()];
    until("the second one, too", async || copied(&old).await.is_some_and(|copy| has(&copy, &second))).await;
    let cluster = old.cluster().await;
    let (exported, leases) = (cluster.keys().await.expect("keys"), cluster.leases().await.expect("leases"));
    assert_eq!(exported, keys(&old));
    assert!(exported.contains_key("keys/ca.key") && exported.contains_key("keys/images/main.key"), "{exported:?}");
    assert_eq!(leases.keys().collect::<Vec<_>>(), ["leases/default.lab.journal"]);

    // Before there are objects, as `stoke up EXPORT` brings them.
    let cluster = new.cluster().await;
    assert_eq!(cluster.bring_leases(&leases).await.expect("they are taken"), 1);
    assert!(cluster.bring_keys(&exported).await.expect("they are taken"));
    let other = new.operator().await;
    let secrets = Api::<Secret>::namespaced(new.client.clone(), NAMESPACE);
    until("the keys are taken over", async || {
        let secret = secrets.get("stokehold-keys").await.expect("it is there");
        other.leads() && !secret.annotations().contains_key(IMPORTED)
    })
    .await;
    assert_eq!(keys(&new), exported);
    let rounds = other.operator.metrics.rounds.get();
    until("rounds without the LAN", async || other.operator.metrics.rounds.get() > rounds + 2).await;
    assert_eq!(copied(&new).await.as_ref(), leases.values().next(), "it waits for its LAN");

    // The router finds them, and what it says later is added.
    new.apply(&farm("lab")).await;
    new.apply(&[lan("lab")]).await;
    until("the router", async || new.is_ready("Lan", "lab").await).await;
    let router = new.pod(NAMESPACE, "router-default-lab").await.expect("it runs");
    let maps =
        router.spec.expect("a spec").volumes.expect("volumes").into_iter().filter_map(|volume| volume.config_map);
    assert!(maps.into_iter().any(|map| map.name == COPY && map.optional == Some(true)));
    let third = lease(103);
    *new.agent.leases.lock().expect("the agent") = vec![third.clone()];
    until("the new lease", async || copied(&new).await.is_some_and(|copy| has(&copy, &third))).await;
    let copy = copied(&new).await.expect("a copy");
    assert!(has(&copy, &first) && has(&copy, &second), "who is away gets the address again");
    // What is there is not overwritten by another import.
    assert_eq!(cluster.bring_leases(&leases).await.expect("an answer"), 0);
    assert_eq!(keys(&new).get("keys/ca.pem"), exported.get("keys/ca.pem"));

    // Copies go with their LANs.
    for (kind, name) in [("Farm", "lab"), ("Lan", "lab")] {
        new.kind(kind, "default").delete(name, &DeleteParams::default()).await.expect("it is deleted");
    }
    until("the copy is gone", async || copied(&new).await.is_none()).await;

    // A volume that was lost comes to the keys of the Secret again.
    running.kill();
    for folder in ["keys", "farms"] {
        std::fs::remove_dir_all(old.settings.state.join(folder)).expect("it was there");
    }
    let again = old.operator().await;
    until("another one leads", async || again.leads()).await;
    until("the keys are back", async || keys(&old) == exported).await;
    assert!(has(&copied(&old).await.expect("a copy"), &second));
}
