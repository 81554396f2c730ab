//! `stoke start`, `stop`, `reboot`.

use std::process::ExitCode;

use stoke_api::control::PowerAction;
use stoke_api::{Kind, ObjectRef};

use crate::cli::{Objects, references};
use crate::cluster::Choice;
use crate::failure::Failure;
use crate::folders::Folders;
use crate::output;

pub(crate) async fn run(
    folders: &Folders,
    choice: &Choice,
    objects: &Objects,
    action: PowerAction,
) -> anyhow::Result<ExitCode> {
    // What makes no sense anywhere is said before anybody is asked.
    allowed(&references(&objects.words, Some(Kind::Machine), &crate::cluster::default_namespace(None)?)?)?;
    let client = choice.target(folders, objects.namespace.as_ref()).await?;
    let namespace = client.namespace(objects.namespace.as_ref())?;
    let references = references(&objects.words, Some(Kind::Machine), &namespace)?;
    let done = match action {
        PowerAction::Start => "starts",
        PowerAction::Stop => "shuts down",
        PowerAction::Reboot => "reboots",
    };
    for reference in &references {
        client.power(reference, action).await?;
        output::print(&format!("{reference} {done}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn allowed(references: &[ObjectRef]) -> anyhow::Result<()> {
    for reference in references {
        let allowed = matches!(reference.kind, Kind::Machine | Kind::Server);
        if !allowed {
            let hint = "machines and servers can be started, stopped and rebooted";
            return Err(Failure::usage(format!("{reference} has no such power"), hint));
        }
    }
    Ok(())
}
