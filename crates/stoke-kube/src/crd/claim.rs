//! The definition of `Claim`: the one kind that people do not write, so that no type of `stoke-api` says what it has.

use serde_json::{Value, json};

use super::{GROUP, version};

/// Claims as the API server calls them.
pub const CLAIMS: &str = "claims";

/// What a name may hold.
const LONGEST: u32 = 253;

/// The definition.
pub(super) fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": name(), "labels": { "app.kubernetes.io/part-of": "stokehold" } },
        "spec": {
            "group": GROUP,
            // In no category: of each machine there are several.
            "names": { "kind": "Claim", "listKind": "ClaimList", "singular": "claim", "plural": CLAIMS },
            "scope": "Cluster",
            "versions": [{
                "name": version(),
                "served": true,
                "storage": true,
                "schema": { "openAPIV3Schema": schema() },
                "additionalPrinterColumns": columns(),
            }],
        },
    })
}

/// Its name.
pub(super) fn name() -> String {
    format!("{CLAIMS}.{GROUP}")
}

fn schema() -> Value {
    let text =
        |most: u32, description: &str| json!({ "type": "string", "maxLength": most, "description": description });
    let holder = json!({
        "type": "object",
        "description": "The object that has it.",
        "required": ["kind", "name"],
        "properties": {
            "kind": text(63, "Its kind."),
            "namespace": text(LONGEST, "Its namespace, if its kind has them."),
            "name": text(LONGEST, "Its name."),
        },
    });
    json!({
        "type": "object",
        "description": "Something that only one object may have. The operator makes it and removes it.",
        "required": ["spec"],
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "type": "string" },
            "metadata": { "type": "object" },
            "spec": {
                "type": "object",
                "required": ["value", "holder"],
                "properties": { "value": text(1024, "What it is; the claim's name stands for it."), "holder": holder },
                "x-kubernetes-validations": [{
                    "rule": "self == oldSelf",
                    "message": "a claim never changes hands: it is deleted, and another one is made",
                }],
            },
        },
    })
}

fn columns() -> Value {
    let column = |name: &str, path: &str| json!({ "name": name, "type": "string", "jsonPath": path });
    json!([
        column("Value", ".spec.value"),
        column("Kind", ".spec.holder.kind"),
        column("Namespace", ".spec.holder.namespace"),
        column("Holder", ".spec.holder.name"),
        { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
    ])
}
