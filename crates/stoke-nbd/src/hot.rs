//! Which parts of an image boots read, and in which order: recorded once, fetched ahead ever after.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// What is recorded is in whole blocks of so many bytes: reads of one file lie close to each other.
pub const BLOCK: u64 = 64 << 10;
/// Ranges that are kept at most.
pub const RANGES: usize = 2048;
/// Longest range: what is read ahead at once.
const LONGEST: u32 = 4 << 20;

/// A part of an image: offset and length in bytes.
pub type Range = (u64, u32);

/// Records reads while it is told to.
#[derive(Debug, Default)]
pub struct Recorder {
    active: AtomicBool,
    recording: Mutex<Recording>,
}

/// What was read so far.
#[derive(Debug, Default)]
struct Recording {
    /// Blocks that are in `ranges`, a bit each.
    seen: Vec<u64>,
    ranges: Vec<Range>,
}

impl Recorder {
    /// Begins, or goes on.
    pub fn start(&self) {
        self.active.store(true, Ordering::Relaxed);
    }

    /// Takes note of a read, if it records.
    pub fn note(&self, offset: u64, length: u32) {
        if self.active.load(Ordering::Relaxed) {
            self.recording.lock().unwrap_or_else(PoisonError::into_inner).note(offset, length);
        }
    }

    /// Ends; what was read, in the order of the first reads. `None` if it did not record.
    pub fn finish(&self) -> Option<Vec<Range>> {
        if !self.active.swap(false, Ordering::Relaxed) {
            return None;
        }
        let mut recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut *recording).ranges)
    }
}

impl Recording {
    fn note(&mut self, offset: u64, length: u32) {
        let end = offset.saturating_add(length.into());
        for block in offset / BLOCK..end.div_ceil(BLOCK) {
            if self.ranges.len() < RANGES && self.mark(block) {
                self.append(block * BLOCK);
            }
        }
    }

    /// Whether the block was not there yet.
    fn mark(&mut self, block: u64) -> bool {
        let Ok(word) = usize::try_from(block / 64) else { return false };
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        let Some(bits) = self.seen.get_mut(word) else { return false };
        let bit = 1 << (block % 64);
        let new = *bits & bit == 0;
        *bits |= bit;
        new
    }

    fn append(&mut self, begin: u64) {
        let block = u32::try_from(BLOCK).unwrap_or(u32::MAX);
        match self.ranges.last_mut() {
            Some((offset, length)) if *offset + u64::from(*length) == begin && *length < LONGEST => *length += block,
            _ => self.ranges.push((begin, block)),
        }
    }
}

/// Ranges cut so that none goes beyond the end of an image of this size; those that lie beyond it are left out.
pub fn within(ranges: &[Range], size: u64) -> Vec<Range> {
    let cut = |&(offset, length): &Range| {
        let length = u64::from(length).min(size.checked_sub(offset)?);
        Some((offset, u32::try_from(length).ok()?)).filter(|(_, length)| *length > 0)
    };
    ranges.iter().filter_map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: u32 = 64 << 10;

    #[test]
    fn the_order_is_that_of_the_first_reads_and_neighbours_are_one() {
        let recorder = Recorder::default();
        recorder.note(0, 4096);
        assert_eq!(recorder.finish(), None, "it was not told to record");
        recorder.start();
        for offset in [10 * BLOCK, 11 * BLOCK + 4096, 0, 10 * BLOCK, BLOCK] {
            recorder.note(offset, 4096);
        }
        assert_eq!(recorder.finish(), Some(vec![(10 * BLOCK, 2 * ONE), (0, 2 * ONE)]));
        assert_eq!(recorder.finish(), None);
    }

    #[test]
    fn a_client_that_reads_everywhere_costs_bounded_memory() {
        let recorder = Recorder::default();
        recorder.start();
        for block in 0..100_000 {
            recorder.note(block * 2 * BLOCK, 1);
        }
        assert_eq!(recorder.finish().unwrap().len(), RANGES);
    }

    #[test]
    fn nothing_is_fetched_beyond_the_end() {
        assert_eq!(within(&[(0, ONE), (BLOCK, ONE), (4 * BLOCK, ONE)], BLOCK + 5), [(0, ONE), (BLOCK, 5)]);
    }

    proptest! {
        #[test]
        fn every_byte_that_was_read_is_in_a_range_and_none_is_in_two(
            reads in proptest::collection::vec((0_u64..64 * BLOCK, 0_u32..300_000), 0..40),
        ) {
            let recorder = Recorder::default();
            recorder.start();
            for (offset, length) in &reads {
                recorder.note(*offset, *length);
            }
            let ranges = recorder.finish().unwrap();
            let holding = |at: u64| ranges.iter().filter(|(begin, length)| (*begin..*begin + u64::from(*length)).contains(&at)).count();
            for (offset, length) in reads {
                for at in [offset, offset + u64::from(length) / 2, offset + u64::from(length.max(1)) - 1] {
                    prop_assert_eq!(length == 0 || holding(at) == 1, true);
                }
            }
        }
    }
}
