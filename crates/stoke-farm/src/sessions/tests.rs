use proptest::prelude::*;
use stoke_api::Kind;

use super::*;

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 7]);
const V1: Digest = Digest([1; 32]);
const V2: Digest = Digest([2; 32]);

fn owner(name: &str) -> ObjectRef {
    ObjectRef { kind: Kind::Server, namespace: None, name: name.parse().unwrap() }
}

fn hello(mac: MacAddr) -> Hello {
    Hello {
        protocol: 1,
        boot_mac: mac,
        macs: vec![mac],
        uuid: None,
        address: Ipv4Addr::new(10, 10, 0, 27),
        root: Digest([5; 32]),
        memory: 1 << 30,
        cpus: 1,
        product: String::new(),
        uptime_ms: 900,
        orders_seen: None,
        config_generation: 1,
    }
}

fn greet(sessions: &mut Sessions, owner: Option<ObjectRef>, mac: MacAddr, session: &str, reboots: u64) -> Node {
    let hello = hello(mac);
    let greeting = Greeting {
        owner,
        hello: &hello,
        session: session.into(),
        image: Digest([1; 32]),
        reboots_requested: reboots,
        remarks: Vec::new(),
    };
    sessions.hello(greeting, 1_000_000)
}

fn event(phase: Phase, uptime_ms: u64) -> Event {
    Event { phase, uptime_ms, detail: String::new() }
}

fn report(session: &str, events: &[Event]) -> Report {
    Report { session: session.into(), events: events.to_vec(), ..Report::default() }
}

#[test]
fn what_was_said_of_the_writable_layer_holds_until_more_is_said() {
    let mut sessions = Sessions::default();
    greet(&mut sessions, Some(owner("a")), MAC, "s", 0);
    let layer = |full| Some(LayerUse { size: 100, free: 1, full });
    let full = Report { layer: layer(true), ..report("s", &[]) };
    assert_eq!(sessions.report(full, 1_000_000).unwrap().state(1_000_000).layer, layer(true));
    let node = sessions.report(report("s", &[event(Phase::Ready, 9000)]), 1_000_001).unwrap();
    assert_eq!(node.state(1_000_001).layer, layer(true));
    greet(&mut sessions, Some(owner("a")), MAC, "t", 0);
    assert_eq!(sessions.of_session("t").unwrap().layer, None, "another boot has another layer");
}

#[test]
fn a_boot_from_script_to_ready() {
    let mut sessions = Sessions::default();
    sessions.loading(Some(owner("a")), MAC, None, 900_000);
    assert_eq!(sessions.reports(900_000)[0].state.phase, Phase::Loading);
    greet(&mut sessions, Some(owner("a")), MAC, "s", 0);
    let node = sessions.report(report("s", &[event(Phase::Root, 2000), event(Phase::Ready, 9000)]), 1_009_000).unwrap();
    let state = node.state(1_010_000);
    assert_eq!((state.phase, state.ready, state.failure), (Phase::Ready, true, None));
    assert_eq!(state.timeline, [(Phase::Root, 2000), (Phase::Ready, 9000)]);
    assert_eq!(state.boot_started, "1970-01-01T00:16:40Z");
}

#[test]
fn a_resident_that_is_silent_is_not_ready_and_says_why() {
    let mut sessions = Sessions::default();
    greet(&mut sessions, Some(owner("a")), MAC, "s", 0);
    let node = sessions.report(report("s", &[event(Phase::Ready, 9000)]), 1_000_000).unwrap();
    assert!(node.state(1_000_000 + SILENCE_MS).ready);
    let state = node.state(1_000_001 + SILENCE_MS);
    assert!(!state.ready && state.failure.unwrap().contains("silent since 90 s"));
    let again = sessions.asks_for_orders("s", 2_000_000).unwrap().state(2_000_000);
    assert!(again.ready && again.failure.is_none());
}

#[test]
fn a_script_fetched_by_somebody_else_does_not_end_a_session() {
    let mut sessions = Sessions::default();
    greet(&mut sessions, Some(owner("a")), MAC, "s", 0);
    sessions.report(report("s", &[event(Phase::Ready, 9000)]), 1_000_000).unwrap();
    sessions.loading(Some(owner("a")), MAC, Some(V1), 1_001_000);
    assert!(!sessions.reports(1_001_000)[0].state.ready);
    sessions.asks_for_orders("s", 1_002_000).unwrap();
    assert!(sessions.reports(1_002_000)[0].state.ready);
}

