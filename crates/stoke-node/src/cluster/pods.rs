//! Folders that are shared with pods: one for each allocation, in which the pod finds our socket for LAN ports and leaves
//! its own admin socket.
//!
//! ```text
//! RUN/pods/4f1c…/ports.sock    ours; whoever connects is known by the kernel: process -> control group -> pod
//! RUN/pods/4f1c…/admin.sock    the role's
//! RUN/pods/4f1c….pod           the pod's uid, once it has asked for something; out of its sight
//! ```
//!
//! Level, not edge: each second every folder that is there gets what it lacks, so an agent that starts finds those of its
//! predecessor. A folder belongs to the first pod that asks in it; nobody else can see it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};
use stoke_api::agent::{PORTS_SOCKET, PodReport};
use stoke_api::report::Report;
use stoke_net::LanKey;
use stoke_net::ports::{self, Ask, GivenInterface, Incoming, PortReply, PortRequest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::apply::Ports;
use crate::cluster::agent::Agent;
use crate::cluster::{admin, cgroup, grants};
use crate::lans::Request;

/// How often folders are looked at, and pods asked for their reports.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a pod may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a request waits for the operator to grant it; who asks waits ten seconds.
const GRANT_PATIENCE: Duration = Duration::from_secs(8);
/// Requests of one pod at once; others wait.
const REQUESTS: usize = 4;
/// TAP devices of one pod on one LAN: the running machine's, and one that is about to replace it.
const TAPS: usize = 4;
/// How long the folder of a pod stays that is neither wanted nor there.
const FORGET: Duration = Duration::from_mins(10);
/// How long one stays in which nobody ever asked.
const FORGET_UNUSED: Duration = Duration::from_hours(24);
/// Longest text of `/proc/PID/cgroup` that is looked at.
const CGROUP_LIMIT: u64 = 64 * 1024;

/// All folders.
#[derive(Default)]
pub(super) struct Folders(Mutex<BTreeMap<String, Folder>>);

struct Folder {
    pod: Option<String>,
    report: Option<Report>,
    /// Why there is no report.
    silence: Option<String>,
    /// Why the last request was refused.
    refusal: Option<String>,
    stop: CancellationToken,
    unwanted_since: Option<Instant>,
}

impl Folders {
    fn with<T>(&self, action: impl FnOnce(&mut BTreeMap<String, Folder>) -> T) -> T {
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, name: &str, action: impl FnOnce(&mut Folder)) {
        self.with(|folders| folders.get_mut(name).map(action));
    }

    /// What is known of the pods that have asked for something.
    pub(super) fn reports(&self, ports: &Ports) -> Vec<PodReport> {
        let report = |folder: &Folder| {
            let pod = folder.pod.clone()?;
            let prefix = grants::owner_prefix(&pod);
            let links = ports.iter().filter(|(_, (_, owner))| owner.starts_with(&prefix)).map(|(link, _)| link.clone());
            let failure = folder.refusal.as_ref().or(folder.silence.as_ref()).cloned();
            Some(PodReport { links: links.collect(), report: folder.report.clone(), failure, pod })
        };
        self.with(|folders| folders.values().filter_map(report).collect())
    }

    /// The folder of a pod.
    pub(super) fn of_pod(&self, pod: &str) -> Option<String> {
        let of_pod = |(_, folder): &(&String, &Folder)| folder.pod.as_deref() == Some(pod);
        self.with(|folders| folders.iter().find(of_pod).map(|(name, _)| name.clone()))
    }

    /// Removes all folders, and the one that they are in; what could not be.
    pub(super) fn remove_all(&self, pods: &Path) -> Vec<String> {
        self.with(|folders| {
            for folder in folders.values() {
                folder.stop.cancel();
            }
            folders.clear();
        });
        let entries = std::fs::read_dir(pods).into_iter().flatten().flatten();
        let remove = |entry: std::fs::DirEntry| {
            let path = entry.path();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.err().map(|error| format!("cannot remove {}: {error}", path.display()))
        };
        let mut left: Vec<String> = entries.filter_map(remove).collect();
        let removed = std::fs::remove_dir(pods).err().filter(|error| error.kind() != io::ErrorKind::NotFound);
        left.extend(removed.map(|error| format!("cannot remove {}: {error}", pods.display())));
        left
    }
}

/// Makes a folder for a pod that is about to be; its name.
///
/// # Errors
/// If the system refuses.
pub(super) fn allocate(agent: &Arc<Agent>) -> anyhow::Result<String> {
    let mut bytes = [0_u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    let name = format!("{:016x}", u64::from_be_bytes(bytes));
    let path = agent.pods().join(&name);
    // The folder of folders goes when all is removed, and an agent may go on after that.
    fs_err::create_dir_all(agent.pods())?;
    fs_err::create_dir(&path)?;
    look_after(agent, &name)?;
    Ok(name)
}

/// Looks after all folders.
pub(super) async fn watch(agent: Arc<Agent>, shutdown: CancellationToken) {
    loop {
        for name in names(&agent.pods()) {
            if let Err(error) = look_after(&agent, &name) {
                tracing::warn!(folder = name, "cannot look after the folder of a pod: {error:#}");
            }
        }
        forget(&agent).await;
        tokio::select! {
            () = sleep(INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

fn names(pods: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(pods).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let names = folders.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())).collect()
}

/// Sees to it that somebody answers in a folder.
fn look_after(agent: &Arc<Agent>, name: &str) -> anyhow::Result<()> {
    let path = agent.pods().join(name);
    let served = agent.folders.with(|folders| folders.contains_key(name));
    if served && std::fs::symlink_metadata(path.join(PORTS_SOCKET)).is_ok() {
        return Ok(());
    }
    // For all users of the pod, which alone can see it. The runtime makes one that is missing without asking us.
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
    let listener = bind(agent.staging(), &path, name)?;
    let stop = CancellationToken::new();
    let pod = std::fs::read_to_string(agent.pods().join(format!("{name}.pod"))).ok().map(|pod| pod.trim().to_owned());
    let folder = Folder { pod, report: None, silence: None, refusal: None, stop: stop.clone(), unwanted_since: None };
    let before = agent.folders.with(|folders| folders.insert(name.to_owned(), folder));
    before.inspect(|before| before.stop.cancel());
    tokio::spawn(serve(listener, Arc::clone(agent), name.to_owned(), stop.clone()));
    tokio::spawn(collect(Arc::clone(agent), name.to_owned(), stop));
    Ok(())
}

/// Binds where no pod can interfere, and moves the socket to its place: a name in the pod's folder may be a symbolic link
/// of the pod's making by the time that its mode is changed.
fn bind(staging: &Path, folder: &Path, name: &str) -> io::Result<UnixListener> {
    let staged = staging.join(format!("{name}.sock"));
    let _ = std::fs::remove_file(&staged);
    let listener = UnixListener::bind(&staged)?;
    std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(0o666))?;
    std::fs::rename(&staged, folder.join(PORTS_SOCKET))?;
    Ok(listener)
}

async fn serve(listener: UnixListener, agent: Arc<Agent>, name: String, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(REQUESTS));
    loop {
        let accepted = tokio::select! {
            accepted = async { (Arc::clone(&places).acquire_owned().await, listener.accept().await) } => accepted,
            () = stop.cancelled() => return,
        };
        let (Ok(place), Ok((stream, _))) = accepted else {
            // Out of descriptors, most likely: others must close theirs first.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (agent, name) = (Arc::clone(&agent), name.clone());
        tokio::spawn(async move {
            if let Err(error) = attend(&agent, &name, stream).await {
                tracing::debug!(folder = name, "a pod's request came to nothing: {error:#}");
            }
            drop(place);
        });
    }
}

/// What a request is answered with.
enum Given {
    Port(OwnedFd, PortReply),
    Interfaces(Vec<GivenInterface>),
}

async fn attend(agent: &Arc<Agent>, name: &str, stream: UnixStream) -> anyhow::Result<()> {
    let asked = timeout(PATIENCE, read(&stream)).await.context("the pod did not say what it wants")?;
    let given = match asked {
        Ok((ask, descriptor)) => give(agent, name, &stream, ask, descriptor).await,
        Err(error) => Err(anyhow::Error::new(error).context("this is no request")),
    };
    let refusal = given.as_ref().err().map(|reason| format!("{reason:#}"));
    let counter = if refusal.is_none() { &agent.metrics.ports_granted } else { &agent.metrics.ports_refused };
    counter.inc();
    agent.folders.change(name, |folder| {
        // Once: a pod must not fill the log.
        if let Some(reason) = refusal.as_ref().filter(|_| folder.refusal != refusal) {
            tracing::warn!(folder = name, pod = folder.pod, "refused a pod: {reason}");
        }
        folder.refusal = refusal;
    });
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    let answer = move || match given {
        Ok(Given::Port(device, reply)) => ports::grant(&stream, reply, std::os::fd::AsFd::as_fd(&device)),
        Ok(Given::Interfaces(interfaces)) => ports::grant_interfaces(&stream, interfaces),
        Err(reason) => ports::refuse(&stream, &format!("{reason:#}")),
    };
    Ok(tokio::task::spawn_blocking(answer).await??)
}

async fn read(stream: &UnixStream) -> io::Result<(Ask, Option<OwnedFd>)> {
    let mut incoming = Incoming::default();
    loop {
        stream.readable().await?;
        let read = stream.try_io(tokio::io::Interest::READABLE, || incoming.read(std::os::fd::AsFd::as_fd(stream)));
        match read {
            Ok(Some(request)) => return Ok(request),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Ok(None) | Err(_) => {}
        }
    }
}

async fn give(
    agent: &Arc<Agent>,
    name: &str,
    stream: &UnixStream,
    ask: Ask,
    descriptor: Option<OwnedFd>,
) -> anyhow::Result<Given> {
    let process = stream.peer_cred()?.pid().filter(|pid| *pid > 0);
    let process = process.context("the asking process cannot be seen from here: the agent needs hostPID")?;
    let pod = identify(process)?;
    claim(agent, name, &pod)?;
    match ask {
        Ask::Port(request) => give_port(agent, &pod, &request).await,
        Ask::Interfaces { .. } => give_interfaces(agent, &pod, process, descriptor).await,
    }
}

/// Whose pod a process is in.
fn identify(process: i32) -> anyhow::Result<String> {
    let file = fs_err::File::open(format!("/proc/{process}/cgroup"))?;
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, CGROUP_LIMIT), &mut text)?;
    cgroup::pod(&text).context("the asking process is in no pod")
}

/// A folder belongs to the first pod that asks in it.
fn claim(agent: &Agent, name: &str, pod: &str) -> anyhow::Result<()> {
    let owner = agent.folders.with(|folders| {
        let folder = folders.get_mut(name)?;
        Some(folder.pod.get_or_insert_with(|| pod.to_owned()).clone())
    });
    let owner = owner.context("this folder is gone")?;
    ensure!(owner == pod, "this folder belongs to another pod");
    let record = agent.pods().join(format!("{name}.pod"));
    if !record.exists() {
        fs_err::write(record, format!("{pod}\n"))?;
    }
    Ok(())
}

/// Waits until the operator grants it.
async fn granted<T>(
    agent: &Agent,
    pick: impl Fn(&stoke_api::agent::AgentConfig) -> Option<T>,
    what: &str,
) -> anyhow::Result<T> {
    let mut config = agent.config.subscribe();
    let wait = async {
        loop {
            if let Some(grant) = pick(&config.borrow_and_update()) {
                return Some(grant);
            }
            config.changed().await.ok()?;
        }
    };
    let grant = timeout(GRANT_PATIENCE, wait).await.ok().flatten();
    grant.with_context(|| format!("the operator has not granted {what} yet; is it running?"))
}

async fn give_port(agent: &Arc<Agent>, pod: &str, asked: &PortRequest) -> anyhow::Result<Given> {
    let lan = LanKey::of(&asked.lan);
    let what = format!("pod {pod} a port on lan {lan}");
    let request = granted(agent, |config| grants::tap(config, pod, asked), &what).await?;
    let prefix = grants::owner_prefix(pod);
    let there = agent.ports().into_values().filter(|(of, owner)| *of == lan && owner.starts_with(&prefix)).count();
    ensure!(there < TAPS, "the pod has {there} ports on lan {lan} already");
    let lans = agent.thread().context("there are no lans on this node")?;
    let (device, reply) = lans.ask(|answer| Request::Port(request, answer)).await??;
    Ok(Given::Port(device, reply))
}

async fn give_interfaces(
    agent: &Arc<Agent>,
    pod: &str,
    process: i32,
    namespace: Option<OwnedFd>,
) -> anyhow::Result<Given> {
    let what = format!("pod {pod} an interface");
    let wanted = granted(agent, |config| grants::interfaces(config, pod, &agent.node), &what).await?;
    if wanted.is_empty() {
        return Ok(Given::Interfaces(Vec::new()));
    }
    let namespace = namespace.context("no descriptor of a network namespace came along")?;
    let namespace = check_namespace(agent, process, File::from(namespace))?;
    let given = |(grant, interface): &(stoke_api::agent::PortGrant, stoke_net::interface::Interface)| GivenInterface {
        lan: grant.lan.clone(),
        name: interface.lan.bridge.clone(),
        mtu: interface.lan.mtu,
    };
    let interfaces = wanted.iter().map(given).collect();
    let wanted: Vec<_> = wanted.into_iter().map(|(_, interface)| interface).collect();
    let lans = agent.thread().context("there are no lans on this node")?;
    let ensured = lans.ask(|answer| Request::Interfaces(wanted, namespace, answer)).await??;
    if ensured.iter().any(|ensured| ensured.no_way_out) {
        tracing::warn!(pod, "the pod is the way out of its lan and has no default route itself");
    }
    Ok(Given::Interfaces(interfaces))
}

/// What a pod sends may be any descriptor. It must be of its own namespace, and that not the host's.
fn check_namespace(agent: &Agent, process: i32, sent: File) -> anyhow::Result<OwnedFd> {
    let identity = |found: std::fs::Metadata| (found.dev(), found.ino());
    let ours = identity(sent.metadata()?);
    let theirs = identity(fs_err::metadata(format!("/proc/{process}/ns/net"))?);
    ensure!(ours == theirs, "the descriptor is not of the asking process' own network namespace");
    let host = identity(fs_err::metadata("/proc/self/ns/net")?);
    let lans = agent.namespace().map(|lans| lans.metadata()).transpose()?.map(identity);
    if ours == host || Some(ours) == lans {
        bail!("a pod on the host's network gets no interfaces");
    }
    Ok(sent.into())
}

/// Asks the pod for its report.
async fn collect(agent: Arc<Agent>, name: String, stop: CancellationToken) {
    let path = agent.pods().join(&name);
    loop {
        if agent.folders.with(|folders| folders.get(&name).is_some_and(|folder| folder.pod.is_some())) {
            let (report, silence) = match admin::report(&path).await {
                Ok(report) => (Some(report), None),
                Err(error) => (None, Some(format!("{error:#}"))),
            };
            agent.folders.change(&name, |folder| (folder.report, folder.silence) = (report, silence));
        }
        tokio::select! {
            () = sleep(INTERVAL) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Removes folders of pods that are gone.
async fn forget(agent: &Arc<Agent>) {
    let wanted: Vec<String> = agent.config.borrow().pods.iter().map(|grant| grant.pod.clone()).collect();
    let pods = agent.pods();
    let candidates = agent.folders.with(|folders| {
        let mut candidates = Vec::new();
        for (name, folder) in folders.iter_mut() {
            let of_wanted = folder.pod.as_ref().is_some_and(|pod| wanted.contains(pod));
            folder.unwanted_since = if of_wanted { None } else { folder.unwanted_since.or(Some(Instant::now())) };
            let since = folder.unwanted_since.map_or(Duration::ZERO, |since| since.elapsed());
            let due = match &folder.pod {
                Some(_) => since > FORGET,
                None => since > FORGET && is_older(&pods.join(name), FORGET_UNUSED),
            };
            if due {
                folder.unwanted_since = Some(Instant::now());
                candidates.push((name.clone(), folder.pod.clone()));
            }
        }
        candidates
    });
    for (name, pod) in candidates {
        let agent = Arc::clone(agent);
        let forgotten = tokio::task::spawn_blocking(move || forget_one(&agent, &name, pod.as_deref())).await;
        if let Ok(Err(error)) = forgotten {
            tracing::warn!("cannot remove the folder of a pod that is gone: {error}");
        }
    }
}

fn forget_one(agent: &Agent, name: &str, pod: Option<&str>) -> io::Result<()> {
    if pod.is_some_and(is_alive) {
        return Ok(());
    }
    agent.folders.with(|folders| folders.remove(name)).inspect(|folder| folder.stop.cancel());
    tracing::info!(folder = name, pod, "removing the folder of a pod that is gone");
    let _ = std::fs::remove_file(agent.pods().join(format!("{name}.pod")));
    std::fs::remove_dir_all(agent.pods().join(name))
}

fn is_older(path: &Path, age: Duration) -> bool {
    let made = std::fs::metadata(path).and_then(|found| found.modified());
    made.is_ok_and(|made| SystemTime::now().duration_since(made).is_ok_and(|since| since > age))
}

/// Whether any process is in the pod.
fn is_alive(pod: &str) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.any(|process| identify(process).is_ok_and(|of| of == pod))
}
