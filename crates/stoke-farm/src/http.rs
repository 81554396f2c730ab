//! HTTP for firmware and iPXE: boot scripts and boot programs. Blobs are answered by `conversation`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use serde::Deserialize;
use stoke_api::MacAddr;
use stoke_boot::{loaders, render};

use crate::blob::media_type;
use crate::boot_files;
use crate::chunks;
use crate::config::Serving;
use crate::farm::Farm;

/// The routes of those who boot.
pub(crate) fn router(farm: Arc<Farm>) -> Router {
    let scripts = Router::new().route(render::SCRIPT_PATH, get(script)).with_state(farm.clone());
    scripts.merge(chunks::router(farm.clone())).merge(programs(farm))
}

/// Boot programs, which are had by TLS, too.
pub(crate) fn programs(farm: Arc<Farm>) -> Router {
    Router::new().route(&format!("{}/{{*name}}", loaders::HTTP_FOLDER), get(program)).with_state(farm)
}

#[derive(Deserialize)]
struct Asker {
    mac: Option<String>,
    uuid: Option<String>,
}

/// Who asks, as `conversation` says.
type Peer = ConnectInfo<SocketAddr>;

async fn script(State(farm): State<Arc<Farm>>, Query(asker): Query<Asker>, ConnectInfo(peer): Peer) -> Response {
    let Some(mac) = asker.mac.and_then(|mac| mac.parse::<MacAddr>().ok()) else {
        return (StatusCode::BAD_REQUEST, "say which machine: /v1/boot.ipxe?mac=52:54:00:12:34:56\n").into_response();
    };
    let base = base_url(&farm.serving(), peer);
    let text = boot_files::script(&farm, &base, mac, asker.uuid.as_deref());
    farm.metrics.scripts.inc();
    let headers = [(header::CONTENT_TYPE, "text/plain"), (header::CACHE_CONTROL, "no-store")];
    (headers, text).into_response()
}

/// The server as the client came to it: one that came over IPv6 may have nothing else.
fn base_url(serving: &Serving, peer: SocketAddr) -> String {
    match serving.config.address6.filter(|_| peer.is_ipv6()) {
        Some(address) => stoke_boot::policy6::base_url(address, serving.config.http_port),
        None => serving.base_url(),
    }
}

async fn program(State(farm): State<Arc<Farm>>, Path(name): Path<String>) -> Response {
    let name = stoke_tftp::server::plain_name(&name);
    let program = farm.serving().programs.get(&name).cloned();
    let Some(content) = program.or_else(|| boot_files::config(&farm, &name, None).map(|text| Arc::new(text.into())))
    else {
        return (StatusCode::NOT_FOUND, format!("no boot program {name}\n")).into_response();
    };
    let headers = [(header::CONTENT_TYPE, media_type(&name)), (header::CACHE_CONTROL, "no-cache")];
    (headers, Bytes::from_owner(Program(content))).into_response()
}

struct Program(Arc<Vec<u8>>);

impl AsRef<[u8]> for Program {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
