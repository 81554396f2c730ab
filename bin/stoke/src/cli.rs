//! What people can type: every command and flag, with its help. Completions come from here too.

mod config;
mod farm;
mod image;
mod rollout;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use stoke_api::{Kind, ObjectName};

pub(crate) use config::{Config, ConfigFormat};
pub(crate) use farm::{Enroll, Farm, FarmImport, FarmStatus, FarmStorm, FarmTrace, Keys, OneFarm, Report};
pub(crate) use image::{
    DiffImages, ExportImage, Image, ImageKeys, ImportImage, KeepImage, ListImages, PruneImages, PullImage, PushImage,
    RegistryAccess, RollbackImage, ShowImage, SignImage, VerifyImages,
};
pub(crate) use rollout::{Rollout, RolloutStatus};

/// Machines from one image: booted over the network, on one Linux host.
///
/// Describe machines, LANs, boot farms and images in YAML and run them with `stoke up`. What runs goes on when `stoke up` ends; `stoke down` ends it.
#[derive(Debug, Parser)]
#[command(name = "stoke", version, arg_required_else_help = true, disable_help_subcommand = true, max_term_width = 100)]
#[command(
    after_help = "Start here:\n  stoke doctor                what this host has and lacks\n  stoke up examples/netboot   \
    build an image and boot a machine from it\n  stoke explain machine.spec  what there is to write"
)]
pub(crate) struct Cli {
    /// Folder that holds everything of an installation [default: /var/lib/stokehold as root, else ~/.local/state/stokehold]
    #[arg(long, global = true, env = "STOKE_STATE", value_name = "DIR", hide_env_values = true)]
    pub(crate) state: Option<PathBuf>,
    /// Where to look: `standalone` (this host), `cluster`, or a context of the kubeconfig [default: this host if a Stokehold runs here, else the cluster]
    #[arg(long, global = true, env = "STOKE_TARGET", value_name = "TARGET", hide_env_values = true)]
    pub(crate) target: Option<String>,
    /// A context of the kubeconfig; means a cluster
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The kubeconfig [default: KUBECONFIG, else ~/.kube/config]; means a cluster
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Namespace of the cluster's operator, routers and farms
    #[arg(long, global = true, env = "STOKE_SYSTEM_NAMESPACE", value_name = "NS", default_value = "stokehold-system")]
    #[arg(hide_env_values = true, hide_short_help = true)]
    pub(crate) system_namespace: String,
    /// When to use colors; NO_COLOR is honored, too
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorChoice,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run what the files describe, and follow their edits
    ///
    /// Loads all objects of the files, brings this host to what they say, and goes on until it is stopped. Ctrl-C ends this program only: machines keep running and are found again by the next `stoke up`. If one is running already, the files are handed to it.
    ///
    /// With a cluster (`--target cluster`, `--context`, or as `kubectl stoke`) the objects are checked and applied there, and this ends.
    #[command(alias = "apply")]
    Up(Files),
    /// Show what `up` would change, and change nothing
    Plan(Files),
    /// List objects: images, lans, farms, servers, machines, machinesets
    Get(Get),
    /// Show everything that is known of one object: conditions, boot timeline, events
    Describe(OneObject),
    /// Show a node's configuration, and where each value came from
    Config(Config),
    /// Show what runs on this host
    Status,
    /// Attach to a machine's serial console
    ///
    /// Shows the console's history first, then what happens. Ctrl-] detaches. Any number of people can attach at once. Without a terminal it copies standard input to the console and the console to standard output.
    ///
    /// The console of a server goes through its management controller by IPMI: without history, for one person at a time, and Enter then ~. detaches.
    Console(OneMachine),
    /// Show the log of what serves an object
    Logs(Logs),
    /// Log in to a machine, or run a command there
    Ssh(Ssh),
    /// Connect local ports to a machine on its LAN, in a cluster
    ///
    /// Goes through the router of the machine's LAN: it needs pods/portforward to that one pod, and nothing of the machine but an address.
    Forward(Forward),
    /// Set the number of machines of a set
    Scale(Scale),
    /// Watch farms and the boots that they serve
    #[command(subcommand)]
    Farm(Farm),
    /// Watch and steer how a farm's nodes go over to another version of their image
    #[command(subcommand)]
    Rollout(Rollout),
    /// Start machines that were stopped, and servers by their management controllers
    Start(Objects),
    /// Shut machines down, whose run strategy stays as it is written, and servers by their management controllers
    Stop(Objects),
    /// Reboot machines or servers
    Reboot(Objects),
    /// Delete objects that came from no file
    Delete(Objects),
    /// End everything of this installation
    ///
    /// Shuts machines down, ends every process and removes links and namespaces. Objects, leases, images and keys stay and are there at the next `stoke up`, unless --purge is given.
    Down(Down),
    /// Write down what another host or cluster needs to be the same farm
    ///
    /// Writes objects, keys and leases to a folder that `stoke up` takes: on another host the same farm runs with the same authority, leases and SSH host keys. The folder has secrets.
    Export(Export),
    /// Describe the fields of a kind, from its types
    Explain(Explain),
    /// Say what this host has and lacks, and how to get it
    Doctor,
    /// Build, compare, sign, keep and move images
    #[command(subcommand)]
    Image(Image),
    /// Print a script that completes commands in a shell
    Completions(Completions),
    /// Run one role; started by `stoke up` and by Kubernetes
    #[command(hide = true)]
    Serve(Serve),
    /// Ask a role about itself; what Kubernetes probes by
    #[command(hide = true)]
    Probe(Probe),
    /// Print a page of the documentation that is made from the program
    #[command(hide = true)]
    Reference {
        /// The page
        page: Page,
    },
}

