//! The command line. Options may stand anywhere, as callers write them: before the verb, after it, after the name.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// An OCI runtime on liblxc.
#[derive(Debug, Parser)]
#[command(name = "stoke-lxc", version = version(), disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

fn version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0")
}

/// Shape of the log's lines.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Who makes cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum CgroupManager {
    #[default]
    Cgroupfs,
    Systemd,
}

/// What every verb takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Folder in which containers are remembered.
    #[arg(long, global = true, value_name = "FOLDER", default_value = "/run/stoke-lxc")]
    pub(crate) root: PathBuf,
    /// File that errors and warnings are written to.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Shape of the log's lines.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) log_format: LogFormat,
    /// Log more, of liblxc too.
    #[arg(long, global = true)]
    pub(crate) debug: bool,
    /// Have systemd make cgroups.
    #[arg(long, global = true)]
    pub(crate) systemd_cgroup: bool,
    /// Who makes cgroups.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) cgroup_manager: CgroupManager,
    /// Accepted for callers that say it; only `false` and `auto` are done.
    #[arg(
        long,
        global = true,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "auto",
        default_missing_value = "true"
    )]
    pub(crate) rootless: String,
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create a container that waits for `start`.
    Create(Create),
    /// Start a container that waits.
    Start(Id),
    /// Print the state of a container.
    State(Id),
    /// Send a signal to a container's first process.
    Kill(Kill),
    /// Remove a container that has stopped.
    Delete(Delete),
    /// Create, start, wait and delete.
    Run(Run),
    /// Execute another process in a container.
    Exec(Exec),
    /// Print the processes of a container.
    Ps(Ps),
    /// Print all containers.
    List(List),
    /// Freeze all processes of a container.
    Pause(Id),
    /// Thaw them.
    Resume(Id),
    /// Change the limits of a container.
    Update(Update),
    /// Print what a container uses.
    Events(Events),
    /// Print what this runtime can do.
    Features,
    /// Write a configuration to begin with.
    Spec(Spec),
}

#[derive(Debug, Args)]
pub(crate) struct Id {
    /// Name of the container.
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Name of the container.
    pub(crate) id: String,
    /// Folder with `config.json` and the root.
    #[arg(short, long, default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Another configuration than the bundle's.
    #[arg(short = 'f', long)]
    pub(crate) config: Option<PathBuf>,
    /// Socket that gets the terminal.
    #[arg(long)]
    pub(crate) console_socket: Option<PathBuf>,
    /// File that gets the number of the first process.
    #[arg(long)]
    pub(crate) pid_file: Option<PathBuf>,
    /// Enter the root by chroot: for hosts whose own root is an initramfs.
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Keep the caller's session keyring.
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    /// How many descriptors after the three standard ones the container gets.
    #[arg(long, default_value_t = 0)]
    pub(crate) preserve_fds: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) create: Create,
    /// Do not wait for it.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Do not delete it when it has stopped.
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// To all processes.
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Name of the container.
    pub(crate) id: String,
    /// Name or number of the signal.
    #[arg(default_value = "TERM")]
    pub(crate) signal: String,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Kill it if it runs; it is no error if there is none.
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Name of the container.
    pub(crate) id: String,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "one for each flag")]
pub(crate) struct Exec {
    /// File with the process, as in `config.json`.
    #[arg(short, long)]
    pub(crate) process: Option<PathBuf>,
    /// Give it a terminal.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Do not wait for it.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Socket that gets the terminal.
    #[arg(long)]
    pub(crate) console_socket: Option<PathBuf>,
    /// File that gets the number of the process.
    #[arg(long)]
    pub(crate) pid_file: Option<PathBuf>,
    /// Its folder.
    #[arg(long)]
    pub(crate) cwd: Option<String>,
    /// A variable: NAME=VALUE.
    #[arg(short, long)]
    pub(crate) env: Vec<String>,
    /// Its user: UID or UID:GID.
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// A group more.
    #[arg(short = 'g', long)]
    pub(crate) additional_gids: Vec<u32>,
    /// A capability more.
    #[arg(short, long)]
    pub(crate) cap: Vec<String>,
    /// Let it gain no privileges.
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// AppArmor profile.
    #[arg(long)]
    pub(crate) apparmor: Option<String>,
    /// SELinux label.
    #[arg(long)]
    pub(crate) process_label: Option<String>,
    /// Also in a container that is paused.
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    /// How many descriptors after the three standard ones it gets.
    #[arg(long, default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Name of the container.
    pub(crate) id: String,
    /// Program and arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

/// Shape of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Shape of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// Name of the container.
    pub(crate) id: String,
    /// Options of ps(1).
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) options: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Shape of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// Names only.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Name of the container.
    pub(crate) id: String,
    /// File with `linux.resources`; `-` is standard input.
    #[arg(short, long)]
    pub(crate) resources: Option<PathBuf>,
    /// Memory in bytes; -1 is no limit.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory: Option<i64>,
    /// Memory and swap together, in bytes; -1 is no limit.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<i64>,
    /// Memory in bytes that is kept for it.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_reservation: Option<i64>,
    /// Weight beside other containers.
    #[arg(long, visible_alias = "cpu-shares")]
    pub(crate) cpu_share: Option<u64>,
    /// Microseconds of a processor in each period; -1 is no limit.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// Microseconds of a period.
    #[arg(long)]
    pub(crate) cpu_period: Option<u64>,
    /// Microseconds that may be saved up.
    #[arg(long)]
    pub(crate) cpu_burst: Option<u64>,
    /// Runs only when nobody else wants to: 1 or 0.
    #[arg(long)]
    pub(crate) cpu_idle: Option<i64>,
    /// Processors.
    #[arg(long)]
    pub(crate) cpuset_cpus: Option<String>,
    /// Nodes of memory.
    #[arg(long)]
    pub(crate) cpuset_mems: Option<String>,
    /// How many processes; -1 is no limit.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// Weight of its block I/O.
    #[arg(long)]
    pub(crate) blkio_weight: Option<u16>,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Once, and not every few seconds.
    #[arg(long)]
    pub(crate) stats: bool,
    /// Seconds between two answers.
    #[arg(long, default_value = "5s")]
    pub(crate) interval: String,
    /// Name of the container.
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Spec {
    /// Folder that gets `config.json`.
    #[arg(short, long, default_value = ".")]
    pub(crate) bundle: PathBuf,
}
