//! Scripts of the configuration: those before init run here, the others are units of the image's systemd.
//!
//! What a hook prints is in `/run/stokehold/hooks/NAME.log` on the node. One that fails under that init leaves `NAME.failed`, or
//! `NAME.remark` if the boot may go on; the resident finds it there and tells the farm.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::mount::{UnmountFlags, mount_bind_recursive, unmount};
use stoke_api::objects::{Hook, HookFailure, HookTime};

use super::root::Root;
use super::units::{UNITS, has_systemd};
use super::{READY_UNIT, Remarks};
use crate::journal::Journal;
use crate::kernel_fs;

/// Where the scripts are on the node.
const SCRIPTS: &str = "etc/stokehold/hooks";
/// Where their output is.
pub(crate) const OUTPUT: &str = "/run/stokehold/hooks";
/// First argument of our own program when it is to enter the new root and become a script.
pub(crate) const ENTER: &str = "@stoke-hook";
/// Our own program in the initramfs.
const OWN_PROGRAM: &str = "/init";
/// As much of a failed hook's last words goes to the farm.
const LAST_WORDS: usize = 400;

/// Writes the scripts, and the units of those that run under the image's init.
pub(super) fn write(root: Root<'_>, hooks: &[Hook], remarks: &mut Remarks) -> Result<()> {
    for hook in hooks {
        root.write(&format!("{SCRIPTS}/{}", hook.name), script(hook), 0o700)?;
    }
    let mut later = hooks.iter().filter(|hook| hook.when != HookTime::PreInit).peekable();
    if later.peek().is_some() && !has_systemd(root) {
        remarks.add("hooks: the image has no systemd, which would run those after init");
        return Ok(());
    }
    let mut before: Option<(HookTime, String)> = None;
    for hook in later {
        let unit = unit_name(hook);
        // In the order of the configuration, those of each time among themselves.
        let after = before.as_ref().filter(|(when, _)| *when == hook.when).map(|(_, unit)| unit.clone());
        root.write(&format!("{UNITS}/{unit}"), unit_text(hook, after.as_deref()), 0o644)?;
        root.link(&format!("{UNITS}/multi-user.target.wants/{unit}"), &format!("/{UNITS}/{unit}"))?;
        if hook.on_failure == HookFailure::Fail {
            root.link(&format!("{UNITS}/{READY_UNIT}.requires/{unit}"), &format!("/{UNITS}/{unit}"))?;
        }
        before = Some((hook.when, unit));
    }
    Ok(())
}

fn unit_name(hook: &Hook) -> String {
    format!("stokehold-hook-{}.service", hook.name)
}

/// With an interpreter of its own as it is, else for `sh`, which then ends at the first command that fails.
fn script(hook: &Hook) -> String {
    let end = if hook.script.ends_with('\n') { "" } else { "\n" };
    if hook.script.starts_with("#!") {
        return format!("{}{end}", hook.script);
    }
    format!("#!/bin/sh\nset -e\n{}{end}", hook.script)
}

fn unit_text(hook: &Hook, after: Option<&str>) -> String {
    let time = match hook.when {
        HookTime::AfterNetwork => "Wants=network-online.target\nAfter=network-online.target\n",
        HookTime::PreInit | HookTime::PostInit => "After=multi-user.target\n",
    };
    let after = after.map(|unit| format!("After={unit}\n")).unwrap_or_default();
    let (name, marker) = (&hook.name, marker(hook.on_failure));
    format!(
        "[Unit]\nDescription=Hook {name} of the node's configuration\n{time}{after}Before={READY_UNIT}\n\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/{SCRIPTS}/{name}\n\
         StandardOutput=append:{OUTPUT}/{name}.log\nStandardError=inherit\n\
         ExecStopPost=/bin/sh -c 'test \"$$SERVICE_RESULT\" = success || \
         echo \"$$SERVICE_RESULT $$EXIT_STATUS\" > {OUTPUT}/{name}.{marker}'\n"
    )
}

fn marker(failure: HookFailure) -> &'static str {
    match failure {
        HookFailure::Fail => "failed",
        HookFailure::Continue => "remark",
    }
}

/// Runs the hooks before init, in the new root with the kernel's file systems.
///
/// # Errors
/// If one fails whose failure is the boot's.
pub(crate) fn run_before_init(
    root: &Path,
    hooks: &[Hook],
    environment: &[(String, String)],
    journal: &Journal,
) -> Result<Vec<String>> {
    let mut remarks = Vec::new();
    if hooks.is_empty() {
        return Ok(remarks);
    }
    // For those under the image's init, too: systemd opens their output before it runs anything that could make this.
    fs::create_dir_all(OUTPUT).with_context(|| format!("could not make {OUTPUT}"))?;
    let mut due = hooks.iter().filter(|hook| hook.when == HookTime::PreInit).peekable();
    if due.peek().is_none() {
        return Ok(remarks);
    }
    let mounted = KernelFs::bind(root)?;
    for hook in due {
        journal.say(&format!("hook {}", hook.name));
        let Err(error) = run(root, hook, environment) else { continue };
        let message = format!("hook {}: {error:#}", hook.name);
        if hook.on_failure == HookFailure::Fail {
            bail!(message);
        }
        journal.say(&message);
        remarks.push(message);
    }
    drop(mounted);
    Ok(remarks)
}

/// The kernel's file systems in the new root, for as long as this lives.
struct KernelFs {
    places: Vec<String>,
}

