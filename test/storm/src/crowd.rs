//! Many machines at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::machine::{Booted, Resident, STEPS, Shared, boot, numbered};

/// How often a machine that runs tells the farm that it does.
const ALIVE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);
const STACK: usize = 256 << 10;

/// What became of all of them.
#[derive(Default)]
pub struct Outcome {
    /// Those that are ready, with the time from power-on.
    pub booted: Vec<(Duration, Booted)>,
    /// Why others are not.
    pub failures: Vec<String>,
    /// From the first power-on to the last ready.
    pub took: Duration,
}

/// Powers machines on, all at once but for `spread`, and waits for all of them.
///
/// # Errors
/// If a thread cannot be started.
pub fn power_on(lab: &Shared, count: u16, spread: Duration) -> Result<Outcome> {
    let (begin, over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let running: Arc<Mutex<Vec<Arc<Resident>>>> = Arc::default();
    let keeper = keep_alive(lab, &running, &over)?;
    let mut threads = Vec::new();
    for number in 0..count {
        let (lab, begin_at) = (Arc::clone(lab), begin + spread * u32::from(number) / u32::from(count.max(1)));
        let running = Arc::clone(&running);
        let start = move || {
            std::thread::sleep(begin_at.saturating_duration_since(Instant::now()));
            let since = Instant::now();
            let booted = boot(&lab, numbered(number))?;
            let took = since.elapsed();
            running.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&booted.resident));
            Ok::<_, anyhow::Error>((took, booted))
        };
        threads.push((number, std::thread::Builder::new().stack_size(STACK).spawn(start)?));
    }
    let mut outcome = Outcome::default();
    for (number, thread) in threads {
        match thread.join() {
            Ok(Ok(booted)) => outcome.booted.push(booted),
            Ok(Err(error)) => outcome.failures.push(format!("machine {number}: {error:#}")),
            Err(_) => outcome.failures.push(format!("machine {number} panicked")),
        }
    }
    outcome.took = begin.elapsed();
    over.store(true, Ordering::Release);
    // Nothing that it does can fail.
    let _ = keeper.join();
    Ok(outcome)
}

/// A thread in which machines that run say so now and then, for as long as others boot.
fn keep_alive(
    lab: &Shared,
    running: &Arc<Mutex<Vec<Arc<Resident>>>>,
    over: &Arc<AtomicBool>,
) -> Result<std::thread::JoinHandle<()>> {
    let (lab, running, over) = (Arc::clone(lab), Arc::clone(running), Arc::clone(over));
    let work = move || {
        let mut told = Instant::now();
        while !over.load(Ordering::Acquire) {
            std::thread::sleep(LOOK);
            if told.elapsed() < ALIVE {
                continue;
            }
            told = Instant::now();
            let all = running.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for resident in all {
                // Who cannot be told now is told next time.
                let _ = resident.report(&lab);
            }
        }
    };
    Ok(std::thread::Builder::new().spawn(work)?)
}

impl Outcome {
    /// How long each step took in seconds, at this part of all machines: 0.5 is the middle, 0.99 all but one in a hundred.
    pub fn steps(&self, part: f64) -> Vec<(&'static str, f64)> {
        let of = |(index, name): (usize, &&'static str)| {
            let times = self.booted.iter().filter_map(|(_, booted)| booted.steps.get(index));
            (*name, quantile(times.copied().collect(), part))
        };
        STEPS.iter().enumerate().map(of).collect()
    }

    /// From power-on to ready in seconds, at this part of all machines.
    pub fn ready(&self, part: f64) -> f64 {
        quantile(self.booted.iter().map(|(took, _)| *took).collect(), part)
    }

    /// Machines that the farm itself gave the root to, and bytes of it that came from a farm.
    pub fn from_farm(&self, is_farm: impl Fn(&str) -> bool) -> (usize, u64) {
        let direct = self.booted.iter().filter(|(_, booted)| booted.direct).count();
        let given = self.booted.iter().flat_map(|(_, booted)| &booted.given);
        (direct, given.filter(|(url, _)| is_farm(url)).map(|(_, bytes)| bytes).sum())
    }
}

fn quantile(mut times: Vec<Duration>, part: f64) -> f64 {
    times.sort();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a thousand or so"
    )]
    let index = ((times.len() as f64 * part).ceil() as usize).saturating_sub(1);
    times.get(index).map(Duration::as_secs_f64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_those_that_there_are() {
        let times: Vec<_> = (1..=100).rev().map(Duration::from_secs).collect();
        assert!((quantile(times.clone(), 0.5) - 50.0).abs() < 1e-9);
        assert!((quantile(times, 0.99) - 99.0).abs() < 1e-9);
        assert!(quantile(Vec::new(), 0.5).abs() < 1e-9);
    }
}
