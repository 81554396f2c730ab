//! Clusters that farms' nodes join and that are not the operator's own: by kubeconfigs in `Secret`s beside the farms.
//!
//! What a kubeconfig says is what its owner, a tenant, wants the operator to do: one that names programs or files is refused,
//! since these would be the operator's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use stoke_api::AnyObject;
use stoke_api::objects::SecretRef;
use stoke_api::trust::Hex;
use stoke_reconcile::{ClusterInfo, JoinWanted, joined_cluster};

use super::Joins;
use crate::apply::explain;
use crate::secrets;

/// How long a kubeconfig that was read is as it was.
const FRESH: Duration = Duration::from_secs(30);
/// Between two looks at nodes and requests of another cluster: there is no watch of them.
const LOOK: Duration = Duration::from_secs(3);

/// All of them, by the name that [`joined_cluster`] gives them.
pub(crate) struct Others {
    client: Client,
    installation: String,
    known: BTreeMap<String, Other>,
}

struct Other {
    read: Instant,
    text: Vec<u8>,
    joins: Result<Joins, String>,
    looked: Option<Instant>,
    /// What farms are to hand out.
    made: BTreeMap<String, Hex>,
}

impl Others {
    /// None that are known yet.
    pub(crate) fn new(client: Client, installation: &str) -> Self {
        Self { client, installation: installation.to_owned(), known: BTreeMap::new() }
    }

    /// Finds out which clusters farms name, and what nodes need to know of them.
    pub(crate) async fn clusters(&mut self, objects: &[AnyObject]) -> BTreeMap<String, ClusterInfo> {
        let named: BTreeMap<_, _> = objects.iter().filter_map(named).collect();
        self.known.retain(|name, _| named.contains_key(name));
        let mut clusters = BTreeMap::new();
        for (name, secret) in named {
            self.read(&name, &secret).await;
            let Some(Other { joins: Ok(joins), .. }) = self.known.get_mut(&name) else { continue };
            clusters.extend(joins.cluster().await.map(|cluster| (name, cluster)));
        }
        clusters
    }

    /// Why clusters are not known, by their names, and why tokens could not be made there.
    pub(crate) fn failures(&self) -> BTreeMap<String, String> {
        let mut failures = BTreeMap::new();
        for (name, other) in &self.known {
            match &other.joins {
                Ok(joins) => failures.extend(joins.failures()),
                Err(why) => drop(failures.insert(name.clone(), why.clone())),
            }
        }
        failures
    }

    /// A round in each. What farms are to hand out, by name.
    pub(crate) async fn round(&mut self, wanted: &[JoinWanted]) -> BTreeMap<String, Hex> {
        let mut made = BTreeMap::new();
        for (name, other) in &mut self.known {
            let there = |want: &&JoinWanted| want.cluster.as_ref().is_some_and(|secret| secret.to_string() == *name);
            let wanted: Vec<_> = wanted.iter().filter(there).cloned().map(own).collect();
            if other.looked.is_none_or(|at| at.elapsed() > LOOK)
                && let Ok(joins) = &mut other.joins
            {
                other.looked = Some(Instant::now());
                match there_is(joins.client()).await {
                    Ok((nodes, requests)) => other.made = joins.round(&wanted, &nodes, &requests).await,
                    Err(error) => tracing::warn!(cluster = name, "cannot look at it: {}", explain(&error)),
                }
            }
            let names: BTreeSet<_> = wanted.iter().map(|want| want.secret.to_string()).collect();
            made.extend(
                other.made.iter().filter(|(name, _)| names.contains(*name)).map(|(n, s)| (n.clone(), s.clone())),
            );
        }
        made
    }