impl KernelFs {
    fn bind(root: &Path) -> Result<Self> {
        let mut bound = Self { places: Vec::new() };
        for place in kernel_fs::places() {
            let target = format!("{}{place}", root.display());
            fs::create_dir_all(&target).with_context(|| format!("could not make {target}"))?;
            mount_bind_recursive(place, &target).with_context(|| format!("could not show {place} to hooks"))?;
            bound.places.push(target);
        }
        Ok(bound)
    }
}

impl Drop for KernelFs {
    fn drop(&mut self) {
        for place in self.places.iter().rev() {
            let _ = unmount(place.as_str(), UnmountFlags::DETACH);
        }
    }
}

/// Runs one hook: our own program enters the root and becomes the script.
fn run(root: &Path, hook: &Hook, environment: &[(String, String)]) -> Result<()> {
    let log = format!("{OUTPUT}/{}.log", hook.name);
    let out = fs::File::create(&log).with_context(|| format!("could not write {log}"))?;
    let status = Command::new(OWN_PROGRAM)
        .arg0(ENTER)
        .arg(root)
        .arg(format!("/{SCRIPTS}/{}", hook.name))
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .status()
        .context("could not start it")?;
    if status.success() {
        return Ok(());
    }
    bail!("{status}{}", last_words(Path::new(&log)))
}

/// What a failed hook said last, for people far away.
fn last_words(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut words = String::new();
    for line in lines.iter().rev() {
        if words.len() + line.len() > LAST_WORDS {
            break;
        }
        words = if words.is_empty() { (*line).to_owned() } else { format!("{line} | {words}") };
    }
    if words.is_empty() { words } else { format!(": {words}") }
}

/// Second life of our program: enters the root that is named first and becomes the program that is named next. Returns only
/// if that fails.
pub(crate) fn enter(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let (Some(root), Some(program)) = (arguments.next(), arguments.next()) else { return ExitCode::from(125) };
    let entered = rustix::process::chroot(root.as_str()).and_then(|()| rustix::process::chdir("/"));
    if let Err(error) = entered {
        eprintln!("could not enter {root}: {error}");
        return ExitCode::from(126);
    }
    let error = Command::new(&program).exec();
    eprintln!("could not run {program}: {error}");
    ExitCode::from(127)
}

/// A hook that failed under the image's init.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// For people.
    pub(crate) message: String,
    /// Whether the boot has failed with it.
    pub(crate) is_fatal: bool,
}

/// Hooks that have failed so far, by what they left in `folder`.
pub(crate) fn failures(folder: &Path) -> Vec<Failure> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut failures: Vec<_> = entries
        .filter_map(|entry| {
            let file = entry.file_name().into_string().ok()?;
            let (name, kind) = file.rsplit_once('.')?;
            let is_fatal = match kind {
                "failed" => true,
                "remark" => false,
                _ => return None,
            };
            let result = fs::read_to_string(entry.path()).unwrap_or_default();
            let words = last_words(&folder.join(format!("{name}.log")));
            Some(Failure { message: format!("hook {name}: {}{words}", result.trim()), is_fatal })
        })
        .collect();
    failures.sort_by(|a, b| a.message.cmp(&b.message));
    failures
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(name: &str, when: HookTime, on_failure: HookFailure) -> Hook {
        Hook { name: name.into(), when, script: "echo hello".into(), on_failure }
    }

    #[test]
    fn scripts_stop_at_the_first_failure_unless_they_bring_their_own_interpreter() {
        let mut hook = hook("a", HookTime::PostInit, HookFailure::Fail);
        assert_eq!(script(&hook), "#!/bin/sh\nset -e\necho hello\n");
        hook.script = "#!/usr/bin/perl\nprint 1;\n".into();
        assert_eq!(script(&hook), hook.script);
    }

    #[test]
    fn hooks_are_units_in_their_order_and_the_fatal_ones_hold_up_readiness() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root(folder.path());
        root.write("usr/lib/systemd/systemd", "", 0o755).unwrap();
        let hooks = [
            hook("one", HookTime::AfterNetwork, HookFailure::Fail),
            hook("pre", HookTime::PreInit, HookFailure::Fail),
            hook("two", HookTime::AfterNetwork, HookFailure::Continue),
            hook("three", HookTime::PostInit, HookFailure::Fail),
        ];
        write(root, &hooks, &mut Remarks::default()).unwrap();
        let unit = |name: &str| root.read(&format!("{UNITS}/stokehold-hook-{name}.service"));
        assert!(unit("two").contains("After=network-online.target\nAfter=stokehold-hook-one.service\n"));
        assert!(!unit("three").contains("After=stokehold-hook-two.service"));
        assert!(unit("two").contains("two.remark'") && unit("three").contains("three.failed'"));
        assert_eq!(unit("pre"), "");
        let required = root.list(&format!("{UNITS}/{READY_UNIT}.requires"));
        assert_eq!(required, ["stokehold-hook-one.service", "stokehold-hook-three.service"]);
        assert_eq!(root.mode("etc/stokehold/hooks/pre"), Some(0o700));
    }

    #[test]
    fn what_failed_is_told_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("disk.log", "looking\n\nno disk here\n");
        write("disk.failed", "exit-code 3\n");
        write("motd.remark", "timeout 15\n");
        write("fine.log", "done\n");
        let found = failures(folder.path());
        let words: Vec<_> = found.iter().map(|failure| (failure.message.as_str(), failure.is_fatal)).collect();
        let wanted = [("hook disk: exit-code 3: looking | no disk here", true), ("hook motd: timeout 15", false)];
        assert_eq!(words, wanted);
    }
}
