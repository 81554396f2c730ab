//! `Server`: one physical machine. Cluster-scoped: an asset, not a workload.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    BmcSpec, BmcStatus, Enrolment, ImagePin, NodeConfig, NodeState, Problem, RebootAsked, RebootCounts, TpmSpec,
};
use crate::Condition;
use crate::names::{Digest, MacAddr, ObjectName};

/// One physical machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerSpec {
    /// The farm that feeds it.
    pub farm: ClusterRef,
    /// Addresses of its network interfaces, any of which may boot.
    pub macs: Vec<MacAddr>,
    /// Its SMBIOS UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Its DHCP client identifier (option 61), if it is to be known by that too: text, or bytes as `0x01525400…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Its address on the farm's LAN; one from the pools if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// The one version that it boots, whatever newer ones there are: `NAME@sha256:…` or `NAME:` and the first digits of its
    /// digest. What its farm hands out if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImagePin>,
    /// Its TPM, if that is known before its first boot; else it is accepted by `stoke farm enroll`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmSpec>,
    /// Its management controller, which switches it on and off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc: Option<BmcSpec>,
    /// Configuration that goes over the farm's.
    #[serde(default)]
    pub config: NodeConfig,
}

/// A reference from a cluster-scoped object: it writes both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterRef {
    /// Namespace of the target.
    pub namespace: ObjectName,
    /// Name of the target.
    pub name: ObjectName,
}

/// What is known of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerStatus {
    /// Conditions: `Ready`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The generation that the status is about.
    #[serde(default)]
    pub observed_generation: u64,
    /// What the running system reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeState>,
    /// The version that it gets when it boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// The TPM that was accepted: `stoke farm enroll`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<Enrolment>,
    /// Grows with each `stoke reboot`; the node's agent follows.
    #[serde(default)]
    pub reboots_requested: u64,
    /// The last `stoke reboot`, until the server begins to boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot: Option<RebootAsked>,
    /// Reboots that people asked for and that went by other ways than the agent.
    #[serde(default, skip_serializing_if = "RebootCounts::is_empty")]
    pub reboots: RebootCounts,
    /// Its power, and what its management controller says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc: Option<BmcStatus>,
}

impl ServerSpec {
    /// What is well-formed and still wrong.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = self.config.check("spec.config");
        problems.extend(self.bmc.iter().flat_map(|bmc| bmc.check("spec.bmc")));
        if self.macs.is_empty() {
            problems.push(Problem::new("spec.macs", "name at least one MAC address; it is how the server is known"));
        }
        for (index, mac) in self.macs.iter().enumerate() {
            if !mac.is_unicast() {
                let message = format!("{mac} is no address of one interface (it is a group's, or all zeroes)");
                problems.push(Problem::new(format!("spec.macs[{index}]"), message));
            }
        }
        problems
    }
}
