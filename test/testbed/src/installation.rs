//! An installation of Stokehold in a world.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::thread::LinkNameSpaceType;
use serde_json::Value;

use crate::wait::{Process, wait_for};
use crate::world::{World, check};

/// The folder with the programs under test, as `cargo xtask test` built it.
///
/// # Errors
/// If the variable that names it is not set.
pub fn programs() -> Result<PathBuf> {
    let folder = std::env::var_os("STOKE_PROGRAMS");
    folder.map(PathBuf::from).context("STOKE_PROGRAMS is not set: run these tests by cargo xtask test")
}

/// Who runs an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Root.
    Root,
    /// An ordinary user (Debian's `nobody`).
    Ordinary,
}

/// `stoke up` in a world. Dropping it ends everything.
pub struct Installation {
    world: World,
    user: User,
    state: PathBuf,
    objects: PathBuf,
    /// The programs that it finds; all of the host if absent.
    path: Option<PathBuf>,
    up: Option<Process>,
}

/// An ordinary user of an ordinary Debian: `/dev/net/tun` is open to all, which some containers do not have.
const AS_NOBODY: &str = "mount --bind \"$1\" /dev/net/tun\nshift\n\
    exec setpriv --reuid=nobody --regid=nogroup --clear-groups -- \"$@\"";

impl Installation {
    /// An installation that has images already: `images` is a store that is linked, not copied.
    ///
    /// # Errors
    /// If its folders cannot be made.
    pub fn new(world: World, user: User, images: Option<&Path>) -> Result<Self> {
        let (state, objects) = (world.folder().join("s"), world.folder().join("objects"));
        fs_err::create_dir_all(&state)?;
        fs_err::create_dir_all(&objects)?;
        if let Some(images) = images {
            // Blobs never change, so a link is as good as a copy; the index is replaced by rename.
            check(Command::new("cp").arg("-al").arg(images).arg(state.join("images")))?;
        }
        let mut installation = Self { world, user, state, objects, path: None, up: None };
        installation.own_folders()?;
        Ok(installation)
    }

    fn own_folders(&mut self) -> Result<()> {
        if self.user == User::Ordinary {
            check(Command::new("chmod").arg("755").arg(self.world.folder()))?;
            check(Command::new("chown").args(["-R", "nobody:nogroup"]).arg(&self.state))?;
            // Once, before any command: several that start at the same time would all make it.
            check(
                Command::new("mknod").args(["-m", "666"]).arg(self.world.folder().join("tun")).args(["c", "10", "200"]),
            )?;
        }
        Ok(())
    }

    /// The host that it is on.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Its state folder.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// From now on its commands find all programs of the host but those whose name begins so.
    ///
    /// # Errors
    /// If a folder of links to the others cannot be made.
    pub fn hide_programs(&mut self, beginning: &str) -> Result<()> {
        let folder = self.world.folder().join("bin");
        fs_err::create_dir_all(&folder)?;
        for entry in fs_err::read_dir("/usr/bin")?.chain(fs_err::read_dir("/usr/sbin")?) {
            let program = entry?;
            let link = folder.join(program.file_name());
            if !program.file_name().to_string_lossy().starts_with(beginning) && link.symlink_metadata().is_err() {
                fs_err::os::unix::fs::symlink(program.path(), link)?;
            }
        }
        self.path = Some(folder);
        Ok(())
    }

