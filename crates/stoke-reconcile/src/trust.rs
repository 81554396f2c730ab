//! What nodes must prove, what they have proven, and what objects say of it.

use stoke_api::objects::{Enrolment, NodeConfig, NodeState, Trust, Verdict};
use stoke_api::{Condition, ObjectRef};

use crate::observed::{Desired, Occurrence};
use crate::status::condition;
use crate::view::{Farm, Machine, Server, View};

/// What a farm must say of its trust.
pub(crate) fn of_farm(farm: &Farm) -> Condition {
    match farm.spec.trust {
        // Whoever can answer for a MAC gets what that MAC gets.
        Trust::Network => {
            let message = "whoever can answer for a MAC address on this LAN gets what its machine gets";
            condition("NetworkTrust", true, "TrustIsNetwork", message)
        }
        Trust::Tpm => {
            let message = "nodes get their secrets only after their TPM has proven what they run";
            condition("NetworkTrust", false, "TrustIsTpm", message)
        }
    }
}

/// The TPM that a server shall have: the one in its description before the one that was accepted.
pub(crate) fn of_server(server: &Server) -> Option<Enrolment> {
    let written = server.spec.tpm.as_ref().map(|tpm| tpm.ek_public);
    let accepted = server.status.enrolment.clone();
    match written {
        // What was noted of Secure Boot belongs to the TPM that it was noted of.
        Some(key) => {
            Some(accepted.filter(|enrolment| enrolment.key == key).unwrap_or(Enrolment { key, secure_boot: None }))
        }
        None => accepted,
    }
}

/// The TPM that a machine shall have.
pub(crate) fn of_machine(machine: &Machine) -> Option<Enrolment> {
    machine.status.enrolment.clone()
}

/// What is to be said of a node's proof, and of secrets that it needs and that cannot be read.
pub(crate) fn conditions(
    view: &View<'_>,
    farm: &Farm,
    config: &NodeConfig,
    node: Option<&NodeState>,
) -> Vec<Condition> {
    let proof = node.filter(|_| farm.spec.trust == Trust::Tpm).map(attested);
    proof.into_iter().chain(unreadable(view, config)).collect()
}

fn attested(node: &NodeState) -> Condition {
    let Some(tpm) = &node.tpm else {
        let message = "it has not shown its TPM in this boot; without one it gets no secrets";
        return condition("Attested", false, "NoTpm", message);
    };
    match tpm.verdict {
        Verdict::Proven => {
            let secure = if tpm.secure_boot_is_on { "on" } else { "off" };
            let message = format!("it runs what its farm handed out; TPM {}, Secure Boot {secure}", tpm.key);
            condition("Attested", true, "Proven", message)
        }
        Verdict::Asked => condition("Attested", false, "Asked", "it was asked for a proof"),
        Verdict::NotEnrolled => condition("Attested", false, "NotEnrolled", tpm.message.clone()),
        Verdict::Refused => condition("Attested", false, "Refused", tpm.message.clone()),
    }
}

fn unreadable(view: &View<'_>, config: &NodeConfig) -> Option<Condition> {
    let failures = &view.environment().secret_failures;
    let failing = config.secrets().filter_map(|secret| failures.get(&secret.to_string()));
    let message = failing.cloned().collect::<Vec<_>>().join("; ");
    (!message.is_empty()).then(|| condition("Secrets", false, "Unreadable", message))
}

/// Every hand-out of secrets is an event.
pub(crate) fn events(desired: &mut Desired, object: &ObjectRef, before: Option<&NodeState>, node: Option<&NodeState>) {
    let given = |node: Option<&NodeState>| node.map(|node| node.secrets_given.clone()).unwrap_or_default();
    let now = given(node);
    if now.is_empty() || now == given(before) {
        return;
    }
    let to = node.and_then(|node| node.address).map(|address| format!(" to {address}")).unwrap_or_default();
    let message = format!("its secrets were handed out{to}");
    desired.events.push(Occurrence { object: object.clone(), reason: "SecretsHandedOut".to_owned(), message });
}
