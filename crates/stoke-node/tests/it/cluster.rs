//! The agent of a node, its operator, and pods.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use super::host::{on_a_host, until};
use super::node::{Authority, INSTALLATION, Node, Pod};

const ROUTER: &str = "8b8f3a50-2f61-4bb4-9d3a-0f3a5f0c3d11";
const MACHINE: &str = "8b8f3a50-2f61-4bb4-9d3a-0f3a5f0c3d12";
const STRANGER: &str = "8b8f3a50-2f61-4bb4-9d3a-0f3a5f0c3d13";
const MAC: &str = "52:54:00:00:00:01";

fn lan() -> Value {
    json!({"kind": "Lan", "namespace": "default", "name": "lab"})
}

/// LAN `lab` over two nodes, whose router's interface and one machine's TAP are granted.
fn config(pods: &Value) -> Value {
    json!({
        "installation": INSTALLATION,
        "lans": [{
            "plan": {
                "lan": lan(), "bridge": "lab0", "mac": "52:54:00:aa:00:01", "mtu": 1450,
                "addresses": ["10.10.0.1/24"], "masquerade": true, "uplinks": []
            },
            "overlay": {"vni": 7001, "port": 8472, "local": "198.51.100.2", "peers": ["198.51.100.3"]}
        }],
        "pods": pods
    })
}

fn grants() -> Value {
    let interface =
        json!({"name": "lan0", "mac": "52:54:00:aa:00:01", "addresses": ["10.10.0.1/24"], "masquerade": true});
    json!([
        {"pod": ROUTER, "owner": lan(), "ports": [{"lan": lan(), "kind": {"interface": interface}}]},
        {"pod": MACHINE, "owner": {"kind": "Machine", "namespace": "default", "name": "a"},
         "ports": [{"lan": lan(), "kind": {"tap": {"mac": MAC}}}]}
    ])
}

fn socket(folder: &std::path::Path) -> String {
    folder.join("ports.sock").display().to_string()
}

fn tap(socket: &str) -> [&str; 5] {
    ["tap", socket, "lab", MAC, "10.10.0.1"]
}

#[test]
fn pods_reach_each_other_whatever_becomes_of_the_agent() {
    on_a_host(|| {
        let mut node = Node::start();
        assert!(!node.report().configured);
        node.configure(&config(&grants()));
        let (of_router, of_machine) = (node.allocate(), node.allocate());
        let mut router = Pod::run(&node, ROUTER, true, &["interfaces", &socket(&of_router)]);
        let given: Value = serde_json::from_str(&router.says()).unwrap();
        assert_eq!((&given[0]["name"], &given[0]["mtu"]), (&json!("lan0"), &json!(1450)));
        assert!(router.has_own_network());
        let of_machine = socket(&of_machine);
        let mut machine = Pod::run(&node, MACHINE, true, &tap(&of_machine));
        let said = machine.says();
        let link =
            said.strip_prefix("port ").and_then(|rest| rest.strip_suffix(" 1450")).unwrap_or_else(|| panic!("{said}"));
        assert_eq!(machine.asked(), "52:54:00:aa:00:01");

        let report = node.report();
        assert!(report.configured && report.lans[0].failure.is_none(), "{report:?}");
        let of_machine = report.pods.iter().find(|pod| pod.pod == MACHINE).unwrap();
        assert_eq!(of_machine.links, [link.parse().unwrap()]);

        node.kill();
        assert_eq!(machine.asked(), "52:54:00:aa:00:01", "with no agent");
        node.launch();
        assert_eq!(node.steps(), 0, "there is nothing to do");
        assert!(!node.report().configured);
        node.configure(&config(&grants()));
        assert_eq!(node.steps(), 0, "there is nothing to do");
        assert_eq!(machine.asked(), "52:54:00:aa:00:01");
        until("the machine's pod is known again", || node.report().pods.iter().any(|pod| pod.pod == MACHINE));
    });
}

