//! `stoke-init`: PID 1 of an initramfs whose root is on the network, and afterwards the node's resident agent.
//!
//! Three lives of one program. As PID 1 ([`boot`]): kernel modules, network, clock, the farm's manifest, the root by NBD
//! or in memory, dm-verity, a writable layer, the node's configuration, and the hand-over to the image's init. As the
//! resident ([`resident`]), started just before: it keeps the root's connections and the lease, reports and obeys. As the
//! last program ([`shutdown`]): it gives the root back.
//!
//! What it never does: write to a disk that its farm does not name, or that is neither blank nor its own, trust anything
//! about the root but what was built into this initramfs, or sleep without saying why and until when. Read [`boot`] first.

mod accounts;
mod boot;
mod clock;
mod configure;
mod dhcp;
mod disk;
mod farm;
mod findings;
mod fullness;
mod handoff;
mod hostkey;
mod identity;
mod journal;
mod kernel_fs;
mod kexec;
mod layers;
mod lease;
mod ltsp;
mod modules;
mod nbd;
mod netlink;
mod network;
mod nfs;
mod plan;
mod ram;
mod reporter;
mod resident;
mod root;
mod secrets;
mod shutdown;
mod switch;
mod verity;

use std::process::ExitCode;

use stoke_init::{cmdline, dhcp_wire, peer};

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let program = arguments.next();
    if program.as_deref() == Some(switch::RESIDENT) {
        return finish(resident::run());
    }
    if program.as_deref() == Some(configure::ENTER) {
        return configure::enter(arguments);
    }
    if rustix::process::getpid() != rustix::process::Pid::INIT {
        eprintln!("stoke-init is the first program of an initramfs: only the kernel starts it");
        return ExitCode::FAILURE;
    }
    if shutdown::is_called(program.as_deref()) {
        shutdown::run(arguments.next().as_deref());
    }
    boot::run()
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            journal::Journal::on_kernel_log(Vec::new()).say(&format!("the resident ends: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