/// A generated page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Page {
    Objects,
    Commands,
    Man,
}

/// Files that describe objects.
#[derive(Debug, Args)]
pub(crate) struct Files {
    /// YAML or JSON files, or folders of them
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Namespace of objects that name none, in a cluster [default: that of the context]
    #[arg(short, long, value_name = "NS")]
    pub(crate) namespace: Option<ObjectName>,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// Kinds (`machines`, `machines,servers`, `all`) or one object (`machine/node-1`)
    #[arg(value_name = "KIND[,KIND]")]
    pub(crate) what: String,
    /// Names; all if absent
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<ObjectName>,
    /// Form of the output
    #[arg(short, long, default_value = "table")]
    pub(crate) output: Format,
    /// Go on and print each change
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Only objects of this namespace [default: all, in a cluster that of the context]
    #[arg(short, long, value_name = "NS")]
    pub(crate) namespace: Option<ObjectName>,
    /// Objects of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub(crate) all_namespaces: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    Table,
    /// More columns for people
    Wide,
    /// One JSON document
    Json,
    /// YAML documents
    Yaml,
    /// `kind/name`, one a line
    Name,
}

/// One object: `machine node-1` or `machine/node-1`.
#[derive(Debug, Args)]
pub(crate) struct OneObject {
    /// Kind, or `KIND/NAME`
    #[arg(value_name = "KIND")]
    pub(crate) kind: String,
    /// Name
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Its namespace [default: default, in a cluster that of the context]
    #[arg(short, long, value_name = "NS")]
    pub(crate) namespace: Option<ObjectName>,
}

/// Some objects: `node-1`, `machine/node-1 server/rack1-07`, or a kind and names.
#[derive(Debug, Args)]
pub(crate) struct Objects {
    /// `NAME` of a machine, `KIND/NAME`, or a kind followed by names
    #[arg(required = true, value_name = "KIND/NAME")]
    pub(crate) words: Vec<String>,
    /// Their namespace [default: default, in a cluster that of the context]
    #[arg(short, long, value_name = "NS")]
    pub(crate) namespace: Option<ObjectName>,
}

