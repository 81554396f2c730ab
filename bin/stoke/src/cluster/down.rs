//! `stoke down --purge --target cluster`: what the chart runs before it goes. The operator does the work.

use std::process::ExitCode;
use std::time::Duration;

use stoke_kube::client::Cluster;

use super::explained;
use crate::cli::Down;
use crate::failure::Failure;
use crate::output;

/// The chart's name for it.
const LEASE: &str = "stokehold-operator";

/// Asks the operator to end everything, and waits.
pub(crate) async fn run(cluster: &Cluster, down: &Down) -> anyhow::Result<ExitCode> {
    if !down.purge {
        let hint = "stop machines with stoke stop; remove Stokehold from the cluster with helm uninstall";
        return Err(Failure::usage("a cluster is not taken down", hint));
    }
    let downed = cluster.uninstall(LEASE, Duration::from_secs(down.timeout)).await.map_err(explained)?;
    if downed.failures.is_empty() {
        output::print("the operator has ended everything\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let failures = downed.failures.join("\n  ");
    Err(Failure::hinted(format!("not everything could be ended:\n  {failures}"), "see the log of the operator"))
}
