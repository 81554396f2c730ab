//! A container of liblxc, started in a child of the calling process.
//!
//! liblxc's `start` blocks for the container's life, and changes signals, folder and environment of the process that calls
//! it. So it gets a child of its own: the *monitor*. The caller may kill the monitor as soon as the container's first process
//! no longer asks to die with it.

use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::{BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::{io, ptr};

use rustix::process::Pid;

use crate::library::{Library, LibraryError};

/// What the monitor exits with if liblxc did not start the container.
const FAILED: c_int = 1;

/// The beginning of `struct lxc_container` (liblxc's `lxccontainer.h`). Members are only ever appended to it.
#[repr(C)]
struct Object {
    name: *mut c_char,
    configfile: *mut c_char,
    pidfile: *mut c_char,
    slock: *mut c_void,
    privlock: *mut c_void,
    numthreads: c_int,
    lxc_conf: *mut c_void,
    error_string: *mut c_char,
    error_num: c_int,
    daemonize: bool,
    config_path: *mut c_char,
    unused: [*mut c_void; 7],
    start: Option<unsafe extern "C" fn(*mut Object, c_int, *const *const c_char) -> bool>,
    startl: *mut c_void,
    stop: *mut c_void,
    want_daemonize: Option<unsafe extern "C" fn(*mut Object, bool) -> bool>,
    want_close_all_fds: Option<unsafe extern "C" fn(*mut Object, bool) -> bool>,
    config_file_name: *mut c_void,
    wait: *mut c_void,
    set_config_item: Option<unsafe extern "C" fn(*mut Object, *const c_char, *const c_char) -> bool>,
}

/// `struct lxc_log`.
#[repr(C)]
struct Log {
    name: *const c_char,
    path: *const c_char,
    file: *const c_char,
    level: *const c_char,
    prefix: *const c_char,
    quiet: bool,
}

/// Which container, and how.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// A folder of ours: with the name it makes the address of the container's command socket.
    pub folder: PathBuf,
    /// Keys and values of its configuration.
    pub items: Vec<(String, String)>,
    /// Where liblxc writes its log.
    pub log: PathBuf,
    /// From which level on: `ERROR`, `WARN`, `INFO`, `DEBUG`, `TRACE`.
    pub log_level: String,
}

/// Ways into the cgroups of the container: the monitor goes there itself, and all that it starts is born there.
#[derive(Debug, Default)]
pub struct Entrance<'a> {
    /// Files `tasks` of version 1, open for writing. A thread that moves itself alone does not wait for a grace period of RCU,
    /// unlike a process that is moved (Linux' `cgroup_procs_write_start`).
    pub tasks: Vec<BorrowedFd<'a>>,
    /// The folder in the hierarchy of version 2, where a process can be born.
    pub unified: Option<BorrowedFd<'a>>,
}

/// The definition as C strings, made before the fork.
struct Prepared {
    name: CString,
    folder: CString,
    items: Vec<(CString, CString)>,
    log: CString,
    log_level: CString,
}

/// Version of liblxc.
///
/// # Errors
/// Without liblxc.
pub fn version() -> Result<String, LibraryError> {
    let address = library()?.function(c"lxc_get_version")?;
    // JUSTIFICATION: the loader knows addresses, not types.
    // SAFETY: the symbol has this type in `lxccontainer.h`.
    let function = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn() -> *const c_char>(address.as_ptr()) };
    // JUSTIFICATION: liblxc is a C library.
    // SAFETY: it answers a constant C string.
    Ok(unsafe { std::ffi::CStr::from_ptr(function()) }.to_string_lossy().into_owned())
}

/// Starts the container in a new child of this process, which must have a single thread, and answers the child: the monitor.
/// It dies with this process. The descriptors are still open in the container's first process.
///
/// # Errors
/// If a text contains a null byte, the process has several threads, or it cannot fork. That liblxc fails is seen by the
/// monitor's end, and said in the log.
pub fn start(definition: &Definition, inherited: &[BorrowedFd<'_>], entrance: &Entrance<'_>) -> io::Result<Pid> {
    let prepared = prepare(definition)?;
    let inherited: Vec<RawFd> = inherited.iter().map(std::os::fd::AsRawFd::as_raw_fd).collect();
    let parent = rustix::process::getpid();
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process with several threads cannot start a container"));
    }
    match fork_into(entrance.unified)? {
        0 => {
            let code = monitor(&prepared, &inherited, parent, entrance);
            // JUSTIFICATION: the child must not run what its parent would run at exit.
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) }
        }
        child => Pid::from_raw(child).ok_or_else(io::Error::last_os_error),
    }
}

