//! DHCP with the clients that Debian and busybox have, across crashes and changes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use stoke_api::objects::UnknownClients;

use crate::world::{CLIENT, RESERVED, Role, Running, World, wait_for};

/// What a client's script was called with, newest last: event and environment.
type Events = Vec<BTreeMap<String, String>>;

struct Client<'a> {
    world: &'a World,
    script: String,
    log: PathBuf,
}

impl<'a> Client<'a> {
    fn new(world: &'a World) -> Self {
        let (script, log) = (world.path("script"), world.path("events"));
        // An event is one line, so that it is seen whole or not at all. An address is set as a real script would, so that
        // the client can renew.
        let text = format!(
            "#!/bin/sh\n[ -n \"$ip\" ] && ip address replace \"$ip/${{mask:-24}}\" dev \"$interface\"\n\
             {{ echo \"event=$1$reason\"; env; }} | tr '\\n' '\\t' >>{log}\necho >>{log}\n",
            log = log.display()
        );
        let source = world.path("script.text");
        std::fs::write(&source, text).unwrap();
        // By a program of its own: what this process writes cannot be executed while a child that it has forked, and that
        // has not yet executed its program, has it open, too.
        let installed = std::process::Command::new("install").arg("-m755").args([&source, &script]).status().unwrap();
        assert!(installed.success(), "install: {installed}");
        Self { world, script: script.display().to_string(), log }
    }

