//! Many simulated machines boot at once from the real servers, which are killed meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use storm::crowd::{Outcome, power_on};
use storm::{Lab, Wanted};

const MACHINES: u16 = 60;
const ROOT: u64 = 8 << 20;
const KERNEL: u64 = 1 << 20;
/// Between two kills: enough for a farm on a busy host to come up and be of use.
const BETWEEN: Duration = Duration::from_secs(2);
/// So many kills at least; more with the variable `STOKE_STORM_KILLS`.
const KILLS: u32 = 5;

/// Does something on a thread of its own: it moves to another network namespace.
fn apart(work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|_| anyhow::bail!("it panicked"))
}

fn all_ready(outcome: &Outcome, machines: usize, lab: &Lab) -> Result<()> {
    let (failures, said) = (&outcome.failures, lab.said("farm"));
    ensure!(
        failures.is_empty(),
        "{} failed: {:#?}\n{said}",
        failures.len(),
        failures.iter().take(5).collect::<Vec<_>>()
    );
    ensure!(outcome.booted.len() == machines, "{} of {machines} booted", outcome.booted.len());
    Ok(())
}

#[test]
fn machines_boot_at_once_and_most_get_their_root_from_each_other() -> Result<()> {
    apart(|| {
        let wanted = Wanted { machines: MACHINES, root: ROOT, kernel: KERNEL, max_loading: Some(16) };
        let lab = Lab::start(wanted)?;
        let outcome = power_on(&lab, MACHINES, Duration::ZERO)?;
        all_ready(&outcome, MACHINES.into(), &lab)?;
        let (parents, sent) = outcome.from_farm(|url| lab.is_farm(url));
        // What one giver could not give comes from the next one, so a little more may come from the farm.
        ensure!(sent * 10 <= ROOT * parents as u64 * 13, "the farm sent {sent} bytes for {parents} parents");
        ensure!(parents < outcome.booted.len() / 2, "{parents} of {MACHINES} got their root from the farm");
        Ok(())
    })
}

#[test]
fn a_farm_that_is_killed_again_and_again_costs_no_machine_its_boot() -> Result<()> {
    let wanted_kills = std::env::var("STOKE_STORM_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let kills = AtomicU32::new(0);
    while kills.load(Ordering::Acquire) < wanted_kills {
        apart(|| under_kills(&kills))?;
    }
    Ok(())
}

/// One storm under kills: all machines are ready in the end, each with the right bytes, and the farm knows of all of them.
fn under_kills(kills: &AtomicU32) -> Result<()> {
    let lab = Lab::start(Wanted { machines: MACHINES, root: ROOT, kernel: KERNEL, max_loading: None })?;
    let over = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        let killer = scope.spawn(|| kill_now_and_then(&lab, kills, &over));
        let outcome = power_on(&lab, MACHINES, BETWEEN * 4);
        over.store(true, Ordering::Release);
        killer.join().unwrap_or_else(|_| anyhow::bail!("the killer panicked"))?;
        outcome
    })?;
    all_ready(&outcome, MACHINES.into(), &lab)?;
    lab.wait_farm()?;
    let (_, text) = lab.ask("farm", "/status")?;
    let ready = text.matches("\"ready\":true").count();
    // One of them is the farm's own.
    ensure!(ready > usize::from(MACHINES), "the farm forgot: {ready} are ready\n{text}");
    Ok(())
}

fn kill_now_and_then(lab: &Lab, kills: &AtomicU32, over: &AtomicBool) -> Result<()> {
    while !over.load(Ordering::Acquire) {
        lab.kill_farm()?;
        kills.fetch_add(1, Ordering::AcqRel);
        lab.wait_farm()?;
        std::thread::sleep(BETWEEN);
    }
    Ok(())
}
