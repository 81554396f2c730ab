//! Processes of a cluster. They end when the process of the test ends, also if that is killed: the kernel sees to it. It does so
//! when the *thread* that started them ends, so one thread that lives as long as the process starts them all.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{Process, wait_for};

/// How much of a log is shown when its server fails.
const SHOWN_LINES: usize = 15;
/// How long a server may take to say something.
const LIMIT: Duration = Duration::from_mins(1);

/// Something to do on the thread that stays.
type Job = Box<dyn FnOnce() + Send>;

/// A server and its log.
pub(super) struct Server {
    name: String,
    log: PathBuf,
    process: Process,
}

impl Server {
    /// Starts it, with its log in a folder.
    pub(super) fn start(name: &str, folder: &Path, command: &Command) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
        let mut mortal = mortal(command);
        mortal.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let process = on_staying_thread(move || Process::start(&mut mortal))??;
        Ok(Self { name: name.to_owned(), log, process })
    }

    /// An error with the end of the log if it has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        if !self.process.is_running()? {
            bail!("{} has ended: {}", self.name, self.last_lines());
        }
        Ok(())
    }

    /// Waits until it has said a line.
    pub(super) fn wait_for_line(&mut self, line: &str) -> Result<()> {
        wait_for(&self.name.clone(), LIMIT, || {
            self.check()?;
            Ok(std::fs::read_to_string(&self.log)?.lines().any(|said| said == line).then_some(()))
        })
    }

    /// Kills it and those that it started: where it only went ahead to other namespaces, they are the server.
    pub(super) fn kill_with_children(mut self) -> Result<()> {
        for child in children(self.id())? {
            // One that is gone already is what we want.
            let _ = kill_process(child, Signal::KILL);
        }
        self.process.kill();
        Ok(())
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it said last.
    pub(super) fn last_lines(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(SHOWN_LINES);
        format!("{}\n{}", self.log.display(), lines.get(from..).unwrap_or_default().join("\n"))
    }
}

/// Those whose parent is this process. (`/proc/PID/task/PID/children` is not in every kernel.)
pub(super) fn children(parent: u32) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // The name of the program is in parentheses, and may hold anything.
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let rest = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
        if rest.split(' ').nth(1) == Some(&parent.to_string()) {
            found.extend(Pid::from_raw(id));
        }
    }
    Ok(found)
}

/// The same command, killed with the thread that starts it.
fn mortal(command: &Command) -> Command {
    let mut mortal = Command::new("setpriv");
    mortal.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => mortal.env(name, value),
            None => mortal.env_remove(name),
        };
    }
    mortal
}

/// Runs something on the thread that lives as long as this process.
fn on_staying_thread<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    static JOBS: OnceLock<Sender<Job>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (sender, receiver) = channel::<Job>();
        std::thread::spawn(move || receiver.into_iter().for_each(|job| job()));
        sender
    });
    let (sender, receiver) = sync_channel(1);
    let job: Job = Box::new(move || drop(sender.send(job())));
    jobs.send(job).map_err(|_| anyhow!("the thread that starts servers has ended"))?;
    receiver.recv().context("the thread that starts servers has failed")
}
