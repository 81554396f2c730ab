//! A root in the page cache by NBD over a veth pair: our farm beside nbdkit, nbd-server and qemu-nbd, the same clients.
//!
//! Copies are nbdcopy's, from the export to nowhere; random reads of 4 KiB are fio's (its `nbd` engine). All servers run at
//! once and the loads alternate between them: an idle server costs nothing.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::cache;
use testbed::peers::Peers;
use testbed::{Process, World, wait_for};

use crate::farm::{Blobs, OurFarm};
use crate::row::Row;

const SERVER: &str = "10.78.0.1";
const CLIENT: &str = "10.78.0.2";
/// Size of the root in MiB.
const SIZE: u32 = 512;
/// Time for one run of fio, in seconds.
const READS: u32 = 3;
/// Connections that do nothing, for their memory.
const IDLE: u32 = 1000;
/// What one of them may cost, in KiB.
const IDLE_LIMIT: f64 = 64.0;
const EXPORT: &str = "image";
const PLUGIN: &str = "/usr/lib/x86_64-linux-gnu/nbdkit/plugins/nbdkit-file-plugin.so";

/// How one measurement is made.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// So many nbdcopy at once, of so many connections each.
    Copy { clients: u32, connections: u32 },
    /// So many clients with so many reads on the way.
    Random { clients: u32, depth: u32 },
}

const LOADS: [Load; 7] = [
    Load::Copy { clients: 1, connections: 1 },
    Load::Copy { clients: 1, connections: 4 },
    Load::Copy { clients: 16, connections: 1 },
    Load::Random { clients: 1, depth: 1 },
    Load::Random { clients: 1, depth: 32 },
    Load::Random { clients: 16, depth: 1 },
    Load::Random { clients: 16, depth: 32 },
];

impl Load {
    fn name(self) -> String {
        match self {
            Self::Copy { clients: 1, connections: 1 } => "nbdcopy".to_owned(),
            Self::Copy { clients: 1, connections } => format!("nbdcopy, {connections} connections"),
            Self::Copy { clients, .. } => format!("{clients} nbdcopy"),
            Self::Random { clients, depth } => format!("random 4 KiB, depth {depth}, clients {clients}"),
        }
    }

    fn unit(self) -> &'static str {
        if matches!(self, Self::Copy { .. }) { "MiB/s" } else { "1/s" }
    }
}

/// A server under load.
struct Side {
    name: &'static str,
    uri: String,
    process: Process,
}

/// Runs every load whose name contains `only` once a round against each side, in turn.
pub(crate) fn run(rounds: usize, only: &str) -> Result<Vec<Row>> {
    let peers = Peers::in_cache(&cache())?;
    let (client, server) = (World::new()?, World::new()?);
    server.connect(&client, [&format!("{SERVER}/24"), &format!("{CLIENT}/24")])?;
    let blobs = Blobs::make(&server.folder().join("blobs"), &[u64::from(SIZE) << 20, 4096, 4096])?;
    let sides = start(&peers, &server, &blobs)?;
    for side in &sides {
        let up = || Ok(client.run("nbdinfo", &["--size", &side.uri]).ok());
        let size = wait_for(side.name, Duration::from_secs(30), up)?;
        ensure!(size.trim() == (u64::from(SIZE) << 20).to_string(), "{} serves {size} bytes", side.name);
    }
    let mut rows = Vec::new();
    for load in LOADS.iter().filter(|load| load.name().contains(only)) {
        rows.extend(compare(&peers, &client, &sides, *load, rounds)?);
    }
    if "idle".contains(only) {
        rows.extend(idle(&client, sides.first().context("no server")?, blobs.name(0))?);
    }
    Ok(rows)
}

/// One load against all sides; ours is the first one.
fn compare(peers: &Peers, client: &World, sides: &[Side], load: Load, rounds: usize) -> Result<Option<Row>> {
    let mut values: Vec<Vec<f64>> = sides.iter().map(|_| Vec::new()).collect();
    // The first round warms up.
    for round in 0..=rounds {
        for (side, values) in sides.iter().zip(&mut values) {
            let value = measure(peers, client, load, &side.uri)?;
            eprintln!("round {round}, {}: {} {value:.0} {}", load.name(), side.name, load.unit());
            if round > 0 {
                values.push(value);
            }
        }
    }
    let mut named: Vec<_> = sides.iter().map(|side| side.name).zip(values).collect();
    let (_, ours) = named.remove(0);
    Ok(Row::higher("nbd", &load.name(), load.unit(), &ours, &named, Some(1.0)))
}

fn start(peers: &Peers, world: &World, blobs: &Blobs) -> Result<[Side; 4]> {
    let file = blobs.file(0);
    let ours = OurFarm::start(world, SERVER, blobs)?.process;
    let side = |name, port: u16, export: &str, process| {
        let uri = format!("nbd://{SERVER}:{port}/{export}");
        Side { name, uri, process }
    };
    Ok([
        side("ours", 10809, &format!("sha256:{}", blobs.name(0)), ours),
        side("nbdkit", 10810, EXPORT, nbdkit(peers, world, &file)?),
        side("nbd-server", 10811, EXPORT, nbd_server(peers, world, &file)?),
        side("qemu-nbd", 10812, EXPORT, qemu_nbd(peers, world, &file)?),
    ])
}

