//! Accepting HTTP/1.1 connections, plain or in TLS, until told to stop. What is established then goes on.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

/// Connections at once to one service.
const CONNECTIONS: usize = 4096;
/// Time for a TLS handshake, and for a request's head.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the TLS configuration comes from: asked for each connection, so that a new certificate needs no new socket.
pub(crate) type Tls = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// Serves until the token is cancelled.
pub(crate) async fn serve(listener: TcpListener, router: Router, tls: Option<Tls>, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of descriptors: the ones in use must end first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (router, tls) = (router.clone(), tls.clone());
        tokio::spawn(async move {
            connection(stream, peer, router, tls).await;
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, peer: std::net::SocketAddr, router: Router, tls: Option<Tls>) {
    // Replies to small requests must not wait for acknowledgements of earlier ones.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return http(stream, router).await };
    match tokio::time::timeout(PATIENCE, TlsAcceptor::from(tls()).accept(stream)).await {
        Ok(Ok(stream)) => http(stream, router).await,
        Ok(Err(error)) => tracing::info!(%peer, %error, "TLS refused; does the node have this farm's CA?"),
        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
    }
}

async fn http(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let service = TowerToHyperService::new(router);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "HTTP connection ended");
    }
}
