//! What the farm must remember to trust its nodes: what it asked them, what its images are measured as, and the secrets, which
//! are in memory alone.

mod api;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, response::IntoResponse as _};
use stoke_api::Digest;
use stoke_api::trust::{FarmSecrets, Hex};
use stoke_api::workload::FarmImage;
use stoke_secureboot::authenticode;
use stoke_secureboot::measured::Measured;

use crate::attest::{Asked, Expected};
use crate::config::Serving;
use crate::farm::Farm;
use crate::sessions::NodeKey;

pub(crate) use api::router;

/// Longest set of secrets.
const SECRETS: usize = 64 << 20;

/// What is remembered.
#[derive(Default)]
pub(crate) struct Trust {
    /// One question at a time for each node.
    asked: Mutex<HashMap<NodeKey, Asked>>,
    /// By unified kernel image.
    measured: Mutex<HashMap<Digest, Arc<Measured>>>,
    secrets: Mutex<FarmSecrets>,
}

/// Says nothing: it holds secrets.
impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trust {
    /// Tells the secrets that it has from others.
    pub(crate) fn secrets_id(&self) -> String {
        locked(&self.secrets).id.clone()
    }

    fn ask(&self, node: NodeKey, asked: Asked) {
        locked(&self.asked).insert(node, asked);
    }

    /// What this node was asked in this session; once.
    fn answered(&self, node: &NodeKey, session: &str) -> Option<Asked> {
        let mut asked = locked(&self.asked);
        asked.remove(node).filter(|asked| asked.session == session)
    }

    /// These secrets, or the name of the first one that is not there.
    fn secrets(&self, names: impl Iterator<Item = String>) -> Result<BTreeMap<String, Hex>, String> {
        let secrets = locked(&self.secrets);
        let found = |name: String| match secrets.secrets.secrets.get(&name) {
            Some(content) => Ok((name, content.clone())),
            None => Err(name),
        };
        names.map(found).collect()
    }

    /// What a node of this version is expected to be measured as. Reads the image the first time: to be called where that may
    /// take a second.
    fn expected(&self, serving: &Serving, image: &FarmImage, secure_boot: Option<Digest>) -> anyhow::Result<Expected> {
        let programs = serving.programs.values().filter_map(|program| authenticode::hash(program)).collect();
        Ok(Expected { image: (*self.measured(serving, image)?).clone(), programs, secure_boot })
    }

    fn measured(&self, serving: &Serving, image: &FarmImage) -> anyhow::Result<Arc<Measured>> {
        let uki = image.uki.context("this version has no unified kernel image")?;
        if let Some(known) = locked(&self.measured).get(&uki.digest) {
            return Ok(known.clone());
        }
        let (path, _) = serving.blob(&uki.digest).context("the unified kernel image is not served")?;
        let content = fs_err::read(&path)?;
        // What was changed where it lies must not become what is expected.
        ensure!(digest(&content) == uki.digest, "{} is damaged; build the image again", path.display());
        let measured = Measured::of(&content).with_context(|| format!("{} is none", path.display()))?;
        let measured = Arc::new(measured);
        locked(&self.measured).insert(uki.digest, measured.clone());
        Ok(measured)
    }
}

fn digest(content: &[u8]) -> Digest {
    Digest(stoke_tpm::digest(content))
}

/// The route on the admin socket by which the farm is given its secrets.
pub(crate) fn admin(farm: Arc<Farm>) -> Router {
    let take = async |State(farm): State<Arc<Farm>>, Json(secrets): Json<FarmSecrets>| {
        tracing::info!(count = secrets.secrets.secrets.len(), "secrets taken over");
        *locked(&farm.trust.secrets) = secrets;
        StatusCode::NO_CONTENT.into_response()
    };
    Router::new().route("/secrets", post(take)).layer(DefaultBodyLimit::max(SECRETS)).with_state(farm)
}
