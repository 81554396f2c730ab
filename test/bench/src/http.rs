//! HTTP downloads of blobs in the page cache over a veth pair: our farm beside nginx with sendfile, the same clients.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::cache;
use rustix::net::RecvFlags;
use testbed::peers::Peers;
use testbed::{Process, World, wait_for};

use crate::farm::{Blobs, HTTP, HTTPS, OurFarm, certificate};
use crate::processor;
use crate::row::Row;

const SERVER: &str = "10.77.0.1";
const CLIENT: &str = "10.77.0.2";
/// In KiB: a root, a kernel, and a file so small that the request costs more than the content.
const SIZES: [u32; 3] = [256 << 10, 8 << 10, 16];

/// How one measurement is made.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// One curl, several downloads on one connection.
    Curl,
    /// The same, by TLS.
    CurlTls,
    /// So many connections at once; each asks for a blob so many times.
    Many { connections: u32, requests: u32, blob: usize },
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::CurlTls => "curl, TLS",
            Self::Many { connections: 16, blob: 0, .. } => "16 connections",
            Self::Many { blob: 2, .. } => "16 connections, 16 KiB each",
            Self::Many { .. } => "256 connections",
        }
    }

    /// The unit, and how many of it one run is.
    fn amount(self) -> (&'static str, f64) {
        let mebibytes = |blob: usize| f64::from(SIZES.get(blob).copied().unwrap_or_default()) / 1024.0;
        match self {
            Self::Curl | Self::CurlTls => ("MiB/s", f64::from(CURLS) * mebibytes(0)),
            Self::Many { connections, requests, blob: 2 } => ("1/s", f64::from(connections * requests)),
            Self::Many { connections, requests, blob } => {
                ("MiB/s", f64::from(connections * requests) * mebibytes(blob))
            }
        }
    }

    fn goal(self) -> Option<f64> {
        (!matches!(self, Self::CurlTls)).then_some(0.95)
    }
}

fn bytes(kibibytes: u32) -> u64 {
    u64::from(kibibytes) << 10
}

/// Downloads of one curl.
const CURLS: u32 = 8;
const LOADS: [Load; 5] = [
    Load::Curl,
    Load::Many { connections: 16, requests: 4, blob: 0 },
    Load::Many { connections: 256, requests: 6, blob: 1 },
    Load::Many { connections: 16, requests: 4000, blob: 2 },
    Load::CurlTls,
];

/// Runs every load whose name contains `only` once a round against each side, in turn.
pub(crate) fn run(rounds: usize, only: &str) -> Result<Vec<Row>> {
    let peers = Peers::in_cache(&cache())?;
    let client = World::new()?;
    let server = World::new()?;
    server.connect(&client, [&format!("{SERVER}/24"), &format!("{CLIENT}/24")])?;
    let blobs = Blobs::make(&server.folder().join("blobs"), &SIZES.map(bytes))?;
    let mut rows = Vec::new();
    for load in LOADS.iter().filter(|load| load.name().contains(only)) {
        let (mut ours, mut theirs) = (Vec::<Run>::new(), Vec::<Run>::new());
        // The first round warms up.
        for round in 0..=rounds {
            let one = measure(&client, *load, &blobs, &mut || Ok(OurFarm::start(&server, SERVER, &blobs)?.process))?;
            let other = measure(&client, *load, &blobs, &mut || nginx(&peers, &server, &blobs))?;
            eprintln!("round {round}, {}: ours {one:.1?}, nginx {other:.1?}", load.name());
            if round > 0 {
                ours.push(one);
                theirs.push(other);
            }
        }
        let pick = |runs: &[Run], figure: fn(&Run) -> f64| runs.iter().map(figure).collect::<Vec<_>>();
        let figures = |figure| (pick(&ours, figure), [("nginx", pick(&theirs, figure))]);
        let (speed, peers) = figures(|run| run.speed);
        rows.extend(Row::higher("http", load.name(), load.amount().0, &speed, &peers, load.goal()));
        let (cost, peers) = figures(|run| run.cost);
        let name = format!("{}, server's processor", load.name());
        rows.extend(Row::lower("http", &name, "ms/1000", &cost, &peers, None));
    }
    Ok(rows)
}

/// What one run showed.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Of the unit of [`Load::amount`], a second.
    speed: f64,
    /// Milliseconds of processor time of the server for each 1,000 of that.
    cost: f64,
}

/// Starts a server, runs the load, and ends the server.
fn measure(client: &World, load: Load, blobs: &Blobs, start: &mut dyn FnMut() -> Result<Process>) -> Result<Run> {
    let server = start()?;
    let probe = format!("http://{SERVER}:{HTTP}{}", path(blobs, 2));
    wait_for("the server", Duration::from_secs(20), || Ok(client.run("curl", &["-sSfo", "/dev/null", &probe]).ok()))?;
    let (begin, spent) = (Instant::now(), processor::seconds(server.id())?);
    match load {
        Load::Curl => curl(client, &format!("http://{SERVER}:{HTTP}{}", path(blobs, 0)))?,
        Load::CurlTls => curl(client, &format!("https://{SERVER}:{HTTPS}{}", path(blobs, 0)))?,
        Load::Many { connections, requests, blob } => {
            let size = SIZES.get(blob).copied().map_or(0, bytes);
            many(client, connections, requests, &path(blobs, blob), size)?;
        }
    }
    let amount = load.amount().1;
    let (wall, spent) = (begin.elapsed().as_secs_f64(), processor::seconds(server.id())? - spent);
    Ok(Run { speed: amount / wall, cost: spent * 1e6 / amount })
}

