//! Workloads as processes: started in order, adopted, told, ended.

use std::path::Path;

use hyper::{Method, StatusCode};
use serde_json::json;
use stoke_api::Kind;
use stoke_api::control::{Change, ObjectEvent, Refused};
use stoke_api::meta::Truth;

use crate::host::{Host, until};
use crate::objects::{farm, image, lab, lan, machine, machine_set, reference};

const LAB: [&str; 4] = ["farm-default-lab", "node", "router-default-lab", "vm-default-node-1"];

async fn lab_runs() -> Host {
    let host = Host::start().await;
    let applied = host.apply(&lab()).await;
    assert!(applied.changes.iter().all(|(_, change)| *change == Change::Created), "{applied:?}");
    host.settled(&LAB).await;
    host
}

fn kill(pid: u32) {
    stoke_host::process::ProcessId::of(pid).expect("it runs").signal(rustix::process::Signal::KILL);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lab_comes_up_in_order_and_rests() {
    let host = lab_runs().await;
    let starts = std::fs::read_to_string(host.state.path().join("starts")).expect("roles were started");
    let order: Vec<_> = starts.lines().collect();
    let place = |name: &str| order.iter().position(|line| *line == name).expect("it was started");
    assert!(place("node") < place("router-default-lab"), "{order:?}");
    assert!(place("farm-default-lab") < place("vm-default-node-1"), "{order:?}");
    assert!(place("build-default-node") < place("vm-default-node-1"), "{order:?}");
    assert_eq!(order.len(), 5, "nothing is started twice: {order:?}");
    until("the farm serves", || async {
        host.condition(&reference(Kind::Farm, "lab"), "Ready").await.0 == Truth::True
    })
    .await;
    let ready = host.condition(&reference(Kind::Machine, "node-1"), "Ready").await;
    assert_eq!((ready.0, ready.1.as_str()), (Truth::False, "Booting"));
    let plan = host.plan(&lab()).await;
    assert_eq!((plan.changes.len(), plan.steps), (0, Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_host_disturbs_nothing_and_the_next_one_adopts() {
    let mut host = lab_runs().await;
    let (pids, starts, reloads) = (host.pids().await, host.lines("starts"), host.lines("reloads"));
    host.kill();
    host.up().await;
    host.settled(&LAB).await;
    let plan = host.plan(&lab()).await;
    assert_eq!((plan.changes.len(), plan.steps), (0, Vec::new()));
    assert_eq!(host.pids().await, pids);
    assert_eq!(host.lines("starts"), starts);
    assert_eq!(host.lines("reloads"), reloads);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_record_was_lost_is_found_and_told_again() {
    let mut host = lab_runs().await;
    let (pids, starts) = (host.pids().await, host.lines("starts"));
    host.kill();
    std::fs::remove_file(host.state.path().join("run/workloads/vm-default-node-1/workload.json")).expect("a record");
    host.up().await;
    host.settled(&LAB).await;
    assert_eq!((host.pids().await, host.lines("starts")), (pids, starts));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_role_is_started_again_and_the_others_go_on() {
    let host = lab_runs().await;
    let before = host.pids().await;
    // A hypervisor's socket: who takes it away takes the machine away.
    let socket = host.state.path().join("run/workloads/vm-default-node-1/qmp.sock");
    std::fs::write(&socket, "").expect("a file");
    for name in LAB {
        kill(before[name]);
    }
    until("all run again", || async {
        let now = host.pids().await;
        LAB.iter().all(|name| now.get(*name).is_some_and(|pid| *pid != before[*name]))
    })
    .await;
    host.settled(&LAB).await;
    assert!(LAB.iter().all(|name| host.lines("starts")[*name] == 2), "{:?}", host.lines("starts"));
    assert!(socket.exists(), "machines go on while their stoke-vm is started again");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_disturbs_no_running_one() {
    let host = lab_runs().await;
    let before = host.pids().await;
    let more = [lab(), vec![machine("node-2")]].concat();
    let steps = host.plan(&more).await.steps;
    assert_eq!(steps, ["configure farm-default-lab", "configure router-default-lab", "start vm-default-node-2"]);
    host.apply(&more).await;
    let names = ["farm-default-lab", "node", "router-default-lab", "vm-default-node-1", "vm-default-node-2"];
    host.settled(&names).await;
    let after = host.pids().await;
    assert!(before.iter().all(|(name, pid)| after.get(name) == Some(pid)), "{before:?} {after:?}");
    assert_eq!(host.lines("reloads").get("vm-default-node-1"), None);
    // And it goes with its file's lines.
    let applied = host.apply(&lab()).await;
    assert!(applied.changes.contains(&(reference(Kind::Machine, "node-2"), Change::Deleted)), "{applied:?}");
    host.settled(&LAB).await;
    assert!(!host.state.path().join("run/workloads/vm-default-node-2").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sets_machines_come_and_go_with_its_number() {
    let host = lab_runs().await;
    let with_set = |replicas| [lab(), vec![machine_set("web", replicas)]].concat();
    let applied = host.plan(&with_set(2)).await;
    assert_eq!(applied.steps, ["make machine/web-0", "make machine/web-1"]);
    host.apply(&with_set(2)).await;
    host.settled(&[&LAB[..], &["vm-default-web-0", "vm-default-web-1"]].concat()).await;
    let pids = host.pids().await;
    // A machine that was deleted is made again, and one of a set belongs to no file.
    let refused = host.try_apply(&[lab(), vec![machine_set("web", 2), machine("web-0")]].concat()).await;
    assert!(refused.text().contains("it is one of machineset/web"), "{}", refused.text());
    let path = "/v1/objects/machines/default/web-1";
    assert_eq!(host.ask(Method::DELETE, path, &json!({})).await.status, StatusCode::NO_CONTENT);
    until("it is there again", || async {
        let again = host.pids().await;
        again.get("vm-default-web-1").is_some_and(|pid| *pid != pids["vm-default-web-1"])
    })
    .await;
    host.apply(&with_set(1)).await;
    host.settled(&[&LAB[..], &["vm-default-web-0"]].concat()).await;
    assert_eq!(host.pids().await["vm-default-web-0"], pids["vm-default-web-0"], "the other one is left alone");
    // Without the set, without its machines.
    host.apply(&lab()).await;
    host.settled(&LAB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manual_machine_starts_when_somebody_asks() {
    let host = Host::start().await;
    let mut objects = lab();
    if let Some(stoke_api::AnyObject::Machine(machine)) = objects.last_mut() {
        machine.spec.run_strategy = stoke_api::objects::RunStrategy::Manual;
    }
    host.apply(&objects).await;
    let node = reference(Kind::Machine, "node-1");
    until("it waits to be started", || async { host.condition(&node, "Ready").await.1 == "Stopped" }).await;
    let path = "/v1/power/machines/default/node-1";
    assert_eq!(host.ask(Method::POST, path, &json!({"action": "Start"})).await.status, StatusCode::ACCEPTED);
    until("it is on", || async { host.condition(&node, "Running").await.0 == Truth::True }).await;
    assert_eq!(host.ask(Method::POST, path, &json!({"action": "Stop"})).await.status, StatusCode::ACCEPTED);
    until("it is off", || async { host.condition(&node, "Ready").await.1 == "Stopped" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn power_is_a_request_and_not_a_spec() {
    let host = lab_runs().await;
    let (path, node) = ("/v1/power/machines/default/node-1", reference(Kind::Machine, "node-1"));
    assert_eq!(host.ask(Method::POST, path, &json!({"action": "Stop"})).await.status, StatusCode::ACCEPTED);
    until("it is off", || async { host.condition(&node, "Ready").await.1 == "Stopped" }).await;
    assert_eq!(host.ask(Method::POST, path, &json!({"action": "Reboot"})).await.status, StatusCode::CONFLICT);
    assert_eq!(host.ask(Method::POST, path, &json!({"action": "Start"})).await.status, StatusCode::ACCEPTED);
    until("it is on", || async { host.condition(&node, "Running").await.0 == Truth::True }).await;
    assert_eq!(host.lines("starts")["vm-default-node-1"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_wrong_is_said_at_once_and_nothing_changes() {
    let host = Host::start().await;
    let wrong = [lan("lab", "10.10.0.0/24"), lan("other", "10.10.0.128/25"), farm(), machine("node-1")];
    let answer = host.try_apply(&wrong).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    let refused: Refused = serde_json::from_slice(&answer.body).expect("an answer of the protocol");
    let fields: Vec<_> = refused.problems.iter().map(|p| format!("{} {}", p.object, p.field)).collect();
    assert_eq!(fields, ["lan/other spec.subnets[0].cidr", "farm/lab spec.image"]);
    let objects: Vec<serde_json::Value> = host.get("/v1/objects/lans").await;
    assert_eq!(objects.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_says_is_not_deleted_by_hand() {
    let host = Host::start().await;
    host.apply(&[lan("lab", "10.10.0.0/24")]).await;
    let answer = host.ask(Method::DELETE, "/v1/objects/lans/default/lab", &json!(null)).await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    assert!(answer.text().contains("/dev/null"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_is_said_and_not_repeated_at_once() {
    let host = Host::start().await;
    let objects = [image("nowhere"), lan("lab", "10.10.0.0/24"), farm(), machine("node-1")];
    host.apply(&objects).await;
    let node = reference(Kind::Image, "node");
    until("the failure is said", || async { host.condition(&node, "Ready").await.1 == "BuildFailed" }).await;
    host.settled(&["farm-default-lab", "node", "router-default-lab"]).await;
    until("the machine says what it waits for", || async {
        let ready = host.condition(&reference(Kind::Machine, "node-1"), "Ready").await;
        ready.2 == "waiting for image/node: suite nowhere is not there"
    })
    .await;
    assert_eq!(host.lines("starts")["build-default-node"], 1);
    host.apply(&lab()).await;
    host.settled(&LAB).await;
    let events: Vec<ObjectEvent> = host.get("/v1/events/images/default/node").await;
    assert!(events.iter().any(|event| event.reason == "BuildFailed"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn down_leaves_no_process_and_purge_no_file() {
    let mut host = lab_runs().await;
    let downed = host.down(true).await;
    assert_eq!(downed.failures, Vec::<String>::new());
    assert!(downed.removed.contains(&"stopped vm-default-node-1".to_owned()), "{downed:?}");
    host.ended().await;
    nothing_runs(&host);
    assert!(!host.state.path().join("store.redb").exists());
    assert!(!host.state.path().join("run").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn down_works_without_a_living_host() {
    let mut host = lab_runs().await;
    host.kill();
    let run = host.state.path().join("run");
    let downed = stoke_host::up::down(host.state.path(), &run, false).await.expect("it goes on past errors");
    assert_eq!(downed.failures, Vec::<String>::new());
    nothing_runs(&host);
    // The objects are still there, and a new host brings them up again.
    host.up().await;
    host.settled(&LAB).await;
}

fn nothing_runs(host: &Host) {
    let inside = |socket: &Path| socket.starts_with(host.state.path());
    let left: Vec<_> = stoke_host::process::serving().into_keys().filter(|socket| inside(socket)).collect();
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
}