/// A machine.
#[derive(Debug, Args)]
pub(crate) struct OneMachine {
    /// The machine
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Its namespace [default: default, in a cluster that of the context]
    #[arg(short, long, value_name = "NS")]
    pub(crate) namespace: Option<ObjectName>,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    pub(crate) object: OneObject,
    /// Go on and print what is added
    #[arg(short, long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Ssh {
    /// Machine, or `server/NAME`
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Account
    #[arg(short = 'l', long, default_value = "root")]
    pub(crate) user: String,
    /// Its namespace [default: default, in a cluster that of the context]
    #[arg(short, long, value_name = "NS")]
    pub(crate) namespace: Option<ObjectName>,
    /// Command to run there; a shell if absent
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

/// Ports of a machine.
#[derive(Debug, Args)]
pub(crate) struct Forward {
    /// Machine, or `server/NAME`
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Ports there; `LOCAL:THERE` if the local one is another, 0 for any that is free
    #[arg(value_name = "[LOCAL:]PORT", required_unless_present = "stdio")]
    pub(crate) ports: Vec<String>,
    /// Connect this port there to standard input and output
    #[arg(long, value_name = "PORT", conflicts_with = "ports")]
    pub(crate) stdio: Option<u16>,
    /// Its namespace [default: that of the context]
    #[arg(short, long, value_name = "NS")]
    pub(crate) namespace: Option<ObjectName>,
}

/// A number of machines.
#[derive(Debug, Args)]
pub(crate) struct Scale {
    /// `NAME` of a set, or `machineset/NAME`
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// How many machines it shall have
    #[arg(long, value_name = "N")]
    pub(crate) replicas: u32,
    /// Its namespace [default: that of the context]
    #[arg(short, long, value_name = "NS")]
    pub(crate) namespace: Option<ObjectName>,
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Forget everything, too: objects, leases, keys, images
    #[arg(long)]
    pub(crate) purge: bool,
    /// Namespace of the operator, in a cluster
    #[arg(short, long, value_name = "NS", hide = true)]
    pub(crate) namespace: Option<ObjectName>,
    /// Seconds to wait for a cluster's operator
    #[arg(long, value_name = "SECONDS", default_value = "300", hide = true)]
    pub(crate) timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// A folder that is not there yet, or empty
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// Take the versions of images along, as OCI archives
    #[arg(long)]
    pub(crate) images: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// A kind, or a field of one: `machine`, `machine.spec.vm`
    #[arg(value_name = "KIND[.FIELD]")]
    pub(crate) what: String,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The role
    pub(crate) role: RoleName,
    /// Its configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Its admin socket
    #[arg(long, value_name = "SOCKET")]
    pub(crate) socket: PathBuf,
    /// Folder with the namespaces to join first
    #[arg(long, value_name = "DIR")]
    pub(crate) namespaces: Option<PathBuf>,
    /// Be one of several nodes, told by an operator what to do
    #[arg(long)]
    pub(crate) cluster: bool,
    /// Node agent's socket for LAN ports: the role waits for its interfaces, then serves on them
    #[arg(long, value_name = "SOCKET")]
    pub(crate) ports: Option<PathBuf>,
    /// Where a build says how far it is
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}

/// Asks a role about itself, from inside of its container.
#[derive(Debug, Args)]
pub(crate) struct Probe {
    /// Its admin socket
    #[arg(long, value_name = "SOCKET")]
    pub(crate) socket: PathBuf,
    /// What is asked for: /live or /ready
    #[arg(value_name = "PATH")]
    pub(crate) path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    Node,
    Router,
    Farm,
    Build,
    Operator,
}

/// Words for objects made to references: a kind and names, `KIND/NAME`, or the name of a `default` kind.
pub(crate) fn references(
    words: &[String],
    default: Option<Kind>,
    namespace: &ObjectName,
) -> anyhow::Result<Vec<stoke_api::ObjectRef>> {
    let (kind, names) = match words {
        [first, rest @ ..] if !rest.is_empty() && !first.contains('/') && first.parse::<Kind>().is_ok() => {
            (first.parse::<Kind>().ok(), rest)
        }
        all => (default, all),
    };
    names.iter().map(|word| reference(word, kind, namespace)).collect()
}

fn reference(word: &str, kind: Option<Kind>, namespace: &ObjectName) -> anyhow::Result<stoke_api::ObjectRef> {
    let wrong =
        |message: String| crate::failure::Failure::usage(message, "write KIND/NAME, for example machine/node-1");
    let (kind, name) = match word.split_once('/') {
        Some((kind, name)) => (Some(kind.parse::<Kind>().map_err(|error| wrong(error.to_string()))?), name),
        None => (kind, word),
    };
    let kind = kind.ok_or_else(|| wrong(format!("{word:?} names no kind")))?;
    let name = name.parse().map_err(|error: stoke_api::names::ParseError| wrong(error.to_string()))?;
    Ok(stoke_api::ObjectRef { kind, namespace: kind.is_namespaced().then(|| namespace.clone()), name })
}

impl OneObject {
    /// What was meant.
    pub(crate) fn reference(&self, default: &ObjectName) -> anyhow::Result<stoke_api::ObjectRef> {
        let words: Vec<_> = [Some(self.kind.clone()), self.name.clone()].into_iter().flatten().collect();
        let mut found = references(&words, None, self.namespace.as_ref().unwrap_or(default))?;
        found.pop().ok_or_else(|| crate::failure::Failure::usage("no object is named", "write KIND NAME or KIND/NAME"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn words_for_objects() {
        let namespace: ObjectName = "default".parse().unwrap();
        let named = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(ToString::to_string).collect();
            let found = references(&words, Some(Kind::Machine), &namespace);
            found
                .map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
                .map_err(|e| e.to_string())
        };
        assert_eq!(named(&["node-1"]).unwrap(), "machine/node-1");
        assert_eq!(named(&["servers", "a", "b"]).unwrap(), "server/a server/b");
        assert_eq!(named(&["machine/a", "ssrv/b"]).unwrap(), "machine/a server/b");
        assert_eq!(named(&["machine"]).unwrap(), "machine/machine");
        assert!(named(&["pod/a"]).unwrap_err().contains("no kind is called \"pod\""));
        assert!(named(&["A"]).is_err());
    }
}
