//! `stoke start`, `stop`, `reboot`.

use std::process::ExitCode;

use stoke_api::Kind;
use stoke_api::control::PowerAction;

use crate::cli::{Objects, references};
use crate::client::Client;
use crate::failure::Failure;
use crate::folders::Folders;
use crate::output;

pub(crate) async fn run(folders: &Folders, objects: &Objects, action: PowerAction) -> anyhow::Result<ExitCode> {
    let references = references(&objects.words, Some(Kind::Machine), &objects.namespace)?;
    for reference in &references {
        let allowed = match reference.kind {
            Kind::Machine => true,
            Kind::Server => action == PowerAction::Reboot,
            _ => false,
        };
        if !allowed {
            let hint = "machines can be started, stopped and rebooted, servers rebooted";
            return Err(Failure::usage(format!("{reference} has no such power"), hint));
        }
    }
    let client = Client::connect(folders).await?;
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
