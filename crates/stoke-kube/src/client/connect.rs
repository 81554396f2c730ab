//! Which cluster, with whose rights, and in which namespace: as kubectl finds it out.

use std::path::{Path, PathBuf};

use kube::config::{KubeConfigOptions, Kubeconfig};
use stoke_api::ObjectName;

use super::{Cluster, ClusterError, Result};

/// What somebody said about the cluster; what they did not is in the kubeconfig.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// A kubeconfig; that of `KUBECONFIG` or `~/.kube/config` if absent.
    pub kubeconfig: Option<PathBuf>,
    /// A context; the current one if absent.
    pub context: Option<String>,
    /// A namespace; that of the context if absent.
    pub namespace: Option<ObjectName>,
    /// The namespace of the operator.
    pub system: String,
}

/// Whether there is something that could be an access to a cluster: a kubeconfig, or a pod's token.
pub fn is_available(access: &Access) -> bool {
    let named = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty());
    let own = || std::env::home_dir().is_some_and(|home| home.join(".kube/config").exists());
    access.kubeconfig.is_some() || named.is_some() || own() || in_pod()
}

/// Whether this is a pod with a service account.
fn in_pod() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
        && Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token").exists()
}

impl Cluster {
    /// Makes a client. Nothing is asked of the cluster yet.
    ///
    /// # Errors
    /// If there is no kubeconfig, or no such context in it.
    pub async fn connect(access: &Access) -> Result<Self> {
        // One may be there already, from whoever else speaks TLS in this process.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (config, name) = config(access).await?;
        let default = config.default_namespace.clone();
        let namespace = match &access.namespace {
            Some(namespace) => namespace.clone(),
            None => default.parse().map_err(|error| ClusterError::Config(format!("its namespace: {error}")))?,
        };
        let client = kube::Client::try_from(config).map_err(|error| ClusterError::Config(error.to_string()))?;
        Ok(Self { client, namespace, system: access.system.clone(), name })
    }
}

async fn config(access: &Access) -> Result<(kube::Config, String)> {
    let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    let wrong = |error: kube::config::KubeconfigError| ClusterError::Config(chain(&error));
    let kubeconfig = match &access.kubeconfig {
        Some(path) => Kubeconfig::read_from(path).map_err(wrong)?,
        None => match Kubeconfig::read() {
            Ok(found) => found,
            Err(_) if in_pod() && access.context.is_none() => {
                let config = kube::Config::incluster().map_err(|error| ClusterError::Config(error.to_string()))?;
                return Ok((config, "of this pod".to_owned()));
            }
            Err(error) => return Err(wrong(error)),
        },
    };
    let name = access.context.clone().or_else(|| kubeconfig.current_context.clone()).unwrap_or_default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(wrong)?;
    Ok((config, name))
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = next.source();
    }
    text
}
