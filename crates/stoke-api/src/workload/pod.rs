//! What a workload finds where in its pod, and what a virtual machine's pod costs beside its guest.
//!
//! The reconcilers write these paths into configurations; whoever makes the pods mounts there what belongs there.

use crate::names::Bytes;

/// State of the pod's own that outlasts a restart of its container: a router's journal of leases, a farm's sessions and host
/// keys, a machine's firmware variables and disks. What else outlasts is for whoever makes the pod to say.
pub const STATE: &str = "/var/lib/stokehold";
/// The store of images, in pods of farms and of builds: the folder `images` of the operator's own state.
pub const IMAGES: &str = "/var/lib/stokehold/images";
/// What only this pod's role may read, from a `Secret`: a farm's `certificate.pem` and `key.pem`.
pub const PRIVATE: &str = "/run/secrets/stokehold";
/// A copy of a LAN's leases, in the pod of its router, which begins with it if it has no journal.
pub const LEASES: &str = "/etc/stokehold-leases";
/// The copy below [`LEASES`].
pub const JOURNAL: &str = "leases.journal";
/// Certificates of a farm's keys for Secure Boot, in pods of machines that trust them.
pub const SECURE_BOOT: &str = "/etc/stokehold-secure-boot";
/// The farm's certificate below [`PRIVATE`].
pub const CERTIFICATE: &str = "certificate.pem";
/// Its key.
pub const KEY: &str = "key.pem";

/// Bytes that a virtual machine's pod needs beside its guest's memory when its host has no KVM: what QEMU translates of the
/// guest's code. QEMU is told that as its bound.
pub const TCG_OVERHEAD: Bytes = Bytes(512 << 20);

/// Bytes that a virtual machine's pod needs beside its guest's memory: requests and limits are the sum.
///
/// - 96 MiB: QEMU without a guest, `stoke-vm`, a TPM's emulator, and what the kernel holds for them;
/// - 8 MiB for each processor: its thread's stack, and what its devices queue;
/// - 1/256 of the memory: page tables of host and hypervisor, each 8 bytes for a page of 4 KiB (Intel SDM volume 3, section
///   4.5), and QEMU's bitmaps of pages that were written.
pub fn vm_overhead(guest: Bytes, cpus: u32) -> Bytes {
    let mebibytes = 96 + 8 * u64::from(cpus) + guest.0.div_ceil(256 << 20);
    Bytes(mebibytes << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_pod_needs_a_little_more_than_its_guest() {
        let mebibytes = |guest: &str, cpus| vm_overhead(guest.parse().unwrap(), cpus).0 >> 20;
        assert_eq!([mebibytes("64Mi", 1), mebibytes("1Gi", 2), mebibytes("64Gi", 16)], [105, 116, 480]);
    }
}
