//! `stoke status`: what runs on this host.

use std::process::ExitCode;

use stoke_api::control::WorkloadInfo;

use crate::client::Client;
use crate::folders::Folders;
use crate::output::{self, Table};

pub(crate) async fn run(folders: &Folders) -> anyhow::Result<ExitCode> {
    let host = Client::connect(folders).await?.host().await?;
    let mut table = Table::new(&["WORKLOAD", "READY", "PID", "RESTARTS", "AGE", "MESSAGE"]);
    let now = jiff::Timestamp::now().as_millisecond();
    for workload in &host.workloads {
        table.row(row(workload, now));
    }
    output::print(&table.render(""))?;
    Ok(ExitCode::SUCCESS)
}

fn row(workload: &WorkloadInfo, now: i64) -> Vec<String> {
    let age = workload.started_ms.and_then(|then| i64::try_from(then).ok()).map(|then| (now - then).max(0) / 1000);
    vec![
        workload.name.clone(),
        if workload.ready { "True" } else { "False" }.to_owned(),
        workload.pid.map(|pid| pid.to_string()).unwrap_or_default(),
        workload.restarts.to_string(),
        age.map(output::duration).unwrap_or_default(),
        workload.failure.clone().unwrap_or_default(),
    ]
}
