//! `Farm`: a boot service on a LAN, and the configuration that its nodes get.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Access, DiskRoot, FarmClass, FarmPlacement, ImagePin, Inventory, JoinSpec, LtspFile, MinimumVersion, NbdTls,
    NodeConfig, NodeTpm, Problem, RolloutStatus, TargetRef, UpdateSpec,
};
use crate::Condition;
use crate::names::Digest;
use crate::node::{LayerUse, Phase};

/// A boot service on a LAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FarmSpec {
    /// The LAN that it serves.
    pub lan: TargetRef,
    /// The image that its nodes boot.
    pub image: TargetRef,
    /// How nodes boot.
    #[serde(default)]
    pub boot: BootSpec,
    /// Addresses that it serves on, one farm server each, all alike: nodes are spread over them, and any may fail. If empty,
    /// the LAN's gateway; in a cluster one of the LAN's first subnet that is free.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Ipv4Addr>,
    /// Where its servers are, if its LAN is `external`: in a cluster alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<FarmPlacement>,
    /// What machines get that no object names.
    #[serde(default)]
    pub unknown_clients: UnknownClients,
    /// What a node must prove before it is given what is its own.
    #[serde(default)]
    pub trust: Trust,
    /// The oldest version of its image that may still be booted: `NAME@sha256:…`, or `NAME:` and the first digits of its
    /// digest. Older ones are refused, whoever asks for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_version: Option<ImagePin>,
    /// Configuration of all its nodes; a `Server`'s or `Machine`'s own goes over it.
    #[serde(default)]
    pub config: NodeConfig,
    /// Classes of its nodes; keyed by `name`. A node may be in several: what is written later goes over what is written
    /// before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<FarmClass>,
    /// Configuration of an LTSP 5 farm, taken as it is: what it means for a node goes over `config`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lts_conf: Option<LtspFile>,
    /// Configuration of a later LTSP, taken as it is, in place of `ltsConf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ltsp_conf: Option<LtspFile>,
    /// Public keys in PEM. A version of the image that none of them has signed is not handed out. None is wanted if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_keys: Vec<String>,
    /// How nodes go over to another version of the image. If absent, each gets it when it happens to boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateSpec>,
    /// How its nodes join a Kubernetes cluster by themselves. They do not if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<JoinSpec>,
    /// Whose machines it feeds. `Server`s are in no namespace, and any may be fed.
    #[serde(default, skip_serializing_if = "Access::is_default")]
    pub access: Access,
}

/// How nodes boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootSpec {
    /// Where the root file system is while the node runs.
    #[serde(default)]
    pub root: RootMode,
    /// The directory that nodes mount as their root with `root: Nfs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nfs: Option<NfsRoot>,
    /// The disk of each node that keeps its root, with `root: Disk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskRoot>,
    /// What firmware loads first.
    #[serde(default)]
    pub loader: LoaderSpec,
    /// How TFTP answers.
    #[serde(default)]
    pub tftp: TftpMode,
    /// Whether nodes that hold the root in memory give it to others that boot.
    #[serde(default)]
    pub peers: bool,
    /// Nodes that may load kernel and root at once; the others are told to wait. Unbounded if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_loading: Option<u32>,
    /// TLS of the NBD exports. Offered to whoever asks for it if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbd_tls: Option<NbdTls>,
}

/// A directory on an NFS server of the user's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NfsRoot {
    /// The server.
    pub server: Ipv4Addr,
    /// The exported directory: a root tree whose kernel modules match the farm's image.
    pub path: String,
    /// Mount options; `vers=3,nolock` if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// What firmware loads first, by its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoaderSpec {
    /// On machines with a BIOS.
    #[serde(default)]
    pub bios: BiosLoader,
    /// On machines with UEFI that boot by PXE.
    #[serde(default)]
    pub uefi: UefiLoader,
    /// On machines with UEFI that boot by HTTP.
    #[serde(default)]
    pub http: HttpLoader,
}

/// What a BIOS loads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BiosLoader {
    /// iPXE, which loads the rest by HTTP.
    #[default]
    Ipxe,
    /// PXELINUX, with its configuration by MAC.
    Pxelinux,
    /// GRUB.
    Grub,
}

