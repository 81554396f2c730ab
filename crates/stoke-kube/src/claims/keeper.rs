//! Keeps claims as the reconcilers want them. Nothing is written while they are so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::api::{Api, DeleteParams, DynamicObject, PostParams, Preconditions};
use serde_json::json;
use stoke_api::ObjectRef;
use stoke_host::store::Store as _;
use stoke_reconcile::Claim;

use super::{AT_ONCE, Claims, api, holder, version};
use crate::apply::{FIELD_MANAGER, explain};
use crate::object;
use crate::render::owner_labels;
use crate::store::KubeStore;

/// Claims that one round makes, and as many that it removes: the others wait for the next one, as everything does.
const OF_ROUND: usize = 256;
/// Pause after the API server refused something.
const PAUSE: Duration = Duration::from_secs(5);

/// What came of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Claims that were made or removed.
    pub(crate) writes: u64,
    /// Whether somebody has a claim who was not known to: what was decided without knowing is to be decided again.
    pub(crate) learned: bool,
    /// Whether there is more to do at once.
    pub(crate) busy: bool,
}

impl std::ops::AddAssign for Kept {
    fn add_assign(&mut self, other: Self) {
        self.writes += other.writes;
        self.learned |= other.learned;
        self.busy |= other.busy;
    }
}

/// Makes claims and removes them.
pub(crate) struct ClaimKeeper {
    claims: Arc<Claims>,
    api: Api<DynamicObject>,
    installation: String,
    refused: Option<Instant>,
}

impl ClaimKeeper {
    pub(crate) fn new(claims: Arc<Claims>, installation: &str) -> Self {
        let api = api(&claims.client);
        Self { claims, api, installation: installation.to_owned(), refused: None }
    }

