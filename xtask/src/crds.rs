//! The definitions of our kinds for Kubernetes, in the chart. A test of `stoke-kube` says if they are stale.

use anyhow::Result;

use crate::run::{self, cargo, root};

/// Writes them. They come from an example of the crate that has the types, so that nothing here knows Kubernetes.
pub(crate) fn run() -> Result<()> {
    let folder = root().join("charts/stokehold/crds");
    let mut generate = cargo(&["run", "--quiet", "--package", "stoke-kube", "--example", "crds", "--"]);
    run::run("crds", generate.arg(folder))
}
