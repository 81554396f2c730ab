//! HTTP for firmware, iPXE and nodes: boot scripts, boot programs, blobs by digest.
//!
//! What UEFI firmware asks of a server is kept: a length with every answer, no chunks, no redirects, a media type that it
//! knows. A blob never changes, so it is cached for ever and its digest is its tag.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{StatusCode, header::HeaderName};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use serde::Deserialize;
use stoke_api::{Digest, MacAddr};
use stoke_boot::render;

use crate::files::open_sized;
use crate::run::Farm;

/// Bytes that are read and written at once.
const PIECE: usize = 256 << 10;
/// Seconds that iPXE waits before it asks again for an image that is not there yet.
const WAIT_SECONDS: u32 = 5;

/// The routes.
pub(crate) fn router(farm: Arc<Farm>) -> Router {
    Router::new()
        .route("/v1/blob/sha256/{name}", get(blob))
        .route(render::SCRIPT_PATH, get(script))
        .route("/v1/boot/{name}", get(program))
        .with_state(farm)
}

#[derive(Deserialize)]
struct Asker {
    mac: Option<String>,
    uuid: Option<String>,
}

async fn script(State(farm): State<Arc<Farm>>, Query(asker): Query<Asker>) -> Response {
    let Some(mac) = asker.mac.and_then(|mac| mac.parse::<MacAddr>().ok()) else {
        return (StatusCode::BAD_REQUEST, "say which machine: /v1/boot.ipxe?mac=52:54:00:12:34:56\n").into_response();
    };
    let text = script_for(&farm, mac, asker.uuid.as_deref());
    farm.metrics.scripts.inc();
    let headers = [(header::CONTENT_TYPE, "text/plain"), (header::CACHE_CONTROL, "no-store")];
    (headers, text).into_response()
}

fn script_for(farm: &Farm, mac: MacAddr, uuid: Option<&str>) -> String {
    let serving = farm.serving();
    let base = serving.base_url();
    let Some(identity) = serving.identify(mac, &[], uuid) else {
        tracing::info!(%mac, "boot script refused: no Server or Machine has this address");
        return render::refuse(mac, "no Server or Machine of this farm has this address");
    };
    let name = identity.name();
    farm.loading(identity.owner(), mac);
    if let Some(image) = serving.current_image() {
        tracing::info!(%mac, name, image = image.digest.short(), "boot script");
        render::boot(&base, &name, image, mac)
    } else {
        tracing::info!(%mac, name, "boot script: wait, there is no image yet");
        render::wait(&base, mac, WAIT_SECONDS, "the farm's image is not built yet")
    }
}

