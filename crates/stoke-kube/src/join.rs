//! Nodes that join the cluster by themselves: a bootstrap token for each boot of each node, and approval of what a node asks
//! for with it, and of nothing else.
//!
//! ```text
//!   the node boots --> token made --> handed out by its farm --> CSR with it, approved --> the Node is Ready --> token gone
//! ```
//!
//! What is decided is pure ([`due`], [`verdict`]); tokens are remembered as what they are, `Secret`s of the type
//! `bootstrap.kubernetes.io/token` with our label.

mod cluster;
mod others;
mod requests;
mod tokens;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::{Node, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use stoke_api::trust::Hex;
use stoke_reconcile::{ClusterInfo, JoinWanted};

use self::cluster::cluster_info;
pub(crate) use self::others::Others;
pub use self::requests::verdict;
pub use self::tokens::{Token, due};
use self::tokens::{as_secret, is_used, kubeconfig, note_given, random, remembered};
use crate::render::INSTALLATION;

/// Where tokens are (`bootstrap-token-ID`), and what knows of the cluster.
const SYSTEM: &str = "kube-system";
/// How long what is known of the cluster is as it was.
const FRESH: Duration = Duration::from_mins(2);

/// Tokens, and the cluster that they are for.
pub struct Joins {
    client: Client,
    installation: String,
    /// By their ids: while one is on its way to its node, there may be another for the next boot.
    tokens: BTreeMap<String, Token>,
    cluster: Option<(Instant, Option<ClusterInfo>)>,
    /// Why tokens could not be made, by the names under which farms would have them, and when that was.
    failed: BTreeMap<String, (Instant, String)>,
}

impl Joins {
    /// Finds the tokens that there are.
    ///
    /// # Errors
    /// As the API server says.
    pub async fn open(client: Client, installation: &str) -> Result<Self, kube::Error> {
        let ours = ListParams::default().labels(&format!("{INSTALLATION}={installation}"));
        let secrets = match Api::<Secret>::namespaced(client.clone(), SYSTEM).list(&ours).await {
            Ok(secrets) => secrets.items,
            // The chart gives the right to make tokens only if nodes are to join.
            Err(kube::Error::Api(status)) if status.code == 403 => Vec::new(),
            Err(error) => return Err(error),
        };
        let tokens = secrets.iter().filter_map(remembered).collect();
        let (installation, failed) = (installation.to_owned(), BTreeMap::new());
        Ok(Self { client, installation, tokens, cluster: None, failed })
    }

    fn client(&self) -> &Client {
        &self.client
    }

    /// What nodes need to know of the cluster.
    pub async fn cluster(&mut self) -> Option<ClusterInfo> {
        if self.cluster.as_ref().is_none_or(|(at, _)| at.elapsed() > FRESH) {
            // What was known holds while nobody answers: without it all tokens would be taken for unwanted.
            let before = self.cluster.take().and_then(|(_, known)| known);
            let known = cluster_info(&self.client).await.or(before);
            self.cluster = Some((Instant::now(), known));
        }
        self.cluster.as_ref().and_then(|(_, known)| known.clone())
    }

    /// Makes the tokens that are due, deletes those that are used up, approves requests. What farms are to hand out, by name.
    pub async fn round(
        &mut self,
        wanted: &[JoinWanted],
        nodes: &[Arc<Node>],
        requests: &[Arc<CertificateSigningRequest>],
    ) -> BTreeMap<String, Hex> {
        let now = Timestamp::now();
        // Those of other clusters are theirs alone: nobody gets a certificate here by them.
        let wanted: Vec<_> = wanted.iter().filter(|want| want.cluster.is_none()).cloned().collect();
        let wanted = wanted.as_slice();
        note_given(&mut self.tokens, wanted);
        for want in wanted {
            let name = want.secret.to_string();
            if !due(want, self.tokens.values(), now) || self.waits(&name) {
                continue;
            }
            match self.mint(want, &name, now).await {
                Ok(()) => {
                    self.failed.remove(&name);
                    tracing::info!(node = want.node_name, "made a token for its boot");
                }
                Err(error) => {
                    let why = refused(&error);
                    tracing::warn!(node = want.node_name, "{why}");
                    self.failed.insert(name, (Instant::now(), why));
                }
            }
        }
        self.drop_used(wanted, nodes, now).await;
        for request in requests {
            if let Some(reason) = verdict(request, &self.tokens, wanted, now) {
                self.approve(request, reason).await;
            }
        }
        if wanted.is_empty() {
            return BTreeMap::new();
        }
        let cluster = self.cluster().await;
        let config = |want: &JoinWanted| {
            let name = want.secret.to_string();
            let usable = |token: &&Token| token.name == name && !token.given && token.expires > now;
            let token = self.tokens.values().filter(usable).max_by_key(|token| token.made)?;
            Some((name, Hex(kubeconfig(want, token, &cluster.as_ref()?.ca).into_bytes())))
        };
        wanted.iter().filter_map(config).collect()
    }