#[test]
fn a_router_in_a_pod_forwards_out_of_the_pod() {
    on_a_host(|| {
        let node = Node::start();
        node.configure(&config(&grants()));
        let folder = node.allocate();
        let mut router = Pod::run(&node, ROUTER, true, &["interfaces", &socket(&folder)]);
        router.says();
        let network = router.network();
        let inside = std::thread::spawn(move || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let shown = std::process::Command::new("ip").args(["address", "show", "lan0"]).output().unwrap().stdout;
            String::from_utf8(shown).unwrap()
        });
        let shown = inside.join().unwrap();
        for expected in ["52:54:00:aa:00:01", "mtu 1450", "10.10.0.1/24", ",UP"] {
            assert!(shown.contains(expected), "{expected}: {shown}");
        }
    });
}

#[test]
fn a_request_waits_for_the_operator() {
    on_a_host(|| {
        let node = Node::start();
        node.configure(&config(&json!([])));
        let folder = socket(&node.allocate());
        let mut machine = Pod::run(&node, MACHINE, true, &tap(&folder));
        until("the pod has asked", || node.report().pods.iter().any(|pod| pod.pod == MACHINE));
        node.configure(&config(&grants()));
        let said = machine.says();
        assert!(said.starts_with("port sv-"), "{said}");
    });
}

#[test]
fn what_was_not_granted_is_refused_with_the_reason() {
    on_a_host(|| {
        let node = Node::start();
        node.configure(&config(&grants()));
        let (folder, other) = (socket(&node.allocate()), socket(&node.allocate()));
        let mut refused = Vec::new();
        // All at once: each waits for the operator, which says nothing.
        let mut wrong_mac = Pod::run(&node, MACHINE, true, &["tap", &folder, "lab", "52:54:00:00:00:02", "10.10.0.1"]);
        let mut stranger = Pod::run(&node, STRANGER, true, &tap(&other));
        refused.extend([wrong_mac.says(), stranger.says()]);
        for said in refused {
            assert!(said.contains("the operator has not granted pod 8b8f3a50"), "{said}");
        }
        let report = node.report();
        let of_stranger = report.pods.iter().find(|pod| pod.pod == STRANGER).unwrap();
        assert!(of_stranger.failure.as_ref().unwrap().contains("has not granted"), "{of_stranger:?}");

        let mut in_anothers = Pod::run(&node, MACHINE, true, &tap(&other));
        assert_eq!(in_anothers.says(), "refused: no lan port: this folder belongs to another pod");
        let own = socket(&node.allocate());
        let mut on_the_host = Pod::run(&node, ROUTER, false, &["interfaces", &own]);
        assert_eq!(on_the_host.says(), "refused: no lan port: a pod on the host's network gets no interfaces");
        let free = node.allocate();
        let mut nobody = UnixStream::connect(free.join("ports.sock")).unwrap();
        nobody.write_all(b"{\"interfaces\":true}\n").unwrap();
        let mut answer = String::new();
        nobody.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "{\"refused\":\"the asking process is in no pod\"}\n");
    });
}

#[test]
fn a_pod_that_needs_no_port_is_known_all_the_same() {
    on_a_host(|| {
        let node = Node::start();
        let farm = json!({"kind": "Farm", "namespace": "default", "name": "rack"});
        node.configure(&config(&json!([{"pod": STRANGER, "owner": farm, "ports": []}])));
        let folder = socket(&node.allocate());
        let mut on_the_host = Pod::run(&node, STRANGER, false, &["interfaces", &folder]);
        assert_eq!(on_the_host.says(), "[]");
        let report = node.report();
        let seen = report.pods.iter().find(|pod| pod.pod == STRANGER).unwrap();
        assert!(seen.links.is_empty(), "{seen:?}");
    });
}

