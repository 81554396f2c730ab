//! The servers: each is told the same of one LAN, as far as it has words for it.

use std::net::{Ipv4Addr, UdpSocket};

use serde_json::{Value, json};
use stoke_api::MacAddr;
use stoke_api::workload::RouterConfig;
use testbed::peers::Peers;

use crate::packets::{DISCOVER, Message, ask};
use crate::world::{Role, Running, World};

const FIRST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const LAST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 199);
/// Who asks until the server is there.
const FIRST_CLIENT: MacAddr = MacAddr([0x52, 0x54, 0, 0x77, 0, 9]);
/// What iPXE goes on with.
pub(super) const SCRIPT: &str = "http://10.77.0.1/v1/boot.ipxe?mac=52:54:00:77:00:01";

/// Who is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Ours,
    Kea,
    Dnsmasq,
}

/// A running server.
#[expect(dead_code, reason = "they run for as long as they are held")]
pub(super) enum Server {
    Ours(Role),
    Theirs(Running),
}

impl Side {
    /// Starts it, and waits until it offers an address.
    pub(super) fn start(self, peers: &Peers, world: &World) -> Server {
        let server = match self {
            Self::Ours => Server::Ours(world.start(&ours(world))),
            Self::Kea => Server::Theirs(kea(peers, world)),
            Self::Dnsmasq => Server::Theirs(dnsmasq(peers, world)),
        };
        let socket: UdpSocket = world.socket(true, 68);
        ask(&socket, (Ipv4Addr::BROADCAST, 67), &Message::new(DISCOVER, FIRST_CLIENT, 1), |_| true);
        server
    }
}

/// Whether a value is an address that any client may be given.
pub(super) fn in_pool(value: &str) -> bool {
    value.parse::<Ipv4Addr>().is_ok_and(|address| (FIRST..=LAST).contains(&address))
}

fn ours(world: &World) -> RouterConfig {
    let mut config = world.config();
    for subnet in &mut config.subnets {
        subnet.pools = vec![format!("{FIRST}-{LAST}").parse().unwrap()];
    }
    config
}

fn dnsmasq(peers: &Peers, world: &World) -> Running {
    let own = ["dnsmasq.leases", "dnsmasq.pid"].map(|name| world.path(name).display().to_string());
    let [leases, pid] = [format!("--dhcp-leasefile={}", own[0]), format!("--pid-file={}", own[1])];
    let range = format!("--dhcp-range={FIRST},{LAST},255.255.255.0,1h");
    let script = format!("--dhcp-boot=tag:ipxe,{SCRIPT},,10.77.0.1");
    let fixed = ["--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--port=0", "--no-ping"];
    let network = ["--interface=lan0", "--dhcp-authoritative", "--domain=lab.internal", &range, &leases, &pid];
    let options = ["--dhcp-option=option:dns-server,10.77.0.1", "--dhcp-option=option:mtu,1500"];
    let host = ["--dhcp-host=52:54:00:77:00:01,10.77.0.21,node-1"];
    let boot = [
        "--dhcp-match=set:bios,option:client-arch,0",
        "--dhcp-match=set:uefi,option:client-arch,7",
        "--dhcp-match=set:http,option:client-arch,16",
        "--dhcp-userclass=set:ipxe,iPXE",
        "--dhcp-boot=tag:bios,tag:!ipxe,undionly.kpxe,,10.77.0.1",
        "--dhcp-boot=tag:uefi,tag:!ipxe,snponly.efi,,10.77.0.1",
        "--dhcp-boot=tag:http,http://10.77.0.1/v1/blob/sha256/ab.efi,,10.77.0.1",
        "--dhcp-option-force=tag:http,60,HTTPClient",
        &script,
    ];
    let words = peers.words("/usr/sbin/dnsmasq");
    let words = words.each_ref().map(String::as_str);
    world.spawn_as_router("dnsmasq.log", &[&words[..], &fixed, &network, &options, &host, &boot].concat())
}

fn kea(peers: &Peers, world: &World) -> Running {
    let file = world.path("kea.conf");
    std::fs::write(&file, kea_config(world).to_string()).unwrap();
    let folder = world.folder.path().display();
    let own = ["KEA_PIDFILE_DIR", "KEA_LOCKFILE_DIR"].map(|name| format!("{name}={folder}"));
    let (words, file) = (peers.words("/usr/sbin/kea-dhcp4"), file.display().to_string());
    let words = words.each_ref().map(String::as_str);
    let environment = ["env", &own[0], &own[1]];
    world.spawn_as_router("kea.log", &[&environment[..], &words, &["-c", &file]].concat())
}

fn kea_config(world: &World) -> Value {
    let option = |name: &str, data: &str| json!({"name": name, "data": data});
    let class = |name: &str, architecture: u16, file: &str| {
        let test = format!("substring(option[93].hex,0,2) == 0x{architecture:04x} and not (option[77].hex == 'iPXE')");
        json!({"name": name, "test": test, "next-server": "10.77.0.1", "boot-file-name": file})
    };
    let mut http = class("http", 16, "http://10.77.0.1/v1/blob/sha256/ab.efi");
    http["option-data"] = json!([{"name": "vendor-class-identifier", "data": "HTTPClient", "always-send": true}]);
    let ipxe = json!({"name": "ipxe", "test": "option[77].hex == 'iPXE'", "next-server": "10.77.0.1", "boot-file-name": SCRIPT});
    json!({"Dhcp4": {
        "interfaces-config": {"interfaces": ["lan0"], "dhcp-socket-type": "raw"},
        "lease-database": {"type": "memfile", "persist": true, "lfc-interval": 0, "name": world.path("kea.leases")},
        "multi-threading": {"enable-multi-threading": false},
        "authoritative": true,
        "valid-lifetime": 3600,
        "renew-timer": 1800,
        "rebind-timer": 3150,
        "client-classes": [class("bios", 0, "undionly.kpxe"), class("uefi", 7, "snponly.efi"), http, ipxe],
        "subnet4": [{
            "id": 1, "subnet": "10.77.0.0/24", "pools": [{"pool": format!("{FIRST} - {LAST}")}],
            "option-data": [
                option("routers", "10.77.0.1"), option("domain-name-servers", "10.77.0.1"),
                option("domain-name", "lab.internal"), option("interface-mtu", "1500"),
            ],
            "reservations": [{"hw-address": "52:54:00:77:00:01", "ip-address": "10.77.0.21", "hostname": "node-1"}],
        }],
        "loggers": [{"name": "kea-dhcp4", "severity": "ERROR", "output_options": [{"output": "stderr"}]}],
    }})
}
