//! What `stoke` does for the node role and the way out, alone, for this crate's tests:
//! `agent node RUN_FOLDER CONFIG SOCKET`, `agent cluster RUN_FOLDER CONFIG SOCKET`, `agent pasta RUN_FOLDER`, and
//! `agent member RUN_FOLDER`, which is inside as a router is, and says so. And what roles in pods do:
//! `agent interfaces SOCKET`, `agent tap SOCKET LAN MAC ADDRESS`. Both say what they were given and stay.

use std::fs::File;
use std::io::{BufRead as _, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use stoke_net::ports::{self, PortRequest};

const USAGE: &str = "usage: agent node|cluster RUN_FOLDER CONFIG SOCKET, agent pasta|member RUN_FOLDER, agent interfaces \
                     SOCKET, or agent tap SOCKET LAN MAC ADDRESS";
/// Zeroes: `virtio_net_hdr` without offloads.
const HEADER: usize = 10;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let mut next = || arguments.next().map(PathBuf::from).context(USAGE);
    let (role, run_dir) = (next()?, next()?);
    match role.to_str().unwrap_or_default() {
        "pasta" => pasta(&run_dir),
        "member" => member(&run_dir),
        "interfaces" => interfaces(&run_dir),
        "tap" => {
            let words = [next()?, next()?, next()?].map(|word| word.display().to_string());
            tap(&run_dir, &words)
        }
        _ => agent(&role, &run_dir, stoke_daemon::Launch { config: next()?, socket: next()? }),
    }
}

fn agent(role: &Path, run_dir: &Path, launch: stoke_daemon::Launch) -> anyhow::Result<()> {
    let cluster = role == Path::new("cluster");
    if !cluster {
        // While there is one thread: a user namespace cannot be joined later.
        stoke_node::namespaces::prepare(run_dir)?;
    }
    stoke_daemon::init_tracing();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if cluster { runtime.block_on(stoke_node::cluster::run(launch)) } else { runtime.block_on(stoke_node::run(launch)) }
}

fn pasta(run_dir: &Path) -> anyhow::Result<()> {
    let (dir, pid_file) = (run_dir.join("ns"), run_dir.join(stoke_node::egress::PID_FILE));
    Err(stoke_node::egress::pasta_command(&dir, &pid_file)?.exec().into())
}

fn member(run_dir: &Path) -> anyhow::Result<()> {
    stoke_node::namespaces::enter(&run_dir.join("ns"))?;
    std::io::stdout().write_all(b"inside\n")?;
    stay()
}

/// Ends with the test: killed, or by the end of its input.
fn stay() -> anyhow::Result<()> {
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn interfaces(socket: &Path) -> anyhow::Result<()> {
    match ports::request_interfaces(socket) {
        Ok(interfaces) => say(&serde_json::to_string(&interfaces)?)?,
        Err(error) => say(&format!("refused: {error}"))?,
    }
    stay()
}

/// For each line that it is told it asks the LAN who has the address, and says the answer.
fn tap(socket: &Path, [lan, mac, address]: &[String; 3]) -> anyhow::Result<()> {
    let lan = serde_json::json!({"kind": "Lan", "namespace": "default", "name": lan});
    let request: PortRequest =
        serde_json::from_value(serde_json::json!({"lan": lan, "mac": mac, "label": "what a pod says of itself"}))?;
    let (device, reply) = match ports::request(socket, &request) {
        Ok(given) => given,
        Err(error) => {
            say(&format!("refused: {error}"))?;
            return stay();
        }
    };
    say(&format!("port {} {}", reply.link, reply.mtu))?;
    let (mut device, mac) = (File::from(device), request.mac.context(USAGE)?.0);
    let wanted = address.parse::<Ipv4Addr>()?.octets();
    for line in std::io::stdin().lock().lines() {
        line?;
        device.write_all(&question(mac, wanted))?;
        say(&answer(&mut device, wanted)?)?;
    }
    Ok(())
}

/// Who has this address? (RFC 826)
fn question(own: [u8; 6], wanted: [u8; 4]) -> Vec<u8> {
    let ethernet = [&[0xff; 6][..], &own, &[0x08, 0x06]].concat();
    let body = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &own, &[10, 10, 0, 77], &[0; 6], &wanted].concat();
    [vec![0; HEADER], ethernet, body].concat()
}

fn answer(device: &mut File, wanted: [u8; 4]) -> anyhow::Result<String> {
    loop {
        let mut frame = [0; 4096];
        let length = device.read(&mut frame)?;
        let ethernet = frame.get(HEADER..length).unwrap_or_default();
        let (Some([8, 6]), Some([0, 2])) = (ethernet.get(12..14), ethernet.get(20..22)) else { continue };
        if ethernet.get(28..32) == Some(&wanted) {
            let octets = ethernet.get(22..28).unwrap_or_default();
            return Ok(octets.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":"));
        }
    }
}
