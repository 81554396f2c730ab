//! Accepting HTTP/1 connections, plain or in TLS, until told to stop. What is established then goes on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use crate::conversation::{self, Site};
use crate::crowd::Crowd;
use crate::descriptors;
use crate::wire::Wire;

/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// Pause before looking again whether there is room.
const AGAIN: Duration = Duration::from_millis(50);

/// Where the TLS configuration comes from: asked for each connection, so that a new certificate needs no new socket.
pub(crate) type Tls = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// Serves until the token is cancelled.
pub(crate) async fn serve(listener: TcpListener, site: Arc<Site>, tls: Option<Tls>, stop: CancellationToken) {
    let house = House { permits: Arc::new(Semaphore::new(descriptors::connections())), crowd: Arc::default() };
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of descriptors: the ones in use must end first.
            house.crowd.make_room();
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let permit = tokio::select! {
            () = stop.cancelled() => return,
            permit = house.permit() => permit,
        };
        let (site, tls, crowd) = (site.clone(), tls.clone(), house.crowd.clone());
        tokio::spawn(async move {
            connection(stream, peer, &site, tls, &crowd).await;
            drop(permit);
        });
    }
}

/// Bounds the connections at once.
struct House {
    permits: Arc<Semaphore>,
    crowd: Arc<Crowd>,
}

impl House {
    /// Room for one more. If there is none, whoever waits longest for nothing makes it.
    async fn permit(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(permit) = self.permits.clone().try_acquire_owned() {
                return permit;
            }
            self.crowd.make_room();
            if let Ok(Ok(permit)) = tokio::time::timeout(AGAIN, self.permits.clone().acquire_owned()).await {
                return permit;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, site: &Site, tls: Option<Tls>, crowd: &Crowd) {
    // Replies to small requests must not wait for acknowledgements of earlier ones.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else {
        return conversation::hold(Wire::Plain(stream), site, crowd, peer).await;
    };
    let place = crowd.enter();
    let shaken = tokio::select! {
        () = place.asked_to_leave() => return,
        shaken = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(tls()).accept(stream)) => shaken,
    };
    drop(place);
    match shaken {
        Ok(Ok(stream)) => conversation::hold(Wire::Tls(Box::new(stream)), site, crowd, peer).await,
        Ok(Err(error)) => {
            let mac = site.farm.trace.mac_of(peer.ip()).map(tracing::field::display);
            tracing::info!(mac, %peer, %error, "TLS refused; does the node have this farm's CA?");
        }
        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
    }
}
