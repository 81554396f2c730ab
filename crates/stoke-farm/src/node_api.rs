//! The API that nodes talk to while they boot and run: `stoke_api::node` over HTTPS.
//!
//! A session is on disk before its node hears of it, and so is whatever was reported before it is acknowledged: a farm that is
//! killed and started again knows its nodes.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use stoke_api::MacAddr;
use stoke_api::node::{Hello, Kexec, Manifest, Mode, Orders, PROTOCOL, Phase, Report, fits_in_memory};
use stoke_api::objects::{NodeConfig, Trust};
use stoke_api::trust::TrustTerms;
use stoke_api::workload::{Architecture, BlobRef, FarmImage, FarmNode, turned};

use crate::classes::config_for;
use crate::clock::now_ms;
use crate::config::{Identity, Serving};
use crate::farm::{Farm, RecordError};
use crate::peers::{Assignment, Candidate};
use crate::sessions::{Greeting, Node, NodeKey, SessionOver};
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
        .with_state(farm.clone())
        .merge(crate::kept::router(farm))
        .layer(DefaultBodyLimit::max(BODY))
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
    #[error("version {0} is below this farm's minimum (minimumVersion); boot again over the network")]
    TooOld(String),
    #[error("many nodes copy this image now")]
    Wait(u64),
    #[error("the farm cannot write your session down: {0:#}")]
    Journal(anyhow::Error),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Protocol(_) => StatusCode::UPGRADE_REQUIRED,
            Self::Unknown(_) => StatusCode::FORBIDDEN,
            Self::Root(_) | Self::TooOld(_) => StatusCode::CONFLICT,
            Self::NoImage | Self::Wait(_) | Self::Journal(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn answer(&self) -> Response {
        let text = format!("{self}\n");
        let seconds = if let Self::Wait(seconds) = self { *seconds } else { 5 };
        match self.status() {
            status @ StatusCode::SERVICE_UNAVAILABLE => {
                (status, [(header::RETRY_AFTER, seconds.to_string())], text).into_response()
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
            farm.trace.greets(&hello);
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

async fn begin(farm: &Arc<Farm>, hello: &Hello) -> Result<Manifest, Refusal> {
    let serving = farm.serving();
    if hello.protocol.saturating_add(2) < PROTOCOL || hello.protocol == 0 {
        return Err(Refusal::Protocol(hello.protocol));
    }
    let identity = serving.identify(hello.boot_mac, &hello.macs, hello.uuid.as_deref());
    let identity = identity.ok_or_else(|| Refusal::Unknown(hello.boot_mac.to_string()))?;
    if serving.current_image().is_none() {
        return Err(Refusal::NoImage);
    }
    let key = NodeKey::new(identity.owner(), hello.boot_mac);
    let expected = farm.with_sessions(|sessions| sessions.expected(&key, hello));
    let image = serving.image_with(&identity, expected, |image| image.root.blob == hello.root);
    let image = image.ok_or_else(|| Refusal::Root(hello.root.short()))?;
    // One that runs goes on until it is rebooted.
    if image.built_at < serving.config.minimum_built_at && hello.orders_seen.is_none() {
        return Err(Refusal::TooOld(image.digest.short()));
    }
    let givers = givers(farm, &serving, &identity, image, hello)?;
    let (config, remarks) = config_for(&serving, &identity, hello);
    let greeting = Greeting {
        owner: identity.owner(),
        hello,
        remarks,
        session: uuid::Uuid::new_v4().simple().to_string(),
        image: image.digest,
        reboots_requested: identity.reboots_requested(),
    };
    let node = farm.record(|sessions| Ok(sessions.hello(greeting, now_ms()))).await;
    let node = node.map_err(|failure| match failure {
        RecordError::Over(over) => Refusal::Journal(over.into()),
        RecordError::Journal(error) => Refusal::Journal(error),
    })?;
    farm.gate.greeted(std::iter::once(hello.boot_mac).chain(hello.macs.iter().copied()));
    let mut manifest = Manifest { config, ..manifest(&serving, &identity, image, &node) };
    manifest.http.splice(0..0, givers);
    if manifest.mode == Mode::Disk && hello.config_generation == 0 {
        // Nodes of the first generation do not know the word; their root can be had all the same.
        manifest.mode = Mode::Nbd;
    }
    if manifest.mode == Mode::Disk {
        farm.will_need_chunks(image.root.blob);
    }
    if matches!(manifest.mode, Mode::Nbd | Mode::Auto) {
        manifest.hot = farm.images.boot(&serving, &image.root.blob);
    }
    Ok(manifest)
}

/// Nodes that a node shall copy its root of, best first; none if it does not copy it, or shall copy it of the farm.
fn givers(
    farm: &Farm,
    serving: &Serving,
    identity: &Identity<'_>,
    image: &FarmImage,
    hello: &Hello,
) -> Result<Vec<String>, Refusal> {
    let copies = match serving.mode(identity, hello.boot_mac, hello.address) {
        Mode::Ram => true,
        Mode::Auto => fits_in_memory(image.root.size, hello.memory),
        // What is on a disk is made of what changed: the farm alone knows which.
        Mode::Nbd | Mode::Nfs | Mode::Disk => false,
    };
    // One that had a session before runs already.
    if !serving.config.peers || !copies || hello.orders_seen.is_some() {
        return Ok(Vec::new());
    }
    let (key, now) = (NodeKey::new(identity.owner(), hello.boot_mac), now_ms());
    let assigned = farm.with_sessions(|sessions| {
        let giver = |node: &'_ Node| node.gives(&hello.root, now).map(|url| (node.key(), url.to_owned()));
        let urls: Vec<_> = sessions.nodes().filter_map(giver).collect();
        let givers: Vec<_> = urls.iter().map(|(key, url)| Candidate { key: key.clone(), url }).collect();
        farm.with_peers(|peers| peers.assign(&key, hello.boot_mac, &givers, now))
    });
    match assigned {
        Assignment::Now(urls) => Ok(urls),
        Assignment::Wait(seconds) => Err(Refusal::Wait(seconds)),
    }
}

/// All replicas of the farm, this one's first: what one of them cannot give, the next one can.
fn replicas(serving: &Serving, mac: MacAddr) -> Vec<Ipv4Addr> {
    let own = serving.config.address;
    let others = turned(&serving.config.replicas, mac).filter(|address| *address != own);
    std::iter::once(own).chain(others).collect()
}

/// A node that runs already has what it was given; one that no object names gets nothing of its own.
fn trust_terms(serving: &Serving, identity: &Identity<'_>, node: &Node) -> TrustTerms {
    match identity {
        Identity::Known(object) if !node.runs_already => {
            let secrets = !serving.secrets_of(object, node).is_empty();
            TrustTerms { proof: serving.config.trust == Trust::Tpm, secrets }
        }
        Identity::Known(_) | Identity::Stranger(_) => TrustTerms::default(),
    }
}

fn manifest(serving: &Serving, identity: &Identity<'_>, image: &FarmImage, node: &Node) -> Manifest {
    let (config, replicas) = (&serving.config, replicas(serving, node.mac));
    // It has just said hello from it.
    let address = node.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let blob = BlobRef { digest: image.root.blob, size: image.root.size };
    // The kernel's client has no TLS.
    let by_nbd = replicas.iter().filter(|_| !serving.nbd_tls.required);
    let http = |address: &Ipv4Addr| format!("{}{}", serving.base_url_of(*address), blob.http_path());
    let chunks = |address: &Ipv4Addr| {
        format!("{}{}{}", serving.base_url_of(*address), crate::chunks::FOLDER, image.root.blob.hex())
    };
    Manifest {
        protocol: PROTOCOL,
        session: node.session.clone(),
        name: identity.name(),
        now_ms: now_ms(),
        image: image.digest,
        root: image.root.clone(),
        mode: serving.mode(identity, node.mac, address),
        nbd: by_nbd.map(|address| (*address, config.nbd_port).into()).collect(),
        http: replicas.iter().map(http).collect(),
        config: NodeConfig::default(),
        domain: config.domain.clone(),
        farms: replicas.iter().map(|address| format!("https://{address}:{}", config.node_port)).collect(),
        nfs: config.nfs.clone(),
        disk: config.disk.clone(),
        chunks: replicas.iter().filter(|_| config.disk.is_some()).map(chunks).collect(),
        keeps_host_key: crate::kept::keeps(serving) && identity.owner().is_some(),
        hot: Vec::new(),
        serve_peers: config.peers,
        orders: node.reboots_done,
        minimum_built_at: config.minimum_built_at,
        trust: trust_terms(serving, identity, node),
    }
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
            if let Some(root) = node.root_blob.filter(|_| node.phase == Phase::Ready && node.root == "nbd") {
                farm.booted_over_nbd(root);
            }
            if node.phase >= Phase::Root {
                farm.gate.done(node.mac);
                farm.with_peers(|peers| peers.done(&node.key()));
            }
            for event in events {
                let reached = farm.trace.reaches(node.mac, &event);
                farm.metrics.reached(event.phase, reached);
                let (phase, detail, uptime_ms) = (event.phase, event.detail, event.uptime_ms);
                tracing::info!(node = node.label(), mac = %node.mac, %phase, uptime_ms, detail, "node reports");
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
        let (mac, orders) = match current(&farm, &asks) {
            Ok(current) => current,
            Err(over) => return RecordError::Over(over).answer(),
        };
        if orders.reboot {
            tracing::info!(%mac, session = asks.session, number = orders.number, "node is told to reboot");
            return Json(orders).into_response();
        }
        let news = tokio::time::timeout_at(until, changes.changed()).await;
        if !matches!(news, Ok(Ok(()))) {
            return Json(orders).into_response();
        }
    }
}

/// What a node boots by kexec: what it would boot through its firmware.
fn kexec(serving: &Serving, node: &FarmNode) -> Option<Kexec> {
    let identity = Identity::Known(node);
    let image = serving.with_arguments(&identity, serving.image_for(&identity, Architecture::Amd64)?);
    let mac = node.macs.first().copied().unwrap_or(MacAddr([0; 6]));
    Some(Kexec {
        image: image.digest,
        kernel: image.kernel,
        // An archive that is not compressed must begin at a multiple of four, which the beginning is.
        initramfs: vec![image.farm_initramfs, image.initramfs],
        command_line: image.kernel_arguments.join(" "),
        http: replicas(serving, mac).into_iter().map(|replica| serving.base_url_of(replica)).collect(),
    })
}

fn current(farm: &Farm, asks: &Asks) -> Result<(MacAddr, Orders), SessionOver> {
    let serving = farm.serving();
    farm.with_sessions(|sessions| {
        let node = sessions.of_session(&asks.session)?;
        let object = node.owner.as_ref().and_then(|owner| serving.node(owner));
        let mut orders = node.orders(asks.seen, object.map_or(0, |object| object.reboots_requested));
        orders.kexec = object.filter(|object| orders.reboot && object.kexec).and_then(|object| kexec(&serving, object));
        Ok((node.mac, orders))
    })
}
