//! `stoke scale`: the number of machines of a set, in a cluster. On one host it is in the set's file.

use std::process::ExitCode;

use stoke_api::Kind;

use crate::cli::{Scale, references};
use crate::cluster::{Choice, Target, explained};
use crate::failure::Failure;
use crate::folders::Folders;
use crate::output;

pub(crate) async fn run(folders: &Folders, choice: &Choice, scale: &Scale) -> anyhow::Result<ExitCode> {
    let target = choice.target(folders, scale.namespace.as_ref()).await?;
    let namespace = target.namespace(scale.namespace.as_ref())?;
    let found = references(std::slice::from_ref(&scale.name), Some(Kind::MachineSet), &namespace)?;
    let reference = found.first().ok_or_else(|| Failure::plain("no set is named"))?;
    if reference.kind != Kind::MachineSet {
        return Err(Failure::usage(format!("{reference} has no number of machines"), "sets of machines have one"));
    }
    let Target::Cluster(cluster) = target else {
        let hint = "change spec.replicas there; stoke up follows";
        return Err(Failure::hinted(format!("{reference} has its number of machines from its file"), hint));
    };
    cluster.scale(reference, scale.replicas).await.map_err(explained)?;
    output::print(&format!("{reference} shall have {} machines\n", scale.replicas))?;
    Ok(ExitCode::SUCCESS)
}
