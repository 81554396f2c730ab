//! The test bed itself.

#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod kubernetes;
