//! How a farm's nodes go over to another version of their image: what people write, and how far it is.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Problem;
use super::machine::Firmware;
use crate::meta::ObjectRef;
use crate::names::{Bytes, Digest, ObjectName, ParseError};

/// Failed boots after which a node gets its last good version again, where nobody says another number.
pub const FAILED_BOOTS: u32 = 3;

/// How nodes go over to another version of the farm's image. With it they are rebooted, a few at a time, and the next
/// ones only when those are well. Without it each gets the new version when it happens to boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpdateSpec {
    /// Nodes that may be down at once because of the update.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub max_unavailable: u32,
    /// Nodes that get a version before all others, which wait until these are well. None if 0.
    #[serde(default = "one")]
    pub canary: u32,
    /// Shares of all nodes, in percent, that have the version after each wave behind the canaries. The last wave is all
    /// of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waves: Vec<u8>,
    /// When a node counts as well.
    #[serde(default)]
    pub health_gate: HealthGate,
    /// Boots in a row that may fail; then the node gets its last good version again, and the update stops.
    #[serde(default = "failed_boots")]
    #[schemars(range(min = 1))]
    pub failed_boots: u32,
    /// Boot the version in a virtual machine first, which is thrown away; if it does not come up there, no node gets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearsal: Option<RehearsalSpec>,
    /// Let the running kernel start the new one where it can, without firmware.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kexec: bool,
    /// How nodes of the cluster that Stokehold runs in are freed of their pods before they are rebooted.
    #[serde(default, skip_serializing_if = "DrainSpec::is_default")]
    pub drain: DrainSpec,
}

/// How a node that has joined the cluster which Stokehold runs in is freed of its pods: as `kubectl drain
/// --ignore-daemonsets --delete-emptydir-data` does it. Budgets for disruption (`PodDisruptionBudget`) hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrainSpec {
    /// Minutes that it may take until all pods have gone. Then the update stops and says what is in the way; nothing is ever
    /// ended by force.
    #[serde(default = "half_an_hour")]
    #[schemars(range(min = 1))]
    pub limit_minutes: u32,
    /// End pods, too, that nobody makes again elsewhere: those without a controller. They keep their node waiting otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub standalone_pods: bool,
}

/// When a node counts as well with a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthGate {
    /// Minutes that it must have been ready.
    #[serde(default = "one")]
    pub minutes: u32,
    /// Minutes that it may take from the reboot until it is ready.
    #[serde(default = "quarter_of_an_hour")]
    #[schemars(range(min = 1))]
    pub limit_minutes: u32,
}

/// The virtual machine in which a version is tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RehearsalSpec {
    /// Number of virtual processors.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 255))]
    pub cpus: u32,
    /// Memory.
    #[serde(default = "one_gibibyte")]
    pub memory: Bytes,
    /// What starts first; UEFI if absent.
    #[serde(default)]
    pub firmware: Firmware,
}

fn one() -> u32 {
    1
}

fn failed_boots() -> u32 {
    FAILED_BOOTS
}

fn quarter_of_an_hour() -> u32 {
    15
}

fn half_an_hour() -> u32 {
    30
}

fn one_gibibyte() -> Bytes {
    Bytes(1 << 30)
}

impl Default for HealthGate {
    fn default() -> Self {
        Self { minutes: one(), limit_minutes: quarter_of_an_hour() }
    }
}

impl Default for DrainSpec {
    fn default() -> Self {
        Self { limit_minutes: half_an_hour(), standalone_pods: false }
    }
}

impl DrainSpec {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl UpdateSpec {
    /// What is well-formed and still wrong.
    pub(super) fn check(&self, at: &str) -> Vec<Problem> {
        let zero = |field: &str, value: u32| {
            (value == 0).then(|| Problem::new(format!("{at}.{field}"), "this must be at least 1"))
        };
        let zeroes = [
            zero("maxUnavailable", self.max_unavailable),
            zero("failedBoots", self.failed_boots),
            zero("healthGate.limitMinutes", self.health_gate.limit_minutes),
            zero("drain.limitMinutes", self.drain.limit_minutes),
            self.rehearsal.as_ref().and_then(|rehearsal| zero("rehearsal.cpus", rehearsal.cpus)),
        ];
        let mut problems: Vec<_> = zeroes.into_iter().flatten().collect();
        let grows = self.waves.windows(2).all(|pair| matches!(pair, [a, b] if a < b));
        if !grows || self.waves.iter().any(|share| !(1..=100).contains(share)) {
            let message =
                "shares are percentages from 1 to 100, each larger than the one before, such as [10, 50, 100]";
            problems.push(Problem::new(format!("{at}.waves"), message));
        }
        let firmware = self.rehearsal.as_ref().map(|rehearsal| &rehearsal.firmware);
        if firmware.is_some_and(|firmware| firmware.bios.is_some() && firmware.uefi.is_some()) {
            problems.push(Problem::new(format!("{at}.rehearsal.firmware"), "name one firmware: bios or uefi"));
        }
        problems
    }
}

/// One version of an image, whatever newer ones there are: `NAME@sha256:…`, or `NAME:` and the first digits of its digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImagePin {
    /// The image.
    pub image: ObjectName,
    /// The digest's first hexadecimal digits, at least [`ImagePin::DIGITS`] of them.
    pub digits: String,
}

