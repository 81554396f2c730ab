//! The last steps before the process becomes the program that was asked for: user, capabilities, labels, filter.

use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::process::{Gid, Uid};
use rustix::thread::CapabilitySet;
use stoke_sys::attributes;

use super::root::write_at;
use crate::error::{Context as _, Error, Result};
use crate::spec::{Capabilities, Process, Seccomp};
use crate::wire::{Link, Message, Options};

/// Names of capabilities, in the order of their numbers (Linux' `include/uapi/linux/capability.h`).
pub(crate) const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a shell exits with if a program is not there, or cannot be executed.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
/// Where programs are looked for without `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that was found.
#[derive(Debug, Default)]
pub(super) struct Program(PathBuf);

/// A filter that is not loaded yet.
pub(super) struct Filter {
    program: Vec<u8>,
    flags: u64,
}

/// Reads a filter's program.
pub(super) fn filter(program: OwnedFd, seccomp: Option<&Seccomp>) -> Result<Filter> {
    filter_with(program, seccomp.map(crate::seccomp::flags).transpose()?.unwrap_or_default())
}

pub(super) fn filter_with(program: OwnedFd, flags: u64) -> Result<Filter> {
    use std::io::{Read as _, Seek as _};
    let mut file = std::fs::File::from(program);
    let mut program = Vec::new();
    let read = file.rewind().and_then(|()| file.read_to_end(&mut program));
    read.context(|| "cannot read the seccomp filter".to_owned())?;
    Ok(Filter { program, flags })
}

/// Looks for the program as execvp(3) does, with the process's own `PATH`. The messages are those that podman knows.
pub(super) fn find_program(process: &Process) -> Result<Program> {
    let Some(name) = process.args.first() else {
        return Err(Error::field("process.args", "is empty: there is nothing to execute"));
    };
    let failed = |reason: &str, code| Error::Init { message: format!("exec: {name:?}: {reason}"), code };
    if name.contains('/') {
        let path = Path::new(&process.cwd).join(name);
        return match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(failed("no such file or directory", NOT_FOUND))
            }
            Ok(found) if found.is_dir() || found.permissions().mode() & 0o111 == 0 => {
                Err(failed("permission denied", NOT_EXECUTABLE))
            }
            // What root may not see here, the process's user perhaps may.
            Err(_) | Ok(_) => Ok(Program(PathBuf::from(name))),
        };
    }
    let variable = process.env.iter().rev().find_map(|variable| variable.strip_prefix("PATH="));
    let mut is_refused = false;
    for folder in variable.unwrap_or(DEFAULT_PATH).split(':').filter(|folder| !folder.is_empty()) {
        let path = Path::new(&process.cwd).join(folder).join(name);
        match std::fs::metadata(&path) {
            Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => return Ok(Program(path)),
            Ok(_) => is_refused = true,
            Err(_) => {}
        }
    }
    Err(if is_refused {
        failed("permission denied", NOT_EXECUTABLE)
    } else {
        failed("executable file not found in $PATH", NOT_FOUND)
    })
}

/// All that the last steps need.
pub(super) struct Last<'a> {
    pub process: &'a Process,
    pub program: Program,
    pub seccomp: Option<Filter>,
    pub personality: Option<&'a str>,
    pub link: &'a Link,
    pub proc: &'a OwnedFd,
    pub options: &'a Options,
}

