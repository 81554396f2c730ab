//! `stoke-vm`: owns one virtual machine, as PID 1 of its pod or as one process of an installation.
//!
//! - [`vm`] is the role: configuration in, report out.
//! - [`machine`] is the one task that owns the machine's state; its comment draws the states. Read it first.
//! - [`hypervisor`] is one running QEMU, started or adopted; [`record`] is what is remembered of it on disk.
//! - [`console`] serves the serial console to any number of people.
//!
//! What this program never does: talk to a store or to Kubernetes, change the host's network, or take the guest along
//! when it is killed: a new `stoke-vm` with the same configuration finds the running QEMU and goes on.

mod capacity;
mod console;
mod hypervisor;
mod log;
mod machine;
mod metrics;
mod orphans;
mod ports;
mod record;
mod vm;

use std::path::PathBuf;

use clap::Parser;

/// Runs one virtual machine.
#[derive(Debug, Parser)]
#[command(name = "stoke-vm", version)]
struct Arguments {
    /// Configuration of the machine, in JSON.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where the machine is asked about itself and told to reload or stop.
    #[arg(long, value_name = "SOCKET")]
    socket: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    stoke_daemon::init_tracing();
    // Sockets that command a machine, and everything that its console showed, are nobody else's business.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    orphans::reap_as_init()?;
    vm::run(stoke_daemon::Launch { config: arguments.config, socket: arguments.socket }).await
}