/// What UEFI loads by PXE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UefiLoader {
    /// iPXE, which loads the rest by HTTP.
    #[default]
    Ipxe,
    /// The image's unified kernel image itself, signed if the farm has keys.
    Kernel,
    /// GRUB.
    Grub,
    /// The distribution's signed shim, then its signed GRUB, then its signed kernel: for Secure Boot with the keys that
    /// machines are sold with.
    Shim,
}

/// What UEFI loads by HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HttpLoader {
    /// The image's unified kernel image, signed if the farm has keys.
    #[default]
    Kernel,
    /// The distribution's signed shim, then GRUB: one that knows its server after an HTTP boot, as that of Debian 12 does
    /// not.
    Shim,
    /// Nothing: such requests are not answered, and the firmware goes on to PXE.
    Off,
}

/// How TFTP answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TftpMode {
    /// All packets leave from the port that requests come to, so that address translation and load balancers follow them.
    #[default]
    SinglePort,
    /// Each transfer has a port of its own, as RFC 1350 has it.
    Classic,
}

/// Where a node's root file system is while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RootMode {
    /// Memory if the node has plenty, else the farm.
    #[default]
    Auto,
    /// The farm; blocks are fetched when they are read.
    Nbd,
    /// Memory; copied at boot.
    Ram,
    /// A disk of the node, `spec.boot.disk`: two slots, of which the one with the running version is never written to. Only
    /// what has changed is fetched.
    Disk,
    /// An NFS server of the user's: `spec.boot.nfs`.
    Nfs,
    /// ATA over Ethernet. Refused: it has neither authentication nor retransmission that works on a busy network, and
    /// its Linux target is no longer kept.
    Aoe,
}

/// What machines get that no object names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UnknownClients {
    /// An address at most; they are listed.
    #[default]
    Ignore,
    /// The farm's image.
    Boot,
}

/// What a node must prove before it is given what is its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Trust {
    /// Nothing: whoever can answer for a MAC on this LAN gets what that MAC gets.
    #[default]
    Network,
    /// By its TPM, which was enrolled, that it runs what the farm handed out: only then it gets its secrets.
    Tpm,
}

/// What is known of a farm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FarmStatus {
    /// Conditions: `Ready`, `NetworkTrust`, `BootPrograms`, `Joining`, `Updating`, `UpdateStopped`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The generation that the status is about.
    #[serde(default)]
    pub observed_generation: u64,
    /// Where its nodes find it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The image version that it hands out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// Number of nodes that objects name.
    #[serde(default)]
    pub nodes: u32,
    /// Number of them that are ready.
    #[serde(default)]
    pub ready_nodes: u32,
    /// The minimum that was found for `minimumVersion`. It holds when that version itself is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<MinimumVersion>,
    /// How far its nodes are with the image version that they shall have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
}

/// What a farm's node reported last. Part of a `Machine`'s and of a `Server`'s status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// How far the boot is.
    #[serde(default)]
    pub phase: Phase,
    /// Address on the farm's LAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// The image version that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// What the machine is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
    /// Where its root is: `nbd` or `ram`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub root: String,
    /// The writable layer, once it has been full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<LayerUse>,
    /// What the node does not do that its configuration asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// Public host keys, as in a `known_hosts` file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_host_keys: Vec<String>,
    /// Why the last boot failed, or fails just now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// When the node's session began: RFC 3339.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot_started: String,
    /// Milliseconds from the kernel's start to each phase.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<(Phase, u64)>,
    /// Whether the system is up and a resident agent answers.
    #[serde(default)]
    pub ready: bool,
    /// What its TPM said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<NodeTpm>,
    /// When its secrets were handed out: RFC 3339; empty if they were not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub secrets_given: String,
    /// Boots in a row, before the present one, that did not come up with the version that it boots now.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_boots: u32,
    /// The version that it boots now, or booted last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boots: Option<Digest>,
    /// The last version that it came up with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good_image: Option<Digest>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl FarmSpec {
    /// What is well-formed and still wrong.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = self.config.check("spec.config");
        problems.extend(super::class::check(&self.classes));
        problems.extend(self.join.iter().flat_map(|join| join.check("spec.join")));
        problems.extend(self.access.check());
        problems.extend(self.update.iter().flat_map(|update| update.check("spec.update")));
        let placed = |placement: &FarmPlacement| placement.check(&self.addresses, self.boot.tftp);
        problems.extend(self.placement.iter().flat_map(placed));
        problems.extend(super::image_version::check_keys(&self.image_keys));
        problems.extend(self.boot.nbd_tls.iter().flat_map(|tls| tls.check(self.boot.root)));
        if let Some(pin) = self.minimum_version.as_ref().filter(|pin| pin.image != self.image.name) {
            let message = format!("{pin} is a version of another image than {}", self.image);
            problems.push(Problem::new("spec.minimumVersion", message));
        }
        problems.extend(self.boot.check_disk());
        problems.extend(super::ltsp::check(self.lts_conf.as_ref(), self.ltsp_conf.as_ref()));
        match (self.boot.root, &self.boot.nfs) {
            (RootMode::Aoe, _) => {
                let reason = "ATA over Ethernet is not supported: it has no authentication, loses requests on a busy \
                              network, and its server is no longer kept; use Nbd, or Ram";
                problems.push(Problem::new("spec.boot.root", reason));
            }
            (RootMode::Nfs, None) => {
                let message = "say which directory: {server: 10.10.0.5, path: /srv/root}";
                problems.push(Problem::new("spec.boot.nfs", message));
            }
            (RootMode::Nfs, Some(nfs)) if !nfs.path.starts_with('/') => {
                problems.push(Problem::new("spec.boot.nfs.path", "this must begin with a slash"));
            }
            (RootMode::Nfs, Some(nfs)) => problems.extend(nfs.check()),
            (_, None) => {}
            (_, Some(_)) => problems.push(Problem::new("spec.boot.nfs", "this needs `root: Nfs`")),
        }
        problems
    }
}

