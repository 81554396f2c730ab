//! The other side of [`crate::cluster`]: a role in a pod asks for its interfaces, waits until they are there, and asks again
//! now and then, so that what somebody has changed about them is put right.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use stoke_net::ports::{self, GivenInterface, PortError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

/// Pause after a refusal: the agent has waited for the operator already.
const AGAIN: Duration = Duration::from_secs(1);
/// How often is asked again for what is there.
const INTERVAL: Duration = Duration::from_secs(30);

/// Waits until the interfaces of this process' network namespace are there, and keeps them; `false` if SIGTERM or SIGINT
/// came first.
///
/// # Errors
/// If signals cannot be waited for.
pub async fn obtain(socket: &Path) -> anyhow::Result<bool> {
    // As process 1 of a container this one ends by signals only if it listens to them.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::select! {
        () = first(socket) => {}
        _ = terminate.recv() => return Ok(false),
        _ = interrupt.recv() => return Ok(false),
    }
    tokio::spawn(keep(socket.to_owned()));
    Ok(true)
}

async fn first(socket: &Path) {
    let mut complaint = String::new();
    loop {
        match ask(socket).await {
            Ok(interfaces) => {
                for GivenInterface { name, lan, mtu } in interfaces {
                    tracing::info!(interface = %name, %lan, mtu, "have an interface");
                }
                return;
            }
            Err(error) => {
                let text = format!("{error:#}");
                if text != complaint {
                    tracing::warn!("waiting for an interface: {text}");
                    complaint = text;
                }
                sleep(AGAIN).await;
            }
        }
    }
}

async fn keep(socket: PathBuf) {
    loop {
        sleep(INTERVAL).await;
        if let Err(error) = ask(&socket).await {
            // What is there stays: the agent may be on its way to another version.
            tracing::debug!("the interfaces were not looked at: {error:#}");
        }
    }
}

async fn ask(socket: &Path) -> anyhow::Result<Vec<GivenInterface>> {
    let socket = socket.to_owned();
    let asked: Result<_, PortError> = tokio::task::spawn_blocking(move || ports::request_interfaces(&socket)).await?;
    Ok(asked?)
}
