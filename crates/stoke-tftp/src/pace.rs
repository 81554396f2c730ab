//! How many blocks of a window leave at once.
//!
//! A window that always loses its end is longer than the client's receive ring or a switch's queue: its blocks then leave in
//! bursts with gaps between them, so that a window takes about one round trip more. One that loses a block now and then is on
//! a wire that loses, where slower is only slower; so two silent windows have to come close together before anything changes.

use std::time::Duration;

/// What a silent window counts for; a clean one takes 1 back.
const SILENCE: u32 = 8;
/// Gaps between bursts, at least and at most.
const GAPS: [Duration; 2] = [Duration::from_micros(200), Duration::from_millis(20)];

/// The pace of one transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    window: u16,
    burst: u16,
    /// Blocks that left since the last gap.
    left: u16,
    strikes: u32,
}

impl Pace {
    pub(crate) fn new(window: u16) -> Self {
        Self { window, burst: window, left: 0, strikes: 0 }
    }

    /// A window begins: it may leave a whole burst.
    pub(crate) fn begin(&mut self) {
        self.left = 0;
    }

    /// A block left that was not the last one of its window; the gap that is due, if one is.
    pub(crate) fn block_left(&mut self, round_trip: Option<Duration>) -> Option<Duration> {
        self.left = self.left.saturating_add(1);
        if self.left < self.burst {
            return None;
        }
        self.left = 0;
        let [least, most] = GAPS;
        let share = round_trip.unwrap_or(most) * u32::from(self.burst) / u32::from(self.window.max(1));
        Some(share.clamp(least, most))
    }

    /// Nobody answered a window.
    pub(crate) fn silent(&mut self) {
        self.strikes += SILENCE;
        if self.strikes > SILENCE {
            (self.burst, self.strikes) = ((self.burst / 2).max(1), 0);
        }
    }

    /// A window arrived whole.
    pub(crate) fn clean(&mut self) {
        self.strikes = self.strikes.saturating_sub(1);
        if self.strikes == 0 {
            self.burst = (self.burst + 1).min(self.window);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of the bursts of a window.
    fn bursts(pace: &mut Pace) -> Vec<u16> {
        pace.begin();
        let mut bursts = vec![1];
        for _ in 1..pace.window {
            match pace.block_left(Some(Duration::from_millis(4))) {
                Some(_) => bursts.push(1),
                None => *bursts.last_mut().unwrap() += 1,
            }
        }
        bursts
    }

    #[test]
    fn one_silent_window_changes_nothing() {
        let mut pace = Pace::new(64);
        for _ in 0..20 {
            pace.silent();
            (0..8).for_each(|_| pace.clean());
            assert_eq!(bursts(&mut pace), [64]);
        }
    }

    #[test]
    fn windows_that_lose_their_end_are_spread_and_come_back_slowly() {
        let mut pace = Pace::new(64);
        (0..4).for_each(|_| pace.silent());
        assert_eq!(bursts(&mut pace), [16, 16, 16, 16]);
        (0..16).for_each(|_| pace.clean());
        assert_eq!(bursts(&mut pace), [32, 32]);
        (0..100).for_each(|_| pace.clean());
        assert_eq!(bursts(&mut pace), [64]);
    }

    #[test]
    fn a_gap_is_the_bursts_share_of_the_round_trip() {
        let mut pace = Pace::new(8);
        (0..2).for_each(|_| pace.silent());
        let gap = (0..4).filter_map(|_| pace.block_left(Some(Duration::from_millis(8)))).collect::<Vec<_>>();
        assert_eq!(gap, [Duration::from_millis(4)]);
    }
}