impl Last<'_> {
    /// Becomes the program; returns why not.
    pub(super) fn become_it(self) -> Error {
        match self.restrict() {
            Err(error) => error,
            Ok((program, arguments, environment)) => {
                let refused = attributes::execute(&program, &arguments, &environment);
                let message = match refused.raw_os_error() {
                    Some(8) => "exec format error".to_owned(),
                    Some(2) => "no such file or directory".to_owned(),
                    Some(13) => "permission denied".to_owned(),
                    _ => refused.to_string(),
                };
                let code = if refused.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
                Error::Init { message: format!("exec: {}: {message}", program.to_string_lossy()), code }
            }
        }
    }

    fn restrict(&self) -> Result<(CString, Vec<CString>, Vec<CString>)> {
        let process = self.process;
        let environment = environment(process)?;
        let arguments = texts(process.args.iter())?;
        let program = text(self.program.0.as_os_str().as_bytes())?;
        self.personality.map_or(Ok(()), personality)?;
        labels(process, self.proc)?;
        // As root first: the user may not see the folders above. Once more as the user, who must be allowed to be there.
        let _as_root = rustix::process::chdir(process.cwd.as_str());
        // All that a filter could forbid comes before it, but for what has to be the last.
        let preserved = 3 + self.options.preserve_fds;
        attributes::close_on_exec_from(preserved).context(|| "cannot close descriptors".to_owned())?;
        attributes::default_signals().context(|| "cannot reset signals".to_owned())?;
        rustix::process::umask(Mode::from_raw_mode(process.user.umask.unwrap_or(0o022)));
        let new_privileges = !process.no_new_privileges;
        if !new_privileges {
            rustix::thread::set_no_new_privs(true).context(|| "process.noNewPrivileges".to_owned())?;
        } else if let Some(filter) = &self.seccomp {
            // Without the flag only who may administrate can load one, and that may be gone soon.
            self.load(filter)?;
        }
        become_user(process)?;
        let cwd = || format!("process.cwd: cannot change to {}", process.cwd);
        rustix::process::chdir(process.cwd.as_str()).context(cwd)?;
        stay_inside(&process.cwd)?;
        if !new_privileges && let Some(filter) = &self.seccomp {
            self.load(filter)?;
        }
        Ok((program, arguments, environment))
    }

    fn load(&self, filter: &Filter) -> Result<()> {
        let what = || "linux.seccomp: cannot load the filter".to_owned();
        let listener = attributes::load_seccomp(&filter.program, filter.flags).context(what)?;
        if let Some(listener) = listener {
            let sent = self.link.send(&Message::Listener, Some(listener.as_fd()));
            sent.context(|| "linux.seccomp: cannot give the listener away".to_owned())?;
            self.link.expect("the listener was taken")?;
        }
        Ok(())
    }
}

/// The working folder must be in the container: one inherited from outside would lead out of it (CVE-2024-21626).
fn stay_inside(cwd: &str) -> Result<()> {
    let inside = match rustix::process::getcwd(Vec::new()) {
        Ok(path) => path.to_bytes().starts_with(b"/"),
        // A filter may forbid the question.
        Err(error) => error != rustix::io::Errno::NOENT,
    };
    if inside { Ok(()) } else { Err(Error::field("process.cwd", format!("{cwd} is outside of the container"))) }
}

fn text(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::Input("a text of the process contains a null byte".to_owned()))
}

fn texts<'a>(texts: impl Iterator<Item = &'a String>) -> Result<Vec<CString>> {
    texts.map(|value| text(value.as_bytes())).collect()
}

/// The environment: of a variable that is there twice the last holds. `HOME` is the user's, if nothing else is said.
fn environment(process: &Process) -> Result<Vec<CString>> {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let mut variables: Vec<String> = Vec::new();
    for variable in &process.env {
        variables.retain(|other| name(other) != name(variable));
        variables.push(variable.clone());
    }
    if !variables.iter().any(|variable| variable.starts_with("HOME=")) {
        variables.push(format!("HOME={}", home(process.user.uid)));
    }
    texts(variables.iter())
}

fn home(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let of_user = |line: &str| {
        let fields: Vec<_> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(uid)).then(|| fields.get(5).copied().unwrap_or("/").to_owned())
    };
    users.lines().find_map(of_user).unwrap_or_else(|| "/".to_owned())
}

fn personality(domain: &str) -> Result<()> {
    let number = match domain {
        "LINUX" => 0,
        "LINUX32" => 8,
        other => return Err(Error::field("linux.personality.domain", format!("{other:?} is none"))),
    };
    attributes::set_personality(number).context(|| "linux.personality".to_owned())
}

/// Labels that the process gets when it executes the program. On a host without the module they mean nothing.
fn labels(process: &Process, proc: &OwnedFd) -> Result<()> {
    let profile = &process.apparmor_profile;
    let is_there = |file: &str| rustix::fs::statat(proc, file, rustix::fs::AtFlags::empty()).is_ok();
    if !profile.is_empty() && is_there("self/attr/apparmor/exec") {
        let value = format!("exec {profile}");
        write_at(proc, Path::new("self/attr/apparmor/exec"), &value)
            .context(|| "process.apparmorProfile".to_owned())?;
    }
    let label = &process.selinux_label;
    if !label.is_empty() && Path::new("/sys/fs/selinux/enforce").exists() {
        write_at(proc, Path::new("self/attr/exec"), label).context(|| "process.selinuxLabel".to_owned())?;
    }
    Ok(())
}

