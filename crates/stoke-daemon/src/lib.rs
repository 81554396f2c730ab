//! What every role shares: configuration from a file, an admin socket, logs, a clean end.
//!
//! A role implements [`Role`] and is started by [`run`], which reads the configuration before anything is bound, binds
//! the admin socket, and serves until it is told to stop:
//!
//! ```text
//! GET  /live      200 as soon as the process serves; depends on nobody else
//! GET  /ready     200 if the role says so, else 503
//! GET  /metrics   OpenMetrics text
//! GET  /status    stoke_api::report::Report in JSON
//! POST /reload    goes over to the configuration in the body, or to that in its file if the body is empty;
//!                 422 with the reason if the role refuses it
//! POST /stop      drains and ends
//! ```
//!
//! A role that remembers boots gives [`trace::Traces`] a route there, too.
//!
//! What this crate never does: know any role, talk to a network other than its socket. Read [`run`] first.

mod admin;
mod socket;
pub mod trace;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use stoke_api::report::Report;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub use socket::{SocketError, bind};

/// How long requests in flight may take after a role was told to stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Where a role finds its configuration, and where it is asked about itself.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The configuration: JSON of the role's type in [`stoke_api::workload`].
    pub config: PathBuf,
    /// The admin socket.
    pub socket: PathBuf,
}

/// A running role.
pub trait Role: Send + Sync + 'static {
    /// Its configuration.
    type Config: DeserializeOwned + Send + 'static;
    /// Its name, as in `stoke serve NAME`.
    const NAME: &'static str;

    /// What it observes. Cheap: it is asked about once a second.
    fn report(&self) -> Report;

    /// Whether it does its work.
    fn ready(&self) -> bool;

    /// Goes over to another configuration without disturbing anything established.
    ///
    /// # Errors
    /// If it cannot; it then goes on with the old one.
    fn reload(&self, config: Self::Config) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Its metrics.
    fn metrics(&self) -> Option<&Registry> {
        None
    }

    /// Routes of its own on the admin socket.
    fn routes(self: Arc<Self>) -> axum::Router {
        axum::Router::new()
    }
}

/// Runs a role until SIGTERM, SIGINT or `POST /stop`. The token that `start` is given is cancelled then.
///
/// # Errors
/// If the configuration cannot be read, the socket is taken by a living process, or the role does not start.
pub async fn run<R, F>(launch: Launch, start: impl FnOnce(R::Config, CancellationToken) -> F) -> anyhow::Result<()>
where
    R: Role,
    F: Future<Output = anyhow::Result<Arc<R>>> + Send,
{
    let config = read_config::<R::Config>(&launch)?;
    let listener = bind(&launch.socket)?;
    let shutdown = CancellationToken::new();
    stop_on_signals(shutdown.clone())?;
    let role = start(config, shutdown.clone()).await?;
    tracing::info!(role = R::NAME, socket = %launch.socket.display(), "started");
    let served = serve(listener, admin::router(role, launch.clone(), shutdown.clone()), shutdown).await;
    // Another process may have replaced the socket in the meantime; removing a name that is gone is no failure.
    let _ = fs_err::remove_file(&launch.socket);
    tracing::info!(role = R::NAME, "stopped");
    served
}

async fn serve(
    listener: tokio::net::UnixListener,
    router: axum::Router,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let drain = shutdown.clone();
    let server = axum::serve(listener, router).with_graceful_shutdown(async move { drain.cancelled().await });
    let limit = async move {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_LIMIT).await;
    };
    tokio::select! {
        ended = server.into_future() => ended.context("the admin socket failed"),
        () = limit => Ok(()),
    }
}

/// Reads a role's configuration.
///
/// # Errors
/// Naming the file, line and column.
pub fn read_config<C: DeserializeOwned>(launch: &Launch) -> anyhow::Result<C> {
    let text = fs_err::read_to_string(&launch.config)?;
    serde_json::from_str(&text).with_context(|| format!("{} is no configuration", launch.config.display()))
}

fn stop_on_signals(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}

/// Starts logging to standard error: text, or JSON with `STOKE_LOG_FORMAT=json`. `STOKE_LOG` holds the filter, `info` if
/// absent.
pub fn init_tracing() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("STOKE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    if std::env::var("STOKE_LOG_FORMAT").is_ok_and(|format| format == "json") {
        builder.json().init();
    } else {
        builder.init();
    }
}
