//! Accepting a node's TPM: what `stoke farm enroll` asks for, in the object's status.

use stoke_api::control::EnrollRequest;
use stoke_api::objects::{AnyObject, Enrolment, NodeState};
use stoke_reconcile::Status;

/// The status with the TPM accepted that the node showed last, or with none accepted any more; or why that cannot be.
///
/// # Errors
/// If it has shown none, or is no node.
pub fn enrolled(object: &AnyObject, request: &EnrollRequest) -> Result<Status, String> {
    match object {
        AnyObject::Machine(machine) => {
            let enrolment = accepted(machine.status.node.as_ref(), request)?;
            Ok(Status::Machine(stoke_api::objects::MachineStatus { enrolment, ..machine.status.clone() }))
        }
        AnyObject::Server(server) => {
            let written = server.spec.tpm.as_ref().map(|tpm| tpm.ek_public);
            let enrolment = accepted(server.status.node.as_ref(), request)?;
            if let (Some(written), Some(shown)) = (written, &enrolment)
                && written != shown.key
            {
                return Err(format!(
                    "its spec.tpm.ekPublic says {written}, and it shows {}; change its file",
                    shown.key
                ));
            }
            Ok(Status::Server(stoke_api::objects::ServerStatus { enrolment, ..server.status.clone() }))
        }
        other => Err(format!("{} has no TPM", other.reference())),
    }
}

fn accepted(node: Option<&NodeState>, request: &EnrollRequest) -> Result<Option<Enrolment>, String> {
    if request.forget {
        return Ok(None);
    }
    let tpm = node.and_then(|node| node.tpm.as_ref());
    let tpm = tpm.ok_or("it has not shown a TPM yet; let it boot in a farm with `trust: Tpm`")?;
    match request.key {
        Some(wanted) if wanted != tpm.key => Err(format!("it shows the TPM {}, not {wanted}", tpm.key)),
        // What it proved before holds from now on, too; what is not proven yet is noted at its first proof.
        _ => Ok(Some(Enrolment { key: tpm.key, secure_boot: tpm.secure_boot })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoke_api::Digest;
    use stoke_api::objects::{NodeTpm, Verdict};

    fn node(key: u8) -> NodeState {
        let tpm = NodeTpm {
            key: Digest([key; 32]),
            verdict: Verdict::NotEnrolled,
            message: String::new(),
            secure_boot: None,
            secure_boot_is_on: false,
            certificate: None,
        };
        NodeState { tpm: Some(tpm), ..NodeState::default() }
    }

    fn request(key: Option<u8>, forget: bool) -> EnrollRequest {
        EnrollRequest { key: key.map(|key| Digest([key; 32])), forget }
    }

    #[test]
    fn the_tpm_that_a_node_shows_is_accepted_if_it_is_the_one_that_is_meant() {
        let shown = Some(Enrolment { key: Digest([1; 32]), secure_boot: None });
        assert_eq!(accepted(Some(&node(1)), &request(None, false)), Ok(shown.clone()));
        assert_eq!(accepted(Some(&node(1)), &request(Some(1), false)), Ok(shown));
        assert!(accepted(Some(&node(1)), &request(Some(2), false)).is_err());
        assert_eq!(accepted(Some(&node(1)), &request(None, true)), Ok(None));
        assert!(accepted(Some(&NodeState::default()), &request(None, false)).is_err());
        assert!(accepted(None, &request(None, false)).is_err());
    }
}
