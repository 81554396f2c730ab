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
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        match serve.role {
            RoleName::Node => stoke_node::run(launch).await,
            RoleName::Router => stoke_router::run(launch).await,
            RoleName::Farm => stoke_farm::run(launch).await,
            RoleName::Build => stoke_host::build::run(launch).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The node makes the namespaces (or finds those of its predecessor), the others join them.
fn join(role: RoleName, folder: &Path) -> anyhow::Result<()> {
    let joined = match role {
        RoleName::Node => stoke_node::namespaces::prepare(folder.parent().unwrap_or(folder)),
        _ => stoke_node::namespaces::enter(folder),
    };
    joined.with_context(|| format!("cannot use the namespaces at {}", folder.display()))
}
