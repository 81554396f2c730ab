//! The API that nodes talk to while they boot and run: `stoke_api::node` over HTTPS.
//!
//! A session is on disk before its node hears of it, and so is whatever was reported before it is acknowledged: a farm that is
//! killed and started again knows its nodes.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use stoke_api::node::{Hello, Manifest, Mode, Orders, PROTOCOL, Report};
use stoke_api::objects::RootMode;
use stoke_api::workload::FarmImage;

use crate::config::{Identity, Serving};
use crate::run::{Farm, now_ms};
use crate::sessions::{Greeting, SessionOver};
use crate::trace::Noted;

/// How long a request for orders is held open.
const HOLD: Duration = Duration::from_secs(30);
/// Longest request.
const BODY: usize = 64 << 10;

/// The routes.
pub(crate) fn router(farm: Arc<Farm>) -> Router {
    Router::new()
        .route("/v1/node/hello", post(hello))
        .route("/v1/node/report", post(report))
        .route("/v1/node/orders", get(orders))
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(farm)
}

/// Why a node gets no session.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("this farm speaks version {PROTOCOL} of the protocol, you speak {0}; boot an image of this farm")]
    Protocol(u16),
    #[error("no Server or Machine of this farm has {0}, and unknown machines are ignored (unknownClients: Ignore)")]
    Unknown(String),
    #[error("the farm has no image yet; it is being built")]
    NoImage,
    #[error(
        "your initramfs belongs to root {0}, which no image of this farm has any more; boot again over the network"
    )]
    Root(String),
    #[error("the farm cannot write your session down: {0:#}")]
    Journal(anyhow::Error),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Protocol(_) => StatusCode::UPGRADE_REQUIRED,
            Self::Unknown(_) => StatusCode::FORBIDDEN,
            Self::Root(_) => StatusCode::CONFLICT,
            Self::NoImage | Self::Journal(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn answer(&self) -> Response {
        let text = format!("{self}\n");
        match self.status() {
            StatusCode::SERVICE_UNAVAILABLE => {
                (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], text).into_response()
            }
            status => (status, text).into_response(),
        }
    }
}

async fn hello(State(farm): State<Arc<Farm>>, Json(hello): Json<Hello>) -> Response {
    match begin(&farm, &hello).await {
        Ok(manifest) => {
            tracing::info!(
                node = manifest.name,
                mac = %hello.boot_mac,
                address = %hello.address,
                image = manifest.image.short(),
                uptime_ms = hello.uptime_ms,
                "session begins"
            );
            farm.metrics.sessions.inc();
            farm.trace.speaks(hello.address.into(), hello.boot_mac);
            let result = format!("session begins, image {}", manifest.image.short());
            farm.trace.machine(hello.boot_mac, Noted::now("node", "hello", result));
            Json(manifest).into_response()
        }
        Err(refusal) => {
            tracing::warn!(mac = %hello.boot_mac, address = %hello.address, "refused: {refusal}");
            farm.metrics.refused.inc();
            farm.trace.machine(hello.boot_mac, Noted::now("node", "hello", refusal.to_string()));
            refusal.answer()
        }
    }
}

async fn begin(farm: &Farm, hello: &Hello) -> Result<Manifest, Refusal> {
    let serving = farm.serving();
    if hello.protocol.saturating_add(2) < PROTOCOL || hello.protocol == 0 {
        return Err(Refusal::Protocol(hello.protocol));
    }
    let identity = serving.identify(hello.boot_mac, &hello.macs, hello.uuid.as_deref());
    let identity = identity.ok_or_else(|| Refusal::Unknown(hello.boot_mac.to_string()))?;
    if serving.current_image().is_none() {
        return Err(Refusal::NoImage);
    }
    let image = serving.image_of_root(&hello.root).ok_or_else(|| Refusal::Root(hello.root.short()))?;
    let greeting = Greeting {
        owner: identity.owner(),
        hello,
        session: uuid::Uuid::new_v4().simple().to_string(),
        image: image.digest,
        reboots_requested: identity.reboots_requested(),
    };
    let node = farm.record(|sessions| Ok(sessions.hello(greeting, now_ms()))).await;
    let node = node.map_err(|failure| match failure {
        RecordError::Over(over) => Refusal::Journal(over.into()),
        RecordError::Journal(error) => Refusal::Journal(error),
    })?;
    Ok(manifest(&serving, &identity, image, node.session))
}

