//! HTTPS for the webhook: a certificate that is renewed takes effect with the next connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// How long a client may take to begin.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Clients that have begun and wait for their turn.
const WAITING: usize = 64;
/// Pause after the system has refused a connection: it has no more descriptors.
const REFUSED: Duration = Duration::from_millis(200);

/// Serves pages by TLS until it is asked to stop.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    pages: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let (begun, ready) = mpsc::channel(WAITING);
    let accepting = tokio::spawn(accept(listener, tls, begun));
    let clients = Clients { address, ready };
    let served = axum::serve(clients, pages).with_graceful_shutdown(shutdown.cancelled_owned()).await;
    accepting.abort();
    served
}

/// Clients whose handshakes are done.
struct Clients {
    address: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl Listener for Clients {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(client) => client,
            // Nobody accepts any more: the end is near.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

type Begun = mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>;

/// Accepts connections; no client waits for another one's handshake.
async fn accept(listener: TcpListener, tls: watch::Receiver<Arc<ServerConfig>>, begun: Begun) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let acceptor = TlsAcceptor::from(tls.borrow().clone());
                tokio::spawn(shake_hands(acceptor, stream, address, begun.clone()));
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(REFUSED).await;
            }
        }
    }
}

async fn shake_hands(acceptor: TlsAcceptor, stream: TcpStream, address: SocketAddr, begun: Begun) {
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        // Nobody takes it any more: the server has ended.
        Ok(Ok(stream)) => drop(begun.send((stream, address)).await),
        Ok(Err(error)) => tracing::debug!(%address, "no TLS: {error}"),
        Err(_) => tracing::debug!(%address, "no TLS within {} s", HANDSHAKE.as_secs()),
    }
}
