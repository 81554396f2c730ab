use std::path::Path;

use serde_json::json;
use stoke_api::{Kind, ObjectRef};
use testbed::bmc::{IpmiServer, USER};

use super::*;

const LIMIT: Duration = Duration::from_mins(2);

fn task(server: &IpmiServer) -> BmcTask {
    let ipmi = json!({
        "address": server.address, "port": server.port(), "user": USER,
        "password": {"file": server.password_file()}, "cipherSuite": 3,
    });
    let spec = serde_json::from_value(json!({"ipmi": ipmi, "networkBoot": "Bios"})).unwrap();
    let server = ObjectRef { kind: Kind::Server, namespace: None, name: "rack1-07".parse().unwrap() };
    BmcTask { server, uuid: None, spec, wanted: None, requests: 0, cycles: 0 }
}

fn open(folder: &Path) -> Controllers {
    Controllers::open(Arc::new(LocalStore::open(&folder.join("store")).unwrap()), Arc::default()).unwrap()
}

/// Rounds until it is as it should be; all that happened.
fn until(controllers: &mut Controllers, task: &BmcTask, what: impl Fn(&BmcSeen) -> bool) -> Vec<String> {
    let begin = Instant::now();
    let mut events = Vec::new();
    loop {
        events.extend(controllers.collect().unwrap().into_iter().map(|event| event.message));
        controllers.carry_out(std::slice::from_ref(task), &BTreeMap::new()).unwrap();
        if controllers.seen().values().any(&what) {
            return events;
        }
        assert!(begin.elapsed() < LIMIT, "{:?} {events:?}", controllers.seen());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_wanted_is_done_once_also_by_who_comes_after() {
    let folder = tempfile::tempdir().unwrap();
    let server = IpmiServer::start().unwrap();
    let mut first = open(folder.path());
    let idle = task(&server);
    assert_eq!(until(&mut first, &idle, |seen| seen.power == Some(Power::Off)), [""; 0]);

    let on = BmcTask { wanted: Some(Power::On), requests: 1, ..idle };
    let events = until(&mut first, &on, |seen| seen.requests_done == 1);
    assert_eq!(events, ["switched on by its management controller"]);
    assert_eq!(server.next_boot().as_deref(), Some("pxe"));
    let guest = server.guest().unwrap();

    let cycled = BmcTask { cycles: 1, ..on };
    let another = |server: &IpmiServer| server.guest().is_some_and(|now| now != guest);
    until(&mut first, &cycled, |_| another(&server));
    let guest = server.guest().unwrap();
    drop(first);

    // Its own request has come true, and the power cycle is not begun again.
    let mut second = open(folder.path());
    assert_eq!(until(&mut second, &cycled, |seen| seen.power == Some(Power::On)), [""; 0]);
    assert_eq!(server.guest(), Some(guest));
    let off = BmcTask { wanted: Some(Power::Off), requests: 2, ..cycled };
    let events = until(&mut second, &off, |seen| seen.requests_done == 2);
    assert_eq!(events, ["asked to shut down by its management controller"]);
    assert_eq!(server.guest(), None);
}

#[test]
fn a_password_that_others_may_read_is_not_used_and_nothing_is_counted_as_done() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "x").unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o644)).unwrap();
    let ipmi = json!({"address": "127.0.0.1", "port": 9, "user": "a", "password": {"file": password}});
    let spec = serde_json::from_value(json!({"ipmi": ipmi})).unwrap();
    let server = ObjectRef { kind: Kind::Server, namespace: None, name: "a".parse().unwrap() };
    let wanted = BmcTask { server, uuid: None, spec, wanted: None, requests: 0, cycles: 1 };
    let mut controllers = open(folder.path());
    // As if it had answered before.
    controllers.pace.entry(wanted.server.to_string()).or_default().inventory = Some(Instant::now());
    until(&mut controllers, &wanted, |seen| seen.last_error.contains("chmod 0600"));
    assert_eq!(controllers.done.values().copied().collect::<Vec<_>>(), [Done::default()]);
}

#[test]
fn a_system_that_does_not_shut_down_is_switched_off() {
    let server = ObjectRef { kind: Kind::Server, namespace: None, name: "a".parse().unwrap() };
    let spec = stoke_api::objects::BmcSpec::default();
    let task = BmcTask { server, uuid: None, spec, wanted: Some(Power::Off), requests: 1, cycles: 0 };
    let (begin, mut pace) = (Instant::now(), Pace::default());
    let order = |pace: &Pace, after: Duration| pace.order(&task, Done::default(), begin + after);
    let off = |switch| Some(Order::Bring(Power::Off, switch));
    assert_eq!(order(&pace, Duration::ZERO), off(Switch::ShutDown));
    pace.shut_down = Some((1, begin));
    pace.ordered = Some((1, Switch::ShutDown, begin));
    assert_eq!(order(&pace, EAGER), None);
    assert_eq!(order(&pace, SHUT_DOWN), off(Switch::Off));
    pace.ordered = Some((1, Switch::Off, begin + SHUT_DOWN));
    assert_eq!(order(&pace, SHUT_DOWN + EAGER), None);
    assert_eq!(order(&pace, SHUT_DOWN + PATIENCE), off(Switch::Off));
    assert_eq!(pace.order(&task, Done { requests: 1, cycles: 0 }, begin), None);
}
