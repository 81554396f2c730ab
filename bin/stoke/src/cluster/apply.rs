//! `stoke up` and `stoke plan` for a cluster: the files are loaded and checked as for one host, and applied with the user's
//! rights, or only rehearsed.

use std::path::PathBuf;
use std::process::ExitCode;

use stoke_api::control::{Change, Refused};
use stoke_api::load::Loaded;
use stoke_kube::client::{Cluster, ClusterError};

use super::explained;
use crate::cli::Files;
use crate::client::RefusedError;
use crate::commands::{in_files, load, mark, of_exports};
use crate::output;

/// Applies the files, or says what that would change.
pub(crate) async fn run(cluster: &Cluster, files: &Files, dry_run: bool) -> anyhow::Result<ExitCode> {
    let mut loaded = load(&files.paths)?;
    // What is said of them is then said in the words of their files, too.
    for (object, _) in loaded.iter_mut().flat_map(|file| &mut file.objects) {
        if object.kind().is_namespaced() {
            object.metadata_mut().namespace.get_or_insert_with(|| cluster.namespace().clone());
        }
    }
    if !dry_run {
        bring_exports(cluster, &files.paths).await?;
    }
    let objects: Vec<_> = loaded.iter().flat_map(|file| &file.objects).map(|(object, _)| object.clone()).collect();
    let applied = cluster.apply(&objects, dry_run).await.map_err(|error| told(error, &loaded))?;
    let changed: Vec<_> = applied.iter().filter(|(_, change)| *change != Change::Unchanged).collect();
    let kept = applied.len() - changed.len();
    let mut lines: Vec<_> = changed.iter().map(|(object, change)| format!("{} {object}\n", mark(*change))).collect();
    if kept > 0 {
        lines.push(format!("{kept} object{} as before\n", if kept == 1 { "" } else { "s" }));
    }
    output::print(&lines.concat())?;
    Ok(ExitCode::SUCCESS)
}

/// Gives the operator the leases and keys of an export, before it makes something of its objects.
async fn bring_exports(cluster: &Cluster, paths: &[PathBuf]) -> anyhow::Result<()> {
    let (keys, leases) = of_exports(paths)?;
    let (brought, all) = (cluster.bring_leases(&leases).await.map_err(explained)?, leases.len());
    if all > 0 {
        output::print(&format!("leases of {brought} LANs are laid down for their routers\n"))?;
    }
    if brought < all {
        eprintln!("{} LANs have had routers here before: these go on with the leases that they know", all - brought);
    }
    if keys.is_empty() || !cluster.bring_keys(&keys).await.map_err(explained)? {
        return Ok(());
    }
    output::print("keys are in the Secret stokehold-keys\n")?;
    eprintln!(
        "an operator that runs already takes them over when it starts again: kubectl -n {} rollout restart deployment \
         stokehold-operator",
        cluster.system()
    );
    Ok(())
}

/// What is wrong in objects is told at the places of their files.
fn told(error: ClusterError, loaded: &[Loaded]) -> anyhow::Error {
    match error {
        ClusterError::Invalid(problems) => {
            let message = "the objects contradict each other; nothing was changed".to_owned();
            in_files(RefusedError(Refused { message, problems }).into(), loaded)
        }
        other => explained(other),
    }
}
