//! The server as a process, with real clients: libnbd's, QEMU's, and some that behave badly.

#![cfg(test)]

mod bed;
mod clients;
mod memory;
mod tls;
