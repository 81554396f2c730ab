//! The last program of a node: gives the root back when the system is down, so that nobody's data are lost and no server of
//! the root waits for a reader that is gone.
//!
//! systemd ends with what is in `/run/initramfs`, if it finds a program `shutdown` there: it makes that folder the root, the
//! system's root being at `/oldroot`, and starts it as PID 1 with one word: `poweroff`, `reboot`, `halt` or `kexec`
//! (systemd's docs/INITRD_INTERFACE.md). That program is this one, from a copy in memory.
//!
//! Each step has a limit, and so have all of them together: a node whose root does not answer goes down all the same.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use rustix::system::{RebootCommand, reboot};
use stoke_sys::dm::DeviceMapper;

use crate::journal::Journal;
use crate::{disk, layers, ltsp, nbd, verity};

/// Where systemd looks for it, in the new root.
const FOLDER: &str = "run/initramfs";
const PROGRAM: &str = "shutdown";
/// Our own program in the initramfs.
const OWN_PROGRAM: &str = "/init";
/// How long all of it may take, and each step that waits.
const ALL: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// Puts the program where systemd will find it.
pub(crate) fn prepare() -> Result<()> {
    let folder = Path::new(layers::NEW_ROOT).join(FOLDER);
    for name in ["dev", "proc", "sys", "run", "oldroot"] {
        fs::create_dir_all(folder.join(name))
            .with_context(|| format!("could not make a folder in {}", folder.display()))?;
    }
    // Its rights are copied along.
    fs::copy(OWN_PROGRAM, folder.join(PROGRAM)).context("could not keep the last program")?;
    Ok(())
}

/// Whether this process was started as that program.
pub(crate) fn is_called(program: Option<&str>) -> bool {
    program == Some("/shutdown")
}

/// Gives everything back and ends the machine.
pub(crate) fn run(verb: Option<&str>) -> ! {
    let command = command(verb.unwrap_or_default());
    std::thread::spawn(move || {
        std::thread::sleep(ALL);
        end(command);
    });
    let journal = Journal::on_console();
    end_processes();
    let left = unmount_all();
    if left.is_empty() {
        journal.say("the root is unmounted");
    } else {
        let names: Vec<_> = left.iter().map(|place| place.display().to_string()).collect();
        journal.say(&format!("still in use, and read-only from now on: {}", names.join(" ")));
    }
    rustix::fs::sync();
    ltsp::take_apart();
    detach();
    end(command)
}

fn command(verb: &str) -> RebootCommand {
    match verb {
        "poweroff" => RebootCommand::PowerOff,
        "halt" => RebootCommand::Halt,
        "kexec" => RebootCommand::Kexec,
        _ => RebootCommand::Restart,
    }
}

/// Does not return. A kernel that has nothing to jump to starts from the firmware.
fn end(command: RebootCommand) -> ! {
    loop {
        rustix::fs::sync();
        let _ = reboot(command);
        let _ = reboot(RebootCommand::Restart);
        std::thread::sleep(PAUSE);
    }
}

/// systemd has ended all processes but the resident.
fn end_processes() {
    let until = Instant::now() + STEP;
    while Instant::now() < until {
        let others: Vec<_> = processes().collect();
        if others.is_empty() {
            return;
        }
        for process in others {
            let _ = kill_process(process, Signal::KILL);
        }
        // Children of nobody are ours.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        std::thread::sleep(PAUSE);
    }
}

/// All processes but this one and the kernel's own, which have no program.
fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let with_program = numbers.filter(|number| *number != 1 && fs::read_link(format!("/proc/{number}/exe")).is_ok());
    with_program.filter_map(Pid::from_raw)
}

/// Unmounts the system's root and all else, the last mounted first. Returns what could not be unmounted, read-only now.
fn unmount_all() -> Vec<PathBuf> {
    let until = Instant::now() + STEP;
    let mounted = || to_unmount(&fs::read("/proc/self/mountinfo").unwrap_or_default());
    loop {
        for place in mounted() {
            let _ = unmount(place, UnmountFlags::empty());
        }
        let left = mounted();
        if left.is_empty() || Instant::now() > until {
            for place in &left {
                let _ = mount_remount(place, MountFlags::RDONLY, "");
                let _ = unmount(place, UnmountFlags::DETACH);
            }
            return left;
        }
        std::thread::sleep(PAUSE);
    }
}

/// All mount points but our own root's and those of the kernel's file systems, the last mounted first (proc(5),
/// `/proc/pid/mountinfo`). Parts of the root may be seen in other places, too.
fn to_unmount(mountinfo: &[u8]) -> Vec<PathBuf> {
    let place = |line: &[u8]| Some(unescaped(line.split(|byte| *byte == b' ').nth(4)?));
    let mut places: Vec<_> = mountinfo.split(|byte| *byte == b'\n').filter_map(place).collect();
    let kernels = |place: &Path| ["/dev", "/proc", "/sys"].iter().any(|folder| place.starts_with(folder));
    places.retain(|place| !kernels(place) && place != Path::new("/") && place != Path::new("/run"));
    places.reverse();
    places
}

/// Blanks and the like are written as `\040`.
fn unescaped(text: &[u8]) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        if let Some(code) = code.filter(|_| *first == b'\\') {
            bytes.push(code);
            rest = after.get(3..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Removes the mappings and disconnects the root's device: its server hears of it.
fn detach() {
    let until = Instant::now() + STEP;
    while verity::close().is_err() && DeviceMapper::open().is_ok_and(|mapper| mapper.status(verity::NAME).is_ok()) {
        if Instant::now() > until {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    disk::unmap();
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    // A device that is connected says which process did that (Linux' drivers/block/nbd.c).
    let connected = entries.filter(|entry| entry.path().join("pid").exists());
    for index in connected.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("nbd")?.parse().ok()) {
        let _ = nbd::detach(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &[u8] = b"21 1 0:5 / / rw - tmpfs tmpfs rw\n22 21 0:20 / /oldroot rw - overlay overlay rw\n\
        23 22 0:21 / /oldroot/proc rw - proc proc rw\n24 22 8:1 / /oldroot/srv/a\\040b rw - ext4 /dev/vda rw\n\
        25 21 0:21 / /proc rw - proc proc rw\n26 21 0:22 / /run rw - tmpfs tmpfs rw\n27 21 0:23 / /rofs ro - squashfs x ro\n";

    #[test]
    fn what_was_mounted_last_goes_first_and_names_have_blanks() {
        let places = to_unmount(MOUNTINFO);
        let places: Vec<_> = places.iter().map(|place| place.to_str().unwrap()).collect();
        assert_eq!(places, ["/rofs", "/oldroot/srv/a b", "/oldroot/proc", "/oldroot"]);
    }

    #[test]
    fn a_backslash_that_means_nothing_stays() {
        assert_eq!(unescaped(b"a\\b\\01"), Path::new("a\\b\\01"));
        assert_eq!(unescaped(b"\\134"), Path::new("\\"));
    }

    #[test]
    fn a_word_that_nobody_knows_reboots() {
        assert_eq!(command("poweroff"), RebootCommand::PowerOff);
        assert_eq!(command("soft-reboot"), RebootCommand::Restart);
    }
}
