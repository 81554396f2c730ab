//! What nodes must prove, what they have proven, and what objects say of it.

use stoke_api::node::Phase;
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
    // Its firmware shows no TPM: only what runs after that does.
    let spoken = |node: &&NodeState| node.tpm.is_some() || node.phase >= Phase::Manifest;
    let proof = node.filter(|_| farm.spec.trust == Trust::Tpm).filter(spoken).map(attested);
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stoke_api::meta::Truth;
    use stoke_api::objects::{AnyObject, Kind};
    use stoke_api::{Digest, ObjectName};

    use super::*;
    use crate::observed::Observed;
    use crate::view::Gates;

    fn server(spec: Option<u8>, enrolled: Option<u8>) -> Server {
        let digest = |byte: u8| Digest([byte; 32]);
        let farm = json!({"namespace": "default", "name": "lab"});
        let tpm = spec.map(|byte| json!({"ekPublic": digest(byte)}));
        let enrolment = enrolled.map(|byte| json!({"key": digest(byte), "secureBoot": digest(9)}));
        serde_json::from_value(json!({
            "metadata": {"name": "a"}, "spec": {"farm": farm, "macs": ["52:54:00:00:00:07"], "tpm": tpm},
            "status": {"enrolment": enrolment},
        }))
        .unwrap()
    }

    #[test]
    fn the_tpm_that_is_written_goes_before_the_one_that_was_accepted() {
        let of =
            |spec, enrolled| of_server(&server(spec, enrolled)).map(|tpm| (tpm.key.0[0], tpm.secure_boot.is_some()));
        assert_eq!(of(None, None), None);
        assert_eq!(of(None, Some(1)), Some((1, true)));
        assert_eq!(of(Some(1), Some(1)), Some((1, true)));
        assert_eq!(of(Some(2), Some(1)), Some((2, false)));
    }

    fn node(tpm: &serde_json::Value) -> NodeState {
        serde_json::from_value(json!({"phase": "Root", "tpm": tpm, "address": "10.10.0.21"})).unwrap()
    }

    #[test]
    fn what_came_of_a_proof_is_a_condition() {
        let key = Digest([1; 32]);
        let said = |tpm: serde_json::Value| {
            let condition = attested(&node(&tpm));
            (condition.status == Truth::True, condition.reason, condition.message)
        };
        let (holds, reason, message) = said(json!({"key": key, "verdict": "Proven", "secureBootIsOn": true}));
        assert!(holds && reason == "Proven" && message.ends_with("Secure Boot on"), "{message}");
        let (holds, reason, message) = said(json!({"key": key, "verdict": "Refused", "message": "another kernel"}));
        assert!(!holds && reason == "Refused" && message == "another kernel");
        assert_eq!(said(json!(null)).1, "NoTpm");
        assert_eq!(said(json!({"key": key, "verdict": "NotEnrolled"})).1, "NotEnrolled");
    }

    fn farm(trust: &str) -> AnyObject {
        let spec = json!({"lan": "lab", "image": "node", "trust": trust});
        serde_json::from_value(
            json!({"kind": "Farm", "metadata": {"name": "lab", "namespace": "default"}, "spec": spec}),
        )
        .unwrap()
    }

    #[test]
    fn only_farms_that_want_a_proof_speak_of_it_and_unreadable_secrets_are_told_by_all() {
        let config: NodeConfig =
            serde_json::from_value(json!({"files": [{"path": "/a", "secret": {"file": "/etc/token"}}]})).unwrap();
        let said = |trust: &str, config: &NodeConfig| {
            let mut observed = Observed::default();
            observed.objects.push(farm(trust));
            observed.environment.secret_failures.insert("/etc/token".into(), "chmod 0600 /etc/token".into());
            let view = View::new(&observed, Gates::Closed);
            let name: ObjectName = "lab".parse().unwrap();
            let reference = ObjectRef { kind: Kind::Farm, namespace: "default".parse().ok(), name };
            let found = conditions(&view, view.farm(&reference).unwrap(), config, Some(&node(&json!(null))));
            found.into_iter().map(|condition| format!("{} {}", condition.kind, condition.message)).collect::<Vec<_>>()
        };
        assert_eq!(said("Network", &NodeConfig::default()), [""; 0]);
        assert_eq!(said("Network", &config), ["Secrets chmod 0600 /etc/token"]);
        assert_eq!(said("Tpm", &config).len(), 2);
    }

    #[test]
    fn every_hand_out_is_one_event() {
        let given = |time: &str| -> NodeState { serde_json::from_value(json!({"secretsGiven": time})).unwrap() };
        let object = ObjectRef { kind: Kind::Server, namespace: None, name: "a".parse().unwrap() };
        let happened = |before: Option<&NodeState>, now: &NodeState| {
            let mut desired = Desired::default();
            events(&mut desired, &object, before, Some(now));
            desired.events.len()
        };
        let (none, first, second) = (given(""), given("2026-11-21T10:00:00Z"), given("2026-11-21T11:00:00Z"));
        assert_eq!((happened(None, &none), happened(Some(&none), &first)), (0, 1));
        assert_eq!((happened(Some(&first), &first), happened(Some(&first), &second)), (0, 1));
    }
}