fn nbdkit(peers: &Peers, world: &World, file: &Path) -> Result<Process> {
    let mut command = peers.command(world, "/usr/bin/nbdkit");
    command.args(["--foreground", "--readonly", "--ipaddr", SERVER, "--port", "10810", "--exportname", EXPORT]);
    command.arg(peers.file(PLUGIN)).arg(format!("file={}", file.display())).stdin(Stdio::null());
    Process::start(&mut command)
}

fn nbd_server(peers: &Peers, world: &World, file: &Path) -> Result<Process> {
    let text = format!(
        "[generic]\nuser = root\ngroup = root\nallowlist = true\nlistenaddr = {SERVER}\nport = 10811\n\
         [{EXPORT}]\nexportname = {}\nreadonly = true\n",
        file.display()
    );
    let config = world.folder().join("nbd.conf");
    fs_err::write(&config, text)?;
    // It goes into the background, or ends after its first client: a process namespace of its own ends with us.
    let server = peers.command(world, "/bin/nbd-server");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "sh", "-ec", "\"$@\"; exec sleep infinity", "nbd-server"]);
    command.arg(server.get_program()).args(server.get_args());
    command.arg("-C").arg(config).arg("-p").arg(world.folder().join("nbd-server.pid"));
    Process::start(&mut command)
}

fn qemu_nbd(peers: &Peers, world: &World, file: &Path) -> Result<Process> {
    let mut command = peers.command(world, "/usr/bin/qemu-nbd");
    command.args(["--read-only", "--persistent", "--shared", "64", "--bind", SERVER, "--port", "10812"]);
    command.args(["--format", "raw", "--export-name", EXPORT]).arg(file).stdin(Stdio::null());
    Process::start(&mut command)
}

fn measure(peers: &Peers, client: &World, load: Load, uri: &str) -> Result<f64> {
    match load {
        Load::Copy { clients, connections } => copy(client, uri, clients, connections),
        Load::Random { clients, depth } => random(peers, client, uri, clients, depth),
    }
}

/// MiB a second of all together.
fn copy(client: &World, uri: &str, clients: u32, connections: u32) -> Result<f64> {
    let begin = Instant::now();
    let start = || {
        let mut command = client.command("nbdcopy");
        command.arg(format!("--connections={connections}")).args([uri, "null:"]).spawn().context("cannot run nbdcopy")
    };
    let started: Vec<_> = (0..clients).map(|_| start()).collect();
    for child in started {
        let status = child?.wait()?;
        ensure!(status.success(), "nbdcopy failed: {status}");
    }
    Ok(f64::from(clients * SIZE) / begin.elapsed().as_secs_f64())
}

/// Reads a second of all together.
fn random(peers: &Peers, client: &World, uri: &str, clients: u32, depth: u32) -> Result<f64> {
    let mut command = peers.command(client, "/usr/bin/fio");
    command.args(["--name=random", "--ioengine=nbd", "--rw=randread", "--bs=4k", "--time_based", "--group_reporting"]);
    command.arg(format!("--uri={uri}")).arg(format!("--iodepth={depth}")).arg(format!("--numjobs={clients}"));
    command.arg(format!("--runtime={READS}")).arg("--output-format=json");
    let output = command.stdin(Stdio::null()).output().context("cannot run fio")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "fio failed: {text}{}", String::from_utf8_lossy(&output.stderr));
    let json = text.find('{').and_then(|at| text.get(at..)).unwrap_or_default();
    let report: serde_json::Value = serde_json::from_str(json).context("fio's report")?;
    report.pointer("/jobs/0/read/iops").and_then(serde_json::Value::as_f64).context("fio reports no reads")
}

/// What a client costs that has attached the root and reads nothing.
fn idle(client: &World, ours: &Side, blob: &str) -> Result<Option<Row>> {
    let before = memory(&ours.process)?;
    let export = format!("sha256:{blob}");
    let attach = || -> Result<Vec<TcpStream>> {
        client.enter()?;
        let attach = |_| {
            let mut stream = TcpStream::connect((SERVER, 10809))?;
            stoke_nbd::client::negotiate(&mut stream, &export)?;
            Ok(stream)
        };
        (0..IDLE).map(attach).collect()
    };
    // The thread that does it belongs to the client's side from then on.
    let attached = std::thread::scope(|scope| scope.spawn(attach).join());
    let attached = attached.map_err(|_| anyhow::anyhow!("the idle clients' thread panicked"))??;
    let each = (memory(&ours.process)? - before) / f64::from(IDLE);
    drop(attached);
    let metric = format!("memory of an idle client of {IDLE}");
    Ok(Row::lower("nbd", &metric, "KiB", &[each], &[], None).map(|row| row.bound(IDLE_LIMIT)))
}

/// Resident memory of a process, in KiB.
fn memory(process: &Process) -> Result<f64> {
    let status = fs_err::read_to_string(format!("/proc/{}/status", process.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
