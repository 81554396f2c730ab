//! `cargo xtask demo`: the main job on this host, from nothing to a console, and back to nothing.

use std::io::IsTerminal as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::build::{Profile, build};
use crate::packages::{Purpose, ensure};
use crate::run::{output, root};

/// How long a machine may take from nothing to ready, the image build included.
const LIMIT: Duration = Duration::from_mins(15);

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Firmware of the machine.
    #[arg(long, value_enum, default_value = "uefi")]
    firmware: Firmware,
    /// Leave everything running at the end.
    #[arg(long)]
    keep: bool,
    /// Run as an ordinary user, even if root asks: as the one who called sudo.
    #[arg(long)]
    rootless: bool,
    /// In a real cluster on this host, with the chart; as root. The first time, Kubernetes is built, which takes a while.
    #[arg(long, conflicts_with_all = ["firmware", "keep", "rootless"])]
    kubernetes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Firmware {
    Bios,
    Uefi,
}

/// Where the demo's installation is, and how its programs are called.
struct Demo {
    stoke: PathBuf,
    state: PathBuf,
    /// The user to become, if root runs the demo without its rights.
    user: Option<String>,
}

impl Demo {
    fn stoke(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.user {
            None => Command::new(&self.stoke),
            Some(user) => {
                let mut command = Command::new("runuser");
                command.args(["--user", user, "--"]).arg(&self.stoke);
                command
            }
        };
        command.arg("--state").arg(&self.state).args(arguments);
        command
    }

    fn objects(&self) -> Result<Vec<Value>> {
        let text = output(&mut self.stoke(&["get", "images,lans,farms,machines", "--output", "json"]))?;
        let parsed: Value = serde_json::from_str(&text).context("stoke get printed something else than JSON")?;
        Ok(list(&parsed, if parsed.is_array() { "" } else { "/items" }).to_vec())
    }
}

/// Runs the demo.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.kubernetes {
        return in_a_cluster();
    }
    let begin = Instant::now();
    ensure(Purpose::Demo)?;
    let programs = build(Profile::Dev)?;
    let built = begin.elapsed();
    let demo = prepare(&programs, options)?;
    let objects = write_objects(&demo, options.firmware)?;
    let mut up = start(&demo, &objects)?;
    let shown = wait(&demo, &mut up).and_then(|moments| show(&demo, built, &moments, options.keep));
    if options.keep && shown.is_ok() {
        return Ok(());
    }
    eprintln!("\nEnding and removing everything; the image stays in {} for the next time.", demo.state.display());
    let ended = crate::run::run("stoke down", &mut demo.stoke(&["down"]));
    let _ = up.wait();
    shown.and(ended)
}

/// The same files on Kubernetes: `test/cluster/examples/demo.rs` has the cluster.
pub(crate) fn in_a_cluster() -> Result<()> {
    ensure(Purpose::Test)?;
    let programs = build(Profile::Dev)?;
    let images = crate::images::make_for_demo(&programs)?;
    let mut demo = crate::run::cargo(&["run", "--quiet", "--package", "cluster", "--example", "demo"]);
    let failed = demo.env("STOKE_PROGRAMS", programs).env("STOKE_IMAGES", images).status();
    let status = failed.context("cannot run the demo")?;
    if !status.success() {
        bail!("the demo ended with {status}");
    }
    Ok(())
}

fn prepare(programs: &Path, options: &Options) -> Result<Demo> {
    let is_root = rustix::process::geteuid().is_root();
    let user = match std::env::var("SUDO_USER") {
        _ if !options.rootless || !is_root => None,
        Ok(user) if user != "root" => Some(user),
        _ => bail!("--rootless: run this as an ordinary user (root called it, and nobody called sudo)"),
    };
    let folder = if is_root && user.is_none() { "demo" } else { "demo-rootless" };
    let state = testbed::cache().join(folder);
    fs_err::create_dir_all(&state)?;
    // The console's history outlives a machine; a demo begins with an empty one.
    let _ = fs_err::remove_dir_all(state.join("machines"));
    if let Some(user) = &user {
        crate::run::run("chown", Command::new("chown").arg(format!("{user}:")).arg(&state))?;
    }
    Ok(Demo { stoke: programs.join("stoke"), state, user })
}

