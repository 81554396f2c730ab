//! Benchmarks beside their peers: ours and theirs in one run, alternating, and the ratio between them.
//!
//! `cargo xtask bench [NAME…] [--json FILE] [--rounds N]`. Each benchmark is a module that yields [`Row`]s.

mod boot;
mod containerfile;
mod dhcp;
mod farm;
mod http;
mod image;
mod nbd;
mod oci;
mod operator;
mod peers;
mod processor;
mod row;
mod serial;
mod storm;
mod tftp;
mod update;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use row::Row;

/// Benchmarks beside their peers.
#[derive(Parser)]
struct Arguments {
    /// Which; all if none is named.
    names: Vec<String>,
    /// Also write the rows as JSON into this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// How often each side runs.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only the sides whose name and firmware contain this, for example `Bios ours`.
    #[arg(long, default_value = "")]
    only: String,
}

/// A benchmark: how often each side runs and which sides do, to its rows.
type Benchmark = fn(usize, &str) -> Result<Vec<Row>>;

const BENCHMARKS: &[(&str, Benchmark)] = &[
    ("boot", boot::run),
    ("storm", storm::run),
    ("dhcp", dhcp::run),
    ("http", http::run),
    ("tftp", tftp::run),
    ("nbd", nbd::run),
    ("image", image::run),
    ("containerfile", containerfile::run),
    ("update", update::run),
    ("operator", operator::run),
    ("oci", oci::run),
];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let known: Vec<_> = BENCHMARKS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = arguments.names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("no benchmark is called {unknown}; there are: {}", known.join(", "));
    }
    let mut rows = Vec::new();
    for (name, benchmark) in BENCHMARKS {
        if arguments.names.is_empty() || arguments.names.iter().any(|wanted| wanted == name) {
            rows.extend(benchmark(arguments.rounds, &arguments.only)?);
        }
    }
    print!("{}", row::table(&rows));
    if let Some(file) = &arguments.json {
        fs_err::write(file, serde_json::to_string_pretty(&rows)?)?;
    }
    Ok(())
}
