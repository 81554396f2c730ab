//! `cargo xtask demo --kubernetes`: a real cluster on this host, our chart in it, and the example's objects; then the console
//! of their machine, and everything goes away again.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cluster::{Lab, SYSTEM};
use serde_json::Value;

/// How long a machine may take from its object to ready, the image build included.
const LIMIT: Duration = Duration::from_mins(20);
/// The example's objects, in the order in which they get ready.
const OBJECTS: [(&str, &str); 4] = [("lan", "lab"), ("image", "node"), ("farm", "lab"), ("machine", "node-1")];
const LOOK: Duration = Duration::from_millis(300);

fn main() -> Result<()> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let began = Instant::now();
    println!("\nStarting a control plane and a node, and installing the chart in {SYSTEM}.");
    let lab = Lab::bare()?;
    println!("  {:>6.1}s the chart is installed\n", began.elapsed().as_secs_f32());
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/netboot");
    let example = example.canonicalize().context("the example is not there")?;
    println!("$ kubectl stoke up examples/netboot");
    print!("{}", cluster::check(lab.stoke()?.arg("up").arg(example))?);
    let came = follow(&lab, &ended).and_then(|()| show(&lab, &ended));
    println!("\nUninstalling, and ending the cluster.");
    let uninstalled = lab.uninstall();
    came.and(uninstalled)
}

/// Says what happens to each object until the machine is ready.
fn follow(lab: &Lab, ended: &AtomicBool) -> Result<()> {
    let began = Instant::now();
    let mut told = [const { String::new() }; OBJECTS.len()];
    while began.elapsed() < LIMIT {
        ensure!(!ended.load(Ordering::Relaxed), "interrupted");
        let mut ready = 0;
        for ((kind, name), told) in OBJECTS.iter().zip(&mut told) {
            let (is_ready, says) = state(&lab.object(kind, name)?);
            ready += usize::from(is_ready);
            ensure!(!says.starts_with("BuildFailed"), "{kind}/{name}: {says}");
            if *told != says {
                println!("  {:>6.1}s {:<20} {says}", began.elapsed().as_secs_f32(), format!("{kind}/{name}"));
                *told = says;
            }
        }
        if ready == OBJECTS.len() {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    bail!("the machine was not ready within {} minutes\n{}", LIMIT.as_secs() / 60, lab.story());
}

/// Whether an object is ready, and what it says of it.
fn state(object: &Value) -> (bool, String) {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|one| text(one, "type") == "Ready");
    let Some(ready) = ready else { return (false, "waits".to_owned()) };
    if text(ready, "status") == "True" {
        return (true, format!("ready: {}", text(ready, "message")));
    }
    (false, format!("{}: {}", text(ready, "reason"), text(ready, "message")))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn show(lab: &Lab, ended: &AtomicBool) -> Result<()> {
    println!("\nPods:\n{}", lab.kubectl(&["get", "pods", "--all-namespaces", "--output", "wide"])?);
    println!("Machines:\n{}", lab.kubectl(&["get", "machines", "--output", "wide"])?);
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Ok(());
    }
    println!("The cluster is here until you leave the console by Ctrl-]. In another terminal:");
    println!("  export KUBECONFIG={}", lab.cluster.plane.kubeconfig_file().display());
    println!("  {}", lab.cluster.plane.kubectl()?.get_program().display());
    println!("  {} --target cluster get machines\n", lab.stoke()?.get_program().display());
    let mut console = lab.stoke()?;
    console.args(["console", "node-1"]).stdin(std::process::Stdio::inherit());
    console.status().context("cannot open the console")?;
    ensure!(!ended.load(Ordering::Relaxed), "interrupted");
    Ok(())
}
