//! `stoke serve node` alone, for this crate's tests: `agent RUN_FOLDER CONFIG SOCKET`.

use std::path::PathBuf;

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let mut next = || arguments.next().context("usage: agent RUN_FOLDER CONFIG SOCKET");
    let (run_dir, config, socket) = (next()?, next()?, next()?);
    // While there is one thread: a user namespace cannot be joined later.
    stoke_node::namespaces::prepare(&run_dir)?;
    stoke_daemon::init_tracing();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(stoke_node::run(stoke_daemon::Launch { config, socket }))
}
