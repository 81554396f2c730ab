//! The role itself.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use prometheus_client::registry::Registry;
use stoke_api::report::Report;
use stoke_api::workload::NodeAgentConfig;
use stoke_daemon::{Launch, Role};
use stoke_net::kernel::KernelLinks;
use tokio_util::sync::CancellationToken;

use crate::config::Goal;
use crate::lans::{Handle, Request};
use crate::metrics::Metrics;
use crate::{namespaces, ports};

/// Runs the node agent until it is told to stop. The process is in the installation's namespace already
/// ([`namespaces::prepare`]). What was laid stays when it ends.
///
/// # Errors
/// If the configuration is none, or a socket cannot be bound.
pub async fn run(launch: Launch) -> anyhow::Result<()> {
    stoke_daemon::run::<NodeAgent, _>(launch, NodeAgent::start).await
}

/// A running node agent.
pub struct NodeAgent {
    lans: Handle,
    registry: Registry,
    ports_socket: PathBuf,
}

impl NodeAgent {
    /// Lays the LANs and opens the socket for ports.
    ///
    /// # Errors
    /// If the configuration is none, or the socket cannot be bound.
    pub async fn start(config: NodeAgentConfig, shutdown: CancellationToken) -> anyhow::Result<Arc<Self>> {
        let ports_socket = config.ports_socket.clone();
        let metrics = Arc::new(Metrics::default());
        let registry = metrics.registry();
        let goal = Goal::alone(&config)?;
        let links = KernelLinks::open(namespaces::take_host()).context("cannot talk to the kernel")?;
        let started = {
            let metrics = metrics.clone();
            move || Handle::start(links, goal, metrics)
        };
        let lans = tokio::task::spawn_blocking(started).await??;
        let listener = stoke_daemon::bind(&ports_socket)?;
        tokio::spawn(ports::serve(listener, lans.clone(), metrics, shutdown));
        Ok(Arc::new(Self { lans, registry, ports_socket }))
    }
}

impl Role for NodeAgent {
    type Config = NodeAgentConfig;
    const NAME: &'static str = "node";

    fn report(&self) -> Report {
        Report::Node(self.lans.report())
    }

    /// A LAN that cannot be laid is its object's trouble; the agent does its work.
    fn ready(&self) -> bool {
        true
    }

    async fn reload(&self, config: NodeAgentConfig) -> anyhow::Result<()> {
        if config.ports_socket != self.ports_socket {
            anyhow::bail!("the socket for ports is {}; it stays until a restart", self.ports_socket.display());
        }
        let goal = Goal::alone(&config)?;
        self.lans.ask(|answer| Request::Reload(Box::new(goal), answer)).await?
    }

    fn metrics(&self) -> Option<&Registry> {
        Some(&self.registry)
    }

    fn routes(self: Arc<Self>) -> Router {
        Router::new().route("/plan", post(plan)).route("/teardown", post(teardown)).with_state(self)
    }
}

async fn plan(State(agent): State<Arc<NodeAgent>>, Json(config): Json<NodeAgentConfig>) -> Response {
    let goal = match Goal::alone(&config) {
        Ok(goal) => Box::new(goal),
        Err(error) => return answer(Err(error)),
    };
    answer(agent.lans.ask(|answer| Request::Plan(goal, answer)).await.and_then(|lines| lines))
}

async fn teardown(State(agent): State<Arc<NodeAgent>>) -> Response {
    answer(agent.lans.ask(Request::Teardown).await)
}

fn answer(lines: anyhow::Result<Vec<String>>) -> Response {
    match lines {
        Ok(lines) => Json(lines).into_response(),
        Err(error) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{error:#}\n")).into_response(),
    }
}