impl BootSpec {
    fn check_disk(&self) -> Vec<Problem> {
        match (self.root, &self.disk) {
            (RootMode::Disk, None) => {
                vec![Problem::new(
                    "spec.boot.disk",
                    "say which disk: {label: stokehold}, the name of a partition of it",
                )]
            }
            (RootMode::Disk, Some(disk)) => disk.check("spec.boot.disk"),
            (_, Some(_)) => vec![Problem::new("spec.boot.disk", "this needs `root: Disk`")],
            (_, None) => Vec::new(),
        }
    }
}

impl NfsRoot {
    /// The options end up in one line for the kernel, whose NFS in a node is version 3.
    fn check(&self) -> Vec<Problem> {
        let version =
            |option: &str| option.strip_prefix("nfsvers=").or_else(|| option.strip_prefix("vers=")).map(str::to_owned);
        let wrong = |option: &String| match version(option) {
            Some(version) if version != "3" => Some("nodes have NFS version 3 in their initramfs: vers=3"),
            _ if option.is_empty() || option.contains(|c: char| c == ',' || c.is_whitespace() || c.is_control()) => {
                Some("one option a line, without commas or spaces")
            }
            _ => None,
        };
        let problem =
            |(index, message): (usize, &str)| Problem::new(format!("spec.boot.nfs.options[{index}]"), message);
        let options = self.options.iter().map(wrong).enumerate();
        options.filter_map(|(index, message)| Some((index, message?))).map(problem).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(boot: &str) -> Vec<String> {
        let text = format!("{{\"lan\":\"lab\",\"image\":\"node\",\"boot\":{boot}}}");
        let spec: FarmSpec = serde_json::from_str(&text).unwrap();
        spec.check().into_iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect()
    }

    #[test]
    fn aoe_is_refused_with_the_reason() {
        let [problem] = &problems(r#"{"root":"Aoe"}"#)[..] else { panic!("one problem") };
        assert!(problem.starts_with("spec.boot.root: ATA over Ethernet is not supported: it has no authentication"));
    }

    #[test]
    fn nfs_needs_a_directory_and_options_that_the_kernel_takes() {
        let nfs = |rest: &str| problems(&format!(r#"{{"root":"Nfs","nfs":{{"server":"10.10.0.5",{rest}}}}}"#));
        assert_eq!(nfs(r#""path":"/srv/root""#), [""; 0]);
        assert_eq!(nfs(r#""path":"/srv/root","options":["vers=3","nolock","port=20490"]"#), [""; 0]);
        assert_eq!(nfs(r#""path":"srv""#).len(), 1);
        assert_eq!(nfs(r#""path":"/srv","options":["vers=4.2","a,b","nolock",""]"#).len(), 3);
        assert_eq!(problems(r#"{"root":"Nfs"}"#).len(), 1);
        assert_eq!(problems(r#"{"root":"Ram","nfs":{"server":"10.10.0.5","path":"/a"}}"#).len(), 1);
    }
}
