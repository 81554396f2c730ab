//! The operator of a cluster at its size: 1,000 machines in ten namespaces, 500 nodes, a router with 5,000 leases.
//!
//! Real are the control plane (etcd, API server, controllers, scheduler) and `stoke serve operator`, a process. Nodes are
//! pretended (kwok), and node agents with the roles in their pods are played: `agents.rs`. What is written is read in the API
//! server's audit log. Nobody else does this, so there is no peer: the rows are held to bounds.

mod agents;
mod audit;
mod cluster;
mod process;

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use audit::Write;
use cluster::Cluster;
use jiff::Timestamp;
use process::Operator;
use serde_json::json;
use testbed::wait_for;

use crate::row::Row;

const MACHINES: usize = 1000;
const NAMESPACES: usize = 10;
const NODES: u32 = 500;
const CHANGES: usize = 100;
/// Requests of people at a time.
const PEOPLE: usize = 8;
/// Nothing is under way when nothing was written for so long.
const STILL: Duration = Duration::from_secs(5);
/// How long nothing may be written when nothing changes.
const IDLE: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_mins(5);
/// Pause between two looks at the audit log.
const LOOK: Duration = Duration::from_millis(10);

/// What is measured: name, unit, bound.
type Figure = (&'static str, &'static str, Option<f64>);

/// Runs it so many times. `only` may be another number of machines.
pub(crate) fn run(rounds: usize, only: &str) -> Result<Vec<Row>> {
    let mut figures = Vec::<(Figure, Vec<f64>)>::new();
    for round in 1..=rounds {
        let measured = once(only.parse().unwrap_or(MACHINES))?;
        eprintln!("round {round}: {measured:.2?}");
        for (number, (figure, value)) in measured.into_iter().enumerate() {
            match figures.get_mut(number) {
                Some((_, values)) => values.push(value),
                None => figures.push((figure, vec![value])),
            }
        }
    }
    let row = |((name, unit, bound), values): &(Figure, Vec<f64>)| {
        let row = Row::lower("operator", name, unit, values, &[], None)?;
        Some(match bound {
            Some(bound) => row.bound(*bound),
            None => row,
        })
    };
    Ok(figures.iter().filter_map(row).collect())
}

fn once(machines: usize) -> Result<Vec<(Figure, f64)>> {
    let mut cluster = Cluster::start(NODES)?;
    let mut operator = Operator::start(&cluster)?;
    cluster.play_agents()?;
    infrastructure(&cluster)?;
    settled(&mut cluster)?;

    let began = Instant::now();
    create(&cluster, machines)?;
    let created = began.elapsed();
    let wanted = pods_are_made(&mut cluster, began, machines)?;
    let quiet = settled(&mut cluster)?;
    let all = began.elapsed().as_secs_f64() + quiet;
    let grown = operator.memory()?;
    eprintln!("made in {created:.1?}; pods after {wanted:.1} s, still after {all:.1} s; {grown:.1?}");

    let mut took = changes(&mut cluster, machines)?;
    took.sort_by(f64::total_cmp);
    let part = |of: usize| took.get(took.len() * of / 100).copied().unwrap_or_default();
    let (middle, most) = (part(50), part(99));
    settled(&mut cluster)?;
    let idle = cluster.idle_writes()?;

    let (killed, killed_at) = (Instant::now(), Timestamp::now());
    operator.kill();
    let mut operator = Operator::start(&cluster)?;
    wait_for("it to lead again", LIMIT, || {
        Ok((operator.metric("stokehold_operator_leader")? == Some(1.0)).then_some(()))
    })?;
    let leads = killed.elapsed().as_secs_f64();
    let round = |operator: &mut Operator| operator.metric("stokehold_operator_rounds_total");
    wait_for("its first round", LIMIT, || Ok(round(&mut operator)?.filter(|count| *count >= 2.0)))?;
    let back = killed.elapsed().as_secs_f64();
    let last = last_write(&cluster.still()?, killed_at);
    let memory = operator.memory()?;
    eprintln!(
        "leads again after {leads:.2} s, first round after {back:.2} s, last write after {last:.2} s; {memory:.1?}"
    );
    Ok(vec![
        (("all pods made", "s", None), wanted),
        (("nothing more to write", "s", None), all),
        (("a change's write, middle", "ms", None), middle),
        (("a change's write, 99 of 100", "ms", Some(1000.0)), most),
        (("writes in 30 s without a change", "", Some(0.0)), idle),
        (("kill -9 to settled", "s", Some(10.0)), back.max(last)),
        // Pages of its program are shared by all of ours on a node, and the kernel takes them back when it needs them.
        (("memory, after all was made", "MiB", Some(100.0)), grown.own),
        (("memory, after a restart", "MiB", Some(100.0)), memory.own),
        (("with pages of its program, peak", "MiB", None), grown.peak.max(memory.peak)),
        (("with pages of its program, after a restart", "MiB", None), memory.resident),
    ])
}