/// The example's objects, with the firmware that was asked for.
fn write_objects(demo: &Demo, firmware: Firmware) -> Result<PathBuf> {
    let folder = demo.state.join("objects");
    fs_err::create_dir_all(&folder)?;
    for entry in fs_err::read_dir(root().join("examples/netboot"))? {
        let path = entry?.path();
        let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|end| end == "yaml")) else {
            continue;
        };
        let text = fs_err::read_to_string(&path)?;
        let text = if firmware == Firmware::Bios { text.replace("{uefi: {}}", "{bios: {}}") } else { text };
        fs_err::write(folder.join(name), text)?;
    }
    Ok(folder)
}

/// Starts `stoke up` where Ctrl-C does not reach it: the demo itself ends what it began.
fn start(demo: &Demo, objects: &Path) -> Result<Child> {
    let objects = objects.to_string_lossy();
    let mut up = demo.stoke(&["up", &objects]);
    up.stdin(Stdio::null()).process_group(0).spawn().context("cannot start stoke up")
}

/// When each object was ready, since `stoke up` began.
type Moments = Vec<(String, Duration)>;

/// Waits until every machine is ready; what happens meanwhile, `stoke up` itself tells.
fn wait(demo: &Demo, up: &mut Child) -> Result<Moments> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let begin = Instant::now();
    let mut moments = Moments::new();
    while begin.elapsed() < LIMIT {
        if let Some(status) = up.try_wait()? {
            bail!("stoke up ended ({status})");
        }
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        let objects = demo.objects().unwrap_or_default();
        for object in objects.iter().filter(|object| is_ready(object)) {
            let name = format!("{} {}", text(object, "/kind"), text(object, "/metadata/name"));
            if !moments.iter().any(|(known, _)| *known == name) {
                moments.push((name, begin.elapsed()));
            }
        }
        let mut machines = objects.iter().filter(|object| text(object, "/kind") == "Machine").peekable();
        if machines.peek().is_some() && machines.all(is_ready) {
            return Ok(moments);
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    bail!("no machine was ready within {} minutes", LIMIT.as_secs() / 60);
}

fn is_ready(object: &Value) -> bool {
    let holds = |condition: &Value| text(condition, "/type") == "Ready" && text(condition, "/status") == "True";
    list(object, "/status/conditions").iter().any(holds)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn show(demo: &Demo, built: Duration, moments: &Moments, keep: bool) -> Result<()> {
    println!("\nWhat runs:");
    print!("{}", output(&mut demo.stoke(&["status"]))?);
    println!("\nMachines:");
    print!("{}", output(&mut demo.stoke(&["get", "machines", "--output", "wide"]))?);
    println!("\nHow long it took:");
    println!("  {:<28}{:>7.1} s  before stoke up", "packages and programs", built.as_secs_f32());
    for (name, moment) in moments {
        println!("  {name:<28}{:>7.1} s  ready, since stoke up began", moment.as_secs_f32());
    }
    for object in demo.objects()? {
        for (phase, milliseconds) in timeline(&object) {
            let name = format!("  {} {phase}", text(&object, "/metadata/name"));
            println!("  {name:<28}{:>7.1} s  since its kernel began", f64::from(milliseconds) / 1000.0);
        }
    }
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        demo.stoke(&["console", "node-1"]).status().context("cannot open the console")?;
    }
    if keep {
        let command = format!("{} --state {}", demo.stoke.display(), demo.state.display());
        println!("\nIt goes on running.\n  come back:  {command} console node-1\n  log in:     {command} ssh node-1");
        println!("  end it:     {command} down");
    }
    Ok(())
}

fn timeline(object: &Value) -> Vec<(String, u32)> {
    let entry = |entry: &Value| {
        let milliseconds = entry.pointer("/1")?.as_u64()?;
        Some((text(entry, "/0").to_owned(), u32::try_from(milliseconds).ok()?))
    };
    list(object, "/status/node/timeline").iter().filter_map(entry).collect()
}
