//! A control plane and its nodes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Result, anyhow};
use serde_json::json;

use super::control_plane::{ControlPlane, Options};
use super::folder::Folder;
use super::image::Image;
use super::network::Network;
use super::node::Node;

/// A cluster with nodes. It ends when it is dropped, or with the process.
pub struct Cluster {
    /// Its nodes: `node0` and so on.
    pub nodes: Vec<Node>,
    /// Its control plane, with controllers and scheduler.
    pub plane: ControlPlane,
    /// What they are on.
    pub network: Network,
    folder: Folder,
}

impl Cluster {
    /// Starts a cluster; returns when all nodes are ready.
    ///
    /// # Errors
    /// If the caller is not root, or something does not become ready.
    pub fn start(nodes: u8) -> Result<Self> {
        let network = Network::new()?;
        let address = Some(network.host());
        let plane = ControlPlane::start(Options { controllers: true, scheduler: true, address, ..Options::default() })?;
        plane.ensure_namespace("default")?;
        let nodes = std::thread::scope(|scope| {
            let start = |number| Node::start(&plane, &network, number);
            let started: Vec<_> = (0..nodes).map(|number| scope.spawn(move || start(number))).collect();
            let joined = started.into_iter().map(|node| node.join().map_err(|_| anyhow!("a node's thread failed"))?);
            joined.collect::<Result<Vec<_>>>()
        })?;
        Ok(Self { nodes, plane, network, folder: Folder::new()? })
    }

    /// The one that all tests of this process share, of two nodes. Nobody may stop anything of it.
    ///
    /// # Errors
    /// If it does not start.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Cluster>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Self::start(2));
        shared.as_ref().map_err(|error| anyhow!("the shared cluster did not start: {error:#}"))
    }

    /// Gives all nodes an image.
    ///
    /// # Errors
    /// If its files cannot be read, or a node does not take it.
    pub fn add_image(&self, image: &Image) -> Result<()> {
        let archive = self.folder.path().join("image.tar");
        image.write(&archive)?;
        self.nodes.iter().try_for_each(|node| node.import_image(&archive))
    }

    /// Adds a volume that all nodes see, for the first claim of no storage class that asks for no more. Returns its folder.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn add_volume(&self, name: &str, size: &str) -> Result<PathBuf> {
        let folder = self.folder.path().join(name);
        fs_err::create_dir(&folder)?;
        // Who writes to it is up to the pods.
        fs_err::set_permissions(&folder, Permissions::from_mode(0o777))?;
        let volume = json!({
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": size},
                "accessModes": ["ReadWriteMany", "ReadWriteOnce", "ReadOnlyMany"],
                "hostPath": {"path": folder},
            },
        });
        self.plane.api().create("/api/v1/persistentvolumes", &volume)?;
        Ok(folder)
    }

    /// Adds a node.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn add_node(&mut self) -> Result<&Node> {
        let number = u8::try_from(self.nodes.len())?;
        let node = Node::start(&self.plane, &self.network, number)?;
        self.nodes.push(node);
        self.nodes.last().ok_or_else(|| anyhow!("no node"))
    }
}