/// A LAN, an image and a farm that all namespaces may use.
fn infrastructure(cluster: &Cluster) -> Result<()> {
    for namespace in (0..NAMESPACES).map(namespace).chain(["infra".to_owned()]) {
        cluster.plane.ensure_namespace(&namespace)?;
    }
    let access = json!({"namespaces": "All"});
    let subnet = json!({"name": "v4", "cidr": "10.64.0.0/16", "gateway": "10.64.0.1"});
    let source = json!({"debian": {"suite": "bookworm", "packages": ["linux-image-amd64"]}});
    // The definitions are the operator's: it may still be at them.
    wait_for("the kinds", LIMIT, || {
        Ok(cluster.make("infra", "Lan", "lab", &json!({"subnets": [subnet], "access": access})).is_ok().then_some(()))
    })?;
    wait_for("the kinds", LIMIT, || {
        Ok(cluster
            .make("infra", "Image", "node", &json!({"source": source, "forms": {"netboot": {}}}))
            .is_ok()
            .then_some(()))
    })?;
    wait_for("the kinds", LIMIT, || {
        let farm = json!({"lan": "lab", "image": "node", "access": access});
        Ok(cluster.make("infra", "Farm", "lab", &farm).is_ok().then_some(()))
    })
}

fn namespace(number: usize) -> String {
    format!("team-{}", number % NAMESPACES)
}

fn machine(number: usize) -> String {
    format!("node-{number}")
}

fn create(cluster: &Cluster, machines: usize) -> Result<()> {
    let infra = json!({"namespace": "infra", "name": "lab"});
    let spec = json!({"vm": {"memory": "256Mi"}, "farm": infra, "nics": [{"name": "lan", "lan": infra}]});
    let make = |person: usize| {
        (person..machines)
            .step_by(PEOPLE)
            .try_for_each(|number| cluster.make(&namespace(number), "Machine", &machine(number), &spec))
    };
    std::thread::scope(|scope| {
        let people: Vec<_> = (0..PEOPLE).map(|person| scope.spawn(move || make(person))).collect();
        people.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow::anyhow!("a person panicked"))?)
    })
}

/// Waits until a pod was made for each machine; how long that took.
fn pods_are_made(cluster: &mut Cluster, began: Instant, machines: usize) -> Result<f64> {
    let mut made = 0;
    let is_pod =
        |write: &Write| write.verb == "create" && write.resource == "pods" && write.namespace != cluster::SYSTEM;
    wait_for("all pods", LIMIT, || {
        made += cluster.audit.new_writes()?.iter().filter(|write| is_pod(write)).count();
        Ok((made >= machines).then(|| began.elapsed().as_secs_f64()))
    })
}

/// Waits until nothing is written any more; how long ago the last write was, as a negative number.
fn settled(cluster: &mut Cluster) -> Result<f64> {
    let mut last = Instant::now();
    wait_for("nothing to be written", LIMIT, || {
        if !cluster.audit.new_writes()?.is_empty() {
            last = Instant::now();
        }
        Ok((last.elapsed() > STILL).then_some(()))
    })?;
    Ok(-last.elapsed().as_secs_f64())
}

/// Changes machines, one after the other; the milliseconds until the operator wrote down what the machine's role is to know.
fn changes(cluster: &mut Cluster, machines: usize) -> Result<Vec<f64>> {
    let mut took = Vec::new();
    for count in 0..CHANGES.min(machines) {
        let number = count * machines / CHANGES.min(machines);
        let (namespace, machine) = (namespace(number), machine(number));
        let map = format!("vm-{namespace}-{machine}");
        let began = Timestamp::now();
        let fields = json!({"spec": {"vm": {"memory": format!("{}Mi", 300 + count)}}});
        cluster.change(&namespace, "Machine", &machine, &fields)?;
        let is_map = |write: &Write| write.resource == "configmaps" && write.name == map;
        let limit = Instant::now();
        let at = loop {
            if let Some(write) = cluster.audit.new_writes()?.into_iter().find(is_map) {
                break write.at;
            }
            anyhow::ensure!(limit.elapsed() < LIMIT, "{map} was not written");
            sleep(LOOK);
        };
        took.push(at.duration_since(began).as_secs_f64() * 1000.0);
        // Not in step with its rounds.
        sleep(Duration::from_millis(u64::try_from(count * 37 % 400)?));
    }
    Ok(took)
}

impl Cluster {
    /// How much is written while nothing changes.
    fn idle_writes(&mut self) -> Result<f64> {
        sleep(IDLE);
        let writes = self.audit.new_writes()?;
        describe(&writes);
        Ok(f64::from(u32::try_from(writes.len())?))
    }

    /// Waits until nothing is written any more, and gives what was.
    fn still(&mut self) -> Result<Vec<Write>> {
        let (mut last, mut all) = (Instant::now(), Vec::new());
        wait_for("nothing to be written", LIMIT, || {
            let new = self.audit.new_writes()?;
            if !new.is_empty() {
                last = Instant::now();
            }
            all.extend(new);
            Ok((last.elapsed() > STILL).then_some(()))
        })?;
        describe(&all);
        Ok(all)
    }
}

/// How many seconds after this the last write was; zero without one.
fn last_write(writes: &[Write], since: Timestamp) -> f64 {
    writes.iter().map(|write| write.at.duration_since(since).as_secs_f64()).fold(0.0, f64::max)
}

fn describe(writes: &[Write]) {
    let mut kinds = BTreeMap::<(&str, &str), usize>::new();
    for write in writes {
        *kinds.entry((&write.verb, &write.resource)).or_default() += 1;
    }
    eprintln!("{} writes: {kinds:?}", writes.len());
}
