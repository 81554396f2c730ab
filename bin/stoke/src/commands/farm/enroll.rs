//! `stoke farm enroll`: accepts a node's TPM.

use std::process::ExitCode;

use stoke_api::Kind;
use stoke_api::control::EnrollRequest;
use stoke_api::objects::{AnyObject, Enrolment};

use crate::cli::{Enroll, references};
use crate::cluster::Choice;
use crate::folders::Folders;
use crate::output;

pub(crate) async fn run(folders: &Folders, choice: &Choice, enroll: &Enroll) -> anyhow::Result<ExitCode> {
    let named = std::slice::from_ref(&enroll.node);
    // What makes no sense anywhere is said before anybody is asked.
    references(named, Some(Kind::Machine), &crate::cluster::default_namespace(None)?)?;
    let client = choice.target(folders, enroll.namespace.as_ref()).await?;
    let nodes = references(named, Some(Kind::Machine), &client.namespace(enroll.namespace.as_ref())?)?;
    for node in &nodes {
        client.enroll(node, EnrollRequest { key: enroll.key, forget: enroll.forget }).await?;
        let object = client.object(node).await?;
        let text = match enrolment(&object) {
            Some(enrolment) => format!("{node} shall have the TPM {}\n", enrolment.key),
            None => format!("{node} has no TPM that is accepted\n"),
        };
        output::print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn enrolment(object: &AnyObject) -> Option<&Enrolment> {
    match object {
        AnyObject::Machine(machine) => machine.status.enrolment.as_ref(),
        AnyObject::Server(server) => server.status.enrolment.as_ref(),
        _ => None,
    }
}