async fn program(State(farm): State<Arc<Farm>>, Path(name): Path<String>) -> Response {
    let name = stoke_tftp::server::plain_name(&name);
    let Some(content) = farm.serving().programs.get(&name).cloned() else {
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

fn media_type(name: &str) -> &'static str {
    // UEFI goes by the media type first (UEFI 2.10, section 24.7.3.1).
    let efi = std::path::Path::new(name).extension().is_some_and(|extension| extension == "efi");
    if efi { "application/efi" } else { "application/octet-stream" }
}

async fn blob(State(farm): State<Arc<Farm>>, Path(name): Path<String>, request: HeaderMap) -> Response {
    let hex = name.strip_suffix(".efi").unwrap_or(&name);
    let found = Digest::from_hex(hex).ok().and_then(|digest| Some((digest, farm.serving().blob(&digest)?)));
    let Some((digest, (path, size))) = found else {
        return (StatusCode::NOT_FOUND, "no image of this farm has this blob\n").into_response();
    };
    match tokio::task::spawn_blocking(move || open_sized(&path, size)).await {
        Ok(Ok(file)) => answer(&farm, Blob { file: Arc::new(file), size, digest, kind: media_type(&name) }, &request),
        Ok(Err(error)) => {
            tracing::error!(%digest, %error, "HTTP: cannot serve a blob");
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], format!("{error}\n")).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

struct Blob {
    file: Arc<File>,
    size: u64,
    digest: Digest,
    kind: &'static str,
}

fn answer(farm: &Farm, blob: Blob, request: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", blob.digest);
    let text = |name: HeaderName| request.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_NONE_MATCH).is_some_and(|tags| tags == "*" || tags.split(',').any(|one| one.trim() == tag)) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    // A range of another version is of no use: then the whole is sent (RFC 9110, section 13.1.5).
    let same = text(header::IF_RANGE).is_none_or(|condition| condition == tag);
    let wanted = text(header::RANGE).filter(|_| same).map_or(Wanted::Whole, |range| Wanted::parse(range, blob.size));
    let (status, range) = match wanted {
        Wanted::Whole => (StatusCode::OK, 0..blob.size),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Nothing => {
            let size = format!("bytes */{}", blob.size);
            return (StatusCode::RANGE_NOT_SATISFIABLE, [(header::CONTENT_RANGE, size)]).into_response();
        }
    };
    let mut headers = HeaderMap::new();
    let mut set = |name, value: String| drop(HeaderValue::from_str(&value).map(|value| headers.insert(name, value)));
    set(header::CONTENT_TYPE, blob.kind.to_owned());
    set(header::CONTENT_LENGTH, (range.end - range.start).to_string());
    set(header::ACCEPT_RANGES, "bytes".to_owned());
    set(header::ETAG, tag);
    set(header::CACHE_CONTROL, "public, max-age=31536000, immutable".to_owned());
    if status == StatusCode::PARTIAL_CONTENT {
        set(header::CONTENT_RANGE, format!("bytes {}-{}/{}", range.start, range.end - 1, blob.size));
    }
    farm.metrics.blobs.inc();
    (status, headers, content(farm, blob.file, range)).into_response()
}

/// The content in pieces, each read when the one before it was taken.
fn content(farm: &Farm, file: Arc<File>, range: Range<u64>) -> Body {
    let sent = farm.metrics.http_bytes.clone();
    let pieces = futures::stream::try_unfold((file, range), move |(file, range)| {
        let sent = sent.clone();
        async move {
            let length = usize::try_from(range.end - range.start).unwrap_or(PIECE).min(PIECE);
            if length == 0 {
                return Ok(None);
            }
            let buffer = vec![0; length].into_boxed_slice();
            let (buffer, read) = stoke_nbd::paged::read_exact_at(&file, buffer, (0, length), range.start).await;
            read?;
            sent.inc_by(length as u64);
            Ok::<_, std::io::Error>(Some((Bytes::from(buffer), (file, range.start + length as u64..range.end))))
        }
    });
    Body::from_stream(pieces)
}

/// What part of a blob is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    Part(Range<u64>),
    Nothing,
}

impl Wanted {
    /// Parses a `Range` field. What we do not understand, and several ranges at once, may be answered by the whole (RFC 9110,
    /// section 14.2).
    fn parse(text: &str, size: u64) -> Self {
        let part = || {
            let (first, last) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
            let number = |text: &str| text.trim().parse::<u64>();
            Some(match (first.trim().is_empty(), last.trim().is_empty()) {
                (true, true) => return None,
                (true, false) => size.saturating_sub(number(last).ok()?)..size,
                (false, true) => number(first).ok()?..size,
                (false, false) => {
                    let (first, last) = (number(first).ok()?, number(last).ok()?);
                    if last < first {
                        return None;
                    }
                    first..last.saturating_add(1).min(size)
                }
            })
        };
        match part() {
            None => Self::Whole,
            Some(range) if range.start >= range.end => Self::Nothing,
            Some(range) => Self::Part(range),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_clients_write_them() {
        let parse = |text: &str| Wanted::parse(text, 1000);
        assert_eq!(parse("bytes=0-99"), Wanted::Part(0..100));
        assert_eq!(parse("bytes=900-"), Wanted::Part(900..1000));
        assert_eq!(parse("bytes=-10"), Wanted::Part(990..1000));
        assert_eq!(parse("bytes=-5000"), Wanted::Part(0..1000));
        assert_eq!(parse("bytes=500-99999"), Wanted::Part(500..1000));
        for nothing in ["bytes=1000-", "bytes=1000-1001", "bytes=-0"] {
            assert_eq!(parse(nothing), Wanted::Nothing, "{nothing}");
        }
        for whole in ["bytes=5-2", "bytes=0-1,5-6", "lines=1-2", "bytes=-", "bytes=x-", ""] {
            assert_eq!(parse(whole), Wanted::Whole, "{whole}");
        }
    }
}
