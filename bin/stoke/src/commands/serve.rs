//! `stoke serve ROLE`: one role, as a process of its own.
//!
//! Namespaces come first, while the process has one thread: a user namespace cannot be joined later (setns(2)).

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use stoke_daemon::Launch;

use crate::cli::{RoleName, Serve};

pub(crate) fn run(serve: Serve) -> anyhow::Result<ExitCode> {
    if let Some(folder) = &serve.namespaces {
        join(serve.role, folder)?;
    }
    stoke_daemon::init_tracing();
    let launch = Launch { config: serve.config, socket: serve.socket };
    let runtime = runtime(serve.role).build().context("cannot start")?;
    let ended = runtime.block_on(async {
        if let Some(ports) = &serve.ports
            && !interfaces(serve.role, ports).await?
        {
            return Ok(());
        }
        match serve.role {
            RoleName::Node if serve.cluster => stoke_node::cluster::run(launch).await,
            RoleName::Node => stoke_node::run(launch).await,
            RoleName::Router => stoke_router::run(launch).await,
            RoleName::Farm => stoke_farm::run(launch).await,
            RoleName::Build => stoke_host::build::run(launch, serve.report).await,
            RoleName::Operator => stoke_kube::operator::run(&launch.config).await,
        }
    });
    // What is being uploaded to a registry is taken up by the next operator.
    runtime.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}

/// An operator computes a round at a time: the processors of a large node would be threads and heaps of no use to it.
fn runtime(role: RoleName) -> tokio::runtime::Builder {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all();
    if matches!(role, RoleName::Operator) {
        runtime.worker_threads(2);
    }
    runtime
}

/// Waits for the interfaces of a role in a pod; whether they came before it was told to stop.
async fn interfaces(role: RoleName, ports: &Path) -> anyhow::Result<bool> {
    let given = stoke_node::interfaces::obtain(ports).await?;
    if given && role == RoleName::Router {
        stoke_node::proxy::start().await?;
    }
    Ok(given)
}

/// The node makes the namespaces (or finds those of its predecessor), the others join them.
fn join(role: RoleName, folder: &Path) -> anyhow::Result<()> {
    let joined = match role {
        RoleName::Node => stoke_node::namespaces::prepare(folder.parent().unwrap_or(folder)),
        _ => stoke_node::namespaces::enter(folder),
    };
    joined.with_context(|| format!("cannot use the namespaces at {}", folder.display()))
}
