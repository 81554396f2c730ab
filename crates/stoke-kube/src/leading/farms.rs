//! Certificates of farms.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use stoke_api::workload::pod::{CERTIFICATE, KEY};
use stoke_api::workload::{FarmConfig, Role, Workload};

use super::Leader;
use crate::apply::{FIELD_MANAGER, explain};
use crate::plan::Seen;
use crate::render;

impl Leader<'_> {
    /// Makes the certificates of farms, where only their pods read them.
    pub(super) async fn certify(&mut self, workloads: &[Workload], seen: &BTreeMap<String, Seen>) {
        for workload in workloads {
            let Role::Farm(farm) = &workload.role else { continue };
            let name = workload.name();
            // The configuration owns the secret, which goes with it; until it is there, so is no pod.
            let Some(owner) = seen.get(&name).and_then(|seen| render::map_as_owner(seen.map.as_deref()?)) else {
                continue;
            };
            let mark = format!("{name} {} {}", farm.address, owner.uid);
            if self.certified.contains(&mark) {
                continue;
            }
            match self.certificate_secret(&name, farm, owner).await {
                Ok(()) => drop(self.certified.insert(mark)),
                Err(error) => tracing::error!(farm = %farm.farm, "cannot give it its certificate: {error:#}"),
            }
        }
    }

    /// Removes the certificates of farms that are gone. A cluster's garbage collection does that, too, where it runs.
    pub(super) async fn drop_certificates(&mut self, seen: &BTreeMap<String, Seen>, wanted: &[Workload]) {
        let is_farm = |workload: &&Workload| matches!(workload.role, Role::Farm(_));
        let wanted = wanted.iter().filter(is_farm).map(Workload::name);
        let farms: BTreeSet<_> = wanted.chain(seen.keys().filter(|name| name.starts_with("farm-")).cloned()).collect();
        if self.farms.as_ref() == Some(&farms) {
            return;
        }
        match self.drop_all_but(&farms).await {
            Ok(()) => self.farms = Some(farms),
            Err(error) => tracing::warn!("certificates of farms stay behind: {}", explain(&error)),
        }
    }

    async fn drop_all_but(&self, farms: &BTreeSet<String>) -> Result<(), kube::Error> {
        let settings = &self.operator.settings;
        let secrets = Api::<Secret>::namespaced(self.operator.client.clone(), &settings.namespace);
        let ours = format!("{}={}", render::INSTALLATION, self.environment.installation);
        for secret in secrets.list(&ListParams::default().labels(&ours)).await? {
            let name = secret.name_any();
            if name.starts_with("farm-") && !farms.contains(&name) {
                tracing::info!(secret = name, "removed the certificate of a farm that is gone");
                secrets.delete(&name, &DeleteParams::default()).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn certificate_secret(
        &self,
        name: &str,
        farm: &FarmConfig,
        owner: OwnerReference,
    ) -> anyhow::Result<()> {
        let folder = self.folders.state.join(render::farm::farm_folder(&farm.farm));
        for sub in [format!("replica-{}", farm.replica), "host-keys".to_owned()] {
            let folder = folder.join(sub);
            fs_err::create_dir_all(&folder)?;
            // A server on a node's network is root, without root's right to pass over permissions.
            let shared = std::os::unix::fs::PermissionsExt::from_mode(0o2775);
            if let Err(error) = fs_err::set_permissions(&folder, shared) {
                tracing::debug!("the folder of a farm stays as it is: {error}");
            }
        }
        let folder = folder.join("certificates").join(farm.replica.to_string());
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        let here = FarmConfig { certificate, key, ..farm.clone() };
        self.authority.ensure_farm_certificate(&here)?;
        let content = |path: &Path| anyhow::Ok(ByteString(fs_err::read(path)?));
        let data = BTreeMap::from([
            (CERTIFICATE.to_owned(), content(&here.certificate)?),
            (KEY.to_owned(), content(&here.key)?),
        ]);
        let namespace = &self.operator.settings.namespace;
        let api = Api::<Secret>::namespaced(self.operator.client.clone(), namespace);
        if api.get_opt(name).await?.is_some_and(|there| {
            there.data.as_ref() == Some(&data) && there.owner_references().iter().any(|one| one.uid == owner.uid)
        }) {
            return Ok(());
        }
        let labels = BTreeMap::from([(render::INSTALLATION.to_owned(), self.environment.installation.clone())]);
        let mut secret = Secret { data: Some(data), ..Secret::default() };
        (secret.metadata.name, secret.metadata.labels) = (Some(name.to_owned()), Some(labels));
        secret.metadata.owner_references = Some(vec![owner]);
        api.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&secret)).await?;
        Ok(())
    }
}
