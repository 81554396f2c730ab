//! The clients, and what each says that it was given.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use stoke_api::MacAddr;
use stoke_dhcp::wire::option;
use testbed::peers::Peers;

use super::servers::SCRIPT;
use super::{Answers, Given};
use crate::packets::{DISCOVER, Message, OFFER, REQUEST, Reply, ask, receive};
use crate::world::{CLIENT, World, wait_for};

/// Machines that ask.
pub(super) const MACS: [MacAddr; 2] = [STRANGER, CLIENT];
/// A machine that nobody knows.
const STRANGER: MacAddr = MacAddr([0x52, 0x54, 0, 0x77, 0, 2]);
const BROADCAST: (Ipv4Addr, u16) = (Ipv4Addr::BROADCAST, 67);
/// What firmware says that it is.
pub(super) const UUID: &str = "0x61:0000112233445566778899aabbccddeeff";
/// How long a silence is listened to.
const SILENCE: Duration = Duration::from_secs(3);

/// Runs all clients in turn.
pub(super) fn run_all(peers: &Peers, world: &World) -> Vec<(&'static str, Given)> {
    let mut all = vec![];
    for (name, mac) in [("dhcpcd", STRANGER), ("dhclient", STRANGER), ("dhclient (known)", CLIENT)] {
        set_mac(world, mac);
        all.push((name, if name == "dhcpcd" { dhcpcd(world) } else { dhclient(world) }));
    }
    for (name, mac, arguments) in udhcpc_runs() {
        set_mac(world, mac);
        all.push((name, udhcpc(world, &arguments)));
    }
    all.extend(packets(world));
    all.push(("perfdhcp", perfdhcp(peers, world)));
    all
}

/// That the clients had answers at all, and what they cannot do without.
pub(super) fn expect_enough(ours: &Answers) {
    let expected = [
        ("udhcpc", "address", "of the pool"),
        ("udhcpc", "mask", "24"),
        ("udhcpc", "router (3)", "10.77.0.1"),
        ("udhcpc", "DNS servers (6)", "10.77.0.1"),
        ("udhcpc", "domain (15)", "lab.internal"),
        ("udhcpc", "lease", "3600"),
        ("udhcpc (known)", "address", "10.77.0.21"),
        ("udhcpc as UEFI PXE (known)", "siaddr", "10.77.0.1"),
        ("udhcpc as UEFI PXE (known)", "file", "snponly.efi"),
        ("udhcpc as iPXE (known)", "file", SCRIPT),
        ("dhclient", "address", "of the pool"),
        ("dhclient", "subnet mask (1)", "255.255.255.0"),
        ("dhclient (known)", "address", "10.77.0.21"),
        ("dhcpcd", "address", "of the pool"),
        ("dhcpcd", "MTU (26)", "1500"),
        ("perfdhcp", "leases", "8"),
    ];
    for (client, what, value) in expected {
        assert_eq!(ours[client].get(what).map(String::as_str), Some(value), "{client}, {what}: {ours:#?}");
    }
}

fn set_mac(world: &World, mac: MacAddr) {
    for command in [&["address", "flush", "dev", "lan0"][..], &["link", "set", "lan0", "address", &mac.to_string()]] {
        let output = world.as_client(&[&["ip"], command].concat());
        assert!(output.status.success(), "{command:?}: {output:?}");
    }
}

/// An environment with nothing in it that a client has not put there.
fn clean(world: &World) -> [String; 3] {
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    let _ = std::fs::remove_file(world.path("given"));
    ["env".to_owned(), "-i".to_owned(), path]
}

/// A script that writes down what it was called with, an event a line.
fn script(world: &World) -> String {
    let log = world.path("given").display().to_string();
    world.script("note", &format!("{{ echo \"event=$1$reason\"; env; }} | tr '\\n' '\\t' >>{log}\necho >>{log}\n"))
}

/// What the script was called with at one of these events, if it was.
fn event(world: &World, names: &[&str]) -> Option<Given> {
    let text = std::fs::read_to_string(world.path("given")).unwrap_or_default();
    let pairs = |line: &str| -> Given {
        let pairs = line.split('\t').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
    };
    // A line that is not yet whole is no event.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(pairs).find(|event| event.get("event").is_some_and(|name| names.contains(&name.as_str())))
}

/// What `udhcpc` is told to ask for, by whom.
fn udhcpc_runs() -> Vec<(&'static str, MacAddr, Vec<&'static str>)> {
    let pxe = |class, architecture| {
        vec!["-V", class, "-x", architecture, "-x", "0x5e:010300", "-x", UUID, "-O", "tftp", "-O", "bootfile"]
    };
    let uefi = || pxe("PXEClient:Arch:00007:UNDI:003001", "0x5d:0007");
    let with = |mut all: Vec<_>, more: &[&'static str]| {
        all.extend(more);
        all
    };
    vec![
        ("udhcpc", STRANGER, vec![]),
        ("udhcpc that asks for all", STRANGER, ALL.to_vec()),
        ("udhcpc (known)", CLIENT, vec!["-O", "hostname"]),
        ("udhcpc as UEFI PXE", STRANGER, uefi()),
        ("udhcpc as UEFI PXE (known)", CLIENT, uefi()),
        ("udhcpc as BIOS PXE (known)", CLIENT, pxe("PXEClient:Arch:00000:UNDI:002001", "0x5d:0000")),
        ("udhcpc as UEFI HTTP (known)", CLIENT, pxe("HTTPClient:Arch:00016:UNDI:003001", "0x5d:0010")),
        ("udhcpc as iPXE (known)", CLIENT, with(uefi(), &["-x", "0x4d:69505845", "-x", "0xaf:130101240101"])),
    ]
}

