//! DHCP under perfdhcp over a veth pair: our router beside Kea with its memfile, alone and with a hot standby, and dnsmasq
//! without ping check.
//!
//! Every exchange is one of a client that nobody has seen before, so each acknowledgement is a lease that has to be kept.
//! Ours is on disk (`fdatasync`) before it is acknowledged; the peers write without waiting for the disk.

mod servers;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use e2e::cache;
use testbed::peers::Peers;
use testbed::{Process, World};

use crate::row::Row;
use servers::{CLIENT, SERVER, Side};

/// Exchanges in a second that are tried, one after the other.
const RATES: [u32; 7] = [1000, 2000, 4000, 8000, 12_000, 16_000, 20_000];
/// Seconds of each.
const PERIOD: u32 = 3;
/// A rate at which no server has a queue, for how long an offer takes.
const CALM: u32 = 50;

/// What one run of perfdhcp showed.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Exchanges done.
    done: f64,
    /// From DISCOVER to OFFER on average, in milliseconds.
    offer: f64,
    /// From REQUEST to ACK on average, in milliseconds.
    ack: f64,
    /// Exchanges that were begun and not done within a second, in per cent.
    lost: f64,
}

/// Runs every side once a round, in turn, a server started anew for each.
pub(crate) fn run(rounds: usize, only: &str) -> Result<Vec<Row>> {
    let peers = Peers::in_cache(&cache())?;
    let sides = Side::ALL.iter().filter(|side| side.name().contains(only) || **side == Side::Ours).copied();
    let sides = sides.collect::<Vec<_>>();
    let mut results: BTreeMap<Side, Vec<Figures>> = BTreeMap::new();
    // The first round warms up.
    for round in 0..=rounds {
        for side in &sides {
            let figures = measure(&peers, *side)?;
            eprintln!("round {round}, {}: {figures:?}", side.name());
            if round > 0 {
                results.entry(*side).or_default().push(figures);
            }
        }
    }
    Ok(rows(&results))
}

/// What one side reached in one round.
#[derive(Clone, Copy, Debug)]
struct Figures {
    /// The most leases in a second at any rate.
    leases: f64,
    /// Milliseconds to an offer when nothing else happens.
    offer: f64,
    /// Milliseconds to an acknowledgement then.
    ack: f64,
    /// Per cent of exchanges lost at the lowest rate.
    lost: f64,
    /// Microseconds of processor time that the server spent on a lease, at all rates together.
    cost: f64,
}

fn measure(peers: &Peers, side: Side) -> Result<Figures> {
    let (server, client) = (World::new()?, World::new()?);
    server.connect(&client, [&format!("{SERVER}/14"), &format!("{CLIENT}/14")])?;
    let processes = side.start(peers, &server, &client)?;
    // Once more than is measured: the first exchange of all finds cold caches.
    perfdhcp(peers, &client, CALM, 1)?;
    let calm = perfdhcp(peers, &client, CALM, 2)?;
    let mut figures = Figures { leases: 0.0, offer: calm.offer, ack: calm.ack, lost: 0.0, cost: 0.0 };
    let (before, mut done) = (processor_time(&processes)?, 0.0);
    for rate in RATES {
        let run = perfdhcp(peers, &client, rate, PERIOD)?;
        eprintln!("  {} at {rate}/s: {run:?}", side.name());
        if rate == RATES[0] {
            figures.lost = run.lost;
        }
        figures.leases = figures.leases.max(run.done / f64::from(PERIOD));
        done += run.done;
        // More would not come of more.
        if run.lost > 30.0 {
            break;
        }
    }
    figures.cost = (processor_time(&processes)? - before) * 1e6 / done.max(1.0);
    Ok(figures)
}