/// The beginning of `struct clone_args` (Linux' `include/uapi/linux/sched.h`), up to version 2 of it.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks; the child is born in a cgroup of version 2, if there is one. Gives 0 in the child.
fn fork_into(unified: Option<BorrowedFd<'_>>) -> io::Result<i32> {
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    let Some(unified) = unified else {
        // JUSTIFICATION: executing a second program only to call one function would cost a millisecond of each start.
        // SAFETY: there is one thread, as the caller has checked, so that the child lacks no thread that holds a lock.
        let child = unsafe { libc::fork() };
        return if child < 0 { Err(io::Error::last_os_error()) } else { Ok(child) };
    };
    let cgroup = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&unified)).unwrap_or_default();
    let exit_signal = u64::try_from(libc::SIGCHLD).unwrap_or_default();
    let arguments = CloneArguments { flags: INTO_CGROUP, exit_signal, cgroup, ..CloneArguments::default() };
    // JUSTIFICATION: fork(2) cannot say in which cgroup.
    // SAFETY: without a stack it is a fork, as above; the kernel reads as many bytes as the structure has. What the C library
    // does at a fork beyond it is for other threads. liblxc makes its own children in this way too.
    let child = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>()) };
    if child < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(child).map_err(io::Error::other) }
}

/// Goes into the cgroups of version 1, and hides all from liblxc, which would make others and go there.
fn enter(entrance: &Entrance<'_>) -> io::Result<()> {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    for tasks in &entrance.tasks {
        rustix::io::write(tasks, b"0")?;
    }
    // JUSTIFICATION: rustix marks the call unsafe because of `CLONE_FILES`, which hides descriptors from other threads.
    // SAFETY: the flag is another one.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    match mount("none", "/sys/fs/cgroup", "tmpfs", MountFlags::RDONLY, None) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

fn prepare(definition: &Definition) -> io::Result<Prepared> {
    let text = |text: &str| CString::new(text).map_err(io::Error::from);
    let path = |path: &Path| text(&path.display().to_string());
    let item = |(key, value): &(String, String)| Ok((text(key)?, text(value)?));
    Ok(Prepared {
        name: text(&definition.name)?,
        folder: path(&definition.folder)?,
        items: definition.items.iter().map(item).collect::<io::Result<_>>()?,
        log: path(&definition.log)?,
        log_level: text(&definition.log_level)?,
    })
}

/// All that the child does.
fn monitor(prepared: &Prepared, inherited: &[RawFd], parent: Pid, entrance: &Entrance<'_>) -> c_int {
    let death = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    if death.is_err() || rustix::process::getppid() != Some(parent) {
        return FAILED;
    }
    if silence().is_err() {
        return FAILED;
    }
    for descriptor in inherited {
        // JUSTIFICATION: descriptors are inherited by number.
        // SAFETY: they are open in the parent during the fork; only a flag of theirs changes.
        unsafe { libc::fcntl(*descriptor, libc::F_SETFD, 0) };
    }
    if rustix::process::geteuid().is_root() {
        // liblxc would ask newuidmap, which knows the ranges of ordinary users only; root writes the maps itself.
        // JUSTIFICATION: liblxc looks for the program in the environment's `PATH`.
        // SAFETY: there is one thread.
        unsafe { libc::setenv(c"PATH".as_ptr(), c"/nonexistent".as_ptr(), 1) };
    }
    let entered = enter(entrance).map_err(|error| format!("cannot enter the cgroups: {error}"));
    match entered.and_then(|()| run(prepared)) {
        Ok(()) => 0,
        Err(message) => {
            // The log is where the parent looks.
            let path = Path::new(std::ffi::OsStr::new(prepared.log.to_str().unwrap_or_default()));
            let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
            let _written =
                file.and_then(|mut file| io::Write::write_all(&mut file, format!("lxc ERROR {message}\n").as_bytes()));
            FAILED
        }
    }
}