#[test]
fn a_pod_that_misbehaves_is_alone_in_it() {
    on_a_host(|| {
        let node = Node::start();
        node.configure(&config(&grants()));
        let (bad, good) = (node.allocate(), node.allocate());
        let mut endless = UnixStream::connect(bad.join("ports.sock")).unwrap();
        let _ = endless.write_all(&vec![b'x'; 1 << 20]);
        let idle: Vec<_> = (0..64).map(|_| UnixStream::connect(bad.join("ports.sock")).unwrap()).collect();
        let begin = Instant::now();
        let folder = socket(&good);
        let mut machine = Pod::run(&node, MACHINE, true, &tap(&folder));
        assert!(machine.says().starts_with("port sv-"));
        assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
        drop(idle);
        // What it makes of its folder is its own trouble, too.
        std::fs::remove_file(bad.join("ports.sock")).unwrap();
        std::os::unix::fs::symlink(node.path("config.json"), bad.join("ports.sock")).unwrap();
        std::fs::remove_file(good.join("ports.sock")).unwrap();
        until("a socket is there again", || UnixStream::connect(good.join("ports.sock")).is_ok());
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(node.path("config.json")).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o644, "nothing that a link names was touched");
    });
}

#[test]
fn the_operator_reaches_a_roles_admin_socket() {
    on_a_host(|| {
        let node = Node::start();
        node.configure(&config(&grants()));
        let folder = node.allocate();
        let mut router = Pod::run(&node, ROUTER, true, &["interfaces", &socket(&folder)]);
        router.says();
        let listener = UnixListener::bind(folder.join("admin.sock")).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap();
                let line = String::from_utf8_lossy(&request[..length]).lines().next().unwrap_or_default().to_owned();
                let body = format!("\"{line}\"");
                let head = "content-type: application/json\r\nconnection: close";
                let _ =
                    write!(stream, "HTTP/1.1 202 Accepted\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            }
        });
        let path = format!("/v1/pods/{ROUTER}/admin/reload?x=1");
        let answer = node.operator.ask("POST", &path, "{}").unwrap();
        assert_eq!(answer, (202, "\"POST /reload?x=1 HTTP/1.1\"".to_owned()));
        let (status, _) = node.operator.ask("GET", &format!("/v1/pods/{STRANGER}/admin/status"), "").unwrap();
        assert_eq!(status, 404);
        let is_nonsense = |pod: &stoke_api::agent::PodReport| {
            pod.failure.as_deref().is_some_and(|failure| failure.starts_with("the role's report is none"))
        };
        until("a report that is none is said", || node.report().pods.iter().any(is_nonsense));
    });
}

#[test]
fn only_the_operator_is_answered() {
    on_a_host(|| {
        let node = Node::start();
        let foreign = Authority::new();
        let strangers = [
            node.authority.client(None, &node.authority),
            node.authority.client(Some("operator"), &foreign),
            node.authority.client(Some("somebody"), &node.authority),
        ];
        for stranger in strangers {
            stranger.ask("GET", "/v1/report", "").unwrap_err();
        }
        // Renewed: an authority and a certificate that were not there when the agent started.
        foreign.write_for_agent(&node.path("tls"));
        let new_operator = foreign.client(Some("operator"), &foreign);
        assert_eq!(new_operator.ask("GET", "/v1/report", "").unwrap().0, 200);
        node.operator.ask("GET", "/v1/report", "").unwrap_err();
        node.authority.write_for_agent(&node.path("tls"));
    });
}

#[test]
fn another_installation_cannot_have_the_node() {
    on_a_host(|| {
        let node = Node::start();
        node.configure(&config(&grants()));
        let mut other = config(&grants());
        other["installation"] = json!("ffffffff");
        let (status, reason) = node.operator.ask("PUT", "/v1/config", &other.to_string()).unwrap();
        assert_eq!(status, 422);
        assert!(reason.starts_with("this node belongs to installation 0a1b2c3d"), "{reason}");
    });
}

#[test]
fn a_teardown_leaves_nothing_and_the_node_can_be_had_again() {
    on_a_host(|| {
        let node = Node::start();
        for _ in 0..2 {
            node.configure(&config(&grants()));
            assert!(node.pinned().is_some());
            let folder = socket(&node.allocate());
            let mut machine = Pod::run(&node, MACHINE, true, &tap(&folder));
            assert!(machine.says().starts_with("port sv-"));
            assert_eq!(node.operator.ask("POST", "/v1/teardown", "").unwrap(), (200, "[]".to_owned()));
            assert_eq!((node.pinned(), node.path("run/pods").exists()), (None, false));
        }
    });
}