/// The set of these names. Unknown ones are left out, as the specification asks for since 1.1.
fn set(names: &[String]) -> CapabilitySet {
    let number = |name: &String| CAPABILITIES.iter().position(|known| known.eq_ignore_ascii_case(name));
    let bits = names.iter().filter_map(number).fold(0_u64, |bits, number| bits | 1 << number);
    CapabilitySet::from_bits_retain(bits)
}

fn become_user(process: &Process) -> Result<()> {
    let user = &process.user;
    // No capabilities said is none, as with other runtimes.
    let capabilities = process.capabilities.clone().unwrap_or_default();
    limit(&capabilities)?;
    rustix::thread::set_keep_capabilities(true).context(|| "cannot keep capabilities".to_owned())?;
    let groups: Vec<_> = user.additional_gids.iter().map(|group| Gid::from_raw(*group)).collect();
    let what = || "process.user: cannot become it".to_owned();
    match rustix::thread::set_thread_groups(&groups) {
        // A user namespace of an ordinary user does not allow it, and there is nothing to drop.
        Err(rustix::io::Errno::PERM) if groups.is_empty() => {}
        other => other.context(|| "process.user.additionalGids".to_owned())?,
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).context(what)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).context(what)?;
    rustix::thread::set_keep_capabilities(false).context(what)?;
    gain(&capabilities)
}

/// Takes away what is not in the bounding set.
fn limit(capabilities: &Capabilities) -> Result<()> {
    let bounding = set(&capabilities.bounding);
    for number in 0..63 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if bounding.contains(one) {
            continue;
        }
        match rustix::thread::capability_is_in_bounding_set(one) {
            Ok(true) => rustix::thread::remove_capability_from_bounding_set(one)
                .context(|| "process.capabilities.bounding".to_owned())?,
            Ok(false) => {}
            // The kernel knows no more of them.
            Err(_) => break,
        }
    }
    Ok(())
}

/// What cannot be granted is left out, as the specification asks for since 1.1: nobody gets more than we have ourselves.
fn gain(capabilities: &Capabilities) -> Result<()> {
    let own = rustix::thread::capabilities(None).context(|| "process.capabilities".to_owned())?.permitted;
    let sets = rustix::thread::CapabilitySets {
        effective: set(&capabilities.effective) & own,
        permitted: set(&capabilities.permitted) & own,
        inheritable: set(&capabilities.inheritable) & own,
    };
    rustix::thread::set_capabilities(None, sets).context(|| "process.capabilities".to_owned())?;
    let what = || "process.capabilities.ambient".to_owned();
    rustix::thread::clear_ambient_capability_set().context(what)?;
    for one in set(&capabilities.ambient) & own {
        rustix::thread::configure_capability_in_ambient_set(one, true).context(what)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_two_variables_holds() {
        let env = ["A=1", "B=2", "A=3", "HOME=/h"].map(str::to_owned).to_vec();
        let process = Process { env, ..Process::default() };
        let variables: Vec<_> =
            environment(&process).unwrap().iter().map(|text| text.to_string_lossy().into_owned()).collect();
        assert_eq!(variables, ["B=2", "A=3", "HOME=/h"]);
    }

    #[test]
    fn a_program_is_found_or_its_absence_has_the_shells_code() {
        let process = |name: &str| Process { args: vec![name.to_owned()], cwd: "/".to_owned(), ..Process::default() };
        assert_eq!(find_program(&process("sh")).unwrap().0.file_name().unwrap(), "sh");
        assert_eq!(find_program(&process("no-such-program")).unwrap_err().exit_code(), 127);
        assert_eq!(find_program(&process("/etc/passwd")).unwrap_err().exit_code(), 126);
        assert_eq!(find_program(&process("/no/such")).unwrap_err().exit_code(), 127);
    }

    #[test]
    fn unknown_capabilities_are_left_out() {
        let names = ["CAP_CHOWN", "CAP_KILL", "CAP_OF_THE_FUTURE"].map(str::to_owned);
        assert_eq!(set(&names).bits(), 1 | 1 << 5);
    }
}