const ALL: [&str; 20] = [
    "-O",
    "subnet",
    "-O",
    "router",
    "-O",
    "dns",
    "-O",
    "hostname",
    "-O",
    "domain",
    "-O",
    "mtu",
    "-O",
    "broadcast",
    "-O",
    "ntpsrv",
    "-O",
    "search",
    "-O",
    "staticroutes",
];

fn udhcpc(world: &World, arguments: &[&str]) -> Given {
    let (environment, script) = (clean(world), script(world));
    let fixed = ["udhcpc", "-i", "lan0", "-f", "-q", "-n", "-t", "20", "-T", "2", "-s", &script];
    let environment = environment.each_ref().map(String::as_str);
    let output = world.as_client(&[&environment[..], &fixed, arguments].concat());
    let given = event(world, &["bound"]).unwrap_or_else(|| panic!("udhcpc has no lease: {output:?}"));
    let own = |name: &String| name.starts_with(|first: char| first.is_ascii_lowercase());
    given.into_iter().filter(|(name, _)| own(name) && !["event", "interface"].contains(&name.as_str())).collect()
}

/// What a client's script finds under `new_`.
fn renamed(given: &Given) -> Given {
    let new = |(name, value): (&String, &String)| Some((name.strip_prefix("new_")?.to_owned(), value.clone()));
    // When it ends depends on when it began.
    given.iter().filter_map(new).filter(|(name, _)| name != "expiry").collect()
}

fn dhclient(world: &World) -> Given {
    let (environment, script) = (clean(world), script(world));
    let [leases, pid, config] = ["dhclient.leases", "dhclient.pid", "dhclient.conf"].map(|name| world.path(name));
    let _ = std::fs::remove_file(&leases);
    let request = "request subnet-mask, broadcast-address, routers, domain-name, domain-name-servers, domain-search, host-name, interface-mtu, ntp-servers;\n";
    std::fs::write(&config, request).unwrap();
    let [leases, pid, config] = [leases, pid, config].map(|path| path.display().to_string());
    let fixed = ["dhclient", "-4", "-d", "-1", "-sf", &script, "-lf", &leases, "-pf", &pid, "-cf", &config, "lan0"];
    let environment = environment.each_ref().map(String::as_str);
    let _running = world.spawn_as_client(&[&environment[..], &fixed].concat());
    let mut given = None;
    wait_for("dhclient to have a lease", || {
        given = event(world, &["BOUND"]);
        given.is_some()
    });
    renamed(&given.unwrap())
}

fn dhcpcd(world: &World) -> Given {
    let (environment, script) = (clean(world), script(world));
    // It has no word for where its files are.
    let mounts = "for folder in /run /var/lib/dhcpcd; do mount -t tmpfs own $folder || exit; done; exec \"$@\"";
    let own = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mounts, "sh"];
    // Without probing, once, in the foreground.
    let client = [
        "timeout",
        "55",
        "dhcpcd",
        "-4",
        "-1",
        "-B",
        "-A",
        "-f",
        "/dev/null",
        "-o",
        "interface_mtu",
        "-c",
        &script,
        "lan0",
    ];
    let environment = environment.each_ref().map(String::as_str);
    let output = world.as_client(&[&environment[..], &own, &client].concat());
    let given = event(world, &["BOUND"]).unwrap_or_else(|| panic!("dhcpcd has no lease: {output:?}"));
    renamed(&given)
}

