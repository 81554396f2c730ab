//! The cluster as nodes reach it.

use std::path::Path;

use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Service};
use kube::Client;
use kube::api::Api;
use stoke_reconcile::ClusterInfo;

use super::SYSTEM;

/// The cluster as nodes reach it: as kubeadm has published it, else by what every cluster has.
pub(super) async fn cluster_info(client: &Client) -> Option<ClusterInfo> {
    let published =
        Api::<ConfigMap>::namespaced(client.clone(), "kube-public").get_opt("cluster-info").await.ok().flatten();
    let published = published.and_then(|map| map.data?.remove("kubeconfig")).and_then(|text| said_in(&text));
    let (server, ca) = match published {
        Some(published) => published,
        None => (endpoint(client).await?, root_ca(client).await?),
    };
    let dns = Api::<Service>::namespaced(client.clone(), SYSTEM).get_opt("kube-dns").await.ok().flatten();
    let dns = dns.and_then(|service| service.spec?.cluster_ips).unwrap_or_default();
    let dns = dns.iter().filter_map(|address| address.parse().ok()).collect();
    Some(ClusterInfo { server, ca, dns, domain: domain(Path::new("/etc/resolv.conf")) })
}

/// Server and CA in a kubeconfig.
fn said_in(kubeconfig: &str) -> Option<(String, String)> {
    use base64::Engine as _;
    let config = kube::config::Kubeconfig::from_yaml(kubeconfig).ok()?;
    let cluster = config.clusters.into_iter().next()?.cluster?;
    let ca = base64::engine::general_purpose::STANDARD.decode(cluster.certificate_authority_data?).ok()?;
    Some((cluster.server?, String::from_utf8(ca).ok()?))
}

async fn root_ca(client: &Client) -> Option<String> {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), SYSTEM);
    maps.get_opt("kube-root-ca.crt").await.ok().flatten()?.data?.remove("ca.crt")
}

async fn endpoint(client: &Client) -> Option<String> {
    let endpoints =
        Api::<Endpoints>::namespaced(client.clone(), "default").get_opt("kubernetes").await.ok().flatten()?;
    let subset = endpoints.subsets?.into_iter().next()?;
    let (address, port) = (subset.addresses?.into_iter().next()?.ip, subset.ports?.into_iter().next()?.port);
    Some(if address.contains(':') {
        format!("https://[{address}]:{port}")
    } else {
        format!("https://{address}:{port}")
    })
}

/// The domain of services: `svc.DOMAIN` is among what a pod searches.
fn domain(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let words = text.lines().filter_map(|line| line.trim().strip_prefix("search ")).flat_map(str::split_whitespace);
    let mut words = words;
    words.find_map(|word| word.strip_prefix("svc.")).unwrap_or("cluster.local").to_owned()
}
