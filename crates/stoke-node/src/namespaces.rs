//! The installation's namespaces: made by its first member, joined by all others, gone with the last.
//!
//! `RUN/ns` is a symbolic link to `/proc/PID/ns` of a living member, `RUN/ns.inode` holds the network namespace's inode
//! and the boot in which it is valid. A namespace outlives the process that made it as long as another member lives: the
//! node agent that comes back looks for one, and joins. One does nothing but stay (the holder), so that all others may die
//! at once. Everything here must be called while the process has one thread:
//! a user namespace cannot be joined by one thread alone (user_namespaces(7)).

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::process::DumpableBehavior;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use stoke_net::kernel::{HostNamespace, KernelError, KernelLinks};

use crate::holder;

/// Name of the link in the run folder.
pub const LINK: &str = "ns";
const RECORD: &str = "ns.inode";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The namespace that this process came from, if uplinks may be taken from it.
static HOST: Mutex<Option<HostNamespace>> = Mutex::new(None);

/// Why a process is not in the installation's namespaces.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// A file could not be read or written.
    #[error("cannot use {0}")]
    File(PathBuf, #[source] io::Error),
    /// No member lives.
    #[error("no process of the installation is in the namespaces of {0}; is the node agent running?")]
    Gone(PathBuf),
    /// Joining failed.
    #[error("cannot join the namespaces of {0}")]
    Join(PathBuf, #[source] io::Error),
    /// Making them failed.
    #[error("cannot make a network namespace")]
    Network(#[source] io::Error),
    /// Making them as an ordinary user failed.
    #[error(
        "cannot make a user namespace; ordinary users need the kernel's permission: look at the switches \
         kernel.unprivileged_userns_clone, user.max_user_namespaces and kernel.apparmor_restrict_unprivileged_userns, \
         or run stoke as root"
    )]
    User(#[source] io::Error),
    /// Loopback could not be set up.
    #[error("cannot set up loopback in the namespace")]
    Loopback(#[source] KernelError),
}

/// Takes the calling process, the node agent, into the installation's namespaces, making them if no member lives, and
/// tells the others by `RUN/ns`.
///
/// # Errors
/// If the system refuses, or the process has more than one thread.
pub fn prepare(run_dir: &Path) -> Result<(), NamespaceError> {
    fs_err::create_dir_all(run_dir).map_err(|error| NamespaceError::File(run_dir.to_owned(), error))?;
    if rustix::process::geteuid().is_root() {
        let host = HostNamespace::of_this_thread().map_err(NamespaceError::Network)?;
        *HOST.lock().unwrap_or_else(PoisonError::into_inner) = Some(host);
    }
    match find_member(run_dir) {
        Some(member) => join(&member)?,
        None => make()?,
    }
    let mut links = KernelLinks::open(None).map_err(NamespaceError::Network)?;
    links.loopback_up().map_err(NamespaceError::Loopback)?;
    announce(run_dir)?;
    hold(run_dir)
}

/// Sees to it that a holder lives.
fn hold(run_dir: &Path) -> Result<(), NamespaceError> {
    if recorded(run_dir).is_some_and(|inode| living_holder(run_dir, inode).is_some()) {
        return Ok(());
    }
    holder::start(run_dir, &run_dir.join(RECORD)).map_err(|error| NamespaceError::File(holder::file(run_dir), error))
}

/// The holder, if the process with its id is in the namespace.
fn living_holder(run_dir: &Path, inode: u64) -> Option<u32> {
    holder::pid(run_dir).filter(|pid| is_inode(&folder_of(*pid).join("net"), inode))
}

/// Takes the calling process into the namespaces in `dir`: `RUN/ns`, or `/proc/PID/ns` of a member. If the process that
/// `RUN/ns` names is dead, another member is looked for.
///
/// # Errors
/// If no member lives or the system refuses.
pub fn enter(dir: &Path) -> Result<(), NamespaceError> {
    if dir.join("net").exists() {
        return join(&Member::in_folder(dir));
    }
    let other = dir.parent().and_then(find_member);
    join(&other.ok_or_else(|| NamespaceError::Gone(dir.to_owned()))?)
}

/// The namespace that [`prepare`] left, for the one who moves uplinks; `None` if we may not.
pub(crate) fn take_host() -> Option<HostNamespace> {
    HOST.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Where namespaces can be joined.
#[derive(Debug)]
struct Member {
    user: Option<PathBuf>,
    network: PathBuf,
}

impl Member {
    fn in_folder(dir: &Path) -> Self {
        Self { user: Some(dir.join("user")), network: dir.join("net") }
    }
}

/// A living member of the recorded network namespace.
fn find_member(run_dir: &Path) -> Option<Member> {
    let inode = recorded(run_dir)?;
    let holder = living_holder(run_dir, inode).map(folder_of);
    let likely = holder.into_iter().chain(announced(run_dir)).chain(workloads(run_dir));
    let folders = likely.chain(all_processes());
    let member = folders.into_iter().find(|folder| is_inode(&folder.join("net"), inode));
    member.as_deref().map(Member::in_folder).or_else(|| held_by_pasta(run_dir, inode))
}

/// The inode of the network namespace, if it was recorded since the host started: inodes are given again.
fn recorded(run_dir: &Path) -> Option<u64> {
    let record = std::fs::read_to_string(run_dir.join(RECORD)).ok()?;
    let boot = std::fs::read_to_string(BOOT_ID).ok()?;
    let (inode, recorded_boot) = record.split_once('\n')?;
    (recorded_boot.trim() == boot.trim()).then(|| inode.parse().ok())?
}

fn announced(run_dir: &Path) -> Option<PathBuf> {
    std::fs::read_link(run_dir.join(LINK)).ok()
}

/// Processes that are said to be ours.
fn workloads(run_dir: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(run_dir.join("workloads")).into_iter().flatten().flatten();
    let pids = folders.filter_map(|folder| std::fs::read_to_string(folder.path().join("pid")).ok());
    pids.filter_map(|pid| pid.trim().parse::<u32>().ok()).map(folder_of).collect()
}

/// Any other: a shell that somebody opened inside keeps the namespace as well.
fn all_processes() -> Vec<PathBuf> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(folder_of).collect()
}

fn folder_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns"))
}

fn is_inode(path: &Path, inode: u64) -> bool {
    // The link is followed: its target in nsfs has the namespace's inode. Processes of others cannot be looked at.
    std::fs::metadata(path).is_ok_and(|found| found.ino() == inode)
}

/// Pasta is no member, but keeps the network namespace open. Only root may look at its descriptors.
fn held_by_pasta(run_dir: &Path, inode: u64) -> Option<Member> {
    let pid = std::fs::read_to_string(run_dir.join(crate::egress::PID_FILE)).ok()?;
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", pid.trim().parse::<u32>().ok()?)).ok()?;
    let network = descriptors.flatten().map(|entry| entry.path()).find(|path| is_inode(path, inode))?;
    Some(Member { user: None, network })
}

fn join(member: &Member) -> Result<(), NamespaceError> {
    let failed = |error: io::Error| NamespaceError::Join(member.network.clone(), error);
    let network = File::open(&member.network).map_err(failed)?;
    // The user namespace first: in it we have the right to join the other, which belongs to it.
    if let Some(user) = &member.user {
        let user = File::open(user).map_err(failed)?;
        let own = std::fs::metadata("/proc/self/ns/user").map_err(failed)?;
        if user.metadata().map_err(failed)?.ino() != own.ino() {
            let joined = move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User));
            joined.map_err(|error| failed(error.into()))?;
        }
    }
    let joined = move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network));
    joined.map_err(|error| failed(error.into()))?;
    stay_visible().map_err(failed)
}

