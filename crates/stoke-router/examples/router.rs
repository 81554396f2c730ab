//! The role alone, as the tests start it: `router CONFIG SOCKET`.

use std::path::PathBuf;

use anyhow::Context as _;
use stoke_daemon::Launch;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    stoke_daemon::init_tracing();
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let config = arguments.next().context("usage: router CONFIG SOCKET")?;
    let socket = arguments.next().context("usage: router CONFIG SOCKET")?;
    stoke_router::run(Launch { config, socket }).await
}
