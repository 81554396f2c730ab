//! Workloads to processes.
//!
//! ```text
//!            wanted                    answers on its socket
//!  (absent) --------> Starting -------------------------------> Running --- wanted differs --> told to reload
//!      ^                 ^  |  gone: back-off                   |     |
//!      |                 +--+-----------------------------------+     | not wanted
//!      +------------------------ Stopping (see stop.rs) <-------------+
//! ```
//!
//! A process outlives this one. A new supervisor finds it by its socket's path among the host's processes, and what it
//! was told by its record. One task owns the [`Supervisor`].

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::join_all;
use hyper::{Method, StatusCode};
use stoke_api::control::WorkloadInfo;
use stoke_api::report::{ImageBuildReport, Report};
use stoke_api::workload::{Role, Workload};
use stoke_reconcile::ObservedWorkload;

use crate::authority::Authority;
use crate::files::write_json;
use crate::http;
use crate::paths::{Binaries, Folders, WorkloadFiles};
use crate::process::{self, ProcessId};
use crate::record::{Record, now_ms};
use crate::stop::Stop;

/// How long a status may take. A role answers from memory.
const STATUS_LIMIT: Duration = Duration::from_secs(2);
/// How long a role may take to go over to another configuration.
const RELOAD_LIMIT: Duration = Duration::from_secs(20);
/// Pause before the first restart; twice as long after each more.
const RESTART_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const RESTART_PAUSE_LIMIT: Duration = Duration::from_secs(30);
/// How long a process may be too busy to answer before that is what is wrong with it.
const SILENCE: Duration = Duration::from_secs(30);
/// A process that has run this long did not fail at its start: its pauses begin anew.
const STABLE_MS: u64 = 60_000;
/// Pause after a configuration was refused.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// An image build that has ended.
#[derive(Debug)]
pub struct EndedBuild {
    /// What was built.
    pub workload: Workload,
    /// What it said last.
    pub report: ImageBuildReport,
}

/// All processes of this installation, but this one.
pub struct Supervisor {
    launcher: Launcher,
    processes: BTreeMap<String, Process>,
}

/// What is needed to start a process.
struct Launcher {
    folders: Folders,
    binaries: Binaries,
    authority: Arc<Authority>,
}

struct Process {
    files: WorkloadFiles,
    /// What the process has; `None` if nobody wrote it down.
    workload: Option<Workload>,
    id: Option<ProcessId>,
    /// If this program started it: to be waited for, lest it stays a zombie.
    child: Option<Child>,
    started_ms: Option<u64>,
    restarts: u32,
    /// Restarts in a row without a stable run.
    failures: u32,
    /// Nothing is tried before this.
    not_before: Instant,
    /// The last report, of this process or of the one before.
    report: Option<Report>,
    /// Whether this process has reported.
    answered: bool,
    /// Since when it has not answered.
    silent_since: Option<Instant>,
    failure: Option<String>,
    stop: Option<Stop>,
}

impl Process {
    fn new(folders: &Folders, name: &str) -> Self {
        Self {
            files: WorkloadFiles::new(folders, name),
            workload: None,
            id: None,
            child: None,
            started_ms: None,
            restarts: 0,
            failures: 0,
            not_before: Instant::now(),
            report: None,
            answered: false,
            silent_since: None,
            failure: None,
            stop: None,
        }
    }
}

impl Supervisor {
    /// Takes over what runs.
    pub fn adopt(folders: Folders, binaries: Binaries, authority: Arc<Authority>) -> Self {
        let serving = process::serving();
        let entries = std::fs::read_dir(folders.workloads()).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let adopted = names.map(|name| {
            let mut process = Process::new(&folders, &name);
            process.id = serving.get(&process.files.socket).copied();
            if let Some(record) = Record::read(&process.files) {
                process.take_over(record);
            }
            if let Some(id) = process.id {
                tracing::info!(workload = name, pid = id.pid, "adopted");
            }
            (name, process)
        });
        let processes = adopted.collect();
        Self { launcher: Launcher { folders, binaries, authority }, processes }
    }

    /// Asks every process for its status, and notices who is gone. Builds that have ended are returned once.
    pub async fn observe(&mut self) -> Vec<EndedBuild> {
        let mut ended = Vec::new();
        self.processes.retain(|name, process| {
            process.notice_end(name, &self.launcher.folders);
            let build = process.ended_build();
            let keep = build.is_none();
            ended.extend(build);
            keep
        });
        join_all(self.processes.values_mut().map(Process::ask)).await;
        ended
    }