    /// Why tokens could not be made, by the names under which farms would have them.
    pub fn failures(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.failed.iter().map(|(name, (_, why))| (name.clone(), why.clone()))
    }

    fn waits(&self, name: &str) -> bool {
        self.failed.get(name).is_some_and(|(at, _)| at.elapsed() < Duration::from_secs(10))
    }

    async fn mint(&mut self, want: &JoinWanted, name: &str, now: Timestamp) -> Result<(), kube::Error> {
        let (id, secret) = (random(6), random(16));
        let expires = now + SignedDuration::from_secs(i64::from(want.token_seconds));
        let (name, node_name) = (name.to_owned(), want.node_name.clone());
        let token = Token { id, secret, name, node_name, made: now, expires, given: false };
        let object = as_secret(&token, &self.installation);
        self.secrets().create(&PostParams::default(), &object).await?;
        // The one before can still be on its way to the node: it ends by itself.
        self.tokens.insert(token.id.clone(), token);
        Ok(())
    }

    /// Deletes tokens whose nodes are ready in the cluster, those that nobody wants, and those that have ended.
    async fn drop_used(&mut self, wanted: &[JoinWanted], nodes: &[Arc<Node>], now: Timestamp) {
        let ready: BTreeMap<_, _> =
            nodes.iter().filter_map(|node| Some((node.name_any(), ready_since(node)?))).collect();
        let used = |token: &&Token| {
            let want = wanted.iter().find(|want| want.secret.to_string() == token.name);
            is_used(token, want, ready.get(&token.node_name).copied(), now)
        };
        let used: Vec<_> = self.tokens.values().filter(used).map(|token| token.id.clone()).collect();
        for id in used {
            match self.secrets().delete(&format!("bootstrap-token-{id}"), &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code != 404 => {
                    tracing::warn!("cannot delete a token: {}", status.message);
                }
                Err(kube::Error::Api(_)) | Ok(_) => drop(self.tokens.remove(&id)),
                Err(error) => tracing::warn!("cannot delete a token: {error}"),
            }
        }
    }

    async fn approve(&self, request: &CertificateSigningRequest, reason: &'static str) {
        let name = request.name_any();
        let condition = CertificateSigningRequestCondition {
            type_: "Approved".to_owned(),
            status: "True".to_owned(),
            reason: Some("StokeholdNode".to_owned()),
            message: Some(reason.to_owned()),
            last_update_time: Some(Time(Timestamp::now())),
            ..CertificateSigningRequestCondition::default()
        };
        let others = request.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let conditions: Vec<_> = others.into_iter().chain([condition]).collect();
        let patch = Patch::Merge(serde_json::json!({"status": {"conditions": conditions}}));
        let api = Api::<CertificateSigningRequest>::all(self.client.clone());
        match api.patch_approval(&name, &PatchParams::default(), &patch).await {
            Ok(_) => tracing::info!(request = name, "approved: {reason}"),
            Err(error) => tracing::warn!(request = name, "cannot approve it: {}", crate::apply::explain(&error)),
        }
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), SYSTEM)
    }
}

fn refused(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "the operator may not make tokens for joining nodes: `helm upgrade --set join.enabled=true` lets it ({})",
            status.message
        ),
        error => format!("cannot make a token: {}", crate::apply::explain(error)),
    }
}

/// When a node's kubelet was heard of last, if it is ready.
fn ready_since(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_deref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    ready.last_heartbeat_time.as_ref().or(ready.last_transition_time.as_ref()).map(|time| time.0)
}

#[cfg(test)]
mod tests;
