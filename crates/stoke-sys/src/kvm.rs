//! The smallest guest that KVM can run: one processor, a few pages of memory. For finding out whether KVM works.

use std::io;
use std::ptr::{NonNull, null_mut};

use kvm_bindings::{CpuId, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Bytes of memory that a guest has.
pub const MEMORY: usize = 64 * 1024;

/// Where Intel's processors may keep a task state segment of theirs; any place outside of the memory will do.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// A guest. The fields are dropped in their order: the memory goes when nothing can run in it any more.
#[derive(Debug)]
pub struct TinyGuest {
    vcpu: VcpuFd,
    _vm: VmFd,
    _memory: Memory,
}

impl TinyGuest {
    /// Makes a guest whose memory begins with `image`, which is cut off at [`MEMORY`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new(kvm: &Kvm, image: &[u8]) -> io::Result<Self> {
        let memory = Memory::holding(image)?;
        let vm = kvm.create_vm().map_err(system)?;
        vm.set_tss_address(TSS_ADDRESS).map_err(system)?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: memory.0.as_ptr() as u64,
        };
        // JUSTIFICATION: a guest needs memory, and the call hands our mapping to the kernel by address.
        // SAFETY: the mapping has MEMORY bytes, is referenced by nothing in this program, and outlives the VM and its
        // processor, which are private to this struct and dropped before it.
        unsafe { vm.set_user_memory_region(region) }.map_err(system)?;
        let vcpu = vm.create_vcpu(0).map_err(system)?;
        Ok(Self { vcpu, _vm: vm, _memory: memory })
    }

    /// Puts the processor into 64-bit mode with the page tables at `tables`, at the first instruction of `code`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn enter_long_mode(&mut self, cpuid: &CpuId, tables: u64, code: u64) -> Result<(), kvm_ioctls::Error> {
        self.vcpu.set_cpuid2(cpuid)?;
        let mut sregs = self.vcpu.get_sregs()?;
        long_mode(&mut sregs, tables);
        self.vcpu.set_sregs(&sregs)?;
        // Bit 1 is always set (Intel SDM volume 1, section 3.4.3).
        self.vcpu.set_regs(&kvm_regs { rip: code, rflags: 2, ..kvm_regs::default() })
    }

    /// Runs until the guest needs something.
    ///
    /// # Errors
    /// If the kernel cannot run it.
    pub fn run(&mut self) -> Result<VcpuExit<'_>, kvm_ioctls::Error> {
        self.vcpu.run()
    }
}

/// Control registers and segments of 64-bit mode with SSE (Intel SDM volume 3A, sections 2.5 and 3.4.5).
fn long_mode(sregs: &mut kvm_sregs, tables: u64) {
    const PE_MP_ET_NE_WP_AM_PG: u64 = 0x8005_0033;
    const PAE_OSFXSR_OSXMMEXCPT: u64 = (1 << 5) | (1 << 9) | (1 << 10);
    const LME_LMA: u64 = (1 << 8) | (1 << 10);
    sregs.cr0 = PE_MP_ET_NE_WP_AM_PG;
    sregs.cr3 = tables;
    sregs.cr4 = PAE_OSFXSR_OSXMMEXCPT;
    sregs.efer = LME_LMA;
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..kvm_segment::default() };
    sregs.cs = kvm_segment { selector: 8, type_: 0b1011, l: 1, ..flat };
    let data = kvm_segment { selector: 16, type_: 0b0011, db: 1, ..flat };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
}

fn system(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// A private mapping of [`MEMORY`] bytes.
#[derive(Debug)]
struct Memory(NonNull<u8>);

// JUSTIFICATION: a guest is run in a thread of its own.
// SAFETY: the mapping belongs to this struct alone, and a mapping is not bound to a thread.
unsafe impl Send for Memory {}

impl Memory {
    fn holding(image: &[u8]) -> io::Result<Self> {
        // JUSTIFICATION: KVM wants whole pages, which no allocation of the standard library promises.
        // SAFETY: a new anonymous mapping at an address that the kernel chooses overlaps nothing.
        let address =
            unsafe { mmap_anonymous(null_mut(), MEMORY, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }?;
        let memory = Self(NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?);
        let size = image.len().min(MEMORY);
        // JUSTIFICATION: the mapping is reached by its address only.
        // SAFETY: `size` bytes are inside of both, and a new mapping does not overlap `image`.
        unsafe { std::ptr::copy_nonoverlapping(image.as_ptr(), memory.0.as_ptr(), size) };
        Ok(memory)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // JUSTIFICATION: what was mapped must be unmapped.
        // SAFETY: the mapping was made with this address and size, and the guest that used it is gone.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), MEMORY) };
    }
}