    /// Starts, tells and ends processes so that they become what is wanted. Whether something is still under way.
    pub async fn apply(&mut self, wanted: &[Workload]) -> bool {
        let wanted: BTreeMap<_, _> = wanted.iter().map(|workload| (workload.name(), workload)).collect();
        for name in wanted.keys() {
            let folders = &self.launcher.folders;
            self.processes.entry(name.clone()).or_insert_with(|| Process::new(folders, name));
        }
        let launcher = &self.launcher;
        let steps = self.processes.iter_mut().map(|(name, process)| {
            let wanted = wanted.get(name).copied();
            async move { process.approach(name, wanted, launcher).await }
        });
        let under_way = join_all(steps).await.contains(&true);
        self.processes.retain(|name, process| wanted.contains_key(name) || !process.is_over());
        under_way
    }

    /// What the reconcilers see.
    pub fn observed(&self) -> BTreeMap<String, ObservedWorkload> {
        let seen = |(name, process): (&String, &Process)| {
            let observed = ObservedWorkload {
                workload: process.workload.clone(),
                kept: process.is_kept(),
                running: process.id.is_some() && process.stop.is_none(),
                report: process.report.clone(),
                failure: process.failure.clone().or_else(|| process.silence()),
            };
            (name.clone(), observed)
        };
        self.processes.iter().map(seen).collect()
    }

    /// What people see.
    pub fn infos(&self) -> Vec<WorkloadInfo> {
        self.processes.iter().filter_map(|(name, process)| process.info(name, &self.launcher.folders)).collect()
    }

    /// Whether the process that makes the namespaces is there to be asked.
    pub fn has_namespaces(&self) -> bool {
        self.processes.get("node").is_some_and(|node| node.id.is_some() && node.report.is_some())
    }
}

impl Process {
    fn take_over(&mut self, record: Record) {
        // A record of another process says what that one had. This one has its configuration file, or an older one; it
        // is told again.
        if self.id.map_or(record.is_of_this_boot(), |id| id == record.process) {
            self.workload = Some(record.workload);
            self.started_ms = self.id.map(|_| record.started_ms);
        }
        // It ended while nobody looked; it is started again, and that is counted.
        let ended = u32::from(self.id.is_none() && self.workload.is_some());
        self.restarts = record.restarts + ended;
    }

    /// Whether it was started and nobody has asked it to end.
    fn is_kept(&self) -> bool {
        self.stop.is_none() && (self.id.is_some() || self.workload.is_some())
    }

    fn is_over(&self) -> bool {
        self.id.is_none()
    }

    fn notice_end(&mut self, name: &str, folders: &Folders) {
        let Some(id) = self.id else { return };
        let status = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        if status.is_none() && id.is_alive() {
            return;
        }
        (self.id, self.child, self.silent_since) = (None, None, None);
        if self.stop.is_some() || self.files.build_report.exists() {
            return;
        }
        let stable = self.started_ms.is_some_and(|started| now_ms().saturating_sub(started) >= STABLE_MS);
        self.failures = if stable { 0 } else { self.failures + 1 };
        self.restarts += 1;
        self.not_before = Instant::now() + restart_pause(self.failures);
        let how = status.map_or_else(|| "ended".to_owned(), |status| format!("ended ({status})"));
        let log = folders.log(name);
        let why = process::last_line(&log).map(|line| format!(": {line}")).unwrap_or_default();
        tracing::warn!(workload = name, pid = id.pid, restarts = self.restarts, "{how}{why}");
        // One end may be an accident that the next start makes up for; two in a row are worth telling.
        self.failure = (self.failures > 1).then(|| format!("{how}{why}; see {}", log.display()));
    }

    /// The result of a build whose process is gone.
    fn ended_build(&mut self) -> Option<EndedBuild> {
        if self.id.is_some() || self.stop.is_some() {
            return None;
        }
        let report = std::fs::read(&self.files.build_report).ok()?;
        let report = serde_json::from_slice(&report).ok()?;
        let workload = self.workload.clone()?;
        self.remove_folder();
        Some(EndedBuild { workload, report })
    }

