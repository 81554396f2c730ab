//! Nodes and their sessions, over TLS, with a farm that is killed in between.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use stoke_api::MacAddr;
use stoke_api::node::{Event, Hello, Manifest, Mode, Orders, Phase, Report};
use stoke_api::objects::{NodeConfig, UnknownClients};

use crate::bed::{Bed, MAC, blob_path, must, node, owner};

const STRANGER: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 0x99]);

pub(crate) fn hello(bed: &Bed, mac: MacAddr) -> Hello {
    Hello {
        protocol: 1,
        boot_mac: mac,
        macs: vec![mac],
        uuid: None,
        address: Ipv4Addr::new(10, 10, 0, 27),
        root: bed.config.images[0].root.blob,
        memory: 1 << 30,
        cpus: 1,
        product: "test".into(),
        uptime_ms: 900,
        orders_seen: None,
        config_generation: NodeConfig::GENERATION,
    }
}

fn url(bed: &Bed, path: &str) -> String {
    format!("https://{}:{}{path}", bed.config.address, bed.config.node_port)
}

/// Posts JSON as a node does, trusting the farm's certificate alone: the answer and its status.
pub(crate) fn post(bed: &Bed, path: &str, body: &impl Serialize) -> (String, String) {
    let body = serde_json::to_string(body).unwrap();
    let ca = bed.config.certificate.to_str().unwrap();
    let url = url(bed, path);
    let arguments =
        ["-sS", "--cacert", ca, "-H", "content-type: application/json", "-d", &body, "-w", "\n%{http_code}", &url];
    let answer = must("curl", &arguments);
    let (text, status) = answer.rsplit_once('\n').unwrap();
    (text.to_owned(), status.to_owned())
}

pub(crate) fn begin(bed: &Bed, mac: MacAddr) -> Manifest {
    let (text, status) = post(bed, "/v1/node/hello", &hello(bed, mac));
    assert_eq!(status, "200", "{text}");
    serde_json::from_str(&text).unwrap()
}

pub(crate) fn reached(session: &str, phase: Phase, uptime_ms: u64) -> Report {
    let event = Event { phase, uptime_ms, detail: String::new() };
    Report {
        session: session.into(),
        events: vec![event],
        ssh_host_keys: vec!["ssh-ed25519 AAAA".into()],
        root: "nbd".into(),
        ..Report::default()
    }
}

fn orders_command(bed: &Bed, session: &str, seen: u64) -> Command {
    let mut command = Command::new("curl");
    command.args(["-sS", "--cacert"]).arg(&bed.config.certificate);
    command.arg(url(bed, &format!("/v1/node/orders?session={session}&seen={seen}")));
    command
}

#[test]
fn a_node_boots_and_its_farm_is_killed_twice_meanwhile() {
    let mut bed = Bed::new();
    must("curl", &["-sS", "-f", &bed.http("/v1/boot.ipxe?mac=52:54:00:00:00:07")]);
    assert_eq!(bed.report().nodes[0].state.phase, Phase::Loading);
    let manifest = begin(&bed, MAC);
    assert_eq!((manifest.name.as_str(), manifest.mode), ("rack1-07", Mode::Auto));
    assert_eq!(manifest.config.hostname.as_deref(), Some("rack1-07"));
    assert_eq!(manifest.nbd, [(bed.config.address, bed.config.nbd_port).into()]);
    must("curl", &["-sS", "-f", "-o", "/dev/null", &manifest.http[0]]);
    bed.kill();
    bed.start();
    let (_, status) = post(&bed, "/v1/node/report", &reached(&manifest.session, Phase::Root, 2000));
    assert_eq!(status, "204");
    bed.kill();
    bed.start();
    let (_, status) = post(&bed, "/v1/node/report", &reached(&manifest.session, Phase::Ready, 9000));
    assert_eq!(status, "204");
    let report = bed.report();
    let state = &report.nodes[0].state;
    assert_eq!(report.nodes[0].owner, Some(owner("rack1-07")));
    assert_eq!(state.timeline, [(Phase::Root, 2000), (Phase::Ready, 9000)]);
    assert!(state.ready && state.root == "nbd" && state.ssh_host_keys == ["ssh-ed25519 AAAA"], "{state:?}");
    assert_eq!((state.address, state.image), (Some(Ipv4Addr::new(10, 10, 0, 27)), Some(manifest.image)));
}

