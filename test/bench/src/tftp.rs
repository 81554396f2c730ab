//! TFTP: one transfer at window sizes that firmware uses, over a clean wire and over a long one that loses frames, and 500
//! transfers at once.

mod client;
mod servers;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use testbed::peers::Peers;
use testbed::{Relay, Wire, World};

use crate::row::Row;
use client::{Ask, fetch};
use servers::{ADDRESS, Server, Servers};

const CLIENT: &str = "10.9.0.2";
/// Firmware asks for what fits its frame.
const BLOCK: u16 = 1468;
const MEBIBYTE: usize = 1 << 20;
/// A boot program of the largest kind.
const PROGRAM: usize = MEBIBYTE;
const CROWD: usize = 500;
/// A transfer that takes longer has failed.
const LIMIT: Duration = Duration::from_mins(4);

/// One thing that is measured, of every server that can do it.
struct Measure {
    name: String,
    unit: &'static str,
    goal: Option<f64>,
    what: What,
    /// A value for each round, by server.
    values: Vec<(Server, Vec<f64>)>,
}

#[derive(Clone, Copy)]
enum What {
    /// atftp fetches so many bytes with this window.
    Atftp { window: u16, bytes: usize },
    /// A client of ours does.
    Own { window: u16, bytes: usize },
    /// Many clients of ours at once; counts those that have the right bytes.
    Crowd { window: u16 },
}

const ALL: &[Server] = &[Server::Ours, Server::Hpa, Server::Atftpd, Server::Dnsmasq];
/// Those that know windows.
const WINDOWS: &[Server] = &[Server::Ours, Server::Atftpd];

impl Measure {
    fn new(name: String, unit: &'static str, servers: &'static [Server], goal: Option<f64>, what: What) -> Self {
        Self { name, unit, goal, what, values: servers.iter().map(|server| (*server, Vec::new())).collect() }
    }

    fn on_clean_wire() -> Vec<Self> {
        let atftp = |window, bytes, servers, goal| {
            let name = format!("atftp, window {window}");
            Self::new(name, "MiB/s", servers, Some(goal), What::Atftp { window, bytes })
        };
        let own = |window| {
            let what = What::Own { window, bytes: 64 * MEBIBYTE };
            Self::new(format!("own client, window {window}"), "MiB/s", WINDOWS, Some(2.0), what)
        };
        let crowd = What::Crowd { window: 4 };
        vec![
            atftp(1, 64 * MEBIBYTE, ALL, 1.5),
            atftp(8, 64 * MEBIBYTE, WINDOWS, 2.0),
            atftp(64, 64 * MEBIBYTE, WINDOWS, 2.0),
            own(8),
            own(64),
            Self::new(format!("{CROWD} at once, whole and right"), "", ALL, None, crowd),
        ]
    }

    fn on_bad_wire() -> Vec<Self> {
        // Others wait seconds after each loss: little is enough.
        [(1, MEBIBYTE / 4, ALL), (8, 2 * MEBIBYTE, WINDOWS), (64, 4 * MEBIBYTE, WINDOWS)]
            .map(|(window, bytes, servers)| {
                let name = format!("1 ms and 1 % loss, window {window}");
                Self::new(name, "MiB/s", servers, Some(1.0), What::Atftp { window, bytes })
            })
            .into()
    }

    fn rows(&self) -> Option<Row> {
        let (_, ours) = self.values.iter().find(|(server, _)| *server == Server::Ours)?;
        let peers: Vec<_> = self.values.iter().filter(|(server, _)| *server != Server::Ours).collect();
        let peers: Vec<_> = peers.iter().map(|(server, values)| (server.name(), values.clone())).collect();
        let row = Row::higher("tftp", &self.name, self.unit, ours, &peers, self.goal)?;
        #[expect(clippy::cast_precision_loss, reason = "500 is exact")]
        Some(if matches!(self.what, What::Crowd { .. }) { row.bound(CROWD as f64) } else { row })
    }
}

