//! `stoke up PATH…`: runs what the files describe, tells what happens, and follows edits.
//!
//! The work is `stoke-host`'s. Here its control socket is used as any other program would use it: files go in, changes of
//! objects come out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use stoke_api::control::{Applied, AppliedFile, Change, WatchEvent};
use stoke_api::load;
use stoke_api::meta::Truth;
use stoke_api::{AnyObject, Kind, ObjectRef};
use tokio::task::JoinError;

use super::get::ready_condition;
use super::plan::{check_first, mark};
use super::{apply_of, in_files};
use crate::cli::Files;
use crate::client::{Client, Watch};
use crate::failure;
use crate::folders::Folders;
use crate::output::{self, Color};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How long after its connections the installation may end.
const MOMENT: Duration = Duration::from_secs(1);

pub(crate) fn run(folders: &Folders, files: &Files) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let ended = runtime.block_on(async {
        let mut files = Watched::load(&files.paths)?;
        let client = Client::new(&folders.control_socket())?;
        if client.is_alive().await? {
            hand_over(folders, &client, &mut files).await
        } else {
            live(folders, client, files).await
        }
    });
    // What is being uploaded to a registry would be waited for, and is taken up again the next time.
    runtime.shutdown_background();
    ended
}

/// Another `stoke up` runs already: it gets the files.
async fn hand_over(folders: &Folders, client: &Client, files: &mut Watched) -> anyhow::Result<ExitCode> {
    super::export::check(folders, &files.paths)?;
    let applied = files.apply(client).await?;
    let host = client.host().await?;
    output::print(&changes(&applied))?;
    output::print(&format!(
        "handed to the Stokehold that runs here (process {}); it does not follow edits of these files\n{}",
        host.pid,
        how_to_look()
    ))?;
    Ok(ExitCode::SUCCESS)
}

async fn live(folders: &Folders, client: Client, mut files: Watched) -> anyhow::Result<ExitCode> {
    check_first(folders, &files.loaded)?;
    super::export::restore(folders, &files.paths)?;
    quiet_tracing();
    let began = Instant::now();
    let options = stoke_host::up::UpOptions { state: folders.state.clone(), run: folders.run.clone() };
    let mut host = tokio::spawn(stoke_host::up::up(options));
    let watch = tokio::select! {
        ended = &mut host => return finished(folders, ended),
        ready = begin(&client, &mut files) => ready?,
    };
    let told = tokio::select! {
        ended = &mut host => return finished(folders, ended),
        told = tell(watch, began) => told,
        told = follow(&client, files) => told,
    };
    // Its end breaks connections a moment before it is seen itself, which is no failure of theirs.
    if let Ok(ended) = tokio::time::timeout(MOMENT, &mut host).await {
        return finished(folders, ended);
    }
    told?;
    finished(folders, host.await)
}

