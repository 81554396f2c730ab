//! What people can type behind `stoke farm`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use stoke_api::{Kind, ObjectName};

#[derive(Debug, Subcommand)]
pub(crate) enum Farm {
    /// Show replicas, image, nodes, traffic, and machines that no object names
    Status(FarmStatus),
    /// Show how a machine booted last, step by step
    ///
    /// Puts together what the router and the farm remember of the machine: a picture of the boot's stages, and each step below. They remember some hundred steps of each of a thousand machines, since they were started.
    Trace(FarmTrace),
    /// Show how many nodes boot at once, how fast, and which ones hang behind
    Storm(FarmStorm),
    /// Accept the TPM of a machine or server, as it showed it last
    ///
    /// Under `trust: Tpm` a node gets its secrets only after a proof by the TPM that was accepted here. Without --key, whatever the node shows is taken: compare the fingerprint that is printed.
    Enroll(Enroll),
    /// Print the objects that other systems' files mean
    ///
    /// Reads `lts.conf` and `ltsp.conf` of LTSP, `ConfigMap`s that have one, values of kubefarm, objects of dnsmasq-controller, groups and profiles of matchbox. All files together become one farm, its LAN and its servers. What has no meaning here is counted, and listed by --report.
    Import(FarmImport),
    /// Keys of a farm for UEFI Secure Boot
    ///
    /// A farm with keys signs the kernels that it hands out. Its virtual machines with `secureBoot: true` trust them at their next start; real servers get them by their firmware's set-up: see `export`.
    #[command(subcommand)]
    Keys(Keys),
}

#[derive(Debug, Args)]
pub(crate) struct FarmStatus {
    /// The farm; all if absent
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<ObjectName>,
    /// Its namespace
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub(crate) namespace: ObjectName,
    /// Form of the output
    #[arg(short, long, default_value = "text")]
    pub(crate) output: Report,
}

#[derive(Debug, Args)]
pub(crate) struct Enroll {
    /// `machine/NAME` or `server/NAME`
    #[arg(value_name = "KIND/NAME")]
    pub(crate) node: String,
    /// Its namespace
    #[arg(short, long, value_name = "NS")]
    pub(crate) namespace: Option<ObjectName>,
    /// Accept it only if its endorsement key has this fingerprint: `sha256:…`
    #[arg(long, value_name = "FINGERPRINT")]
    pub(crate) key: Option<stoke_api::Digest>,
    /// Accept none any more
    #[arg(long, conflicts_with = "key")]
    pub(crate) forget: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FarmTrace {
    /// A MAC address, `machine/NAME` or `server/NAME`
    #[arg(value_name = "MAC|KIND/NAME")]
    pub(crate) machine: String,
    /// Its namespace
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub(crate) namespace: ObjectName,
    /// Every boot that is remembered, not only the last one
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Draw with ASCII only
    #[arg(long)]
    pub(crate) ascii: bool,
    /// Form of the output
    #[arg(short, long, default_value = "text")]
    pub(crate) output: Report,
}

#[derive(Debug, Args)]
pub(crate) struct FarmStorm {
    /// The farm; all if absent
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<ObjectName>,
    /// Its namespace
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub(crate) namespace: ObjectName,
    /// Go on, once a second
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Form of the output
    #[arg(short, long, default_value = "text")]
    pub(crate) output: Report,
}

#[derive(Debug, Args)]
pub(crate) struct FarmImport {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Print what became of each key instead of the objects
    #[arg(long)]
    pub(crate) report: bool,
    /// Name of the farm
    #[arg(long, value_name = "NAME", default_value = "farm")]
    pub(crate) farm: ObjectName,
    /// Name of its LAN
    #[arg(long, value_name = "NAME", default_value = "farm")]
    pub(crate) lan: ObjectName,
    /// Name of the image that its nodes boot
    #[arg(long, value_name = "NAME", default_value = "node")]
    pub(crate) image: ObjectName,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Report {
    /// For people
    Text,
    /// JSON
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make a platform key, a key exchange key and a signing key
    Create(OneFarm),
    /// Show the keys' fingerprints
    Show(OneFarm),
    /// Write the files by which a real server's firmware takes the keys; none of them is secret
    Export {
        #[command(flatten)]
        farm: OneFarm,
        /// Folder to write to
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Put the keys into the firmware variables of a virtual machine that is off and not of this installation
    Enroll {
        #[command(flatten)]
        farm: OneFarm,
        /// Its variables: a copy of OVMF_VARS.fd
        #[arg(long, value_name = "FILE")]
        variables: PathBuf,
    },
}

/// A farm.
#[derive(Debug, Args)]
pub(crate) struct OneFarm {
    /// The farm
    #[arg(value_name = "NAME")]
    pub(crate) name: ObjectName,
    /// Its namespace
    #[arg(short, long, value_name = "NS")]
    pub(crate) namespace: Option<ObjectName>,
}

impl OneFarm {
    /// What was meant, on one host.
    pub(crate) fn reference(&self) -> stoke_api::ObjectRef {
        let default = stoke_api::meta::DEFAULT_NAMESPACE.parse().ok();
        let namespace = self.namespace.clone().or(default);
        stoke_api::ObjectRef { kind: Kind::Farm, namespace, name: self.name.clone() }
    }

    /// What was meant, where another namespace may be the default one.
    pub(crate) fn reference_in(&self, default: ObjectName) -> stoke_api::ObjectRef {
        let namespace = Some(self.namespace.clone().unwrap_or(default));
        stoke_api::ObjectRef { kind: Kind::Farm, namespace, name: self.name.clone() }
    }
}
