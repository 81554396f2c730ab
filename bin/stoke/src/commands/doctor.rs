//! `stoke doctor`: what this host has and lacks, and how to get it.
//!
//! Wherever it is cheap a thing is tried, not looked for: a device that is there may not work, a kernel without modules
//! may have all of it built in.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::fs::{Access, access};

use crate::folders::Folders;
use crate::output::{self, Color};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Works without it, but slower or with less.
    Weaker,
    Missing,
}

/// One line of the report.
#[derive(Debug)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    detail: String,
    hint: Option<String>,
}

impl Check {
    fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Good, detail: detail.into(), hint: None }
    }

    fn weaker(name: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Weaker, detail: detail.into(), hint: Some(hint.into()) }
    }

    fn missing(name: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Missing, detail: detail.into(), hint: Some(hint.into()) }
    }
}

pub(crate) fn run(folders: &Folders) -> anyhow::Result<ExitCode> {
    let root = rustix::process::geteuid().is_root();
    let sections = [
        ("Machines", vec![kvm(), memory()]),
        ("Network", network(root)),
        ("Programs and files", programs(root)),
        ("Room", vec![room(&folders.state)]),
    ];
    output::print(&sections.iter().map(|(title, checks)| section(title, checks)).collect::<String>())?;
    let lacks = |wanted| sections.iter().flat_map(|(_, checks)| checks).filter(|c| c.verdict == wanted).count();
    let (missing, weaker) = (lacks(Verdict::Missing), lacks(Verdict::Weaker));
    let summary = match (missing, weaker) {
        (0, 0) => "everything is here".to_owned(),
        (0, weaker) => format!("everything that is needed is here; {weaker} could be better"),
        (missing, _) => format!("{missing} missing: stoke up will not work before"),
    };
    output::print(&format!("\n{summary}\n{}", install_line(&sections)))?;
    Ok(if missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn section(title: &str, checks: &[Check]) -> String {
    let line = |check: &Check| {
        let (color, word) = match check.verdict {
            Verdict::Good => (Color::Green, "ok     "),
            Verdict::Weaker => (Color::Yellow, "weaker "),
            Verdict::Missing => (Color::Red, "MISSING"),
        };
        let word = output::paint(color, word);
        let hint = check.hint.as_ref().map(|hint| format!("           {:<22} {hint}\n", "")).unwrap_or_default();
        format!("  {word}  {:<22} {}\n{hint}", check.name, check.detail)
    };
    let lines: Vec<_> = checks.iter().map(line).collect();
    format!("{}\n{}", output::paint(Color::Bold, title), lines.concat())
}

/// One line that installs every package that is missing.
fn install_line(sections: &[(&str, Vec<Check>)]) -> String {
    let hints = sections.iter().flat_map(|(_, checks)| checks).filter(|check| check.verdict != Verdict::Good);
    let mut packages: Vec<_> =
        hints.filter_map(|check| check.hint.as_deref()?.strip_prefix("apt-get install ")).collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() { String::new() } else { format!("install: sudo apt-get install {}\n", packages.join(" ")) }
}

fn kvm() -> Check {
    match stoke_vmm::probe::probe() {
        Ok(()) => Check::good("KVM", "runs guests"),
        Err(reason) => Check::weaker("KVM", reason.to_string(), "machines are emulated (TCG): correct, and slow"),
    }
}

fn memory() -> Check {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
    let detail = format!("{} available", output::size(kib << 10));
    match kib >> 10 {
        0..1500 => Check::weaker("memory", detail, "a machine of 1Gi and an image build want 1.5 GiB"),
        _ => Check::good("memory", detail),
    }
}

fn network(root: bool) -> Vec<Check> {
    let mut checks = vec![tun(), namespaces(root)];
    // What the kernel can do is tried in namespaces of their own, so that nothing here is touched.
    if checks.iter().all(|check| check.verdict == Verdict::Good) {
        let tried = [
            (
                "bridges",
                vec!["ip", "link", "add", "stoke-doctor", "type", "bridge"],
                "the kernel needs the module bridge",
            ),
            (
                "nftables",
                vec!["nft", "add table ip stoke_doctor { chain c { type nat hook postrouting priority 0; }; }"],
                "the kernel needs nf_tables and nft_chain_nat",
            ),
        ];
        checks.extend(tried.into_iter().map(|(name, command, hint)| kernel(root, name, &command, hint)));
    }
    if !root {
        checks.extend([subordinate_ids(), program(&("newuidmap", "uidmap", true, "builds images without root"))]);
    }
    checks.extend(firewall(root));
    checks
}

fn tun() -> Check {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Check::good("/dev/net/tun", "opens"),
        Err(error) => {
            let hint = match error.kind() {
                std::io::ErrorKind::PermissionDenied => "sudo chmod 0666 /dev/net/tun, as Debian has it",
                _ => "load it with modprobe tun; in a container it must be given to it",
            };
            Check::missing("/dev/net/tun", error.to_string(), hint)
        }
    }
}

/// Runs a command in a network namespace of its own; for an ordinary user in a user namespace, too.
fn inside(root: bool, command: &[&str]) -> Result<(), String> {
    let flags = if root { "-n" } else { "-rn" };
    let output = Command::new("unshare").arg(flags).arg("--").args(command).stdin(Stdio::null()).output();
    match output {
        Err(error) => Err(format!("unshare: {error}")),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            Err(stderr.lines().next().unwrap_or("it failed without a word").trim().to_owned())
        }
    }
}

