//! How long reads take, counted without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in microseconds: from the page cache to a disk that has much else to do.
const BOUNDS: [u64; 9] = [50, 100, 250, 1_000, 5_000, 25_000, 100_000, 500_000, 2_500_000];

/// How long reads took, from the request to the last of its data.
#[derive(Debug, Default)]
pub struct Latency {
    /// By bound; behind them, what took longer.
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// What was counted until now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Reads that took at most so many seconds and longer than the bound before, in rising order; the last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// Seconds of all together.
    pub sum: f64,
    /// Number of all.
    pub count: u64,
}

impl Latency {
    pub(crate) fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What was counted until now.
    pub fn observed(&self) -> Observed {
        let bounds = BOUNDS.iter().map(|micros| Duration::from_micros(*micros).as_secs_f64()).chain([f64::MAX]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64();
        Observed { buckets, sum, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_counts_below_the_first_bound_that_it_does_not_exceed() {
        let latency = Latency::default();
        for micros in [0, 50, 51, 2_500_000, 2_500_001] {
            latency.observe(Duration::from_micros(micros));
        }
        let observed = latency.observed();
        let counts: Vec<_> = observed.buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [2, 1, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((observed.count, observed.sum), (5, 5.000_102));
    }
}
