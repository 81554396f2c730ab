//! Hooks: programs that get the container's state on their standard input.

use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{Error, Result};
use crate::spec::Hook;
use crate::state::State;

/// How much of what a hook prints is said when it fails.
const SAID: usize = 400;

/// Runs a list of hooks, one after the other, in a folder; the first that fails ends it.
pub fn run(kind: &'static str, hooks: &[Hook], state: &State, folder: &Path) -> Result<()> {
    hooks.iter().try_for_each(|hook| run_one(hook, state, folder).map_err(|reason| failed(kind, hook, reason)))
}

/// Runs all hooks of a list, whatever becomes of each, and gives what failed.
pub fn run_all(kind: &'static str, hooks: &[Hook], state: &State, folder: &Path) -> Vec<Error> {
    let run = |hook: &Hook| run_one(hook, state, folder).err().map(|reason| failed(kind, hook, reason));
    hooks.iter().filter_map(run).collect()
}

fn failed(kind: &'static str, hook: &Hook, reason: String) -> Error {
    Error::Hook { kind, path: hook.path.display().to_string(), reason }
}

fn run_one(hook: &Hook, state: &State, folder: &Path) -> Result<(), String> {
    if !hook.path.is_absolute() {
        return Err("is no absolute path".to_owned());
    }
    let output = memory().map_err(|error| error.to_string())?;
    let mut command = Command::new(&hook.path);
    let mut arguments = hook.args.iter();
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).env_clear().envs(hook.env.iter().filter_map(|variable| variable.split_once('=')));
    let duplicate = || output.try_clone().map_or_else(|_| Stdio::null(), Stdio::from);
    command.stdin(Stdio::piped()).stdout(duplicate()).stderr(duplicate()).current_dir(folder);
    let mut child = command.spawn().map_err(|error| format!("cannot be executed: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook may end without having read it.
        let _unread = stdin.write_all(&serde_json::to_vec(state).unwrap_or_default());
    }
    let timeout = hook.timeout.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    let status = wait(&mut child, timeout)?;
    if status.success() { Ok(()) } else { Err(format!("{status}{}", said(output))) }
}

fn memory() -> std::io::Result<std::fs::File> {
    Ok(rustix::fs::memfd_create("hook", MemfdFlags::CLOEXEC)?.into())
}

fn said(mut output: std::fs::File) -> String {
    let mut text = String::new();
    let _partly = output.rewind().and_then(|()| output.read_to_string(&mut text));
    let text = text.trim();
    let begin = text.char_indices().rev().nth(SAID).map_or(0, |(begin, _)| begin);
    if text.is_empty() { String::new() } else { format!(": {}", text.get(begin..).unwrap_or_default()) }
}

fn wait(child: &mut Child, timeout: Option<Duration>) -> Result<ExitStatus, String> {
    if let Some(timeout) = timeout
        && !ends(child, timeout)
    {
        let _gone = child.kill();
        let _reaped = child.wait();
        return Err(format!("did not end within {} seconds", timeout.as_secs()));
    }
    child.wait().map_err(|error| error.to_string())
}

/// Whether a child ends in time.
fn ends(child: &Child, timeout: Duration) -> bool {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(descriptor) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return true };
    wait_readable(&descriptor, timeout)
}

/// Whether a descriptor becomes readable in time: a process that ends, a socket that is answered.
pub(crate) fn wait_readable(descriptor: &OwnedFd, timeout: Duration) -> bool {
    let limit = Timespec::try_from(timeout).ok();
    let mut polled = [PollFd::new(&descriptor, PollFlags::IN)];
    let _descriptor = descriptor.as_fd();
    poll(&mut polled, limit.as_ref()).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Status;

    fn state() -> State {
        State {
            oci_version: "1.2.0".to_owned(),
            id: "a".to_owned(),
            status: Status::Creating,
            pid: 7,
            bundle: "/b".into(),
            annotations: std::collections::BTreeMap::new(),
        }
    }

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        let args = ["sh", "-c", script].map(str::to_owned).to_vec();
        Hook { path: "/bin/sh".into(), args, env: vec!["X=y".to_owned()], timeout }
    }

    #[test]
    fn a_hook_gets_the_state_and_its_own_environment_alone() {
        let folder = tempfile::tempdir().unwrap();
        run("poststart", &[hook("/bin/cat > state; echo $X$HOME > env", None)], &state(), folder.path()).unwrap();
        let read = |name| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("state"), r#"{"ociVersion":"1.2.0","id":"a","status":"creating","pid":7,"bundle":"/b"}"#);
        assert_eq!(read("env"), "y\n");
    }

    #[test]
    fn what_a_failing_hook_prints_is_said() {
        let line = |hook| run("prestart", &[hook], &state(), Path::new("/")).unwrap_err().line();
        assert_eq!(
            line(hook("echo out; echo no luck >&2; exit 3", None)),
            "prestart hook /bin/sh: exit status: 3: out no luck"
        );
        assert_eq!(line(hook("exec /bin/sleep 60", Some(1))), "prestart hook /bin/sh: did not end within 1 seconds");
    }
}
