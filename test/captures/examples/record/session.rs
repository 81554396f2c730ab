//! One recording: an installation, a wire with an ear on it, and who speaks.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use captures::{Conversation, Packet, Protocol, Side, frames};
use e2e::{BOOT_LIMIT, installation, object};
use testbed::machine::{Foreign, wire};
use testbed::{Process, User, World, wait_for};

use crate::peers::{End, Peer, Who};

const MAC: &str = "52:54:00:00:00:07";
const SOON: Duration = Duration::from_mins(1);

/// Records one conversation; the file.
pub(crate) fn record(peer: &Peer) -> Result<PathBuf> {
    let lan = format!("  uplinks: [{{interface: uplink0}}]\n{}", peer.lan);
    let mut farm = installation(User::Root, &lan, peer.farm)?;
    wire(farm.world())?;
    let spec = format!("  farm: {{namespace: default, name: lab}}\n  macs: [\"{MAC}\"]\n  address: 10.10.0.27\n");
    farm.write("server.yaml", &object("Server", "rack1-07", &spec))?;
    farm.up()?;
    farm.wait_condition("farm", "lab", "Ready", BOOT_LIMIT)?;
    let file = farm.world().folder().join("wire.pcap");
    let ear = listen(farm.world(), &file)?;
    let foreign = (!peer.foreign.is_empty()).then(|| dnsmasq(farm.world(), peer.foreign)).transpose()?;
    let packets = match &peer.who {
        Who::Machine(firmware) => {
            let machine = Foreign::power_on(farm.world(), MAC, *firmware)?;
            enough(&file, peer.end).with_context(|| machine.console())
        }
        Who::Program(script) => {
            let (host, _program) = start(&farm, script)?;
            let said = enough(&file, peer.end);
            drop(host);
            said
        }
    }?;
    drop((ear, foreign));
    farm.down()?;
    Conversation { name: peer.name.to_owned(), about: peer.about.to_owned(), packets }.save()
}

/// `tcpdump` on the switch: made promiscuous, it hears what goes through.
fn listen(world: &World, file: &Path) -> Result<Process> {
    let mut tcpdump = world.command("tcpdump");
    tcpdump.args(["--interface=switch0", "--packet-buffered", "--immediate-mode", "-Z", "root", "-w"]);
    tcpdump.arg(file).arg(frames::FILTER).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let process = Process::start(&mut tcpdump)?;
    // It writes the file's header once it listens.
    let begun = || Ok(fs_err::metadata(file).is_ok_and(|file| file.len() >= 24).then_some(()));
    wait_for("tcpdump to listen", SOON, begun)?;
    Ok(process)
}

/// Another DHCP server, which gives the machine the address that ours would give it.
fn dnsmasq(world: &World, more: &[&str]) -> Result<Process> {
    world.run("ip", &["address", "add", "10.10.0.254/24", "dev", "switch0"])?;
    let mut command = world.command("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--port=0", "--no-ping"]);
    command.args(["--interface=switch0", "--bind-interfaces", "--dhcp-authoritative"]);
    command.args(["--dhcp-range=10.10.0.20,10.10.0.29,10m", &format!("--dhcp-host={MAC},10.10.0.27")]).args(more);
    for (flag, name) in [("--dhcp-leasefile", "foreign.leases"), ("--pid-file", "foreign.pid")] {
        command.arg(format!("{flag}={}", world.folder().join(name).display()));
    }
    Process::start(command.stdin(Stdio::null()))
}

/// Starts a program on a host of its own at the switch. The host has a name of its own, too, which some programs tell.
fn start(farm: &testbed::Installation, script: &str) -> Result<(World, Process)> {
    let host = World::new()?;
    let switch = farm.world();
    switch.run("ip", &["link", "add", "port0", "type", "veth", "peer", "name", "lan0", "netns", host.name()])?;
    switch.run("ip", &["link", "set", "port0", "master", "switch0", "up"])?;
    // A link-local address that can be used at once.
    host.run("sysctl", &["-qw", "net.ipv6.conf.lan0.accept_dad=0"])?;
    host.run("ip", &["link", "set", "lan0", "address", MAC, "up"])?;
    let mut command: Command = host.command("unshare");
    command.args(["--uts", "--mount", "--propagation", "private", "sh", "-ec"]);
    command.arg(format!("hostname rack1-07\n{script}"));
    command.current_dir(host.folder()).stdin(Stdio::null());
    let process = Process::start(&mut command)?;
    Ok((host, process))
}

/// Waits until enough was said.
fn enough(file: &Path, end: End) -> Result<Vec<Packet>> {
    wait_for("the end of the conversation", BOOT_LIMIT, || {
        let mut packets = frames::packets(&fs_err::read(file)?);
        packets.retain(is_of_client);
        Ok(is_over(&packets, end).then_some(packets))
    })
}

fn is_over(packets: &[Packet], end: End) -> bool {
    let asked = |protocol, begins: &[u8]| {
        let of = |packet: &&Packet| (packet.protocol, packet.from) == (protocol, Side::Client);
        packets.iter().filter(of).filter(|packet| packet.bytes.starts_with(begins)).count()
    };
    match end {
        End::Init => {
            let ours = |packet: &Packet| contains(packet, b"stokehold-init");
            packets.iter().position(ours).is_some_and(|at| packets.iter().skip(at).any(is_acknowledged))
        }
        End::Addresses(count) => packets.iter().filter(|packet| is_acknowledged(packet)).count() >= count,
        // REPLY.
        End::Address6 => {
            packets.iter().any(|packet| packet.protocol == Protocol::Dhcp6 && packet.bytes.starts_with(&[7]))
        }
        End::Files(count) => asked(Protocol::Tftp, &[0, 1]) >= count,
        End::Pages(count) => asked(Protocol::Http, &[]) >= count,
    }
}

/// Our router asks for an address now and then to see whether another server answers; nobody has to answer that.
fn is_of_client(packet: &Packet) -> bool {
    let client = [0x52, 0x54, 0, 0, 0, 7];
    packet.protocol != Protocol::Dhcp || packet.bytes.get(28..34) == Some(&client)
}

/// DHCPACK: option 53 with the value 5.
fn is_acknowledged(packet: &Packet) -> bool {
    packet.protocol == Protocol::Dhcp && packet.from == Side::Server && contains(packet, &[53, 1, 5])
}

fn contains(packet: &Packet, part: &[u8]) -> bool {
    packet.bytes.windows(part.len()).any(|window| window == part)
}