/// Packets of our own, for what no client asks.
fn packets(world: &World) -> Vec<(&'static str, Given)> {
    set_mac(world, STRANGER);
    let socket = world.socket(true, 68);
    let plain = |kind, xid| Message::new(kind, STRANGER, xid);
    let offer = ask(&socket, BROADCAST, &plain(DISCOVER, 2), |reply| reply.kind == OFFER);
    let (server, yours) = (offer.server().unwrap().octets(), offer.yours.octets());
    let lists = [&[1, 3, 6, 12, 15, 26, 28, 42, 51, 54, 58, 59, 66, 67, 119][..], &[1]];
    let [many, one] = lists.map(|list| plain(DISCOVER, 3).with(option::PARAMETER_LIST, list));
    let request = |xid| plain(REQUEST, xid);
    let foreign = [10, 99, 0, 7];
    let chosen = request(4).with(option::REQUESTED_ADDRESS, &yours).with(option::SERVER_ID, &server);
    let messages = [
        ("a DISCOVER without option 55", plain(DISCOVER, 5)),
        ("a DISCOVER that asks for much", Message { xid: 6, ..many }),
        ("a DISCOVER that asks for the mask alone", Message { xid: 7, ..one }),
        ("a REQUEST of what was offered", chosen.clone()),
        ("the same REQUEST again", Message { xid: 8, ..chosen.clone() }),
        ("a REQUEST after a reboot", request(9).with(option::REQUESTED_ADDRESS, &yours)),
        ("a REQUEST after a move from elsewhere", request(10).with(option::REQUESTED_ADDRESS, &foreign)),
        ("a REQUEST of another's address", request(11).with(option::REQUESTED_ADDRESS, &[10, 77, 0, 21])),
        ("a REQUEST to another server", Message { xid: 12, ..chosen.clone() }),
        ("an INFORM", Message { client: Ipv4Addr::from(yours), ..plain(8, 13) }),
    ];
    let mut all = vec![];
    for (name, mut message) in messages {
        if name == "an INFORM" {
            // Who informs itself has its address, and is answered there.
            let own = format!("{}/24", message.client);
            let _ = world.as_client(&["ip", "address", "add", &own, "dev", "lan0"]);
        }
        if name.ends_with("another server") {
            message.options.retain(|(code, _)| *code != option::SERVER_ID);
            message = message.with(option::SERVER_ID, &[10, 77, 0, 99]);
        }
        all.push((name, dump(answer(&socket, &message).as_ref())));
    }
    all
}

/// The answer to a message, if there is any: it is sent again while others are answered.
fn answer(socket: &UdpSocket, message: &Message) -> Option<Reply> {
    for round in 0..4 {
        socket.send_to(&message.bytes(), BROADCAST).unwrap();
        // Whoever answers this has had time for the other.
        let other = Message::new(DISCOVER, MacAddr([0x52, 0x54, 0, 0x77, 0, 3]), 0x100 + round);
        socket.send_to(&other.bytes(), BROADCAST).unwrap();
        let (begin, mut heard) = (Instant::now(), false);
        while begin.elapsed() < SILENCE || (!heard && begin.elapsed() < 10 * SILENCE) {
            match receive(socket) {
                Some(reply) if reply.xid == message.xid => return Some(reply),
                Some(reply) => heard |= reply.xid == other.xid,
                None => {}
            }
        }
    }
    None
}

/// All that an answer says.
fn dump(reply: Option<&Reply>) -> Given {
    let Some(reply) = reply else { return [("answer".to_owned(), "none".to_owned())].into() };
    let kind = match reply.kind {
        2 => "OFFER",
        5 => "ACK",
        6 => "NAK",
        _ => "other",
    };
    let mut given: Given =
        [("answer".to_owned(), kind.to_owned()), ("yiaddr".to_owned(), reply.yours.to_string())].into();
    given.insert("siaddr".to_owned(), reply.next_server.to_string());
    given.insert("file".to_owned(), reply.file.clone());
    for code in (1..=254).filter(|code| *code != option::MESSAGE_TYPE) {
        if let Some(data) = reply.options.get(code) {
            given.insert(format!("option {code}"), readable(code, data));
        }
    }
    given
}

fn readable(code: u8, data: &[u8]) -> String {
    match (code, data) {
        (12 | 15 | 56 | 60 | 66 | 67, text) => String::from_utf8_lossy(text).into_owned(),
        (51 | 58 | 59, &[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]).to_string(),
        (26, &[a, b]) => u16::from_be_bytes([a, b]).to_string(),
        (_, &[a, b, c, d]) => Ipv4Addr::new(a, b, c, d).to_string(),
        (_, bytes) => {
            let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
            digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
        }
    }
}

/// Eight clients behind a relay, which perfdhcp plays: its statistics.
fn perfdhcp(peers: &Peers, world: &World) -> Given {
    let _ = world.as_client(&["ip", "address", "replace", "10.77.0.2/24", "dev", "lan0"]);
    let words = peers.words("/usr/sbin/perfdhcp");
    let words = words.each_ref().map(String::as_str);
    // Nothing is given up for half a minute, and its random numbers are the same each time.
    let fixed = [
        "-4",
        "-l",
        "10.77.0.2",
        "-n",
        "8",
        "-r",
        "4",
        "-R",
        "8",
        "-W",
        "20000000",
        "-d",
        "30",
        "-u",
        "-s",
        "1",
        "10.77.0.1",
    ];
    let output = world.as_client(&[&words[..], &fixed].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let (_, acks) =
        text.split_once("***Statistics for: REQUEST-ACK***").unwrap_or_else(|| panic!("perfdhcp: {output:?}"));
    let line = |name: &str| acks.lines().find_map(|line| line.strip_prefix(name));
    let value = |name: &str| line(name).unwrap_or_default().trim_start_matches(':').trim().to_owned();
    [
        ("leases", "received packets"),
        ("lost", "drops"),
        ("addresses twice", "non unique addresses"),
        ("refused", "rejected leases"),
    ]
    .map(|(what, name)| (what.to_owned(), value(name)))
    .into()
}
