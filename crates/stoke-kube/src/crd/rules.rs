//! What a schema cannot say of an object, as rules in CEL, so that a cluster is safe without our webhook, too.
//!
//! The words are those of the types' own `check`; a test holds the two together. Rules are cheap: whether fields are there,
//! how long a list is. What compares objects, or parses text, or looks at a reference (which has two forms, so that CEL does
//! not see it), is left to the webhook and the reconcilers. Only functions that Kubernetes 1.30 lets new definitions use,
//! which are those of 1.29.

use serde_json::{Value, json};
use stoke_api::schema::Schema;

/// What must hold in a value of a type.
#[derive(Clone, Copy)]
enum Holds {
    /// Exactly one of the fields is there; if none are named, of all that the type has.
    ExactlyOne(&'static [&'static str]),
    /// At most one of the fields is there; if none are named, of all that the type has.
    AtMostOne(&'static [&'static str]),
    /// At least one of the fields is there.
    AnyOf(&'static [&'static str]),
    /// The list has something in it.
    Filled(&'static str),
    /// An expression of CEL.
    Cel(&'static str),
}

/// By the name of a type: what must hold, and what is said if it does not.
const RULES: &[(&str, Holds, &str)] = &[
    ("ImageSource", Holds::ExactlyOne(&[]), "name exactly one source: debian, containerfile, oci or tree"),
    ("ImageSpec", Holds::Filled("architectures"), "name at least one architecture, for example amd64"),
    ("ImageSpec", Holds::Cel("has(self.forms.netboot)"), "name at least one form: netboot: {}"),
    (
        "OciSource",
        Holds::ExactlyOne(&["reference", "layout", "archive"]),
        "name exactly one of reference, layout, archive",
    ),
    ("LanSpec", Holds::Filled("subnets"), "name at least one subnet: {name: v4, cidr: 10.10.0.0/24}"),
    ("Ipv6Spec", Holds::Cel("self.prefix.endsWith('/64')"), "the prefix is 64 bits long, for example fd00:10::/64"),
    (
        "Reservation",
        Holds::AnyOf(&["mac", "clientId", "uuid", "circuitId"]),
        "say whose it is: mac, clientId, uuid or circuitId",
    ),
    ("MachineSpec", Holds::ExactlyOne(&["vm"]), "name one variant: vm"),
    (
        "MachineSpec",
        Holds::Cel("!has(self.vm) || self.vm.boot.from != 'Network' || (has(self.nics) && size(self.nics) > 0)"),
        "a machine that boots from the network needs an interface",
    ),
    ("Firmware", Holds::AtMostOne(&[]), "name one firmware: bios or uefi"),
    ("ServerSpec", Holds::Filled("macs"), "name at least one MAC address; it is how the server is known"),
    ("BmcSpec", Holds::AnyOf(&["redfish", "ipmi"]), "say how it is reached: redfish, ipmi, or both"),
    // What is wrong by the types, and beyond them the file, which only means something on one host.
    (
        "SecretRef",
        Holds::Cel("has(self.secret) && has(self.key) && !has(self.file)"),
        "name the Secret: {secret: NAME, key: KEY}; a file is one host's and never a cluster's",
    ),
    (
        "LtspFile",
        Holds::Cel("has(self.content)"),
        "a file is read where objects are loaded from files: say what is in it",
    ),
    ("FileEntry", Holds::ExactlyOne(&["content", "secret"]), "say what is in it: content or secret"),
    ("FarmPlacement", Holds::ExactlyOne(&[]), "say where: hostNetwork or loadBalancer"),
    ("InterfaceSpec", Holds::AtMostOne(&["bond", "vlan", "bridge"]), "it is one of bond, vlan and bridge"),
    ("InterfaceSpec", Holds::AnyOf(&["interface", "mac"]), "say which: interface: NAME, or mac: ADDRESS"),
];

/// The rules of a type, as a schema has them.
pub(super) fn of(schema: Schema<'_>) -> Vec<Value> {
    let ours = RULES.iter().filter(|(name, _, _)| schema.definition() == Some(name));
    ours.map(|(_, holds, message)| json!({ "rule": expression(*holds, schema), "message": message })).collect()
}

/// What all rules say.
#[cfg(test)]
pub(super) fn messages() -> Vec<String> {
    RULES.iter().map(|(_, _, message)| (*message).to_owned()).collect()
}

fn expression(holds: Holds, schema: Schema<'_>) -> String {
    let named = |fields: &[&str]| -> Vec<String> {
        let all = || schema.fields().map(|(name, _)| has(name)).collect();
        if fields.is_empty() { all() } else { fields.iter().copied().map(has).collect() }
    };
    // The cheapest form: what an API server reckons that a rule costs is multiplied by the length of a list around it.
    let count = |fields: &[&str]| {
        let ones: Vec<_> = named(fields).into_iter().map(|has| format!("({has} ? 1 : 0)")).collect();
        ones.join(" + ")
    };
    match holds {
        Holds::ExactlyOne(fields) => format!("{} == 1", count(fields)),
        Holds::AtMostOne(fields) => format!("{} <= 1", count(fields)),
        Holds::AnyOf(fields) => named(fields).join(" || "),
        Holds::Filled(list) => format!("size(self.{list}) > 0"),
        Holds::Cel(expression) => expression.to_owned(),
    }
}

fn has(field: &str) -> String {
    format!("has(self.{field})")
}
