//! Ports of machines for those who are not on their LAN: a listener for each, on the pod's own address, which dials the machine's.
//!
//! A Service of the cluster leads here. Where the machine is, is asked for at each connection: an address may be a lease's.
//! Who is on the LAN reaches the machine itself, and gets nothing here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use stoke_api::workload::Forward;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::run::Shared;
use crate::state::now_ms;

/// How long a machine may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections of one port at once; others wait.
const CONNECTIONS: usize = 256;

/// Listens on all addresses: which of them Kubernetes gave to the pod is not for a router to know.
///
/// # Errors
/// Naming the port.
pub(crate) async fn bind(port: u16) -> anyhow::Result<TcpListener> {
    let both = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await;
    let listener = match both {
        // A pod without IPv6.
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        bound => bound,
    };
    listener.with_context(|| format!("cannot listen on TCP port {port}, which leads to a machine's"))
}

/// Serves until told to stop; connections that there are then go on.
pub(crate) async fn serve(listener: TcpListener, forward: Forward, shared: Arc<Shared>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let forward = Arc::new(forward);
    loop {
        let accepted = tokio::select! {
            accepted = async { (Arc::clone(&places).acquire_owned().await, listener.accept().await) } => accepted,
            () = stop.cancelled() => return,
        };
        let (Ok(place), Ok((client, _))) = accepted else {
            // Out of descriptors, most likely: others must close theirs first.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (forward, shared) = (Arc::clone(&forward), Arc::clone(&shared));
        tokio::spawn(async move {
            if let Err(error) = pass_on(client, &forward, &shared).await {
                tracing::debug!(machine = %forward.owner, port = forward.port, "a connection ended: {error:#}");
            }
            drop(place);
        });
    }
}

async fn pass_on(mut client: TcpStream, forward: &Forward, shared: &Shared) -> anyhow::Result<()> {
    let asked = client.local_addr()?.ip().to_canonical();
    let Some(target) = target(shared, forward, asked) else {
        anyhow::bail!("it has no address, or {asked} is the LAN's")
    };
    let machine = timeout(PATIENCE, TcpStream::connect(target)).await;
    let mut machine = machine.with_context(|| format!("{target} does not answer"))??;
    for stream in [&client, &machine] {
        stream.set_nodelay(true)?;
    }
    copy_bidirectional(&mut client, &mut machine).await?;
    Ok(())
}

/// Where the machine is; nowhere for who asks at an address of the LAN.
fn target(shared: &Shared, forward: &Forward, asked: IpAddr) -> Option<SocketAddr> {
    let state = shared.state();
    if config::own_addresses(&state.config).contains(&asked) {
        return None;
    }
    let address: Ipv4Addr = state.address_of(forward.mac, now_ms() / 1000)?;
    Some(SocketAddr::from((address, forward.port)))
}
