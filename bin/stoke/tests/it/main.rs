//! The program `stoke`, run as people run it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends where it cannot go on")]

mod bmc;
mod cli;
mod cluster;
mod console;
mod export;
mod images;
mod installation;
#[cfg(test)]
mod registry;
mod stoke;
