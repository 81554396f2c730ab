//! A server's management controller: how it is reached, what it is asked for, and what it says.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Power, Problem, RebootWay, SecretRef};
use crate::names::MacAddr;

/// The UDP port of IPMI over a network.
pub const IPMI_PORT: u16 = 623;

/// A server's management controller. With both protocols power goes by Redfish; the serial console always goes by IPMI.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BmcSpec {
    /// Its Redfish service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redfish: Option<RedfishSpec>,
    /// Its IPMI 2.0 service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipmi: Option<IpmiSpec>,
    /// Before the server is switched on or power-cycled, its firmware is told to boot from the network, once, in this mode.
    /// Its own boot order if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_boot: Option<NetworkBoot>,
}

/// A mode in which firmware boots from the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NetworkBoot {
    /// As UEFI does.
    Uefi,
    /// As a BIOS does.
    Bios,
}

/// A Redfish service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedfishSpec {
    /// Its address, as `https://HOST` or `https://HOST:PORT`. Plain HTTP on this host alone, or with `insecure`.
    pub url: String,
    /// Who logs in.
    pub user: String,
    /// The password.
    pub password: SecretRef,
    /// The system in it that is this server, by its `Id`. Needed only if it has several and the server has no `uuid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// A file with the certificates that are believed; the host's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Any certificate is believed: whoever is on the way can read the password.
    #[serde(default)]
    pub insecure: bool,
}

/// An IPMI 2.0 service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpmiSpec {
    /// Its host name or address.
    pub address: String,
    /// Its UDP port.
    #[serde(default = "ipmi_port")]
    pub port: u16,
    /// Who logs in.
    pub user: String,
    /// The password: at most 20 bytes, as IPMI has it.
    pub password: SecretRef,
    /// The cipher suite: 17 (SHA-256) or 3 (SHA-1). The best that it offers if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cipher_suite: Option<u8>,
}

fn ipmi_port() -> u16 {
    IPMI_PORT
}

/// What people asked for of a server's power, and what its management controller says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BmcStatus {
    /// Whether the server is on; absent while nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<Power>,
    /// The last `stoke start` or `stoke stop`: what it shall come to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Power>,
    /// How often that was asked for. It only grows: whoever carries it out compares.
    #[serde(default)]
    pub requests: u64,
    /// How many of these have come true.
    #[serde(default)]
    pub requests_done: u64,
    /// What it says of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<BmcInventory>,
    /// Why it was not reached, or did not do what it was asked for; empty if it did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_error: String,
}

/// What a management controller says of its server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BmcInventory {
    /// Its SMBIOS UUID, in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<String>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its network interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<MacAddr>,
}

/// A `stoke reboot` of a server that has not begun to boot since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RebootAsked {
    /// How it was told last.
    pub way: RebootWay,
    /// When that was: milliseconds since 1970.
    pub told_ms: u64,
}

/// How often a server was told to reboot because people asked for it, by way; these only grow.
pub type RebootCounts = BTreeMap<RebootWay, u64>;

impl BmcSpec {
    /// What is well-formed and still wrong. `at` is the field of the description.
    pub fn check(&self, at: &str) -> Vec<Problem> {
        if self.redfish.is_none() && self.ipmi.is_none() {
            return vec![Problem::new(at, "say how it is reached: redfish, ipmi, or both")];
        }
        let redfish = self.redfish.iter().flat_map(|redfish| redfish.check(&format!("{at}.redfish")));
        let ipmi = self.ipmi.iter().flat_map(|ipmi| ipmi.check(&format!("{at}.ipmi")));
        redfish.chain(ipmi).collect()
    }
}

impl RedfishSpec {
    /// Whether what is sent can be read by whoever is on the way, or who answers is not known.
    pub fn is_unsafe(&self) -> bool {
        self.insecure || self.url.starts_with("http://")
    }

    fn check(&self, at: &str) -> Vec<Problem> {
        let mut problems = self.password.check(&format!("{at}.password"));
        let problem = |field: &str, message: &str| Problem::new(format!("{at}.{field}"), message);
        let (plain, host) = match (self.url.strip_prefix("https://"), self.url.strip_prefix("http://")) {
            (Some(host), _) => (false, host),
            (_, Some(host)) => (true, host),
            _ => (false, ""),
        };
        let host = host.trim_end_matches('/');
        if host.is_empty() || host.contains(['/', '@', '?', '#', ' ']) {
            problems.push(problem("url", "write https://HOST or https://HOST:PORT, nothing more"));
        } else if plain && !self.insecure && !is_loopback(host) {
            problems.push(problem(
                "url",
                "the password would go over the network as it is: write https, or `insecure: true`",
            ));
        }
        if self.ca_file.as_ref().is_some_and(|file| !file.is_absolute()) {
            problems.push(problem("caFile", "write the whole path, from the slash on"));
        }
        if self.ca_file.is_some() && self.insecure {
            problems.push(problem("insecure", "with `insecure` any certificate is believed, whatever caFile has"));
        }
        problems
    }
}

fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost"
        || name == "[::1]"
        || name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

impl IpmiSpec {
    fn check(&self, at: &str) -> Vec<Problem> {
        let mut problems = self.password.check(&format!("{at}.password"));
        let allowed = |c: char| c.is_ascii_alphanumeric() || ".-:".contains(c);
        if self.address.is_empty() || self.address.starts_with('-') || !self.address.chars().all(allowed) {
            problems.push(Problem::new(format!("{at}.address"), "write a host name or an address"));
        }
        if self.user.len() > 16 {
            problems.push(Problem::new(format!("{at}.user"), "IPMI has names of at most 16 bytes"));
        }
        if self.cipher_suite.is_some_and(|suite| ![3, 17].contains(&suite)) {
            problems.push(Problem::new(format!("{at}.cipherSuite"), "write 17, or 3 for controllers that are older"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Vec<String> {
        let spec: BmcSpec = serde_json::from_str(text).unwrap();
        spec.check("spec.bmc").into_iter().map(|problem| problem.field).collect()
    }

    fn redfish(rest: &str) -> Vec<String> {
        fields(&format!(r#"{{"redfish":{{"user":"a","password":{{"file":"/p"}},{rest}}}}}"#))
    }

    #[test]
    fn a_controller_is_reached_somehow() {
        assert_eq!(fields("{}"), ["spec.bmc"]);
        let wrong = r#"{"ipmi":{"address":"-h","user":"12345678901234567","password":{"file":"p"},"cipherSuite":0}}"#;
        let all = ["password.file", "address", "user", "cipherSuite"].map(|field| format!("spec.bmc.ipmi.{field}"));
        assert_eq!(fields(wrong), all);
        assert_eq!(fields(r#"{"ipmi":{"address":"10.0.0.9","user":"","password":{"file":"/p"}}}"#), [""; 0]);
    }

    #[test]
    fn passwords_do_not_go_over_networks_as_they_are() {
        for good in [
            r#""url":"https://bmc.example:8443/""#,
            r#""url":"http://127.0.0.1:8000""#,
            r#""url":"http://[::1]:8000""#,
            r#""url":"http://bmc","insecure":true"#,
        ] {
            assert_eq!(redfish(good), [""; 0], "{good}");
        }
        for bad in
            ["http://bmc", "http://127.example", "ftp://bmc", "https://", "https://a@bmc", "https://bmc/redfish/v1"]
        {
            assert_eq!(redfish(&format!(r#""url":"{bad}""#)), ["spec.bmc.redfish.url"], "{bad}");
        }
        assert_eq!(redfish(r#""url":"https://bmc","caFile":"x""#), ["spec.bmc.redfish.caFile"]);
    }
}
