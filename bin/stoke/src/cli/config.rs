//! `stoke config`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use stoke_api::{Kind, ObjectName, ObjectRef};

/// The configuration of one node.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stoke config node-1                   a machine or server of this installation\n  \
    stoke config server/rack1-07 -o yaml  the same for programs\n  \
    stoke config node-1 -f examples/      as the files say it, with their lines; nothing needs to run"
)]
pub(crate) struct Config {
    /// `NAME` of a machine or server, or `KIND/NAME`
    #[arg(value_name = "NAME")]
    pub(crate) node: String,
    /// Show what these files say, in place of what this installation has
    #[arg(short, long, value_name = "PATH", num_args = 1..)]
    pub(crate) file: Vec<PathBuf>,
    /// Form of the output
    #[arg(short, long, default_value = "table")]
    pub(crate) output: ConfigFormat,
    /// Its namespace, if it is a machine
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub(crate) namespace: ObjectName,
}

/// Forms of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConfigFormat {
    /// Columns for people
    Table,
    /// One JSON document
    Json,
    /// One YAML document
    Yaml,
}

impl Config {
    /// The objects that the name may be of.
    pub(crate) fn candidates(&self) -> anyhow::Result<Vec<ObjectRef>> {
        let (kinds, name) = match self.node.split_once('/') {
            Some((kind, name)) => (vec![kind.parse::<Kind>()?], name),
            None => (vec![Kind::Machine, Kind::Server], self.node.as_str()),
        };
        let name: ObjectName = name.parse()?;
        let candidate = |kind: Kind| {
            let namespace = kind.is_namespaced().then(|| self.namespace.clone());
            ObjectRef { kind, namespace, name: name.clone() }
        };
        Ok(kinds.into_iter().map(candidate).collect())
    }
}