fn manifest(serving: &Serving, identity: &Identity<'_>, image: &FarmImage, session: String) -> Manifest {
    let config = &serving.config;
    let mode = match config.root {
        RootMode::Auto => Mode::Auto,
        RootMode::Ram => Mode::Ram,
        RootMode::Nfs => Mode::Nfs,
        // `Aoe` is refused where the object is checked.
        RootMode::Nbd | RootMode::Aoe => Mode::Nbd,
    };
    let blob = image.root.blob;
    Manifest {
        protocol: PROTOCOL,
        session,
        name: identity.name(),
        now_ms: now_ms(),
        image: image.digest,
        root: image.root.clone(),
        mode,
        nbd: vec![(config.address, config.nbd_port).into()],
        http: vec![format!("{}/v1/blob/sha256/{}", serving.base_url(), blob.hex())],
        config: serving.node_config(identity),
        domain: config.domain.clone(),
        farms: vec![format!("https://{}:{}", config.address, config.node_port)],
        nfs: config.nfs.clone(),
        hot: Vec::new(),
        serve_peers: config.peers,
    }
}

/// Why something was not recorded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// There is nobody to record it of.
    #[error(transparent)]
    Over(#[from] SessionOver),
    /// The disk refuses.
    #[error("{0:#}")]
    Journal(anyhow::Error),
}

impl RecordError {
    fn answer(&self) -> Response {
        match self {
            Self::Over(over) => (StatusCode::GONE, format!("{over}\n")).into_response(),
            Self::Journal(error) => {
                tracing::error!("cannot write a session down: {error:#}");
                let text = format!("{error:#}\n");
                (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], text).into_response()
            }
        }
    }
}

async fn report(State(farm): State<Arc<Farm>>, Json(report): Json<Report>) -> Response {
    let events = report.events.clone();
    match farm.record(|sessions| sessions.report(report, now_ms())).await {
        Ok(node) => {
            for event in events {
                let (phase, detail, uptime_ms) = (event.phase, event.detail, event.uptime_ms);
                tracing::info!(node = node.label(), mac = %node.mac, %phase, uptime_ms, detail, "node reports");
                farm.trace.machine(node.mac, Noted::now("node", phase.to_string(), detail));
            }
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => error.answer(),
    }
}

#[derive(Deserialize)]
struct Asks {
    session: String,
    #[serde(default)]
    seen: u64,
}

async fn orders(State(farm): State<Arc<Farm>>, Query(asks): Query<Asks>) -> Response {
    let mut changes = farm.changes();
    if let Err(over) = farm.with_sessions(|sessions| sessions.asks_for_orders(&asks.session, now_ms()).map(drop)) {
        return RecordError::Over(over).answer();
    }
    let until = tokio::time::Instant::now() + HOLD;
    loop {
        changes.borrow_and_update();
        let orders = match current(&farm, &asks) {
            Ok(orders) => orders,
            Err(over) => return RecordError::Over(over).answer(),
        };
        if orders.reboot {
            tracing::info!(session = asks.session, number = orders.number, "node is told to reboot");
            return Json(orders).into_response();
        }
        let news = tokio::time::timeout_at(until, changes.changed()).await;
        if !matches!(news, Ok(Ok(()))) {
            return Json(orders).into_response();
        }
    }
}

fn current(farm: &Farm, asks: &Asks) -> Result<Orders, SessionOver> {
    let serving = farm.serving();
    farm.with_sessions(|sessions| {
        let node = sessions.of_session(&asks.session)?;
        let object = node.owner.as_ref().and_then(|owner| serving.node(owner));
        Ok(node.orders(asks.seen, object.map_or(0, |object| object.reboots_requested)))
    })
}
