//! The end of everything, when people ask for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams};
use stoke_host::store::Store as _;

use super::objects::FINALIZER;
use super::{BUSY, Leader};
use crate::apply::explain;
use crate::operator::{Operator, Uninstall};
use crate::plan::plan;
use crate::{certificates, nodes, render};

/// How long everything may take to end when all is removed.
const REMOVAL: Duration = Duration::from_mins(4);

impl Leader<'_> {
    /// Ends everything, has the nodes cleared away, and lets all objects go.
    pub(super) async fn remove_all(&mut self, uninstall: &Uninstall) -> anyhow::Result<()> {
        tracing::info!("removes everything");
        let began = Instant::now();
        self.services.keep(&BTreeMap::new(), &self.watched.services).await;
        loop {
            let seen = self.seen(&[]);
            let running = seen.values().any(|seen| seen.pod.is_some() || seen.job.is_some() || seen.map.is_some());
            if !running {
                break;
            }
            if began.elapsed() > REMOVAL {
                let names: Vec<_> = seen.keys().map(String::as_str).collect();
                uninstall.failed(vec![format!("still there: {}", names.join(", "))]);
                break;
            }
            let steps = plan(&BTreeMap::new(), &seen);
            self.applier.apply(steps, &BTreeSet::new()).await;
            tokio::time::sleep(BUSY).await;
        }
        self.agents.set(&nodes::agents(&self.watched.agents.state(), self.operator.settings.agent.port));
        uninstall.failed(self.agents.tear_down().await);
        if let Err(error) = self.drains.release_all(&self.watched.nodes.state()).await {
            uninstall.failed(vec![format!("nodes: {}", explain(&error))]);
        }
        // No agents, no labels.
        self.label_nodes(&BTreeMap::new()).await;
        if let Err(error) = self.remove_secrets().await {
            uninstall.failed(vec![format!("secrets: {}", explain(&error))]);
        }
        if let Err(error) = self.copies.remove().await {
            uninstall.failed(vec![format!("copies of leases: {}", explain(&error))]);
        }
        if let Err(error) = self.operator.claims.remove().await {
            uninstall.failed(vec![format!("claims: {}", explain(&error))]);
        }
        for object in self.store.list()? {
            let reference = object.reference();
            if object.metadata().finalizers.iter().any(|finalizer| finalizer == FINALIZER)
                && let Err(error) = self.store.set_finalizer(&reference, FINALIZER, false).await
            {
                uninstall.failed(vec![format!("{reference}: {error}")]);
            }
        }
        Ok(())
    }

    /// The certificates of farms, then those of operator and agents.
    pub(super) async fn remove_secrets(&self) -> Result<(), kube::Error> {
        let Operator { settings, client, .. } = self.operator;
        let secrets = Api::<Secret>::namespaced(client.clone(), &settings.namespace);
        let ours = format!("{}={}", render::INSTALLATION, self.environment.installation);
        for secret in secrets.list(&ListParams::default().labels(&ours)).await?.items {
            secrets.delete(&secret.name_any(), &DeleteParams::default()).await?;
        }
        certificates::remove(client, &settings.namespace).await
    }
}