    async fn ask(&mut self) {
        if self.id.is_none() {
            return;
        }
        let answer = http::request(&self.files.socket, Method::GET, "/status", Vec::new(), STATUS_LIMIT).await;
        // No answer yet is what a starting process gives. The last report stays until there is another.
        let Some(answer) = answer.ok().filter(|answer| answer.status == StatusCode::OK) else {
            self.silent_since.get_or_insert_with(Instant::now);
            return;
        };
        self.silent_since = None;
        if let Ok(report) = serde_json::from_slice(&answer.body) {
            (self.report, self.answered) = (Some(report), true);
        }
    }

    /// A process that is there and says nothing: what it reported last is of no use any more.
    fn silence(&self) -> Option<String> {
        let silent = self.silent_since.filter(|_| self.id.is_some())?.elapsed();
        (silent > SILENCE)
            .then(|| format!("it does not answer since {} s; `stoke logs` has its last words", silent.as_secs()))
    }

    /// One step towards what is wanted. Whether there is more to come.
    async fn approach(&mut self, name: &str, wanted: Option<&Workload>, launcher: &Launcher) -> bool {
        let restart = match (wanted, &self.workload) {
            (Some(wanted), Some(has)) => matches!(wanted.role, Role::ImageBuild(_)) && wanted != has,
            _ => false,
        };
        match (wanted, self.id) {
            (Some(_), Some(id)) if restart || self.stop.is_some() => self.end(name, id).await,
            (None, Some(id)) => self.end(name, id).await,
            (None, None) => {
                self.remove_folder();
                false
            }
            (Some(wanted), _) => self.keep(name, wanted, launcher).await,
        }
    }

    async fn end(&mut self, name: &str, id: ProcessId) -> bool {
        let stop = self.stop.get_or_insert_with(Stop::new);
        stop.advance(name, id, &self.files, self.report.as_ref()).await;
        true
    }

    async fn keep(&mut self, name: &str, wanted: &Workload, launcher: &Launcher) -> bool {
        if self.stop.take().is_some() {
            // What was being ended is gone and wanted anew.
            (self.workload, self.report, self.failure) = (None, None, None);
        }
        if self.id.is_some() && self.workload.as_ref() == Some(wanted) {
            return !self.answered;
        }
        if Instant::now() < self.not_before {
            return true;
        }
        let done = match self.id {
            Some(id) => self.tell(id, wanted, launcher).await,
            None => self.start(name, wanted, launcher),
        };
        if let Err(error) = done {
            tracing::warn!(workload = name, "{error:#}");
            self.failure = Some(format!("{error:#}"));
            self.not_before = Instant::now() + REFUSED_PAUSE;
        }
        true
    }

    async fn tell(&mut self, id: ProcessId, wanted: &Workload, launcher: &Launcher) -> anyhow::Result<()> {
        self.prepare(wanted, launcher)?;
        let answer = http::request(&self.files.socket, Method::POST, "/reload", Vec::new(), RELOAD_LIMIT).await;
        // A process that has not bound its socket yet reads the new configuration when it starts, or is told again.
        let Ok(answer) = answer else { return Ok(()) };
        anyhow::ensure!(answer.status.is_success(), "the new configuration was refused: {}", answer.text());
        self.failure = None;
        self.write_down(id, wanted)
    }

    fn start(&mut self, name: &str, wanted: &Workload, launcher: &Launcher) -> anyhow::Result<()> {
        self.prepare(wanted, launcher)?;
        let _ = std::fs::remove_file(&self.files.build_report);
        let mut command = launcher.command(wanted, &self.files, name)?;
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let id = ProcessId::of(child.id()).with_context(|| format!("{program} ended at once"))?;
        (self.id, self.child, self.started_ms, self.answered) = (Some(id), Some(child), Some(now_ms()), false);
        if self.failures <= 1 {
            self.failure = None;
        }
        tracing::info!(workload = name, pid = id.pid, "started");
        fs_err::write(&self.files.pid, format!("{}\n", id.pid))?;
        self.write_down(id, wanted)
    }

    fn prepare(&self, wanted: &Workload, launcher: &Launcher) -> anyhow::Result<()> {
        launcher.prepare(&wanted.role)?;
        let role = serde_json::to_value(&wanted.role)?;
        let config = role.get("config").context("a role without configuration")?;
        Ok(write_json(&self.files.config, config)?)
    }