#[test]
fn a_failure_is_shown_until_the_node_is_ready() {
    let mut sessions = Sessions::default();
    greet(&mut sessions, None, MAC, "s", 0);
    let failed = Event { phase: Phase::Failed, uptime_ms: 2000, detail: "verity:\nblock 7".into() };
    let node = sessions.report(report("s", &[event(Phase::Manifest, 1000), failed.clone()]), 0).unwrap();
    assert_eq!((node.phase, node.failure.as_deref()), (Phase::Failed, Some("verity: block 7")));
    // The node boots again: a new session, the reason of the last one stays until this one is through.
    greet(&mut sessions, None, MAC, "t", 0);
    assert_eq!(sessions.report(report("s", &[]), 0), Err(SessionOver));
    let node = sessions.report(report("t", &[event(Phase::Root, 1500)]), 0).unwrap();
    assert_eq!((node.phase, node.failure.as_deref()), (Phase::Root, Some("verity: block 7")));
    let node = sessions.report(report("t", &[event(Phase::Ready, 9000)]), 0).unwrap();
    assert_eq!((node.phase, node.failure), (Phase::Ready, None));
}

#[test]
fn each_order_is_given_once_and_none_from_before_the_boot() {
    let mut sessions = Sessions::default();
    let node = greet(&mut sessions, Some(owner("a")), MAC, "s", 3);
    assert!(!node.orders(0, 3).reboot);
    assert_eq!(node.orders(3, 4), Orders { number: 4, reboot: true, kexec: None });
    assert_eq!(node.orders(4, 4), Orders { number: 4, reboot: false, kexec: None });
    let node = greet(&mut sessions, Some(owner("a")), MAC, "t", 4);
    assert!(!node.orders(0, 4).reboot);
}

#[test]
fn what_was_written_down_goes_on() {
    let mut sessions = Sessions::default();
    greet(&mut sessions, Some(owner("a")), MAC, "s", 0);
    let node = sessions.report(report("s", &[event(Phase::Ready, 9000)]), 1_000_000).unwrap();
    let text = serde_json::to_string(&node).unwrap();
    let mut restored = Sessions::restore([serde_json::from_str(&text).unwrap()], 5_000_000);
    assert!(restored.reports(5_000_000)[0].state.ready);
    assert!(restored.asks_for_orders("s", 5_000_000).is_ok());
}

#[test]
fn a_stranger_that_gets_an_object_keeps_its_session() {
    let mut sessions = Sessions::default();
    greet(&mut sessions, None, MAC, "s", 0);
    let gone = sessions.reassign(|_| Some(owner("a")), |_| true);
    assert_eq!(gone, [NodeKey::Stranger(MAC)]);
    assert_eq!(sessions.of_session("s").unwrap().owner, Some(owner("a")));
    let gone = sessions.reassign(|_| None, |_| false);
    assert_eq!((gone, sessions.nodes().count()), (vec![NodeKey::Owner(owner("a"))], 0));
}

#[test]
fn strangers_are_bounded() {
    let mut sessions = Sessions::default();
    greet(&mut sessions, Some(owner("a")), MAC, "s", 0);
    for number in 0..2000_u16 {
        let [high, low] = number.to_be_bytes();
        sessions.loading(None, MacAddr([2, 0, 0, 1, high, low]), Some(V1), 1_000_000 + u64::from(number));
    }
    assert_eq!(sessions.nodes().count(), STRANGERS + 1);
    assert!(sessions.of_session("s").is_ok());
}

/// The version that boots, boots of it that failed, and the last one that came up.
fn boots(sessions: &Sessions) -> (Option<Digest>, u32, Option<Digest>) {
    let state = sessions.reports(2_000_000).remove(0).state;
    (state.boots, state.failed_boots, state.good_image)
}

