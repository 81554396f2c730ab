//! Asking the operator to end everything, before its chart is removed: an annotation on its `Lease`, and an answer there.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use stoke_api::control::Downed;

use super::{Cluster, ClusterError, Result};

/// Annotation: `requested`, then `done`.
const UNINSTALL: &str = "stokehold.dev/uninstall";
/// Annotation: what could not be removed, one a line.
const FAILURES: &str = "stokehold.dev/uninstall-failures";
/// The labels of Secrets that the operator makes. It needs them until it has answered, and no chart knows them.
const SECRETS: [&str; 2] = ["app.kubernetes.io/managed-by=stokehold", "stokehold.dev/installation"];
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

impl Cluster {
    /// Asks, waits for the answer, and removes the operator's keys once nothing is left that they are for. Nothing to do
    /// if no operator has ever led.
    ///
    /// # Errors
    /// If it does not answer in time, or the API server refuses.
    pub async fn uninstall(&self, lease: &str, limit: Duration) -> Result<Downed> {
        let api = Api::<Lease>::namespaced(self.client.clone(), self.namespace.as_str());
        if api.get_opt(lease).await.map_err(|error| self.failed(error))?.is_none() {
            return Ok(Downed::default());
        }
        let patch = Patch::Merge(json!({"metadata": {"annotations": {UNINSTALL: "requested", FAILURES: null}}}));
        api.patch(lease, &PatchParams::default(), &patch).await.map_err(|error| self.failed(error))?;
        let late = || {
            let seconds = limit.as_secs();
            ClusterError::Missing(format!(
                "the operator has not ended everything within {seconds} seconds; see its log"
            ))
        };
        let downed = tokio::time::timeout(limit, self.until_done(&api, lease)).await.map_err(|_| late())??;
        if downed.failures.is_empty() {
            self.forget_secrets().await?;
            self.leave_lease(&api, lease).await?;
        }
        Ok(downed)
    }

    /// Lets the lease go with the operator's `Deployment`, which has its name. Before that nobody else may lead.
    async fn leave_lease(&self, api: &Api<Lease>, lease: &str) -> Result<()> {
        let deployments = Api::<Deployment>::namespaced(self.client.clone(), self.namespace.as_str());
        let found = deployments.get_opt(lease).await.map_err(|error| self.failed(error))?;
        let Some(uid) = found.and_then(|found| found.metadata.uid) else { return Ok(()) };
        let owner = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": lease, "uid": uid});
        let patch = Patch::Merge(json!({"metadata": {"ownerReferences": [owner]}}));
        api.patch(lease, &PatchParams::default(), &patch).await.map(drop).map_err(|error| self.failed(error))
    }

    async fn forget_secrets(&self) -> Result<()> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), self.namespace.as_str());
        for labels in SECRETS {
            let chosen = ListParams::default().labels(labels);
            let deleted = secrets.delete_collection(&DeleteParams::default(), &chosen).await;
            deleted.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    async fn until_done(&self, api: &Api<Lease>, lease: &str) -> Result<Downed> {
        loop {
            let found = api.get_opt(lease).await.map_err(|error| self.failed(error))?;
            let annotations = found.map(|lease| lease.metadata.annotations.unwrap_or_default());
            let Some(annotations) = annotations else { return Ok(Downed::default()) };
            if annotations.get(UNINSTALL).is_some_and(|answer| answer == "done") {
                let failures = annotations.get(FAILURES).map(String::as_str).unwrap_or_default();
                let failures = failures.lines().map(str::to_owned).collect();
                return Ok(Downed { removed: Vec::new(), failures });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