    fn write_down(&mut self, id: ProcessId, workload: &Workload) -> anyhow::Result<()> {
        self.workload = Some(workload.clone());
        let started_ms = *self.started_ms.get_or_insert_with(now_ms);
        let record = Record::new(workload.clone(), id, started_ms, self.restarts);
        Ok(record.write(&self.files)?)
    }

    /// A hypervisor whose `stoke-vm` was killed while its machine was taken away has nobody else who would end it.
    fn remove_folder(&self) {
        for hypervisor in process::hypervisors(&self.files.folder) {
            tracing::warn!(pid = hypervisor.pid, "ending a hypervisor that nobody owns");
            hypervisor.signal(rustix::process::Signal::TERM);
        }
        match std::fs::remove_dir_all(&self.files.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {error}", self.files.folder.display());
            }
            _ => {}
        }
    }

    fn info(&self, name: &str, folders: &Folders) -> Option<WorkloadInfo> {
        let workload = self.workload.as_ref()?;
        let console = matches!(workload.role, Role::Vm(_)).then(|| self.files.folder.join("console.sock"));
        Some(WorkloadInfo {
            name: name.to_owned(),
            role: workload.role.word().to_owned(),
            owner: workload.owner.clone(),
            pid: self.id.map(|id| id.pid),
            started_ms: self.started_ms.filter(|_| self.id.is_some()),
            restarts: self.restarts,
            ready: self.id.is_some() && self.answered && self.report.as_ref().is_some_and(is_ready),
            failure: self.failure.clone().or_else(|| self.report.as_ref().and_then(failure)),
            log: folders.log(name),
            socket: self.files.socket.clone(),
            console,
        })
    }
}

fn restart_pause(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        more => RESTART_PAUSE.saturating_mul(1 << (more - 2).min(16)).min(RESTART_PAUSE_LIMIT),
    }
}

fn is_ready(report: &Report) -> bool {
    match report {
        Report::Node(report) => report.lans.iter().all(|lan| lan.failure.is_none()),
        Report::Router(report) => report.ready,
        Report::Farm(report) => report.ready,
        Report::Vm(report) => report.failure.is_none(),
        Report::ImageBuild(report) => report.failure.is_none(),
    }
}

fn failure(report: &Report) -> Option<String> {
    match report {
        Report::Node(report) => report.lans.iter().find_map(|lan| lan.failure.clone()),
        Report::Router(report) => report.failure.clone(),
        Report::Farm(report) => report.failure.clone(),
        Report::Vm(report) => report.failure.clone(),
        Report::ImageBuild(report) => report.failure.clone(),
    }
}

impl Launcher {
    /// Folders and certificates that a role expects to be there.
    fn prepare(&self, role: &Role) -> anyhow::Result<()> {
        match role {
            Role::Farm(config) => {
                fs_err::create_dir_all(&config.state)?;
                self.authority.ensure_farm_certificate(config)?;
            }
            Role::Router(config) => {
                let folder = config.leases.parent().context("a journal of leases without a folder")?;
                fs_err::create_dir_all(folder)?;
            }
            Role::Vm(config) => fs_err::create_dir_all(&config.state)?,
            Role::Node(_) | Role::ImageBuild(_) => {}
        }
        Ok(())
    }

    /// In a process group of its own, so that Ctrl-C in a terminal does not reach it; its output goes to its log.
    fn command(&self, workload: &Workload, files: &WorkloadFiles, name: &str) -> anyhow::Result<Command> {
        let log = self.folders.log(name);
        fs_err::create_dir_all(self.folders.state.join("logs"))?;
        let log = fs_err::OpenOptions::new().create(true).append(true).open(log)?.into_parts().0;
        let mut command = match &workload.role {
            Role::Vm(_) => Command::new(&self.binaries.stoke_vm),
            role => {
                let mut command = Command::new(&self.binaries.stoke);
                command.args(["serve", role.word()]);
                command
            }
        };
        command.arg("--config").arg(&files.config).arg("--socket").arg(&files.socket);
        if matches!(workload.role, Role::Node(_) | Role::Router(_) | Role::Farm(_)) {
            command.arg("--namespaces").arg(self.folders.namespaces());
        }
        command.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        Ok(command)
    }
}