impl ImagePin {
    /// Digits that a version must be named by at least.
    pub const DIGITS: usize = 8;
    const WANTED: &str = "a version of an image such as node@sha256:… (64 digits) or node:3f2a90c1 (8 at least)";

    /// Whether this version is meant.
    pub fn names(&self, version: &Digest) -> bool {
        version.hex().starts_with(&self.digits)
    }
}

impl FromStr for ImagePin {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError { text: text.to_owned(), wanted: Self::WANTED };
        let (name, digits) = match text.split_once('@') {
            Some((name, digest)) => (name, digest.parse::<Digest>().map_err(|_| error())?.hex()),
            None => text.split_once(':').map(|(name, digits)| (name, digits.to_owned())).ok_or_else(error)?,
        };
        let lower = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if !(Self::DIGITS..=64).contains(&digits.len()) || !digits.chars().all(lower) {
            return Err(error());
        }
        Ok(Self { image: name.parse().map_err(|_| error())?, digits })
    }
}

impl fmt::Display for ImagePin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.digits.len() == 64 { "@sha256:" } else { ":" };
        write!(f, "{}{mark}{}", self.image, self.digits)
    }
}

impl Serialize for ImagePin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImagePin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for ImagePin {
    fn schema_name() -> Cow<'static, str> {
        "ImagePin".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let description =
            "A version of an image such as node@sha256:… or node:3f2a90c1, the first digits of its digest.";
        let pattern = "^[a-z0-9-]+(@sha256:[0-9a-f]{64}|:[0-9a-f]{8,64})$";
        json_schema!({ "type": "string", "description": description, "pattern": pattern })
    }
}

/// How far a farm's nodes are with the version that they shall have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// The version that nodes go over to, or have.
    pub target: Digest,
    /// The last version that all nodes were well with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<Digest>,
    /// What machines get that no object names, and nodes that never had any.
    pub handed_out: Digest,
    /// How far it is.
    #[serde(default)]
    pub phase: RolloutPhase,
    /// Why it stopped, or what it waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it began: milliseconds since 1970.
    #[serde(default)]
    pub began_ms: u64,
    /// The wave: 0 is the canaries'.
    #[serde(default)]
    pub wave: u32,
    /// Whether it was asked to pause: `stoke rollout pause`.
    #[serde(default)]
    pub paused: bool,
    /// Whether it goes back to an earlier version: without canaries and rehearsal.
    #[serde(default)]
    pub going_back: bool,
    /// Versions that were taken back: `stoke rollout undo`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Digest>,
    /// The rehearsal, if there is or was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearsal: Option<Rehearsal>,
    /// Each node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeUpdate>,
}

impl RolloutStatus {
    /// What is noted of a node.
    pub fn node(&self, node: &ObjectRef) -> Option<&NodeUpdate> {
        self.nodes.iter().find(|update| update.node == *node)
    }

    /// The version that a node gets when it boots.
    pub fn image_of(&self, node: &ObjectRef) -> Digest {
        match &self.rehearsal {
            Some(rehearsal) if rehearsal.phase == RehearsalPhase::Running && rehearsal.machine == *node => {
                rehearsal.image
            }
            _ => self.node(node).map_or(self.handed_out, |update| update.image),
        }
    }
}

/// How far a rollout is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RolloutPhase {
    /// Every node has the version, or gets it when it boots.
    #[default]
    Complete,
    /// The version is tried in a virtual machine.
    Rehearsing,
    /// Nodes go over.
    Progressing,
    /// It went wrong: no more nodes go over.
    Stopped,
}

/// A rehearsal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rehearsal {
    /// The version.
    pub image: Digest,
    /// How far it is.
    pub phase: RehearsalPhase,
    /// The machine, as workloads know it: it is the farm's own.
    pub machine: ObjectRef,
    /// The node whose configuration it has; none if the farm has no nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stands_for: Option<ObjectRef>,
    /// How many different configurations were tried before this one.
    #[serde(default)]
    pub number: u32,
    /// When this one began: milliseconds since 1970.
    pub began_ms: u64,
    /// Since when it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_since_ms: Option<u64>,
    /// Boots that had failed before: of an earlier rehearsal of the same version.
    #[serde(default)]
    pub failed_before: u32,
}

