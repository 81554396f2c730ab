//! LAN ports: one TAP for each interface, asked for from the host's node agent.

use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::Context as _;
use stoke_api::names::LinkName;
use stoke_api::workload::VmConfig;
use stoke_net::ports::{PortReply, PortRequest, request};

/// This host's end of one interface.
#[derive(Debug)]
pub(crate) struct Port {
    /// The TAP.
    pub(crate) descriptor: OwnedFd,
    /// Its name on the host.
    pub(crate) link: LinkName,
    /// MTU of the LAN.
    pub(crate) mtu: u16,
}

/// Asks for all of a machine's ports, in order. They go with the last descriptor.
pub(crate) async fn open(config: &VmConfig) -> anyhow::Result<Vec<Port>> {
    let requests: Vec<PortRequest> = config
        .nics
        .iter()
        .map(|nic| {
            let label = format!("{}/{}", config.machine, nic.name);
            PortRequest { lan: nic.lan.clone(), mac: Some(nic.mac), label }
        })
        .collect();
    let socket = config.ports_socket.clone();
    let asked = tokio::task::spawn_blocking(move || requests.iter().map(|port| ask(&socket, port)).collect());
    asked.await.context("asking for LAN ports failed")?
}

fn ask(socket: &Path, port: &PortRequest) -> anyhow::Result<Port> {
    let (descriptor, PortReply { link, mtu }) =
        request(socket, port).with_context(|| format!("no port on {}", port.lan))?;
    Ok(Port { descriptor, link, mtu })
}
