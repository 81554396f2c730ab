//! Two hosts on one wire, each in a network namespace of its own: the router's and the client's.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use stoke_api::objects::DhcpMode;
use stoke_api::report::{Report, RouterReport};
use stoke_api::workload::{RouterConfig, RouterHost, RouterSubnet};
use stoke_api::{Kind, MacAddr, ObjectRef};
use tempfile::TempDir;

/// How long anything may take that is a matter of milliseconds on an idle machine.
const LIMIT: Duration = Duration::from_mins(1);

pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const RESERVED: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 21);
/// Of the client's interface, with an object that reserves [`RESERVED`].
pub(crate) const CLIENT: MacAddr = MacAddr([0x52, 0x54, 0, 0x77, 0, 1]);

pub(crate) struct World {
    pub(crate) folder: TempDir,
    router: String,
    client: String,
}

impl World {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("stoke-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let (router, client) = (format!("{name}-r"), format!("{name}-c"));
        let world = Self { folder: TempDir::new().unwrap(), router, client };
        for namespace in [&world.router, &world.client] {
            ip(&["netns", "add", namespace]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        let (router, client) = (world.router.as_str(), world.client.as_str());
        let mac = CLIENT.to_string();
        ip(&[
            "link", "add", "lan0", "netns", router, "type", "veth", "peer", "name", "lan0", "netns", client, "address",
            &mac,
        ]);
        ip(&["-n", router, "address", "add", &format!("{GATEWAY}/24"), "dev", "lan0"]);
        // Duplicate address detection would hold an advertisement back for two seconds.
        for namespace in [router, client] {
            run(&["ip", "netns", "exec", namespace, "sysctl", "-qw", "net.ipv6.conf.lan0.accept_dad=0"]);
            ip(&["-n", namespace, "link", "set", "lan0", "up"]);
        }
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One LAN with ten free addresses, and one host that owns [`RESERVED`].
    pub(crate) fn config(&self) -> RouterConfig {
        RouterConfig {
            lan: object(Kind::Lan, "lab"),
            interface: "lan0".parse().unwrap(),
            mtu: 1500,
            subnets: vec![RouterSubnet {
                cidr: "10.77.0.0/24".parse().unwrap(),
                gateway: GATEWAY,
                default_route: true,
                pools: vec!["10.77.0.100-10.77.0.109".parse().unwrap()],
                relayed: false,
            }],
            dhcp: DhcpMode::Authoritative,
            reservations: vec![],
            ipv6: None,
            domain: "lab.internal".to_owned(),
            upstreams: vec![],
            hosts: vec![RouterHost {
                owner: object(Kind::Machine, "node-1"),
                hostname: "node-1".to_owned(),
                macs: vec![CLIENT],
                uuid: None,
                client_id: None,
                address: Some(RESERVED),
                farm: Some("default/lab".to_owned()),
                kernels: [].into(),
            }],
            farms: [("default/lab".to_owned(), farm())].into(),
            leases: self.path("lab.journal"),
            forwards: vec![],
            seed: None,
        }
    }

    /// Starts the role where the router is.
    pub(crate) fn start(&self, config: &RouterConfig) -> Role {
        self.start_in(&self.router, "router", config)
    }

    /// Starts another one where the client is.
    pub(crate) fn start_beside_client(&self, config: &RouterConfig) -> Role {
        self.start_in(&self.client, "other", config)
    }

    fn start_in(&self, namespace: &str, name: &str, config: &RouterConfig) -> Role {
        let (file, socket) = (self.path(&format!("{name}.json")), self.path(&format!("{name}.sock")));
        let log = self.path(&format!("{name}.log"));
        std::fs::write(&file, serde_json::to_vec_pretty(config).unwrap()).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", namespace])
            .arg(program())
            .args([&file, &socket])
            .env("STOKE_LOG", "debug")
            .stderr(log)
            .spawn()
            .expect("`ip` starts: is iproute2 installed?");
        let mut role = Role { child, socket, file };
        wait_for("the router to be ready", || {
            if let Some(status) = role.child.try_wait().unwrap() {
                panic!(
                    "the router ended with {status}: {}",
                    std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap()
                );
            }
            role.request("GET", "/ready").is_some_and(|(status, _)| status == 200)
        });
        role
    }

    /// Runs a program to its end where the client is.
    pub(crate) fn as_client(&self, command: &[&str]) -> Output {
        let mut all = vec!["ip", "netns", "exec", &self.client];
        all.extend_from_slice(command);
        run_any(&all)
    }

    /// Runs a program to its end where the router is.
    pub(crate) fn as_router(&self, command: &[&str]) {
        let mut all = vec!["ip", "netns", "exec", &self.router];
        all.extend_from_slice(command);
        run(&all);
    }

    /// Writes a shell script that can be executed; its path.
    pub(crate) fn script(&self, name: &str, text: &str) -> String {
        let (source, script) = (self.path(&format!("{name}.text")), self.path(name));
        std::fs::write(&source, format!("#!/bin/sh\n{text}")).unwrap();
        // By a program of its own: what this process writes cannot be executed while a child that it has forked, and that
        // has not yet executed its program, has it open, too.
        run(&["install", "-m755", &source.display().to_string(), &script.display().to_string()]);
        script.display().to_string()
    }

    /// A UDP socket on the client's interface, or on the router's: whoever uses it.
    pub(crate) fn socket(&self, of_client: bool, port: u16) -> UdpSocket {
        let namespace = if of_client { &self.client } else { &self.router };
        let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
        let open = move || {
            // The thread ends in there; the socket stays there.
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(file.as_fd(), kind).unwrap();
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            socket.bind_device(Some(b"lan0")).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).unwrap();
            UdpSocket::from(socket)
        };
        std::thread::spawn(open).join().unwrap()
    }

    /// A third host on the wire, which becomes a switch: a namespace whose interface is `lan0`, too. Before the router starts.
    pub(crate) fn third_host(&self, address: &str) -> ThirdHost {
        let name = format!("{}-t", self.router);
        ip(&["netns", "add", &name]);
        let host = ThirdHost(name);
        let router = |arguments: &[&str]| ip(&[&["-n", &self.router], arguments].concat());
        router(&["link", "set", "lan0", "down"]);
        router(&["address", "flush", "dev", "lan0"]);
        router(&["link", "set", "lan0", "name", "port0"]);
        router(&["link", "add", "lan0", "type", "bridge"]);
        router(&["link", "add", "port1", "type", "veth", "peer", "name", "lan0", "netns", &host.0]);
        for port in ["port0", "port1"] {
            router(&["link", "set", port, "master", "lan0"]);
            router(&["link", "set", port, "up"]);
        }
        router(&["address", "add", &format!("{GATEWAY}/24"), "dev", "lan0"]);
        self.as_router(&["sysctl", "-qw", "net.ipv6.conf.lan0.accept_dad=0"]);
        router(&["link", "set", "lan0", "up"]);
        host.run(&["ip", "link", "set", "lo", "up"]);
        host.run(&["ip", "address", "add", address, "dev", "lan0"]);
        host.run(&["ip", "link", "set", "lan0", "up"]);
        host
    }

    /// A network behind the client, which is a router there: a host in it whose interface is `lan0`, too.
    pub(crate) fn host_behind_client(&self, gateway: &str) -> ThirdHost {
        let name = format!("{}-t", self.router);
        ip(&["netns", "add", &name]);
        let host = ThirdHost(name);
        let client = |arguments: &[&str]| ip(&[&["-n", &self.client], arguments].concat());
        client(&["link", "add", "far0", "type", "veth", "peer", "name", "lan0", "netns", &host.0]);
        client(&["address", "add", gateway, "dev", "far0"]);
        client(&["link", "set", "far0", "up"]);
        host.run(&["ip", "link", "set", "lo", "up"]);
        host.run(&["ip", "link", "set", "lan0", "up"]);
        host
    }

    /// Starts a program where the client is.
    pub(crate) fn spawn_as_client(&self, command: &[&str]) -> Running {
        let child = Command::new("ip").args(["netns", "exec", &self.client]).args(command).stdin(Stdio::null()).spawn();
        Running(child.unwrap())
    }

    /// Starts a program where the router is; what it says is in a file of that name.
    pub(crate) fn spawn_as_router(&self, name: &str, command: &[&str]) -> Running {
        let log = std::fs::File::create(self.path(name)).unwrap();
        let mut all = Command::new("ip");
        all.args(["netns", "exec", &self.router]).args(command).stdin(Stdio::null());
        Running(all.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }

    /// Starts a program where the router is, for what fails at once.
    pub(crate) fn failing_router(&self, config: &RouterConfig) -> String {
        let (file, socket) = (self.path("failing.json"), self.path("failing.sock"));
        std::fs::write(&file, serde_json::to_vec(config).unwrap()).unwrap();
        let (file, socket) = (file.display().to_string(), socket.display().to_string());
        let program = program().display().to_string();
        let output = run_any(&["ip", "netns", "exec", &self.router, &program, &file, &socket]);
        assert!(!output.status.success(), "the router started");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for namespace in [&self.router, &self.client] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

/// One more host.
pub(crate) struct ThirdHost(String);

impl ThirdHost {
    /// Runs a program to its end there.
    pub(crate) fn run(&self, command: &[&str]) -> Output {
        run_any(&[&["ip", "netns", "exec", self.0.as_str()], command].concat())
    }

    /// Starts a program there.
    pub(crate) fn spawn(&self, command: &[&str]) -> Running {
        let child = Command::new("ip").args(["netns", "exec", &self.0]).args(command).stdin(Stdio::null()).spawn();
        Running(child.unwrap())
    }

    /// Link-layer address of its interface.
    pub(crate) fn mac(&self) -> MacAddr {
        let output = self.run(&["cat", "/sys/class/net/lan0/address"]);
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    }
}

impl Drop for ThirdHost {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

/// A running role.
pub(crate) struct Role {
    child: Child,
    socket: PathBuf,
    file: PathBuf,
}

impl Role {
    pub(crate) fn request(&self, method: &str, path: &str) -> Option<(u16, String)> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: role\r\nconnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    pub(crate) fn report(&self) -> RouterReport {
        let (_, body) = self.request("GET", "/status").expect("the router answers");
        match serde_json::from_str(&body).unwrap() {
            Report::Router(report) => report,
            other => panic!("not a router's report: {other:?}"),
        }
    }

    pub(crate) fn metrics(&self) -> String {
        self.request("GET", "/metrics").expect("the router answers").1
    }

    /// Goes over to another configuration: the status of the answer, and its text.
    pub(crate) fn reload(&self, config: &RouterConfig) -> (u16, String) {
        std::fs::write(&self.file, serde_json::to_vec(config).unwrap()).unwrap();
        self.request("POST", "/reload").expect("the router answers")
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub(crate) fn crash(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that ends with its test.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn signal(&self, signal: &str) {
        run(&["kill", signal, &self.0.id().to_string()]);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn object(kind: Kind, name: &str) -> ObjectRef {
    ObjectRef { kind, namespace: Some("default".parse().unwrap()), name: name.parse().unwrap() }
}

pub(crate) fn farm() -> stoke_api::workload::FarmBoot {
    stoke_api::workload::FarmBoot {
        addresses: vec![GATEWAY],
        addresses6: vec![],
        http_port: 80,
        node_port: 8443,
        kernels: [(stoke_api::workload::Architecture::Amd64, "/v1/blob/sha256/ab.efi".to_owned())].into(),
        loader: stoke_api::objects::LoaderSpec::default(),
        unknown_clients: stoke_api::objects::UnknownClients::Ignore,
    }
}

/// Waits for a condition; fails by name if it does not come.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "waited {LIMIT:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Cargo builds the examples of a package before it runs its tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join("examples/router");
    assert!(program.exists(), "{} is not built", program.display());
    program
}

fn ip(arguments: &[&str]) {
    let command = [&["ip"], arguments].concat();
    run(&command);
}

fn run(command: &[&str]) {
    let output = run_any(command);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn run_any(command: &[&str]) -> Output {
    Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).output().unwrap_or_else(|error| {
        panic!("cannot run {}: {error}; the packages that these tests need are named in tests/it/main.rs", command[0])
    })
}
