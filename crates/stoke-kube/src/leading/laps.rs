//! How long the parts of a round take: a line of the log (`debug`), by which slow rounds explain themselves.

use std::fmt;
use std::time::{Duration, Instant};

/// A clock that was read after each part.
pub(super) struct Laps {
    since: Instant,
    parts: Vec<(&'static str, Duration)>,
}

impl Laps {
    pub(super) fn begin() -> Self {
        Self { since: Instant::now(), parts: Vec::new() }
    }

    /// A part has ended.
    pub(super) fn end(&mut self, part: &'static str) {
        let now = Instant::now();
        self.parts.push((part, now - self.since));
        self.since = now;
    }
}

impl fmt::Display for Laps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Duration = self.parts.iter().map(|(_, took)| *took).sum();
        write!(f, "{} ms:", all.as_millis())?;
        self.parts.iter().try_for_each(|(part, took)| write!(f, " {part} {}", took.as_millis()))
    }
}
