//! The way out of a cluster: its nodes reach each other and the host, and nothing beyond. Packages come through here.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::folder::Folder;
use super::network::Network;
use super::server::Server;
use crate::wait::wait_for;

const PORT: u16 = 8888;

/// An HTTP proxy on the host, for the nodes and pods of one network. It ends when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    _server: Server,
    _folder: Folder,
}

impl Proxy {
    /// Starts it.
    ///
    /// # Errors
    /// If tinyproxy is not installed, or does not start.
    pub fn start(network: &Network) -> Result<Self> {
        let (folder, host) = (Folder::new()?, network.host());
        let config = folder.path().join("tinyproxy.conf");
        fs_err::write(&config, format!("Listen {host}\nPort {PORT}\nTimeout 60\nMaxClients 20\n"))?;
        let mut server =
            Server::start("tinyproxy", folder.path(), Command::new("tinyproxy").arg("-d").arg("-c").arg(config))?;
        let address = SocketAddr::from((host, PORT));
        wait_for("the proxy", Duration::from_secs(10), || {
            server.check()?;
            Ok(TcpStream::connect(address).ok())
        })?;
        Ok(Self { address, _server: server, _folder: folder })
    }

    /// `http://ADDRESS:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
