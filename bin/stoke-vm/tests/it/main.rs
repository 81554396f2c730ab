//! `stoke-vm` with a real QEMU: BIOS machines without a disk, whose firmware talks on the serial console.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: the lints' exemption knows test functions only, not what they share"
)]

mod adoption;
mod console;
mod lan;
mod power;
mod tpm;
mod world;
