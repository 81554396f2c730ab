//! The keys and leases of an installation, between its operator and an export: by a Secret, and by a `ConfigMap` for each LAN,
//! that administrators may read and write.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use stoke_host::export::Files;

use super::{Cluster, ClusterError, FIELD_MANAGER, Result};
use crate::{keeping, leases};

impl Cluster {
    /// The keys of the operator.
    ///
    /// # Errors
    /// If there are none yet, or the person may not read them.
    pub async fn keys(&self) -> Result<Files> {
        let missing = || {
            let name = keeping::SECRET;
            ClusterError::Missing(format!("there is no Secret {}/{name}: has the operator ever led?", self.system))
        };
        let found = self.kept().await?.ok_or_else(missing)?;
        keeping::decode(&found).map_err(|error| ClusterError::Refused(format!("{error:#}")))
    }

    /// Lays keys down for the operator, which takes them over when it starts. Whether they are others than there were.
    ///
    /// # Errors
    /// If the person may not write them.
    pub async fn bring_keys(&self, files: &Files) -> Result<bool> {
        let found = self.kept().await?;
        if found.and_then(|secret| keeping::decode(&secret).ok()).as_ref() == Some(files) {
            return Ok(false);
        }
        let secret = keeping::encode(files, true).map_err(|error| ClusterError::Refused(format!("{error:#}")))?;
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let written = self.secrets().patch(keeping::SECRET, &parameters, &Patch::Apply(secret)).await;
        written.map(|_| true).map_err(|error| self.failed(error))
    }

    /// The leases of all LANs, as their routers had them some seconds ago.
    ///
    /// # Errors
    /// If the person may not read them.
    pub async fn leases(&self) -> Result<Files> {
        let copies = self.copies().list(&ListParams::default().labels(leases::LABEL)).await;
        let copies = copies.map_err(|error| self.failed(error))?.items.into_iter();
        let file = |copy: ConfigMap| {
            let path = format!("leases/{}.journal", leases::journal_of(&copy.name_any())?);
            Some((path, leases::journal_in(&copy)?.to_vec()))
        };
        Ok(copies.filter_map(file).collect())
    }

    /// Lays journals of leases down for routers that are yet to come. Those of LANs that had routers already stay as they are:
    /// these know better. How many were laid down.
    ///
    /// # Errors
    /// If one is no journal, or the person may not write them.
    pub async fn bring_leases(&self, files: &Files) -> Result<usize> {
        let mut brought = 0;
        for (path, journal) in files {
            let Some(lan) = path.strip_prefix("leases/").and_then(|file| file.strip_suffix(".journal")) else {
                continue;
            };
            let wrong = |error| ClusterError::Refused(format!("{path}: {error}"));
            let copy = leases::encode(lan, &leases::table(journal).map_err(wrong)?, true);
            match self.copies().create(&PostParams::default(), &copy).await {
                Ok(_) => brought += 1,
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(brought)
    }

    fn copies(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.system)
    }

    /// With the operator's own rights.
    pub(crate) fn of_operator(client: Client, system: &str) -> Option<Self> {
        let namespace = stoke_api::meta::DEFAULT_NAMESPACE.parse().ok()?;
        Some(Self { client, namespace, system: system.to_owned(), name: "of this pod".to_owned() })
    }

    async fn kept(&self) -> Result<Option<Secret>> {
        self.secrets().get_opt(keeping::SECRET).await.map_err(|error| self.failed(error))
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.system)
    }
}