/// Seconds that the processes have used, in user space and in the kernel (`proc_pid_stat(5)`).
fn processor_time(processes: &[Process]) -> Result<f64> {
    // USER_HZ of every architecture that we run on.
    const TICKS: f64 = 100.0;
    let mut seconds = 0.0;
    for process in processes {
        let stat = fs_err::read_to_string(format!("/proc/{}/stat", process.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("a process' figures have a name")?;
        let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
        seconds += ticks.sum::<f64>() / TICKS;
    }
    Ok(seconds)
}

/// Runs exchanges of clients with random addresses through a relay, which perfdhcp plays.
fn perfdhcp(peers: &Peers, client: &World, rate: u32, seconds: u32) -> Result<Run> {
    let mut command = peers.command(client, "/usr/sbin/perfdhcp");
    let (rate, seconds) = (rate.to_string(), seconds.to_string());
    command.args(["-4", "-l", CLIENT, "-r", &rate, "-p", &seconds, "-R", "4000000", "-W", "1000000", SERVER]);
    let output = command.output().context("cannot run perfdhcp")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // It fails if anything was lost, which is a result, too.
    parse(&text).with_context(|| format!("perfdhcp: {}{text}", String::from_utf8_lossy(&output.stderr)))
}

fn parse(text: &str) -> Option<Run> {
    let (offers, acks) = text.split_once("***Statistics for: REQUEST-ACK***")?;
    let line = |part: &str, name: &str| number(part.lines().find(|line| line.contains(name))?);
    let sent = line(offers, "sent packets")?;
    let done = line(acks, "received packets")?;
    let lost = if sent > 0.0 { (sent - done) / sent * 100.0 } else { 100.0 };
    let delay = |part| line(part, "avg delay").unwrap_or(f64::INFINITY);
    Some(Run { done, offer: delay(offers), ack: delay(acks), lost })
}

/// The first number of a line.
fn number(line: &str) -> Option<f64> {
    let digits = line.split(|one: char| !one.is_ascii_digit() && one != '.').find(|word| !word.is_empty());
    digits?.parse().ok()
}

fn rows(results: &BTreeMap<Side, Vec<Figures>>) -> Vec<Row> {
    let values = |side: Side, of: fn(&Figures) -> f64| -> Vec<f64> {
        results.get(&side).into_iter().flatten().map(of).collect()
    };
    let peers = |sides: &[Side], of: fn(&Figures) -> f64| -> Vec<(&'static str, Vec<f64>)> {
        sides.iter().map(|side| (side.name(), values(*side, of))).collect()
    };
    let leases = |figures: &Figures| figures.leases;
    let offer = |figures: &Figures| figures.offer;
    let ack = |figures: &Figures| figures.ack;
    let lost = |figures: &Figures| figures.lost;
    let cost = |figures: &Figures| figures.cost;
    let all = [Side::Kea, Side::KeaStandby, Side::Dnsmasq];
    let (ours, higher, lower) = (|of| values(Side::Ours, of), Row::higher, Row::lower);
    let rows = [
        higher("dhcp", "leases", "1/s", &ours(leases), &peers(&all, leases), None).map(|row| row.bound(5000.0)),
        higher("dhcp", "leases, Kea alone", "1/s", &ours(leases), &peers(&[Side::Kea], leases), Some(3.0)),
        lower("dhcp", "processor time, Kea alone", "us", &ours(cost), &peers(&[Side::Kea], cost), Some(0.33)),
        lower("dhcp", "processor time", "us", &ours(cost), &peers(&all, cost), None),
        lower("dhcp", "offer", "ms", &ours(offer), &peers(&all, offer), None).map(|row| row.bound(30.0)),
        lower("dhcp", "offer, dnsmasq alone", "ms", &ours(offer), &peers(&[Side::Dnsmasq], offer), Some(1.0)),
        lower("dhcp", "acknowledgement", "ms", &ours(ack), &peers(&all, ack), None),
        lower("dhcp", "lost at 1000/s", "%", &ours(lost), &peers(&all, lost), None),
    ];
    rows.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running: perfdhcp -4 -l 10.64.0.2 -r 1000 -p 2 10.64.0.1
Rate: 990.25 4-way exchanges/second, expected rate: 1000

***Statistics for: DISCOVER-OFFER***
sent packets: 2000
received packets: 1995
drops: 5

min delay: 0.101 ms
avg delay: 0.250 ms

***Statistics for: REQUEST-ACK***
sent packets: 1995
received packets: 1990
drops: 5

min delay: 0.9 ms
avg delay: 1.5 ms
";

    #[test]
    fn a_report_of_perfdhcp_is_read() {
        let run = parse(REPORT).unwrap();
        assert!((run.done - 1990.0).abs() < 1e-9 && (run.offer - 0.25).abs() < 1e-9 && (run.ack - 1.5).abs() < 1e-9);
        assert!((run.lost - 0.5).abs() < 1e-9);
        assert!(parse("perfdhcp: no server").is_none());
    }
}