/// How far a rehearsal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RehearsalPhase {
    /// The machine boots.
    Running,
    /// It came up and stayed up.
    Passed,
    /// It did not.
    Failed,
}

/// How far one node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeUpdate {
    /// The `Server` or `Machine`.
    pub node: ObjectRef,
    /// The version that it gets when it boots.
    pub image: Digest,
    /// How far it is with that.
    #[serde(default)]
    pub phase: UpdatePhase,
    /// When it was told to boot it: milliseconds since 1970.
    #[serde(default)]
    pub since_ms: u64,
    /// Since when it is ready with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_since_ms: Option<u64>,
    /// How it was told last to boot anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way: Option<RebootWay>,
    /// When that was.
    #[serde(default)]
    pub told_ms: u64,
    /// How often it was told so, by way. These only grow: whoever carries them out compares.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reboots: BTreeMap<RebootWay, u64>,
    /// Its node in the cluster, while that is kept out of use for this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<NodeDrain>,
    /// Whether its pods did not go in time: it is left alone until `stoke rollout resume`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undrained: bool,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A node of the cluster that is kept out of use: cordoned, and free of pods before it is rebooted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeDrain {
    /// The `Node`.
    pub name: String,
    /// Since when: milliseconds since 1970.
    pub since_ms: u64,
    /// The boot that ran there when it was told to reboot (`status.nodeInfo.bootID`): what the cluster says of that one is of
    /// the past.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

impl NodeUpdate {
    /// Reboots that were asked for by these ways.
    pub fn reboots_by(&self, ways: &[RebootWay]) -> u64 {
        ways.iter().filter_map(|way| self.reboots.get(way)).sum()
    }
}

/// How far a node is with a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpdatePhase {
    /// It has had what it shall have for long enough, or is not concerned yet.
    #[default]
    Settled,
    /// It gets the version when it boots, or when its turn to be rebooted comes.
    Waiting,
    /// Its pods in the cluster go elsewhere before it is told to reboot.
    Draining,
    /// It was told to reboot.
    Booting,
    /// It is ready, and must stay so for a while.
    Proving,
    /// It did not come up and was given an earlier version.
    Returned,
}

/// A way to make a node boot anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum RebootWay {
    /// Its agent lets the running kernel start the new one.
    Kexec,
    /// Its agent reboots it.
    Agent,
    /// `systemctl reboot` by SSH.
    Ssh,
    /// Its hypervisor.
    Hypervisor,
    /// Its management controller.
    Bmc,
}

impl fmt::Display for RebootWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kexec => "kexec by its agent",
            Self::Agent => "reboot by its agent",
            Self::Ssh => "reboot by SSH",
            Self::Hypervisor => "reboot by its hypervisor",
            Self::Bmc => "power cycle by its management controller",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_by_its_whole_digest_or_by_its_first_digits() {
        let digest = Digest([0xab; 32]);
        let pin: ImagePin = format!("node@{digest}").parse().unwrap();
        assert!(pin.names(&digest) && !pin.names(&Digest([0xac; 32])));
        assert_eq!(pin.to_string(), format!("node@{digest}"));
        let short: ImagePin = "node:abababab".parse().unwrap();
        assert!(short.names(&digest) && !short.names(&Digest([1; 32])));
        assert_eq!(serde_json::to_string(&short).unwrap(), "\"node:abababab\"");
        for wrong in ["node", "node:abab", "node:ABABABAB", "node@sha256:ab", "@sha256:ab", "No:abababab", ":abababab"]
        {
            assert!(wrong.parse::<ImagePin>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn waves_grow_and_limits_are_not_zero() {
        let fields = |text: &str| {
            let spec: UpdateSpec = serde_json::from_str(text).unwrap();
            spec.check("spec.update").into_iter().map(|problem| problem.field).collect::<Vec<_>>()
        };
        assert_eq!(fields(r#"{"waves":[10,50,100],"rehearsal":{}}"#), [""; 0]);
        assert_eq!(fields(r#"{"waves":[50,10]}"#), ["spec.update.waves"]);
        assert_eq!(fields(r#"{"waves":[101]}"#), ["spec.update.waves"]);
        let zeroes = fields(
            r#"{"maxUnavailable":0,"failedBoots":0,"healthGate":{"limitMinutes":0},"drain":{"limitMinutes":0}}"#,
        );
        assert_eq!(zeroes.len(), 4, "{zeroes:?}");
    }
}
