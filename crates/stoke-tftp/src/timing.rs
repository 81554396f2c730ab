//! How long to wait for a client, learnt from how long it took so far.

use std::time::Duration;

/// Wait before anything was measured (RFC 6298, section 2.1).
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Least wait, however short the round trip: the client's machine has other things to do, and so has ours.
const LEAST_WAIT: Duration = Duration::from_millis(10);
/// What the least wait grows to for a client that was asked again too early.
const GREATEST_LEAST: Duration = Duration::from_millis(320);
/// Longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(4);
/// Attempts after which the wait no longer doubles.
const DOUBLINGS: u32 = 6;

/// Round trips of one client: their mean and how far they stray from it (RFC 6298, section 2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoundTrips {
    mean: Option<Duration>,
    strays: Duration,
    least: Duration,
    /// What the client asked for (RFC 2349).
    asked: Option<Duration>,
}

impl RoundTrips {
    pub(crate) fn new() -> Self {
        Self { mean: None, strays: Duration::ZERO, least: LEAST_WAIT, asked: None }
    }

    /// The client wants no answer to be repeated sooner.
    pub(crate) fn ask(&mut self, asked: Duration) {
        self.asked = Some(asked);
    }

    pub(crate) fn asked(&self) -> Option<Duration> {
        self.asked
    }

    pub(crate) fn mean(&self) -> Option<Duration> {
        self.mean
    }

    /// A round trip was measured.
    pub(crate) fn measured(&mut self, sample: Duration) {
        let Some(mean) = self.mean else {
            (self.mean, self.strays) = (Some(sample), sample / 2);
            return;
        };
        self.strays = (self.strays * 3 + mean.abs_diff(sample)) / 4;
        self.mean = Some((mean * 7 + sample) / 8);
    }

    /// An answer came so soon after something was sent again that it was one to the first attempt: it was sent again too
    /// early. A client that writes to flash now and then pauses longer than its mean says.
    pub(crate) fn too_early(&mut self) {
        self.least = (self.least * 2).min(GREATEST_LEAST);
    }

    /// How long to wait for an answer, doubled with each attempt that had none.
    pub(crate) fn wait(&self, attempts: u32) -> Duration {
        let measured = self.mean.map(|mean| (mean + self.strays * 4).max(mean * 2).max(self.least));
        // What a client asks for is a guess of its author, before anything was measured the best there is.
        let first = measured.unwrap_or_else(|| self.asked.unwrap_or(FIRST_WAIT));
        let longest = LONGEST_WAIT.max(self.asked.unwrap_or_default());
        first.saturating_mul(1 << attempts.min(DOUBLINGS)).min(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn the_wait_follows_the_client() {
        let mut trips = RoundTrips::new();
        assert_eq!(trips.wait(0), FIRST_WAIT);
        for _ in 0..40 {
            trips.measured(MILLISECOND);
        }
        assert_eq!(trips.wait(0), LEAST_WAIT);
        assert_eq!(trips.wait(2), LEAST_WAIT * 4);
        for _ in 0..40 {
            trips.measured(MILLISECOND * 100);
        }
        assert!((MILLISECOND * 190..MILLISECOND * 250).contains(&trips.wait(0)), "{:?}", trips.wait(0));
        assert_eq!(trips.wait(40), LONGEST_WAIT);
    }

    #[test]
    fn a_client_that_pauses_is_asked_again_later() {
        let mut trips = RoundTrips::new();
        trips.measured(MILLISECOND);
        for _ in 0..20 {
            trips.too_early();
        }
        assert_eq!(trips.wait(0), GREATEST_LEAST);
    }

    #[test]
    fn the_clients_wish_counts_until_it_is_measured() {
        let mut trips = RoundTrips::new();
        trips.ask(Duration::from_secs(6));
        assert_eq!((trips.wait(0), trips.wait(3)), (Duration::from_secs(6), Duration::from_secs(6)));
        trips.measured(MILLISECOND);
        assert_eq!(trips.wait(0), LEAST_WAIT);
    }
}