/// Waits for the installation, and gives it the files.
async fn begin(client: &Client, files: &mut Watched) -> anyhow::Result<Watch> {
    while !client.is_alive().await? {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let applied = files.apply(client).await?;
    output::print(&changes(&applied))?;
    output::print(&how_to_look())?;
    client.watch().await
}

fn finished(folders: &Folders, ended: Result<anyhow::Result<()>, JoinError>) -> anyhow::Result<ExitCode> {
    ended.context("the installation failed")??;
    output::print(if folders.workloads().exists() {
        "\nstopped; machines keep running and are found by the next stoke up\nend them with: stoke down\n"
    } else {
        "\neverything was ended by stoke down\n"
    })?;
    Ok(ExitCode::SUCCESS)
}

fn how_to_look() -> String {
    "look at it with: stoke get machines, stoke describe machine NAME, stoke console NAME\n".to_owned()
}

fn changes(applied: &Applied) -> String {
    let changed: Vec<_> = applied.changes.iter().filter(|(_, change)| *change != Change::Unchanged).collect();
    let kept = applied.changes.len() - changed.len();
    let mut lines: Vec<_> = changed.iter().map(|(object, change)| format!("{} {object}\n", mark(*change))).collect();
    if kept > 0 {
        lines.push(format!("{kept} object{} as before\n", if kept == 1 { "" } else { "s" }));
    }
    lines.concat()
}

/// Logs are for those who ask for them: the story is told by [`tell`].
fn quiet_tracing() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("STOKE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time();
    builder.with_ansi(false).init();
}

/// Prints one line for each object whose readiness changes.
async fn tell(mut watch: Watch, began: Instant) -> anyhow::Result<()> {
    let mut story = Story::default();
    while let Some(event) = watch.next().await? {
        if let Some(line) = story.line(&event, began.elapsed()) {
            output::print(&line)?;
        }
    }
    Ok(())
}

/// What was told last of each object.
#[derive(Default)]
struct Story(BTreeMap<ObjectRef, String>);

impl Story {
    fn line(&mut self, event: &WatchEvent, elapsed: Duration) -> Option<String> {
        let reference = event.object.reference();
        if event.change == Change::Deleted {
            self.0.remove(&reference)?;
            return Some(format!("{} {reference}  removed\n", stamp(elapsed)));
        }
        let (color, text) = said(&event.object)?;
        // Percentages and counters grow all the time: a line is worth it when the words change.
        let words: String = text.chars().filter(|c| !c.is_ascii_digit()).collect();
        if self.0.insert(reference.clone(), words.clone()).is_some_and(|before| before == words) {
            return None;
        }
        Some(format!("{} {:<20} {}\n", stamp(elapsed), reference.to_string(), output::paint(color, &text)))
    }
}

fn stamp(elapsed: Duration) -> String {
    format!("{:>7.1}s", elapsed.as_secs_f64())
}

/// An object's readiness in a few words.
fn said(object: &AnyObject) -> Option<(Color, String)> {
    let condition = ready_condition(object)?;
    let or_reason = |text: &str| if text.is_empty() { condition.reason.clone() } else { text.to_owned() };
    Some(match (condition.status, object.kind()) {
        (Truth::True, Kind::Machine | Kind::Server) => {
            (Color::Green, format!("ready: {}", or_reason(&condition.message)))
        }
        (Truth::True, _) => (Color::Green, "ready".to_owned()),
        (_, _) => (Color::Yellow, waited_for(&or_reason(&condition.message)).to_owned()),
    })
}

/// What an object waits for, without what that one says itself: it has a line of its own.
fn waited_for(message: &str) -> &str {
    let object = message.strip_prefix("waiting for ").and_then(|rest| rest.split_once(": "));
    object.and_then(|(object, _)| message.get(.."waiting for ".len() + object.len())).unwrap_or(message)
}

/// Applies the files again when one of them changes. A broken edit is told and changes nothing.
async fn follow(client: &Client, mut files: Watched) -> anyhow::Result<()> {
    loop {
        tokio::time::sleep(LOOK).await;
        if !files.changed() {
            continue;
        }
        match files.reload_and_apply(client).await {
            Ok(applied) => output::print(&changes(&applied))?,
            Err(error) if !client.is_alive().await.unwrap_or(false) => return Err(error),
            Err(error) => failure::print(&error),
        }
    }
}

/// The files of a `stoke up`: what they said last, and how they looked then.
struct Watched {
    paths: Vec<PathBuf>,
    loaded: Vec<load::Loaded>,
    looks: Vec<(PathBuf, Option<SystemTime>, u64)>,
    /// Files whose objects were applied: when one goes, its objects go.
    applied: Vec<PathBuf>,
}

impl Watched {
    fn load(paths: &[PathBuf]) -> anyhow::Result<Self> {
        // Looked at before they are read: an edit in between is one that is still to be followed.
        let mut seen = looks(paths, &[]);
        let loaded = super::load(paths)?;
        seen.extend(looks(&[], &loaded));
        Ok(Self { loaded, paths: paths.to_vec(), looks: seen, applied: Vec::new() })
    }

    /// Whether a file changed, came or went since the last look.
    fn changed(&mut self) -> bool {
        let now = looks(&self.paths, &self.loaded);
        let changed = now != self.looks;
        self.looks = now;
        changed
    }

    async fn reload_and_apply(&mut self, client: &Client) -> anyhow::Result<Applied> {
        self.loaded = super::load(&self.paths)?;
        self.apply(client).await
    }

    async fn apply(&mut self, client: &Client) -> anyhow::Result<Applied> {
        let mut apply = apply_of(&self.loaded)?;
        let now: Vec<_> = apply.files.iter().map(|file| file.path.clone()).collect();
        let gone = self.applied.iter().filter(|path| !now.contains(path));
        apply.files.extend(gone.map(|path| AppliedFile { path: path.clone(), objects: Vec::new() }));
        let applied = client.apply(&apply).await.map_err(|error| in_files(error, &self.loaded))?;
        self.applied = now;
        Ok(applied)
    }
}

/// How the files look, and those that they name.
fn looks(paths: &[PathBuf], loaded: &[load::Loaded]) -> Vec<(PathBuf, Option<SystemTime>, u64)> {
    let look = |path: PathBuf| {
        let metadata = std::fs::metadata(&path).ok();
        let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
        (path, modified, metadata.map_or(0, |metadata| metadata.len()))
    };
    load::find_files(paths).into_iter().chain(super::outside::files(loaded)).map(look).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(change: Change, status: &str, message: &str) -> WatchEvent {
        let object = serde_json::json!({
            "kind": "Image",
            "metadata": {"name": "node"},
            "spec": {"source": {}},
            "status": {"conditions": [{"type": "Ready", "status": status, "reason": "Building", "message": message}]}
        });
        WatchEvent { change, object: serde_json::from_value(object).unwrap() }
    }

    #[test]
    fn what_another_object_says_is_not_repeated() {
        assert_eq!(waited_for("waiting for image/node: install packages 4 %"), "waiting for image/node");
        assert_eq!(waited_for("waiting for lan/lab"), "waiting for lan/lab");
        assert_eq!(waited_for("install packages: 4 %"), "install packages: 4 %");
    }

    #[test]
    fn a_line_is_told_when_the_words_change() {
        let mut story = Story::default();
        let mut tell =
            |change, status, message| story.line(&event(change, status, message), Duration::from_millis(1250));
        let lines = [
            tell(Change::Created, "False", "install packages 10 %"),
            tell(Change::Updated, "False", "install packages 40 %"),
            tell(Change::Updated, "False", "pack the root 5 %"),
            tell(Change::Updated, "True", "published"),
            tell(Change::Deleted, "True", "published"),
        ];
        let expected = [
            Some("    1.2s image/node           install packages 10 %\n"),
            None,
            Some("    1.2s image/node           pack the root 5 %\n"),
            Some("    1.2s image/node           ready\n"),
            Some("    1.2s image/node  removed\n"),
        ];
        assert_eq!(lines.each_ref().map(Option::as_deref), expected);
    }
}