    fn events(&self) -> Events {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let event = |line: &str| {
            let pairs = line.split('\t').filter_map(|pair| pair.split_once('='));
            pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        text.lines().map(event).collect()
    }

    /// Runs udhcpc once; what it was given.
    fn udhcpc(&self, arguments: &[&str]) -> Option<BTreeMap<String, String>> {
        let _ = std::fs::remove_file(&self.log);
        let fixed = ["udhcpc", "-i", "lan0", "-f", "-q", "-n", "-t", "3", "-T", "1", "-s", &self.script];
        self.world.as_client(&[&fixed, arguments].concat());
        self.events().into_iter().find(|event| event["event"] == "bound")
    }

    /// Starts udhcpc to stay.
    fn udhcpc_stays(&self) -> Running {
        self.world.spawn_as_client(&["udhcpc", "-i", "lan0", "-f", "-t", "5", "-T", "1", "-s", &self.script])
    }

    fn wait(&self, event: &str) -> BTreeMap<String, String> {
        let mut found = None;
        wait_for(&format!("the client's event {event}"), || {
            found = self.events().into_iter().rev().find(|candidate| candidate["event"] == event);
            found.is_some()
        });
        found.unwrap()
    }

    /// Runs dhclient until it has a lease, with a memory of its own if it ran before.
    fn dhclient(&self) -> BTreeMap<String, String> {
        let _ = std::fs::remove_file(&self.log);
        let [leases, pid] = ["dhclient.leases", "dhclient.pid"].map(|name| self.world.path(name).display().to_string());
        let fixed =
            ["dhclient", "-4", "-d", "-1", "-sf", &self.script, "-lf", &leases, "-pf", &pid, "-cf", "/dev/null"];
        let running = self.world.spawn_as_client(&[&fixed[..], &["lan0"]].concat());
        let bound = ["BOUND", "REBOOT"];
        let mut found = None;
        wait_for("dhclient to have a lease", || {
            found = self.events().into_iter().find(|event| bound.contains(&event["event"].as_str()));
            found.is_some()
        });
        let found = found.unwrap();
        let line = format!("fixed-address {};", found["new_ip_address"]);
        wait_for("dhclient to remember its lease", || {
            std::fs::read_to_string(&leases).is_ok_and(|text| text.contains(&line))
        });
        drop(running);
        found
    }
}

fn leased(role: &Role) -> Vec<String> {
    role.report().leases.iter().map(|lease| lease.address.to_string()).collect()
}

#[test]
fn a_host_gets_its_own_address_with_everything_that_it_needs() {
    let world = World::new();
    let role = world.start(&world.config());
    let given = Client::new(&world).udhcpc(&["-O", "hostname"]).expect("udhcpc gets a lease");
    let expected = [
        ("ip", "10.77.0.21"),
        ("mask", "24"),
        ("router", "10.77.0.1"),
        ("dns", "10.77.0.1"),
        ("domain", "lab.internal"),
        ("hostname", "node-1"),
        ("serverid", "10.77.0.1"),
        ("lease", "3600"),
    ];
    for (key, value) in expected {
        assert_eq!(given.get(key).map(String::as_str), Some(value), "{key} in {given:?}");
    }
    let report = role.report();
    assert_eq!((report.leases[0].mac, report.leases[0].hostname.as_deref()), (CLIENT, Some("node-1")));
    assert_eq!(report.capacity, 11);
}

#[test]
fn other_client_identifiers_of_one_machine_get_one_address() {
    let world = World::new();
    let mut config = world.config();
    config.hosts.clear();
    let _role = world.start(&config);
    let client = Client::new(&world);
    let first = client.udhcpc(&[]).expect("a lease")["ip"].clone();
    // `-C` sends none, 61 with type 255 is what systemd sends, 0 what firmware sends.
    for arguments in [&["-C"][..], &["-x", "0x3d:ff00112233000200001234"], &["-x", "0x3d:00aabbccdd"]] {
        assert_eq!(client.udhcpc(arguments).expect("a lease")["ip"], first, "{arguments:?}");
    }
    assert_eq!(client.dhclient()["new_ip_address"], first);
}

#[test]
fn a_lease_is_renewed_by_a_router_that_was_killed_in_between() {
    let world = World::new();
    let mut config = world.config();
    config.hosts.clear();
    let role = world.start(&config);
    let client = Client::new(&world);
    let udhcpc = client.udhcpc_stays();
    let address = client.wait("bound")["ip"].clone();
    let before = role.report().leases;
    role.crash();
    let role = world.start(&config);
    assert_eq!(role.report().leases, before);
    udhcpc.signal("-USR1");
    assert_eq!(client.wait("renew")["ip"], address);
    assert_eq!(leased(&role), [address]);
    // More than one if the machine is slow and the client impatient.
    assert!(role.metrics().contains("dhcp_requests_total{type=\"Request\"} "), "{}", role.metrics());
    udhcpc.signal("-USR2");
    wait_for("the lease to be released", || leased(&role).is_empty());
}

#[test]
fn dhclient_comes_back_to_its_address_and_a_wrong_one_is_refused() {
    let world = World::new();
    let mut config = world.config();
    config.hosts.clear();
    let role = world.start(&config);
    let client = Client::new(&world);
    let first = client.dhclient();
    assert_eq!(first["event"], "BOUND");
    let again = client.dhclient();
    assert_eq!((&again["event"], &again["new_ip_address"]), (&"REBOOT".to_owned(), &first["new_ip_address"]));
    // An object reserves another address for the machine: its memory is refused, and it gets the new one.
    assert_eq!(role.reload(&world.config()), (204, String::new()));
    let moved = client.dhclient();
    assert_eq!((moved["event"].as_str(), moved["new_ip_address"].clone()), ("BOUND", RESERVED.to_string()));
}

#[test]
fn each_firmware_is_told_what_it_can_boot() {
    let world = World::new();
    let role = world.start(&world.config());
    let client = Client::new(&world);
    let boot = |class: &str, architecture: &str, more: &[&str]| {
        let fixed = ["-V", class, "-x", architecture, "-O", "bootfile", "-O", "tftp", "-O", "224"];
        client.udhcpc(&[&fixed[..], more].concat()).expect("a lease")
    };
    let bios = boot("PXEClient:Arch:00000:UNDI:002001", "0x5d:0000", &[]);
    assert_eq!((bios["boot_file"].as_str(), bios["siaddr"].as_str()), ("undionly.kpxe", "10.77.0.1"));
    assert_eq!(bios["bootfile"], "undionly.kpxe");
    let uefi = boot("PXEClient:Arch:00007:UNDI:003001", "0x5d:0007", &[]);
    assert_eq!(uefi["boot_file"], "snponly.efi");
    let http = boot("HTTPClient:Arch:00016:UNDI:003001", "0x5d:0010", &[]);
    assert_eq!(http["bootfile"], "http://10.77.0.1/v1/blob/sha256/ab.efi");
    let ipxe = ["-x", "0x4d:69505845", "-x", "0xaf:130101180101"];
    let ipxe = boot("PXEClient:Arch:00000:UNDI:002001", "0x5d:0000", &ipxe);
    assert_eq!(ipxe["boot_file"], "http://10.77.0.1/v1/boot.ipxe?mac=52:54:00:77:00:01");
    let init = boot("stokehold-init", "0x5d:0000", &[]);
    assert_eq!(init["opt224"], "68747470733a2f2f31302e37372e302e313a38343433", "https://10.77.0.1:8443 in hexadecimal");
    assert!(role.report().boot_requests.contains_key("machine/node-1"));
}

#[test]
fn who_is_unknown_is_listed_and_boots_only_if_the_farm_takes_it_in() {
    let world = World::new();
    let mut config = world.config();
    config.hosts.clear();
    let role = world.start(&config);
    let client = Client::new(&world);
    let uuid = "0x61:0000112233445566778899aabbccddeeff";
    let ask =
        || client.udhcpc(&["-V", "PXEClient:Arch:00007:UNDI:003001", "-x", "0x5d:0007", "-x", uuid]).expect("a lease");
    assert!(!ask().contains_key("boot_file"));
    let strangers = role.report().strangers;
    let [stranger] = strangers.as_slice() else { panic!("{strangers:?}") };
    assert_eq!((stranger.mac, stranger.client.as_str()), (CLIENT, "UEFI x86-64"));
    assert_eq!(stranger.uuid.as_deref(), Some("00112233-4455-6677-8899-aabbccddeeff"));
    config.farms.get_mut("default/lab").unwrap().unknown_clients = UnknownClients::Boot;
    assert_eq!(role.reload(&config).0, 204);
    assert_eq!(ask()["boot_file"], "snponly.efi");
    assert_eq!(role.reload(&world.config()).0, 204);
    assert_eq!(role.report().strangers, [], "an object names it now");
}

#[test]
fn a_pool_without_free_address_answers_nobody_else() {
    let world = World::new();
    let mut config = world.config();
    config.hosts.clear();
    config.subnets[0].pools = vec!["10.77.0.100-10.77.0.100".parse().unwrap()];
    let role = world.start(&config);
    let client = Client::new(&world);
    client.udhcpc(&[]).expect("the only address");
    world.as_client(&["ip", "link", "set", "lan0", "address", "52:54:00:77:00:02"]);
    assert_eq!(client.udhcpc(&[]), None);
    assert!(role.metrics().contains("dhcp_dropped_total{reason=\"exhausted\"}"), "{}", role.metrics());
}

#[test]
fn what_is_in_the_way_is_named() {
    let world = World::new();
    let role = world.start(&world.config());
    let mut config = world.config();
    config.leases = world.path("other.journal");
    let text = world.failing_router(&config);
    assert!(text.contains("port 53 of 10.77.0.1") && text.contains("ss -"), "{text}");
    config.subnets[0].gateway = "10.77.0.2".parse().unwrap();
    let text = world.failing_router(&config);
    assert!(text.contains("cannot serve DNS") && text.contains("10.77.0.2"), "{text}");
    let text = world.failing_router(&world.config());
    assert!(text.contains("in use by another router"), "{text}");
    config.interface = "lan9".parse().unwrap();
    config.subnets.clear();
    assert!(world.failing_router(&config).contains("has no subnet"));
    config.subnets = world.config().subnets;
    drop(role);
    assert!(world.failing_router(&config).contains("interface lan9"));
}

#[test]
fn a_change_that_needs_a_new_start_is_refused_and_the_old_configuration_goes_on() {
    let world = World::new();
    let role = world.start(&world.config());
    let mut config = world.config();
    config.interface = "lan1".parse().unwrap();
    let (status, text) = role.reload(&config);
    assert_eq!(status, 422);
    assert!(text.contains("stop the router and start it again"), "{text}");
    assert!(Client::new(&world).udhcpc(&[]).is_some());
}
