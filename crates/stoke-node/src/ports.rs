//! The socket on which workloads ask for LAN ports.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use stoke_net::ports::{self, PortRequest};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::lans::{Handle, Request};
use crate::metrics::Metrics;

/// Answers requests until the token is cancelled.
pub(crate) async fn serve(listener: UnixListener, lans: Handle, metrics: Arc<Metrics>, shutdown: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => drop(tokio::spawn(attend(stream, lans.clone(), metrics.clone()))),
            Err(error) => {
                tracing::warn!("cannot accept a request for a lan port: {error}");
                // Out of descriptors, most likely: others must close theirs first.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn attend(stream: tokio::net::UnixStream, lans: Handle, metrics: Arc<Metrics>) {
    if let Err(error) = converse(stream, &lans, &metrics).await {
        tracing::warn!("a request for a lan port failed: {error:#}");
    }
}

async fn converse(stream: tokio::net::UnixStream, lans: &Handle, metrics: &Metrics) -> anyhow::Result<()> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    let (stream, request) = tokio::task::spawn_blocking(move || read(stream)).await??;
    let made = lans.ask(|answer| Request::Port(request, answer)).await?;
    let counter = if made.is_ok() { &metrics.ports_granted } else { &metrics.ports_refused };
    counter.inc();
    let answer = move || match made {
        Ok((device, reply)) => ports::grant(&stream, reply, device.as_fd()),
        Err(reason) => ports::refuse(&stream, &format!("{reason:#}")),
    };
    Ok(tokio::task::spawn_blocking(answer).await??)
}

fn read(stream: UnixStream) -> std::io::Result<(UnixStream, PortRequest)> {
    let request = ports::read_request(&stream)?;
    Ok((stream, request))
}
