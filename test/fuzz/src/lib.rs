//! What reads bytes that somebody else chose, each as a [`Target`]: a function from bytes to nothing that must come back,
//! soon, without a panic, and with its own claims kept.
//!
//! The same targets run in three ways:
//!
//! - `cargo test -p fuzz` replays what is in `corpus/TARGET` and some thousand mutations of it ([`mutate`]);
//! - `cargo xtask fuzz` runs libFuzzer, guided by coverage, from the package in `fuzz/`, which has the layout of cargo-fuzz;
//! - what libFuzzer finds becomes a file of the corpus, and so a test.
//!
//! What it never does: open a socket or a file, look at a clock. Read [`TARGETS`] first.

#![expect(clippy::missing_panics_doc, reason = "a panic is how a target tells that a claim is broken")]

pub mod boot;
pub mod cluster;
pub mod dhcp;
pub mod http;
pub mod images;
pub mod mutate;
pub mod names;
pub mod nbd;
pub mod node;
pub mod pieces;
pub mod secureboot;
pub mod tftp;

/// Something that reads bytes of strangers.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of its corpus, and of its program.
    pub name: &'static str,
    /// Takes an input.
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("agent_config", cluster::agent_config),
    target("authenticode", secureboot::authenticode),
    target("certificate", cluster::certificate),
    target("cgroup_lines", cluster::cgroup_lines),
    target("cmdline", boot::cmdline),
    target("cpio", images::cpio),
    target("device_plugin", cluster::device_plugin),
    target("dhcp4", dhcp::conversation),
    target("dhcp6", dhcp::conversation6),
    target("dhcp_client", dhcp::client),
    target("dhcp_journal", dhcp::journal),
    target("dns", names::question),
    target("hot_list", nbd::hot_list),
    target("http_head", http::head),
    target("loader_config", boot::loader_config),
    target("nbd_client", nbd::client),
    target("nbd_session", nbd::session),
    target("node_api", node::messages),
    target("objects", node::objects),
    target("pod_report", cluster::report),
    target("policy", boot::policy),
    target("ports", cluster::ports),
    target("signatures", images::signatures),
    target("tftp_packet", tftp::packet),
    target("tftp_transfer", tftp::transfer),
    target("uefi_variables", secureboot::variables),
    target("uki", images::uki),
];