#[test]
fn who_is_refused_and_what_he_is_told() {
    let mut bed = Bed::new();
    let (text, status) = post(&bed, "/v1/node/hello", &hello(&bed, STRANGER));
    assert!(status == "403" && text.contains("52:54:00:00:00:99"), "{status} {text}");
    let other = Hello { root: stoke_api::Digest([9; 32]), ..hello(&bed, MAC) };
    let (text, status) = post(&bed, "/v1/node/hello", &other);
    assert!(status == "409" && text.contains("boot again over the network"), "{status} {text}");
    let (text, status) = post(&bed, "/v1/node/report", &reached("no such session", Phase::Root, 1));
    assert!(status == "410" && text.contains("say hello again"), "{status} {text}");
    let (_, status) = post(&bed, "/v1/node/hello", &"nonsense");
    assert_eq!(status, "422");
    let greeting = hello(&bed, MAC);
    bed.config.images.clear();
    bed.reload();
    assert_eq!(post(&bed, "/v1/node/hello", &greeting).1, "503");
    bed.config.unknown_clients = UnknownClients::Boot;
    bed.reload();
    assert_eq!(post(&bed, "/v1/node/hello", &Hello { boot_mac: STRANGER, ..greeting }).1, "503");
}

#[test]
fn strangers_boot_where_they_may_and_keep_their_session_when_they_get_an_object() {
    let mut bed = Bed::stopped();
    bed.config.unknown_clients = UnknownClients::Boot;
    bed.config.config.timezone = Some("Europe/Berlin".into());
    bed.start();
    let manifest = begin(&bed, STRANGER);
    assert_eq!(manifest.name, "node-525400000099");
    assert_eq!(manifest.config.hostname.as_deref(), Some("node-525400000099"));
    assert_eq!(manifest.config.timezone.as_deref(), Some("Europe/Berlin"));
    assert_eq!(bed.report().nodes[0].owner, None);
    bed.config.nodes.push(node("new", STRANGER));
    bed.reload();
    bed.kill();
    bed.start();
    assert_eq!(post(&bed, "/v1/node/report", &reached(&manifest.session, Phase::Ready, 1)).1, "204");
    assert_eq!(bed.report().nodes.iter().map(|node| node.owner.clone()).collect::<Vec<_>>(), [Some(owner("new"))]);
}

#[test]
fn a_machine_is_known_by_its_uuid_too() {
    let mut bed = Bed::stopped();
    bed.config.nodes[0].uuid = Some("4C4C4544-0000-1000-8000-000000000007".into());
    bed.start();
    let other = Hello { uuid: Some("4c4c4544-0000-1000-8000-000000000007".into()), ..hello(&bed, STRANGER) };
    let (text, status) = post(&bed, "/v1/node/hello", &other);
    assert_eq!((status.as_str(), text.contains("rack1-07")), ("200", true), "{text}");
}

