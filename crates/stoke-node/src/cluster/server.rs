//! Where the operator comes to: HTTPS with certificates of both sides; see [`stoke_api::agent`] for what is said.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get, post, put};
use axum::{Json, Router};
use http_body_util::Full;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use stoke_api::agent::{AgentConfig, AgentReport};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::cluster::agent::Agent;
use crate::cluster::tls::{Certificates, is_operator};
use crate::cluster::{ClusterConfig, admin};

/// Connections at once; others wait.
const CONNECTIONS: usize = 64;
/// How long a client may take to show who it is, and to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest body of a request.
const BODY_LIMIT: usize = 16 << 20;
/// How long the role in a pod may take to answer, and how long its answer may be.
const POD: (Duration, usize) = (Duration::from_secs(30), 16 << 20);

/// Serves in the background until the token is cancelled.
///
/// # Errors
/// If the address is taken.
pub(super) async fn serve(
    config: &ClusterConfig,
    agent: Arc<Agent>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(&config.listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", config.listen))?;
    let certificates = Arc::new(Certificates::new(&config.tls));
    if let Err(error) = certificates.current() {
        tracing::warn!("nobody can be served before there is a certificate: {error:#}");
    }
    tokio::spawn(accept(listener, certificates, router(agent), shutdown));
    Ok(())
}

async fn accept(listener: TcpListener, certificates: Arc<Certificates>, router: Router, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = async { (Arc::clone(&places).acquire_owned().await, listener.accept().await) } => accepted,
            () = shutdown.cancelled() => return,
        };
        let (Ok(place), Ok((stream, peer))) = accepted else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (certificates, router) = (Arc::clone(&certificates), router.clone());
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &certificates, router).await {
                tracing::debug!(%peer, "a connection came to nothing: {error:#}");
            }
            drop(place);
        });
    }
}

async fn converse(stream: TcpStream, certificates: &Certificates, router: Router) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let acceptor = TlsAcceptor::from(certificates.current()?);
    let stream = timeout(PATIENCE, acceptor.accept(stream)).await.context("nobody showed who they are")??;
    anyhow::ensure!(is_operator(stream.get_ref().1.peer_certificates()), "the client is not the operator");
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(Duration::from_mins(2));
    Ok(server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await?)
}

fn router(agent: Arc<Agent>) -> Router {
    Router::new()
        .route("/v1/report", get(report))
        .route("/v1/config", put(configure))
        .route("/v1/teardown", post(teardown))
        .route("/v1/pods/{pod}/admin/{*path}", any(pass_on))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(agent)
}

async fn report(State(agent): State<Arc<Agent>>) -> Json<AgentReport> {
    Json(agent.report())
}

async fn configure(State(agent): State<Arc<Agent>>, Json(config): Json<AgentConfig>) -> Response {
    match agent.configure(config).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{error:#}\n")).into_response(),
    }
}

async fn teardown(State(agent): State<Arc<Agent>>) -> Json<Vec<String>> {
    Json(agent.teardown().await)
}

async fn pass_on(
    State(agent): State<Arc<Agent>>,
    Path((pod, path)): Path<(String, String)>,
    request: Request,
) -> Response {
    let Some(folder) = agent.folders.of_pod(&pod) else {
        return (StatusCode::NOT_FOUND, format!("pod {pod} has asked this node for nothing yet\n")).into_response();
    };
    match relay(&agent.pods().join(folder), &path, request).await {
        Ok(response) => response,
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}\n")).into_response(),
    }
}

async fn relay(folder: &std::path::Path, path: &str, request: Request) -> anyhow::Result<Response> {
    let (head, body) = request.into_parts();
    let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut passed = Request::builder().method(head.method).uri(format!("/{path}{query}")).header(header::HOST, "pod");
    if let Some(kind) = head.headers.get(header::CONTENT_TYPE) {
        passed = passed.header(header::CONTENT_TYPE, kind);
    }
    let body: Bytes = to_bytes(body, BODY_LIMIT).await.context("the request is too long")?;
    let (answer, body) = admin::ask(folder, passed.body(Full::new(body))?, POD).await?.into_parts();
    let mut headers = HeaderMap::new();
    if let Some(kind) = answer.headers.get(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, kind.clone());
    }
    Ok((answer.status, headers, Body::from(body)).into_response())
}
