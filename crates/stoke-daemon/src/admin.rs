//! The admin socket's routes.

use std::sync::Arc;

use anyhow::Context as _;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio_util::sync::CancellationToken;

use crate::{Launch, Role};

struct Admin<R> {
    role: Arc<R>,
    launch: Launch,
    shutdown: CancellationToken,
    /// Two reloads at once could end with the older configuration.
    reloading: tokio::sync::Mutex<()>,
}

/// The routes of a role, its own included.
pub(crate) fn router<R: Role>(role: Arc<R>, launch: Launch, shutdown: CancellationToken) -> Router {
    let own = role.clone().routes();
    let admin = Arc::new(Admin { role, launch, shutdown, reloading: tokio::sync::Mutex::new(()) });
    Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready::<R>))
        .route("/metrics", get(metrics::<R>))
        .route("/status", get(status::<R>))
        .route("/reload", post(reload::<R>))
        .route("/stop", post(stop::<R>))
        .with_state(admin)
        .merge(own)
}

async fn ready<R: Role>(State(admin): State<Arc<Admin<R>>>) -> Response {
    if admin.role.ready() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

async fn metrics<R: Role>(State(admin): State<Arc<Admin<R>>>) -> Response {
    let mut text = String::new();
    if let Some(registry) = admin.role.metrics()
        && let Err(error) = prometheus_client::encoding::text::encode(&mut text, registry)
    {
        return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn status<R: Role>(State(admin): State<Arc<Admin<R>>>) -> Response {
    Json(admin.role.report()).into_response()
}

async fn reload<R: Role>(State(admin): State<Arc<Admin<R>>>, body: Bytes) -> Response {
    let _alone = admin.reloading.lock().await;
    let config = if body.is_empty() {
        crate::read_config::<R::Config>(&admin.launch)
    } else {
        serde_json::from_slice(&body).context("what was sent is no configuration")
    };
    let reloaded = match config {
        Ok(config) => admin.role.reload(config).await,
        Err(error) => Err(error),
    };
    match reloaded {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => {
            tracing::error!(role = R::NAME, "configuration refused: {error:#}");
            (StatusCode::UNPROCESSABLE_ENTITY, format!("{error:#}\n")).into_response()
        }
    }
}

async fn stop<R: Role>(State(admin): State<Arc<Admin<R>>>) -> Response {
    admin.shutdown.cancel();
    StatusCode::ACCEPTED.into_response()
}