    /// Writes what differs. What nobody wants goes only if all objects could be read: else somebody may want it.
    pub(crate) async fn keep(&mut self, wanted: &stoke_reconcile::Claims, store: &KubeStore) -> Kept {
        if self.refused.is_some_and(|at| at.elapsed() < PAUSE) {
            return Kept::default();
        }
        match self.write(wanted, store).await {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!("claims are not as they should be: {}", explain(&error));
                self.refused = Some(Instant::now());
                Kept::default()
            }
        }
    }

    async fn write(&self, wanted: &stoke_reconcile::Claims, store: &KubeStore) -> Result<Kept, kube::Error> {
        let held = self.claims.held();
        let is_wanted = |name: &String, by: &ObjectRef| wanted.get(name).is_some_and(|claim| claim.holder == *by);
        let stale = held.iter().filter(|(name, holder)| !is_wanted(name, holder));
        let stale: Vec<_> = stale.filter(|_| store.unreadable().is_empty()).take(OF_ROUND).collect();
        let mut kept = Kept { busy: stale.len() == OF_ROUND, ..Kept::default() };
        let removals = stale.into_iter().map(|(name, holder)| self.release(name, holder, store));
        let mut removals = futures::stream::iter(removals).buffer_unordered(AT_ONCE);
        while let Some(done) = removals.next().await {
            kept += done?;
        }
        let held = self.claims.held();
        let missing = wanted.iter().filter(|(name, _)| !held.contains_key(*name));
        let missing: Vec<_> = missing.take(OF_ROUND).collect();
        kept.busy |= missing.len() == OF_ROUND;
        let makings = missing.into_iter().map(|(name, claim)| self.make(name, claim));
        let mut makings = futures::stream::iter(makings).buffer_unordered(AT_ONCE);
        while let Some(done) = makings.next().await {
            kept += done?;
        }
        Ok(kept)
    }

    /// Makes one; if it is there, it is taken note of whose it is.
    async fn make(&self, name: &str, claim: &Claim) -> Result<Kept, kube::Error> {
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match self.api.create(&parameters, &self.object(name, claim)).await {
            Ok(made) => {
                self.note(name, claim.holder.clone(), version(&made));
                Ok(Kept { writes: 1, ..Kept::default() })
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let Some(found) = self.api.get_opt(name).await? else {
                    return Ok(Kept { busy: true, ..Kept::default() });
                };
                let Some(by) = holder(&found) else {
                    tracing::warn!(claim = name, "this version of Stokehold cannot read whose it is");
                    return Ok(Kept::default());
                };
                let learned = by != claim.holder;
                self.note(name, by, version(&found));
                Ok(Kept { learned, ..Kept::default() })
            }
            // It harms itself only.
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => {
                tracing::warn!(claim = name, holder = %claim.holder, "it cannot be made: {}", status.message);
                Ok(Kept::default())
            }
            Err(error) => Err(error),
        }
    }

    /// Removes one, if what is known of its holder is what the API server knows, and it is still the holder's.
    async fn release(&self, name: &str, by: &ObjectRef, store: &KubeStore) -> Result<Kept, kube::Error> {
        if !self.is_known(by, store).await? {
            return Ok(Kept { busy: true, ..Kept::default() });
        }
        let Some(found) = self.api.get_opt(name).await? else {
            self.forget(name, u64::MAX);
            return Ok(Kept::default());
        };
        if let Some(other) = holder(&found).filter(|holder| holder != by) {
            self.note(name, other, version(&found));
            return Ok(Kept { learned: true, ..Kept::default() });
        }
        let preconditions = Preconditions {
            uid: found.metadata.uid.clone(),
            resource_version: found.metadata.resource_version.clone(),
        };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.api.delete(name, &parameters).await {
            Ok(_) => {
                self.forget(name, version(&found));
                Ok(Kept { writes: 1, ..Kept::default() })
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                Ok(Kept { busy: true, ..Kept::default() })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether an object is as the store has it: what it wants now is not decided by what it wanted a moment ago.
    async fn is_known(&self, object: &ObjectRef, store: &KubeStore) -> Result<bool, kube::Error> {
        let there = object::place(&self.claims.client, object).get_metadata_opt(object.name.as_str()).await?;
        let known = store.get(object).ok().flatten();
        let known = known.and_then(|known| known.metadata().resource_version.clone());
        Ok(there.and_then(|there| there.metadata.resource_version) == known)
    }

    fn note(&self, name: &str, holder: ObjectRef, version: u64) {
        self.claims.known.table().seen(name.to_owned(), holder, version);
    }

    fn forget(&self, name: &str, version: u64) {
        self.claims.known.table().gone(name, version);
    }

    fn object(&self, name: &str, claim: &Claim) -> DynamicObject {
        let labels = owner_labels(&self.installation, &claim.holder);
        let spec = json!({ "value": claim.value, "holder": claim.holder });
        let mut object = DynamicObject::new(name, &super::resource()).data(json!({ "spec": spec }));
        object.metadata.labels = Some(labels);
        object
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::routing::get;
    use axum::{Json, Router};
    use kube::Client;
    use serde_json::Value;
    use stoke_api::Kind;
    use tokio::sync::Notify;

    use super::*;

    fn machine(name: &str) -> ObjectRef {
        ObjectRef { kind: Kind::Machine, namespace: Some("a".parse().unwrap()), name: name.parse().unwrap() }
    }

    /// An API server that has a claim of `machine/other` and tells nobody of it who does not ask.
    async fn silent_api_server() -> Client {
        let status = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": ""});
            (StatusCode::from_u16(code).unwrap(), Json(status))
        };
        let claim = json!({"apiVersion": "stokehold.dev/v1alpha1", "kind": "Claim",
            "metadata": {"name": "vni-5", "uid": "u", "resourceVersion": "7"},
            "spec": {"value": "5", "holder": machine("other")}});
        let taken = move |Json(asked): Json<Value>| async move {
            assert_eq!(asked["spec"]["holder"]["name"], "mine");
            status(409, "AlreadyExists")
        };
        let claims = "/apis/stokehold.dev/v1alpha1/claims";
        let pages = Router::new()
            .route(claims, get(move || async move { status(500, "InternalError") }).post(taken))
            .route(&format!("{claims}/vni-5"), get(|| async { Json(claim) }))
            .fallback(move || async move { status(404, "NotFound") });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async { axum::serve(listener, pages).await });
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Client::try_from(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap()
    }

    #[tokio::test]
    async fn what_the_store_refuses_is_somebody_elses_and_is_decided_again() {
        let client = silent_api_server().await;
        let claims = Arc::new(Claims::open(client.clone(), Arc::new(Notify::new())));
        let store = KubeStore::open(client, "tests", Arc::new(Notify::new()));
        let mut keeper = ClaimKeeper::new(claims.clone(), "0a1b2c3d");
        let wanted =
            |holder: &str| [("vni-5".to_owned(), Claim { value: "5".to_owned(), holder: machine(holder) })].into();
        let kept = keeper.keep(&wanted("mine"), &store).await;
        assert_eq!(kept, Kept { learned: true, ..Kept::default() });
        assert_eq!(claims.held().get("vni-5"), Some(&machine("other")));
        // Then there is nothing to do.
        assert_eq!(keeper.keep(&wanted("other"), &store).await, Kept::default());
    }
}
