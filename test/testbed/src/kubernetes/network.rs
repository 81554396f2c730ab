//! The network that the nodes of a cluster are on: a bridge in a namespace of its own, so that the host's netfilter does not see
//! what they say to each other, and a link from the host, which has the first address: an API server is there.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

use super::folder::Folder;
use super::node::Node;
use super::server::Server;
use crate::cache;
use crate::world::check;

/// Networks are /24s of the range for benchmarks of networks (RFC 2544), which no real network has.
const RANGE: [u8; 2] = [198, 18];
/// All networks of this range are in one lock's care.
const LOCK: &str = "networks-lock";
/// Makes the bridge, says so, and stays.
const HOLD: &str =
    "ip link set lo up; ip link add fabric type bridge; ip link set fabric up; echo made; exec tail --follow /dev/null";

/// A network, which ends when it is dropped, or with the process.
pub struct Network {
    third: u8,
    /// Its process holds the namespace, and with it all links.
    holder: Server,
    _folder: Folder,
}

impl Network {
    /// A network that no other test has.
    ///
    /// # Errors
    /// If the caller is not root.
    pub fn new() -> Result<Self> {
        let folder = Folder::new()?;
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-euc", HOLD]);
        let mut holder = Server::start("network", folder.path(), &command)?;
        holder.wait_for_line("made")?;
        fs_err::create_dir_all(cache())?;
        let lock = fs_err::File::create(cache().join(LOCK))?.into_file();
        lock.lock().context("cannot wait for another test's network")?;
        let network = Self { third: free()?, holder, _folder: folder };
        network.join_host()?;
        Ok(network)
    }

    /// The host's address on it.
    pub fn host(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// An address on it: nodes have them from 10 on.
    pub fn address(&self, last: u8) -> Ipv4Addr {
        let [first, second] = RANGE;
        Ipv4Addr::new(first, second, self.third, last)
    }

    /// Gives a process's namespace a link `eth0` to the network.
    pub(super) fn join(&self, process: u32, last: u8) -> Result<()> {
        let (port, process) = (port(last), process.to_string());
        self.ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &process])?;
        self.ip(&["link", "set", &port, "master", "fabric", "up"])
    }

    /// Pulls a node's cable.
    ///
    /// # Errors
    /// If the node is off.
    pub fn disconnect(&self, node: &Node) -> Result<()> {
        self.ip(&["link", "set", &port(node.last()), "down"])
    }

    /// Plugs a node's cable in again.
    ///
    /// # Errors
    /// If the node is off.
    pub fn reconnect(&self, node: &Node) -> Result<()> {
        self.ip(&["link", "set", &port(node.last()), "up"])
    }

    fn join_host(&self) -> Result<()> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let link = format!("stk{}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let here = std::process::id().to_string();
        self.ip(&["link", "add", "host", "type", "veth", "peer", "name", &link, "netns", &here])?;
        self.ip(&["link", "set", "host", "master", "fabric", "up"])?;
        let address = format!("{}/24", self.host());
        check(Command::new("ip").args(["address", "add", &address, "dev", &link]))?;
        check(Command::new("ip").args(["link", "set", &link, "up"]))?;
        Ok(())
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        let namespace = format!("--net=/proc/{}/ns/net", self.holder.id());
        check(Command::new("nsenter").args([&namespace, "--", "ip"]).args(arguments)).map(drop)
    }
}

/// What a node's cable is plugged into.
fn port(last: u8) -> String {
    format!("port{last}")
}

/// The third number of a network that this host does not know.
fn free() -> Result<u8> {
    let known = check(Command::new("ip").args(["-4", "-oneline", "address", "show"]))?;
    let [first, second] = RANGE;
    let is_free = |third: &u8| !known.contains(&format!(" {first}.{second}.{third}."));
    (0..=u8::MAX).find(is_free).context("all networks are taken")
}