fn namespaces(root: bool) -> Check {
    let name = if root { "network namespaces" } else { "user namespaces" };
    match inside(root, &["true"]) {
        Ok(()) => Check::good(name, "work"),
        Err(reason) => {
            let setting = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
            let hint = match (root, setting("/proc/sys/kernel/unprivileged_userns_clone").as_str()) {
                (false, "0") => "sudo sysctl kernel.unprivileged_userns_clone=1",
                (false, _) if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" => {
                    "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
                }
                (false, _) => "sudo sysctl user.max_user_namespaces=15000, or run as root",
                (true, _) => "this container may not make namespaces: give it CAP_SYS_ADMIN",
            };
            Check::missing(name, reason, hint)
        }
    }
}

fn kernel(root: bool, name: &'static str, command: &[&str], hint: &str) -> Check {
    let program = command.first().copied().unwrap_or_default();
    if find(program).is_none() {
        return Check::weaker(name, format!("could not be tried without {program}"), hint);
    }
    match inside(root, command) {
        Ok(()) => Check::good(name, "work"),
        Err(reason) => Check::missing(name, reason, hint),
    }
}

fn subordinate_ids() -> Check {
    let uid = rustix::process::geteuid().as_raw();
    let user = std::env::var("USER").unwrap_or_default();
    let has = |path: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut owners = text.lines().filter_map(|line| line.split(':').next()).map(str::to_owned);
        owners.any(|owner| owner == uid.to_string() || (!user.is_empty() && owner == user))
    };
    if has("/etc/subuid") && has("/etc/subgid") {
        return Check::good("subordinate ids", "/etc/subuid and /etc/subgid name this user");
    }
    let hint = "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER";
    Check::missing("subordinate ids", "an image build needs more than one user id", hint)
}

/// A firewall of the host that drops what Stokehold sends. Only root can see it.
fn firewall(root: bool) -> Option<Check> {
    if !root {
        return None;
    }
    let output = Command::new("nft").args(["list", "chains"]).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let dropping = |hook: &str| {
        let drops = |line: &&str| line.contains(&format!("hook {hook} ")) && line.contains("policy drop");
        text.lines().any(|line| drops(&line))
    };
    Some(if dropping("output") {
        let hint = "machines get out through the host's own sockets: allow what they need";
        Check::weaker("host firewall", "drops what goes out by default", hint)
    } else if dropping("forward") {
        Check::good("host firewall", "drops what is forwarded; LANs are in a namespace of their own and do not mind")
    } else {
        Check::good("host firewall", "is not in the way")
    })
}

/// A program or file, the Debian package that has it, whether nothing works without it, and what it is for.
type Need = (&'static str, &'static str, bool, &'static str);

const PROGRAMS: [Need; 10] = [
    ("qemu-system-x86_64", "qemu-system-x86", true, "runs machines"),
    ("pasta", "passt", true, "is the way out of the LANs"),
    ("nft", "nftables", true, "masquerades and keeps LANs apart"),
    ("mmdebstrap", "mmdebstrap", true, "builds Debian trees"),
    ("mksquashfs", "squashfs-tools", true, "packs roots"),
    ("mkfs.erofs", "erofs-utils", false, "packs roots of format Erofs"),
    ("ssh", "openssh-client", true, "enters machines"),
    ("ssh-keygen", "openssh-client", true, "makes the key of the installation"),
    ("zstd", "zstd", false, "packs faster"),
    ("swtpm", "swtpm", false, "is the TPM of machines that have one"),
];

const FILES: [Need; 5] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf", true, "is the UEFI of machines"),
    ("/usr/lib/ipxe/undionly.kpxe", "ipxe", true, "boots BIOS servers by PXE"),
    ("/usr/lib/ipxe/snponly.efi", "ipxe", true, "boots UEFI servers by PXE"),
    ("/usr/lib/ipxe/qemu/efi-virtio.rom", "ipxe-qemu", true, "boots BIOS machines by network"),
    ("/usr/lib/systemd/boot/efi/linuxx64.efi.stub", "systemd-boot-efi", true, "is the head of a unified kernel image"),
];

fn programs(root: bool) -> Vec<Check> {
    let mut checks: Vec<_> = PROGRAMS.iter().map(program).collect();
    checks.extend(FILES.iter().map(file));
    if !root && find("unshare").is_none() {
        checks.push(program(&("unshare", "util-linux", true, "makes namespaces")));
    }
    checks
}

fn program(need: &Need) -> Check {
    let (name, ..) = *need;
    checked(need, name, find(name).map(|path| path.display().to_string()))
}

fn file(need: &Need) -> Check {
    let (path, ..) = *need;
    let name = path.rsplit('/').next().unwrap_or(path);
    checked(need, name, Path::new(path).exists().then(|| path.to_owned()))
}

fn checked(need: &Need, name: &'static str, found: Option<String>) -> Check {
    let (_, package, required, purpose) = *need;
    let hint = format!("apt-get install {package}");
    match (found, required) {
        (Some(path), _) => Check::good(name, path),
        (None, true) => Check::missing(name, purpose, hint),
        (None, false) => Check::weaker(name, purpose, hint),
    }
}

/// A program in the search path, or where Debian keeps those of administrators.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file() && access(file, Access::EXEC_OK).is_ok())
}

fn room(state: &Path) -> Check {
    let existing = state.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let free = rustix::fs::statvfs(existing).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    let detail = format!("{} free at {}", output::size(free), existing.display());
    if free < 3 << 30 {
        let hint = "an image build wants 3 GiB; name another folder with --state";
        return Check::weaker("disk", detail, hint);
    }
    Check::good("disk", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_installed_by_one_line() {
        let need = ("no-such-program", "some-package", true, "does nothing");
        let sections = [("Programs", vec![program(&need), program(&need), Check::good("a", "b")])];
        assert_eq!(install_line(&sections), "install: sudo apt-get install some-package\n");
        assert!(section(sections[0].0, &sections[0].1).contains("MISSING  no-such-program"));
    }
}
