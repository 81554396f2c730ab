//! Tells the farm of phases while the boot goes on: nobody waits for its answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use stoke_api::node::{Event, Phase, Report};

use crate::farm::{Farm, FarmError};
use crate::journal::Journal;

/// How long what happened waits for what happens next. A boot that goes well is through by then, and the resident tells all of
/// it: so the processor has the root to do meanwhile, not a request for every phase. One that hangs is told that much later.
const GATHER: Duration = Duration::from_millis(1500);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A thread that reports everything that a journal notes.
#[derive(Debug)]
pub(crate) struct Reporter {
    /// Events that the farm has accepted, or will never accept.
    delivered: Arc<AtomicUsize>,
}

impl Reporter {
    /// Starts with what the journal has so far. It ends with the process, or with the session.
    pub(crate) fn start(farm: Farm, session: String, journal: &Journal) -> Self {
        let (events, delivered) = (journal.listen(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&delivered);
        std::thread::spawn(move || deliver(&farm, &session, &events, &count));
        Self { delivered }
    }

    /// Waits until all that the journal has was delivered, at most so long.
    pub(crate) fn flush(&self, journal: &Journal, patience: Duration) {
        let until = Instant::now() + patience;
        let all = journal.events().len();
        while self.delivered.load(Ordering::Acquire) < all && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn deliver(farm: &Farm, session: &str, events: &Receiver<Event>, delivered: &AtomicUsize) {
    while let Ok(first) = events.recv() {
        let batch = gather(first, events, GATHER);
        let count = batch.len();
        let report = Report { session: session.to_owned(), events: batch, ..Report::default() };
        if send(farm, &report, u32::MAX).is_err() {
            return;
        }
        delivered.fetch_add(count, Ordering::AcqRel);
    }
}

/// What comes within this time. A failure ends it: nothing good is about to come.
fn gather(first: Event, events: &Receiver<Event>, time: Duration) -> Vec<Event> {
    let (until, mut batch) = (Instant::now() + time, vec![first]);
    while batch.last().is_none_or(|event| event.phase != Phase::Failed) {
        match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(event) => batch.push(event),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    batch
}

/// Sends until it is accepted, or so many attempts had no answer.
///
/// # Errors
/// If the farm will not accept it, however often it is sent, or does not answer.
pub(crate) fn send(farm: &Farm, report: &Report, attempts: u32) -> Result<(), FarmError> {
    let (mut pause, mut failures) = (FIRST_PAUSE, 0_u32);
    loop {
        match farm.report(report) {
            Ok(()) => return Ok(()),
            Err(error @ (FarmError::SessionOver | FarmError::Unknown(_))) => return Err(error),
            Err(FarmError::Wait { after, .. }) => std::thread::sleep(after),
            Err(error) => {
                failures = failures.saturating_add(1);
                if failures >= attempts {
                    return Err(error);
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn event(phase: Phase) -> Event {
        Event { phase, uptime_ms: 0, detail: String::new() }
    }

    #[test]
    fn events_are_told_together_and_a_failure_at_once() {
        let (sender, receiver) = channel();
        for phase in [Phase::Network, Phase::Failed, Phase::Root] {
            sender.send(event(phase)).unwrap();
        }
        let long = Duration::from_hours(1);
        assert_eq!(gather(event(Phase::Init), &receiver, long).len(), 3);
        assert_eq!(gather(event(Phase::Failed), &receiver, long).len(), 1);
        drop(sender);
        assert_eq!(gather(event(Phase::Init), &receiver, long).len(), 2);
    }
}
