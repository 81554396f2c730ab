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
    /// Attach standard input and output to the guest's serial console: a container's, so that it can be attached to.
    #[arg(long)]
    console_stdio: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    stoke_daemon::init_tracing();
    // Sockets that command a machine, and everything that its console showed, are nobody else's business.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let runtime = tokio::runtime::Runtime::new()?;
    if arguments.console_stdio {
        console::make_raw();
    }
    let launch = stoke_daemon::Launch { config: arguments.config, socket: arguments.socket };
    let ended = runtime.block_on(async {
        orphans::reap_as_init()?;
        vm::run(launch, arguments.console_stdio).await
    });
    // Not waiting for a thread that reads standard input: nobody may ever type again.
    runtime.shutdown_background();
    ended
}