#[test]
fn a_reboot_reaches_an_agent_that_waits_and_is_ordered_once() {
    let mut bed = Bed::new();
    let manifest = begin(&bed, MAC);
    post(&bed, "/v1/node/report", &reached(&manifest.session, Phase::Ready, 9000));
    let waiting = orders_command(&bed, &manifest.session, 0).stdout(Stdio::piped()).spawn().unwrap();
    // The request must be there before the order is, else this shows nothing.
    bed.wait("the request for orders", |bed| {
        let port = format!("sport = :{}", bed.config.node_port);
        must("ss", &["-Htn", "state", "established", &port]).contains(&bed.config.address.to_string())
    });
    bed.config.nodes[0].reboots_requested = 1;
    let begin_order = Instant::now();
    bed.reload();
    let output = waiting.wait_with_output().unwrap();
    let orders: Orders = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(orders, Orders { number: 1, reboot: true, kexec: None });
    assert!(begin_order.elapsed() < Duration::from_secs(5));
    let again = begin(&bed, MAC);
    let mut after = orders_command(&bed, &again.session, 0);
    let output = after.args(["-m", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(28), "a node that has rebooted is not told again: {output:?}");
    let old = orders_command(&bed, &manifest.session, 1).args(["-w", "%{http_code}"]).output().unwrap();
    assert!(String::from_utf8_lossy(&old.stdout).ends_with("410"));
}

#[test]
fn a_reload_leaves_a_slow_transfer_alone() {
    let mut bed = Bed::new();
    let url = bed.http(&blob_path(&bed.config.images[0].root.blob));
    let to = bed.path("slow");
    let mut slow =
        Command::new("curl").args(["-sS", "-f", "--limit-rate", "2M", "-o"]).arg(&to).arg(&url).spawn().unwrap();
    bed.wait("the transfer to begin", |_| to.metadata().is_ok_and(|file| file.len() > 0));
    bed.config.http_port = 8081;
    bed.config.images.clear();
    bed.reload();
    assert!(slow.wait().unwrap().success());
    assert!(std::fs::read(&to).unwrap() == bed.root);
    bed.wait("the new port", |bed| bed.report().ready);
    must("curl", &["-sS", "-f", &bed.http("/v1/boot.ipxe?mac=52:54:00:00:00:07")]);
}

#[test]
fn a_port_in_use_is_reported_with_the_next_step_and_taken_when_it_is_free() {
    let mut bed = Bed::stopped();
    let rival = TcpListener::bind((bed.config.address, bed.config.nbd_port)).unwrap();
    bed.launch();
    bed.wait("the failure", |bed| {
        let ready = bed.try_admin("GET", "/ready").is_some_and(|(status, _)| status == 503);
        ready && bed.report().failure.is_some_and(|text| text.contains("has the port"))
    });
    let failure = bed.report().failure.unwrap();
    let wanted = format!("cannot listen on {}:10809 for NBD", bed.config.address);
    assert!(failure.contains(&wanted) && failure.contains("ss -ltnp sport = :10809"), "{failure}");
    drop(rival);
    bed.wait("the port", |bed| bed.report().ready);
}

#[test]
fn metrics_count_what_went_over_the_wire() {
    let bed = Bed::new();
    must("nbdinfo", &[&bed.nbd(&bed.config.images[0].root.blob)]);
    let (_, text) = bed.try_admin("GET", "/metrics").unwrap();
    assert!(
        text.contains("stoke_farm_nbd_connections_total ") && text.contains("stoke_farm_sessions_total 0"),
        "{text}"
    );
}

#[test]
fn what_a_node_reads_over_nbd_is_in_its_trace_and_its_log_lines_have_its_mac() {
    let bed = Bed::new();
    // Whom the kernel takes for the sender of what is sent to this host's own addresses.
    let greeting = Hello { address: Ipv4Addr::LOCALHOST, ..hello(&bed, MAC) };
    assert_eq!(post(&bed, "/v1/node/hello", &greeting).1, "200");
    let copy = bed.path("copy");
    must("nbdcopy", &["--connections=1", &bed.nbd(&greeting.root), copy.to_str().unwrap()]);
    must(
        "tftp",
        &["-m", "binary", &bed.config.address.to_string(), "6969", "-c", "get", "nothing", copy.to_str().unwrap()],
    );
    let traced = |bed: &Bed| bed.try_admin("GET", "/trace").map(|(_, text)| text).unwrap_or_default();
    bed.wait("the trace of the reads", |bed| traced(bed).contains("detached after"));
    let events: Vec<stoke_api::trace::TraceEvent> = serde_json::from_str(&traced(&bed)).unwrap();
    let read = events.iter().find(|event| event.way == "nbd" && event.bytes.is_some()).unwrap();
    assert_eq!((read.mac, read.bytes >= Some(bed.root.len() as u64)), (MAC, true), "{events:?}");
    let said = |bed: &Bed, words: &str| {
        let log = std::fs::read_to_string(bed.path("log")).unwrap();
        log.lines().any(|line| line.contains(words) && line.contains(&MAC.to_string()))
    };
    for words in ["NBD: attached", "NBD: detached", "TFTP: refused"] {
        bed.wait(words, |bed| said(bed, words));
    }
    let (_, metrics) = bed.try_admin("GET", "/metrics").unwrap();
    let counted = metrics.lines().find_map(|line| line.strip_prefix("stoke_farm_nbd_read_seconds_count "));
    assert!(counted.is_some_and(|count| count != "0"), "{metrics}");
}
