//! `stoke probe`: what Kubernetes asks inside of a role's container, which has no listener on the network.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::Method;
use stoke_host::http::request;

use crate::cli::Probe;

/// Below the limit of the probe itself, so that the reason is said.
const LIMIT: Duration = Duration::from_secs(4);

pub(crate) fn run(probe: &Probe) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let answer = runtime.block_on(request(&probe.socket, Method::GET, &probe.path, Vec::new(), LIMIT))?;
    anyhow::ensure!(answer.status.is_success(), "{}", answer.text());
    Ok(ExitCode::SUCCESS)
}
