//! The clock: never before the image was built, then the farm's. A board without a battery starts in 1970, where no
//! certificate is valid.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_settime};

/// A difference that is not worth a jump.
const TOLERANCE: Duration = Duration::from_secs(1);

/// Sets the clock to `built_at` if it is before that. Says whether it was.
pub(crate) fn not_before(built_at: u64) -> bool {
    let earliest = Duration::from_secs(built_at);
    now() < earliest && set(earliest)
}

/// Sets the clock to the farm's if they differ. Says whether they did.
pub(crate) fn follow(now_ms: u64) -> bool {
    let farm = Duration::from_millis(now_ms);
    farm.abs_diff(now()) > TOLERANCE && set(farm)
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn set(to: Duration) -> bool {
    let Ok(time) = Timespec::try_from(to) else { return false };
    clock_settime(ClockId::Realtime, time).is_ok()
}