    async fn read(&mut self, name: &str, secret: &SecretRef) {
        if self.known.get(name).is_some_and(|known| known.read.elapsed() < FRESH && known.joins.is_ok()) {
            return;
        }
        let namespace = secret.namespace.as_ref().map(ToString::to_string).unwrap_or_default();
        let text = secrets::read(&self.client, &namespace, secret).await;
        if let (Ok(text), Some(known)) = (&text, self.known.get_mut(name))
            && known.text == *text
            && known.joins.is_ok()
        {
            known.read = Instant::now();
            return;
        }
        let joins = match &text {
            Ok(text) => self.open(text).await,
            Err(why) => Err(why.clone()),
        };
        let (read, text) = (Instant::now(), text.unwrap_or_default());
        self.known.insert(name.to_owned(), Other { read, text, joins, looked: None, made: BTreeMap::new() });
    }

    async fn open(&self, text: &[u8]) -> Result<Joins, String> {
        let text = std::str::from_utf8(text).map_err(|_| "the kubeconfig is no text".to_owned())?;
        let wrong = |error: &dyn std::fmt::Display| format!("the kubeconfig cannot be used: {error}");
        let kubeconfig = Kubeconfig::from_yaml(text).map_err(|error| wrong(&error))?;
        check(&kubeconfig)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
        Joins::open(client, &self.installation).await.map_err(|error| explain(&error))
    }
}

/// The other cluster that a farm names.
fn named(object: &AnyObject) -> Option<(String, SecretRef)> {
    let AnyObject::Farm(farm) = object else { return None };
    let secret = joined_cluster(farm.metadata.namespace.as_ref(), farm.spec.join.as_ref()?)?;
    Some((secret.to_string(), secret))
}

/// What is wanted, as the cluster itself sees it.
fn own(want: JoinWanted) -> JoinWanted {
    JoinWanted { cluster: None, ..want }
}

async fn there_is(client: &Client) -> Result<(Vec<Arc<Node>>, Vec<Arc<CertificateSigningRequest>>), kube::Error> {
    let all = ListParams::default();
    let nodes = Api::<Node>::all(client.clone()).list(&all).await?.items;
    let requests = Api::<CertificateSigningRequest>::all(client.clone()).list(&all).await?.items;
    Ok((nodes.into_iter().map(Arc::new).collect(), requests.into_iter().map(Arc::new).collect()))
}

/// Refuses what would have the operator start programs or read files of its own.
fn check(kubeconfig: &Kubeconfig) -> Result<(), String> {
    let users = kubeconfig.auth_infos.iter().filter_map(|user| user.auth_info.as_ref());
    let of_user = users.map(|user| {
        user.exec.is_some()
            || user.auth_provider.is_some()
            || user.token_file.is_some()
            || user.client_certificate.is_some()
            || user.client_key.is_some()
    });
    let clusters = kubeconfig.clusters.iter().filter_map(|cluster| cluster.cluster.as_ref());
    let of_cluster = clusters.map(|cluster| cluster.certificate_authority.is_some());
    if of_user.chain(of_cluster).any(|is_so| is_so) {
        return Err("the kubeconfig names programs or files: write what is in them (`kubectl config view --flatten`)"
            .to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(user: &str, cluster: &str) -> bool {
        let text = format!(
            "{{apiVersion: v1, kind: Config, users: [{{name: a, user: {{{user}}}}}], clusters: [{{name: b, cluster: {{server: \
             'https://c', {cluster}}}}}]}}"
        );
        check(&Kubeconfig::from_yaml(&text).unwrap()).is_err()
    }

    #[test]
    fn a_kubeconfig_makes_the_operator_neither_start_programs_nor_read_files() {
        assert!(!refused("token: abc", "certificate-authority-data: YQ=="));
        for user in [
            "exec: {apiVersion: client.authentication.k8s.io/v1, command: id}",
            "tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token",
            "client-certificate: /etc/passwd",
            "client-key: /etc/passwd",
            "auth-provider: {name: oidc, config: {}}",
        ] {
            assert!(refused(user, ""), "{user}");
        }
        assert!(refused("token: abc", "certificate-authority: /etc/passwd"));
    }
}