type New = unsafe extern "C" fn(*const c_char, *const c_char) -> *mut Object;

/// liblxc prints errors, even if it is told not to. What it says is in its log.
fn silence() -> io::Result<()> {
    let nowhere = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    Ok(rustix::stdio::dup2_stderr(nowhere)?)
}

/// Configures and starts; returns when the container has ended.
fn run(prepared: &Prepared) -> Result<(), String> {
    let library = library().map_err(|error| error.to_string())?;
    open_log(library, prepared).map_err(|error| error.to_string())?;
    let address = library.function(c"lxc_container_new").map_err(|error| error.to_string())?;
    // JUSTIFICATION: the loader knows addresses, not types.
    // SAFETY: the symbol has this type in `lxccontainer.h`.
    let new = unsafe { std::mem::transmute::<*mut c_void, New>(address.as_ptr()) };
    // JUSTIFICATION: liblxc is a C library.
    // SAFETY: two C strings, which it copies.
    let object = unsafe { new(prepared.name.as_ptr(), prepared.folder.as_ptr()) };
    // JUSTIFICATION: liblxc is a C library.
    // SAFETY: null, or an object whose members are as `Object` says; nobody else has it.
    let members = unsafe { object.as_ref() }.ok_or("lxc_container_new failed")?;
    let (Some(set), Some(start), Some(daemonize), Some(close)) =
        (members.set_config_item, members.start, members.want_daemonize, members.want_close_all_fds)
    else {
        return Err("liblxc lacks functions".to_owned());
    };
    for (key, value) in &prepared.items {
        // JUSTIFICATION: liblxc is a C library.
        // SAFETY: the object is alive, and both are C strings, which it copies.
        if !unsafe { set(object, key.as_ptr(), value.as_ptr()) } {
            return Err(format!("liblxc refuses {} = {}", key.to_string_lossy(), value.to_string_lossy()));
        }
    }
    // JUSTIFICATION: liblxc is a C library.
    // SAFETY: the object is alive.
    unsafe { daemonize(object, false) };
    // JUSTIFICATION: liblxc is a C library.
    // SAFETY: the object is alive.
    unsafe { close(object, false) };
    // JUSTIFICATION: liblxc is a C library.
    // SAFETY: the object is alive; without arguments it executes what `lxc.init.cmd` says.
    let started = unsafe { start(object, 0, ptr::null()) };
    if started { Ok(()) } else { Err("the container did not start".to_owned()) }
}

fn open_log(library: Library, prepared: &Prepared) -> Result<(), LibraryError> {
    let address = library.function(c"lxc_log_init")?;
    // JUSTIFICATION: the loader knows addresses, not types.
    // SAFETY: the symbol has this type in `lxccontainer.h`.
    let init =
        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const Log) -> c_int>(address.as_ptr()) };
    let log = Log {
        name: prepared.name.as_ptr(),
        path: ptr::null(),
        file: prepared.log.as_ptr(),
        level: prepared.log_level.as_ptr(),
        prefix: c"lxc".as_ptr(),
        quiet: true,
    };
    // JUSTIFICATION: liblxc is a C library.
    // SAFETY: it copies the strings. That the file cannot be opened is no reason to have no container.
    unsafe { init(&raw const log) };
    Ok(())
}

fn library() -> Result<Library, LibraryError> {
    Library::open("liblxc.so.1", "liblxc1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_is_laid_out_as_the_headers() {
        // Ten members before the first function, then one pointer each.
        assert_eq!(std::mem::offset_of!(Object, unused), 80);
        assert_eq!(std::mem::offset_of!(Object, start), 80 + 7 * 8);
        assert_eq!(std::mem::offset_of!(Object, set_config_item), 80 + 14 * 8);
    }

    #[test]
    fn the_version_is_known() {
        assert!(version().unwrap().starts_with(|digit: char| digit.is_ascii_digit()));
    }
}
