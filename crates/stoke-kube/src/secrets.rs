//! Secrets of nodes: read from `Secret`s, each by its name, and given to the farms that hand them out through their admin
//! sockets. They are in memory alone, here and there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hyper::Method;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Client;
use kube::api::Api;
use stoke_api::objects::{NodeConfig, SecretRef, SecretSource, is_join_secret};
use stoke_api::report::Report;
use stoke_api::trust::Hex;
use stoke_api::workload::{FarmConfig, Role, Workload};
use stoke_host::secrets::Sets;
use stoke_reconcile::ObservedWorkload;

use crate::agents::Agents;

/// How long a secret that was read is as it was.
const FRESH: Duration = Duration::from_secs(30);

/// What a secret is, or why that is not known.
type Read = Result<Vec<u8>, String>;

/// Gives farms the secrets of their nodes.
pub struct FarmSecrets {
    client: Client,
    sets: Sets,
    /// By namespace and reference.
    read: BTreeMap<(String, SecretRef), (Instant, Read)>,
    failures: BTreeMap<String, String>,
}

impl FarmSecrets {
    /// One that has read nothing.
    pub fn new(client: Client) -> Self {
        Self { client, sets: Sets::default(), read: BTreeMap::new(), failures: BTreeMap::new() }
    }

    /// Why secrets could not be read, by their name.
    pub fn failures(&self) -> &BTreeMap<String, String> {
        &self.failures
    }

    /// Gives every farm that runs what it should have. `made` has secrets that are no `Secret`s of the cluster, by name.
    pub async fn hand_over(
        &mut self,
        wanted: &[Workload],
        observed: &BTreeMap<String, ObservedWorkload>,
        pods: &BTreeMap<String, std::sync::Arc<Pod>>,
        agents: &Agents,
        made: &BTreeMap<String, Hex>,
    ) {
        self.read.retain(|_, (at, _)| at.elapsed() < FRESH);
        self.failures.clear();
        for workload in wanted {
            let Role::Farm(farm) = &workload.role else { continue };
            let name = workload.name();
            let content = self.of_farm(farm, made).await;
            let secrets = self.sets.of(content);
            let seen = observed.get(&name).filter(|seen| seen.running);
            let Some(Report::Farm(report)) = seen.and_then(|seen| seen.report.as_ref()) else { continue };
            let Some(pod) = pods.get(&name).filter(|_| report.secrets != secrets.id) else { continue };
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let Ok(body) = serde_json::to_vec(&secrets) else { continue };
            // A farm that does not answer is asked again in the next round.
            match agents.to_pod(&node, &uid, Method::POST, "/secrets", body).await {
                Ok(answer) if answer.status.is_success() => {}
                Ok(answer) => tracing::warn!(farm = %farm.farm, "does not take its secrets: {}", answer.text()),
                Err(error) => tracing::debug!(farm = %farm.farm, "does not take its secrets yet: {error}"),
            }
        }
    }

    async fn of_farm(&mut self, farm: &FarmConfig, made: &BTreeMap<String, Hex>) -> BTreeMap<String, Hex> {
        let own = farm.farm.namespace.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut secrets = BTreeMap::new();
        let configs = farm
            .nodes
            .iter()
            .flat_map(|node| std::iter::once(&node.config).chain(node.scopes.iter().map(|scope| &scope.config)));
        for secret in configs.flat_map(NodeConfig::secrets) {
            let name = secret.to_string();
            if secrets.contains_key(&name) || self.failures.contains_key(&name) {
                continue;
            }
            if is_join_secret(secret) {
                // Until it was made the farm lets the node wait.
                secrets.extend(made.get(&name).map(|made| (name, made.clone())));
                continue;
            }
            let namespace = secret.namespace.as_ref().map_or(own.clone(), ToString::to_string);
            match self.read(&namespace, secret).await {
                Ok(content) => drop(secrets.insert(name, Hex(content))),
                Err(failure) => drop(self.failures.insert(name, failure)),
            }
        }
        secrets
    }

    async fn read(&mut self, namespace: &str, secret: &SecretRef) -> Result<Vec<u8>, String> {
        let key = (namespace.to_owned(), secret.clone());
        if let Some((_, known)) = self.read.get(&key) {
            return known.clone();
        }
        let read = read(&self.client, namespace, secret).await;
        self.read.insert(key, (Instant::now(), read.clone()));
        read
    }
}

/// The content of a key of a `Secret`, or what is wrong and what to do.
///
/// # Errors
/// If there is no such key.
pub async fn read(client: &Client, namespace: &str, secret: &SecretRef) -> Result<Vec<u8>, String> {
    let key = secret.key.as_deref().unwrap_or_default();
    let missing = || format!("the Secret {namespace}/{} has no key {key}", shown(secret));
    beside(client, namespace, secret, key).await?.ok_or_else(missing)
}

/// Another key of the same `Secret`, if it has that.
///
/// # Errors
/// If there is no such `Secret`, or nobody may read it.
pub(crate) async fn beside(
    client: &Client,
    namespace: &str,
    secret: &SecretRef,
    key: &str,
) -> Result<Option<Vec<u8>>, String> {
    let name = match secret.source() {
        Some(SecretSource::Secret { name, .. }) => name,
        Some(SecretSource::File(path)) => {
            return Err(format!(
                "{} is a file of one host; in a cluster write {{secret: NAME, key: KEY}}",
                path.display()
            ));
        }
        None => return Err("the secret names no place".to_owned()),
    };
    let found = Api::<Secret>::namespaced(client.clone(), namespace).get_opt(name.as_str()).await;
    let found = found.map_err(|error| crate::apply::explain(&error))?;
    let Some(found) = found else { return Err(format!("there is no Secret {name} in namespace {namespace}")) };
    Ok(found.data.and_then(|mut data| data.remove(key)).map(|content| content.0))
}

fn shown(secret: &SecretRef) -> String {
    secret.secret.as_ref().map(ToString::to_string).unwrap_or_default()
}
