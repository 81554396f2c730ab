//! What the farm keeps for a node that has nothing to keep it on: its SSH host key, so that it is the same in every boot.
//!
//! ```text
//!  node                                  farm
//!   | GET  /v1/node/kept?session=…         |   -> Kept, once in a session, while the node boots
//!   | POST /v1/node/keep (Keep)            |   -> 204; what is kept already stays
//! ```
//!
//! The key is in a file that only the farm may read, and goes over TLS. It is worth what the farm's trust is: with
//! `trust: Network`, whoever can answer for a node's MAC address can get it, as he can get everything else of that node. With
//! `trust: Tpm` nothing is kept, and the node makes a key at each boot. Machines that no object names are strangers: nothing is
//! kept for them either.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use fs_err::os::unix::fs::OpenOptionsExt as _;
use serde::Deserialize;
use stoke_api::ObjectRef;
use stoke_api::node::{Keep, Kept, Phase};
use stoke_api::objects::Trust;
use stoke_api::trust::Hex;

use crate::config::Serving;
use crate::farm::Farm;
use crate::sessions::SessionOver;

/// Longest key that is kept, in bytes.
const KEY: usize = 8 << 10;
/// What a private key of OpenSSH begins with (`PROTOCOL.key`).
const BEGINNING: &[u8] = b"-----BEGIN OPENSSH PRIVATE KEY-----\n";

/// The ending of a file that is being written.
const NEW: &str = ".new";

/// What is kept.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Sessions that were given theirs.
    given: Mutex<BTreeSet<String>>,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self { given: Mutex::default() }
    }

    /// Whether this session is given its key now, which it is once. Sessions that are over are forgotten.
    fn gives(&self, session: &str, lives: impl Fn(&str) -> bool) -> bool {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.retain(|session| lives(session));
        given.insert(session.to_owned())
    }
}

/// Whether the farm keeps keys at all.
pub(crate) fn keeps(serving: &Serving) -> bool {
    serving.config.trust == Trust::Network && !serving.config.host_keys.as_os_str().is_empty()
}

/// The routes.
pub(crate) fn router(farm: Arc<Farm>) -> Router {
    Router::new().route("/v1/node/kept", get(kept)).route("/v1/node/keep", post(keep)).with_state(farm)
}

#[derive(Deserialize)]
struct Asks {
    session: String,
}

async fn kept(State(farm): State<Arc<Farm>>, Query(asks): Query<Asks>) -> Response {
    let file = match file(&farm, &asks.session) {
        Ok(file) => file,
        Err(refusal) => return refusal.answer(),
    };
    let lives = |session: &str| farm.with_sessions(|sessions| sessions.of_session(session).is_ok());
    if !farm.keys.gives(&asks.session, lives) {
        return Refusal::Again.answer();
    }
    let ssh_host_key = fs_err::read(&file).ok().filter(|key| is_key(key)).map(Hex);
    if ssh_host_key.is_some() {
        tracing::info!(session = asks.session, file = %file.display(), "a node is given its SSH host key");
    }
    Json(Kept { ssh_host_key }).into_response()
}

async fn keep(State(farm): State<Arc<Farm>>, Json(keep): Json<Keep>) -> Response {
    let file = match file(&farm, &keep.session) {
        Ok(file) => file,
        Err(refusal) => return refusal.answer(),
    };
    if !is_key(&keep.ssh_host_key.0) {
        return (StatusCode::BAD_REQUEST, "this is no private key of OpenSSH\n").into_response();
    }
    match write(&file, &keep.ssh_host_key.0) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot keep a host key");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
        }
    }
}

/// Why nothing is kept or given.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Over(#[from] SessionOver),
    #[error("this farm keeps no host key for you")]
    NotKept,
    #[error("this is given while a node boots, and yours is up")]
    Late,
    #[error("this was given in this session already")]
    Again,
}

impl Refusal {
    fn answer(&self) -> Response {
        let status = match self {
            Self::Over(_) => StatusCode::GONE,
            Self::NotKept | Self::Late | Self::Again => StatusCode::FORBIDDEN,
        };
        (status, format!("{self}\n")).into_response()
    }
}

/// The file of the node of a session, which boots.
fn file(farm: &Farm, session: &str) -> Result<PathBuf, Refusal> {
    let serving = farm.serving();
    let (owner, phase) = farm.with_sessions(|sessions| {
        let node = sessions.of_session(session)?;
        Ok::<_, SessionOver>((node.owner.clone(), node.phase))
    })?;
    let owner = owner.filter(|owner| keeps(&serving) && serving.node(owner).is_some()).ok_or(Refusal::NotKept)?;
    if phase > Phase::Root && phase != Phase::Failed {
        return Err(Refusal::Late);
    }
    Ok(serving.config.host_keys.join(name(&owner)))
}

fn name(owner: &ObjectRef) -> String {
    let namespace = owner.namespace.as_ref().map_or("", |namespace| namespace.as_str());
    format!("{}.{namespace}.{}", format!("{:?}", owner.kind).to_lowercase(), owner.name)
}

fn is_key(text: &[u8]) -> bool {
    text.starts_with(BEGINNING) && text.len() <= KEY && text.is_ascii()
}

/// Writes it down for good, unless there is one.
fn write(file: &Path, key: &[u8]) -> std::io::Result<()> {
    if file.exists() {
        return Ok(());
    }
    let folder = file.parent().unwrap_or(file);
    fs_err::create_dir_all(folder)?;
    let new = PathBuf::from(format!("{}{NEW}", file.display()));
    let mut open = fs_err::OpenOptions::new();
    let mut output = open.create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    output.write_all(key)?;
    output.sync_all()?;
    fs_err::rename(&new, file)?;
    fs_err::File::open(folder)?.sync_all()
}

/// Forgets the keys of objects that are gone: another one of that name is another machine.
pub(crate) fn forget_others(serving: &Serving) {
    let names: BTreeSet<_> = serving.config.nodes.iter().map(|node| name(&node.owner)).collect();
    let entries = fs_err::read_dir(&serving.config.host_keys).into_iter().flatten().flatten();
    let of_nobody = |name: &str| !names.contains(name) && !name.ends_with(NEW);
    for entry in entries.filter(|entry| of_nobody(&entry.file_name().to_string_lossy())) {
        if let Err(error) = fs_err::remove_file(entry.path()) {
            tracing::warn!(%error, "a host key of nobody stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_written_once_for_nobody_else_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys/machine.default.node-1");
        write(&file, b"first").unwrap();
        write(&file, b"second").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "first");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_session_is_given_its_key_once() {
        let keys = Keys::new();
        assert!(keys.gives("a", |_| true) && keys.gives("b", |_| true));
        assert!(!keys.gives("a", |_| true));
        assert!(keys.gives("c", |session| session == "c"), "the others are over");
        assert_eq!(keys.given.lock().unwrap().len(), 1);
    }

    #[test]
    fn only_private_keys_are_kept() {
        assert!(is_key(b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"));
        assert!(!is_key(b"ssh-ed25519 AAAA") && !is_key(&[BEGINNING, &vec![b'A'; KEY]].concat()));
    }
}
