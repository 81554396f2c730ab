//! Connections that wait for a request: when the house is full, the one that waited longest leaves, so that whoever keeps
//! connections open without a word keeps nobody out.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Those who wait, by the time they came.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    all: BTreeMap<u64, CancellationToken>,
}

/// One who waits, until this is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    crowd: &'a Crowd,
    number: u64,
    leave: CancellationToken,
}

impl Crowd {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait.
    pub(crate) fn enter(&self) -> Place<'_> {
        let leave = CancellationToken::new();
        let mut waiting = self.waiting();
        let number = waiting.next;
        waiting.next += 1;
        waiting.all.insert(number, leave.clone());
        Place { crowd: self, number, leave }
    }

    /// Asks the one that waited longest to leave. Returns whether there was one.
    pub(crate) fn make_room(&self) -> bool {
        let longest = self.waiting().all.pop_first();
        longest.is_some_and(|(_, leave)| {
            leave.cancel();
            true
        })
    }
}

impl Place<'_> {
    /// Ends when this one is asked to leave.
    pub(crate) async fn asked_to_leave(&self) {
        self.leave.cancelled().await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.crowd.waiting().all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waited_longest_leaves_and_nobody_twice() {
        let crowd = Crowd::default();
        let (first, second) = (crowd.enter(), crowd.enter());
        drop(crowd.enter());
        assert!(crowd.make_room());
        assert!(first.leave.is_cancelled() && !second.leave.is_cancelled());
        assert!(crowd.make_room() && second.leave.is_cancelled());
        assert!(!crowd.make_room());
        drop(first);
        drop(second);
        assert!(crowd.waiting().all.is_empty());
    }
}
