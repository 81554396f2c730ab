//! The servers: each on one address, with the same pool, its leases on the same disk.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use testbed::peers::Peers;
use testbed::{Process, World, wait_for};

pub(crate) const SERVER: &str = "10.64.0.1";
pub(crate) const CLIENT: &str = "10.64.0.2";
const SUBNET: &str = "10.64.0.0/14";
const FIRST: &str = "10.64.1.0";
const LAST: &str = "10.67.255.254";
/// How long a server may take until it answers.
const LIMIT: Duration = Duration::from_mins(1);

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// Our router.
    Ours,
    /// Kea with its memfile.
    Kea,
    /// The same with a second one as hot standby, which acknowledges each lease before the client hears of it.
    KeaStandby,
    /// dnsmasq without ping check.
    Dnsmasq,
}

impl Side {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Ours, Self::Kea, Self::KeaStandby, Self::Dnsmasq];

    /// As the table names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Kea => "kea",
            Self::KeaStandby => "kea-standby",
            Self::Dnsmasq => "dnsmasq",
        }
    }

    /// Starts it and waits until it gives a lease.
    pub(crate) fn start(self, peers: &Peers, server: &World, client: &World) -> Result<Vec<Process>> {
        let processes = match self {
            Self::Ours => vec![ours(server)?],
            Self::Kea => vec![kea(peers, server, "kea", &alone(server))?],
            Self::KeaStandby => standby(peers, server)?,
            Self::Dnsmasq => vec![dnsmasq(peers, server)?],
        };
        wait_for(&format!("a lease from {}", self.name()), LIMIT, || {
            // Until it answers, there is nothing to measure, or everything is lost.
            Ok(super::perfdhcp(peers, client, 10, 1).ok().filter(|run| run.lost < 50.0))
        })?;
        Ok(processes)
    }
}

fn ours(world: &World) -> Result<Process> {
    let (config, socket) = (world.folder().join("router.json"), world.folder().join("router.sock"));
    let text = json!({
        "lan": {"kind": "Lan", "namespace": "default", "name": "lab"},
        "interface": "wire0", "mtu": 1500, "dhcp": "Authoritative", "domain": "lab.internal",
        "subnets": [{"cidr": SUBNET, "gateway": SERVER, "defaultRoute": true, "pools": [format!("{FIRST}-{LAST}")]}],
        "upstreams": [], "hosts": [], "farms": {}, "leases": world.folder().join("leases"),
    });
    fs_err::write(&config, text.to_string())?;
    let mut command = world.command(testbed::programs()?.join("stoke"));
    command.args(["serve", "router", "--config"]).arg(config).arg("--socket").arg(socket);
    quiet(&mut command, world, "router")
}

fn dnsmasq(peers: &Peers, world: &World) -> Result<Process> {
    let mut command = peers.command(world, "/usr/sbin/dnsmasq");
    command.args(["--no-daemon", "--conf-file=/dev/null", "--user=root", "--port=0", "--no-ping", "--quiet-dhcp"]);
    command.args(["--interface=wire0", "--bind-interfaces", "--dhcp-authoritative", "--dhcp-lease-max=1000000"]);
    command.arg(format!("--dhcp-range={FIRST},{LAST},255.252.0.0,1h"));
    command.arg(format!("--dhcp-leasefile={}", world.folder().join("dnsmasq.leases").display()));
    command.arg(format!("--pid-file={}", world.folder().join("dnsmasq.pid").display()));
    quiet(&mut command, world, "dnsmasq")
}

/// Kea's configuration without anything beside the leases.
fn alone(world: &World) -> Value {
    json!({"Dhcp4": {
        "interfaces-config": {"interfaces": [format!("wire0/{SERVER}")], "dhcp-socket-type": "udp"},
        "lease-database": memfile(world.folder(), "kea"),
        "valid-lifetime": 3600,
        "subnet4": [subnet()],
        "loggers": [{"name": "kea-dhcp4", "severity": "ERROR", "output_options": [{"output": "stderr"}]}],
    }})
}

fn subnet() -> Value {
    json!({"id": 1, "subnet": SUBNET, "pools": [{"pool": format!("{FIRST} - {LAST}")}]})
}

/// Leases are written, by the process, without waiting for the disk: Kea has no other way.
fn memfile(folder: &Path, name: &str) -> Value {
    json!({"type": "memfile", "persist": true, "lfc-interval": 0, "name": folder.join(format!("{name}.leases"))})
}

fn standby(peers: &Peers, world: &World) -> Result<Vec<Process>> {
    let hook = |name: &str| peers.file(&format!("/usr/lib/x86_64-linux-gnu/kea/hooks/{name}"));
    let with = |this: &str, interface: &str| {
        let mut config = alone(world);
        let peer = |name: &str, port: u16, role: &str| json!({"name": name, "url": format!("http://127.0.0.1:{port}/"), "role": role, "auto-failover": true});
        let high = json!({"high-availability": [{
            "this-server-name": this, "mode": "hot-standby", "heartbeat-delay": 10000, "max-response-delay": 60000,
            "max-ack-delay": 10000, "max-unacked-clients": 0,
            "multi-threading": {"enable-multi-threading": true, "http-dedicated-listener": true,
                "http-listener-threads": 4, "http-client-threads": 4},
            "peers": [peer("first", 8001, "primary"), peer("second", 8002, "standby")],
        }]});
        let libraries = json!([
            {"library": hook("libdhcp_lease_cmds.so")},
            {"library": hook("libdhcp_ha.so"), "parameters": high},
        ]);
        if let Some(inner) = config.get_mut("Dhcp4").and_then(Value::as_object_mut) {
            inner.insert("hooks-libraries".to_owned(), libraries);
            inner.insert("multi-threading".to_owned(), json!({"enable-multi-threading": true}));
            inner.insert("lease-database".to_owned(), memfile(world.folder(), this));
            let interfaces = json!({"interfaces": [interface], "dhcp-socket-type": "udp"});
            inner.insert("interfaces-config".to_owned(), interfaces);
        }
        config
    };
    let second = kea(peers, world, "second", &with("second", "lo"))?;
    let first = kea(peers, world, "first", &with("first", &format!("wire0/{SERVER}")))?;
    Ok(vec![first, second])
}

fn kea(peers: &Peers, world: &World, name: &str, config: &Value) -> Result<Process> {
    let file = world.folder().join(format!("{name}.conf"));
    fs_err::write(&file, config.to_string())?;
    let own = world.folder().join(name);
    fs_err::create_dir_all(&own)?;
    let mut command = peers.command(world, "/usr/sbin/kea-dhcp4");
    command.env("KEA_PIDFILE_DIR", &own).env("KEA_LOCKFILE_DIR", &own);
    command.arg("-c").arg(file);
    quiet(&mut command, world, name)
}

/// Starts a server; what it says goes into a file of the world.
fn quiet(command: &mut Command, world: &World, name: &str) -> Result<Process> {
    let log = world.folder().join(format!("{name}.log"));
    let log: std::fs::File = fs_err::File::create(log)?.into();
    Process::start(command.stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log))
}