fn path(blobs: &Blobs, number: usize) -> String {
    format!("/v1/blob/sha256/{}", blobs.name(number))
}

fn curl(client: &World, url: &str) -> Result<()> {
    let mut command: Command = client.command("curl");
    command.args(["-sSf", "--insecure"]);
    for _ in 0..CURLS {
        command.args(["-o", "/dev/null", url]);
    }
    let status = command.status().context("cannot run curl")?;
    ensure!(status.success(), "curl failed: {status}");
    Ok(())
}

/// Connections that load at once from the client's side; each goes on on the same connection.
fn many(client: &World, connections: u32, requests: u32, path: &str, size: u64) -> Result<()> {
    thread::scope(|scope| {
        // Threads belong to the network namespace of the thread that starts them.
        let entered = scope.spawn(|| {
            client.enter()?;
            let loads: Vec<_> = (0..connections).map(|_| scope.spawn(|| connection(requests, path, size))).collect();
            loads.into_iter().try_for_each(|load| load.join().map_err(|_| anyhow::anyhow!("a client panicked"))?)
        });
        entered.join().map_err(|_| anyhow::anyhow!("the clients panicked"))?
    })
}

fn connection(requests: u32, path: &str, size: u64) -> Result<()> {
    let mut stream = TcpStream::connect((SERVER, HTTP))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_mins(1)))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {SERVER}\r\n\r\n");
    let mut space = vec![0; 256 << 10];
    for _ in 0..requests {
        stream.write_all(request.as_bytes())?;
        let before = head(&mut stream, &mut space, size)?;
        discard(&stream, &mut space, size - before)?;
    }
    Ok(())
}

/// Reads the head; returns how much of the content came with it.
fn head(stream: &mut TcpStream, space: &mut [u8], size: u64) -> Result<u64> {
    let mut filled = 0;
    loop {
        // No more than a head's worth: the rest is thrown away where it is.
        let room = space.get_mut(filled..4096).filter(|room| !room.is_empty()).context("the head is too long")?;
        let received = stream.read(room)?;
        ensure!(received > 0, "the server ended the connection");
        filled += received;
        let read = space.get(..filled).unwrap_or_default();
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(read.get(..end).unwrap_or_default()).to_lowercase();
            ensure!(text.starts_with("http/1.1 200"), "the server answers {text}");
            ensure!(text.contains(&format!("content-length: {size}")), "the content is not {size} long: {text}");
            return Ok((filled - end - 4) as u64);
        }
    }
}

/// Takes content without looking at it, and without a copy: the servers are measured, not this client.
fn discard(stream: &TcpStream, space: &mut [u8], mut left: u64) -> Result<()> {
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(space.len());
        let room = space.get_mut(..length).unwrap_or_default();
        // TCP drops what is received with this flag (tcp(7)).
        match rustix::net::recv(stream, room, RecvFlags::TRUNC) {
            Ok((_, 0)) => bail!("the server ended the connection {left} bytes too early"),
            Ok((_, received)) => left -= received as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// As people run it who care for speed: a worker for each processor, no log, sendfile.
fn nginx(peers: &Peers, world: &World, blobs: &Blobs) -> Result<Process> {
    let folder = world.folder().join("nginx");
    let files = folder.join("www/v1/blob/sha256");
    fs_err::create_dir_all(&files)?;
    for number in 0..SIZES.len() {
        link(&blobs.file(number), &files.join(blobs.name(number)))?;
    }
    let (certificate, key) = certificate(&folder, SERVER)?;
    let text = format!(
        "daemon off; user root; worker_processes auto; pid {0}/pid; error_log {0}/log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;\n\
         client_body_temp_path {0}/t1; proxy_temp_path {0}/t2; fastcgi_temp_path {0}/t3; uwsgi_temp_path {0}/t4;\n\
         scgi_temp_path {0}/t5; default_type application/octet-stream;\n\
         server {{ listen {SERVER}:{HTTP}; listen {SERVER}:{HTTPS} ssl; ssl_protocols TLSv1.3; root {0}/www;\n\
         ssl_certificate {1}; ssl_certificate_key {2}; }} }}\n",
        folder.display(),
        certificate.display(),
        key.display(),
    );
    let file = folder.join("nginx.conf");
    fs_err::write(&file, text)?;
    // Its workers outlive a master that is killed: a process namespace of its own ends with all of them.
    let server = peers.command(world, "/usr/sbin/nginx");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "sh", "-ec", "\"$@\"; exit", "nginx"]);
    command.arg(server.get_program()).args(server.get_args()).arg("-c").arg(file).arg("-p").arg(folder);
    Process::start(&mut command)
}

fn link(from: &Path, to: &Path) -> Result<()> {
    match fs_err::hard_link(from, to) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error.into()),
        _ => Ok(()),
    }
}