    /// Does something in the network namespace that has the installation's LANs.
    ///
    /// # Errors
    /// If there is none, or the work fails.
    pub fn in_namespace<T: Send>(&self, work: impl FnOnce() -> std::io::Result<T> + Send) -> Result<T> {
        let namespace = fs_err::File::open(self.state.join("run/ns/net"))?;
        let inside = || {
            // A namespace is joined by a thread, which ends here.
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work()?)
        };
        std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|_| bail!("the work panicked"))
    }

    /// The files of objects.
    pub fn objects(&self) -> String {
        self.objects.to_string_lossy().into_owned()
    }

    /// Writes a file of objects.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: &str, yaml: &str) -> Result<()> {
        Ok(fs_err::write(self.objects.join(name), yaml)?)
    }

    /// A command of `stoke` for this installation.
    ///
    /// # Errors
    /// If the programs were not built.
    pub fn stoke(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = match self.user {
            User::Root => self.world.command(programs()?.join("stoke")),
            User::Ordinary => {
                let mut command = self.world.command("unshare");
                command.args(["--mount", "--propagation", "private", "sh", "-ec", AS_NOBODY, "as-nobody"]);
                command.arg(self.world.folder().join("tun"));
                command.arg(programs()?.join("stoke"));
                command.env("HOME", &self.state);
                command
            }
        };
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        command.arg("--state").arg(&self.state).args(arguments).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs `stoke` and returns what it printed, whether it succeeded or not.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn output(&self, arguments: &[&str]) -> Result<Output> {
        self.stoke(arguments)?.output().context("cannot run stoke")
    }

    /// Runs `stoke`, which must succeed; returns what it printed.
    ///
    /// # Errors
    /// If it fails.
    pub fn check(&self, arguments: &[&str]) -> Result<String> {
        check(&mut self.stoke(arguments)?)
    }

    /// Starts `stoke up` with all objects written so far; its log is `up.log` in the world's folder.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn up(&mut self) -> Result<()> {
        let log = fs_err::OpenOptions::new().create(true).append(true).open(self.world.folder().join("up.log"))?;
        let log = log.into_file();
        let mut command = self.stoke(&["up", &self.objects.to_string_lossy()])?;
        command.stdout(log.try_clone()?).stderr(log);
        self.up = Some(Process::start(&mut command)?);
        Ok(())
    }

    /// `kill -9` of `stoke up`.
    pub fn kill_up(&mut self) {
        self.up = None;
    }

    /// What `stoke up` printed.
    pub fn log(&self) -> String {
        fs_err::read_to_string(self.world.folder().join("up.log")).unwrap_or_default()
    }

    /// An object as it is now.
    ///
    /// # Errors
    /// If it is not there.
    pub fn object(&self, kind: &str, name: &str) -> Result<Value> {
        let text = self.check(&["get", kind, name, "--output", "json"])?;
        let value: Value = serde_json::from_str(&text).context("stoke get printed something else than JSON")?;
        let first = value.pointer("/items/0").or_else(|| value.pointer("/0")).cloned();
        Ok(first.unwrap_or(value))
    }

    /// Waits until an object says why it is not ready in words that `is_it` accepts; then what it says.
    ///
    /// # Errors
    /// When `limit` is over, with what it said last.
    pub fn wait_message(
        &self,
        kind: &str,
        name: &str,
        limit: Duration,
        is_it: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let mut last = String::new();
        let waited = wait_for(&format!("what is wrong with {kind}/{name}"), limit, || {
            let Ok(object) = self.object(kind, name) else { return Ok(None) };
            let conditions = object.pointer("/status/conditions").and_then(Value::as_array).cloned();
            let ready = |one: &Value| one.pointer("/type") == Some(&"Ready".into());
            let Some(ready) = conditions.unwrap_or_default().into_iter().find(ready) else { return Ok(None) };
            let text = |field| ready.pointer(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            last = text("/message");
            Ok((text("/status") == "False" && is_it(&last)).then(|| last.clone()))
        });
        waited.with_context(|| format!("it said last: {last}\nstoke up said:\n{}", tail(&self.log(), 30)))
    }

    /// Waits until a condition of an object holds.
    ///
    /// # Errors
    /// When `limit` is over, with what the object said last.
    pub fn wait_condition(&mut self, kind: &str, name: &str, condition: &str, limit: Duration) -> Result<Value> {
        let mut last = String::new();
        let waited = wait_for(&format!("{condition} of {kind}/{name}"), limit, || {
            let Ok(object) = self.object(kind, name) else { return Ok(None) };
            let conditions = object.pointer("/status/conditions").cloned().unwrap_or_default();
            last = format!("{conditions}");
            let holds = |one: &Value| one.pointer("/type") == Some(&condition.into());
            let truth = |one: &&Value| one.pointer("/status") == Some(&"True".into());
            let found = conditions.as_array().and_then(|all| all.iter().filter(|one| holds(one)).find(truth));
            Ok(found.is_some().then_some(object))
        });
        waited.with_context(|| format!("its conditions: {last}\nstoke up said:\n{}", tail(&self.log(), 30)))
    }

    /// Process id of a workload, for example `router-default-lab`.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self, workload: &str) -> Result<i32> {
        let path = self.state.join("run/workloads").join(workload).join("pid");
        let text = fs_err::read_to_string(path)?;
        let word = text.split_whitespace().next().unwrap_or_default();
        word.parse().with_context(|| format!("{text:?} is no process id"))
    }

    /// `kill -9` of a workload.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&self, workload: &str) -> Result<()> {
        let pid = rustix::process::Pid::from_raw(self.pid(workload)?).context("no process id")?;
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
    }

    /// What a machine's console has printed so far.
    pub fn console(&self, machine: &str) -> String {
        crate::console::read(&self.state.join("machines").join(format!("default.{machine}")).join("console.log"))
    }

    /// What `stoke up`, the workloads and the machines said last, for who must find out why a test failed.
    fn show_what_was_said(&self) {
        eprintln!("== stoke up\n{}", tail(&self.log(), 60));
        let said = |folder: &str, file: &str| {
            let entries = fs_err::read_dir(self.state.join(folder)).into_iter().flatten().flatten();
            entries.map(|entry| entry.path().join(file)).collect::<Vec<_>>()
        };
        for path in said("machines", "console.log").into_iter().chain(said("logs", "")) {
            let text = fs_err::read(&path).unwrap_or_default();
            let text: String =
                String::from_utf8_lossy(&text).chars().filter(|c| *c == '\n' || !c.is_control()).collect();
            eprintln!("== {}\n{}", path.display(), tail(&text, 60));
        }
    }

    /// Ends everything and checks that nothing is left.
    ///
    /// # Errors
    /// If something is.
    pub fn down(&mut self) -> Result<()> {
        self.check(&["down", "--purge"])?;
        if let Some(mut up) = self.up.take() {
            wait_for("the end of stoke up", Duration::from_secs(20), || Ok((!up.is_running()?).then_some(())))?;
        }
        let left = self.left()?;
        if !left.is_empty() {
            bail!("stoke down left something behind: {left:#?}");
        }
        Ok(())
    }

    /// What is there of an installation: processes, links, packet filters, mounts, files.
    ///
    /// # Errors
    /// If that cannot be found out.
    pub fn left(&self) -> Result<Vec<String>> {
        let mut left = self.processes()?;
        let links = self.world.run("ip", &["link", "show"])?;
        left.extend(links.lines().filter(|line| line.contains("alias stokehold/")).map(str::to_owned));
        let tables = self.world.run("nft", &["list", "tables"])?;
        left.extend(tables.lines().filter(|line| line.contains("stokehold")).map(str::to_owned));
        let (mounts, inside) =
            (self.world.run("cat", &["/proc/self/mountinfo"])?, format!("{}/", self.state.display()));
        left.extend(mounts.lines().filter(|line| line.contains(&inside)).map(str::to_owned));
        // An ordinary user's home is here, too; what is hidden in it is of other programs.
        let files = self.world.run("find", &[&self.state.to_string_lossy(), "-mindepth", "1", "-not", "-path", "*/.*"]);
        left.extend(files.unwrap_or_default().lines().map(str::to_owned));
        Ok(left)
    }

    /// Command lines of processes that name this installation's folder.
    fn processes(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in fs_err::read_dir("/proc")? {
            let line = fs_err::read(entry?.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&*self.state.to_string_lossy()) {
                found.push(line);
            }
        }
        Ok(found)
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        // A test that ends well has brought it down.
        if self.up.is_some() {
            self.show_what_was_said();
        }
        let ended = self.output(&["down", "--purge"]);
        if let Err(error) = ended {
            eprintln!("stoke down failed: {error:#}");
        }
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all.iter().skip(all.len().saturating_sub(lines)).copied().collect::<Vec<_>>().join("\n")
}
