//! `stoke logs` in a cluster: of the pod that serves an object.

use std::process::ExitCode;

use anyhow::Context as _;
use stoke_kube::client::Cluster;

use super::explained;
use crate::cli::Logs;

/// Copies the log to standard output.
pub(crate) async fn run(cluster: &Cluster, logs: &Logs) -> anyhow::Result<ExitCode> {
    let reference = logs.object.reference(cluster.namespace())?;
    let mut stdout = tokio::io::stdout();
    let copied = cluster.copy_log(&reference, logs.follow, &mut stdout).await.map_err(explained)?;
    copied.context("the log broke off")?;
    Ok(ExitCode::SUCCESS)
}