/// Runs every server whose measure and name contain `only`, once a round, in turn.
pub(crate) fn run(rounds: usize, only: &str) -> Result<Vec<Row>> {
    let peers = Peers::in_cache(&testbed::cache())?;
    let addresses = [format!("{ADDRESS}/24"), format!("{CLIENT}/24")];
    let addresses = addresses.each_ref().map(String::as_str);
    let clean = |[far, near]: [&World; 2]| far.connect(near, addresses).map(|()| None);
    let bad = |hosts: [&World; 2]| {
        let wire = Wire { delay: Duration::from_micros(500), loss_per_mille: 10, seed: 7, ..Wire::default() };
        Relay::between(hosts, addresses, wire).map(Some)
    };
    let mut rows = on_wire(&peers, rounds, only, Measure::on_clean_wire(), clean)?;
    rows.extend(on_wire(&peers, rounds, only, Measure::on_bad_wire(), bad)?);
    Ok(rows)
}

fn on_wire(
    peers: &Peers,
    rounds: usize,
    only: &str,
    mut measures: Vec<Measure>,
    connect: impl Fn([&World; 2]) -> Result<Option<Relay>>,
) -> Result<Vec<Row>> {
    for measure in &mut measures {
        measure.values.retain(|(server, _)| format!("{} {}", measure.name, server.name()).contains(only));
    }
    measures.retain(|measure| !measure.values.is_empty());
    if measures.is_empty() {
        return Ok(Vec::new());
    }
    let hosts = [World::new()?, World::new()?];
    let [far, near] = &hosts;
    let _wire = connect([far, near])?;
    let servers = Servers::start(peers, far, near)?;
    for round in 1..=rounds {
        for measure in &mut measures {
            let (what, name, unit) = (measure.what, &measure.name, measure.unit);
            for (server, values) in &mut measure.values {
                let value =
                    once(&servers, near, *server, what).with_context(|| format!("{}, {name}", server.name()))?;
                eprintln!("round {round}, {name}, {}: {value:.1} {unit}", server.name());
                values.push(value);
            }
        }
    }
    Ok(measures.iter().filter_map(Measure::rows).collect())
}

fn once(servers: &Servers, near: &World, server: Server, what: What) -> Result<f64> {
    match what {
        What::Atftp { window, bytes } => atftp(servers, near, server, window, bytes),
        What::Own { window, bytes } => {
            let ask = Ask { server: server.address(), name: Servers::name(bytes), block: BLOCK, window };
            let begin = Instant::now();
            let whole = fetch(near, &ask, &servers.content(bytes), 1, LIMIT)?;
            if whole != 1 {
                bail!("the transfer failed");
            }
            Ok(rate(bytes, begin))
        }
        What::Crowd { window } => {
            let ask = Ask { server: server.address(), name: Servers::name(PROGRAM), block: BLOCK, window };
            let begin = Instant::now();
            let whole = fetch(near, &ask, &servers.content(PROGRAM), CROWD, LIMIT)?;
            eprintln!("  {CROWD} transfers of {PROGRAM} bytes in {:.1} s", begin.elapsed().as_secs_f64());
            Ok(f64::from(u32::try_from(whole)?))
        }
    }
}

fn atftp(servers: &Servers, near: &World, server: Server, window: u16, bytes: usize) -> Result<f64> {
    let to = near.folder().join("fetched");
    let mut command = near.command("timeout");
    command.arg(LIMIT.as_secs().to_string()).arg("atftp");
    command.args(["--option", &format!("blksize {BLOCK}")]);
    if window > 1 {
        command.args(["--option", &format!("windowsize {window}")]);
    }
    command.args(["--get", "--remote-file", &Servers::name(bytes), "--local-file"]).arg(&to);
    command.args([ADDRESS, &server.address().port().to_string()]);
    let begin = Instant::now();
    let output = command.output()?;
    let rate = rate(bytes, begin);
    if !output.status.success() {
        bail!("atftp failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let got = fs_err::read(&to)?;
    fs_err::remove_file(&to)?;
    if got != servers.content(bytes) {
        bail!("atftp got {} bytes, and they are not the file's", got.len());
    }
    Ok(rate)
}

fn rate(bytes: usize, begin: Instant) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "the size of a file, as a rate for people")]
    let mebibytes = bytes as f64 / MEBIBYTE as f64;
    mebibytes / begin.elapsed().as_secs_f64()
}
