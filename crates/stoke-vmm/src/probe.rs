//! Whether `/dev/kvm` runs a stock guest: found out by running one for some microseconds.
//!
//! There are hosts where `/dev/kvm` opens, reports every capability and makes machines that never get anywhere: a guest
//! that does not know the host's paravirtualisation is then run by KVM's instruction emulator, a thousand times too
//! slow and without SSE. So neither the device's existence nor its answers decide, but a guest: one SSE instruction
//! (which the emulator does not know) and 20 000 rounds of a loop (which it needs tens of milliseconds for), then `out`.
//!
//! The guest runs in a thread of its own: [`probe`] answers within [`DEADLINE`] whatever the kernel does. The loop is
//! bounded, so a thread that is given up ends soon after.

use std::fmt;
use std::sync::mpsc;
use std::time::Duration;

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Kvm, VcpuExit};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use stoke_sys::kvm::TinyGuest;

/// The longest time until there is a verdict.
pub const DEADLINE: Duration = Duration::from_millis(90);

/// Processor time that the loop may take. Hardware needs 10 to 50 µs, the emulator 40 ms and more.
const LOOP_LIMIT: Duration = Duration::from_millis(15);

/// The only version of the API there ever was; the kernel's documentation tells to refuse others.
const API_VERSION: i32 = 12;

/// The port that the guest writes to when it is through.
const DONE_PORT: u16 = 0xf4;

/// Why KVM cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reason", content = "detail")]
pub enum Unusable {
    /// There is no device.
    NoDevice,
    /// The device may not be opened.
    NoPermission,
    /// The device speaks another version.
    Api(i32),
    /// It cannot make a machine.
    CreateFailed(String),
    /// It makes machines and cannot run them.
    FailEntry(u64),
    /// It runs them by emulation.
    Emulated(String),
    /// No verdict in time.
    Deadline,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice => {
                f.write_str("/dev/kvm does not exist: no virtualisation, or the kvm module is not loaded")
            }
            Self::NoPermission => f.write_str("/dev/kvm may not be opened: join the group kvm"),
            Self::Api(version) => write!(f, "/dev/kvm speaks version {version} instead of {API_VERSION}"),
            Self::CreateFailed(why) => write!(f, "/dev/kvm cannot make a machine: {why}"),
            Self::FailEntry(code) => write!(f, "/dev/kvm cannot enter a guest (hardware reason {code:#x})"),
            Self::Emulated(what) => write!(f, "/dev/kvm opens but emulates instructions ({what}): a guest would crawl"),
            Self::Deadline => write!(f, "/dev/kvm gave no answer within {} ms", DEADLINE.as_millis()),
        }
    }
}

/// Whether KVM can be used: `Ok` if so.
pub type Verdict = Result<(), Unusable>;

/// Finds out. Never takes longer than [`DEADLINE`].
///
/// # Errors
/// With the reason, if KVM cannot be used.
pub fn probe() -> Verdict {
    let (answer, answered) = mpsc::channel();
    let started = std::thread::Builder::new().name("kvm-probe".to_owned()).spawn(move || {
        // Nobody listens any more after the deadline.
        let _ = answer.send(verdict());
    });
    match started {
        Ok(_) => answered.recv_timeout(DEADLINE).unwrap_or(Err(Unusable::Deadline)),
        Err(error) => Err(Unusable::CreateFailed(error.to_string())),
    }
}

/// One retry of a guest that was slow: the processor may have been throttled in the middle of 50 µs.
fn verdict() -> Verdict {
    match run_once() {
        Err(Unusable::Emulated(what)) if what == SLOW => run_once(),
        verdict => verdict,
    }
}

const SLOW: &str = "a short loop takes milliseconds";

fn run_once() -> Verdict {
    let mut guest = create()?;
    let before = thread_time();
    loop {
        match guest.run() {
            Ok(VcpuExit::IoOut(DONE_PORT, _)) => break,
            Ok(VcpuExit::FailEntry(reason, _)) => return Err(Unusable::FailEntry(reason)),
            Ok(VcpuExit::InternalError) => return Err(Unusable::Emulated("an SSE instruction fails".to_owned())),
            Ok(VcpuExit::Intr) => {}
            Ok(other) => return Err(Unusable::Emulated(format!("unexpected exit {other:?}"))),
            Err(error) if error.errno() == rustix::io::Errno::INTR.raw_os_error() => {}
            Err(error) => return Err(Unusable::Emulated(format!("running a guest fails: {error}"))),
        }
    }
    let took = thread_time().saturating_sub(before);
    if took > LOOP_LIMIT { Err(Unusable::Emulated(SLOW.to_owned())) } else { Ok(()) }
}

fn create() -> Result<TinyGuest, Unusable> {
    let kvm = Kvm::new().map_err(|error| match rustix::io::Errno::from_raw_os_error(error.errno()) {
        rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => Unusable::NoPermission,
        rustix::io::Errno::NOENT | rustix::io::Errno::NODEV | rustix::io::Errno::NXIO => Unusable::NoDevice,
        _ => Unusable::CreateFailed(format!("opening it fails: {error}")),
    })?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(Unusable::Api(version));
    }
    let failed = |error: kvm_ioctls::Error| Unusable::CreateFailed(error.to_string());
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed)?;
    let mut guest = TinyGuest::new(&kvm, &image()).map_err(|error| Unusable::CreateFailed(error.to_string()))?;
    guest.enter_long_mode(&cpuid, PAGE_TABLES, CODE).map_err(failed)?;
    Ok(guest)
}

const PAGE_TABLES: u64 = 0x1000;
const CODE: u64 = 0x4000;

/// Memory of the guest: three page tables that map the first 2 MiB to themselves (Intel SDM volume 3A, section 4.5),
/// then the program.
fn image() -> Vec<u8> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    let mut image = vec![0; 0x1000];
    for entry in [0x2000 | PRESENT_WRITABLE, 0x3000 | PRESENT_WRITABLE, PRESENT_WRITABLE | LARGE] {
        image.extend(entry.to_le_bytes());
        image.resize(image.len().next_multiple_of(0x1000), 0);
    }
    image.extend([0x0f, 0x57, 0xc0]); // xorps xmm0, xmm0
    image.extend([0xb9, 0x20, 0x4e, 0x00, 0x00]); // mov ecx, 20000
    image.extend([0xff, 0xc9]); // again: dec ecx
    image.extend([0x75, 0xfc]); // jnz again
    image.extend([0xe6, 0xf4]); // out 0xf4, al
    image.push(0xf4); // hlt
    image
}

/// Processor time of this thread: what others use meanwhile does not count.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn there_is_a_verdict_in_time_and_it_is_the_same_again() {
        let before = Instant::now();
        let first = probe();
        assert!(before.elapsed() < Duration::from_millis(100), "{first:?} took {:?}", before.elapsed());
        println!("{first:?} after {:?}", before.elapsed());
        assert_eq!(first, probe());
    }

    #[test]
    fn the_program_is_where_the_guest_starts() {
        let image = image();
        assert_eq!(&image[0x4000..0x4003], [0x0f, 0x57, 0xc0]);
        assert_eq!(&image[0x1000..0x1008], 0x2003_u64.to_le_bytes());
    }

    #[test]
    fn each_reason_says_what_to_do_or_what_is_wrong() {
        assert_eq!(Unusable::NoPermission.to_string(), "/dev/kvm may not be opened: join the group kvm");
        assert!(Unusable::Deadline.to_string().contains("90 ms"));
    }
}