fn make() -> Result<(), NamespaceError> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() {
        return stoke_sys::namespace::unshare_network().map_err(NamespaceError::Network);
    }
    stoke_sys::namespace::unshare_user_and_network().map_err(NamespaceError::User)?;
    stay_visible().map_err(NamespaceError::User)?;
    let write = |file: &str, text: String| {
        let path = Path::new("/proc/self").join(file);
        std::fs::write(&path, text).map_err(|error| NamespaceError::File(path, error))
    };
    // Groups must be given up before an ordinary user may map one (user_namespaces(7)).
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {} 1", uid.as_raw()))?;
    write("gid_map", format!("0 {} 1", gid.as_raw()))
}

/// A process whose rights changed hides from others of its user, who could then not join its namespaces.
fn stay_visible() -> io::Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    Ok(())
}

/// Says where the namespaces are. The record comes first: without it the link is not believed.
fn announce(run_dir: &Path) -> Result<(), NamespaceError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| NamespaceError::File(path, error)
    };
    let own = folder_of(std::process::id());
    let inode = std::fs::metadata(own.join("net")).map_err(at(&own))?.ino();
    let boot = std::fs::read_to_string(BOOT_ID).map_err(at(Path::new(BOOT_ID)))?;
    let (record, link) = (run_dir.join(RECORD), run_dir.join(LINK));
    let staged = run_dir.join(format!("{RECORD}.new"));
    std::fs::write(&staged, format!("{inode}\n{boot}")).map_err(at(&staged))?;
    std::fs::rename(&staged, &record).map_err(at(&record))?;
    let staged = run_dir.join(format!("{LINK}.new"));
    let _ = std::fs::remove_file(&staged);
    std::os::unix::fs::symlink(&own, &staged).map_err(at(&staged))?;
    std::fs::rename(&staged, &link).map_err(at(&link))
}

/// Whether the network namespace belongs to the user namespace of this process, as one of root's does: only then can
/// interfaces of the host be in it.
pub(crate) fn is_of_root(run_dir: &Path) -> bool {
    let own = std::fs::metadata("/proc/self/ns/user").map(|found| found.ino());
    let user = find_member(run_dir).and_then(|member| member.user);
    user.is_none_or(|user| own.is_ok_and(|own| is_inode(&user, own)))
}

/// Ends the holder and forgets the namespaces: for who has removed all that was in them.
pub(crate) fn forget(run_dir: &Path) -> io::Result<()> {
    let holder = recorded(run_dir).and_then(|inode| living_holder(run_dir, inode));
    holder.map_or(Ok(()), holder::end)?;
    for file in [run_dir.join(LINK), run_dir.join(RECORD), holder::file(run_dir)] {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