#[test]
fn boots_that_do_not_come_up_are_counted_by_version_whether_they_said_hello_or_not() {
    let mut sessions = Sessions::default();
    let load = |sessions: &mut Sessions, image, at| sessions.loading(Some(owner("a")), MAC, Some(image), at);
    assert!(load(&mut sessions, V1, 1_000));
    // A script that is fetched again at once is of the same boot, and so is the hello after it.
    assert!(!load(&mut sessions, V1, 5_000));
    greet(&mut sessions, Some(owner("a")), MAC, "s", 0);
    assert_eq!(boots(&sessions), (Some(V1), 0, None));
    // It died; twice it did not even say hello.
    assert!(load(&mut sessions, V1, 1_100_000) && load(&mut sessions, V1, 1_200_000));
    assert_eq!(boots(&sessions), (Some(V1), 2, None));
    greet(&mut sessions, Some(owner("a")), MAC, "t", 0);
    assert_eq!(boots(&sessions).1, 2);
    let node = sessions.report(report("t", &[event(Phase::Ready, 9000)]), 1_300_000).unwrap();
    assert_eq!(boots(&sessions), (Some(V1), 0, Some(V1)));
    // It is on disk as it was.
    let text = serde_json::to_string(&node).unwrap();
    assert_eq!(boots(&Sessions::restore([serde_json::from_str(&text).unwrap()], 0)), (Some(V1), 0, Some(V1)));
    // Another version begins at zero, and the one that works is remembered.
    load(&mut sessions, V2, 2_000_000);
    load(&mut sessions, V2, 2_100_000);
    assert_eq!(boots(&sessions), (Some(V2), 1, Some(V1)));
    // Each boot takes seven seconds, and each third one is counted.
    for number in 1..=6 {
        load(&mut sessions, V2, 2_100_000 + number * 7_000);
    }
    assert_eq!(boots(&sessions), (Some(V2), 3, Some(V1)));
    // A version that it is given in between is another one at once; waiting for it is no boot.
    load(&mut sessions, V1, 2_143_000);
    assert!(!sessions.loading(Some(owner("a")), MAC, None, 2_200_000));
    assert_eq!(boots(&sessions), (Some(V1), 0, Some(V1)));
}

#[test]
fn a_kernel_that_was_started_by_the_running_one_counts_as_a_boot() {
    let mut sessions = Sessions::default();
    greet(&mut sessions, Some(owner("a")), MAC, "s", 0);
    greet(&mut sessions, Some(owner("a")), MAC, "t", 0);
    assert_eq!(boots(&sessions), (Some(V1), 1, None));
    // A node that runs and lost its session has not booted.
    let (hello, session) = (Hello { orders_seen: Some(0), ..hello(MAC) }, "u".to_owned());
    let greeting = Greeting {
        owner: Some(owner("a")),
        hello: &hello,
        session,
        image: V1,
        reboots_requested: 0,
        remarks: Vec::new(),
    };
    sessions.hello(greeting, 1_000_000);
    assert_eq!(boots(&sessions), (Some(V1), 1, None));
}

#[test]
fn a_node_that_goes_on_has_not_booted_whoever_loads_in_its_name() {
    let mut sessions = Sessions::default();
    greet(&mut sessions, Some(owner("a")), MAC, "s", 0);
    sessions.report(report("s", &[event(Phase::Ready, 9000)]), 1_000_000).unwrap();
    for number in 0..9 {
        sessions.loading(Some(owner("a")), MAC, Some(V1), 1_100_000 + number * 100_000);
        sessions.asks_for_orders("s", 1_101_000 + number * 100_000).unwrap();
    }
    assert_eq!(boots(&sessions), (Some(V1), 0, Some(V1)));
}

proptest! {
    #[test]
    fn reports_in_any_order_and_number_are_bounded_and_idempotent(
        events in proptest::collection::vec((0_u64..12, 0_u64..40, ".{0,20}"), 0..200),
    ) {
        let phases = [Phase::Init, Phase::Network, Phase::Manifest, Phase::Root, Phase::Switched, Phase::Ready, Phase::Failed];
        let mut sessions = Sessions::default();
        greet(&mut sessions, None, MAC, "s", 0);
        let mut furthest = Phase::Unknown;
        for (index, uptime_ms, detail) in events {
            let phase = phases[usize::try_from(index).unwrap() % phases.len()];
            let event = Event { phase, uptime_ms, detail };
            let once = sessions.report(report("s", std::slice::from_ref(&event)), 0).unwrap();
            let twice = sessions.report(report("s", &[event]), 0).unwrap();
            prop_assert_eq!(&once, &twice);
            prop_assert!(once.events.len() <= EVENTS);
            if once.phase != Phase::Failed && furthest != Phase::Failed {
                prop_assert!(once.phase >= furthest);
            }
            furthest = once.phase;
        }
    }
}
